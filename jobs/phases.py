"""The phases of `nightcap shard` on Ray: scan, shuffle, pack. Each asks storage what is done, and does the rest.

scan       a task a piece of the source: its index
repeats    samples whose id occurred before leave the index
shuffle    scatter (a task a piece), gather (a task a bucket)
pack       a task an archive
"""

import io
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import pyarrow.parquet as pq

from jobs.display import console, meter
from jobs.each import on_ray
from jobs.metrics import record_receipt
from pipeline import schema, storage
from pipeline.commit.budget import Budget
from pipeline.commit.temporary import without_temporary
from pipeline.errors import Reason, StoppedError
from pipeline.reports.tally import Tally
from pipeline.shards import inventory, order
from pipeline.shards.download import DownloadConfig
from pipeline.shards.index import batches
from pipeline.shards.item import Options, Piece
from pipeline.shards.order import ShardPlan, Shuffle
from pipeline.shards.pack import PackConfig, Packed, pack_shard, rejects_path, samples_of, shard_path
from pipeline.shards.rejects import FOLDER as REJECTS
from pipeline.shards.scan import FOLDER as SCANNED
from pipeline.shards.scan import Scanned, load_receipt, scan_piece
from pipeline.shards.twice import without_repeats


@dataclass(kw_only=True, slots=True)
class Phases:
    """What a run knows once its source was looked at."""

    store: storage.Folder
    """The output; its URL is absolute."""
    pieces: list[Piece]
    options: Options
    downloads: DownloadConfig
    prefix: str
    max_bytes: int
    max_samples: int
    shuffle: int
    """Seed; negative keeps the order."""
    memory_bytes: int
    max_rejects: str
    tally: Tally
    run_id: str
    samples: int = 0
    """Of the source as scanned; rejects are not among them."""

    def over_budget(self, seen: int, *, final: bool) -> None:
        """StoppedError where more was rejected than the run bears; `seen`: samples and rejects so far."""
        if not Budget.parse(self.max_rejects).exceeded(seen, self.tally.rejected, final=final):
            return
        examples = self.tally.examples
        reasons = "; ".join(
            f"{reason} {count:,} ({', '.join(f'{source}: {name or detail}' for source, name, detail in examples.get(reason, []))})"
            for reason, count in self.tally.reasons()[:3]
        )
        raise StoppedError(
            f"{self.tally.rejected:,} of {seen:,} samples were rejected, more than --max-rejects {self.max_rejects} allows: {reasons}. "
            f"See {self.store.url}/{REJECTS}; raise --max-rejects to go on"
        )


def finished(job: Phases, *, retry_failed: bool) -> bool:
    """True if every archive that sizes.json names is there. With `retry_failed`, those with failed downloads are removed first."""
    sizes = inventory.read_sizes(job.store)
    if retry_failed:
        for path in _with_failed_downloads(job):
            job.store.delete(inventory.SIZES)
            job.store.delete(path)
            sizes = None
    if sizes and set(sizes) <= _present(job):
        return True
    job.store.delete(inventory.SIZES)
    return False


def execute(job: Phases) -> int:
    """Does all that is left; the number of archives of the output. StoppedError where it cannot be finished."""
    scanned = _scan(job)
    paths = [one.path for one in scanned]
    firsts = _drop_repeats(job, scanned)
    if job.shuffle >= 0:
        paths = _shuffle(job, scanned, firsts)
    return _pack(job, paths)


def _present(job: Phases) -> set[str]:
    """Archives that are done."""
    return {path for path in _top_files(job) if path.startswith(f"{job.prefix}-") and path.endswith(".tar")}


def _top_files(job: Phases) -> list[str]:
    """Files of the output itself, not of its folders."""
    from pipeline.shards.listing import entries

    return [entry.name for entry in entries(job.store.url) if not entry.is_folder]


def _with_failed_downloads(job: Phases) -> list[str]:
    present = _present(job)
    found = []
    for blob in job.store.list(REJECTS):
        archive = blob.path.rpartition("/")[2].removesuffix(".parquet") + ".tar"
        if archive in present and Reason.DOWNLOAD_FAILED.value in _reasons(job, blob.path):
            found.append(archive)
    return found


