"""The engine without a model: a deterministic technical description. For dry runs, tests and teaching."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from pipeline.captions.engine import Caption, EngineConfig
from pipeline.samples.medium import Medium, Needs

COLOURS = {
    "black": (0, 0, 0),
    "white": (255, 255, 255),
    "grey": (128, 128, 128),
    "red": (200, 40, 40),
    "orange": (230, 140, 40),
    "yellow": (230, 220, 60),
    "green": (60, 150, 60),
    "cyan": (60, 190, 190),
    "blue": (50, 80, 190),
    "purple": (130, 60, 160),
    "pink": (235, 150, 180),
    "brown": (120, 85, 55),
}
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
    red, green, blue = (int(round(float(value))) for value in pixels_hwc.reshape(-1, 3).mean(axis=0, dtype=np.float64))
    name = min(COLOURS, key=lambda name: sum((a - b) ** 2 for a, b in zip(COLOURS[name], (red, green, blue), strict=True)))
    return f"#{red:02x}{green:02x}{blue:02x} ({name})"
