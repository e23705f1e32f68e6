"""`nightcap caption`: archives in, captions in Parquet out.

read + decode (CPU tasks) -> engine (actor pool) -> commit (CPU tasks) -> receipts, counted by run.py
"""

import os
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

from cyclopts import Parameter

from jobs.closing import findings
from jobs.cluster import gpus
from jobs.columns import check_columns
from jobs.counted import CountedStage, counted_commit
from jobs.options import ShardOptions, byte_count
from jobs.run import Chosen, Run, Steps, carry_out, plan_run
from pipeline.captions.choose import chosen as with_engine
from pipeline.captions.corpus import about
from pipeline.captions.engine import EngineConfig, EngineInfo, describe, questions
from pipeline.captions.engine import recipe as engine_recipe
from pipeline.captions.policy import QualityConfig
from pipeline.captions.quality import Flag
from pipeline.captions.stage import StageConfig
from pipeline.commit.parts import CAPTIONS
from pipeline.commit.plan import expand
from pipeline.commit.stage import CommitConfig, Fetch, commit_of
from pipeline.errors import RequestError
from pipeline.samples.chunks import ShardTask
from pipeline.samples.earlier import key_for
from pipeline.samples.source import ReadConfig, ShardDatasource, read_shard

RECIPE_VERSION = 4
"""Raised by hand when the same options would give other captions than before."""
QUARANTINE_MEMBER_BYTES = 16 << 20


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True, slots=True)
class CaptionConfig(ShardOptions):
    """Options of `nightcap caption`."""

    engine: EngineConfig = EngineConfig()
    """What captions."""
    quality: QualityConfig = QualityConfig()
    """What is done about captions with faults."""
    workers: int = 0
    """Engine processes; 0 is one a GPU, or one on a machine without. More use more memory: each loads the model."""
    decoder: str = "default"
    """Own decoder as module:function(data, field, needs), for formats of your own."""

    def __post_init__(self) -> None:
        """Raises RequestError for a value that cannot be meant."""
        ShardOptions.__post_init__(self)
        if self.workers < 0:
            raise RequestError(f"--workers {self.workers} cannot be negative; 0 is automatic")


@dataclass(frozen=True, slots=True)
class Job:
    """A planned run and its engine."""

    config: CaptionConfig
    info: EngineInfo
    run: Run


def run(config: CaptionConfig) -> int:
    """Plans, captions, commits, reports. Returns the exit code."""
    job = prepare(config)
    return carry_out(job.run, steps_of(job))


def prepare(config: CaptionConfig, *, plan: bool = True, chosen: Chosen | None = None) -> Job:
    """Everything that can be refused is refused here, before Ray starts. Without `plan` no archive is looked for."""
    config = replace(config, engine=with_engine(config.engine))
    info = describe(config.engine)
    if config.quality.may_retry and not info.samples:
        wanted = next(flag.value for flag in Flag if config.quality.policy(flag) == "retry")
        raise RequestError(
            f"--on-{wanted} retry: engine {config.engine.engine} cannot be asked at another temperature; give flag or reject"
        )
    templates = questions(config.engine, info).templates
    if plan and any(template.columns for template in templates):
        if chosen is None:
            chosen = Chosen(*expand(config.shards), frozenset())
        check_columns(templates, chosen.blobs if chosen.opens is None else chosen.opens)
    recipe = recipe_of(config, info)
    return Job(config, info, plan_run(config, job="caption", tables=CAPTIONS, recipe=recipe, plan=plan, chosen=chosen))


def recipe_of(config: CaptionConfig, info: EngineInfo) -> dict[str, Any]:
    """What decides the captions, but for the root of the shards' names."""
    return {
        "recipe_version": RECIPE_VERSION,
        "decoder": config.decoder,
        **engine_recipe(config.engine, info),
        "quality": asdict(config.quality),
    }


def steps_of(job: Job) -> Steps:
    """What the skeleton runs for this job."""
    return Steps(
        dataset=lambda tasks: dataset(job, tasks),
        sweep=lambda: commit_of(commit_config(job), _fetch(job)).sweep(),
        note=f"engine {job.config.engine.engine} {job.config.engine.model}",
        findings=lambda tally: findings(job.run.store, tally, (job.config.engine.price_in, job.config.engine.price_out)),
        record={**asdict(job.config), **asdict(job.config.engine)},
        takes_over=takes_over(job),
    )


def takes_over(job: Job) -> tuple[str, ...]:
    """What has to be equal for a caption of a former version of an archive to be taken over."""
    return key_for(column for template in questions(job.config.engine, job.info).templates for column in template.columns)


def dataset(job: Job, tasks: tuple[ShardTask, ...]) -> Any:
    """The Ray Data plan: read and decode, caption, commit."""
    import ray

    rows = ray.data.read_datasource(ShardDatasource(tasks, partial(read_shard, config=read_config(job))), override_num_blocks=len(tasks))
    captions = engine_rows(job, rows)
    commit = (commit_config(job), _fetch(job))
    return captions.map_batches(counted_commit, fn_args=commit, batch_size=None, batch_format="pyarrow", num_cpus=0.25)


def engine_rows(job: Job, rows: Any) -> Any:
    """schema.SAMPLES -> schema.PARTS in a pool of engine actors, on GPUs where there are any."""
    from ray.data import ActorPoolStrategy

    engine = job.config.engine
    devices = gpus() if engine.device == "auto" or engine.device.startswith("cuda") else 0
    micro_batch, asked = engine.micro(job.info.micro_batch), questions(engine, job.info)
    stage = StageConfig(
        engine=replace(engine, model=os.path.abspath(engine.model)) if os.path.exists(engine.model) else engine,
        questions=asked,
        quality=job.config.quality,
        micro_batch=micro_batch,
        output=job.config.output,
        run_id=job.run.run_id,
        limits=job.config.limits(),
        stall_s=job.config.sample_timeout_s * max(1, micro_batch // 4),
    )
    workers = job.config.workers or max(1, devices // job.info.devices)
    return rows.map_batches(
        CountedStage,
        fn_constructor_args=(stage,),
        batch_size=max(1, job.info.rows_per_call // asked.captions),  # so that no block of captions is so large that Ray divides it
        batch_format="pyarrow",
        compute=ActorPoolStrategy(size=workers, max_concurrent_calls_per_actor=2, enable_true_multi_threading=True),
        num_cpus=1,
        num_gpus=job.info.devices if devices else 0,
    )


def read_config(job: Job) -> ReadConfig:
    """How this run reads and decodes."""
    return ReadConfig(
        needs=job.info.needs,
        columns=questions(job.config.engine, job.info).json_columns,
        decoder=job.config.decoder,
        max_sample_bytes=byte_count("--max-sample-bytes", job.config.max_sample_bytes),
        limits=job.config.limits(),
        output=job.config.output,
        run_id=job.run.run_id,
    )


def commit_config(job: Job) -> CommitConfig:
    """How this run commits."""
    return CommitConfig(
        output=job.config.output,
        root=job.run.root,
        captions_per_sample=questions(job.config.engine, job.info).captions,
        metadata=job.run.metadata(),
        about=about,
    )


def _fetch(job: Job) -> Fetch:
    return Fetch(job.run.root, QUARANTINE_MEMBER_BYTES)
