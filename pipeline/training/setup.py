"""What every worker of a run is told, and what it makes of it before the first step: model, optimiser, where to begin."""

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from cyclopts import Parameter

from pipeline.errors import RequestError
from pipeline.model.build import build
from pipeline.model.config import ModelConfig
from pipeline.model.folder import CONFIG, WEIGHTS, config_json, load, weights_of
from pipeline.model.mix import ObjectiveMix
from pipeline.samples.tokens import Tokenizer
from pipeline.storage import Folder
from pipeline.training.augment import AugmentConfig
from pipeline.training.checkpoints import OPTIMISER, Checkpoints
from pipeline.training.corpus import Corpus
from pipeline.training.feed import FeedSpec
from pipeline.training.precision import Wish
from pipeline.training.progress import Progress, Ranges
from pipeline.training.schedule import ScheduleConfig, Spent
from pipeline.training.step import OptimiserConfig


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True, slots=True)
class LoopConfig:
    """How a training is carried out."""

    batch_size: int = 32
    """Samples of a micro-batch of one worker; larger uses the device better and needs more memory."""
    accumulate: int = 1
    """Micro-batches of one step; larger stands for larger batches where memory is short."""
    precision: Wish = "auto"
    """float32, bfloat16, or auto: what a few steps at the start show to be faster, part by part."""
    keep_features: int = 0
    """Versions of each changed picture whose features a wholly frozen encoder keeps: later epochs use them again and cost no encoder
    pass; more vary more. 0 computes every picture anew."""
    keep_features_mib: int = 1024
    """Memory of a worker for that; what does not fit is computed anew."""
    keep_features_share: float = 1.0
    """Share of the training after which no further version is begun; 0.4 leaves a slow machine time to train on those that it made."""
    seed: int = 0
    """Of weights, order and all randomness of samples."""
    validations: int = 4
    """Validations, evenly over the run, the last at its end; 0 is none."""
    patience: int = 0
    """Validations without a better one after which training ends early; 0 never does."""
    checkpoint_minutes: float = 2.0
    """Minutes between checkpoints; what a crash costs at most, beside the steps in flight."""
    checkpoint_steps: int = 0
    """A checkpoint also after so many steps; 0 is none for this reason."""
    keep: int = 2
    """Checkpoints that are kept, beside the best one."""
    tensorboard: bool = False
    """Also write event files for TensorBoard (on a disk only)."""

    def __post_init__(self) -> None:
        """Raises RequestError for values out of range."""
        for name, low in (
            ("batch_size", 1),
            ("accumulate", 1),
            ("keep", 1),
            ("validations", 0),
            ("patience", 0),
            ("checkpoint_steps", 0),
            ("keep_features", 0),
        ):
            if getattr(self, name) < low:
                raise RequestError(f"{name} is {getattr(self, name)}; give {low} or more")
        if not 0 < self.keep_features_share <= 1:
            raise RequestError(f"keep_features_share is {self.keep_features_share}; give a share above 0, at most 1")
        if not self.checkpoint_minutes > 0:
            raise RequestError(f"checkpoint_minutes is {self.checkpoint_minutes}; give minutes above 0")


@dataclass(frozen=True, kw_only=True, slots=True)
class Setup:
    """What a run is. Travels to every worker."""

    output: str
    run_id: str
    corpus: Corpus
    universe: Mapping[str, Ranges]
    """Rows of an epoch, by file."""
    validation: Corpus
    """Where validation samples lie: the same corpus, or one of their own."""
    held_out: Mapping[str, Ranges]
    spec: FeedSpec
    tokenizer: Tokenizer
    model: ModelConfig
    mix: ObjectiveMix
    optimiser: OptimiserConfig
    schedule: ScheduleConfig
    augmentation: AugmentConfig
    loop: LoopConfig

    @property
    def epochs(self) -> int:
        """Epochs that the feed may go through: without a bound more than any clock allows."""
        return self.schedule.epochs or 1_000_000


