"""`nightcap caption`: archives in, captions in Parquet out.

    read + decode (CPU tasks) -> engine (actor pool) -> commit (CPU tasks) -> receipts, counted here

Storage is the truth: the plan asks it what is left, and the end asks it again what is done.
"""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from typing import Annotated, Any

from cyclopts import Parameter

from jobs.cluster import gpus, session
from jobs.display import closing_table, console, meter
from jobs.options import byte_count
from pipeline import attempts, storage
from pipeline.captions.engine import EngineConfig, EngineInfo, describe
from pipeline.captions.engine import recipe as engine_recipe
from pipeline.captions.stage import CaptionStage, StageConfig
from pipeline.commit import recipe as recipes
from pipeline.commit.budget import Budget
from pipeline.commit.plan import OpenShard, Plan, expand, inputs, make_plan
from pipeline.commit.stage import CommitConfig, Fetch, commit_block, commit_of
from pipeline.errors import RequestError, StoppedError
from pipeline.reports.record import new_run_id, versions, write_record
from pipeline.reports.tally import Tally
from pipeline.samples.group import count_samples
from pipeline.samples.guard import Limits
from pipeline.samples.source import ReadConfig, ShardDatasource, ShardTask, stop_flag

RECIPE_VERSION = 1
"""Raised by hand when the same options would give other captions than before."""
WAVE = 5_000
"""Open shards in one Ray execution, so that its start and the driver's memory stay bounded."""
QUARANTINE_MEMBER_BYTES = 16 << 20


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True, slots=True)
class CaptionConfig:
    """Options of `nightcap caption`."""

    shards: Annotated[tuple[str, ...], Parameter(negative=())] = field(kw_only=False)
    """Archives: globs (**/*.tar), brace patterns ({00000..00099}.tar), folders, list files (@shards.txt), or URLs."""
    output: Annotated[str, Parameter(alias="-o")]
    """Folder for the results; it holds one recipe. Run again with the same folder to continue."""
    engine: EngineConfig
    """What captions."""
    workers: int = 0
    """Engine processes; 0 is one a GPU, or one on a machine without. More use more memory: each loads the model."""
    limit: int = 0
    """Only the first LIMIT samples, for trying out; 0 is all. What was done counts when the whole is run later."""
    max_rejects: str = "5%"
    """Rejected samples above which the run stops: a share such as 5%, checked after 200 samples, or a count."""
    max_sample_bytes: str = "512MiB"
    """A sample above this size is rejected and never buffered."""
    sample_timeout_s: float = 300.0
    """Seconds for one sample to decode, and for one engine call; longer counts as hung. Too low rejects long media."""
    sample_memory: str = "4GiB"
    """Memory that decoding one sample may ask for."""
    decoder: str = "default"
    """Own decoder as module:function(data, field, needs), for formats of your own."""
    changed: bool = False
    """Redo shards whose archive is newer than its captions; without it they are only reported."""
    address: str = ""
    """Ray cluster; without it RAY_ADDRESS, else a Ray on this machine."""
    verbose: bool = False
    """Show Ray's own messages."""

    def __post_init__(self) -> None:
        if not self.shards:
            raise RequestError("no shards given; name a folder, a glob or a list file: nightcap caption 'data/*.tar' --output captions ...")
        if self.workers < 0 or self.limit < 0:
            raise RequestError(f"--workers {self.workers} and --limit {self.limit} cannot be negative; 0 is automatic, or no limit")
        if not 0 < self.sample_timeout_s < float("inf"):
            raise RequestError(f"--sample-timeout-s is {self.sample_timeout_s}; give seconds above 0")
        byte_count("--max-sample-bytes", self.max_sample_bytes)
        byte_count("--sample-memory", self.sample_memory)
        Budget.parse(self.max_rejects)


@dataclass(slots=True)
class Job:
    """What a run knows once it is planned."""

    config: CaptionConfig
    info: EngineInfo
    root: str
    recipe: dict[str, Any]
    run_id: str
    store: storage.Folder
    plan: Plan
    tally: Tally


