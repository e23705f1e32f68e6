"""What is known of one sample when it is decided whether to keep it: the seam between `prepare` and its filters.

A filter is asked twice: before the medium is decoded (what is decoded or measured is None then), so that a text that
is not wanted costs no decoding, and after. A filter whose fact is None has no opinion.
"""

from dataclasses import dataclass

from pipeline.samples.medium import Pixels, Wave


@dataclass(frozen=True, kw_only=True, slots=True)
class Facts:
    """One sample. None is: not known, not there, or not known yet."""

    modality: str | None
    """image, audio, video; None for text alone."""
    size_bytes: int | None = None
    """Bytes of the encoded medium as it came."""
    width: int | None = None
    """Pixels of the original, upright; None for recordings, and before decoding."""
    height: int | None = None
    pixels_hwc: Pixels | None = None
    """uint8 RGB as it will be stored, before JPEG; the middle frame of a clip; None before decoding."""
    duration_s: float | None = None
    """Seconds of the recording or clip."""
    source_rate_hz: int | None = None
    """Sampling rate before resampling."""
    wave_t: Wave | None = None
    """int16 mono as it will be stored."""
    text: str | None = None
    """Normalised."""
    n_tokens: int | None = None
    """Before truncation; None without a tokenizer."""
