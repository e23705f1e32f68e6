"""All signatures -> all decisions: spread, match, decide, in steps whose memory does not grow with the corpus.

Steps are functions of plain values, carried out by whatever the caller gives: Ray's tasks, or a loop. What is killed
here starts again from the signatures, which stay.
"""

import hashlib
import json
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import storage
from pipeline.dedup.decide import Decisions, Dropped, encoded, write_drops
from pipeline.dedup.divided import read_division
from pipeline.dedup.likeness import LikenessConfig, likenesses
from pipeline.dedup.matches import Signed, find_matches, row_bytes, spread
from pipeline.dedup.signatures import FOLDER
from pipeline.samples.drops import DECIDED, DECISIONS, DIGESTS, drop_path
from pipeline.samples.drops import FOLDER as DROP_FOLDER

Each: TypeAlias = Callable[[Callable[..., Any], Iterable[tuple[Any, ...]]], Iterator[Any]]
"""Calls a function with each tuple of arguments, many at a time, in any order; gives the results in the order given."""

VERSION = 2
"""Raised by hand when the same signatures and options would give other decisions than before."""
BUCKETS, MATCHES = "_buckets", "_matches"
DIVISION_BYTES = 64 << 20
MAX_DIVISIONS = 4_096
GROUP_SAMPLES = 1 << 18
WINDOW_SAMPLES = 1 << 20
FOOTERS = 64


@dataclass(frozen=True, slots=True)
class Decided:
    """The account of a whole corpus."""

    shards: int
    samples: int
    dropped: dict[str, int]
    """Samples by likeness."""
    identity: str
    """Hash of the signatures and options that it was decided from."""


def footers(output: str, paths: list[str]) -> list[tuple[str, str, str, int]]:
    """(path, shard, fingerprint, samples) of signature tables."""
    store, found = storage.Folder(output), []
    for path in paths:
        filesystem, folder = storage.resolve(store.url)
        with filesystem.open_input_file(f"{folder}/{path}") as file:
            metadata = pq.read_metadata(file)
        named = {key.decode(): value.decode() for key, value in metadata.metadata.items() if key.startswith(b"nightcap.")}
        found.append((path, named["nightcap.shard"], named["nightcap.fingerprint"], metadata.num_rows))
    return found


def catalogue(output: str, each: Each) -> list[Signed]:
    """All shards that have signatures, in the order of the corpus: by name."""
    paths = [blob.path for blob in storage.Folder(output).list(FOLDER) if storage.TEMPORARY not in blob.path]
    batches = [(output, paths[at : at + FOOTERS]) for at in range(0, len(paths), FOOTERS)]
    rows = sorted((row for batch in each(footers, batches) for row in batch), key=lambda row: row[1])
    offset, shards = 0, []
    for path, shard, fingerprint, samples in rows:
        shards.append(Signed(path, shard, fingerprint, samples, offset))
        offset += samples
    return shards


def decide_corpus(output: str, config: LikenessConfig, each: Each) -> Decided:
    """Writes drop/<shard>.parquet of every shard that has signatures, then the account, which makes them valid."""
    known = already_decided(output, config)
    if known is not None:
        return known
    store, identity = storage.Folder(output), _identity(output, config)
    shards = catalogue(output, each)
    store.delete(DECIDED)
    _clean(store)
    windows = _groups(shards, WINDOW_SAMPLES)
    names = tuple(likeness.name for likeness in likenesses(config))
    starts = [window[0].offset for window in windows]
    files = {name: _matches(output, config, name, shards, starts, each) for name in names}
    dropped = Counter(dict.fromkeys(names, 0))
    decisions = [one for some in each(write_drops, _windows(output, shards, windows, names, files, dropped)) for one in some]
    _forget(store, shards)
    decided = Decided(len(shards), sum(shard.samples for shard in shards), dict(dropped), identity)
    store.put(DIGESTS, encoded(pa.Table.from_pylist([one._asdict() for one in decisions], DECISIONS)))
    store.put(DECIDED, json.dumps({**asdict(decided), "options": {"version": VERSION, **asdict(config)}}, indent=1).encode())
    _clean(store)
    return decided


