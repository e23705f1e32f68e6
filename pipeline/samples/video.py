"""Bytes of a clip -> its first frame, upright, with size and duration.

One frame is decoded, not the clip: captions of pictures are made from it. The sound track is `audio.py`'s.
"""

import math
from typing import Any

import av
import numpy as np

from pipeline.errors import Reason, SampleError
from pipeline.samples.audio import open_container
from pipeline.samples.image import check_pixels, shrink
from pipeline.samples.medium import Medium, Pixels


def decode_video(data: bytes, field: str, short_side_px: int | None) -> Medium:
    """The clip as a medium: pixels of its first frame after rotation, width and height of the original, seconds.

    Raises SampleError for no video stream, no frame or too many pixels, and whatever the codec raises.
    """
    if not data:
        raise SampleError(Reason.EMPTY_MEDIUM, "0 bytes")
    with open_container(data) as container:
        if not container.streams.video:
            raise SampleError(Reason.UNDECODABLE, "no video stream")
        stream = container.streams.video[0]
        check_pixels(max(1, stream.codec_context.width), max(1, stream.codec_context.height))
        frame = next(container.decode(stream), None)
        if frame is None:
            raise SampleError(Reason.EMPTY_MEDIUM, "0 frames")
        check_pixels(frame.width, frame.height)
        duration_s = None if container.duration is None else container.duration / av.time_base
        if stream.duration is not None and stream.time_base is not None:
            duration_s = float(stream.duration * stream.time_base)
        shown = upright(frame)
        if duration_s is None:
            duration_s = _end_s(container, stream)
    height, width = shown.shape[:2]
    return Medium(
        modality="video",
        field=field,
        size_bytes=len(data),
        pixels_hwc=shrink(shown, short_side_px),
        width=width,
        height=height,
        duration_s=duration_s,
        start_s=0.0,
    )


def upright(frame: Any) -> Pixels:
    """RGB pixels turned and mirrored as the display matrix says, which knows more than its angle: mirrored, or upside down.

    The matrix takes x, y to a x + c y, b x + d y; only quarter turns and mirroring are followed.
    """
    pixels: Pixels = frame.to_ndarray(format="rgb24")
    a, b, c, d = _matrix(frame)
    if abs(b) > abs(a):
        pixels, a, d = pixels.transpose(1, 0, 2), c, b
    return pixels[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1]


def rotation(frame: Any) -> int:
    """Degrees clockwise that `upright` turns a frame by: 0, 90, 180 or 270. A mirrored one is then mirrored left to right."""
    a, b, c, d = _matrix(frame)
    if a * d - b * c < 0:
        a = -a
    return round(math.degrees(math.atan2(b, a)) / 90) % 4 * 90


def _matrix(frame: Any) -> tuple[int, int, int, int]:
    """a, b, c, d of the display matrix; upright where there is none."""
    matrix = frame.side_data.get("DISPLAYMATRIX")
    if matrix is None:
        return 1, 0, 0, 1
    a, b, _, c, d = np.frombuffer(bytes(matrix), np.int32)[:5].tolist()
    return a, b, c, d


def _end_s(container: Any, stream: Any) -> float | None:
    """Where the last picture ends, from the packets' times: recorders that write as they go leave the duration open."""
    ends = [packet.pts + (packet.duration or 0) for packet in container.demux(stream) if packet.pts is not None]
    return float(max(ends) * stream.time_base) if ends else None
