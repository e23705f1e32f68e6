"""Flags of captions, one text at a time:

- ordinary captions and transcripts, in several scripts, have none;
- each kind of fault has its flag, and its flag alone where it is the only fault;
- what is a fault in a caption may be what somebody said: transcripts are judged by their own measure;
- an echo is of the instruction's fixed words, not of what the sample put into it;
- judging stays quick on text made to be slow.
"""

import time

import pytest

from pipeline.captions.policy import QualityConfig, judge
from pipeline.captions.quality import Bounds, Flag, Said, flags_of
from pipeline.errors import Reason, RequestError

GOOD = [
    "A man riding a wave on top of a surfboard.",
    "two dogs playing with a red ball, in the park",
    "Eine Frau mit rotem Hut sitzt auf einer Bank und liest.",
    "一只狗在草地上奔跑，后面有两个孩子。",
    "赤い帽子をかぶった女性がベンチに座っている。",
    "Женщина в красной шляпе сидит на скамейке.",
    "A sign that says 'I'm sorry, we are closed' hangs on a shop door.",
    "The number 42 bus stops at 5:30 pm in front of a shop.",
    "A black and white cat and a black and white dog on a sofa.",
    "Row 3 of 4: a jar of honey, a jar of jam, a jar of salt.",
]


@pytest.mark.parametrize("text", GOOD)
def test_an_ordinary_caption_has_no_flag(text: str) -> None:
    assert flags_of(Said(text)) == ()


@pytest.mark.parametrize(
    ("text", "flag"),
    [
        ("a cat on a sofa on a sofa on a sofa on a sofa", Flag.REPEATS),
        ("the the the the cat sat down", Flag.REPEATS),
        ("hahahahahahahahahahahaha he said", Flag.REPEATS),
        ("一只狗一只狗一只狗一只狗", Flag.REPEATS),
        ("I'm sorry, but I can't help with that.", Flag.REFUSAL),
        ("As an AI language model, I do not see pictures.", Flag.REFUSAL),
        ("抱歉，我无法描述这个内容，请换一个。", Flag.REFUSAL),
        ("Es tut mir leid, das geht nicht.", Flag.REFUSAL),
        ("This image shows a cat on a sofa.", Flag.BOILERPLATE),
        ("Sure! A cat on a sofa.", Flag.BOILERPLATE),
        ("A close-up photo of a cat.", Flag.BOILERPLATE),
        ("...", Flag.EMPTY),
        (" \n", Flag.EMPTY),
        ("cat", Flag.SHORT),
        ("a cat <|im_end|>", Flag.LEAK),
        ("**Cat** on a sofa", Flag.LEAK),
        ('{"caption": "a cat on a sofa"}', Flag.LEAK),
        ("a cat at [12, 30, 200, 310] on a sofa", Flag.LEAK),
        ("the file IMG_2034.jpg on a sofa", Flag.LEAK),
        ("a caf\u00c3\u00a9 in the street", Flag.LEAK),
        ("a cat sits and then 那只猫坐在沙发上面", Flag.LANGUAGE),
    ],
)
def test_each_fault_has_its_flag_alone(text: str, flag: Flag) -> None:
    assert flags_of(Said(text)) == (flag,)


def test_a_caption_is_cut_if_the_engine_says_so_and_long_by_its_words() -> None:
    assert flags_of(Said("a cat on a", cut=True)) == (Flag.CUT,)
    long = " ".join(f"word{chr(97 + at % 26)}{chr(97 + at // 26)}" for at in range(301))
    assert flags_of(Said(long)) == (Flag.LONG,)


@pytest.mark.parametrize(
    ("text", "duration_s", "flags"),
    [
        ("I'm sorry, I can't come tomorrow, my number is 030 123 456 789.", 5.0, ()),
        ("no no no no, I see", 2.0, ()),
        ("hello", 3.0, ()),
        ("hello", 60.0, (Flag.SHORT,)),
        ("thank you for watching this and see you in the next one " * 2, 2.0, (Flag.REPEATS, Flag.LONG)),
        ("no no no no no no no no", 4.0, (Flag.REPEATS,)),
    ],
)
def test_a_transcript_is_judged_as_speech(text: str, duration_s: float, flags: tuple[Flag, ...]) -> None:
    assert flags_of(Said(text, "audio", duration_s, transcript=True)) == flags


@pytest.mark.parametrize(
    ("reference", "short"),
    [
        ("", True),
        ("!", True),
        ("racing horse", False),
        ("face with tears of joy", False),
        ("a brown horse runs through shallow water", True),
    ],
)
def test_one_word_is_too_short_but_for_a_medium_that_came_with_a_name(reference: str, short: bool) -> None:
    assert flags_of(Said("horse", reference=reference)) == ((Flag.SHORT,) if short else ())


@pytest.mark.parametrize(
    ("text", "language", "foreign"),
    [
        ("A woman in a red hat reads on a bench.", "en", False),
        ("A woman in a red hat reads on a bench.", "de", True),
        ("Eine Frau mit rotem Hut liest auf einer Bank.", "de", False),
        ("Eine Frau mit rotem Hut liest auf einer Bank.", "zh", True),
        ("一位戴红帽的女士在长椅上看书。", "zh", False),
        ("一位戴红帽的女士在长椅上看书。", "en", True),
        ("ベンチで本を読む女性。", "zh", True),
        ("a red heart", "de", False),
    ],
)
def test_a_language_is_held_against_the_expected_one(text: str, language: str, foreign: bool) -> None:
    assert (Flag.LANGUAGE in flags_of(Said(text), Bounds(language=language))) is foreign


def test_an_echo_has_five_words_of_the_instruction() -> None:
    told = "Describe this picture in one short sentence."
    assert flags_of(Said("Describe this picture in one short sentence. A cat.", instruction=told)) == (Flag.ECHO,)
    assert flags_of(Said("A cat in one short skirt.", instruction=told)) == ()


def test_judging_is_quick_on_text_made_to_be_slow() -> None:
    started = time.process_time()
    for text in (
        "a" * 20_000,
        "ab " * 7_000,
        "<" * 20_000,
        "1,2 " * 5_000,
        "[0.1," * 4_000,
        "* x\n" * 4_000,
        "sorry " * 3_000,
        "字" * 20_000,
    ):
        flags_of(Said(text), Bounds(language="en"))
    assert time.process_time() - started < 5


def test_policies_decide_what_becomes_of_a_flag() -> None:
    config = QualityConfig(on_repeats="retry", on_refusal="reject", on_short="keep")
    assert judge((), config) == ((), 0, None)
    assert judge((Flag.SHORT,), config) == ((), 0, None)
    assert judge((Flag.REPEATS, Flag.CUT), config) == (("repeats", "cut"), 1, None)
    assert judge((Flag.REFUSAL,), config) == (("refusal",), 0, Reason.FLAGGED_REFUSAL)


@pytest.mark.parametrize("more", [{"on_cut": "drop"}, {"retries": 11}, {"retry_temperature": 0.0}, {"min_words": 9, "max_words": 3}])
def test_impossible_policies_are_refused(more: dict[str, object]) -> None:
    with pytest.raises(RequestError, match="--"):
        QualityConfig(**more)  # type: ignore[arg-type]
