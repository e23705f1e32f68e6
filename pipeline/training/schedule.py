"""How far a run is, and the learning rate there: linear warm-up, then a cosine down to a floor.

A run may be bounded by epochs, steps and minutes at once: the bound that is nearest counts. Samples and minutes spent are kept in
the checkpoint, so that a resumed run goes on along the same curve, also with another number of workers.
"""

import math
from dataclasses import dataclass

from cyclopts import Parameter

from pipeline.errors import RequestError


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True, slots=True)
class ScheduleConfig:
    """When training ends, and the learning rate until then."""

    epochs: int = 1
    """Passes over the data; 0 is no bound."""
    max_steps: int = 0
    """Steps of the optimiser; 0 is no bound."""
    max_minutes: float = 0.0
    """Minutes of training, start-up and earlier attempts' lost work not counted; 0 is no bound."""
    warmup: float = 0.08
    """Share of the run in which the learning rate rises to its full value."""
    floor: float = 0.01
    """Share of the learning rate that is left at the end."""

    def __post_init__(self) -> None:
        """Raises RequestError for values without an end or out of range."""
        if min(self.epochs, self.max_steps, self.max_minutes) < 0:
            raise RequestError("epochs, max_steps and max_minutes cannot be negative; 0 is no bound")
        if not (self.epochs or self.max_steps or self.max_minutes):
            raise RequestError("the training has no end: give --epochs, --max-steps or --max-minutes")
        if not (0 <= self.warmup < 1 and 0 <= self.floor <= 1):
            raise RequestError(f"warmup {self.warmup} and floor {self.floor}: give shares, 0 to 1")


@dataclass(slots=True)
class Spent:
    """What a run has used up, over all its attempts."""

    steps: int = 0
    samples: int = 0
    seconds: float = 0.0
    """Of training: stepping, validation and checkpoints."""


def share_done(spent: Spent, config: ScheduleConfig, rows: int) -> float:
    """How much of the run is done, 0 to 1, by the nearest bound; `rows` are the samples of an epoch."""
    shares = [0.0]
    if config.epochs:
        shares.append(spent.samples / max(1, rows * config.epochs))
    if config.max_steps:
        shares.append(spent.steps / config.max_steps)
    if config.max_minutes:
        shares.append(spent.seconds / (60 * config.max_minutes))
    return min(1.0, max(shares))


def learning_rate_share(done: float, config: ScheduleConfig) -> float:
    """Share of the full learning rate at `done`."""
    if done < config.warmup:
        return max(done / config.warmup, 1e-3)
    cosine = 0.5 * (1 + math.cos(math.pi * (done - config.warmup) / (1 - config.warmup)))
    return config.floor + (1 - config.floor) * cosine
