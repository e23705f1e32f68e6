"""`nightcap prepare`: archives in, rows that a trainer consumes out, in Parquet or WebDataset archives.

    read, decode, filter, tokenise, write: one Ray operator, a shard from tar to table inside one task -> receipts

No payload crosses the object store: what comes back are counts. `prepared` gives the same rows as a Ray dataset instead.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any, Literal

import pyarrow as pa
from cyclopts import Parameter

from jobs.cluster import ONE_OPERATOR_CPUS
from jobs.describe import describe
from jobs.display import console
from jobs.explain import explain_filters
from jobs.metrics import CountedBlocks
from jobs.options import ShardOptions, byte_count
from jobs.run import Receipt, Run, Steps, carry_out, plan_run, tasks_of
from pipeline import storage
from pipeline.commit import recipe as recipes
from pipeline.commit.parts import ARCHIVES, PREPARED, folder_of, stem_of, table_path
from pipeline.commit.plan import expand, inputs
from pipeline.commit.prepared import WriteConfig, part_of, tidy, write_shard
from pipeline.commit.stage import Fetch
from pipeline.errors import RequestError
from pipeline.samples.chain import Chain, ChainConfig
from pipeline.samples.chunks import ShardTask
from pipeline.samples.drops import bind_drops, drop_options
from pipeline.samples.filters import resolved
from pipeline.samples.guard import Limits
from pipeline.samples.prepare import Preparation, prepare_shard
from pipeline.samples.source import ShardDatasource
from pipeline.samples.stretch import Span, divide
from pipeline.samples.tokens import Tokenizer

RECIPE_VERSION = 3
"""Raised by hand when the same options would give other rows than before."""
PART_BYTES = 64 << 20
"""Parts that an archive is divided into where there are fewer archives than twice the CPUs; the same whatever their number."""
SLOW_SHARD_S = 900.0
QUARANTINE_MEMBER_BYTES = 16 << 20


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True, slots=True)
class PrepareConfig(ShardOptions):
    """Options of `nightcap prepare`."""

    chain: ChainConfig = ChainConfig()
    """What becomes of a sample."""
    drop: str = ""
    """Output folder of `nightcap dedup`: leave out the copies that it found."""
    explain: int = 0
    """Only show what the filters would remove of EXPLAIN samples, with examples; nothing is written."""
    format: Literal["parquet", "webdataset"] = "parquet"
    """parquet: tables, which nightcap train reads; webdataset: archives of media, txt and json, for other trainers."""
    row_group: str = "32MiB"
    """Size of the row groups: what a writer holds, and what a trainer reads at once."""

    def __post_init__(self) -> None:
        """Raises RequestError for a value that cannot be meant."""
        ShardOptions.__post_init__(self)
        byte_count("--row-group", self.row_group)
        if self.explain < 0:
            raise RequestError(f"--explain {self.explain} cannot be negative; give a number of samples, or 0 for none")

    @property
    def tables(self) -> str:
        """Folder below the output for what is made."""
        return ARCHIVES if self.format == "webdataset" else PREPARED


@dataclass(frozen=True, slots=True)
class Job:
    """A planned run and its tokenizer."""

    config: PrepareConfig
    tokenizer: Tokenizer | None
    run: Run


def run(config: PrepareConfig) -> int:
    """Plans, prepares, describes what stands in the folder. Returns the exit code."""
    if config.explain > 0:
        urls = [blob.path for blob in expand(config.shards)[1]]
        chain = Chain(config.chain, tokenizer_of(config.chain))
        return explain_filters(urls, chain, config.chain.media, config.explain, byte_count("--max-sample-bytes", config.max_sample_bytes))
    job = plan(config)
    try:
        return carry_out(job.run, steps_of(job))
    finally:
        describe(job.run.store, job.run.recipe, job.tokenizer)


def plan(config: PrepareConfig, *, archives: bool = True) -> Job:
    """Everything that can be refused is refused here, before Ray starts. Without `archives` none is looked for."""
    tokenizer = tokenizer_of(config.chain)
    Chain(config.chain, tokenizer)
    if archives:
        drop = drop_options(config.drop) if config.drop else {}
    else:  # a replay, which may have outlived that folder
        drop = (recipes.known(storage.Folder(config.output)) or {}).get("drop", {})
    recipe = recipe_of(config, tokenizer, drop)
    planned = plan_run(config, job="prepare", tables=config.tables, recipe=recipe, plan=archives)
    if config.drop and archives:
        bind_drops(planned.store, config.drop, [(shard.input.shard, shard.input.fingerprint) for shard in planned.plan.open])
    if tokenizer is not None:
        for name, data in tokenizer.files().items():
            planned.store.put(f"tokenizer/{name}", data)
    return Job(config, tokenizer, planned)


def tokenizer_of(chain: ChainConfig) -> Tokenizer | None:
    """The tokenizer that is named, loaded. RequestError where it is none."""
    return Tokenizer.load(chain.tokens.tokenizer) if chain.tokens.tokenizer else None


def recipe_of(config: PrepareConfig, tokenizer: Tokenizer | None, drop: dict[str, Any] | None = None) -> dict[str, Any]:
    """What decides the rows. `drop`: what `dedup` was asked."""
    chain = asdict(replace(config.chain, filters=resolved(config.chain.filters)))
    chain["tokens"]["tokenizer"] = None if tokenizer is None else tokenizer.identity()
    return {"job": "prepare", "recipe_version": RECIPE_VERSION, "tables": config.tables, "drop": drop or {}, **chain}


def steps_of(job: Job) -> Steps:
    """What the skeleton runs for this job."""
    chain = job.config.chain
    named = f"tokenizer {chain.tokens.tokenizer}" if chain.tokens.tokenizer else "no tokenizer"
    return Steps(
        dataset=lambda tasks: dataset(job, tasks),
        sweep=lambda: sweep(job),
        note=f"{', '.join(chain.take)} · {named}",
        record=asdict(job.config),
        tasks=lambda: divided(job, tasks_of(job.run)),
        watch=SlowShards().see,
        cpus=ONE_OPERATOR_CPUS,
    )


def dataset(job: Job, tasks: tuple[ShardTask, ...]) -> Any:
    """The Ray Data plan: one operator."""
    import ray

    context = ray.data.DataContext.get_current()
    before, context.target_max_block_size = context.target_max_block_size, 1  # each receipt by itself, at once
    try:
        source = ShardDatasource(tasks, CountedBlocks(partial(write_shard, config=write_config(job)), "prepare"), "Prepare")
        return ray.data.read_datasource(source, override_num_blocks=len(tasks))
    finally:
        context.target_max_block_size = before


def write_config(job: Job) -> WriteConfig:
    """How this run prepares and writes."""
    config = job.config
    preparation = Preparation(
        chain=config.chain,
        tokenizer=job.tokenizer,
        max_sample_bytes=byte_count("--max-sample-bytes", config.max_sample_bytes),
        limits=config.limits(),
        output=config.output,
        run_id=job.run.run_id,
        drop=config.drop,
    )
    fetch = Fetch(job.run.root, QUARANTINE_MEMBER_BYTES)
    return WriteConfig(
        prepare=preparation,
        output=config.output,
        fetch=fetch,
        metadata=job.run.metadata(),
        tables=config.tables,
        group_bytes=byte_count("--row-group", config.row_group),
    )


def divided(job: Job, tasks: list[ShardTask]) -> list[ShardTask]:
    """The tasks, large plain tars as several where there are fewer tasks than would keep every CPU busy.

    Parts that stand from an earlier run are left out; where all of a shard's do, one task is left, which joins them.
    """
    import ray

    if len(tasks) >= 2 * int(ray.cluster_resources().get("CPU", 1)) or job.config.limit:
        return tasks
    sizes = {shard.input.shard: shard.input.size for shard in job.run.plan.open}
    large = [task for task in tasks if sizes[task.shard] >= 2 * PART_BYTES]
    found = ray.get([ray.remote(divide_archive).remote(task.url, PART_BYTES) for task in large])
    spans: dict[str, tuple[Span, ...]] = {task.shard: parts for task, parts in zip(large, found, strict=True)}
    return [part for task in tasks for part in _parts(job, task, spans.get(task.shard, ()))]


def divide_archive(url: str, part_bytes: int) -> tuple[Span, ...]:
    """The parts of an archive, from its headers."""
    with closing(storage.open_reader(url)) as reader:
        return divide(reader, part_bytes)


def _parts(job: Job, task: ShardTask, spans: tuple[Span, ...]) -> list[ShardTask]:
    if len(spans) < 2:
        return [task]
    there = {blob.path for blob in job.run.store.list(folder_of(stem_of(task.shard), task.fingerprint))}
    parts = [replace(task, todo=None, span=span, siblings=spans) for span in spans]
    return [part for part in parts if part_of(task, part.span or spans[0]) not in there] or parts[-1:]


def sweep(job: Job) -> list[str]:
    """Tidies the output. Nothing is completed here: the task that finds all parts of its shard joins them."""
    store = job.run.store
    done = [shard.input.stem for shard in job.run.plan.open if store.exists(table_path(job.config.tables, shard.input.stem))]
    tidy(store, done, job.run.run_id)
    return []


class SlowShards:
    """Says once when shards take long: a shard that is killed is prepared again as a whole."""

    def __init__(self) -> None:
        self._began: dict[str, float] = {}
        self._said = False

    def see(self, receipt: Receipt) -> None:
        """Takes every receipt."""
        shard, now = receipt["shard"], time.monotonic()
        began = self._began.setdefault(shard, now)
        if receipt["committed"]:
            del self._began[shard]
        if now - began > SLOW_SHARD_S and not self._said:
            self._said = True
            console.print(
                f"{shard} is at work for more than {SLOW_SHARD_S / 60:.0f} minutes; if it is killed, all of that is done again. "
                "Smaller archives (nightcap shard) lose less"
            )


def prepared(shards: str | Sequence[str], chain: ChainConfig = ChainConfig(), *, root: str = "", scratch: str = "", drop: str = "") -> Any:
    """A `ray.data.Dataset` of schema.PREPARED: the rows that `nightcap prepare` would store, in each shard's order.

    Refused samples are left out. `root`: the folder that shard names are relative to. `scratch`: a folder for crash markers,
    which lets a sample that kills its process cost itself alone; without it, it ends the run. RequestError as the command's.
    """
    import ray

    if drop:
        drop_options(drop)
    patterns = (shards,) if isinstance(shards, str) else tuple(shards)
    found_root, blobs = expand(patterns)
    archives = inputs(blobs, root or found_root, PREPARED)
    preparation = Preparation(
        chain=chain, tokenizer=tokenizer_of(chain), limits=Limits(300.0, 4 << 30), output=scratch, run_id="prepared", drop=drop
    )
    tasks = tuple(ShardTask(archive.url, archive.shard, archive.fingerprint) for archive in archives)
    return ray.data.read_datasource(
        ShardDatasource(tasks, partial(_rows, preparation=preparation), "Prepared"), override_num_blocks=len(tasks)
    )


def _rows(task: ShardTask, preparation: Preparation) -> Iterator[pa.Table]:
    for done in prepare_shard(task, preparation):
        if done.table.num_rows or done.end is not None:
            yield done.table
