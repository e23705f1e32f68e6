"""Recordings as they are stored:

- FLAC gives back every sample, and equal input gives equal bytes
- another rate is resampled as soxr does in high quality: a tone stays that tone; what lies above half the rate goes
- stereo is mixed; a sound track of a clip is a recording; empty, too long and silent-header files reject
"""

import io

import numpy as np
import pytest
import soxr
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import Reason, RequestError, SampleError
from pipeline.samples.wave import WaveConfig, decode_wave, encode_flac, normalise_recording
from tests.samples.synthetic import flac, sound_only_mp4, tone


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(-32_768, 32_767), min_size=1, max_size=10_000), st.sampled_from([8_000, 16_000, 44_100]))
def test_flac_gives_back_every_sample(samples: list[int], rate: int) -> None:
    wave = np.array(samples, np.int16)
    data = encode_flac(wave, rate)
    assert data == encode_flac(wave, rate)
    assert np.array_equal(decode_wave(data, "flac", WaveConfig(sample_rate_hz=rate)), wave)


def test_resampling_is_soxrs_high_quality() -> None:
    wave = tone(1.0, 44_100, 1_000.0)
    ours = decode_wave(encode_flac(wave, 44_100), "flac", WaveConfig())
    reference = np.rint(soxr.resample(wave.astype(np.float32) / 32_768, 44_100, 16_000, quality="HQ") * 32_768)
    assert len(ours) == len(reference) == 16_000
    assert np.abs(ours - reference).max() <= 1


def test_what_lies_above_half_the_rate_goes() -> None:
    assert np.abs(decode_wave(flac(0.5, 44_100, hz=12_000.0), "flac", WaveConfig())[800:-800]).max() < 40


def test_the_sound_of_a_clip_is_a_recording() -> None:
    found = normalise_recording(sound_only_mp4(), "mp4", WaveConfig())
    assert found.sample_rate_hz == 16_000 and found.duration_s == pytest.approx(0.5, abs=0.1)
    assert len(decode_wave(found.flac, "flac", WaveConfig())) == found.n_samples


def test_what_is_no_recording_rejects() -> None:
    cases = (
        (b"", "wav", WaveConfig(), Reason.EMPTY_MEDIUM),
        (flac(2.0, 8_000), "flac", WaveConfig(max_s=1.0), Reason.TOO_LARGE),
        (b"x", "jpg", WaveConfig(), Reason.NO_MEDIUM),
        (_wav_without_samples(), "wav", WaveConfig(), Reason.EMPTY_MEDIUM),
    )
    for data, field, config, reason in cases:
        with pytest.raises(SampleError) as caught:
            decode_wave(data, field, config)
        assert caught.value.reason is reason
    with pytest.raises(RequestError, match="sample_rate_hz 1"):
        WaveConfig(sample_rate_hz=1)
    with pytest.raises(ValueError, match="at least one sample"):
        encode_flac(np.empty(0, np.int16), 16_000)


def _wav_without_samples() -> bytes:
    import wave

    data = io.BytesIO()
    with wave.open(data, "wb") as out:
        out.setnchannels(1)
        out.setsampwidth(2)
        out.setframerate(16_000)
    return data.getvalue()
