"""Normalised text:

- a second time changes nothing, for any text and any configuration
- emoji of every kind, Chinese, Arabic, Persian, Hindi and Hebrew come through as they are
- what nobody sees goes; entities are resolved however deep; white space as asked; NFKC folds full-width forms, emoji excepted
"""

import itertools
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import RequestError
from pipeline.samples.text import TextConfig, normalise_text, shows_something

ALL = [
    TextConfig(form=form, entities=entities, invisible=invisible, white_space=space)
    for form, entities, invisible, space in itertools.product(
        ("none", "NFC", "NFKC"), (True, False), (True, False), ("keep", "lines", "single")
    )
]
ODD = st.sampled_from(
    ["&amp;", "&", "amp;", "&#38;", "&#x26;", "&lt;", "lt;", "\u00ad", "\u200d", "\ufe0f", "\U0001f3f4", "\U000e0067", "\U000e007f"]
    + [
        "\ufb01",
        "\uff21",
        "\u0301",
        "e",
        " ",
        "\n",
        "\r\n",
        "\x00",
        "\u2028",
        "\ud800",
        "\u00a0",
        "\u3000",
        "\u2122",
        "#",
        "38",
        ";",
        "\ufdfa",
    ]
)
TEXTS = st.one_of(st.text(max_size=60), st.lists(ODD, max_size=25).map("".join))


@settings(max_examples=300, deadline=None)
@given(TEXTS, st.sampled_from(ALL))
def test_a_second_time_changes_nothing(text: str, config: TextConfig) -> None:
    once = normalise_text(text, config)
    assert normalise_text(once, config) == once
    once.encode("utf-8")
    if config.form != "none" and config.form != "NFKC":
        assert unicodedata.is_normalized(config.form, once)


KEPT = [
    "👩‍👩‍👧‍👦 👍🏽 🏴󠁧󠁢󠁷󠁬󠁳󠁿 🇩🇪 ❤️ ™️ ©️ 1️⃣ 🈚 🈁",
    "猫坐在红色的椅子上。",
    "قطة على كرسي أحمر",
    "می‌خواهم",  # ZWNJ
    "क्‍ष हिन्दी",  # ZWJ
    "שלום עולם",
    "Füße, naïve, Åse, tiếng Việt",
]


@pytest.mark.parametrize("text", KEPT)
@pytest.mark.parametrize("form", ["NFC", "NFKC"])
def test_scripts_and_emoji_come_through(text: str, form: str) -> None:
    found = normalise_text(text, TextConfig(form=form))  # type: ignore[arg-type]
    assert found == unicodedata.normalize("NFC", text)


@pytest.mark.parametrize(
    ("given_text", "expected", "config"),
    [
        ("a\x00b\u00adc\ufeff", "abc", TextConfig()),
        ("hidden\U000e0041\U000e0042", "hidden", TextConfig()),
        ("Tom &amp;amp;amp; J&eacute;r&#244;me &lt;b&gt;", "Tom & Jérôme <b>", TextConfig()),
        ("AT&T &copy 5 &nosuch;", "AT&T &copy 5 &nosuch;", TextConfig()),
        ("  two\t words \r\n\r\n\r\n next\u00a0line ", "two words next line", TextConfig()),
        (" two  words \r\n\r\n\r\n next ", "two words\n\nnext", TextConfig(white_space="lines")),
        ("ＡＢＣ１２３ ﬁne ㈱", "ABC123 fine (株)", TextConfig(form="NFKC")),
        ("e\u0301", "é", TextConfig()),
        ("\ud83d", "\ufffd", TextConfig(form="none", invisible=False, white_space="keep")),
        ("&amp;", "&amp;", TextConfig(entities=False)),
    ],
)
def test_cases(given_text: str, expected: str, config: TextConfig) -> None:
    assert normalise_text(given_text, config) == expected


def test_a_megabyte_of_nested_entities_takes_no_minutes() -> None:
    assert normalise_text("&" + "amp;" * 250_000, TextConfig()) == "&"


def test_unknown_forms_are_refused() -> None:
    with pytest.raises(RequestError, match="form 'NFD'"):
        TextConfig(form="NFD")  # type: ignore[arg-type]


@pytest.mark.parametrize("silent", ["", " \t", "\u200b", "\u200d \u200c", "\ufe0f", "\u200e\u200f\u2060", "\u0301"])
def test_a_text_of_joiners_and_marks_alone_shows_nothing(silent: str) -> None:
    assert not shows_something(normalise_text(silent, TextConfig()))
    assert shows_something(f"{silent}貓") and shows_something(f"{silent}❤️") and shows_something(".")
