"""Recordings: mono int16 at the engine's rate, in pieces that join to the whole.

- wav, flac, mp3 and others at several rates and layouts give the same tone, level and length
- pieces are contiguous, end in silence where there is some, and exactly the final one is marked last
- truncated, empty and silent files; damage in the middle that shortens a recording
- rates and values that no recording has are refused before they cost memory
- resampling in a stream is what soxr gives at once
"""

import io
import struct
import wave
from typing import Any

import av
import numpy as np
import pytest
import soxr
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


CODECS = {"wav": "", "flac": "flac", "mp3": "libmp3lame", "ogg": "libopus", "mp4": "aac", "webm": "libopus", "matroska": "aac"}


@pytest.mark.parametrize("form", CODECS)
def test_a_truncated_recording_is_refused(form: str) -> None:
    samples = np.random.default_rng(2).normal(0, 3_000, 20 * 16_000).astype(np.int16)
    data = as_wav(samples, 16_000) if form == "wav" else as_coded(samples, 16_000, form, CODECS[form])
    assert list(decode_audio(data, form, NEEDS))
    for share in (0.001, 0.03, 0.3, 0.5, 0.7, 0.9, 0.97):
        with pytest.raises((SampleError, av.FFmpegError)):
            list(decode_audio(data[: int(len(data) * share)], form, NEEDS))


def test_at_any_truncation_a_flac_is_refused() -> None:
    data = as_coded(np.random.default_rng(2).normal(0, 3_000, 16_000).astype(np.int16), 16_000, "flac", "flac")
    for size in {*range(0, len(data), len(data) // 150), *range(len(data) - 16, len(data))}:
        with pytest.raises((SampleError, av.FFmpegError)):
            list(decode_audio(data[:size], "flac", NEEDS))


@pytest.mark.parametrize("form", ["flac", "ogg", "mp3", "webm"])
def test_damage_in_the_middle_never_shortens_a_recording_silently(form: str) -> None:
    samples = np.random.default_rng(2).normal(0, 3_000, 20 * 16_000).astype(np.int16)
    data = as_coded(samples, 16_000, form, CODECS[form])
    for share in (0.2, 0.5, 0.8):
        damaged = bytearray(data)
        start = int(share * len(data))
        damaged[start : start + 4_000] = bytes(4_000)
        try:
            media = list(decode_audio(bytes(damaged), form, NEEDS))
        except (SampleError, av.FFmpegError):
            continue
        assert sum(medium.duration_s or 0.0 for medium in media) == pytest.approx(20.0, abs=0.3 if form != "webm" else 1.0)


def test_a_flac_without_a_declared_length_is_read_to_its_end() -> None:
    data = bytearray(as_coded(tone(2.0, 16_000), 16_000, "flac", "flac"))
    data[21] &= 0xF0
    data[22:26] = bytes(4)
    (medium,) = decode_audio(bytes(data), "flac", NEEDS)
    assert np.array_equal(medium.wave_t, tone(2.0, 16_000))


def as_float_wav(values: NDArray[np.float32], rate: int) -> bytes:
    body = values.tobytes()
    form = struct.pack("<IHHIIHH", 16, 3, 1, rate, 4 * rate, 4, 32)
    return b"RIFF" + struct.pack("<I", 36 + len(body)) + b"WAVEfmt " + form + b"data" + struct.pack("<I", len(body)) + body


def test_floats_are_rounded_and_clipped() -> None:
    values = np.array([0.0, 0.5, 1.0, 1.5, -1.0, -7.0, 0.25 / 32_768, 0.75 / 32_768], np.float32)
    (medium,) = decode_audio(as_float_wav(values, 16_000), "wav", NEEDS)
    assert medium.wave_t is not None
    assert medium.wave_t.tolist() == [0, 16_384, 32_767, 32_767, -32_768, -32_768, 0, 1]


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_no_number_is_refused_and_not_taken_for_silence(value: float) -> None:
    values = np.zeros(8_000, np.float32)
    values[4_000] = value
    with pytest.raises(SampleError, match="finite"):
        list(decode_audio(as_float_wav(values, 8_000), "wav", NEEDS))


@pytest.mark.parametrize("rate", [1, 100])
def test_a_rate_that_no_recording_has_is_refused(rate: int) -> None:
    with pytest.raises(SampleError, match=f"rate of {rate} Hz"):
        list(decode_audio(as_wav(np.zeros(50_000, np.int16), rate), "wav", NEEDS))


@pytest.mark.parametrize("rate", [8_000, 44_100, 96_000])
def test_resampling_in_a_stream_is_what_soxr_gives_at_once(rate: int) -> None:
    samples = np.random.default_rng(5).normal(0, 3_000, 5 * rate).astype(np.int16)
    (medium,) = decode_audio(as_wav(samples, rate), "wav", NEEDS)
    expected = soxr.resample(samples.astype(np.float32) / 32_768, rate, 16_000)
    assert np.array_equal(medium.wave_t, np.rint(expected * 32_768).clip(-32_768, 32_767).astype(np.int16))


def test_a_title_that_is_not_utf8_does_not_cost_the_recording() -> None:
    text = b"TIT2" + struct.pack(">I", 5) + b"\0\0" + b"\x03\xff\xfe\xff\xff"
    tagged = b"ID3\x03\0\0" + bytes([0, 0, 0, len(text)]) + text + as_coded(tone(1.0, 16_000), 16_000, "mp3", "libmp3lame")
    assert list(decode_audio(tagged, "mp3", NEEDS))


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
