"""Is the text read off the medium: probabilities with the right medium, another sample's, and none.

Log-probabilities are natural logarithms, summed over a text's tokens by the chain rule. The gap between right and
shuffled is the proof; what a language model knows without looking is in both.
"""

from collections.abc import Hashable, Sequence

import numpy as np

from pipeline.errors import RequestError


def derangement(references: Sequence[Hashable], seed: int = 0) -> np.ndarray:
    """For each sample whose medium it gets instead: a seeded permutation in which no sample gets one with its own reference.

    RequestError where there is none: one reference stands at more than half of the samples.
    """
    n = len(references)
    codes = np.array(_codes(references))
    most = int(np.bincount(codes).max()) if n else 0
    if n < 2 or 2 * most > n:
        raise RequestError(
            f"media cannot be shuffled: {most:,} of {n:,} samples have the same reference, so that some would get a medium of their own; "
            "evaluate more samples, or with other references"
        )
    rng = np.random.default_rng(seed)
    order = rng.permutation(n)
    # Samples of one reference side by side, groups in random order: a turn by the largest group's size leads out of each group.
    ranks = rng.permutation(int(codes.max()) + 1)
    order = order[np.argsort(ranks[codes[order]], kind="stable")]
    given = np.empty(n, np.int64)
    given[order] = np.roll(order, most)
    return given


def _codes(values: Sequence[Hashable]) -> list[int]:
    known: dict[Hashable, int] = {}
    return [known.setdefault(value, len(known)) for value in values]


def check_log_probabilities(values: np.ndarray) -> None:
    """RequestError for values that are no log-probabilities, with the place of the first."""
    wrong = np.flatnonzero(~(values <= 1e-4))
    if len(wrong):
        raise RequestError(
            f"the model gives {values.flat[wrong[0]]} as log-probability of text {wrong[0]} (and {len(wrong) - 1:,} more are wrong): its weights "
            "are damaged or diverged; evaluate an earlier checkpoint"
        )
