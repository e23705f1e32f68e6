"""The decoder's boundary: whatever the bytes are, a medium or a SampleError; faults of the process travel.

- random and damaged bytes under every field name raise only SampleError
- clips give their first frame or their sound track
- decoders of one's own get the same boundary; a wrong name is a wrong request
"""

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pipeline.errors import Reason, RequestError, SampleError
from pipeline.samples.decode import decode, load_decoder, media_decoder
from pipeline.samples.medium import FIELDS, Needs

NEEDS = Needs(accepts=("image", "audio", "video"), short_side_px=32)


def clip(sound: bool, seconds: int = 2) -> bytes:
    stream = io.BytesIO()
    with av.open(stream, "w", format="mp4") as container:
        pictures: Any = container.add_stream("mpeg4", rate=10)
        pictures.width, pictures.height, pictures.pix_fmt = 96, 64, "yuv420p"
        track: Any = container.add_stream("aac", rate=16_000, layout="mono") if sound else None
        for number in range(10 * seconds):
            pixels = np.full((64, 96, 3), 200 if number == 0 else 20, np.uint8)
            container.mux(pictures.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(pictures.encode(None))
        if track is not None:
            for number in range(16 * seconds):
                frame = av.AudioFrame.from_ndarray(np.full((1, 1000), 0.1, np.float32), format="fltp", layout="mono")
                frame.sample_rate, frame.pts = 16_000, number * 1000
                container.mux(track.encode(frame))
            container.mux(track.encode(None))
    return stream.getvalue()


def picture(form: str) -> bytes:
    stream = io.BytesIO()
    Image.effect_noise((48, 40), 60).convert("RGB").save(stream, form)
    return stream.getvalue()


WHOLE = {**{form: picture(form) for form in ("JPEG", "PNG", "WEBP", "GIF", "TIFF")}, "MP4": clip(True)}


@settings(max_examples=50, deadline=None)
@given(data=st.binary(max_size=400), field=st.sampled_from(sorted(FIELDS)))
def test_random_bytes_raise_only_sample_errors(data: bytes, field: str) -> None:
    try:
        list(decode(data, field, NEEDS))
    except SampleError as exc:
        assert exc.detail and "\n" not in exc.detail


@pytest.mark.parametrize("field", ["jpg", "wav", "mp4"])
def test_details_of_two_runs_are_equal(field: str) -> None:
    details = set()
    for _ in range(2):
        with pytest.raises(SampleError) as caught:
            list(decode(b"nothing that any codec knows " * 9, field, NEEDS))
        details.add(caught.value.detail)
    assert len(details) == 1 and "0x" not in details.pop()


@settings(max_examples=50, deadline=None)
@given(form=st.sampled_from(sorted(WHOLE)), at=st.floats(0, 1), junk=st.binary(max_size=30), keep=st.floats(0.2, 1))
def test_damaged_files_give_media_or_sample_errors(form: str, at: float, junk: bytes, keep: float) -> None:
    data = bytearray(WHOLE[form])
    start = int(at * len(data))
    data[start : start + len(junk)] = junk
    for field in ("jpg", "mp4", "wav"):
        try:
            list(decode(bytes(data[: int(keep * len(data))]), field, NEEDS))
        except SampleError as exc:
            assert exc.reason in (Reason.UNDECODABLE, Reason.EMPTY_MEDIUM, Reason.TOO_MANY_PIXELS)


def test_the_content_decides_and_not_the_extension() -> None:
    (medium,) = decode(WHOLE["PNG"], "left.jpg", NEEDS)
    assert (medium.modality, medium.field, medium.width, medium.height, medium.last) == ("image", "left.jpg", 48, 40, True)
    assert medium.pixels_hwc is not None and medium.pixels_hwc.shape == (32, 38, 3)
    assert medium.size_bytes == len(WHOLE["PNG"])


def test_a_clip_gives_its_first_frame_size_and_duration() -> None:
    (medium,) = decode(clip(False), "mp4", NEEDS)
    assert (medium.modality, medium.width, medium.height) == ("video", 96, 64)
    assert medium.pixels_hwc is not None and medium.pixels_hwc.shape == (32, 48, 3)
    assert abs(int(medium.pixels_hwc.mean()) - 200) < 8
    assert medium.duration_s == pytest.approx(2.0, abs=0.11)


def test_a_clip_for_a_speech_engine_gives_its_sound_track() -> None:
    needs = Needs(accepts=("video",), video_as="audio")
    (medium,) = decode(clip(True), "mp4", needs)
    assert (medium.modality, medium.pixels_hwc) == ("video", None)
    assert medium.wave_t is not None and len(medium.wave_t) == pytest.approx(32_000, abs=2_100)
    with pytest.raises(SampleError) as caught:
        list(decode(clip(False), "mp4", needs))
    assert "no audio stream" in caught.value.detail


@pytest.mark.parametrize("name", ["nothing", "json:", "absent_module:f", "json:absent", "json:__name__"])
def test_a_decoder_that_cannot_be_loaded_is_a_wrong_request(name: str) -> None:
    with pytest.raises(RequestError, match="decoder"):
        load_decoder(name)


def test_a_decoder_of_ones_own_has_the_same_boundary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = (
        "from pipeline.samples.medium import Medium\n"
        "FAULTS = {b'k': KeyError('no\\nsuch'), b'm': MemoryError(), b'i': ImportError('gone'), b'c': KeyboardInterrupt()}\n"
        "def mine(data, field, needs):\n"
        "    yield Medium(modality='image', field=field, size_bytes=len(data))\n"
        "    if data in FAULTS:\n"
        "        raise FAULTS[data]\n"
    )
    (tmp_path / "own_decoder.py").write_text(source)
    monkeypatch.syspath_prepend(str(tmp_path))
    mine = load_decoder("own_decoder:mine")
    assert len(list(mine(b"fine", "jpg", NEEDS))) == 1
    for data, fault in ((b"k", SampleError), (b"m", MemoryError), (b"i", ImportError), (b"c", KeyboardInterrupt)):
        media: Iterator[Any] = mine(data, "jpg", NEEDS)
        assert next(media).size_bytes == 1
        with pytest.raises(fault):
            next(media)
    assert len(list(media_decoder("own_decoder:mine", NEEDS)((b"fine", "jpg")))) == 1


def test_frames_of_a_clip_come_one_below_the_other_with_their_times_and_sound() -> None:
    needs = Needs(accepts=("video",), short_side_px=32, n_frames=4, sound=True)
    (found,) = decode(clip(sound=True), "mp4", needs)
    assert found.times_s == pytest.approx((0.2, 0.7, 1.2, 1.7), abs=0.11)
    assert found.pixels_hwc is not None and found.pixels_hwc.shape == (4 * 32, 48, 3)
    assert found.wave_t is not None and len(found.wave_t) == pytest.approx(32_000, abs=3000)
    (silent,) = decode(clip(sound=False), "mp4", needs)
    assert silent.wave_t is None and silent.sample_rate_hz is None and silent.times_s is not None
