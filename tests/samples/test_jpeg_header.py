"""The short way for ordinary JPEGs gives what the long way gives: same pixels, same size, same verdicts, also for damaged bytes."""

import io
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pipeline.errors import SampleError
from pipeline.samples.image import _any, decode_upright
from pipeline.samples.jpeg_header import ordinary_jpeg
from tests.samples.synthetic import jpeg, photograph


def encoded(mode: str = "RGB", **options: Any) -> bytes:
    data = io.BytesIO()
    Image.fromarray(photograph(61, 47)).convert(mode).save(data, "JPEG", **options)
    return data.getvalue()


@pytest.mark.parametrize(
    "options", [{}, {"progressive": True}, {"subsampling": 0}, {"mode": "L"}, {"icc_profile": b"x" * 70_000}, {"comment": b"c"}]
)
def test_ordinary_ones_are_decoded_alike(options: dict[str, Any]) -> None:
    data = encoded(**options)
    header = ordinary_jpeg(data)
    assert header is not None and (header.width, header.height, header.colour) == (61, 47, options.get("mode") != "L")
    short, long = decode_upright(data), _any(data)
    assert np.array_equal(short.pixels_hwc, long.pixels_hwc) and short.plain == long.plain


def test_what_needs_a_second_look_gets_it() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = encoded(exif=exif)
    assert ordinary_jpeg(turned) is None and decode_upright(turned).pixels_hwc.shape == (61, 47, 3)
    assert ordinary_jpeg(encoded("CMYK")) is None and ordinary_jpeg(b"") is None and ordinary_jpeg(b"\xff\xd8\xff") is None


def verdict(work: Any, data: bytes) -> Any:
    try:
        found = work(data)
    except SampleError as exc:
        return exc.reason, exc.detail
    except Exception as exc:
        return type(exc)
    return found.pixels_hwc.tobytes(), found.plain


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_damaged_bytes_get_the_same_verdict(draw: st.DataObject) -> None:
    data = bytearray(jpeg(48, 40, quality=80))
    for _ in range(draw.draw(st.integers(0, 3))):
        data[draw.draw(st.integers(2, len(data) - 1))] = draw.draw(st.integers(0, 255))
    cut = bytes(data[: draw.draw(st.sampled_from([len(data), len(data) - 1, len(data) // 2, 200, 20]))])
    short, long = verdict(decode_upright, cut), verdict(_any, cut)
    # Pillow refuses a few headers that libjpeg reads; the other way round there is none.
    assert short == long or (isinstance(short[0], bytes) if isinstance(short, tuple) else False)
