"""Folder pairs: a picture, recording or clip and the files beside it that have the same name before the last dot.

    a/x.jpg + a/x.txt (or x.json, x.caption), at any depth; further files of the name (x.npy) come along

A piece is a run of whole folders, or a range of names of one large folder: what a task holds is bounded.
"""

import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from pipeline import storage
from pipeline.errors import Reason, RequestError, SampleError
from pipeline.samples.medium import FIELDS
from pipeline.samples.rows import TEXT_KEYS
from pipeline.shards.encoding import decode_text
from pipeline.shards.item import Bad, Item, Member, Options, Piece, Place
from pipeline.shards.listing import Entry, entries, join, leaves, read_whole

NAME = "pairs"
PIECE_FILES = 8_000
TEXTS = ("txt", "caption", "json")
_READ = tuple(f".{name}" for name in TEXTS)
_FIELD = re.compile(r"[a-z0-9_]{1,16}")


@dataclass(slots=True)
class _Folder:
    """What the planner knows of one folder: counts, and the names at which a large one is cut."""

    path: str
    files: int = 0
    cuts: list[str] = field(default_factory=list)


def pieces(root: str, options: Options) -> Iterator[Piece]:
    """Runs of folders of about PIECE_FILES files, in the order of paths. Reads names only."""
    group: list[str] = []
    count = files = 0
    for folder in _folders(root, options):
        files += folder.files
        if folder.cuts:
            if group:
                yield _piece(root, group, count)
            group, count = [], 0
            edges = ["", *folder.cuts, ""]
            for start, stop in zip(edges, edges[1:], strict=False):
                extra = (("folder", folder.path), ("from", start), ("before", stop), ("files", str(folder.files)))
                yield Piece(NAME, root, extra=extra)
            continue
        if not folder.files:
            continue
        group.append(folder.path)
        count += folder.files
        if count >= PIECE_FILES:
            yield _piece(root, group, count)
            group, count = [], 0
    if group:
        yield _piece(root, group, count)
    if not files:
        raise RequestError(f"{root} holds no files")


def _piece(root: str, folders: list[str], files: int) -> Piece:
    return Piece(NAME, root, extra=(*(("folder", folder) for folder in folders), ("files", str(files))))


