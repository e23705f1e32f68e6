"""Scores from sums are those of the libraries on whole corpora:

- BLEU-1 to 4 and chrF are sacrebleu's, with one and with several references;
- WER and CER are jiwer's on the normalised texts;
- normalisers are the documented ones;
- sums may be added in any pieces;
- an empty caption is scored, a reference that is empty after normalising counts no words, nothing gives NaN silently.
"""

import math
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jiwer import cer, wer
from sacrebleu.metrics import BLEU, CHRF
from whisper_normalizer.english import EnglishTextNormalizer

from pipeline.evaluation.generation import AT, COLUMNS, Pairs, scores, statistics
from pipeline.evaluation.ngrams import Frequencies
from pipeline.evaluation.normalise import normalised

NONE = Frequencies(np.empty(0, np.uint64), np.empty(0, np.uint32), 1)
WORDS = ["A", "man's", "dog,", "the", "Cat!", "is", "riding", "on:", "it's", "red-hot", "in", "25", "parks;", "and", "waves", "don't"]


def corpus(n: int, references: int, seed: int = 0) -> Pairs:
    rng = random.Random(seed)

    def near(words: list[str]) -> str:
        return " ".join(rng.choice(WORDS) if rng.random() < 0.25 else word for word in words[rng.randint(0, 1) :])

    captions = [[rng.choice(WORDS) for _ in range(rng.randint(2, 12))] for _ in range(n)]
    return Pairs([" ".join(words) for words in captions], [[near(words) for _ in range(references)] for words in captions], ["en"] * n)


def summed(pairs: Pairs, normaliser: str = "auto") -> dict[str, float]:
    return {name: float(value) for name, value in scores(statistics(pairs, NONE, normaliser).sum(axis=0)).items()}


@pytest.mark.parametrize("references", [1, 3])
def test_bleu_and_chrf_are_those_of_sacrebleu(references: int) -> None:
    pairs = corpus(80, references)
    sides = [list(side) for side in zip(*pairs.references, strict=True)]
    found = summed(pairs)
    for order in (1, 2, 3, 4):
        assert found[f"bleu_{order}"] == pytest.approx(
            BLEU(lowercase=True, max_ngram_order=order).corpus_score(pairs.captions, sides).score
        )
    assert found["chrf"] == pytest.approx(CHRF(lowercase=True).corpus_score(pairs.captions, sides).score)
    assert found["bleu_4"] > 5


@pytest.mark.parametrize(
    ("caption", "reference"),
    [("a cat", "a dog on the mat"), ("x", "y"), ("", "a cat"), ("one two three four five", "one two zzz four five"), ("a", "a")],
)
def test_single_short_captions_are_smoothed_as_sacrebleu_does(caption: str, reference: str) -> None:
    found = summed(Pairs([caption], [[reference]], [None]))
    for order in (1, 2, 3, 4):
        wanted = BLEU(lowercase=True, max_ngram_order=order).corpus_score([caption], [[reference]]).score
        assert found[f"bleu_{order}"] == pytest.approx(wanted, abs=1e-9)
    assert found["chrf"] == pytest.approx(CHRF(lowercase=True).corpus_score([caption], [[reference]]).score, abs=1e-9)


@pytest.mark.parametrize("normaliser", ["english", "neutral"])
def test_error_rates_are_those_of_jiwer(normaliser: str) -> None:
    pairs = corpus(60, 1)
    ours = [normalised(caption, "en", normaliser) for caption in pairs.captions]
    theirs = [normalised(one, "en", normaliser) for (one,) in pairs.references]
    found = summed(pairs, normaliser)
    assert found["wer"] == pytest.approx(wer(theirs, ours))
    assert found["cer"] == pytest.approx(cer(theirs, ours))


def test_the_reference_that_fits_best_counts() -> None:
    found = summed(Pairs(["a red bus"], [["the old town hall", "a red bus", "a bus"]], ["en"]))
    assert (found["wer"], found["cer"], found["exact_match"], found["token_f1"]) == (0, 0, 1, 1)


def test_pieces_add_up_to_the_whole() -> None:
    pairs = corpus(50, 2)
    whole = statistics(pairs, NONE)
    pieces = [
        statistics(Pairs(pairs.captions[lo : lo + 7], pairs.references[lo : lo + 7], pairs.languages[lo : lo + 7]), NONE)
        for lo in range(0, 50, 7)
    ]
    assert np.array_equal(np.concatenate(pieces), whole)


def test_normalisers_are_as_documented() -> None:
    assert normalised("Mr. Smith's colour is [noise] twenty five!", "en", "auto") == "mister smith is color is 25"
    assert normalised("Ça va (bien)? 25 %", "fr", "auto") == "ça va 25"
    assert normalised("हिन्दी में", "hi", "auto") == "हिन्दी में"
    assert normalised("红色的车。", "zh", "auto") == "红 色 的 车"


def test_chinese_is_counted_by_characters() -> None:
    found = summed(Pairs(["红色的车"], [["红色的船"]], ["zh"]))
    assert found["wer"] == pytest.approx(0.25)
    assert found["mean_length"] == 4
    assert found["bleu_1"] == pytest.approx(75)


def test_an_empty_caption_is_all_deletions() -> None:
    found = summed(Pairs([""], [["a red bus"]], ["en"]))
    assert (found["wer"], found["cer"], found["exact_match"], found["bleu_4"], found["rouge_l"]) == (1, 1, 0, 0, 0)


def test_a_reference_without_words_counts_none() -> None:
    row = statistics(Pairs(["hello"], [["[music]"]], ["en"]), NONE)[0]
    assert (row[AT["words"]], row[AT["word_errors"]]) == (0, 0)
    assert math.isnan(scores(row)["wer"])


def test_no_samples_have_no_score() -> None:
    assert all(math.isnan(value) for value in scores(np.zeros(len(COLUMNS))).values())


PLAIN = [
    "a",
    "cat",
    "and",
    "point",
    "half",
    "and a half",
    "twenty-five",
    "colour",
    "mr",
    "st.",
    "um",
    "dollars",
    "double",
    "o",
    "gotta",
    "s",
    "let",
]


@given(st.lists(st.sampled_from([*PLAIN, "dog,", "Red", "- ", "..", ". ", "!", '"x"', "it's", "5", "cause", "per", "won't"]), max_size=8))
def test_the_short_cut_of_the_english_normaliser_changes_nothing(words: list[str]) -> None:
    text = " ".join(words)
    assert normalised(text, "en", "english") == " ".join(EnglishTextNormalizer()(text).split())
