"""What filters would remove of a sample of samples: each by itself, and each as the first, with examples. Pure.

A filter's own count says what its limit costs; its count as the first says what it adds to those before it, and those
counts add up to what the whole removes.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pipeline.errors import Reason
from pipeline.samples.facts import Facts
from pipeline.samples.filters import Filter

EXAMPLES = 3


@dataclass(frozen=True, slots=True)
class Example:
    """One sample that a filter removes."""

    origin: str
    """shard:key, or whatever the caller names samples by."""
    detail: str
    """The value and the limit."""
    text: str
    """The beginning of its text, maybe empty."""


@dataclass(frozen=True, slots=True)
class Effect:
    """One filter on all samples that were looked at."""

    reason: Reason
    removes: int
    """Samples that it would remove if it were the only one."""
    first: int
    """Samples that it is the first to remove: these counts add up."""
    examples: tuple[Example, ...]
    """The first EXAMPLES of `removes`."""


@dataclass(frozen=True, slots=True)
class Explanation:
    """All filters on all samples."""

    seen: int
    kept: int
    effects: tuple[Effect, ...]
    """In the order in which filters run."""


def explain(filters: Sequence[Filter], samples: Iterable[tuple[str, Facts]]) -> Explanation:
    """Asks every filter about every sample (origin, facts). Memory: a few examples a filter."""
    removes, first = [0] * len(filters), [0] * len(filters)
    examples: list[list[Example]] = [[] for _ in filters]
    seen = kept = 0
    for origin, facts in samples:
        seen += 1
        taken = False
        for at, (_, check) in enumerate(filters):
            detail = check(facts)
            if detail is None:
                continue
            removes[at] += 1
            first[at] += not taken
            taken = True
            if len(examples[at]) < EXAMPLES:
                examples[at].append(Example(origin, detail, (facts.text or "")[:60]))
        kept += not taken
    effects = (Effect(one.reason, removes[at], first[at], tuple(examples[at])) for at, one in enumerate(filters))
    return Explanation(seen, kept, tuple(effects))
