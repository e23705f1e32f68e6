"""Figures that are ratios of sums, each with an interval by bootstrap over samples: perplexities, accuracies, recalls.

A figure is `shown(sum of numerators / sum of denominators)`. Samples that it does not concern have the denominator 0. The
figures of all samples, and of each bucket, come from the same draws.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.evaluation.intervals import Bootstrap, interval
from pipeline.evaluation.medium import check_log_probabilities

PIECE = 4096
"""Samples that are drawn at a time."""
MOST_BUCKETS = 40


@dataclass(frozen=True, slots=True)
class Ratio:
    """A figure of each sample."""

    numerators: np.ndarray
    denominators: np.ndarray
    """0 where a sample has no part in it."""
    shown: Callable[[np.ndarray], np.ndarray] = np.asarray
    """What becomes of the ratio."""


def mean_of(values: np.ndarray) -> Ratio:
    """The mean of values; those that are NaN have no part in it."""
    known = np.isfinite(values)
    return Ratio(np.where(known, values, 0.0), known.astype(np.float64))


def perplexity_of(log_probabilities: np.ndarray, tokens: np.ndarray) -> Ratio:
    """By token. RequestError for what is no log-probability; NaN only where `tokens` is 0."""
    return Ratio(*_checked(log_probabilities, tokens), _perplexity)


def bits_of(log_probabilities: np.ndarray, n_bytes: np.ndarray) -> Ratio:
    """Bits per byte of the text that was scored."""
    return Ratio(*_checked(log_probabilities, n_bytes), _bits)


def _checked(log_probabilities: np.ndarray, units: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    taken = units > 0
    check_log_probabilities(log_probabilities[taken])
    return np.where(taken, log_probabilities, 0.0), units.astype(np.float64)


def _perplexity(mean: np.ndarray) -> np.ndarray:
    found: np.ndarray = np.exp(np.minimum(-mean, 700.0))
    return found


def _bits(mean: np.ndarray) -> np.ndarray:
    return -mean / math.log(2)


Figure = dict[str, float | None]


def figures(
    ratios: Mapping[str, Ratio], buckets: Mapping[str, Sequence[str]], *, replicates: int, seed: int
) -> dict[tuple[str, str], dict[str, Figure]]:
    """By (dimension, bucket), all samples first, and by name: value, low, high; None where no sample has a part in it."""
    names = list(ratios)
    columns = np.stack([column for name in names for column in (ratios[name].numerators, ratios[name].denominators)], axis=1)
    count = len(columns)
    bootstrap = Bootstrap(count, replicates, seed)
    kept = {dimension: _common(values) for dimension, values in buckets.items()}
    for start in range(0, count, PIECE):
        rows = slice(start, start + PIECE)
        bootstrap.add(columns[None, rows], {dimension: values[rows] for dimension, values in kept.items()})
    found = {}
    for bucket, sums in bootstrap.sums().items():
        found[bucket] = {
            name: _figure(ratios[name].shown, sums.observed[0, 2 * at : 2 * at + 2], sums.replicates[0, :, 2 * at : 2 * at + 2])
            for at, name in enumerate(names)
        }
    return found


def _common(values: Sequence[str]) -> list[str]:
    names, counts = np.unique(np.array(values, dtype=str), return_counts=True)
    most = set(names[np.argsort(-counts, kind="stable")[:MOST_BUCKETS]].tolist())
    return [value if value in most else "others" for value in values]


def _figure(shown: Callable[[np.ndarray], np.ndarray], observed: np.ndarray, drawn: np.ndarray) -> Figure:
    if not observed[1] > 0:
        return {"value": None, "low": None, "high": None}
    with np.errstate(invalid="ignore", divide="ignore"):
        found = interval(float(shown(observed[0] / observed[1])), shown(drawn[:, 0] / drawn[:, 1]))
    return {
        name: value if math.isfinite(value) else None for name, value in (("value", found.value), ("low", found.low), ("high", found.high))
    }
