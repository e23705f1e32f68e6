"""Recordings: mono int16 at the engine's rate, in pieces that join to the whole.

- wav, flac, mp3 and others at several rates and layouts give the same tone, level and length
- pieces are contiguous, end in silence where there is some, and exactly the final one is marked last
- truncated, empty and silent files
"""

import io
import wave
from typing import Any

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.errors import Reason, SampleError
from pipeline.samples.audio import decode_audio
from pipeline.samples.medium import Needs

NEEDS = Needs(accepts=("audio",))


def tone(seconds: float, rate: int, hz: float = 440.0, level: float = 0.5) -> NDArray[np.int16]:
    t = np.arange(round(seconds * rate)) / rate
    return np.rint(np.sin(2 * np.pi * hz * t) * level * 32_767).astype(np.int16)


def as_wav(samples: NDArray[np.int16], rate: int, channels: int = 1) -> bytes:
    stream = io.BytesIO()
    with wave.open(stream, "wb") as writer:
        writer.setparams((channels, 2, rate, 0, "NONE", ""))
        writer.writeframes(samples.tobytes())
    return stream.getvalue()


def as_coded(samples: NDArray[np.int16], rate: int, form: str, codec: str) -> bytes:
    stream = io.BytesIO()
    with av.open(stream, "w", format=form) as container:
        track: Any = container.add_stream(codec, rate=rate, layout="mono")
        resampler = av.AudioResampler(format=track.codec_context.format or "s16", layout="mono", rate=rate)
        frame = av.AudioFrame.from_ndarray(samples[None, :], format="s16", layout="mono")
        frame.sample_rate = rate
        fifo = av.AudioFifo()
        for part in resampler.resample(frame):
            fifo.write(part)
        while (part := fifo.read(1024, partial=True)) is not None:
            container.mux(track.encode(part))
        container.mux(track.encode(None))
    return stream.getvalue()


def frequency(samples: NDArray[np.int16], rate: int) -> float:
    return float(np.argmax(np.abs(np.fft.rfft(samples.astype(float)))) * rate / len(samples))


@pytest.mark.parametrize("rate", [8_000, 16_000, 22_050, 44_100, 48_000])
@pytest.mark.parametrize("form", ["wav", "flac", "mp3", "ogg", "mp4"])
def test_every_codec_and_rate_gives_the_same_tone(form: str, rate: int) -> None:
    samples = tone(2.0, rate)
    if form == "ogg" and rate in (22_050, 44_100):
        pytest.skip("Opus has no such rate")
    codec = {"flac": "flac", "mp3": "libmp3lame", "ogg": "libopus", "mp4": "aac"}
    data = as_wav(samples, rate) if form == "wav" else as_coded(samples, rate, form, codec[form])
    (medium,) = decode_audio(data, form, NEEDS)
    assert medium.wave_t is not None and medium.duration_s is not None
    assert (medium.wave_t.dtype, medium.sample_rate_hz, medium.start_s, medium.last) == (np.dtype(np.int16), 16_000, 0.0, True)
    assert medium.duration_s == pytest.approx(2.0, abs=0.001 if form in ("wav", "flac") else 0.15)
    assert frequency(medium.wave_t, 16_000) == pytest.approx(440.0, abs=1.0)
    # LAME itself encodes at 0.95 of the level at this bit rate.
    level = 0.5 * 0.95 if form == "mp3" else 0.5
    middle = medium.wave_t[4_000:28_000].astype(float)
    assert np.sqrt(np.mean(middle**2)) == pytest.approx(level * 32_767 / np.sqrt(2), rel=0.03)


def test_at_the_engines_own_rate_nothing_is_changed() -> None:
    samples = np.random.default_rng(0).integers(-32_768, 32_768, 50_000).astype(np.int16)
    for data in (as_wav(samples, 16_000), as_coded(samples, 16_000, "flac", "flac")):
        (medium,) = decode_audio(data, "wav", NEEDS)
        assert np.array_equal(medium.wave_t, samples)


def test_channels_are_averaged() -> None:
    stereo = np.stack([np.full(16_000, 1_000), np.full(16_000, 3_000)], axis=1).astype(np.int16)
    (medium,) = decode_audio(as_wav(stereo, 16_000, channels=2), "wav", NEEDS)
    assert medium.wave_t is not None and len(medium.wave_t) == 16_000
    assert (medium.wave_t == 2_000).all()


@pytest.mark.parametrize("seconds", [3.0, 10.0, 10.01, 20.0, 33.3])
@pytest.mark.parametrize("rate", [16_000, 44_100])
def test_pieces_join_to_the_whole(seconds: float, rate: int) -> None:
    samples = np.random.default_rng(1).normal(0, 3_000, round(seconds * rate)).astype(np.int16)
    data = as_wav(samples, rate)
    (whole,) = decode_audio(data, "wav", NEEDS)
    pieces = list(decode_audio(data, "wav", Needs(accepts=("audio",), piece_s=10.0)))
    assert np.array_equal(np.concatenate([piece.wave_t for piece in pieces]), whole.wave_t)
    assert [piece.last for piece in pieces] == [False] * (len(pieces) - 1) + [True]
    at = 0.0
    for piece in pieces:
        assert piece.start_s == pytest.approx(at) and piece.duration_s is not None and 0 < piece.duration_s <= 10.0
        at += piece.duration_s


def test_a_piece_ends_in_the_pause_near_its_end() -> None:
    samples = tone(20.0, 16_000)
    samples[round(7.0 * 16_000) : round(7.4 * 16_000)] = 0
    first, *_ = decode_audio(as_wav(samples, 16_000), "wav", Needs(accepts=("audio",), piece_s=10.0))
    assert first.duration_s is not None and 7.0 < first.duration_s < 7.4


def test_a_long_recording_is_decoded_piece_by_piece() -> None:
    media = decode_audio(as_wav(np.zeros(16_000 * 600, np.int16), 16_000), "wav", Needs(accepts=("audio",), piece_s=60.0))
    assert not next(media).last
    assert [piece.last for piece in media][-1]


@pytest.mark.parametrize(("form", "codec"), [("wav", ""), ("flac", "flac"), ("mp3", "libmp3lame")])
def test_a_truncated_recording_is_refused(form: str, codec: str) -> None:
    samples = np.random.default_rng(2).normal(0, 3_000, 20 * 16_000).astype(np.int16)
    data = as_wav(samples, 16_000) if form == "wav" else as_coded(samples, 16_000, form, codec)
    for share in (0.3, 0.7, 0.9):
        with pytest.raises((SampleError, av.FFmpegError)):
            list(decode_audio(data[: int(len(data) * share)], form, NEEDS))


def test_a_wav_of_unknown_length_is_read_to_its_end() -> None:
    samples = tone(3.0, 16_000)
    data = bytearray(as_wav(samples, 16_000))
    data[4:8] = data[40:44] = b"\xff\xff\xff\xff"
    (medium,) = decode_audio(bytes(data), "wav", NEEDS)
    assert np.array_equal(medium.wave_t, samples)


def test_no_bytes_and_no_samples_are_an_empty_medium() -> None:
    for data in (b"", as_wav(np.zeros(0, np.int16), 16_000)):
        with pytest.raises(SampleError) as caught:
            list(decode_audio(data, "wav", NEEDS))
        assert caught.value.reason is Reason.EMPTY_MEDIUM


def test_a_playlist_opens_no_other_file() -> None:
    with pytest.raises(av.FFmpegError):
        list(decode_audio(b"#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\nother.ts\n#EXT-X-ENDLIST\n", "mp3", NEEDS))
