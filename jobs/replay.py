"""`nightcap replay`: the quarantined samples of an output folder again, after a fix, from the bytes that quarantine kept.

What succeeds now leaves quarantine, and has its row where it would have been from the start; damage stays. Captions go to the
engine again as Ray rows; of a prepared folder each quarantine file is one task, from its samples to the new table.
"""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Annotated, Any

import pyarrow as pa
import pyarrow.parquet as pq
from cyclopts import Parameter

from jobs.caption import CaptionConfig, Job, commit_config, engine_rows, prepare, read_config
from jobs.cluster import session
from jobs.describe import describe
from jobs.display import console
from jobs.each import on_ray
from jobs.options import restored
from jobs.prepare import PrepareConfig, plan, write_config
from pipeline import attempts, schema, storage
from pipeline.captions.corpus import about
from pipeline.captions.engine import EngineConfig
from pipeline.commit.amend import Amended, amend
from pipeline.commit.merge import captions_of
from pipeline.commit.parts import stem_of
from pipeline.commit.quarantined import sample_of
from pipeline.commit.revise import revise
from pipeline.errors import RequestError
from pipeline.reports.record import last_config
from pipeline.samples.chunks import ShardTask
from pipeline.samples.source import ChunkDecoder, ReadConfig

WAVE = 200
"""Quarantine files in one Ray execution: what the driver holds of their captions."""


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True, slots=True)
class ReplayConfig:
    """Options of `nightcap replay`. All others are those of the folder's last run."""

    output: Annotated[str, Parameter(negative=())] = field(kw_only=False)
    """The output folder of `nightcap caption` or `nightcap prepare`."""
    decoder: str = ""
    """Own decoder as module:function, for captions; empty is that of the last run."""
    sample_timeout_s: float = 0.0
    """Seconds that work on one sample may take, for those that were too slow; 0 is as in the last run."""
    sample_memory: str = ""
    """Memory that decoding one sample may ask for, for those that asked for too much; empty is as in the last run."""
    address: str = ""
    """Ray cluster; without it RAY_ADDRESS, else a Ray on this machine."""
    verbose: bool = False
    """Show Ray's own messages."""


def run(config: ReplayConfig) -> int:
    """Replays, revises, prints what became of them. 1 if a sample that was rejected is still in quarantine."""
    store = storage.Folder(config.output)
    known = last_config(store, "caption")
    if known is not None:
        return _captions(config, known, store)
    known = last_config(store, "prepare")
    if known is not None:
        return _prepared(config, known, store)
    raise RequestError(f"{config.output} holds no run of nightcap caption or prepare; name its --output folder")


def _captions(config: ReplayConfig, known: dict[str, Any], store: storage.Folder) -> int:
    job = prepare(_caption_config(config, known), plan=False)
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


def _prepared(config: ReplayConfig, known: dict[str, Any], store: storage.Folder) -> int:
    chain, tokenizer = dict(known["chain"]), f"{config.output.rstrip('/')}/tokenizer"
    if chain["tokens"]["tokenizer"] and storage.is_local(tokenizer):
        chain["tokens"] = {**chain["tokens"], "tokenizer": tokenizer}  # the copy in the folder, wherever the original is by now
    job = plan(restored(PrepareConfig, {**known, "chain": chain, **_given(config)}), archives=False)
    writing = write_config(job)
    writing = replace(writing, prepare=replace(writing.prepare, drop=""))  # a sample that is dropped was never tried
    files = [blob.path for blob in store.list("quarantine") if blob.path.endswith(".parquet")]
    with session(config.address, verbose=config.verbose):
        done: list[Amended] = list(on_ray(amend, ((path, writing) for path in files)))
    attempts.sweep(store, job.run.run_id, all_done=False)
    describe(store, job.run.recipe, job.tokenizer)
    waiting, kept, removed = (sum(getattr(one, name) for one in done) for name in ("waiting", "kept", "removed"))
    left = waiting - kept - removed
    console.print(
        f"{waiting:,} rejected samples in quarantine · {kept:,} have a row now · {removed:,} are removed by filters · {left:,} stay"
    )
    unfinished = sum(one.open for one in done)
    if unfinished:
        console.print(f"{unfinished:,} of {len(files):,} archives have no table yet; nightcap prepare has to finish them first")
    return 1 if left else 0


def _given(config: ReplayConfig) -> dict[str, Any]:
    """What holds in place of the last run's options."""
    given = {"sample_timeout_s": config.sample_timeout_s, "sample_memory": config.sample_memory}
    always = {"output": config.output, "address": config.address, "verbose": config.verbose, "limit": 0, "changed": False, "explain": 0}
    return {**always, **{name: value for name, value in given.items() if value}}


def _caption_config(config: ReplayConfig, known: dict[str, Any]) -> CaptionConfig:
    engine = known["engine"] if isinstance(known.get("engine"), dict) else known
    given = {**known, **_given(config), "engine": {name: engine[name] for name in EngineConfig.__dataclass_fields__ if name in engine}}
    return restored(CaptionConfig, given | ({"decoder": config.decoder} if config.decoder else {}))


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
        revise(job.run.store, stem_of(shard), captions, commit_config(job).metadata, about)
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
                yield from decoder.decode([sample_of(row)])
        finally:
            decoder.close()
