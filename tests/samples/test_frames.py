"""Frames of clips:

- each is the one a player shows at that time, with B frames, at a variable rate, by count and by rate
- rotation metadata turns them; sizes and JPEGs follow the picture's configuration
- the sound track comes along if asked; clips without pictures, empty and cut ones reject
"""

import io

import numpy as np
import pytest
from PIL import Image

from pipeline.errors import Reason, RequestError, SampleError
from pipeline.samples.frames import Clip, FramesConfig, sample_frames
from pipeline.samples.resize import PictureConfig
from tests.samples.synthetic import clip, sound_only_mp4


def numbers(found: Clip) -> list[int]:
    """Which frames these are, by their grey level."""
    assert found.frames_thwc is not None
    levels = [float(frame[frame.shape[0] // 2 :, frame.shape[1] // 2 :].mean()) for frame in found.frames_thwc]
    return [round((level - 20) / 8) for level in levels]


def sampled(data: bytes, config: FramesConfig) -> Clip:
    return sample_frames(data, "mp4", config, jpeg=False)


@pytest.mark.parametrize("b_frames", [0, 2])
def test_a_count_takes_the_middle_of_equal_parts(b_frames: int) -> None:
    found = sampled(clip(20, b_frames=b_frames), FramesConfig(n_frames=4))
    assert numbers(found) == [2, 7, 12, 17]
    assert found.timestamps_s == pytest.approx((0.2, 0.7, 1.2, 1.7), abs=0.001)
    assert found.duration_s == pytest.approx(2.0, abs=0.01)


@pytest.mark.parametrize("b_frames", [0, 2])
def test_a_variable_rate_is_followed_by_time_not_by_number(b_frames: int) -> None:
    times = [0, 1, 2, 3, 13, 23, 24, 25]  # frame 3 is shown for a second, frame 4 too
    found = sampled(clip(times=times, b_frames=b_frames), FramesConfig(sampling="rate", rate_hz=2.0, n_frames=10))
    assert numbers(found) == [0, 3, 3, 4, 4, 7]
    assert found.timestamps_s == pytest.approx((0.0, 0.3, 0.3, 1.3, 1.3, 2.5), abs=0.001)


def test_a_rate_that_would_give_more_than_the_count_gives_the_count_uniformly() -> None:
    assert numbers(sampled(clip(20), FramesConfig(sampling="rate", rate_hz=10.0, n_frames=4))) == [2, 7, 12, 17]


def test_more_frames_than_there_are_repeat() -> None:
    assert numbers(sampled(clip(2), FramesConfig(n_frames=4))) == [0, 0, 1, 1]


@pytest.mark.parametrize(("turn", "corner"), [(0, (0, 0)), (90, (0, -1)), (180, (-1, -1)), (270, (-1, 0))])
def test_rotation_metadata_turns_the_frames(turn: int, corner: tuple[int, int]) -> None:
    import av

    source = io.BytesIO(clip(3))
    target = io.BytesIO()
    with av.open(source) as given, av.open(target, "w", format="mp4") as out:
        stream = out.add_stream_from_template(given.streams.video[0])
        if not hasattr(stream, "set_display_rotation") and turn:
            pytest.skip("this PyAV writes no rotation")
        if turn:
            stream.set_display_rotation(-turn)
        for packet in given.demux(given.streams.video[0]):
            if packet.dts is not None:
                packet.stream = stream
                out.mux(packet)
    found = sampled(target.getvalue(), FramesConfig(n_frames=1))
    assert found.frames_thwc is not None and found.rotation == turn
    pixels = found.frames_thwc[0]
    assert pixels.shape[:2] == ((64, 48) if turn in (90, 270) else (48, 64)) == (found.height, found.width)
    assert pixels[corner].mean() > 200 and [pixels[at].mean() > 200 for at in ((0, 0), (0, -1), (-1, 0), (-1, -1))].count(True) == 1


def test_frames_are_jpegs_of_the_size_asked_for() -> None:
    found = sample_frames(clip(5), "mp4", FramesConfig(n_frames=2), PictureConfig(short_side_px=24, crop="center"))
    assert found.jpegs is not None and len(found.jpegs) == 2 and (found.frame_width, found.frame_height) == (24, 24)
    assert [Image.open(io.BytesIO(one)).size for one in found.jpegs] == [(24, 24)] * 2
    assert (found.width, found.height) == (64, 48)


def test_a_frame_is_within_a_level_of_what_av_decodes() -> None:
    import av

    data = clip(12, b_frames=2)
    with av.open(io.BytesIO(data)) as container:
        all_frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    found = sampled(data, FramesConfig(n_frames=12))
    assert found.frames_thwc is not None
    assert all(np.array_equal(mine, theirs) for mine, theirs in zip(found.frames_thwc, all_frames, strict=True))


def test_clips_that_are_none_reject() -> None:
    for data, reason in ((sound_only_mp4(), Reason.UNDECODABLE), (b"", Reason.EMPTY_MEDIUM), (clip(20)[:-200], Reason.UNDECODABLE)):
        with pytest.raises(SampleError) as caught:
            sample_frames(data, "mp4", FramesConfig())
        assert caught.value.reason is reason
    with pytest.raises(RequestError, match="n_frames 0"):
        FramesConfig(n_frames=0)
