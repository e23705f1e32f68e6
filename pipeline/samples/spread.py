"""How whole numbers are distributed (bytes, pixels, characters, milliseconds), in bounded memory.

Sixteen bins an octave: a quantile is off by 3 % at most, and exact below 16. Merging is associative and commutative, so that
shards can be counted in any order and grouping.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

_PER_OCTAVE = 16


@dataclass(slots=True)
class Spread:
    """Count, sum, extremes and bins of numbers >= 0."""

    count: int = 0
    total: int = 0
    low: int = 0
    high: int = 0
    bins: Counter[int] = field(default_factory=Counter)

    def add(self, values: Sequence[int]) -> None:
        """Adds numbers >= 0."""
        if not values:
            return
        numbers = np.asarray(values, np.int64)
        mantissa, exponent = np.frexp(numbers.astype(np.float64))
        found, counts = np.unique(exponent * _PER_OCTAVE + ((mantissa - 0.5) * 2 * _PER_OCTAVE).astype(np.int64), return_counts=True)
        self.merge(
            Spread(
                len(numbers),
                sum(values),  # a sum of sizes that headers claim may not fit into 64 bits
                int(numbers.min()),
                int(numbers.max()),
                Counter(dict(zip(found.tolist(), counts.tolist(), strict=True))),
            )
        )

    def merge(self, other: "Spread") -> None:
        """Adds what another one holds."""
        if not other.count:
            return
        self.low = min(self.low, other.low) if self.count else other.low
        self.high = max(self.high, other.high)
        self.count += other.count
        self.total += other.total
        self.bins.update(other.bins)

    @property
    def mean(self) -> float:
        """0 where there is nothing."""
        return self.total / self.count if self.count else 0.0

    def quantile(self, share: float) -> int:
        """The number that `share` of all (0..1) do not exceed, to 3 %; 0 where there is nothing."""
        wanted = share * self.count
        passed = 0
        for at in sorted(self.bins):
            passed += self.bins[at]
            if passed >= wanted:
                middle = (0.5 + (at % _PER_OCTAVE + 0.5) / (2 * _PER_OCTAVE)) * 2.0 ** (at // _PER_OCTAVE)
                return min(max(int(middle), self.low), self.high)
        return self.high

    def to_dict(self) -> dict[str, int | float]:
        """What a person or a program wants to know of it."""
        middle = {"p05": self.quantile(0.05), "median": self.quantile(0.5), "p95": self.quantile(0.95)}
        return {"count": self.count, "total": self.total, "mean": round(self.mean, 3), "min": self.low, **middle, "max": self.high}
