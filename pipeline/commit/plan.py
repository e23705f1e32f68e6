"""What is to be done, what is done, what is left. Asked of storage by listing; no table is opened.

100,000 shards cost three listings: the archives, the final tables, the parts.
"""

import fnmatch
import hashlib
import os.path
import re
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import braceexpand

from pipeline import storage
from pipeline.commit import redo
from pipeline.commit.parts import CAPTIONS, EXTENSIONS, FOLDER, Part, folder_of, parse, stem_of, table_path
from pipeline.errors import RequestError
from pipeline.storage import Blob, Store

LAST_INDEX = 1 << 62
"""End of an index range that goes to the end of a shard whose length is not known."""
REQUESTS = 16
"""Names that a store is asked for at a time."""
_WILD = re.compile(r"[*?\[]")
_Found = TypeVar("_Found")


@dataclass(frozen=True, slots=True)
class ShardInput:
    """An archive."""

    url: str
    shard: str
    """Path below the root."""
    stem: str
    """The same without `.tar`."""
    fingerprint: str
    """Hex, of shard, size, and ETag or mtime: names this version of the archive."""
    size: int
    mtime_s: float


@dataclass(frozen=True, slots=True)
class OpenShard:
    """An archive that has no final table yet."""

    input: ShardInput
    todo: tuple[tuple[int, int], ...] | None
    """Inclusive index ranges without a result, the last one open-ended; None for all."""
    replaces: bool = False
    """A table of a former version of the archive stands, and stays until the new one is put over it."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What a run has to do."""

    done: int
    open: list[OpenShard]
    newer: list[str]
    """Archives that changed after their tables were written."""


def expand(patterns: Sequence[str]) -> tuple[str, list[Blob]]:
    """(root, archives) of globs, brace patterns, folders, list files (`@file`) and URLs; `::` joins several.

    The root is the literal folder before the first wildcard, common to all patterns. RequestError where one matches nothing.
    """
    found: dict[str, Blob] = {}
    roots: list[str] = []
    for base, blobs in _each(_match, list(_flat(patterns))):
        roots.append(base)
        found.update((blob.path, blob) for blob in blobs)
    return _common(roots), [found[path] for path in sorted(found)]


def _each(work: Callable[[str], _Found], names: Sequence[str]) -> Iterable[_Found]:
    """`work` of every name in order; a store is asked for several at a time, since each is a request."""
    if len(names) < 2 or all(storage.is_local(name) for name in names):
        return [work(name) for name in names]
    with ThreadPoolExecutor(REQUESTS, "look") as pool:
        return list(pool.map(work, names))


def _flat(patterns: Iterable[str]) -> Iterable[str]:
    for joined in patterns:
        for pattern in joined.split("::"):
            if not pattern.startswith("@"):
                yield pattern
                continue
            try:
                lines = [line.strip() for line in Path(pattern[1:]).read_text().splitlines()]
            except OSError as exc:
                raise RequestError(f"list file {pattern[1:]}: {exc.strerror}") from exc
            except UnicodeDecodeError as exc:
                raise RequestError(f"list file {pattern[1:]} is not text: {exc.reason} at byte {exc.start}") from exc
            named = [line for line in lines if line and not line.startswith("#")]
            if not named:
                raise RequestError(f"list file {pattern[1:]} names no shard")
            yield from named


def _match(pattern: str) -> tuple[str, list[Blob]]:
    """The literal folder of one pattern and the archives that it names."""
    if storage.is_local(pattern) and os.path.isfile(_absolute(pattern)):  # brackets may be part of a name
        return _parent([pattern]), [_existing(pattern)]
    try:
        names = list(braceexpand.braceexpand(pattern)) if "{" in pattern else [pattern]
    except ValueError as exc:
        raise RequestError(f"the braces of {pattern} do not match: {exc}") from exc
    if not any(_WILD.search(name) for name in names):
        if all(_each(storage.is_folder, names)):
            below = [blob for name in names for blob in _listed(_absolute(name)) if _is_archive(blob.path)]
            return _common([_absolute(name) for name in names]), _some(below, pattern)
        return _parent(names), list(_each(_existing, names))
    base = _literal_folder(names)
    wanted = [_absolute(name) for name in names]
    compiled = [re.compile(_translate(name)) for name in wanted]
    return base, _some([blob for blob in _listed(base) if any(one.fullmatch(blob.path) for one in compiled)], pattern)


def _translate(pattern: str) -> str:
    """A glob as a regular expression: `**/` any folders or none, `*` within one name."""
    pieces = re.split(r"(\*\*/?|\*|\?|\[[^]]*\])", pattern)
    table = {"**/": r"(?:.*/)?", "**": r".*", "*": r"[^/]*", "?": r"[^/]"}
    return "".join(table.get(piece) or (fnmatch.translate(piece)[4:-3] if piece.startswith("[") else re.escape(piece)) for piece in pieces)


def _listed(base: str) -> list[Blob]:
    try:
        return [blob for blob in storage.walk(base) if storage.TEMPORARY not in blob.path]
    except OSError as exc:
        raise RequestError(f"{base} cannot be read: {exc}") from exc


def _some(blobs: list[Blob], pattern: str) -> list[Blob]:
    if blobs:
        return blobs
    raise RequestError(f"no shard matches {pattern}: {_nearest(pattern)}")


def _existing(name: str) -> Blob:
    try:
        blob = storage.stat(name)
    except OSError as exc:
        raise RequestError(f"{name} cannot be read: {exc}") from exc
    if blob is None:
        raise RequestError(f"no shard matches {name}: {_nearest(name)}")
    return blob


