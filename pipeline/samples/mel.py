"""Waves -> log-mel features, batched, on whatever device the waves are on.

Between decoder and device a recording is int16; float32 begins here. Two kinds: Whisper's, equal to
`transformers.WhisperFeatureExtractor`, and a plain one for models trained from scratch.

    b  recordings     t  samples     f  frames of `hop` samples     m  mel bands

Frames are centred: frame i stands at sample i * hop, and the wave is mirrored at its ends. The filters are triangles on
Slaney's mel scale (linear to 1 kHz, logarithmic above), each divided by half its width in Hz, as in librosa and Whisper.
"""

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.errors import RequestError
from pipeline.samples.medium import Wave

WHISPER_RATE_HZ = 16_000
WHISPER_WINDOW_S = 30
WHISPER_MELS = (80, 128)
_WHISPER_FLOOR = 1e-10
_WHISPER_RANGE = 8.0
"""Decades below the loudest place that are kept."""
_SLANEY_KNEE_HZ, _SLANEY_LINEAR_HZ = 1_000.0, 200.0 / 3.0
_SLANEY_STEP = math.log(6.4) / 27.0


@dataclass(frozen=True, kw_only=True, slots=True)
class MelConfig:
    """Spectrogram and filters. Part of the recipe."""

    n_mels: int = 80
    """Bands; more tell finer and cost the model more. 64 and 80 are usual."""
    sample_rate_hz: int = 16_000
    """Rate of the waves."""
    window: int = 400
    """Samples of the periodic Hann window and of the transform; 400 is 25 ms at 16 kHz. Longer tells pitch finer, time coarser."""
    hop: int = 160
    """Samples from frame to frame; 160 is 10 ms at 16 kHz."""
    low_hz: float = 0.0
    """Lower edge of the lowest band."""
    high_hz: float = 8_000.0
    """Upper edge of the highest band, at most half the rate."""
    floor: float = 1e-10
    """Power below which everything counts as silence."""

    def __post_init__(self) -> None:
        """Raises RequestError for values that fit no spectrogram."""
        if self.n_mels < 1 or self.hop < 1 or self.window < 2:
            raise RequestError(f"n_mels {self.n_mels}, hop {self.hop}, window {self.window}: give at least 1, 1 and 2")
        if not 0 <= self.low_hz < self.high_hz <= self.sample_rate_hz / 2:
            raise RequestError(f"low_hz {self.low_hz:g}, high_hz {self.high_hz:g}: give 0 <= low < high <= {self.sample_rate_hz / 2:g}")
        if not self.floor > 0:
            raise RequestError(f"floor {self.floor}: give a power above 0")


def pad_waves(waves: Sequence[Wave]) -> torch.Tensor:
    """Waves of any lengths -> int16, b x t on the CPU, with zeros after the shorter ones."""
    longest = max((len(wave) for wave in waves), default=0)
    batch = torch.zeros(len(waves), longest, dtype=torch.int16)
    for row, wave in zip(batch.numpy(), waves, strict=True):
        row[: len(wave)] = wave
    return batch


def log_mel(wave_bt: torch.Tensor, config: MelConfig) -> torch.Tensor:
    """int16, or floats in -1..1, b x t -> float32, b x m x f with f = 1 + t // hop: the natural logarithm of mel power.

        out[b, m, f] = ln(max(sum_k filters[m, k] * |STFT[b, k, f]|^2, floor))

    The transform is not divided by its length or window, as in librosa. A wave too short to be mirrored (up to half a
    window) is followed by zeros.
    """
    return _mel_power(_floats(wave_bt), config).clamp_(min=config.floor).log_()


