"""Sizes of pictures and lengths of recordings from what their containers say; nothing is decoded.

JPEG, PNG, WAV and FLAC are read here, in 1-4 us; Pillow's lazy `open` takes 25-60 us, FFmpeg's probing a millisecond. Sizes
are as stored, before EXIF orientation. What a header says may be wrong: only decoding shows whether a medium is whole.
"""

import io
import logging
import struct
import warnings
from typing import NamedTuple

from pipeline.errors import SampleError
from pipeline.samples.medium import modality_of

HEAD_BYTES = 2 << 10
"""Enough of a picture, WAV or FLAC for its header, unless metadata come first."""

_PICTURES = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "DIB", "TIFF", "PPM", "JPEG2000", "AVIF", "ICO", "TGA", "QOI")
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # SOF markers of JPEG; the three are tables and a reserved one
_BARE = frozenset((0x01, *range(0xD0, 0xD9)))  # markers without a length


class Measure(NamedTuple):
    """What a container says of its medium; None where it does not tell."""

    width: int | None = None
    """Pixels."""
    height: int | None = None
    duration_s: float | None = None


def quick_measure(head: bytes, field: str, size: int) -> Measure | None:
    """The measure of a JPEG, PNG, WAV or FLAC of `size` bytes by its first bytes; None for anything else."""
    modality = modality_of(field)
    try:
        if modality == "image":
            if head.startswith(b"\xff\xd8"):
                return _jpeg(head)
            if head.startswith(b"\x89PNG\r\n\x1a\n") and head[12:16] == b"IHDR":
                return Measure(*struct.unpack_from(">II", head, 16))
        elif modality == "audio":
            if head.startswith(b"RIFF") and head[8:12] == b"WAVE":
                return _wav(head, size)
            if head.startswith(b"fLaC") and head[4] & 0x7F == 0:
                packed = int.from_bytes(head[18:26], "big")
                rate, samples = packed >> 44, packed & ((1 << 36) - 1)
                return Measure(duration_s=samples / rate) if rate and samples else None
    except (IndexError, struct.error):
        pass
    return None


def full_measure(data: bytes, field: str) -> Measure | None:
    """The measure of any medium by Pillow or FFmpeg; None where they cannot read it. MemoryError and ImportError travel."""
    modality = modality_of(field)
    if modality is None or not data:
        return None
    try:
        return _picture(data) if modality == "image" else _container(data)
    except (MemoryError, ImportError):
        raise
    except (SampleError, Exception):  # codecs raise anything on bytes that are not theirs
        return None


def _jpeg(head: bytes) -> Measure | None:
    at = 2
    while head[at] == 0xFF:
        marker = head[at + 1]
        if marker in _FRAMES:
            height, width = struct.unpack_from(">HH", head, at + 5)
            return Measure(width, height) if height and width else None
        if marker == 0xFF:
            at += 1
        elif marker in _BARE:
            at += 2
        else:
            at += 2 + int.from_bytes(head[at + 2 : at + 4], "big")
    return None


def _wav(head: bytes, size: int) -> Measure | None:
    """Seconds of the data chunk, as far as the file goes: writers to a pipe leave its size open."""
    at, byte_rate = 12, 0
    while at + 8 <= len(head):
        name, count = head[at : at + 4], int.from_bytes(head[at + 4 : at + 8], "little")
        at += 8
        if name == b"fmt ":
            byte_rate = int(struct.unpack_from("<I", head, at + 8)[0])
        elif name == b"data":
            return Measure(duration_s=min(count, size - at) / byte_rate) if byte_rate else None
        at += count + count % 2
    return None


def _picture(data: bytes) -> Measure | None:
    from PIL import Image

    logging.getLogger("PIL").setLevel(logging.CRITICAL)
    Image.init()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        formats = [name for name in _PICTURES if name in Image.OPEN]
        with Image.open(io.BytesIO(data), formats=formats) as picture:
            return Measure(*picture.size)


def _container(data: bytes) -> Measure | None:
    import av

    from pipeline.samples.audio import open_container

    with open_container(data) as container:
        width = height = None
        if container.streams.video:
            context = container.streams.video[0].codec_context
            width, height = context.width or None, context.height or None
        tracks = (*container.streams.audio[:1], *container.streams.video[:1])
        lengths = [float(track.duration * track.time_base) for track in tracks if track.duration and track.time_base]
        if container.duration:
            lengths.append(container.duration / av.time_base)
        return Measure(width, height, max(lengths, default=None))
