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
MIN_RATE_HZ, MAX_RATE_HZ = 1_000, 4_000_000
"""Rates that sound has. A header of 1 Hz makes the resampler ask for 18 GB (200,000 samples, measured 2026-11)."""
_RIFF_SLACK_BYTES = 64
"""Some writers of WAV count their header into the data."""
_OPEN_SIZE = 0x7FFF_0000
"""Sizes from here on stand for `unknown` where the file is smaller: writers to a pipe put 0x7FFFFFFF, 0xFFFFFFFF or near."""
_PAGE = b"OggS"
_SEGMENT = b"\x18\x53\x80\x67"
_HOP_S = 0.01
_CHUNK_SAMPLES = 1 << 16
_DECLARED_EXACTLY = ("w64", "flac", "ogg", "mov", "matroska", "aiff", "caf", "au", "avi")
_WITH_HOLES = ("mov", "matroska", "avi")
"""Containers whose packets carry their own time, so that a sound track may rightly hold less than it lasts."""


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
    """An `av` container over bytes; use it in a `with`. Opens nothing else than these bytes.

    Raises SampleError for a file that was cut, and whatever FFmpeg raises.
    """
    missing = missing_bytes(data)
    if missing:
        raise SampleError(Reason.UNDECODABLE, f"cut short: {missing} of its bytes are missing at the end")
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
    scaled = wave * np.float32(32_768.0)
    np.rint(scaled, out=scaled)
    np.clip(scaled, -32_768, 32_767, out=scaled)
    samples: Wave = scaled.astype(np.int16)
    return samples


def _chunks(data: bytes) -> Iterator[tuple[NDArray[np.float32], int]]:
    """float32 mono in -1..1 with its rate, some 65,536 samples at a time: mixing and resampling cost by the call."""
    held: list[NDArray[Any]] = []
    size, kind, decoded_s = 0, (0, "", 0), 0.0
    with open_container(data) as container:
        if not container.streams.audio:
            raise SampleError(Reason.UNDECODABLE, "no audio stream")
        stream = container.streams.audio[0]
        declared_s = _declared_s(container, stream, data)
        for frame in container.decode(stream):
            now = (frame.sample_rate, frame.format.name, frame.layout.nb_channels)
            if held and (now != kind or size >= _CHUNK_SAMPLES):
                yield _mono(np.concatenate(held, axis=1), kind[2]), kind[0]
                held, size = [], 0
            kind = now
            if not MIN_RATE_HZ <= kind[0] <= MAX_RATE_HZ:
                raise SampleError(Reason.UNDECODABLE, f"a sample rate of {kind[0]} Hz")
            held.append(frame.to_ndarray())
            size += frame.samples
            decoded_s += frame.samples / kind[0]
        if held:
            yield _mono(np.concatenate(held, axis=1), kind[2]), kind[0]
        missing_s = declared_s - decoded_s
        if missing_s > _slack_s(container, declared_s):
            raise SampleError(Reason.UNDECODABLE, f"incomplete: {decoded_s:.2f} s of {declared_s:.2f} s")


def _mono(values: NDArray[Any], channels: int) -> NDArray[np.float32]:
    """The mean of channels, one row each or interleaved in one row: float32 in -1..1."""
    if len(values) < channels:
        values = values.reshape(-1, channels).T
    if channels == 2 and (values.dtype.itemsize <= 2 or values.dtype == np.float32):  # exact, and an eighth of the time of what follows
        mono: NDArray[np.float32] = np.add(values[0], values[1], dtype=np.float32)
        mono *= np.float32(0.5)
    elif channels > 1:
        mono = values.mean(axis=0, dtype=np.float64).astype(np.float32)
    else:
        mono = values[0].astype(np.float32)
    if values.dtype == np.uint8:
        mono -= np.float32(128.0)
        mono /= np.float32(128.0)
    elif values.dtype.kind == "i":
        mono /= np.float32(2.0 ** (8 * values.dtype.itemsize - 1))
    elif not np.isfinite(mono).all():
        raise SampleError(Reason.UNDECODABLE, "samples that are not finite numbers")
    return mono


def _declared_s(container: Any, stream: Any, data: bytes) -> float:
    """Seconds that the container declares; 0 where FFmpeg would only estimate them from bit rate and size."""
    name = container.format.name.split(",")[0]
    if name not in _DECLARED_EXACTLY and not (name == "mp3" and _counts_frames(data)):
        return 0.0
    if stream.duration is not None and stream.time_base is not None:
        return float(stream.duration * stream.time_base)
    # A container's own duration is that of its longest track: a shorter sound track beside pictures is no damage.
    if container.duration is None or container.streams.video:
        return 0.0
    return float(container.duration / av.time_base)


