"""One decoded medium, and what an engine wants decoded.

Between decoder and engine everything is uint8 or int16; float32 exists only on the device side.
"""

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Pixels: TypeAlias = NDArray[np.uint8]
Wave: TypeAlias = NDArray[np.int16]

FIELDS: dict[str, str] = {
    **dict.fromkeys(("jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff", "ppm"), "image"),
    **dict.fromkeys(("wav", "flac", "mp3", "ogg", "opus", "m4a"), "audio"),
    **dict.fromkeys(("mp4", "webm", "mkv", "avi", "mov"), "video"),
}
"""Modality by the last part of a field name: `jpg`, `left.png`."""


def modality_of(field: str) -> str | None:
    """`image`, `audio` or `video` by the field's extension; None for text and anything else."""
    return FIELDS.get(field.rsplit(".", 1)[-1])


@dataclass(frozen=True, slots=True)
class Needs:
    """What an engine wants decoded. Part of the recipe: it decides what the model sees."""

    accepts: tuple[str, ...]
    """Modalities, of `image`, `audio`, `video`; others are skipped."""
    sample_rate_hz: int = 16_000
    """Rate of the waves it gets."""
    short_side_px: int | None = None
    """Pictures are shrunk with antialiasing to this shorter side before they travel, never enlarged; None keeps them."""
    piece_s: float = 120.0
    """Longest piece of a recording in seconds; longer ones are cut at the quietest place near the end of the piece."""
    video_as: str = "video"
    """`video`: frames, size and duration; `audio`: its sound track, for speech engines."""
    n_frames: int = 1
    """Frames of a clip: 1 is its first; more are taken evenly, from the middle of equal parts."""
    sound: bool = False
    """With more frames than one: the sound track too, where there is one."""
    segment_s: float | None = None
    """Clips above this length are cut into segments of equal length, at most so long, each with its frames; None keeps them whole."""
    frames_always: bool = False
    """Frames with their times also where it is one."""
    whole: bool = False
    """A clip that is cut into segments comes once more after them, whole."""


@dataclass(frozen=True, slots=True)
class Ask:
    """One caption that is asked for."""

    prompt: str = ""
    """With the sample's own values in it."""
    prompt_id: str | None = None
    """Name of the prompt; None where there is none."""
    instruction: str = ""
    """The fixed words of an instruction; empty where the prompt is the caption's own beginning."""
    number: int = 0
    """0-based, of the sample's captions."""
    seed: int = 0
    """Of its random draws: from the run's seed, the sample's content, the prompt and the number. 0..2**31 - 1."""
    temperature: float = 0.0
    attempt: int = 0
    """How often it was asked for before."""


@dataclass(frozen=True, slots=True)
class Medium:
    """One picture, one piece of a recording, or one clip."""

    modality: str
    field: str
    """Field name in the sample: `jpg`, `wav`."""
    size_bytes: int
    """Bytes of the encoded medium."""
    pixels_hwc: Pixels | None = None
    """uint8 RGB, height x width x 3, shrunk as `Needs` says; None for recordings."""
    wave_t: Wave | None = None
    """int16 mono at `sample_rate_hz`; None for pictures."""
    sample_rate_hz: int | None = None
    width: int | None = None
    """Pixels of the original after EXIF orientation; None for recordings."""
    height: int | None = None
    duration_s: float | None = None
    """Seconds of this piece, or of the clip; None for pictures."""
    start_s: float | None = None
    """Where this piece starts in its recording, seconds; None for pictures."""
    last: bool = True
    """The last or only piece."""
    times_s: tuple[float, ...] | None = None
    """Seconds from a clip's start, one a frame: its frames then stand one below the other in `pixels_hwc`. None for a single one."""
    text: str | None = None
    """The reference text that came with the sample, for prompts that use it."""
    ask: Ask | None = None
    """What is asked of it; None is what the engine's options say."""
