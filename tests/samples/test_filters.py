"""Filters:

- nothing is removed unless asked for; each removes what its limit says, names its reason, and keeps what lies at the limit;
- a fact that is None keeps the sample; asking before decoding and after it finds the same samples as asking once;
- contradictory and impossible limits, unknown scripts and bad patterns are refused, with the flag, before anything runs;
- a profile sets limits, what is given beside it wins, 0 switches off; what is resolved has no profile;
- `explain` counts each filter by itself and as the first, with examples.
"""

import dataclasses
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import Reason, RequestError
from pipeline.samples import filters
from pipeline.samples.explain import explain
from pipeline.samples.facts import Facts
from pipeline.samples.filters import FilterConfig, build_filters, judge, needs_tokens, resolved
from pipeline.samples.qualities import clipping, contrast, repetition, silence

RATE_HZ = 16_000


def picture(spread: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    pixels = np.full((40, 60, 3), 100, np.uint8)
    pixels[::2, :, 1] += spread
    return pixels


def wave(loud_s: float, quiet_s: float, level: int = 8_000) -> np.ndarray[Any, np.dtype[np.int16]]:
    loud = level * np.sin(np.arange(int(loud_s * RATE_HZ)) / 5)
    return np.concatenate([loud, np.zeros(int(quiet_s * RATE_HZ))]).astype(np.int16)


def removed(facts: Facts, **limits: Any) -> Reason | None:
    found = judge(facts, build_filters(FilterConfig(**limits)))
    return None if found is None else found.reason


CASES: list[tuple[dict[str, Any], dict[str, Any], dict[str, Any], Reason]] = [
    ({"min_media_bytes": 10}, {"size_bytes": 10}, {"size_bytes": 9}, Reason.FILTERED_SIZE),
    ({"max_media_bytes": 10}, {"size_bytes": 10}, {"size_bytes": 11}, Reason.FILTERED_SIZE),
    ({"min_side_px": 64}, {"width": 64, "height": 900}, {"width": 900, "height": 63}, Reason.FILTERED_RESOLUTION),
    ({"max_side_px": 64}, {"width": 64, "height": 9}, {"width": 9, "height": 65}, Reason.FILTERED_RESOLUTION),
    ({"max_aspect": 3}, {"width": 30, "height": 90}, {"width": 91, "height": 30}, Reason.FILTERED_ASPECT),
    ({"min_contrast": 3}, {"pixels_hwc": picture(7)}, {"pixels_hwc": picture(5)}, Reason.FILTERED_BLANK),
    ({"min_duration_s": 1}, {"duration_s": 1.0}, {"duration_s": 0.99}, Reason.FILTERED_DURATION),
    ({"max_duration_s": 1}, {"duration_s": 1.0}, {"duration_s": 1.01}, Reason.FILTERED_DURATION),
    ({"min_source_rate_hz": 16_000}, {"source_rate_hz": 16_000}, {"source_rate_hz": 8_000}, Reason.FILTERED_SAMPLE_RATE),
    (
        {"max_silence": 0.5},
        {"wave_t": wave(1, 0.9), "duration_s": 1.9},
        {"wave_t": wave(1, 1.1), "duration_s": 2.1},
        Reason.FILTERED_SILENCE,
    ),
    (
        {"max_clipping": 0.01},
        {"wave_t": wave(1, 0), "duration_s": 1.0},
        {"wave_t": np.clip(wave(1, 0).astype(int) * 8, -32_768, 32_767).astype(np.int16), "duration_s": 1.0},
        Reason.FILTERED_CLIPPING,
    ),
    ({"min_chars": 3}, {"text": "貓在墊"}, {"text": "貓在"}, Reason.FILTERED_TEXT_LENGTH),
    ({"max_chars": 3}, {"text": "abc"}, {"text": "abcd"}, Reason.FILTERED_TEXT_LENGTH),
    ({"min_text_tokens": 5}, {"n_tokens": 5}, {"n_tokens": 4}, Reason.FILTERED_TOKENS),
    ({"max_text_tokens": 5}, {"n_tokens": 5}, {"n_tokens": 6}, Reason.FILTERED_TOKENS),
    ({"max_repetition": 0.5}, {"text": "a cat on a mat in the sun"}, {"text": "ha ha ha ha ha ha ha"}, Reason.FILTERED_REPETITION),
    ({"scripts": ("Latin",)}, {"text": "eine schöne 猫, 2026"}, {"text": "猫在垫子上 cat"}, Reason.FILTERED_SCRIPT),
    ({"scripts": ("Han", "Hiragana", "Katakana")}, {"text": "マットの上の猫"}, {"text": "кошка 猫"}, Reason.FILTERED_SCRIPT),
    ({"scripts": ("Arabic",)}, {"text": "123 ... !"}, {"text": "cat قط"}, Reason.FILTERED_SCRIPT),
    ({"forbid": ("(?i)stock photo", "^IMG_")}, {"text": "a photo"}, {"text": "Stock Photo of a cat"}, Reason.FILTERED_PATTERN),
]


@pytest.mark.parametrize(
    ("limits", "kept", "gone", "reason"), CASES, ids=lambda value: next(iter(value)) if isinstance(value, dict) else ""
)
def test_each_filter_removes_what_its_limit_says(
    limits: dict[str, Any], kept: dict[str, Any], gone: dict[str, Any], reason: Reason
) -> None:
    assert removed(Facts(modality=None, **kept), **limits) is None
    assert removed(Facts(modality=None, **gone), **limits) is reason
    assert removed(Facts(modality=None, **gone)) is None, "off unless asked for"
    assert removed(Facts(modality=None), **limits) is None, "nothing known, nothing removed"


@given(
    st.builds(
        Facts,
        modality=st.just("image"),
        size_bytes=st.integers(0, 20),
        width=st.integers(1, 20),
        height=st.integers(1, 20),
        text=st.one_of(st.none(), st.text(max_size=12)),
        n_tokens=st.one_of(st.none(), st.integers(2, 9)),
    )
)
def test_asking_before_decoding_and_after_finds_the_same_samples(facts: Facts) -> None:
    chosen = build_filters(FilterConfig(min_media_bytes=5, min_side_px=4, max_aspect=3, min_chars=2, max_text_tokens=6, scripts=("Latin",)))
    before = dataclasses.replace(facts, width=None, height=None)
    after = dataclasses.replace(facts, text=None, n_tokens=None, size_bytes=None)
    assert (judge(before, chosen) is None and judge(after, chosen) is None) == (judge(facts, chosen) is None)


@pytest.mark.parametrize(
    ("limits", "named"),
    [
        ({"min_chars": 9, "max_chars": 3}, "--min-chars 9 is above --max-chars 3"),
        ({"min_side_px": 9, "max_side_px": 3}, "--min-side-px"),
        ({"min_duration_s": 9.0, "max_duration_s": 3.0}, "--min-duration-s"),
        ({"min_media_bytes": 9, "max_media_bytes": 3}, "--min-media-bytes"),
        ({"min_text_tokens": 9, "max_text_tokens": 3}, "--min-text-tokens"),
        ({"profile": "strict", "max_side_px": 100}, "--min-side-px is from --profile strict; 0 switches it off"),
        ({"profile": "nice"}, "none, light, strict"),
        ({"max_aspect": 0.5}, "--max-aspect"),
        ({"max_silence": 1.5}, "--max-silence"),
        ({"min_contrast": -1.0}, "--min-contrast"),
        ({"min_contrast": float("nan")}, "--min-contrast"),
        ({"scripts": ("Elvish",)}, "'Elvish' is no Unicode script"),
        ({"scripts": ("Latin}",)}, "no Unicode script"),
        ({"forbid": ("(",)}, "--forbid '(' is no regular expression"),
    ],
)
def test_limits_that_cannot_be_meant_are_refused(limits: dict[str, Any], named: str) -> None:
    with pytest.raises(RequestError, match=".") as caught:
        FilterConfig(**limits)
    assert named in str(caught.value) and "\n" not in str(caught.value)


def test_a_pattern_that_does_not_end_stops_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(filters, "PATTERN_TIMEOUT_S", 0.05)
    with pytest.raises(RequestError, match="did not end"):
        removed(Facts(modality=None, text="a" * 60 + "!"), forbid=("^(a|aa)+$",))


def test_what_is_given_beside_a_profile_wins() -> None:
    narrow = Facts(modality="image", width=50, height=400)
    assert removed(narrow, profile="light") is None
    assert removed(narrow, profile="strict") is Reason.FILTERED_RESOLUTION
    assert removed(narrow, profile="strict", min_side_px=0) is Reason.FILTERED_ASPECT
    assert removed(narrow, profile="strict", min_side_px=40, max_aspect=0) is None
    plain = resolved(FilterConfig(profile="strict", min_side_px=40))
    assert (plain.profile, plain.min_side_px, plain.max_aspect, plain.max_chars) == ("none", 40, 3.0, 0)
    assert resolved(plain) == plain
    assert build_filters(FilterConfig()) == ()
    assert needs_tokens(FilterConfig(max_text_tokens=9)) and not needs_tokens(FilterConfig(profile="strict"))


def test_measures_have_the_values_of_their_definitions() -> None:
    assert contrast(picture(0)) == 0 and contrast(picture(50)) == pytest.approx(25)
    assert silence(wave(1, 3), 400) == pytest.approx(0.75) and silence(np.zeros(10, np.int16), 400) == 1
    assert silence(np.full(800, 32_767, np.int16), 400) == 0, "squares of int16 do not overflow"
    assert clipping(np.array([32_767, -32_768, 0, 100], np.int16)) == 0.5
    assert repetition("aaaaaa") == pytest.approx(0.75) and repetition("") == 0 and repetition("abcdefghij" * 3) == pytest.approx(11 / 21)


def test_explain_counts_each_by_itself_and_as_the_first() -> None:
    chosen = build_filters(FilterConfig(min_chars=4, max_aspect=2))
    samples = [
        ("s:0", Facts(modality="image", text="abcdef", width=10, height=10)),
        ("s:1", Facts(modality="image", text="ab", width=90, height=10)),
        ("s:2", Facts(modality="image", text="abcdef", width=90, height=10)),
        *((f"s:{at}", Facts(modality="image", text="", width=1, height=1)) for at in range(3, 9)),
    ]
    found = explain(chosen, iter(samples))
    assert (found.seen, found.kept) == (9, 1)
    length, aspect = found.effects
    assert (length.reason, length.removes, length.first) == (Reason.FILTERED_TEXT_LENGTH, 7, 7)
    assert (aspect.reason, aspect.removes, aspect.first) == (Reason.FILTERED_ASPECT, 2, 1)
    assert [example.origin for example in length.examples] == ["s:1", "s:3", "s:4"]
    assert aspect.examples[0].text == "ab" and "above 2" in aspect.examples[0].detail
    assert found.kept + sum(effect.first for effect in found.effects) == found.seen
