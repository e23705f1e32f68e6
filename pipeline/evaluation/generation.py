"""Scores of captions against references, as sums that can be added, weighted and resampled.

Each sample gives one row of sufficient statistics; a score is a function of their sum over samples. So a corpus is read
once, in pieces, and an interval costs a matrix product instead of scoring a thousand corpora. BLEU and chrF counts are
sacrebleu's, edit distances are rapidfuzz's, which jiwer stands on; tests compare the scores with theirs on whole corpora.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from rapidfuzz.distance import LCSseq, Levenshtein

from pipeline.evaluation.cider import cider_d
from pipeline.evaluation.ngrams import Frequencies
from pipeline.evaluation.normalise import AUTO, normalised, spaceless, words_of
from pipeline.evaluation.tokens import hashed

BLEU_ORDERS, CHRF_ORDERS = 4, 6
COLUMNS = (
    "rows",
    "bleu_length",
    "bleu_reference_length",
    *(f"bleu_correct_{order}" for order in range(1, BLEU_ORDERS + 1)),
    *(f"bleu_total_{order}" for order in range(1, BLEU_ORDERS + 1)),
    *(f"chrf_{order}_{what}" for order in range(1, CHRF_ORDERS + 1) for what in ("caption", "reference", "match")),
    "cider_d",
    "rouge_l",
    "exact_match",
    "token_f1",
    "word_errors",
    "words",
    "character_errors",
    "characters",
    "caption_words",
    "reference_words",
)
"""What is summed over samples."""
AT = {name: at for at, name in enumerate(COLUMNS)}

BETTER_LOW = frozenset({"wer", "cer"})
NEUTRAL = frozenset({"mean_length", "reference_length"})
"""Neither high nor low is better."""

ROUGE_BETA = 1.2  # as pycocoevalcap


@dataclass(frozen=True, slots=True)
class Pairs:
    """Captions with their references, one entry a sample."""

    captions: Sequence[str]
    references: Sequence[Sequence[str]]
    """One or more a sample."""
    languages: Sequence[str | None]


class _Counters:
    """sacrebleu's counters by how a language's words are told apart."""

    def __init__(self) -> None:
        from sacrebleu.metrics import BLEU, CHRF

        self._bleu = {name: BLEU(lowercase=True, tokenize=name, force=True) for name in ("13a", "zh", "char")}
        self._chrf = CHRF(lowercase=True)

    def bleu(self, caption: str, references: Sequence[str], language: str | None) -> list[int]:
        """Length, reference length, matches by order, n-grams by order."""
        name = "13a"
        if spaceless(language):
            name = "zh" if language is not None and language[:2].lower() == "zh" else "char"
        counts: list[int] = self._bleu[name]._extract_corpus_statistics([caption], [[one] for one in references])[0]
        return counts

    def chrf(self, caption: str, references: Sequence[str]) -> list[int]:
        """n-grams of the caption, of the best reference, and matches, by order."""
        counts: list[int] = self._chrf._extract_corpus_statistics([caption], [[one] for one in references])[0]
        return counts


@functools.cache
def _counters() -> _Counters:
    return _Counters()


SIGNATURES = {
    "bleu": "sacrebleu, case:lc, tok:13a (zh for Chinese, char for other languages without spaces), smooth:exp",
    "chrf": "sacrebleu chrF2, case:lc, nc:6, nw:0, space:no",
    "cider_d": "pycocoevalcap's CIDEr-D, sigma 6, Penn Treebank words, document frequencies of all references",
    "rouge_l": "pycocoevalcap's ROUGE-L, beta 1.2, Penn Treebank words",
}


def statistics(pairs: Pairs, frequencies: Frequencies, normaliser: str = AUTO) -> np.ndarray:
    """(samples, COLUMNS) float64. The edit distances take the reference that fits best, as do exact match and F1."""
    out = np.zeros((len(pairs.captions), len(COLUMNS)))
    counters = _counters()
    ours, theirs = [], []
    for row, caption, references, language in zip(out, pairs.captions, pairs.references, pairs.languages, strict=True):
        words, sides = words_of(caption, language), [words_of(one, language) for one in references]
        ours.append(hashed(words))
        theirs.append([hashed(side) for side in sides])
        row[AT["rows"]] = 1
        row[AT["bleu_length"] : AT["bleu_length"] + 2 + 2 * BLEU_ORDERS] = counters.bleu(caption, references, language)
        row[AT["chrf_1_caption"] : AT["chrf_1_caption"] + 3 * CHRF_ORDERS] = counters.chrf(caption, references)
        row[AT["rouge_l"]] = _rouge_l(words, sides)
        row[AT["caption_words"]] = len(words)
        row[AT["reference_words"]] = sum(map(len, sides)) / len(sides)
        _compare(row, normalised(caption, language, normaliser), [normalised(one, language, normaliser) for one in references])
    if len(out):
        out[:, AT["cider_d"]] = cider_d(ours, theirs, frequencies)
    return out


def _rouge_l(caption: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    common = [LCSseq.similarity(caption, reference) for reference in references]
    precision = max(shared / max(len(caption), 1) for shared in common)
    recall = max(shared / max(len(reference), 1) for shared, reference in zip(common, references, strict=True))
    if precision == 0 or recall == 0:
        return 0.0
    return (1 + ROUGE_BETA**2) * precision * recall / (recall + ROUGE_BETA**2 * precision)


def _compare(row: np.ndarray, caption: str, references: Sequence[str]) -> None:
    """Exact match, F1 and edit distances of normalised texts; references that are empty then do not count as words."""
    words = caption.split()
    best: tuple[float, int, int] | None = None
    for reference in references:
        theirs = reference.split()
        row[AT["exact_match"]] = max(row[AT["exact_match"]], caption == reference)
        row[AT["token_f1"]] = max(row[AT["token_f1"]], _f1(words, theirs))
        if theirs:
            errors = int(Levenshtein.distance(words, theirs))
            found = (errors / len(theirs), errors, len(theirs))
            best = found if best is None else min(best, found)
    if best is not None:
        row[AT["word_errors"]], row[AT["words"]] = best[1:]
    spelled = [(int(Levenshtein.distance(caption, one)), len(one)) for one in references if one]
    if spelled:
        row[AT["character_errors"]], row[AT["characters"]] = min(spelled, key=lambda pair: pair[0] / pair[1])


def _f1(caption: Sequence[str], reference: Sequence[str]) -> float:
    if not caption or not reference:
        return float(caption == reference)
    left = list(reference)
    shared = 0
    for word in caption:
        if word in left:
            left.remove(word)
            shared += 1
    return 2 * shared / (len(caption) + len(reference))


def scores(sums: np.ndarray) -> dict[str, np.ndarray]:
    """Scores of summed statistics (..., COLUMNS), each of shape (...); NaN where nothing was counted."""
    rows = _column(sums, "rows")
    found = {f"bleu_{order}": _bleu(sums, order) for order in range(1, BLEU_ORDERS + 1)}
    found["chrf"] = _chrf(sums)
    for name in ("cider_d", "rouge_l", "exact_match", "token_f1"):
        found[name] = _ratio(_column(sums, name), rows)
    found["wer"] = _ratio(_column(sums, "word_errors"), _column(sums, "words"))
    found["cer"] = _ratio(_column(sums, "character_errors"), _column(sums, "characters"))
    found["mean_length"] = _ratio(_column(sums, "caption_words"), rows)
    found["reference_length"] = _ratio(_column(sums, "reference_words"), rows)
    return found


def _column(sums: np.ndarray, name: str) -> np.ndarray:
    return np.asarray(sums[..., AT[name]], np.float64)


def _ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    return np.asarray(np.divide(above, below, out=np.full(np.shape(above), np.nan), where=below > 0))


def _bleu(sums: np.ndarray, orders: int) -> np.ndarray:
    """sacrebleu's corpus BLEU, 0 to 100, with its exponential smoothing of orders without a match."""
    length, reference = _column(sums, "bleu_length"), _column(sums, "bleu_reference_length")
    penalty = np.where(length < reference, np.exp(1 - _ratio(reference, length)), 1.0)
    smooth, logs, possible = np.ones_like(length), np.zeros_like(length), np.ones(length.shape, bool)
    matched = np.zeros(length.shape, bool)
    for order in range(1, orders + 1):
        correct, total = _column(sums, f"bleu_correct_{order}"), _column(sums, f"bleu_total_{order}")
        possible &= total > 0
        matched |= correct > 0
        smooth = np.where(correct == 0, 2 * smooth, smooth)
        precision = np.where(correct == 0, _ratio(np.full_like(total, 100.0), smooth * total), 100 * _ratio(correct, total))
        logs += np.log(np.where(possible, precision, 1.0)) / orders
    found = np.where(possible & matched & (length > 0), penalty * np.exp(logs), 0.0)
    return np.asarray(np.where(_column(sums, "rows") > 0, found, np.nan))


def _chrf(sums: np.ndarray) -> np.ndarray:
    """sacrebleu's chrF2, 0 to 100, over the orders that both sides have."""
    precision = recall = orders = np.zeros(sums.shape[:-1])
    for order in range(1, CHRF_ORDERS + 1):
        ours, theirs, match = (_column(sums, f"chrf_{order}_{what}") for what in ("caption", "reference", "match"))
        both = (ours > 0) & (theirs > 0)
        precision = precision + np.where(both, np.nan_to_num(_ratio(match, ours)), 0)
        recall = recall + np.where(both, np.nan_to_num(_ratio(match, theirs)), 0)
        orders = orders + both
    precision, recall = np.nan_to_num(_ratio(precision, orders)), np.nan_to_num(_ratio(recall, orders))
    found = 100 * np.nan_to_num(_ratio(5 * precision * recall, 4 * precision + recall))
    return np.asarray(np.where(_column(sums, "rows") > 0, found, np.nan))
