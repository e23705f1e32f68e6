"""Encoded bytes -> `Medium`s: the one place where a codec's exception becomes a sample's fault.

A codec may raise anything on damaged input (SyntaxError, struct.error, OSError, ...), so every exception is the
sample's, except those that say that the process or the installation is at fault.
"""

import contextlib
import errno
import importlib
import math
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TypeAlias

from pipeline.errors import Reason, RequestError, SampleError
from pipeline.samples.audio import decode_audio
from pipeline.samples.frames import FramesConfig, sample_frames
from pipeline.samples.image import decode_image
from pipeline.samples.medium import Medium, Needs, modality_of
from pipeline.samples.resize import MAX_JPEG_SIDE_PX, PictureConfig
from pipeline.samples.video import decode_video
from pipeline.samples.wave import WaveConfig

Decoder: TypeAlias = Callable[[bytes, str, Needs], Iterator[Medium]]


def decode(data: bytes, field: str, needs: Needs) -> Iterator[Medium]:
    """The media of one field: one for a picture or clip, one a piece for a recording, the final one marked `last`.

    Raises SampleError, also after pieces were yielded, and MemoryError and ImportError, which are not the sample's fault.
    """
    yield from _bounded(_decode, data, field, needs)


def _decode(data: bytes, field: str, needs: Needs) -> Iterator[Medium]:
    modality = modality_of(field)
    if modality is None:
        raise SampleError(Reason.NO_MEDIUM, f".{field} is no picture, recording or clip")
    if not data:
        raise SampleError(Reason.EMPTY_MEDIUM, "0 bytes")
    if modality == "image":
        pixels_hwc, width, height = decode_image(data, needs.short_side_px)
        yield Medium(modality="image", field=field, size_bytes=len(data), pixels_hwc=pixels_hwc, width=width, height=height)
    elif modality == "video" and needs.video_as != "audio" and (needs.n_frames > 1 or needs.frames_always):
        yield from _segments(data, field, needs)
    elif modality == "video" and needs.video_as != "audio":
        yield decode_video(data, field, needs.short_side_px)
    else:
        yield from decode_audio(data, field, needs, modality=modality)


def _segments(data: bytes, field: str, needs: Needs) -> Iterator[Medium]:
    """The clip whole, or in segments of equal length; where that is asked for, in segments and then whole, from its beginning."""
    count = 1
    if needs.segment_s is not None:
        duration_s = decode_video(data, field, needs.short_side_px).duration_s or 0.0
        count = max(1, math.ceil(duration_s / needs.segment_s - 1e-6))
    again = needs.whole and count > 1
    for number in range(count):
        segment = _frames(data, field, needs, number, count)
        yield replace(segment, last=False) if again else segment
    if again:
        yield _frames(data, field, needs, 0, 1)


def _frames(data: bytes, field: str, needs: Needs, number: int, count: int) -> Medium:
    """Frames of one of `count` equal parts of a clip, one below the other; of a whole one its sound too, up to the longest piece."""
    picture = PictureConfig(short_side_px=needs.short_side_px or MAX_JPEG_SIDE_PX)
    config = FramesConfig(n_frames=needs.n_frames, sound=needs.sound and count == 1)
    part = (number / count, (number + 1) / count)
    clip = sample_frames(data, field, config, picture, WaveConfig(sample_rate_hz=needs.sample_rate_hz), jpeg=False, part=part)
    assert clip.frames_thwc is not None
    wave_t = None if clip.wave_t is None else clip.wave_t[: round(needs.piece_s * needs.sample_rate_hz)]
    start_s = clip.duration_s * part[0]
    return Medium(
        modality="video",
        field=field,
        size_bytes=len(data),
        pixels_hwc=clip.frames_thwc.reshape(-1, *clip.frames_thwc.shape[2:]),
        wave_t=wave_t,
        sample_rate_hz=None if wave_t is None else needs.sample_rate_hz,
        width=clip.width,
        height=clip.height,
        duration_s=clip.duration_s / count,
        start_s=start_s,
        last=number + 1 == count,
        times_s=tuple(max(0.0, at_s - start_s) for at_s in clip.timestamps_s),
    )


def _bounded(decoder: Decoder, data: bytes, field: str, needs: Needs) -> Iterator[Medium]:
    """What `decoder` gives; its exceptions as SampleError. An exception thrown in by the consumer is not touched."""
    media: Iterator[Medium] | None = None
    while True:
        with codec_boundary():
            if media is None:
                media = iter(decoder(data, field, needs))
            try:
                medium = next(media)
            except StopIteration:
                return
        yield medium


@contextlib.contextmanager
def codec_boundary() -> Iterator[None]:
    """Around work on one sample's bytes: any exception inside leaves as SampleError, save MemoryError and ImportError."""
    try:
        yield
    except (SampleError, MemoryError, ImportError):
        raise
    except Exception as exc:
        if _out_of_memory(exc):
            raise MemoryError(str(exc)) from exc
        raise SampleError(Reason.UNDECODABLE, _one_line(exc)) from exc


def _out_of_memory(exc: Exception) -> bool:
    """Torch, FFmpeg and libjpeg report a failed allocation with exceptions of their own."""
    text = str(exc)
    return getattr(exc, "errno", None) == errno.ENOMEM or "can't allocate memory" in text or "Insufficient memory" in text


def _one_line(exc: Exception) -> str:
    """Class and first line, without memory addresses: rows of two identical runs are identical."""
    lines = re.sub(r" at 0x[0-9a-f]+", "", str(exc)).strip().splitlines()
    return f"{type(exc).__name__}: {lines[0] if lines else ''}"[:500]


def load_decoder(name: str) -> Decoder:
    """`default`, or `module:function` with the signature of `decode`, inside the same exception boundary.

    Raises RequestError if it cannot be imported.
    """
    if name == "default":
        return decode
    module, _, attribute = name.partition(":")
    if not module or not attribute:
        raise RequestError(f"decoder {name!r}: expected `default` or `module:function`")
    try:
        function = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as exc:
        raise RequestError(f"decoder {name!r} cannot be imported: {_one_line(exc)}") from exc
    if not callable(function):
        raise RequestError(f"decoder {name!r} is not callable")
    return lambda data, field, needs: _bounded(function, data, field, needs)


def media_decoder(name: str, needs: Needs) -> Callable[[tuple[bytes, str]], Iterator[Medium]]:
    """For `Careful`: a function of (bytes, field name) that gives the media of the field."""
    decoder = load_decoder(name)
    return lambda item: decoder(item[0], item[1], needs)