@dataclass(slots=True)
class Standing:
    """Where a training stands: what a checkpoint keeps beside weights and optimiser."""

    spent: Spent
    progress: Progress
    best_score: float | None = None
    """Least validation score so far."""
    best: str | None = None
    """Its checkpoint."""
    worse: int = 0
    """Validations since."""
    ended: bool = False
    """Training ended early, by `patience`."""

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        spent = self.spent
        return {
            "spent": {"steps": spent.steps, "samples": spent.samples, "seconds": spent.seconds},
            "progress": self.progress.to_json(),
            "best_score": self.best_score,
            "best": self.best,
            "worse": self.worse,
            "ended": self.ended,
        }

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "Standing":
        """What `to_json` gave."""
        rest = {name: values[name] for name in ("best_score", "best", "worse", "ended")}
        return cls(Spent(**values["spent"]), Progress.from_json(values["progress"]), **rest)


def tokenizer_of(prepared: str) -> Tokenizer:
    """The tokenizer that a prepared folder's texts went through. RequestError where they went through none."""
    store = Folder(prepared)
    with tempfile.TemporaryDirectory(prefix="nightcap-tokenizer-") as folder:
        for blob in store.list("tokenizer"):
            (Path(folder) / Path(blob.path).name).write_bytes(store.get(blob.path))
        if not (Path(folder) / "tokenizer.json").is_file():
            raise RequestError(f"{prepared} holds no tokenizer: its texts are no token ids; run nightcap prepare with --tokenizer")
        return Tokenizer.load(folder)


def start_model(setup: Setup, checkpoint: str | None) -> Any:
    """The model in training mode, on the CPU: built with the run's seed, or with a checkpoint's weights."""
    with tempfile.TemporaryDirectory(prefix="nightcap-start-") as folder:
        if checkpoint is None:
            setup.tokenizer.save(folder)
            torch.manual_seed(setup.loop.seed)
            return build(setup.model, folder)
        model = load(Checkpoints(Folder(setup.output), 1).fetch(checkpoint, Path(folder))).model
    return model.train()


def make_optimiser(model: Any, config: OptimiserConfig) -> torch.optim.AdamW:
    """AdamW over the model's groups; each remembers its full learning rate as `full_lr`."""
    groups = model.param_groups(config.learning_rate, config.weight_decay)
    for group in groups:
        group["full_lr"] = group["lr"]
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=(config.beta1, config.beta2), fused=True)


def resume_optimiser(optimiser: torch.optim.Optimizer, output: str, checkpoint: str) -> None:
    """Puts a checkpoint's moments back; parameters are matched by their order, which the model's folder fixes."""
    from safetensors.torch import load_file

    with tempfile.TemporaryDirectory(prefix="nightcap-resume-") as folder:
        tensors = load_file(Checkpoints(Folder(output), 1).fetch(checkpoint, Path(folder)) / OPTIMISER)
    state: dict[int, dict[str, torch.Tensor]] = {}
    for name, tensor in tensors.items():
        number, field = name.split(".", 1)
        state.setdefault(int(number), {})[field] = tensor
    optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})


class Snapshot:
    """Weights and moments at one moment, copied to the CPU: what a writer's thread may take its time with."""

    def __init__(self, model: Any, optimiser: torch.optim.Optimizer, tokenizer: Tokenizer) -> None:
        self._weights = {name: tensor.clone() for name, tensor in weights_of(model).items()}
        self._config, self._tokenizer = config_json(model), tokenizer
        self._moments = {
            f"{number}.{field}": tensor.detach().cpu().clone()
            for number, fields in optimiser.state_dict()["state"].items()
            for field, tensor in fields.items()
        }

    def write(self, folder: Path) -> None:
        """The model's own folder, and the optimiser beside it."""
        from safetensors.torch import save_file

        self._tokenizer.save(folder)
        save_file(self._weights, folder / WEIGHTS)
        save_file(self._moments, folder / OPTIMISER)
        (folder / CONFIG).write_text(self._config)
