"""Log-mel features:

- Whisper's equal `WhisperFeatureExtractor`'s to 1e-4, for 80 and 128 bands, short and long, int16 and float, batched and alone
- the general one equals its formula written down plainly; silence is finite; a wave shorter than a window has features
"""

import numpy as np
import pytest
import torch
from transformers import WhisperFeatureExtractor

from pipeline.samples.mel import MelConfig, log_mel, whisper_log_mel
from tests.samples.synthetic import tone


def speech_like(seconds: float, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    wave = tone(seconds, 16_000, 180.0, 0.3).astype(np.float64) + tone(seconds, 16_000, 2_100.0, 0.1)
    envelope = np.abs(np.sin(np.arange(len(wave)) / 3_000))
    return np.rint(wave * envelope + rng.normal(0, 30, len(wave))).clip(-32_768, 32_767).astype(np.int16)


@pytest.mark.parametrize("n_mels", [80, 128])
@pytest.mark.parametrize("seconds", [0.3, 7.31, 31.0])
def test_whispers_features_are_the_extractors(n_mels: int, seconds: float) -> None:
    wave = speech_like(seconds)
    extractor = WhisperFeatureExtractor(feature_size=n_mels)
    reference = extractor(wave.astype(np.float32) / 32_768, sampling_rate=16_000, return_tensors="pt").input_features
    ours = whisper_log_mel(torch.from_numpy(wave)[None], n_mels)
    assert ours.shape == reference.shape == (1, n_mels, 3_000)
    assert float((ours - reference).abs().max()) < 1e-4


def test_floats_and_batches_give_the_same() -> None:
    waves = torch.from_numpy(np.stack([speech_like(2.0, seed) for seed in range(3)]))
    together = whisper_log_mel(waves)
    for number in range(3):
        alone = whisper_log_mel(waves[number : number + 1].to(torch.float32) / 32_768)
        assert float((together[number] - alone[0]).abs().max()) < 1e-5


def test_without_padding_it_is_as_long_as_the_wave() -> None:
    assert whisper_log_mel(torch.zeros(2, 16_000, dtype=torch.int16), pad=False).shape == (2, 80, 100)
    with pytest.raises(ValueError, match="64 mel bands"):
        whisper_log_mel(torch.zeros(1, 100), 64)


def test_the_general_one_is_its_formula() -> None:
    config = MelConfig(n_mels=64)
    wave = torch.from_numpy(speech_like(1.0)).to(torch.float64) / 32_768
    ours = log_mel(wave.to(torch.float32)[None], config)
    from transformers.audio_utils import mel_filter_bank

    filters = mel_filter_bank(
        config.window // 2 + 1, 64, config.low_hz, config.high_hz, config.sample_rate_hz, norm="slaney", mel_scale="slaney"
    )
    padded = np.pad(wave.numpy(), config.window // 2, mode="reflect")
    shape = np.hanning(config.window + 1)[:-1]
    frames = [padded[at : at + config.window] * shape for at in range(0, len(padded) - config.window + 1, config.hop)]
    power = np.abs(np.fft.rfft(np.stack(frames), axis=1)) ** 2
    reference = np.log(np.maximum(power @ filters, config.floor)).T
    assert ours.shape[1:] == reference.shape
    assert float(np.abs(ours[0].numpy() - reference).max()) < 2e-2 and float(np.abs(ours[0].numpy() - reference).mean()) < 1e-4


def test_silence_and_very_short_waves_are_finite() -> None:
    for length in (1, 50, 400, 16_000):
        found = log_mel(torch.zeros(1, length, dtype=torch.int16), MelConfig())
        assert bool(torch.isfinite(found).all()) and found.shape[-1] == 1 + length // MelConfig().hop
