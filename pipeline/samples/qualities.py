"""What filters measure: contrast of pictures, silence and clipping of waves, repetition of texts. Pure numbers."""

import numpy as np
from PIL import Image, ImageStat

from pipeline.samples.medium import Pixels, Wave

SILENCE_DBFS = -50.0
"""Windows whose root mean square is below are silent: about a quiet room through a microphone."""
FULL_SCALE = round(0.99 * 32_767)
"""Magnitude from which a sample counts as clipped: resampling moves clipped tops a little."""
GRAM_CHARACTERS = 10
"""Length of the sequences that `repetition` compares; shorter texts take half of their length."""


def contrast(pixels_hwc: Pixels) -> float:
    """Standard deviation of the most varied colour in grey levels, 0 to 127.5. From histograms: 0.2 ms for 256 x 340 px (2026-11)."""
    return float(max(ImageStat.Stat(Image.fromarray(pixels_hwc)).stddev))


def silence(wave_t: Wave, window_samples: int) -> float:
    """Share of windows below SILENCE_DBFS, 0 to 1; what is left at the end counts as a window if it is all there is."""
    window_samples = max(1, min(window_samples, len(wave_t)))
    whole = wave_t[: len(wave_t) - len(wave_t) % window_samples].reshape(-1, window_samples)
    # float32 by way of int16: squares of int16 overflow, and float64 would take four times the wave.
    power = np.einsum("wt,wt->w", whole, whole, dtype=np.float32, casting="unsafe") / window_samples
    return float(np.mean(power < (32_768 * 10 ** (SILENCE_DBFS / 20)) ** 2))


def clipping(wave_t: Wave) -> float:
    """Share of samples at full scale, 0 to 1."""
    return float(np.count_nonzero((wave_t >= FULL_SCALE) | (wave_t <= -FULL_SCALE)) / len(wave_t))


def repetition(text: str) -> float:
    """Share of a text's character sequences that occurred in it before, 0 to 1; 0 for texts of less than 4 characters."""
    length = min(GRAM_CHARACTERS, len(text) // 2)
    if length < 2:
        return 0.0
    total = len(text) - length + 1
    return 1 - len({text[at : at + length] for at in range(total)}) / total
