"""Clips in segments: of equal length and at most as long as asked, without gaps, each with its own frames and times; and once more whole."""

from dataclasses import replace

import av
import numpy as np
import pytest

from pipeline.samples.decode import decode
from pipeline.samples.medium import Needs


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """5 s at 10 frames a second, grey level 5 times the frame's number."""
    path = tmp_path_factory.mktemp("clip") / "a.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width = stream.height = 64
        for at in range(50):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.full((64, 64, 3), at * 5, np.uint8))))
        container.mux(stream.encode(None))
    return path.read_bytes()


def needs(segment_s: float | None, frames: int = 2) -> Needs:
    return Needs(accepts=("video",), n_frames=frames, segment_s=segment_s, frames_always=True)


@pytest.mark.parametrize(("segment_s", "count"), [(None, 1), (5.0, 1), (10.0, 1), (4.9, 2), (2.0, 3), (1.0, 5)])
def test_segments_are_equal_and_follow_each_other(clip: bytes, segment_s: float | None, count: int) -> None:
    found = list(decode(clip, "mp4", needs(segment_s)))
    assert [medium.last for medium in found] == [False] * (count - 1) + [True]
    assert [medium.duration_s for medium in found] == pytest.approx([5 / count] * count)
    assert [medium.start_s for medium in found] == pytest.approx([at * 5 / count for at in range(count)])


def test_each_segment_has_its_own_frames_at_their_times(clip: bytes) -> None:
    for number, medium in enumerate(decode(clip, "mp4", needs(2.5, 5))):
        assert medium.pixels_hwc is not None and medium.times_s is not None
        levels = medium.pixels_hwc.reshape(5, -1).mean(axis=1)
        shown = [(number * 2.5 + at_s) * 10 * 5 for at_s in medium.times_s]
        assert levels == pytest.approx(shown, abs=8)
        assert medium.times_s == pytest.approx([0.2, 0.7, 1.2, 1.7, 2.2], abs=0.06)


def test_a_single_frame_has_its_time_where_frames_are_always_wanted(clip: bytes) -> None:
    (medium,) = decode(clip, "mp4", needs(None, 1))
    assert medium.times_s == pytest.approx((2.5,), abs=0.06)


def test_a_clip_in_segments_comes_once_more_whole_where_that_is_asked_for(clip: bytes) -> None:
    *segments, whole = decode(clip, "mp4", replace(needs(2.0), whole=True))
    assert [medium.last for medium in (*segments, whole)] == [False, False, False, True]
    (plain,) = decode(clip, "mp4", needs(None))
    assert (whole.start_s, whole.duration_s, whole.times_s) == (0.0, plain.duration_s, plain.times_s)
    assert np.array_equal(whole.pixels_hwc, plain.pixels_hwc)  # type: ignore[arg-type]
    (short,) = decode(clip, "mp4", replace(needs(5.0), whole=True))  # nothing to cut: one caption
    assert short.last and short.times_s == plain.times_s
