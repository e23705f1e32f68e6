"""Is the text read off the medium: probabilities with the right medium, another sample's, and none.

Log-probabilities are natural logarithms, summed over a text's tokens by the chain rule. The gap between right and
shuffled is the proof; what a language model knows without looking is in both.
"""

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

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


@dataclass(frozen=True, slots=True)
class Likelihood:
    """How probable texts are."""

    perplexity: float
    """By token: exp of the mean negative log-probability."""
    bits_per_byte: float
    """Of the normalised text that was scored, in UTF-8."""
    unknown_share: float
    """Of the tokens: what the vocabulary does not hold is cheap to predict, so the figure needs it beside."""


def likelihood(log_probabilities: np.ndarray, tokens: np.ndarray, texts: Sequence[str], unknown: np.ndarray) -> Likelihood:
    """Summed log-probabilities, tokens and unknown tokens of each text. RequestError for NaN, above 0, or no tokens."""
    check_log_probabilities(log_probabilities)
    n_tokens, n_bytes = int(tokens.sum()), sum(len(text.encode(errors="replace")) for text in texts)
    if not n_tokens or not n_bytes:
        raise RequestError("no text to score: all references are empty after normalising")
    total = float(log_probabilities.sum())
    bits = -total / math.log(2) / n_bytes
    return Likelihood(math.exp(min(-total / n_tokens, 700.0)), bits, float(unknown.sum()) / n_tokens)


def check_log_probabilities(values: np.ndarray) -> None:
    """RequestError for values that are no log-probabilities, with the place of the first."""
    wrong = np.flatnonzero(~(values <= 1e-4))
    if len(wrong):
        raise RequestError(
            f"the model gives {values.flat[wrong[0]]} as log-probability of text {wrong[0]} (and {len(wrong) - 1:,} more are wrong): its weights "
            "are damaged or diverged; evaluate an earlier checkpoint"
        )


def pair_accuracy(right: np.ndarray, shuffled: np.ndarray) -> float:
    """Share of samples whose text is more probable with their own medium than with another's; ties count half."""
    check_log_probabilities(right)
    check_log_probabilities(shuffled)
    return float((right > shuffled).mean() + 0.5 * (right == shuffled).mean())
