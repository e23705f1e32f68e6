"""`nightcap train`: prepared rows in, a multimodal language model out; run again, it goes on inside the epoch.

read + decode (CPU tasks) -> streaming_split -> Ray Train workers -> OUT/checkpoints, OUT/model
"""

from dataclasses import dataclass, field
from typing import Annotated, Any

from cyclopts import Parameter

from jobs.cluster import gpus, session
from jobs.display import console
from jobs.follow import closing_lines, follow, write_record
from pipeline import storage
from pipeline.commit import recipe as recipes
from pipeline.errors import RequestError, StoppedError
from pipeline.model.config import ModelConfig, to_json
from pipeline.model.mix import ObjectiveMix
from pipeline.reports.record import new_run_id
from pipeline.training.augment import AugmentConfig
from pipeline.training.checkpoints import FOLDER, Checkpoints, Found
from pipeline.training.corpus import description, held_out_once, open_corpus
from pipeline.training.feed import FeedSpec
from pipeline.training.progress import count
from pipeline.training.schedule import ScheduleConfig, share_done
from pipeline.training.setup import LoopConfig, Setup, Standing, tokenizer_of
from pipeline.training.step import OptimiserConfig
from pipeline.training.world import cores

RECIPE_VERSION = 1
"""Raised by hand when the same options would train another model than before."""


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True, slots=True)
class TrainConfig:
    """Options of `nightcap train`."""

    prepared: Annotated[str, Parameter(negative=())] = field(kw_only=False)
    """Folder that nightcap prepare wrote, with a tokenizer."""
    output: Annotated[str, Parameter(alias="-o")]
    """Folder for checkpoints and the model; it holds one training. Run again with the same folder to continue."""
    validation: str = ""
    """Another prepared folder to validate on; without it a share of PREPARED is kept for that."""
    validation_share: float = 0.02
    """Share of PREPARED that is never trained on; 0 validates on nothing."""
    validation_samples: int = 512
    """Most samples to validate on; more tell finer and take longer."""
    workers: int = 0
    """Training processes; 0 is one a GPU, or one on machines without."""
    max_failures: int = 3
    """How often training starts again by itself after a worker died."""
    model: ModelConfig = ModelConfig()
    """What is trained."""
    mix: ObjectiveMix = ObjectiveMix()
    """What it learns from."""
    optimiser: OptimiserConfig = OptimiserConfig()
    """How weights move."""
    schedule: ScheduleConfig = ScheduleConfig()
    """How long, and the learning rate over that."""
    loop: LoopConfig = LoopConfig()
    """How it is carried out."""
    augment: AugmentConfig = AugmentConfig()
    """How media are changed."""
    address: str = ""
    """Ray cluster; without it RAY_ADDRESS, else a Ray on this machine."""
    verbose: bool = False
    """Show Ray's own messages."""

    def __post_init__(self) -> None:
        """Raises RequestError for a value that cannot be meant."""
        if self.workers < 0 or self.max_failures < 0 or self.validation_samples < 0:
            raise RequestError("--workers, --max-failures and --validation-samples cannot be negative")
        if not 0 <= self.validation_share < 1:
            raise RequestError(f"--validation-share {self.validation_share}: give a share, 0 to below 1")
        self.mix.check(self.model)


def run(config: TrainConfig) -> int:
    """Plans, trains, reports. Returns the exit code."""
    setup, store = plan(config), storage.Folder(config.output)
    checkpoints = Checkpoints(store, config.loop.keep)
    checkpoints.sweep()
    found = checkpoints.latest(lambda text: console.print(text, markup=False, soft_wrap=True))
    rows = sum(count(ranges) for ranges in setup.universe.values())
    if found is not None and _finished(found, setup, rows):
        console.print(f"{config.output} is trained: see {config.output}/model. Longer: raise --epochs, --max-steps or --max-minutes")
        return 0
    console.print(f"{rows:,} samples · {_held(setup):,} to validate on · {_start(found)}", markup=False, soft_wrap=True)
    problem: StoppedError | None = None
    with session(config.address, verbose=config.verbose), follow(store, setup.run_id):
        try:
            _train(config, setup, store)
        except StoppedError as exc:
            problem = exc
    path = write_record(store, setup, config, problem)
    for line in closing_lines(store, setup.run_id, config.output, path):
        console.print(line, markup=False, soft_wrap=True)
    if problem is not None:
        raise problem
    return 0


def _finished(found: Found, setup: Setup, rows: int) -> bool:
    standing = Standing.from_json(found.state)
    return standing.ended or share_done(standing.spent, setup.schedule, rows) >= 1


def _start(found: Found | None) -> str:
    return "from the beginning" if found is None else f"going on after step {found.state['spent']['steps']:,} ({FOLDER}/{found.name})"


