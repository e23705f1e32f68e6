"""Any container -> mono int16 at one rate, stored as FLAC.

Decoding, mixing and resampling are `audio.py`'s. FLAC gives back every sample, in a third of the bytes of WAV (30 s of
telephone speech, 2026-11); a lossy codec would add its own noise to what the source's codec left. Neither time nor the
library's version is written.
"""

import io
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import av
import numpy as np

from pipeline.errors import Reason, RequestError, SampleError
from pipeline.samples.audio import MIN_RATE_HZ, decode_audio
from pipeline.samples.medium import Needs, Wave, modality_of

MAX_FLAC_RATE_HZ = 655_350
"""Highest rate that FLAC's header holds."""
_CHUNK_SAMPLES = 4_608 * 16
_CONTAINER = {"fflags": "+bitexact", "metadata_header_padding": "0"}
"""Left to itself FFmpeg writes its version, and 8 KiB of padding: a quarter of a clip of 3 s."""


@dataclass(frozen=True, kw_only=True, slots=True)
class WaveConfig:
    """What recordings are brought to. Part of the recipe."""

    sample_rate_hz: int = 16_000
    """Rate of the stored wave; 16,000 is what speech models are trained on."""
    max_s: float = 3_600.0
    """Longest recording in seconds; a longer one is a reject. Bounds memory: an hour at 16 kHz is 115 MB while it is decoded."""

    def __post_init__(self) -> None:
        """Raises RequestError for a value out of range."""
        if not MIN_RATE_HZ <= self.sample_rate_hz <= MAX_FLAC_RATE_HZ:
            raise RequestError(f"sample_rate_hz {self.sample_rate_hz}: give {MIN_RATE_HZ} to {MAX_FLAC_RATE_HZ}")
        if not self.max_s > 0:
            raise RequestError(f"max_s {self.max_s}: give seconds above 0")


@dataclass(frozen=True, slots=True)
class Recording:
    """A recording as it is stored."""

    flac: bytes
    """16 bits, mono."""
    sample_rate_hz: int
    n_samples: int
    duration_s: float
    """n_samples / sample_rate_hz."""


def normalise_recording(data: bytes, field: str, config: WaveConfig) -> Recording:
    """The sound track of a recording or clip as mono FLAC. Raises as `decode_wave` does."""
    wave_t = decode_wave(data, field, config)
    rate = config.sample_rate_hz
    return Recording(encode_flac(wave_t, rate), rate, len(wave_t), len(wave_t) / rate)


def decode_wave(data: bytes, field: str, config: WaveConfig) -> Wave:
    """The whole sound track, int16 mono at the configured rate: what was stored as FLAC at that rate comes back as it was.

    Raises SampleError for a field that is neither recording nor clip, no sound track, no samples, a truncated or a too long
    recording, and whatever the codec raises.
    """
    modality = modality_of(field)
    if modality not in ("audio", "video"):
        raise SampleError(Reason.NO_MEDIUM, f".{field} is neither a recording nor a clip")
    needs = Needs(accepts=(modality,), sample_rate_hz=config.sample_rate_hz, piece_s=config.max_s, video_as="audio")
    medium = next(decode_audio(data, field, needs, modality=modality))
    if not medium.last:
        raise SampleError(Reason.TOO_LARGE, f"longer than {config.max_s:g} s")
    assert medium.wave_t is not None
    return medium.wave_t


def encode_flac(wave_t: Wave, sample_rate_hz: int) -> bytes:
    """int16 mono -> FLAC, which gives back exactly these samples. Equal input, equal bytes.

    Raises ValueError for no samples, another dtype or shape, or a rate that FLAC's header does not hold.
    """
    if wave_t.dtype != np.int16 or wave_t.ndim != 1 or not len(wave_t):
        raise ValueError(f"expected int16 mono with at least one sample; got {wave_t.dtype}, {wave_t.shape}")
    if not MIN_RATE_HZ <= sample_rate_hz <= MAX_FLAC_RATE_HZ:
        raise ValueError(f"a sample rate of {sample_rate_hz} Hz: FLAC holds up to {MAX_FLAC_RATE_HZ}")
    stream = io.BytesIO()
    with av.open(stream, "w", format="flac", options=_CONTAINER) as container:
        track: Any = container.add_stream("flac", rate=sample_rate_hz, layout="mono", options={"flags": "+bitexact"})
        track.codec_context.format = "s16"
        for start in range(0, len(wave_t), _CHUNK_SAMPLES):
            chunk = np.ascontiguousarray(wave_t[None, start : start + _CHUNK_SAMPLES])
            frame = av.AudioFrame.from_ndarray(chunk, format="s16", layout="mono")
            frame.sample_rate, frame.pts, frame.time_base = sample_rate_hz, start, Fraction(1, sample_rate_hz)
            container.mux(track.encode(frame))
        container.mux(track.encode(None))
    return stream.getvalue()
