"""Bootstrap over samples, in one pass over pieces of a corpus.

The draws of a replicate are split over the pieces by conditional binomials, which together are the exact multinomial;
so nothing of the corpus is kept but the sums of each replicate, for all samples and for each bucket. Two systems that are
scored on the same samples get the same draws, which pairs them.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

ALL = ("all", "all")
"""The bucket of every sample."""


@dataclass(frozen=True, slots=True)
class Sums:
    """What a bucket's samples add up to."""

    samples: int
    """Samples in it."""
    observed: np.ndarray
    """(systems, columns): each sample once."""
    replicates: np.ndarray
    """(systems, replicates, columns): as drawn."""


class Bootstrap:
    """Adds statistics of samples; holds (buckets x systems x replicates x columns) numbers."""

    def __init__(self, samples: int, replicates: int, seed: int = 0) -> None:
        self._rng = np.random.default_rng(seed)
        self._left = samples
        self._draws = np.full(replicates, samples, np.int64)
        self._sums: dict[tuple[str, str], Sums] = {}

    def add(self, statistics: np.ndarray, buckets: Mapping[str, Sequence[str]]) -> None:
        """Takes (systems, samples, columns) and for each dimension the name of each sample's bucket."""
        systems, n, columns = statistics.shape
        if n == 0:
            return
        weights = self._weights(n)
        for names, members in _cells(buckets, n):
            piece = statistics[:, members]
            drawn = np.einsum("bn,snc->sbc", weights[:, members], piece, optimize=True)
            for bucket in (ALL, *names):
                old = self._sums.get(bucket) or Sums(0, np.zeros((systems, columns)), np.zeros((systems, len(weights), columns)))
                old.replicates[...] += drawn
                self._sums[bucket] = Sums(old.samples + len(members), old.observed + piece.sum(axis=1), old.replicates)

    def _weights(self, n: int) -> np.ndarray:
        """(replicates, samples) float64: how often each of the next n samples is drawn."""
        if n > self._left:
            raise ValueError(f"{n} samples more, only {self._left} were announced")
        taken = self._rng.binomial(self._draws, n / self._left)
        self._left -= n
        self._draws = self._draws - taken
        out = np.empty((len(taken), n))
        for row, draws in zip(out, taken, strict=True):
            row[:] = np.bincount(self._rng.integers(0, n, draws, np.uint32), minlength=n)
        return out

    def sums(self) -> dict[tuple[str, str], Sums]:
        """By (dimension, bucket), ALL first."""
        return {bucket: self._sums[bucket] for bucket in sorted(self._sums, key=lambda bucket: (bucket != ALL, bucket))}


def _cells(buckets: Mapping[str, Sequence[str]], n: int) -> Iterator[tuple[list[tuple[str, str]], np.ndarray]]:
    """Samples that share their bucket in every dimension: each weight is then multiplied once, however many dimensions."""
    names = list(buckets)
    groups: dict[tuple[str, ...], list[int]] = {}
    for at, key in enumerate(zip(*buckets.values(), strict=True) if names else [()] * n):
        groups.setdefault(key, []).append(at)
    for key, members in groups.items():
        yield list(zip(names, key, strict=True)), np.array(members)


@dataclass(frozen=True, slots=True)
class Interval:
    """A figure with what 95 % of the replicates gave."""

    value: float
    low: float
    high: float


def interval(value: float, replicates: np.ndarray, level: float = 0.95) -> Interval:
    """Percentile interval; replicates without a value (a bucket that was not drawn) are left out."""
    known = replicates[np.isfinite(replicates)]
    if not len(known):
        return Interval(float(value), float("nan"), float("nan"))
    low, high = np.quantile(known, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(value), float(low), float(high))


def p_value(differences: np.ndarray) -> float:
    """Two-sided: twice the smaller share of replicates on one side of 0, at least one replicate's worth."""
    known = differences[np.isfinite(differences)]
    if not len(known):
        return float("nan")
    side = min(float((known <= 0).mean()), float((known >= 0).mean()))
    return min(1.0, max(2 * side, 1 / len(known)))
