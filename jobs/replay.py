"""`nightcap replay`: the quarantined samples of an output folder again, after a fix, from the bytes that quarantine kept.

What succeeds now replaces its rejected row in the caption table and leaves quarantine; damage stays there.
"""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Annotated, Any

import pyarrow as pa
import pyarrow.parquet as pq
from cyclopts import Parameter

from jobs.caption import CaptionConfig, Job, commit_config, engine_rows, prepare, read_config
from jobs.cluster import session
from jobs.display import console
from pipeline import schema, storage
from pipeline.captions.engine import EngineConfig
from pipeline.commit.merge import captions_of
from pipeline.commit.parts import stem_of
from pipeline.commit.revise import revise
from pipeline.errors import RequestError
from pipeline.reports.record import last_config
from pipeline.samples.chunks import ShardTask
from pipeline.samples.group import Field, Sample
from pipeline.samples.source import ChunkDecoder, ReadConfig

WAVE = 200
"""Quarantine files in one Ray execution: what the driver holds of their captions."""


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True, slots=True)
class ReplayConfig:
    """Options of `nightcap replay`. The engine and its options are those of the folder's last run."""

    output: Annotated[str, Parameter(negative=())] = field(kw_only=False)
    """The output folder of `nightcap caption`."""
    decoder: str = ""
    """Own decoder as module:function; empty is that of the last run."""
    address: str = ""
    """Ray cluster; without it RAY_ADDRESS, else a Ray on this machine."""
    verbose: bool = False
    """Show Ray's own messages."""


def run(config: ReplayConfig) -> int:
    """Replays, revises, prints what became of them. 1 if anything is still in quarantine."""
    store = storage.Folder(config.output)
    job = prepare(_caption_config(config, store), plan=False)
    files = [blob.path for blob in store.list("quarantine") if blob.path.endswith(".parquet")]
    waiting = sum(_samples_in(store, path) for path in files)
    console.print(f"{waiting:,} samples in quarantine, in {len(files):,} archives")
    solved = 0
    if waiting:
        with session(config.address, verbose=config.verbose):
            for start in range(0, len(files), WAVE):
                solved += _replay(job, files[start : start + WAVE])
    console.print(f"{solved:,} of {waiting:,} have a caption now; {waiting - solved:,} stay in quarantine")
    return 0 if solved == waiting else 1


def _caption_config(config: ReplayConfig, store: storage.Folder) -> CaptionConfig:
    known = last_config(store)
    if known is None:
        raise RequestError(f"{config.output} holds no run of nightcap caption; name its --output folder")
    engine = EngineConfig(**{name: known[name] for name in EngineConfig.__dataclass_fields__ if name in known})
    skip = {"shards", "engine", "output", "limit", "address", "verbose"}
    options = {name: known[name] for name in CaptionConfig.__dataclass_fields__ if name in known and name not in skip}
    options["decoder"] = config.decoder or options.get("decoder", "default")
    return CaptionConfig(
        tuple(known["shards"]), output=config.output, engine=engine, address=config.address, verbose=config.verbose, **options
    )


def _samples_in(store: storage.Folder, path: str) -> int:
    table = pq.read_table(pa.BufferReader(store.get(path)), columns=["index"])
    return int(table.num_rows - table.column("index").null_count)


def _replay(job: Job, files: list[str]) -> int:
    """Captions the samples of some quarantine files; returns how many have a caption now."""
    import ray

    read = read_config(job)
    source = ray.data.from_items([{"path": path} for path in files], override_num_blocks=len(files))
    rows = source.map_batches(_read_file, fn_kwargs={"config": read}, batch_size=1, batch_format="pyarrow", num_cpus=1)
    parts: dict[str, list[pa.Table]] = defaultdict(list)
    for block in engine_rows(job, rows).iter_batches(batch_size=None, batch_format="pyarrow"):
        for shard in block.column("shard").unique().to_pylist():
            parts[shard].append(block.filter(pa.compute.equal(block.column("shard"), shard)))
    solved = 0
    for shard, tables in sorted(parts.items()):
        captions = captions_of(pa.concat_tables(tables))
        revise(job.run.store, stem_of(shard), captions, commit_config(job).metadata)
        found = captions.filter(pa.compute.equal(captions.column("caption_index"), 0)).column("status").to_pylist()
        solved += sum(status not in (schema.REJECTED, schema.SKIPPED) for status in found)
    return solved


def _read_file(batch: pa.Table, config: ReadConfig) -> Iterator[pa.Table]:
    """Rows of schema.SAMPLES for the samples of one quarantine file."""
    store = storage.Folder(config.output)
    for path in batch.column("path").to_pylist():
        rows = [row for row in pq.read_table(pa.BufferReader(store.get(path))).to_pylist() if row["index"] is not None]
        if not rows:
            continue
        decoder = ChunkDecoder(ShardTask(path, rows[0]["shard"], "replay"), config)
        try:
            for row in rows:
                yield from decoder.decode([_sample(row)])
        finally:
            decoder.close()


def _sample(row: dict[str, Any]) -> Sample:
    members = row["members"] or []
    fields = tuple(
        Field(member["name"].rsplit("/", 1)[-1].split(".", 1)[-1].lower(), len(member["bytes"]), member["bytes"]) for member in members
    )
    problem = None if members else _unreadable(row)
    return Sample(
        index=row["index"], key=row["key"], offset=row["offset"], size=row["size"], fields=fields, problem=problem, repeated=False
    )


def _unreadable(row: dict[str, Any]) -> Any:
    from pipeline.errors import Reason, SampleError

    return SampleError(Reason(row["reason"]), row["detail"] or "its bytes are not in quarantine")
