"""Clips: the first frame as a player would show it.

- the display matrix turns and mirrors it, with width and height of what is shown
- a clip that was cut is refused even if its first frame is whole
- a recorder that left size and duration open gives a clip all the same
"""

import io
from typing import Any

import av
import numpy as np
import pytest

from pipeline.errors import Reason, SampleError
from pipeline.samples.medium import Pixels
from pipeline.samples.video import decode_video

RED, GREEN, BLUE, BLACK = (200, 0, 0), (0, 200, 0), (0, 0, 200), (0, 0, 0)


def clip(form: str = "mp4", codec: str = "mpeg4", options: dict[str, str] | None = None) -> bytes:
    """Two seconds of four quadrants: red, green over blue, black."""
    pixels = np.zeros((64, 96, 3), np.uint8)
    pixels[:32, :48], pixels[:32, 48:], pixels[32:, :48] = RED, GREEN, BLUE
    stream = io.BytesIO()
    with av.open(stream, "w", format=form, options=options or {}) as container:
        track: Any = container.add_stream(codec, rate=10)
        track.width, track.height, track.pix_fmt = 96, 64, "yuv420p" if codec != "mjpeg" else "yuvj420p"
        for _ in range(20):
            container.mux(track.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(track.encode(None))
    return stream.getvalue()


def with_matrix(data: bytes, a: int, b: int, c: int, d: int) -> bytes:
    """The MP4 with another display matrix in its track header."""
    at = data.index(b"tkhd") + 44
    matrix = np.frombuffer(data[at : at + 36], ">i4").copy()
    matrix[[0, 1, 3, 4]] = np.array([a, b, c, d]) * 65_536
    return data[:at] + matrix.tobytes() + data[at + 36 :]


def corners(pixels: Pixels) -> list[tuple[int, ...]]:
    """Colours near the corners: top left, top right, bottom left, bottom right."""
    return [tuple(200 if value > 100 else 0 for value in pixels[y, x]) for y in (6, -6) for x in (6, -6)]


@pytest.mark.parametrize(
    ("matrix", "expected"),
    [
        ((1, 0, 0, 1), [RED, GREEN, BLUE, BLACK]),
        ((0, 1, -1, 0), [BLUE, RED, BLACK, GREEN]),
        ((-1, 0, 0, -1), [BLACK, BLUE, GREEN, RED]),
        ((0, -1, 1, 0), [GREEN, BLACK, RED, BLUE]),
        ((-1, 0, 0, 1), [GREEN, RED, BLACK, BLUE]),
        ((1, 0, 0, -1), [BLUE, BLACK, RED, GREEN]),
    ],
    ids=["upright", "quarter clockwise", "half", "quarter counter-clockwise", "mirrored", "upside down mirrored"],
)
def test_a_clip_is_turned_and_mirrored_as_it_is_shown(matrix: tuple[int, int, int, int], expected: list[tuple[int, ...]]) -> None:
    medium = decode_video(with_matrix(clip(), *matrix), "mp4", 32)
    assert medium.pixels_hwc is not None and medium.pixels_hwc.flags.c_contiguous
    assert corners(medium.pixels_hwc) == expected
    shown = (64, 96) if matrix[0] == 0 else (96, 64)
    assert (medium.width, medium.height) == shown
    assert min(medium.pixels_hwc.shape[:2]) == 32


@pytest.mark.parametrize(
    ("form", "codec"), [("mp4", "mpeg4"), ("mov", "mjpeg"), ("webm", "libvpx"), ("matroska", "mpeg4"), ("avi", "mpeg4")]
)
def test_a_clip_that_was_cut_is_refused(form: str, codec: str) -> None:
    data = clip(form, codec)
    assert decode_video(data, "mp4", None).duration_s == pytest.approx(2.0, abs=0.11)
    for share in (0.1, 0.5, 0.9, 0.95):
        with pytest.raises((SampleError, av.FFmpegError)):
            decode_video(data[: int(share * len(data))], "mp4", None)


def test_a_recording_of_open_size_and_duration_is_a_clip_all_the_same() -> None:
    data = clip("webm", "libvpx", {"live": "1"})
    with av.open(io.BytesIO(data)) as container:
        assert container.duration is None
    medium = decode_video(data, "webm", None)
    assert medium.duration_s == pytest.approx(2.0, abs=0.11)
    assert medium.pixels_hwc is not None and corners(medium.pixels_hwc) == [RED, GREEN, BLUE, BLACK]


def test_a_file_without_pictures_is_refused_and_no_bytes_are_empty() -> None:
    with pytest.raises(SampleError) as caught:
        decode_video(b"", "mp4", None)
    assert caught.value.reason is Reason.EMPTY_MEDIUM
    with pytest.raises(av.FFmpegError):
        decode_video(b"no clip at all", "mp4", None)
