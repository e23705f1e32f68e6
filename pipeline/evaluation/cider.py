"""CIDEr-D, the scorer of pycocoevalcap, for many samples at once and with document frequencies that stay fixed.

Its particulars are kept because published figures rest on them: a caption's length in the penalty is its number of
bigrams, an n-gram that no reference holds weighs as much as one of a single sample, the mean runs over the four orders.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.evaluation.ngrams import ORDERS, Frequencies, Grams, grams_of, mixed

SIGMA = 6.0


@dataclass(frozen=True, slots=True)
class _Vectors:
    """Weighted n-grams of sentences: one entry for each different n-gram of a sentence."""

    sentence: np.ndarray
    gram: np.ndarray
    order: np.ndarray
    weight: np.ndarray
    norm: np.ndarray
    """(sentences, ORDERS)"""
    length: np.ndarray
    """Bigrams a sentence."""


def document_grams(references: Sequence[Sequence[np.ndarray]]) -> np.ndarray:
    """The n-grams that document frequencies count: each once a sample, over all of its references. uint64."""
    grams, sample = _of_samples(references)
    keys = mixed(grams.gram ^ mixed(sample.astype(np.uint64)))
    _, first = np.unique(keys, return_index=True)
    return grams.gram[first]


def _of_samples(references: Sequence[Sequence[np.ndarray]]) -> tuple[Grams, np.ndarray]:
    sample_of = np.repeat(np.arange(len(references)), [len(group) for group in references])
    grams = grams_of([sentence for group in references for sentence in group])
    return grams, sample_of[grams.sentence]


def cider_d(captions: Sequence[np.ndarray], references: Sequence[Sequence[np.ndarray]], frequencies: Frequencies) -> np.ndarray:
    """One score a sample, float64, 0 to 10. Sentences are uint64 words; each sample has one or more references."""
    per_sample = np.array([len(group) for group in references])
    sample_of = np.repeat(np.arange(len(references)), per_sample)
    ours = _vectors(captions, frequencies)
    theirs = _vectors([sentence for group in references for sentence in group], frequencies)
    keys = mixed(ours.gram ^ mixed(ours.sentence.astype(np.uint64)))
    ranks = np.argsort(keys)
    keys = keys[ranks]
    wanted = mixed(theirs.gram ^ mixed(sample_of[theirs.sentence].astype(np.uint64)))
    at = np.minimum(np.searchsorted(keys, wanted), max(len(keys) - 1, 0))
    shared = np.flatnonzero(keys[at] == wanted) if len(keys) else np.empty(0, np.int64)
    weight = theirs.weight[shared]
    product = np.minimum(ours.weight[ranks[at[shared]]], weight) * weight if len(keys) else weight
    n = len(sample_of)
    cell = theirs.sentence[shared] * ORDERS + theirs.order[shared] - 1
    similarity = np.bincount(cell, product, n * ORDERS).reshape(n, ORDERS).astype(np.float64)  # ints where nothing is shared
    norms = ours.norm[sample_of] * theirs.norm
    similarity = np.divide(similarity, norms, out=similarity, where=norms != 0)
    delta = ours.length[sample_of] - theirs.length
    similarity *= np.exp(-(delta**2) / (2 * SIGMA**2))[:, None]
    total = np.bincount(sample_of, similarity.mean(axis=1), len(references))
    return np.asarray(10.0 * total / per_sample)


def _vectors(sentences: Sequence[np.ndarray], frequencies: Frequencies) -> _Vectors:
    grams = grams_of(sentences)
    keys = mixed(grams.gram ^ mixed(grams.sentence.astype(np.uint64)))
    _, first, times = np.unique(keys, return_index=True, return_counts=True)
    sentence, gram, order = grams.sentence[first], grams.gram[first], grams.order[first]
    idf = np.log(float(max(frequencies.samples, 1))) - frequencies.log_of(gram)
    weight = times * idf
    n = len(sentences)
    norm = np.sqrt(np.bincount(sentence * ORDERS + order - 1, weight**2, n * ORDERS).reshape(n, ORDERS))
    length = np.bincount(sentence, np.where(order == 2, times, 0), n)
    return _Vectors(sentence, gram, order.astype(np.int64), weight, norm, length)
