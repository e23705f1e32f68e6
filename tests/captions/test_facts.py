"""The sentences of the engine without a model: sizes of the original, colour names, loudness, silence."""

import numpy as np
import pytest

from pipeline.captions.engine import EngineConfig
from pipeline.captions.facts import Facts
from pipeline.samples.medium import Medium


def say(medium: Medium) -> str:
    facts = Facts(EngineConfig(engine="facts"))
    return facts(facts.collate([medium]))[0].text


@pytest.mark.parametrize(
    ("rgb", "expected"),
    [
        ((255, 0, 0), "#ff0000 (red)"),
        ((0, 0, 0), "#000000 (black)"),
        ((255, 255, 255), "#ffffff (white)"),
        ((128, 128, 128), "#808080 (grey)"),
        ((122, 90, 50), "#7a5a32 (brown)"),
        ((0, 0, 255), "#0000ff (blue)"),
    ],
)
def test_a_picture_is_told_by_its_original_size_and_mean_colour(rgb: tuple[int, int, int], expected: str) -> None:
    pixels = np.full((4, 6, 3), rgb, np.uint8)
    assert say(Medium("image", "jpg", 1, pixels_hwc=pixels, width=640, height=427)) == f"picture, 640 x 427 px, mean colour {expected}"


def test_a_square_wave_at_half_of_full_scale_is_6_decibels_down() -> None:
    wave = np.resize(np.array([16384, -16384], np.int16), 16_000)
    assert say(Medium("audio", "wav", 1, wave_t=wave, sample_rate_hz=16_000, duration_s=1.0)) == "recording, 1.00 s, loudness -6.0 dBFS"


@pytest.mark.parametrize("n", [0, 1, 16_000])
def test_silence_is_silent_at_any_length(n: int) -> None:
    assert say(Medium("audio", "wav", 1, wave_t=np.zeros(n, np.int16), duration_s=n / 16_000)).endswith("silent")


def test_a_clip_is_told_by_size_length_and_first_frame() -> None:
    pixels = np.zeros((2, 2, 3), np.uint8)
    clip = Medium("video", "mp4", 1, pixels_hwc=pixels, width=320, height=240, duration_s=2.5)
    assert say(clip) == "clip, 320 x 240 px, 2.50 s, mean colour #000000 (black)"