def _nearest(pattern: str) -> str:
    """What does exist on the way to a pattern: for the message of one that matches nothing."""
    if not storage.is_local(pattern):
        return "nothing there has such a name"
    folder = Path(_literal_folder([pattern]))
    while not folder.is_dir() and folder != folder.parent:
        folder = folder.parent
    try:
        names = sorted(path.name + ("/" if path.is_dir() else "") for path in folder.iterdir())
    except OSError as exc:
        return f"{folder} cannot be read ({exc.strerror})"
    held = ", ".join(names[:5]) + (f" and {len(names) - 5:,} more" if len(names) > 5 else "")
    return f"{folder} exists and holds {held or 'nothing'}"


def _is_archive(path: str) -> bool:
    return path.lower().endswith(EXTENSIONS)


def _absolute(url: str) -> str:
    if not storage.is_local(url):
        return url.rstrip("/")
    return os.path.abspath(url.removeprefix("file://"))


def _parent(names: Sequence[str]) -> str:
    return _common([_absolute(name).rsplit("/", 1)[0] or "/" for name in names])


def _literal_folder(names: Sequence[str]) -> str:
    folders = []
    for name in names:
        literal = _WILD.split(name, maxsplit=1)[0]
        folders.append(_absolute(literal if literal.endswith("/") else os.path.dirname(literal) or "."))
    return _common(folders)


def _common(folders: Sequence[str]) -> str:
    first, *rest = [folder.rstrip("/").split("/") for folder in folders] or [[""]]
    for other in rest:
        first = first[: next((at for at, (a, b) in enumerate(zip(first, other, strict=False)) if a != b), min(len(first), len(other)))]
    return "/".join(first) or "/"


def inputs(blobs: Iterable[Blob], root: str, tables: str = CAPTIONS) -> list[ShardInput]:
    """Names archives below the root. RequestError for one outside it, and for two that would share a table."""
    base = root.rstrip("/") + "/"
    by_stem: dict[str, ShardInput] = {}
    for blob in blobs:
        if not blob.path.startswith(base):
            raise RequestError(f"{blob.path} lies outside {root}, the root of this output's shard names; use another --output")
        shard = blob.path[len(base) :]
        stem = stem_of(shard)
        if stem in by_stem:
            raise RequestError(f"{by_stem[stem].url} and {blob.path} would write the same table {table_path(tables, stem)}; rename one")
        version = blob.etag or f"{blob.mtime_s:.6f}"
        digest = hashlib.sha256(f"{shard}\0{blob.size}\0{version}".encode()).hexdigest()[:16]
        by_stem[stem] = ShardInput(blob.path, shard, stem, digest, blob.size, blob.mtime_s)
    return list(by_stem.values())


def make_plan(
    shards: Sequence[ShardInput], store: Store, *, changed: bool = False, tables: str = CAPTIONS, stale: frozenset[str] | None = None
) -> Plan:
    """Compares archives with what stands in the output folder.

    `stale`: stems whose tables are known to be of former versions, by better evidence than two clocks; those are replaced.

    With `changed`, tables that are older than their archives are marked to be replaced (`redo.py`): the archive is open
    from then on, whatever happens, and the old table stays until the new one stands. Parts of a former version of an open
    archive are deleted: a complete set of them would be merged by the next sweep, as the results of bytes that are gone.
    """
    finals = {blob.path: blob.mtime_s for blob in store.list(tables)}
    asked = redo.asked(store, finals, tables)
    left, newer = [], []
    for shard in shards:
        written_s = finals.get(table_path(tables, shard.stem))
        if written_s is None or (shard.stem, shard.fingerprint) in asked:
            left.append(shard)
        elif shard.stem in stale if stale is not None else shard.mtime_s > written_s:
            newer.append(shard)
            if changed or stale is not None:
                redo.ask(store, shard.stem, shard.fingerprint)
                left.append(shard)
    parts: dict[str, list[Part]] = {}
    present = {shard.stem: shard.fingerprint for shard in left}
    for blob in store.list(FOLDER) if left else []:
        part, folder = parse(blob.path), blob.path.rsplit("/", 1)[0]
        stem, _, fingerprint = folder[len(FOLDER) + 1 :].rpartition("/")
        if part is None:
            continue
        if present.get(stem, fingerprint) != fingerprint:
            store.delete(blob.path)
            continue
        parts.setdefault(folder, []).append(part)
    opened = [
        OpenShard(shard, todo(parts.get(folder_of(shard.stem, shard.fingerprint), [])), table_path(tables, shard.stem) in finals)
        for shard in left
    ]
    return Plan(len(shards) - len(left), opened, [] if changed or stale is not None else [shard.shard for shard in newer])


def todo(parts: Sequence[Part]) -> tuple[tuple[int, int], ...] | None:
    """Index ranges that no part holds for good. Samples that are in parts only by some pieces are redone whole."""
    settled = sorted(_settled(part) for part in parts if not part.transient)
    ranges: list[tuple[int, int]] = []
    reach = 0
    for lo, hi in settled:
        if lo > hi:
            continue
        if lo > reach:
            ranges.append((reach, lo - 1))
        reach = max(reach, hi + 1)
    if reach == 0 and not ranges:
        return None
    if not any(part.end and not part.transient and part.hi.index <= reach for part in parts):
        ranges.append((reach, LAST_INDEX))
    return tuple(ranges)


def _settled(part: Part) -> tuple[int, int]:
    """Samples that a part holds whole, as an inclusive range."""
    lo = part.lo.index if part.lo.piece == 0 else part.lo.index + 1
    hi = part.hi.index if part.whole and not part.end else part.hi.index - 1
    return lo, hi
