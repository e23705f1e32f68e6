"""The engine without a model: a deterministic technical description. For dry runs, tests and teaching."""

import colorsys
from collections.abc import Sequence
from typing import Any

import numpy as np

from pipeline.captions.engine import Caption, EngineConfig
from pipeline.samples.medium import Medium, Needs

HUES = (
    (15, "red"),
    (45, "orange"),
    (70, "yellow"),
    (165, "green"),
    (200, "cyan"),
    (260, "blue"),
    (300, "purple"),
    (345, "pink"),
    (360, "red"),
)
"""Upper bound of the hue in degrees, and its name."""
FULL_SCALE = 32768.0


class Facts:
    """Kind, size, mean colour, duration, loudness."""

    micro_batch = 64
    rows_per_call = 256

    def __init__(self, config: EngineConfig) -> None:
        del config

    @classmethod
    def needs(cls, config: EngineConfig) -> Needs:
        """Small pictures suffice for a mean colour."""
        return Needs(accepts=("image", "audio", "video"), short_side_px=256)

    @classmethod
    def identity(cls, config: EngineConfig) -> dict[str, Any]:
        """No weights; the version of the wording."""
        return {"facts": 1}

    def collate(self, media: Sequence[Medium]) -> list[Medium]:
        """Nothing to prepare."""
        return list(media)

    def __call__(self, batch: list[Medium]) -> list[Caption]:
        """One sentence a medium."""
        return [Caption(_describe(medium), finish_reason="stop") for medium in batch]


def _describe(medium: Medium) -> str:
    if medium.wave_t is not None:
        return f"recording, {medium.duration_s or 0.0:.2f} s, {_loudness(medium.wave_t)}"
    kind = "clip" if medium.modality == "video" else "picture"
    size = f", {medium.width} x {medium.height} px"
    length = f", {medium.duration_s:.2f} s" if medium.duration_s is not None else ""
    colour = f", mean colour {_colour(medium.pixels_hwc)}" if medium.pixels_hwc is not None else ""
    return kind + size + length + colour


def _loudness(wave_t: np.ndarray) -> str:
    """Root mean square against full scale, in decibels."""
    power = float(np.mean(np.square(wave_t.astype(np.float64) / FULL_SCALE))) if wave_t.size else 0.0
    return f"loudness {10 * np.log10(power):.1f} dBFS" if power > 0 else "silent"


def _colour(pixels_hwc: np.ndarray) -> str:
    """The mean colour as hex, and the name of its hue; black, grey and white where it has hardly any."""
    red, green, blue = (round(float(value)) for value in pixels_hwc.reshape(-1, 3).mean(axis=0, dtype=np.float64))
    hue, lightness, saturation = colorsys.rgb_to_hls(red / 255, green / 255, blue / 255)
    name = next(name for bound, name in HUES if hue * 360 <= bound)
    if lightness < 0.08:
        name = "black"
    elif lightness > 0.95:
        name = "white"
    elif saturation < 0.08:
        name = "grey"
    elif name == "orange" and lightness < 0.5:
        name = "brown"
    return f"#{red:02x}{green:02x}{blue:02x} ({name})"
