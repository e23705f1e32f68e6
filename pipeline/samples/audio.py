"""Bytes of a recording -> int16 mono pieces at the engine's rate.

Frames are mixed to mono, resampled and cut as they are decoded: memory is bounded by one piece, however long the
recording. A piece ends at the quietest 100 ms of its last seconds, so that words are rarely cut.
"""

import io
from collections.abc import Iterator
from typing import Any

import av
import numpy as np
import soxr
from numpy.typing import NDArray

from pipeline.errors import Reason, SampleError
from pipeline.samples.medium import Medium, Needs, Wave

FORMATS = "wav,w64,rf64,flac,mp3,ogg,mov,mp4,m4a,matroska,webm,avi,aac,ac3,aiff,asf,caf,au,amr,flv,mpeg,mpegts,mpegvideo,h264"
"""Containers that FFmpeg may take the content for. Listed, because others (playlists) open further files and addresses."""

QUIET_S = 0.1
"""Length of the place that a cut looks for."""
SEARCH_S = 15.0
"""The cut is looked for in this last part of a piece, at most half of it."""
_HOP_S = 0.01
_CHUNK_SAMPLES = 1 << 16
_DECLARED_EXACTLY = ("wav", "w64", "flac", "mov", "matroska", "aiff", "caf", "au", "avi")


def decode_audio(data: bytes, field: str, needs: Needs, *, modality: str = "audio") -> Iterator[Medium]:
    """One medium a piece of at most `needs.piece_s`, in order, `last` on the final one.

    Raises SampleError (also after pieces were yielded) for no sound track, no samples or a truncated file, and
    whatever the codec raises.
    """
    if not data:
        raise SampleError(Reason.EMPTY_MEDIUM, "0 bytes")
    rate, start = needs.sample_rate_hz, 0
    for wave, last in _pieces(_resampled(data, rate), rate, needs.piece_s):
        yield Medium(
            modality=modality,
            field=field,
            size_bytes=len(data),
            wave_t=wave,
            sample_rate_hz=rate,
            duration_s=len(wave) / rate,
            start_s=start / rate,
            last=last,
        )
        start += len(wave)


def open_container(data: bytes) -> Any:
    """An `av` container over bytes; use it in a `with`. Opens nothing else than these bytes."""
    return av.open(io.BytesIO(data), mode="r", metadata_errors="ignore", options={"format_whitelist": FORMATS})


def _pieces(waves: Iterator[Wave], rate: int, piece_s: float) -> Iterator[tuple[Wave, bool]]:
    """Cuts a stream of int16 samples into pieces; a piece is given only when it is known whether more follows."""
    longest = max(2, round(piece_s * rate))
    held: list[Wave] = []
    size = 0
    for wave in waves:
        held.append(wave)
        size += len(wave)
        while size > longest:
            whole = np.concatenate(held)
            cut = _quietest(whole[:longest], rate)
            yield whole[:cut].copy(), False
            held, size = [whole[cut:]], size - cut
    if not size:
        raise SampleError(Reason.EMPTY_MEDIUM, "0 samples of audio")
    yield np.concatenate(held), True