def run(config: CaptionConfig) -> int:
    """Plans, captions, commits, reports. Returns the exit code."""
    job = prepare(config)
    _announce(job)
    if not job.plan.open:
        return _finish(job, None)
    with session(config.address, verbose=config.verbose):
        problem = None
        try:
            _execute(job)
        except StoppedError as exc:
            problem = exc
        return _finish(job, problem)


def prepare(config: CaptionConfig, *, plan: bool = True) -> Job:
    """Everything that can be refused is refused here, before Ray starts. Without `plan` no archive is looked for."""
    info = describe(config.engine)
    found_root, blobs = expand(config.shards) if plan else ("", [])
    problem = storage.writable(config.output)
    if problem is not None:
        raise RequestError(f"cannot write to --output {config.output}: {problem}")
    store = storage.Folder(config.output)
    root = recipes.root_of(store) or found_root
    recipe = recipes.guard(
        store, {"recipe_version": RECIPE_VERSION, "root": root, "decoder": config.decoder, **engine_recipe(config.engine, info)}
    )
    planned = make_plan(inputs(blobs, root), store, changed=config.changed)
    return Job(config, info, root, recipe, new_run_id(), store, planned, Tally())


def _announce(job: Job) -> None:
    plan = job.plan
    console.print(
        f"{plan.done + len(plan.open):,} shards · {plan.done:,} done · {len(plan.open):,} to do · engine {job.config.engine.engine} {job.config.engine.model}"
    )
    if plan.newer:
        console.print(f"{len(plan.newer):,} archives are newer than their captions, {plan.newer[0]} first; --changed redoes them")


def tasks_of(job: Job) -> list[ShardTask]:
    """One task an open shard; with --limit, as many samples as it allows, in the order of the shards."""
    suspects = attempts.suspects(job.store, job.run_id)
    left = job.config.limit
    tasks = []
    for shard in job.plan.open:
        stop_after = None
        if job.config.limit:
            if left <= 0:
                break
            count = _count(shard, left)
            stop_after, left = left if count >= left else None, left - count
        given = shard.input
        tasks.append(ShardTask(given.url, given.shard, given.fingerprint, shard.todo, suspects.get(given.shard, ()), stop_after))
    return tasks


def _count(shard: OpenShard, limit: int) -> int:
    reader = storage.open_reader(shard.input.url)
    try:
        return count_samples(reader, limit=limit)
    finally:
        reader.close()


def _execute(job: Job) -> None:
    budget = Budget.parse(job.config.max_rejects)
    tasks = tasks_of(job)
    with meter(len(tasks)) as display:
        for start in range(0, len(tasks), WAVE):
            for receipt in _receipts(job, tuple(tasks[start : start + WAVE])):
                job.tally.add(receipt)
                display.show(job.tally)
                if budget.exceeded(job.tally.samples, job.tally.rejected):
                    with suppress(OSError):
                        job.store.put(stop_flag(job.run_id), b"")
            if budget.exceeded(job.tally.samples, job.tally.rejected, final=start + WAVE >= len(tasks)):
                raise StoppedError(_over_budget(job))


def _over_budget(job: Job) -> str:
    tally = job.tally
    reasons = "; ".join(
        f"{reason} {count:,} ({', '.join(f'{shard}:{key}' for shard, key, _ in tally.examples.get(reason, []))})"
        for reason, count in tally.reasons()[:3]
    )
    return (
        f"{tally.rejected:,} of {tally.samples:,} samples were rejected, more than --max-rejects {job.config.max_rejects} allows: {reasons}. "
        f"See {job.config.output}/quarantine; raise --max-rejects to go on"
    )


def _receipts(job: Job, tasks: tuple[ShardTask, ...]) -> Iterator[dict[str, Any]]:
    """The executed plan: read and decode, caption, commit."""
    from ray.exceptions import RayError, RayTaskError

    try:
        for batch in dataset(job, tasks).iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
            yield from batch.to_pylist()
    except RayTaskError as exc:
        cause = exc.cause if isinstance(exc.cause, BaseException) else exc
        if isinstance(cause, StoppedError | RequestError):
            raise StoppedError(str(cause)) from exc
        if job.config.verbose or not isinstance(cause, OSError):
            raise
        raise StoppedError(f"storage failed: {cause}; run the same command again to continue") from exc
    except RayError as exc:
        raise StoppedError(f"Ray stopped the run: {str(exc).strip().splitlines()[-1]}; run the same command again to continue") from exc