def _slack_s(container: Any, declared_s: float) -> float:
    """Seconds that may be missing: padding of codecs, and the drift of clocks in long recordings."""
    name = container.format.name.split(",")[0]
    if name in _WITH_HOLES:
        return max(1.0, 0.05 * declared_s)
    return 1e-6 if name == "flac" else 0.25 + 0.002 * declared_s


def _counts_frames(data: bytes) -> bool:
    """True for an MP3 whose first frame holds a count of frames."""
    at = 0
    if data[:3] == b"ID3" and len(data) >= 10:
        at = 10 + sum((byte & 0x7F) << shift for byte, shift in zip(data[6:10], (21, 14, 7, 0), strict=True))
    head = data[at : at + 2048]
    return any(mark in head for mark in (b"Xing", b"Info", b"VBRI"))


def missing_bytes(data: bytes) -> int:
    """Bytes that the container says should follow the end of `data`; 0 for a complete file and for formats without sizes.

    FFmpeg corrects such sizes silently (WAV, Ogg) or stops at the end without an error (Matroska, MP4 with its index in
    front): half a file would pass for a whole one. A size left open by a streaming writer counts as complete, and so does an
    Ogg stream without its end mark, as recordings of radio are: such a file is whole as far as it goes.
    """
    if data[:4] == b"RIFF":
        missing = _riff(data)
    elif data[:4] == _PAGE:
        missing = _ogg(data)
    elif data[:4] == b"\x1a\x45\xdf\xa3":
        missing = _matroska(data)
    elif data[4:8] == b"ftyp":
        missing = _mp4(data)
    else:
        missing = 0
    return max(0, missing)


def _riff(data: bytes) -> int:
    """The `data` chunk of a WAV; the whole of any other RIFF (AVI)."""
    if data[8:12] != b"WAVE":
        size = int.from_bytes(data[4:8], "little")
        missing = 8 + size - len(data) if size < _OPEN_SIZE else 0
        return missing if missing > _RIFF_SLACK_BYTES else 0
    at = 12
    while at + 8 <= len(data):
        name, size = data[at : at + 4], int.from_bytes(data[at + 4 : at + 8], "little")
        at += 8
        if name == b"data":
            missing = at + size - len(data) if size < _OPEN_SIZE else 0
            return missing if missing > _RIFF_SLACK_BYTES else 0
        at += size + size % 2
    return 0


def _ogg(data: bytes) -> int:
    """The last page: a header of 27 bytes, a table of segment sizes, the segments."""
    at = data.rfind(_PAGE)
    for length in (3, 2, 1):
        if data.endswith(_PAGE[:length]) and at + 4 <= len(data) - length:
            page_end = _page_end(data, at)
            if page_end == len(data) - length:
                return 27 - length
    return _page_end(data, at) - len(data)


def _page_end(data: bytes, at: int) -> int:
    if at + 27 > len(data):
        return at + 27
    segments = data[26 + at]
    return at + 27 + segments + sum(data[at + 27 : at + 27 + segments])


def _matroska(data: bytes) -> int:
    """The segment after the EBML header; a size of all ones is unknown."""
    header = _vint(data, 4)
    if header is None or data[sum(header) : sum(header) + 4] != _SEGMENT:
        return 0
    start = sum(header) + 4
    segment = _vint(data, start)
    if segment is None:
        return 0
    begin, size = segment
    width = begin - start
    return 0 if size == (1 << 7 * width) - 1 else begin + size - len(data)


def _vint(data: bytes, at: int) -> tuple[int, int] | None:
    """Where an EBML size ends, and the size; None where there is none."""
    if at >= len(data) or not data[at]:
        return None
    width = 9 - data[at].bit_length()
    if at + width > len(data):
        return None
    return at + width, int.from_bytes(data[at : at + width], "big") & ((1 << 7 * width) - 1)


def _mp4(data: bytes) -> int:
    """The boxes of the top level, one after the other; size 1: 64 bits follow, size 0: up to the end."""
    at = 0
    while at + 8 <= len(data):
        size, head = int.from_bytes(data[at : at + 4], "big"), 8
        if size == 1:
            size, head = int.from_bytes(data[at + 8 : at + 16], "big"), 16
        if size < head or not data[at + 4 : at + 8].isascii():
            return 0  # up to the end, or something appended that is no box
        at += size
    return at - len(data) if at > len(data) else 0
