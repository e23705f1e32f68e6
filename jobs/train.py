"""`nightcap train`: prepared rows in, a multimodal language model out; run again, it goes on inside the epoch.

read + decode (CPU tasks) -> streaming_split -> Ray Train workers -> OUT/checkpoints, OUT/model
"""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from jobs.cluster import session
from jobs.display import console
from jobs.follow import closing_lines, follow, write_record
from jobs.launch import launch
from jobs.report import page_of
from pipeline import storage
from pipeline.commit import recipe as recipes
from pipeline.errors import RequestError, StoppedError
from pipeline.model.build import check_start
from pipeline.model.config import ModelConfig, to_json
from pipeline.model.mix import ObjectiveMix
from pipeline.reports.record import new_run_id
from pipeline.samples.tokens import Tokenizer
from pipeline.training.augment import AugmentConfig
from pipeline.training.checkpoints import FOLDER, Checkpoints, Found
from pipeline.training.corpus import Corpus, description, held_out_once, open_corpus
from pipeline.training.feed import feed_spec
from pipeline.training.kept import check_kept
from pipeline.training.progress import Ranges, count
from pipeline.training.schedule import ScheduleConfig, share_done
from pipeline.training.setup import LoopConfig, Setup, Standing, tokenizer_of
from pipeline.training.step import OptimiserConfig

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
        check_kept(self.loop.keep_features, self.model, self.mix)


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
            launch(setup, store, workers=config.workers, max_failures=config.max_failures, verbose=config.verbose)
        except StoppedError as exc:
            problem = exc
    path = write_record(store, setup, config, problem)
    for line in closing_lines(store, setup.run_id, config.output, path):
        console.print(line, markup=False, soft_wrap=True)
    console.print(f"report {page_of(store, path)}", markup=False, soft_wrap=True)
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
    corpus, tokenizer = open_corpus(config.prepared), tokenizer_of(config.prepared)
    if config.mix.word_dropout > 0 and tokenizer.mask_id is None:
        raise RequestError(f"--word-dropout {config.mix.word_dropout}: the tokenizer of {config.prepared} has no [MASK] token")
    problem = storage.writable(config.output)
    if problem is not None:
        raise RequestError(f"cannot write to --output {config.output}: {problem}")
    model, store = placed(config.model), storage.Folder(_absolute(config.output))
    if recipes.known(store) is None:  # a refused request leaves no recipe behind that would refuse the next
        check_start(model, tokenizer)
    recipes.guard(store, _recipe(config, tokenizer), FOLDER)
    validation, held = _held_out(config, corpus, store)
    universe = corpus.universe({} if config.validation else held)
    rows = sum(count(ranges) for ranges in universe.values())
    if rows < 2:
        raise RequestError(f"{config.prepared} holds {rows} samples to train on; a training needs 2 or more")
    return Setup(
        output=_absolute(config.output),
        run_id=new_run_id(),
        corpus=corpus,
        universe=universe,
        validation=validation,
        held_out=held,
        spec=feed_spec(model),
        tokenizer=tokenizer,
        model=model,
        mix=config.mix,
        optimiser=config.optimiser,
        schedule=config.schedule,
        augmentation=config.augment,
        loop=config.loop,
    )


def _recipe(config: TrainConfig, tokenizer: Tokenizer) -> dict[str, Any]:
    """What decides which model is trained; how long and on how many workers does not stand here."""
    described, identity = description(config.prepared), tokenizer.identity()
    return {
        "job": "train",
        "recipe_version": RECIPE_VERSION,
        **{f"model.{name}": value for name, value in to_json(config.model).items()},
        "tokenizer": f"{tokenizer.vocab_size} tokens, sha256 {identity['sha256']}",
        "special_tokens": identity["roles"],
        **{name: described.get(name) for name in ("picture", "frames", "wave")},
        "objectives": sorted(config.mix.wanted()),
    }


def _held_out(config: TrainConfig, corpus: Corpus, store: storage.Folder) -> tuple[Corpus, dict[str, Ranges]]:
    """Where validation samples lie, and which."""
    most, seed = config.validation_samples, config.loop.seed
    if not config.validation:
        return corpus, held_out_once(store, corpus, config.validation_share, most, seed)
    elsewhere = open_corpus(config.validation)
    if tokenizer_of(config.validation).identity() != tokenizer_of(config.prepared).identity():
        raise RequestError(f"{config.validation} and {config.prepared} were prepared with different tokenizers; use one for both")
    return elsewhere, held_out_once(store, elsewhere, 1.0, most, seed)


def placed(model: ModelConfig) -> ModelConfig:
    """The configuration with absolute paths of what it starts from: workers stand elsewhere. RequestError for a path that leads nowhere."""
    found: dict[str, Any] = {}
    for name in ("backbone_weights", "text_model", "recording_model"):
        value = getattr(model, name)
        path = Path(value).expanduser()
        if value and path.exists():
            found[name] = str(path.absolute())
        elif value.startswith((".", "/", "~")) or value.count("/") > 1:
            raise RequestError(f"--{name.replace('_', '-')} {value}: no such file or folder")
    return replace(model, **found)


def _absolute(url: str) -> str:
    return storage.resolve(url)[1] if storage.is_local(url) else url
