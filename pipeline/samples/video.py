"""Bytes of a clip -> its first frame, upright, with size and duration.

One frame is decoded, not the clip: captions of pictures are made from it. The sound track is `audio.py`'s.
"""

import av
import numpy as np

from pipeline.errors import Reason, SampleError
from pipeline.samples.audio import open_container
from pipeline.samples.image import check_pixels, shrink
from pipeline.samples.medium import Medium


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
        # FFmpeg gives degrees counter-clockwise, as rot90 takes quarter turns.
        upright = np.rot90(frame.to_ndarray(format="rgb24"), k=round(frame.rotation / 90))
    height, width = upright.shape[:2]
    return Medium(
        modality="video",
        field=field,
        size_bytes=len(data),
        pixels_hwc=shrink(upright, short_side_px),
        width=width,
        height=height,
        duration_s=duration_s,
        start_s=0.0,
    )