def _quietest(wave: Wave, rate: int) -> int:
    """Where to cut: the middle of the quietest `QUIET_S` in the last part, the latest of equals."""
    search = min(round(SEARCH_S * rate), len(wave) // 2)
    window, hop = max(1, round(QUIET_S * rate)), max(1, round(_HOP_S * rate))
    if search < window:
        return len(wave)
    tail = wave[-search:].astype(np.int64)
    total = np.concatenate([np.zeros(1, np.int64), np.cumsum(tail * tail)])
    ends = np.arange(len(tail), window - 1, -hop)
    energy = total[ends] - total[ends - window]
    end = int(ends[int(np.argmin(energy))])
    return len(wave) - search + end - window // 2


def _resampled(data: bytes, rate: int) -> Iterator[Wave]:
    """int16 mono at `rate`; a change of the source's rate in mid-file starts a new resampler."""
    stream: Any = None
    source_rate = 0
    for chunk, chunk_rate in _chunks(data):
        if chunk_rate != source_rate:
            if stream is not None:
                yield _to_int16(stream.resample_chunk(np.empty(0, np.float32), last=True))
            source_rate = chunk_rate
            stream = None if chunk_rate == rate else soxr.ResampleStream(chunk_rate, rate, 1, dtype="float32")
        yield _to_int16(chunk if stream is None else stream.resample_chunk(chunk))
    if stream is not None:
        yield _to_int16(stream.resample_chunk(np.empty(0, np.float32), last=True))


def _to_int16(wave: NDArray[np.float32]) -> Wave:
    samples: Wave = np.rint(np.nan_to_num(wave) * 32_768.0).clip(-32_768, 32_767).astype(np.int16)
    return samples


def _chunks(data: bytes) -> Iterator[tuple[NDArray[np.float32], int]]:
    """float32 mono in -1..1 with its rate, some 65,536 samples at a time: the resampler costs by the call."""
    held: list[NDArray[np.float32]] = []
    size, rate, decoded_s = 0, 0, 0.0
    with open_container(data) as container:
        if not container.streams.audio:
            raise SampleError(Reason.UNDECODABLE, "no audio stream")
        stream = container.streams.audio[0]
        declared_s = _declared_s(container, stream, data)
        for frame in container.decode(stream):
            if held and (frame.sample_rate != rate or size >= _CHUNK_SAMPLES):
                yield np.concatenate(held), rate
                held, size = [], 0
            rate = frame.sample_rate
            if rate <= 0:
                raise SampleError(Reason.UNDECODABLE, f"a sample rate of {rate} Hz")
            mono = _mono(frame)
            held.append(mono)
            size += len(mono)
            decoded_s += len(mono) / rate
        if held:
            yield np.concatenate(held), rate
        missing_s = declared_s - decoded_s
        if missing_s > 1.0 and missing_s > 0.05 * declared_s and decoded_s:
            raise SampleError(Reason.UNDECODABLE, f"truncated: {decoded_s:.1f} s of {declared_s:.1f} s")


def _mono(frame: Any) -> NDArray[np.float32]:
    """The mean of a frame's channels, float32 in -1..1."""
    values = frame.to_ndarray()
    if not frame.format.is_planar:
        values = values.reshape(-1, len(frame.layout.channels)).T
    mono: NDArray[np.float32] = (
        values.mean(axis=0, dtype=np.float64).astype(np.float32) if len(values) > 1 else values[0].astype(np.float32)
    )
    if values.dtype == np.uint8:
        return (mono - 128.0) / np.float32(128.0)
    if values.dtype.kind == "i":
        return mono / np.float32(2.0 ** (8 * values.dtype.itemsize - 1))
    return mono


def _declared_s(container: Any, stream: Any, data: bytes) -> float:
    """Seconds that the container declares; 0 where FFmpeg would only estimate them from bit rate and size."""
    name = container.format.name.split(",")[0]
    if name == "wav":
        return _wav_declared_s(data)
    if name not in _DECLARED_EXACTLY and not (name == "mp3" and _counts_frames(data)):
        return 0.0
    if stream.duration is not None and stream.time_base is not None:
        return float(stream.duration * stream.time_base)
    # A container's own duration is that of its longest track: a shorter sound track beside pictures is no damage.
    if container.duration is None or container.streams.video:
        return 0.0
    return float(container.duration / av.time_base)


def _wav_declared_s(data: bytes) -> float:
    """Seconds by the sizes of the header, which FFmpeg corrects silently; 0 for a size left open by a streaming writer."""
    at, bytes_per_s = 12, 0
    while at + 8 <= len(data) and data[:4] == b"RIFF":
        name, size = data[at : at + 4], int.from_bytes(data[at + 4 : at + 8], "little")
        if name == b"fmt ":
            bytes_per_s = int.from_bytes(data[at + 16 : at + 20], "little")
        if name == b"data":
            return size / bytes_per_s if bytes_per_s and size < 0x7FFF_0000 else 0.0
        at += 8 + size + size % 2
    return 0.0


def _counts_frames(data: bytes) -> bool:
    """True for an MP3 whose first frame holds a count of frames."""
    at = 0
    if data[:3] == b"ID3" and len(data) >= 10:
        at = 10 + sum((byte & 0x7F) << shift for byte, shift in zip(data[6:10], (21, 14, 7, 0), strict=True))
    head = data[at : at + 2048]
    return any(mark in head for mark in (b"Xing", b"Info", b"VBRI"))
