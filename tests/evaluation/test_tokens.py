"""Tokens are Stanford's PTBTokenizer's after pycocoevalcap's list of marks:

- each text of the golden file, which the Java program made, gives its words;
- no text makes it fail, and none loses a letter.
"""

import json
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from pipeline.evaluation.tokens import word_hash, words

GOLDEN = Path(__file__).parent / "golden/ptb.json"


def test_each_text_gives_the_words_of_the_java_program() -> None:
    pairs = json.loads(GOLDEN.read_text())
    assert len(pairs) > 100
    assert [(text, " ".join(words(text))) for text, _ in pairs] == [(text, wanted) for text, wanted in pairs]


@given(st.text())
def test_no_text_fails_and_no_letter_is_lost(text: str) -> None:
    kept = "".join(words(text))
    for letter in text.lower():
        if letter.isalpha() and letter.isascii() and "&" not in text:
            assert letter in kept


def test_a_word_has_the_same_number_in_every_process() -> None:
    assert word_hash("cat") == 3_429_664_268_601_861_939
