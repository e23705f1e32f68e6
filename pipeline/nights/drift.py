"""Tonight against the nights before: does anything look unlike them? Pure.

Each figure is compared with the median of earlier nights that had enough samples to mean something. An alarm needs two
things: the threshold that was asked for is passed, and chance alone (three standard errors) does not explain it, so that a
night with few samples cries no wolf.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from pipeline.errors import RequestError

CHANCE = 3.0
"""Standard errors that chance is granted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DriftConfig:
    """When a night counts as unlike the ones before. 0 switches an alarm off."""

    nights: int = 14
    """Nights before that are compared with, the latest ones."""
    after: int = 3
    """Earlier nights that have to be there before anything is compared."""
    min_samples: int = 200
    """Samples below which a night is compared with nothing, and nothing with it."""
    rejects: float = 0.02
    """Rise of the share of rejected samples: 0.02 is two in a hundred more."""
    length: float = 0.25
    """Change of the mean caption length in characters, as a share of it."""
    duplicates: float = 0.05
    """Rise of the share of captions that occur more than once."""
    speed: float = 0.5
    """Loss of samples a second, as a share of it."""
    removed: float = 0.1
    """Share of the archives that are gone since."""

    def __post_init__(self) -> None:
        for name in ("rejects", "length", "duplicates", "speed", "removed"):
            if not 0 <= getattr(self, name) < math.inf:
                raise RequestError(f"--drift.{name} is {getattr(self, name)}; give a share such as 0.05, or 0 for no alarm")
        for name in ("nights", "after", "min_samples"):
            if getattr(self, name) < 1:
                raise RequestError(f"--drift.{name.replace('_', '-')} is {getattr(self, name)}; it must be 1 or more")


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """One night in numbers. None where a night has nothing to measure it by."""

    samples: int = 0
    """That were looked at, rejected ones included."""
    rejected: float | None = None
    """Share of them."""
    length: float | None = None
    """Mean characters of a caption."""
    length_error: float = 0.0
    """Standard error of that mean."""
    captions: int = 0
    """That length and duplicates were taken from."""
    duplicates: float | None = None
    """Share of captions that occur more than once."""
    samples_per_s: float | None = None
    """From the first result on; captions that were taken over do not count."""
    removed: float | None = None
    """Share of the archives known before that are gone."""


@dataclass(frozen=True, slots=True)
class Alarm:
    """One figure that is unlike the nights before."""

    name: str
    value: float
    usual: float
    limit: float
    sentence: str
    """For a person."""


def alarms(tonight: Figures, before: Sequence[Figures], config: DriftConfig) -> list[Alarm]:
    """What is unlike the nights before, in a fixed order. `before`: oldest first."""
    found = []
    if config.removed and tonight.removed is not None and tonight.removed > config.removed:
        found.append(
            Alarm("removed", tonight.removed, 0.0, config.removed, f"{tonight.removed:.1%} of the archives that were known are gone")
        )
    usual = [night for night in before[-config.nights :] if night.samples >= config.min_samples]
    if tonight.samples < config.min_samples or len(usual) < config.after:
        return found
    checks = (
        _share("rejected", tonight, usual, config.rejects, tonight.samples, "of the samples were rejected"),
        _length(tonight, usual, config.length),
        _share("duplicates", tonight, usual, config.duplicates, tonight.captions, "of the captions occur more than once"),
        _speed(tonight, usual, config.speed),
    )
    return found + [alarm for alarm in checks if alarm is not None]


def _usual(name: str, nights: Sequence[Figures]) -> float | None:
    values = [getattr(night, name) for night in nights if getattr(night, name) is not None]
    return float(median(values)) if values else None


def _share(name: str, tonight: Figures, before: Sequence[Figures], limit: float, count: int, words: str) -> Alarm | None:
    value, usual = getattr(tonight, name), _usual(name, before)
    if not limit or value is None or usual is None or not count:
        return None
    spread = math.sqrt(max(usual * (1 - usual), value * (1 - value), 1 / count) / count)
    if value - usual <= limit or value - usual <= CHANCE * spread:
        return None
    return Alarm(name, value, usual, limit, f"{value:.1%} {words}, {usual:.1%} in the nights before")


def _length(tonight: Figures, before: Sequence[Figures], limit: float) -> Alarm | None:
    value, usual = tonight.length, _usual("length", before)
    if not limit or value is None or not usual:
        return None
    if abs(value - usual) <= limit * usual or abs(value - usual) <= CHANCE * tonight.length_error:
        return None
    return Alarm("length", value, usual, limit, f"captions have {value:.1f} characters on average, {usual:.1f} in the nights before")


def _speed(tonight: Figures, before: Sequence[Figures], limit: float) -> Alarm | None:
    value, usual = tonight.samples_per_s, _usual("samples_per_s", before)
    if not limit or value is None or not usual or value >= (1 - limit) * usual:
        return None
    return Alarm("speed", value, usual, limit, f"{value:,.1f} samples a second, {usual:,.1f} in the nights before")
