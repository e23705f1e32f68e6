"""A few quarantined samples of each reason, with their media where those can be shown, and the first bytes where not.

Quarantine may hold gigabytes: columns without the bytes are read first, then the bytes of the chosen rows alone, one at a time.
"""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow.parquet as pq

from pipeline import storage
from pipeline.reports.gallery import Budget, Shown, fill, show

FILES, PER_REASON = 200, 5
WITH_ARCHIVE = 12
"""Samples that are looked up in their archives, because quarantine keeps no bytes of them."""
MEDIA_BYTES = 3 << 19
HEAD_BYTES = 16
PLACES = ["key", "shard", "index", "stage", "reason", "detail", "offset", "size"]


def read_rejects(store: storage.Folder, root: str | None) -> list[Shown]:
    """Up to PER_REASON samples of each reason, by reason and place; the same files give the same ones."""
    names = [blob.path for blob in store.list("quarantine") if blob.path.endswith(".parquet")]
    taken: Counter[str] = Counter()
    budget, found = Budget(MEDIA_BYTES), list[Shown]()
    for name in sorted(names, key=lambda name: (hashlib.sha256(name.encode(errors="surrogatepass")).digest(), name))[:FILES]:
        found += _of_file(f"{store.url}/{name}", taken, budget)
    _from_archives(found, root)
    for name in sorted(blob.path for blob in store.list("rejects") if blob.path.endswith(".parquet"))[:FILES]:
        found += _refused(f"{store.url}/{name}", taken)
    return sorted(found, key=lambda one: (one.row["reason"], one.row["shard"], one.row["index"] if one.row["index"] is not None else -1))


def _of_file(url: str, taken: Counter[str], budget: Budget) -> list[Shown]:
    filesystem, path = storage.resolve(url)
    with filesystem.open_input_file(path) as file:
        parquet = pq.ParquetFile(file)
        chosen: dict[int, Shown] = {}
        for number, row in enumerate(_rows(parquet, PLACES, 4096)):
            if taken[row["reason"]] < PER_REASON:
                taken[row["reason"]] += 1
                chosen[number] = Shown(row | {"head": "", "members": []})
        first = 0
        for group in range(parquet.num_row_groups):
            rows = parquet.metadata.row_group(group).num_rows
            here = {number - first: one for number, one in chosen.items() if first <= number < first + rows}
            for number, row in enumerate(_rows(parquet, ["members"], 1, [group]) if here else ()):
                if number in here:
                    _show(here[number], row["members"] or [], budget)
                if number == max(here):
                    break
            first += rows
    return list(chosen.values())


def _refused(url: str, taken: Counter[str]) -> Iterator[Shown]:
    """Rows and files that `shard` made no sample of, as far as there is room for their reason."""
    filesystem, path = storage.resolve(url)
    with filesystem.open_input_file(path) as file:
        for row in _rows(pq.ParquetFile(file), ["source", "row", "name", "reason", "detail"], 4096):
            if taken[row["reason"]] < PER_REASON:
                taken[row["reason"]] += 1
                place = {"key": row["name"], "shard": row["source"], "index": row["row"], "stage": "source", "offset": None, "size": None}
                yield Shown(
                    place | {"reason": row["reason"], "detail": row["detail"], "head": "", "members": []}, note="no sample of an archive"
                )


def _rows(parquet: pq.ParquetFile, columns: list[str], size: int, groups: list[int] | None = None) -> Iterator[dict[str, Any]]:
    for batch in parquet.iter_batches(size, columns=columns, row_groups=groups):
        yield from batch.to_pylist()


def _show(one: Shown, members: Sequence[dict[str, Any]], budget: Budget) -> None:
    named = [(str(member["name"]).lower(), member["bytes"] or b"") for member in members]
    one.row["members"] = [f"{name.rpartition('/')[2]} {len(data):,}" for name, data in named]
    if not named:
        return
    fill(one, named, budget)
    if not one.pictures:
        data = max((data for _, data in named), key=len)
        one.row["head"] = data[:HEAD_BYTES].hex(" ")


def _from_archives(found: list[Shown], root: str | None) -> None:
    """Media of samples whose bytes are not kept, such as those that a filter removed."""
    bare = [one for one in found if not one.row["members"] and one.row["index"] is not None and one.row["key"]]
    groups = defaultdict(list)
    for one in bare[:WITH_ARCHIVE] if root is not None else ():
        groups[one.row["shard"]].append(one)
    rows = [one.row | {"table": ""} for members in groups.values() for one in members]
    for one, filled in zip(
        (one for members in groups.values() for one in members),
        show(rows, output="", root=root, table="captions", size_bytes=MEDIA_BYTES),
        strict=True,
    ):
        one.pictures, one.sound, one.cut, one.note = filled.pictures, filled.sound, filled.cut, filled.note