def _reasons(job: Phases, path: str) -> list[str]:
    """The reason of every row of a table of rejects."""
    return [str(reason) for reason in _column(job, path, "reason")]


def _column(job: Phases, path: str, name: str) -> list[Any]:
    return list(pq.read_table(io.BytesIO(job.store.get(path)), columns=[name]).column(0).to_pylist())


def _scan(job: Phases) -> list[Scanned]:
    """The index of every piece. While no archive exists, pieces that had rejects are scanned again: their source may be mended."""
    keep_rejects = bool(_present(job))
    scanned: dict[int, Scanned] = {}
    for number in _receipts(job):
        receipt = load_receipt(job.store, number)
        if receipt is not None and (keep_rejects or not receipt.rejects):
            scanned[number] = receipt
            _count(job, receipt.rejects, receipt.examples)
    todo = [(number, piece, job.options, job.store.url) for number, piece in enumerate(job.pieces) if number not in scanned]
    seen = sum(one.samples for one in scanned.values())
    with meter(len(todo), "pieces") as display:
        progress = Tally()
        for receipt in on_ray(scan_piece, todo):
            scanned[receipt.number] = receipt
            _count(job, receipt.rejects, receipt.examples)
            seen += receipt.samples
            progress.counts[schema.SUCCESS] = seen
            progress.counts[f"{schema.REJECTED}:any"] = job.tally.rejected
            progress.shards += 1
            display.show(progress)
            job.over_budget(seen + job.tally.rejected, final=False)
    job.samples = seen
    job.over_budget(seen + job.tally.rejected, final=True)
    if not seen:
        raise StoppedError(f"the source holds no sample that can be used; {job.tally.rejected:,} rows or files of it were rejected")
    console.print(f"{seen:,} samples in {len(job.pieces):,} pieces of the source · {job.tally.rejected:,} rejected")
    return [scanned[number] for number in range(len(job.pieces))]


def _receipts(job: Phases) -> Iterator[int]:
    """Numbers of the pieces that have a receipt; of pieces that the source no longer has, none."""
    for blob in job.store.list(SCANNED):
        name = blob.path.rpartition("/")[2]
        if name.endswith(".json") and storage.TEMPORARY not in name and (number := int(name.removesuffix(".json"))) < len(job.pieces):
            yield number


def _drop_repeats(job: Phases, scanned: Sequence[Scanned]) -> list[int]:
    """Samples whose explicit id occurred before become rejects. Returns the position of each index's first sample, and the total."""
    counts = [one.samples for one in scanned]
    with_id = sum(one.with_id for one in scanned)
    if with_id:
        paths = [one.path for one in scanned]
        repeated = order.repeated_ids(job.store, paths, with_id=with_id, memory_bytes=job.memory_bytes)
        given = [(job.store.url, path, rows.tolist()) for path, rows in repeated.items()]
        for (_, path, rows), example in zip(given, on_ray(without_repeats, given), strict=True):
            console.print(f"{len(rows):,} samples of {path} have an id that occurred before")
            _count(job, {}, [example])
        counts = [sum(batch.num_rows for batch in batches(f"{job.store.url}/{path}", ("size",))) for path in paths]
        dropped = sum(one.samples for one in scanned) - sum(counts)
        _count(job, {Reason.DUPLICATE_NAME.value: dropped} if dropped else {}, [])
        job.samples -= dropped
        job.over_budget(job.samples + job.tally.rejected, final=True)
    firsts = [0]
    for count in counts:
        firsts.append(firsts[-1] + count)
    return firsts