def dataset(job: Job, tasks: tuple[ShardTask, ...]) -> Any:
    """The Ray Data plan: read and decode, caption, commit."""
    import ray

    rows = ray.data.read_datasource(ShardDatasource(tasks, read_config(job)), override_num_blocks=len(tasks))
    captions = engine_rows(job, rows)
    commit = (commit_config(job), _fetch(job))
    return captions.map_batches(commit_block, fn_args=commit, batch_size=None, batch_format="pyarrow", num_cpus=0.25)


def engine_rows(job: Job, rows: Any) -> Any:
    """schema.SAMPLES -> schema.PARTS in a pool of engine actors, on GPUs where there are any."""
    from ray.data import ActorPoolStrategy

    engine = job.config.engine
    devices = gpus() if engine.device == "auto" or engine.device.startswith("cuda") else 0
    micro_batch = engine.batch_size or job.info.micro_batch
    stage = StageConfig(
        engine=engine,
        micro_batch=micro_batch,
        output=job.config.output,
        run_id=job.run_id,
        limits=_limits(job.config),
        stall_s=job.config.sample_timeout_s * max(1, micro_batch // 4),
    )
    workers = job.config.workers or max(1, devices)
    return rows.map_batches(
        CaptionStage,
        fn_constructor_args=(stage,),
        batch_size=job.info.rows_per_call,
        batch_format="pyarrow",
        compute=ActorPoolStrategy(size=workers, max_concurrent_calls_per_actor=3, enable_true_multi_threading=True),
        num_cpus=1,
        num_gpus=1 if devices else 0,
    )


def read_config(job: Job) -> ReadConfig:
    """How this run reads and decodes."""
    return ReadConfig(
        needs=job.info.needs,
        decoder=job.config.decoder,
        max_sample_bytes=byte_count("--max-sample-bytes", job.config.max_sample_bytes),
        limits=_limits(job.config),
        output=job.config.output,
        run_id=job.run_id,
    )


def _limits(config: CaptionConfig) -> Limits:
    return Limits(config.sample_timeout_s, byte_count("--sample-memory", config.sample_memory))


def commit_config(job: Job) -> CommitConfig:
    """How this run commits."""
    metadata = {"nightcap.run_id": job.run_id, **{f"nightcap.version.{name}": value for name, value in versions().items()}}
    return CommitConfig(output=job.config.output, root=job.root, captions_per_sample=1, metadata=metadata)


def _fetch(job: Job) -> Fetch:
    return Fetch(job.root, QUARANTINE_MEMBER_BYTES)


def _finish(job: Job, problem: StoppedError | None) -> int:
    """Sweeps, asks storage what is done, writes the record, prints the account."""
    repaired: list[str] = []
    if problem is None:
        repaired = commit_of(commit_config(job), _fetch(job)).sweep()
    left = make_plan([shard.input for shard in job.plan.open], job.store).open
    attempts.sweep(job.store, job.run_id, all_done=not left)
    job.store.delete(stop_flag(job.run_id))
    unfinished = bool(left) and not job.config.limit
    outcome = {"shards_left": len(left), "shards_repaired": len(repaired), "stopped": str(problem) if problem else None}
    config = {**asdict(job.config), **asdict(job.config.engine)}
    path = write_record(job.store, job.run_id, job="caption", config=config, recipe=job.recipe, tally=job.tally, outcome=outcome)
    console.print(closing_table(job.tally, f"run {job.run_id}"))
    console.print(
        f"captions   {job.config.output}/captions   quarantine {job.config.output}/quarantine   record {job.config.output}/{path}"
    )
    if problem is not None:
        raise problem
    if unfinished:
        names = ", ".join(shard.input.shard for shard in left[:3])
        raise StoppedError(f"{len(left):,} shards are not committed ({names}); transient failures are redone by the same command")
    return 0
