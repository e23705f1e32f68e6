"""Pictures: what a viewer would show, as uint8 RGB, shrunk and never enlarged.

- all 8 EXIF orientations give the same upright picture, by either codec
- grey, palette, alpha, CMYK, 16 bits, floats, 1 bit, animations
- too many pixels are refused before decoding; damage is never taken for a picture
- at any truncation the picture is refused or whole; a cut JPEG that was closed with an end mark is refused
- nothing is printed, neither by Python nor by a codec's C code; a warning made an error changes nothing
- what shrinks is what Pillow's antialiasing gives
"""

import io
import os
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipeline.errors import Reason, SampleError
from pipeline.samples.decode import codec_boundary
from pipeline.samples.image import decode_image


def scene(width: int = 64, height: int = 48) -> Image.Image:
    """Four plain quadrants: any turn or flip shows, and JPEG keeps them."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[: height // 2, : width // 2] = (255, 0, 0)
    pixels[: height // 2, width // 2 :] = (0, 255, 0)
    pixels[height // 2 :, : width // 2] = (0, 0, 255)
    pixels[height // 2 :, width // 2 :] = (255, 255, 255)
    return Image.fromarray(pixels)


def encoded(image: Image.Image, form: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, form, **options)
    return stream.getvalue()


UNDO = {
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_exif_orientation_gives_the_upright_picture(form: str, orientation: int) -> None:
    turn = UNDO[orientation]
    stored = scene() if turn is None else scene().transpose(turn)
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"quality": 95, "subsampling": 0} if form == "JPEG" else {"lossless": True} if form == "WEBP" else {}
    pixels, width, height = decode_image(encoded(stored, form, exif=exif, **options), None)
    assert (width, height) == (64, 48)
    assert pixels.shape == (48, 64, 3)
    assert np.abs(pixels.astype(int) - np.asarray(scene()).astype(int)).max() <= 12


def test_broken_exif_does_not_cost_the_picture() -> None:
    exif = b"Exif\0\0MM\0\x2a\xff\xff\xff\xff" + b"\xff" * 20
    for form in ("JPEG", "PNG"):
        assert decode_image(encoded(scene(), form, exif=exif), None)[1:] == (64, 48)


def test_cmyk_comes_out_in_its_colours() -> None:
    red = Image.new("CMYK", (16, 16), (0, 255, 255, 0))
    assert np.abs(decode_image(encoded(red, "JPEG"), None)[0].astype(int) - (255, 0, 0)).max() <= 8
    assert np.abs(decode_image(encoded(red, "TIFF"), None)[0].astype(int) - (255, 0, 0)).max() <= 8


def test_grey_one_bit_and_palette_become_rgb() -> None:
    grey = Image.new("L", (16, 8), 100)
    for form in ("JPEG", "PNG"):
        assert (decode_image(encoded(grey, form), None)[0] == 100).all()
    assert (decode_image(encoded(Image.new("1", (16, 8), 1), "PNG"), None)[0] == 255).all()
    palette = scene().quantize(8)
    assert np.array_equal(decode_image(encoded(palette, "PNG"), None)[0], np.asarray(palette.convert("RGB")))


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparency_is_laid_on_white(mode: str) -> None:
    if mode == "P":
        image = Image.new("P", (8, 8), 0)
        image.putpalette([10, 20, 30])
        data = encoded(image, "PNG", transparency=0)
    else:
        data = encoded(Image.new(mode, (8, 8), (10, 20, 30, 0) if mode == "RGBA" else (10, 0)), "PNG")
    assert (decode_image(data, None)[0] == 255).all()


def test_sixteen_bits_and_floats_are_scaled_not_clipped() -> None:
    ramp = np.linspace(0, 65_535, 256).astype(np.uint16).reshape(16, 16)
    expected = np.arange(256).reshape(16, 16)
    for form in ("PNG", "TIFF"):
        assert np.array_equal(decode_image(encoded(Image.fromarray(ramp), form), None)[0][:, :, 1], expected)
    floats = Image.fromarray(np.linspace(0, 1, 256, dtype=np.float32).reshape(16, 16))
    assert np.array_equal(decode_image(encoded(floats, "TIFF"), None)[0][:, :, 0], expected)
    high = Image.fromarray(np.linspace(-50, 1e6, 256, dtype=np.float32).reshape(16, 16))
    assert np.array_equal(decode_image(encoded(high, "TIFF"), None)[0][:, :, 0], expected)


@pytest.mark.parametrize("form", ["GIF", "WEBP", "PNG"])
def test_an_animation_gives_its_first_frame(form: str) -> None:
    frames = [Image.new("RGB", (16, 16), colour) for colour in ((255, 0, 0), (0, 255, 0))]
    data = encoded(frames[0], form, save_all=True, append_images=frames[1:])
    assert np.abs(decode_image(data, None)[0].astype(int) - (255, 0, 0)).max() <= 8


@pytest.mark.parametrize("form", ["JPEG", "PNG"])
def test_pictures_shrink_to_the_short_side_and_are_never_enlarged(form: str) -> None:
    data = encoded(scene(640, 480), form)
    pixels, width, height = decode_image(data, 48)
    assert (pixels.shape, pixels.dtype, width, height) == ((48, 64, 3), np.dtype(np.uint8), 640, 480)
    assert pixels.flags.c_contiguous
    assert decode_image(data, 1000)[0].shape == (480, 640, 3)
    assert decode_image(encoded(scene(1000, 2), form), 1)[0].shape == (1, 500, 3)


def test_shrinking_averages_instead_of_skipping() -> None:
    stripes = np.zeros((256, 256, 3), np.uint8)
    stripes[:, ::2] = 255
    pixels, _, _ = decode_image(encoded(Image.fromarray(stripes), "PNG"), 32)
    assert np.abs(pixels[4:-4, 4:-4].astype(int) - 127).max() <= 4


@pytest.mark.parametrize("side", [9_500, 40_000])
def test_too_many_pixels_are_refused_by_the_header_alone(side: int) -> None:
    def part(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = part(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0))
    with pytest.raises(SampleError) as caught:
        decode_image(b"\x89PNG\r\n\x1a\n" + header + part(b"IDAT", zlib.compress(b"")) + part(b"IEND", b""), 64)
    assert caught.value.reason is Reason.TOO_MANY_PIXELS


FORMS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "jpeg": ("RGB", "JPEG", {}),
    "progressive": ("RGB", "JPEG", {"progressive": True}),
    "cmyk": ("CMYK", "JPEG", {}),
    "png": ("RGB", "PNG", {}),
    "webp": ("RGB", "WEBP", {}),
    "gif": ("P", "GIF", {}),
    "bmp": ("RGB", "BMP", {}),
    "tiff": ("RGB", "TIFF", {}),
    "tiff-jpeg": ("RGB", "TIFF", {"compression": "jpeg"}),
    "ppm": ("RGB", "PPM", {}),
}


@pytest.mark.parametrize("name", FORMS)
def test_at_any_truncation_a_picture_is_refused_or_whole(name: str, capfd: pytest.CaptureFixture[str]) -> None:
    mode, form, options = FORMS[name]
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (24, 32, 3), dtype=np.uint8))
    data = encoded(noise.convert(mode), form, **options)
    whole, _, _ = decode_image(data, None)
    taken = []
    for size in {*range(0, len(data), max(1, len(data) // 150)), *range(len(data) - 16, len(data))}:
        try:
            with codec_boundary():
                pixels, _, _ = decode_image(data[:size], None)
        except SampleError as refused:
            assert refused.reason in (Reason.UNDECODABLE, Reason.EMPTY_MEDIUM), (size, refused)
            assert refused.detail, "a refusal says why"
            continue
        taken.append(size)
        assert np.array_equal(pixels, whole)
    assert len(data) not in taken and all(size > 0.9 * len(data) for size in taken)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("share", [0.3, 0.6, 0.95])
def test_a_cut_jpeg_with_an_end_mark_is_refused_and_not_half_grey(share: float, capfd: pytest.CaptureFixture[str]) -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    data = encoded(noise, "JPEG")
    with pytest.raises(SampleError, match="premature end") as caught:
        decode_image(data[: int(share * len(data))] + b"\xff\xd9", None)
    assert caught.value.reason is Reason.UNDECODABLE
    assert decode_image(data, None)[0].shape == (64, 64, 3)
    os.write(2, b"still here")
    assert capfd.readouterr() == ("", "still here")


def test_stray_bytes_before_the_end_mark_do_not_cost_a_jpeg() -> None:
    data = encoded(scene(), "JPEG")
    stray, _, _ = decode_image(data[:-2] + bytes(3) + data[-2:], None)
    assert np.array_equal(stray, decode_image(data, None)[0])


def test_details_hold_nothing_that_differs_between_runs() -> None:
    with pytest.raises(SampleError, match="no picture of a known format; it starts with 6e 6f") as caught:
        decode_image(b"nonsense", None)
    assert "0x" not in caught.value.detail


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("size", [(300, 200), (200, 301), (640, 97)])
def test_shrinking_is_what_pillow_gives(mode: str, size: tuple[int, int]) -> None:
    coarse = Image.fromarray(np.random.default_rng(3).integers(0, 256, (8, 8, 3), dtype=np.uint8))
    image = coarse.resize(size, Image.Resampling.BICUBIC).convert(mode)
    pixels, width, height = decode_image(encoded(image, "PNG"), 50)
    expected = image.convert("RGB").resize((pixels.shape[1], pixels.shape[0]), Image.Resampling.BICUBIC)
    assert (width, height, min(pixels.shape[:2])) == (*size, 50)
    assert abs(pixels.shape[1] / pixels.shape[0] - size[0] / size[1]) < 0.02 * size[0] / size[1]
    assert np.abs(pixels.astype(int) - np.asarray(expected).astype(int)).max() <= 1
    assert pixels.flags.c_contiguous


@pytest.mark.parametrize("in_tiff", [True, False])
def test_inks_of_tiff_and_adobes_inverted_ones_are_what_pillow_shows(in_tiff: bool) -> None:
    inks = Image.fromarray(np.random.default_rng(4).integers(0, 256, (6, 8, 4), dtype=np.uint8), "CMYK").resize((64, 48))
    data = encoded(inks, "TIFF") if in_tiff else encoded(inks, "JPEG", quality=95)
    assert in_tiff or b"Adobe" in data
    with Image.open(io.BytesIO(data)) as image:
        assert np.array_equal(decode_image(data, None)[0], np.asarray(image.convert("RGB")))


def test_no_bytes_are_an_empty_medium() -> None:
    with pytest.raises(SampleError) as caught:
        decode_image(b"", None)
    assert caught.value.reason is Reason.EMPTY_MEDIUM