def _shuffle(job: Phases, scanned: Sequence[Scanned], firsts: Sequence[int]) -> list[str]:
    """Index files in the order of the shuffle."""
    index_bytes = sum(one.index_bytes for one in scanned)
    shuffle = Shuffle.of(job.store.url, total=firsts[-1], seed=job.shuffle, index_bytes=index_bytes, memory_bytes=job.memory_bytes)
    paths = [order.bucket_path(number) for number in range(shuffle.buckets)]
    done = {blob.path for blob in job.store.list(order.FOLDER)}
    left = [number for number, path in enumerate(paths) if path not in done]
    if left:
        given = [(shuffle, one.number, one.path, first) for one, first in zip(scanned, firsts[:-1], strict=True) if one.samples]
        chunks = on_ray(order.scatter, given)
        scattered = [order.scattered_path(one[1], chunk) for one, count in zip(given, chunks, strict=True) for chunk in range(count)]
        for _ in on_ray(order.gather, [(shuffle, number, scattered) for number in left]):
            pass
        _delete(job, f"{order.FOLDER}/scattered")
    console.print(f"shuffled with seed {job.shuffle} in {shuffle.buckets:,} buckets")
    return paths


def _pack(job: Phases, paths: Sequence[str]) -> int:
    """Writes the archives that are not there, then the index files; what only served the way is deleted."""
    seen = job.samples + job.tally.rejected
    plans = list(order.assign(job.store, paths, max_bytes=job.max_bytes, max_samples=job.max_samples))
    done = _present(job)
    refused = {blob.path for blob in job.store.list(REJECTS)}
    for path in sorted(done):
        if rejects_path(path) in refused:
            _count(job, Counter(_reasons(job, rejects_path(path))), [])
    left = [plan for plan in plans if shard_path(job.prefix, plan.number) not in done]
    console.print(f"{len(plans):,} archives · {len(plans) - len(left):,} done · {len(left):,} to do")
    config = PackConfig(job.store.url, job.prefix, job.downloads, job.max_bytes, job.run_id)
    with meter(len(left)) as display:
        for packed in on_ray(_pack_counted, [(plan, config) for plan in left]):
            job.tally.add(_as_receipt(packed))
            display.show(job.tally)
            job.over_budget(seen, final=True)
    without_temporary(job.store, job.store.list(""), job.run_id)
    archives = _archives(job, plans)
    inventory.write_inventory(job.store, job.prefix, archives)
    _delete(job, SCANNED)
    _delete(job, order.FOLDER)
    return len(archives)


def _archives(job: Phases, plans: Sequence[ShardPlan]) -> list[inventory.Archive]:
    """What stands in every archive: as planned, less its rejects, also where an earlier run wrote it."""
    refused = {blob.path for blob in job.store.list(REJECTS)}
    found = []
    for plan in plans:
        path = shard_path(job.prefix, plan.number)
        table = rejects_path(path)
        lost = [int(key) for key in _column(job, table, "key")] if table in refused else []
        for one, samples in samples_of(job.store, plan, path, lost):
            blob = storage.stat(f"{job.store.url}/{one}")
            found.append(inventory.Archive(one, samples, blob.size if blob else 0))
    return found


def _pack_counted(plan: ShardPlan, config: PackConfig) -> Packed:
    packed = pack_shard(plan, config)
    record_receipt(_as_receipt(packed), "shard")
    return packed


def _as_receipt(packed: Packed) -> dict[str, Any]:
    """schema.RECEIPTS, as the tally adds them up."""
    counts = {schema.SUCCESS: packed.samples, **{f"{schema.REJECTED}:{reason}": count for reason, count in packed.rejects.items()}}
    return {
        "counts": json.dumps(counts),
        "seconds": json.dumps({"pack": packed.seconds}),
        "sums": json.dumps({"bytes": packed.size_bytes}),
        "audio_s": 0.0,
        "committed": True,
        "damage": 0,
        "examples": json.dumps(packed.examples),
    }


def _count(job: Phases, counts: dict[str, int], examples: Sequence[Sequence[str]]) -> None:
    """Adds rejects of the source to the run's account."""
    receipt = {"counts": json.dumps({f"{schema.REJECTED}:{reason}": count for reason, count in counts.items()}), "audio_s": 0.0}
    job.tally.add({**receipt, "seconds": "{}", "committed": False, "damage": 0, "examples": json.dumps([list(one) for one in examples])})


def _delete(job: Phases, folder: str) -> None:
    for blob in job.store.list(folder):
        with suppress(FileNotFoundError):
            job.store.delete(blob.path)
    job.store.prune(folder)