def _folders(root: str, options: Options) -> Iterator[_Folder]:
    """All folders below the root in the order of their paths, the root first."""
    todo = [""]
    linked: set[str] = set()  # links may lead in circles
    while todo:
        path = todo.pop()
        found = _Folder(path)
        below: list[str] = []
        stems: list[str] = []
        step = 1
        try:
            for entry in entries(join(root, path)):
                if entry.is_folder:
                    if not entry.is_link or (options.allow_outside and _is_new(join(root, path, entry.name), root, linked)):
                        below.append(f"{path}/{entry.name}" if path else entry.name)
                    continue
                found.files += 1
                if found.files % step == 0:
                    stems.append(entry.name.rpartition(".")[0])
                    if len(stems) >= 8 * 1024:  # a sample of the names is enough to cut by
                        stems, step = stems[::2], step * 2
        except OSError as error:
            raise RequestError(f"{join(root, path)} cannot be listed: {error.strerror or error}") from error
        if found.files > 2 * PIECE_FILES:
            stems.sort()
            parts = found.files // PIECE_FILES
            found.cuts = sorted({stems[at * len(stems) // parts] for at in range(1, parts)} - {""})
        yield found
        todo.extend(sorted(below, reverse=True))


def _is_new(path: str, root: str, linked: set[str]) -> bool:
    """True for a linked folder outside of the root that no link led to before."""
    real = os.path.realpath(path)
    if not leaves(path, root) or real in linked:
        return False
    linked.add(real)
    return True


def items(piece: Piece, options: Options) -> Iterator[Item | Bad]:
    """The samples of a piece, folder by folder, in the order of names."""
    start, stop = dict(piece.extra).get("from", ""), dict(piece.extra).get("before", "")
    for folder in [value for name, value in piece.extra if name == "folder"]:
        yield from _folder_items(piece.url, folder, start, stop, options)


def _folder_items(root: str, folder: str, start: str, stop: str, options: Options) -> Iterator[Item | Bad]:
    base = join(root, folder)
    stems: dict[str, list[Entry]] = {}
    for entry in entries(base, sizes=True, unsized=_READ):
        stem, dot, _ = entry.name.rpartition(".")
        if entry.is_folder and entry.is_link and not start and not options.allow_outside and leaves(path := join(base, entry.name), root):
            yield Bad(path, path, None, Reason.OUTSIDE_SOURCE, f"a link to a folder outside of {root}; --allow-outside takes it")
        if entry.is_folder or not dot or stem < start or (stop and stem >= stop):
            continue
        stems.setdefault(stem, []).append(entry)
    for stem in sorted(stems):
        files = stems.pop(stem)
        found: Item | Bad | None = _plain_pair(base, folder, files) if len(files) == 2 else None
        if found is None:
            found = _sample(root, base, folder, stem, files, options)
        if found is not None:
            yield found


def _plain_pair(base: str, folder: str, files: list[Entry]) -> Item | None:
    """What `_sample` gives for a medium and an ordinary .txt, in half the time: nearly all pairs are no more. None for all others."""
    medium, beside = files if files[1].name.endswith(".txt") else (files[1], files[0])
    extension = medium.name.rpartition(".")[2].lower()
    if extension not in FIELDS or not beside.name.endswith(".txt") or medium.is_link or beside.is_link:
        return None
    try:
        data = read_whole(f"{base}/{beside.name}")
        text = data.decode()
    except (SampleError, UnicodeDecodeError):
        return None
    if text[:1] == "\ufeff" or not text.strip():
        return None
    members = (Member(extension, None, Place(f"{base}/{medium.name}", 0, medium.size)), Member("txt", data))
    return Item(f"{folder}/{medium.name}" if folder else medium.name, members, source=f"{base}/{medium.name}")


def _sample(root: str, base: str, folder: str, stem: str, files: list[Entry], options: Options) -> Item | Bad | None:
    """The sample of one stem; None for files that are neither a medium nor a text."""
    name = f"{folder}/{stem}" if folder else stem
    named = sorted((entry.name.rpartition(".")[2].lower(), entry.name, entry) for entry in files)
    media = [(extension, entry) for extension, _, entry in named if extension in FIELDS]
    if not media:
        texts = [entry.name for extension, _, entry in named if extension in TEXTS]
        if not texts:
            return None
        return Bad(name, join(base, texts[0]), None, Reason.NO_MEDIUM, f"no picture, recording or clip of that name beside {texts[0]}")
    origin = f"{folder}/{media[0][1].name}" if folder else media[0][1].name
    try:
        parts = _Parts(origin)
        for extension, _, entry in named:
            path = f"{base}/{entry.name}"
            if entry.is_link and not options.allow_outside and storage.is_local(base) and leaves(path, root):
                raise SampleError(Reason.OUTSIDE_SOURCE, f"{path} links to a file outside of {root}; --allow-outside takes it")
            if extension in TEXTS:
                parts.text(extension, path, options)
            elif extension in FIELDS or _FIELD.fullmatch(extension):
                parts.add(Member(extension, place=Place(path, 0, entry.size)))
        return parts.item(join(base, media[0][1].name), options)
    except SampleError as error:
        return Bad(origin, join(base, media[0][1].name), None, error.reason, error.detail)


class _Parts:
    """A sample as its files are looked at, sorted by extension."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._members: list[Member] = []
        self._fields: set[str] = set()
        self._texts: list[str] = []
        self._meta: dict[str, Any] = {}
        self._captions: tuple[str, ...] = ()

    def add(self, member: Member) -> None:
        if member.field in self._fields:
            raise SampleError(Reason.DUPLICATE_NAME, f"two files of this name are .{member.field}: their names differ only in case")
        self._fields.add(member.field)
        self._members.append(member)

    def text(self, extension: str, path: str, options: Options) -> None:
        data = read_whole(path)
        if extension == "json":
            parsed = parsed_json(data, path)
            if not isinstance(parsed, dict):
                self.add(Member("json", data=data))
                return
            self._meta = parsed
            self._captions = texts_of(parsed)
            return
        text = decode_text(data)
        if not text.strip():
            if not options.keep_empty_text:
                raise SampleError(Reason.EMPTY_TEXT, f"{path} is empty; --keep-empty-text takes the sample without a text")
            return
        plain = data if data[:3] != b"\xef\xbb\xbf" and data[:2] not in (b"\xff\xfe", b"\xfe\xff") else text.encode()
        if "txt" not in self._fields:  # .caption comes before .txt
            self.add(Member("txt", data=plain))
        elif extension == "txt":
            self._members = [Member("txt", data=plain) if member.field == "txt" else member for member in self._members]

    def item(self, source: str, options: Options) -> Item:
        """The whole; a text in the json stands in where there is no file of text."""
        captions = self._captions
        if captions and not any(text.strip() for text in captions) and not options.keep_empty_text and "txt" not in self._fields:
            raise SampleError(Reason.EMPTY_TEXT, "the text in its json is empty; --keep-empty-text takes the sample without a text")
        return Item(self._name, tuple(self._members), self._meta, tuple(text for text in captions if text.strip()), source)


def parsed_json(data: bytes, path: str) -> Any:
    """The document. SampleError where it is none."""
    try:
        return json.loads(decode_text(data))
    except (ValueError, RecursionError) as error:
        raise SampleError(Reason.BAD_ROW, f"{path} is no JSON: {error}") from error


def texts_of(facts: dict[str, Any]) -> tuple[str, ...]:
    """The texts in a JSON object: its captions, or the first of TEXT_KEYS that is a string."""
    several = facts.get("captions")
    if isinstance(several, list) and several and all(isinstance(text, str) for text in several):
        return tuple(several)
    for key in TEXT_KEYS:
        if isinstance(facts.get(key), str):
            return (facts[key],)
    return ()
