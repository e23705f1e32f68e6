"""What a night will take, from a trial on a few archives: time, device hours, memory, output, cost, each with an interval. Pure.

The number of samples comes from the bytes of what is to be done, at the rate of samples a byte that the trial's archives have.
Time has two bounds: what the steps' own work allows when all of it overlaps, and what the trial reached, start-up apart. The
first is what a long night comes near, the second is what little work shows; the estimate is their geometric mean.
"""

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from random import Random
from typing import Any

from pipeline.storage import Store

PATH = "plan.json"
"""Where the forecast lies below the output."""
MARGIN = 1.3
"""By how much both ends of an interval are widened: machines differ from hour to hour."""
RESAMPLES = 400


@dataclass(frozen=True, slots=True)
class Estimate:
    """A value between two bounds."""

    low: float
    value: float
    high: float

    def times(self, factor: float) -> "Estimate":
        """The estimate in another unit."""
        return Estimate(self.low * factor, self.value * factor, self.high * factor)


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """What was measured."""

    archives: tuple[tuple[int, int], ...]
    """(bytes read of an archive, samples in them), one an archive that was tried."""
    samples: int
    startup_s: float
    """Until the first result."""
    steady_s: float
    """From the first result to the last."""
    steady_samples: int
    """That came after the first result."""
    decode_s: float
    """Work of reading and decoding, added up over processes."""
    collate_s: float
    engine_s: float
    """Work of the model, likewise."""
    output_bytes: int
    memory_bytes: int
    """Largest sum of all processes' memory."""
    rejected: int = 0
    engines: int = 1
    """Engine processes that the trial had."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """What the night will run on."""

    cpus: int
    engines: int
    """Engine processes: one a GPU, or one."""
    gpus: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """What the night will take."""

    archives: int
    samples: Estimate
    seconds: Estimate
    gpu_hours: Estimate
    output_bytes: Estimate
    memory_bytes: int
    cost: Estimate | None
    bottleneck: str
    """The step that holds the others up: read and decode, model."""
    cpus_per_engine: float
    """CPU workers that keep one engine busy."""
    rejected: float
    """Share of the trial's samples."""

    def to_dict(self) -> dict[str, Any]:
        """For a file."""
        return asdict(self)


def forecast(trial: Trial, todo_bytes: Sequence[int], machine: Machine, price_per_hour: float = 0.0) -> Forecast:
    """`todo_bytes`: sizes of the archives that are to be done; `price_per_hour`: of all machines together."""
    samples = _samples(trial, sum(todo_bytes))
    each = max(1, trial.samples)
    host_s, engine_s = (trial.decode_s + trial.collate_s) / each, trial.engine_s / each
    ideal_s = max(host_s / machine.cpus, engine_s / machine.engines)
    reached_s = ideal_s
    if trial.steady_samples and trial.steady_s > 0:
        reached_s = max(ideal_s, trial.steady_s / trial.steady_samples * min(1.0, trial.engines / machine.engines))
    middle_s = math.sqrt(max(ideal_s, 1e-9) * max(reached_s, 1e-9))
    seconds = Estimate(
        (trial.startup_s + samples.low * ideal_s) / MARGIN,
        trial.startup_s + samples.value * middle_s,
        (trial.startup_s + samples.high * reached_s) * MARGIN,
    )
    gpu_hours = seconds.times(machine.gpus / 3600)
    return Forecast(
        archives=len(todo_bytes),
        samples=samples,
        seconds=seconds,
        gpu_hours=gpu_hours,
        output_bytes=samples.times(trial.output_bytes / each),
        memory_bytes=trial.memory_bytes,
        cost=seconds.times(price_per_hour / 3600) if price_per_hour else None,
        bottleneck="model" if engine_s / machine.engines >= host_s / machine.cpus else "read and decode",
        cpus_per_engine=host_s / engine_s if engine_s else math.inf,
        rejected=trial.rejected / each,
    )


def _samples(trial: Trial, todo_bytes: int) -> Estimate:
    """By the ratio of samples to bytes, its spread by resampling the archives that were tried."""
    pairs = [(size, count) for size, count in trial.archives if size]
    if not pairs:
        return Estimate(0.0, 0.0, 0.0)
    value = todo_bytes * sum(count for _, count in pairs) / sum(size for size, _ in pairs)
    random, found = Random(0), []
    for _ in range(RESAMPLES):
        drawn = [random.choice(pairs) for _ in pairs]
        found.append(todo_bytes * sum(count for _, count in drawn) / sum(size for size, _ in drawn))
    found.sort()
    low, high = found[int(0.025 * RESAMPLES)], found[int(0.975 * RESAMPLES)]
    return Estimate(min(low, value) / MARGIN, value, max(high, value) * MARGIN)


def compared(predicted: dict[str, Any], elapsed_s: float, archives: int) -> dict[str, Any] | None:
    """A forecast against what came, where the night did just what was foretold; else None."""
    if archives != predicted.get("archives") or elapsed_s <= 0:
        return None
    bounds = predicted["seconds"]
    factor = elapsed_s / max(bounds["value"], 1e-9)
    within = bounds["low"] <= elapsed_s <= bounds["high"]
    sentence = (
        f"{bounds['value']:,.0f} s ({bounds['low']:,.0f} to {bounds['high']:,.0f}); it took {elapsed_s:,.0f} s, {factor:.2f} times that, "
        f"{'within' if within else 'outside'} the interval"
    )
    return {"seconds": bounds, "elapsed_s": elapsed_s, "factor": factor, "within": within, "sentence": sentence}


def digest_of(stems: Sequence[str]) -> str:
    """Names a set of archives."""
    return hashlib.sha256("\0".join(sorted(stems)).encode(errors="surrogatepass")).hexdigest()


def foretold(store: Store, version: str, stems: Sequence[str]) -> dict[str, Any] | None:
    """The forecast for exactly this work, if `nightcap plan` made one."""
    try:
        known = json.loads(store.get(PATH))
    except (FileNotFoundError, ValueError):
        return None
    return known if isinstance(known, dict) and (known.get("version"), known.get("stems")) == (version, digest_of(stems)) else None