def _held(setup: Setup) -> int:
    return sum(count(ranges) for ranges in setup.held_out.values())


def plan(config: TrainConfig) -> Setup:
    """Everything that can be refused is refused here, before Ray starts."""
    described = description(config.prepared)
    corpus, tokenizer = open_corpus(config.prepared), tokenizer_of(config.prepared)
    problem = storage.writable(config.output)
    if problem is not None:
        raise RequestError(f"cannot write to --output {config.output}: {problem}")
    store = storage.Folder(config.output)
    recipe = {
        "job": "train",
        "recipe_version": RECIPE_VERSION,
        "model": to_json(config.model),
        "tokenizer": tokenizer.identity(),
        **{name: described.get(name) for name in ("picture", "frames", "wave")},
        "objectives": sorted(config.mix.wanted()),
    }
    recipes.guard(store, recipe, FOLDER)
    if config.validation:
        elsewhere = open_corpus(config.validation)
        if tokenizer_of(config.validation).identity() != tokenizer.identity():
            raise RequestError(f"{config.validation} and {config.prepared} were prepared with different tokenizers; use one for both")
        share = config.validation_samples / max(1, elsewhere.rows)
        held, universe = held_out_once(store, elsewhere, share, config.validation_samples, config.loop.seed), corpus.universe({})
    else:
        elsewhere = corpus
        held = held_out_once(store, corpus, config.validation_share, config.validation_samples, config.loop.seed)
        universe = corpus.universe(held)
    rows = sum(count(ranges) for ranges in universe.values())
    if rows < 2:
        raise RequestError(f"{config.prepared} holds {rows} samples to train on; a training needs 2 or more")
    model = config.model
    spec = FeedSpec(
        px=model.input_px,
        fit=model.fit,
        modalities=model.modalities,
        sample_rate_hz=model.sample_rate_hz,
        max_recording_s=model.max_recording_s,
        max_frames=model.max_frames,
        max_tokens=model.max_tokens,
    )
    return Setup(
        output=config.output,
        run_id=new_run_id(),
        corpus=corpus,
        universe=universe,
        validation=elsewhere,
        held_out=held,
        spec=spec,
        tokenizer=tokenizer,
        model=model,
        mix=config.mix,
        optimiser=config.optimiser,
        schedule=config.schedule,
        augmentation=config.augment,
        loop=config.loop,
    )


def _train(config: TrainConfig, setup: Setup, store: storage.Folder) -> None:
    """The executed training. StoppedError where it could not end."""
    from ray.train import FailureConfig, RunConfig
    from ray.train.torch import TorchTrainer
    from ray.train.v2.api.exceptions import TrainingFailedError

    from pipeline.training.source import FeedPlan, training_data
    from pipeline.training.worker import read_stop, work

    scaling = _scaling(config)
    feed = FeedPlan(
        output=setup.output,
        run_id=setup.run_id,
        corpus=setup.corpus,
        universe=setup.universe,
        spec=setup.spec,
        seed=setup.loop.seed,
        epochs=setup.epochs,
    )
    filesystem, path = storage.resolve(f"{config.output}/runs/{setup.run_id}/ray")
    trainer = TorchTrainer(
        work,
        train_loop_config={"setup": setup},
        scaling_config=scaling,
        run_config=RunConfig(
            name="train", storage_path=path, storage_filesystem=filesystem, failure_config=FailureConfig(max_failures=config.max_failures)
        ),
        datasets={"train": training_data(feed, config.loop.keep, None if scaling.use_gpu else max(1, cores() // 2))},
    )
    failure: BaseException | None = None
    try:
        trainer.fit()
    except TrainingFailedError as exc:
        failure = exc
    stopped = read_stop(store, setup.run_id)
    if stopped is not None:
        raise StoppedError(stopped)
    if failure is not None:
        if config.verbose:
            raise failure
        lines = [line for line in str(failure).strip().splitlines() if line.strip()]
        raise StoppedError(f"training failed: {lines[-1].strip()}; run the same command again to continue") from failure


def _scaling(config: TrainConfig) -> Any:
    """Workers and what each reserves: on CPUs at most half of the logical ones, so that reading always gets its share."""
    import ray
    from ray.train import ScalingConfig

    devices, cpus = gpus(), int(ray.cluster_resources().get("CPU", 1))
    workers = config.workers or max(1, devices)
    if devices:
        if workers > devices:
            raise RequestError(f"--workers {workers}: there are {devices} GPUs; give at most that many")
        return ScalingConfig(num_workers=workers, use_gpu=True)
    most = cores() if len(ray.nodes()) == 1 else cpus
    if workers > most:
        raise RequestError(f"--workers {workers}: there are {most} CPUs; give at most that many")
    return ScalingConfig(num_workers=workers, resources_per_worker={"CPU": min(1.0, cpus / 2 / workers)})