def _matches(output: str, config: LikenessConfig, name: str, shards: list[Signed], starts: list[int], each: Each) -> list[str]:
    """Files of pairs, each divided by window."""
    likeness = next(one for one in likenesses(config) if one.name == name)
    samples = sum(shard.samples for shard in shards)
    divisions = min(MAX_DIVISIONS, max(1, math.ceil(samples * row_bytes(likeness) / DIVISION_BYTES)))
    groups = _groups(shards, GROUP_SAMPLES)
    spreading = ((output, config, name, group, divisions, f"{BUCKETS}/{name}/{at:06d}") for at, group in enumerate(groups))
    sources = [path for paths in each(spread, spreading) for path in paths]
    if not sources:
        return []
    matching = ((output, config, name, sources, at, starts, f"{MATCHES}/{name}/{at:06d}.parquet") for at in range(divisions))
    return [path for path, count in each(find_matches, matching) if count]


def _windows(
    output: str,
    shards: list[Signed],
    windows: list[list[Signed]],
    names: tuple[str, ...],
    files: dict[str, list[str]],
    counts: Counter[str],
) -> Iterator[tuple[str, list[Signed], Dropped, tuple[str, ...], list[Signed]]]:
    """Decides window after window; gives what is to be written of each, and counts."""
    store, decisions = storage.Folder(output), Decisions(sum(shard.samples for shard in shards))
    offsets = np.array([shard.offset for shard in shards], np.int64)
    for number, window in enumerate(windows):
        pairs = []
        for name in names:
            tables = list(read_division(store, files[name], number))
            empty = [np.zeros(0, np.int64)]
            pairs.append(
                tuple(np.concatenate(empty + [table.column(side).to_numpy() for table in tables]) for side in ("later", "earlier"))
            )
        dropped = decisions.decide([(later, earlier) for later, earlier in pairs])
        counts.update({name: int(np.count_nonzero(dropped.why == at)) for at, name in enumerate(names)})
        # The last of equal offsets is the one that holds samples: shards without any share theirs with the next.
        twins = [shards[at] for at in np.unique(np.searchsorted(offsets, dropped.twin, "right") - 1).tolist()]
        yield output, window, dropped, names, twins


def _groups(shards: list[Signed], samples: int) -> list[list[Signed]]:
    """Consecutive shards, some at a time: a new group begins where the one before has `samples` or more."""
    groups: list[list[Signed]] = []
    held = samples
    for shard in shards:
        if held >= samples:
            groups.append([])
            held = 0
        groups[-1].append(shard)
        held += shard.samples
    return groups


def _identity(output: str, config: LikenessConfig) -> str:
    """Of the options and of the listing of all signatures: nothing is opened."""
    digest = hashlib.sha256(json.dumps([VERSION, asdict(config)], sort_keys=True).encode())
    for blob in storage.Folder(output).list(FOLDER):
        digest.update(f"{blob.path}\0{blob.size}\0{blob.mtime_s:.6f}\n".encode())
    return digest.hexdigest()


def already_decided(output: str, config: LikenessConfig) -> Decided | None:
    """The account of an earlier run, if the same signatures were decided on with the same options."""
    try:
        known = json.loads(storage.Folder(output).get(DECIDED))
        decided = Decided(known["shards"], known["samples"], known["dropped"], known["identity"])
    except (FileNotFoundError, ValueError, KeyError):
        return None
    return decided if decided.identity == _identity(output, config) else None


def _forget(store: storage.Folder, shards: list[Signed]) -> None:
    """Deletes decisions on shards that have no signatures any more."""
    wanted = {drop_path(shard.shard) for shard in shards}
    for blob in store.list(DROP_FOLDER):
        if blob.path not in wanted and blob.path not in (DECIDED, DIGESTS):
            store.delete(blob.path)


def _clean(store: storage.Folder) -> None:
    for folder in (BUCKETS, MATCHES):
        for blob in store.list(folder):
            store.delete(blob.path)
        store.prune(folder)