def whisper_log_mel(wave_bt: torch.Tensor, n_mels: int = 80, *, pad: bool = True) -> torch.Tensor:
    """int16, or floats in -1..1, mono at 16 kHz, b x t -> float32, b x m x f: what `WhisperFeatureExtractor` gives.

    With `pad` each wave is cut or followed by silence to 30 s: f = 3000. Without, f = t // 160 (at least 1), of any
    length. Values are (max(log10 power, its maximum over the recording - 8) + 4) / 4. 80 bands up to large-v2, 128 after.
    Raises ValueError for another number of bands.
    """
    config = _whisper_config(n_mels)
    full = WHISPER_WINDOW_S * WHISPER_RATE_HZ
    if pad:
        wave_bt = wave_bt[:, :full]
        # Frames that see nothing but padding are known: only what the wave reaches, and a window of zeros to mirror, is transformed.
        reach = -(-(wave_bt.shape[1] + config.window) // config.hop) * config.hop
        wave_bt = torch.nn.functional.pad(wave_bt, (0, min(full, reach) - wave_bt.shape[1]))
    elif wave_bt.shape[1] < config.hop:
        wave_bt = torch.nn.functional.pad(wave_bt, (0, config.hop - wave_bt.shape[1]))
    power = _mel_power(_floats(wave_bt), config)[..., :-1]
    log = power.clamp(min=_WHISPER_FLOOR).log10_()
    if pad:
        log = torch.nn.functional.pad(log, (0, full // config.hop - log.shape[-1]), value=math.log10(_WHISPER_FLOOR))
    loudest = log.amax(dim=(1, 2), keepdim=True)
    return torch.maximum(log, loudest - _WHISPER_RANGE).add_(4.0).div_(4.0)


def _whisper_config(n_mels: int) -> MelConfig:
    if n_mels not in WHISPER_MELS:
        raise ValueError(f"{n_mels} mel bands: Whisper models have {' or '.join(map(str, WHISPER_MELS))}")
    return MelConfig(n_mels=n_mels, floor=_WHISPER_FLOOR)


def _floats(wave_bt: torch.Tensor) -> torch.Tensor:
    if wave_bt.dtype == torch.int16:
        return wave_bt.to(torch.float32).div_(32_768.0)
    if not wave_bt.dtype.is_floating_point:
        raise ValueError(f"expected int16 or floats, got {wave_bt.dtype}")
    return wave_bt.to(torch.float32)


def _mel_power(wave_bt: torch.Tensor, config: MelConfig) -> torch.Tensor:
    """float32, b x t -> float32, b x m x (1 + t // hop)."""
    n_frames = 1 + wave_bt.shape[1] // config.hop
    missing = config.window // 2 + 1 - wave_bt.shape[1]
    if missing > 0:
        wave_bt = torch.nn.functional.pad(wave_bt, (0, missing))
    window = torch.hann_window(config.window, device=wave_bt.device)
    spectrum = torch.stft(wave_bt, config.window, config.hop, window=window, center=True, pad_mode="reflect", return_complex=True)
    spectrum = spectrum[..., :n_frames]
    # Squares part by part: abs() and a sum over pairs take five times as long as this.
    power = spectrum.real.square().addcmul_(spectrum.imag, spectrum.imag)
    return torch.from_numpy(_filters(config)).to(power.device) @ power


@functools.lru_cache(maxsize=16)
def _filters(config: MelConfig) -> NDArray[np.float32]:
    """m x (window // 2 + 1): triangles between neighbouring centres, evenly spaced on Slaney's scale."""
    bins_hz = np.linspace(0.0, config.sample_rate_hz / 2, config.window // 2 + 1)
    edges_hz = _to_hz(np.linspace(_to_mel(config.low_hz), _to_mel(config.high_hz), config.n_mels + 2))
    lower, centre, upper = edges_hz[:-2, None], edges_hz[1:-1, None], edges_hz[2:, None]
    rising, falling = (bins_hz - lower) / (centre - lower), (upper - bins_hz) / (upper - centre)
    filters = np.maximum(0.0, np.minimum(rising, falling)) * (2.0 / (upper - lower))
    return filters.astype(np.float32)


def _to_mel(hz: float) -> float:
    if hz < _SLANEY_KNEE_HZ:
        return hz / _SLANEY_LINEAR_HZ
    return _SLANEY_KNEE_HZ / _SLANEY_LINEAR_HZ + math.log(hz / _SLANEY_KNEE_HZ) / _SLANEY_STEP


def _to_hz(mel: NDArray[np.float64]) -> NDArray[np.float64]:
    knee = _SLANEY_KNEE_HZ / _SLANEY_LINEAR_HZ
    hz: NDArray[np.float64] = np.where(mel < knee, mel * _SLANEY_LINEAR_HZ, _SLANEY_KNEE_HZ * np.exp(_SLANEY_STEP * (mel - knee)))
    return hz
