"""Pictures as they are stored: an upright RGB JPEG, scaled as torchvision's reference does, or the original bytes.

- before encoding, pixels are within a grey level of torchvision's decode, Resize, CenterCrop; on photographs too
- JPEGs within bounds keep their bytes; a turn, another format or mode, a cut or a larger size does not
- a large photograph, of which the codec leaves out detail, is within a grey level of the same; turned and of odd sizes too
- what is kept was decoded all the same: damage is refused, also where nobody asks for its pixels
- nothing of this imports torchvision, which takes longer than some runs
- nothing is enlarged unless asked for; too many pixels and sides that a JPEG cannot hold are refused
- all 8 EXIF orientations give one picture; the result has no metadata
- normalising again changes nothing
- to_float is torchvision's ToDtype, Normalize
"""

import importlib.util
import io
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw, ImageFont
from torchvision.io import decode_jpeg
from torchvision.transforms import InterpolationMode, v2

from pipeline.errors import Reason, RequestError, SampleError
from pipeline.samples.image import decode_image, decode_upright, divisor_for, shrink
from pipeline.samples.medium import Pixels
from pipeline.samples.resize import Crop, PictureConfig, normalise_picture, scale, to_float, to_jpeg


def scene(width: int, height: int, seed: int = 0) -> Image.Image:
    """Coarse and fine structure in colour, without symmetry."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (7, 9, 3), dtype=np.uint8)).resize((width, height), Image.Resampling.BICUBIC)
    grain = rng.integers(-20, 21, (height, width, 1))
    return Image.fromarray((np.asarray(coarse).astype(np.int16) + grain).clip(0, 255).astype(np.uint8))


def encoded(image: Image.Image, form: str = "JPEG", **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, form, **options)
    return stream.getvalue()


def photographs() -> list[bytes]:
    spec = importlib.util.find_spec("sklearn")
    places = spec.submodule_search_locations if spec and spec.submodule_search_locations else []
    return [path.read_bytes() for place in places for path in sorted((Path(place) / "datasets" / "images").glob("*.jpg"))]


def reference(data: bytes, config: PictureConfig) -> Pixels:
    """torchvision alone, for pictures that are to shrink."""
    size = [config.short_side_px] * (2 if config.crop == "square" else 1)
    steps: list[Any] = [v2.Resize(size, interpolation=InterpolationMode.BICUBIC, antialias=True)]
    if config.crop == "center":
        steps.append(v2.CenterCrop(config.short_side_px))
    pixels_chw = decode_jpeg(torch.frombuffer(bytearray(data), dtype=torch.uint8))
    pixels: Pixels = v2.Compose(steps)(pixels_chw).permute(1, 2, 0).numpy()
    return pixels


def pixels_of(jpeg: bytes) -> Pixels:
    return np.asarray(Image.open(io.BytesIO(jpeg)))


@pytest.mark.parametrize("crop", ["none", "center", "square"])
@pytest.mark.parametrize(("width", "height"), [(640, 427), (333, 901), (500, 500), (257, 256)])
def test_pixels_before_encoding_are_torchvisions(crop: Crop, width: int, height: int) -> None:
    data = encoded(scene(width, height), quality=92)
    config = PictureConfig(short_side_px=200, crop=crop)
    expected = reference(data, config)
    found = scale(pixels_of(data), config)
    assert found.shape == expected.shape
    # The decoders are two builds of libjpeg-turbo: a level here and there.
    assert np.abs(found.astype(int) - expected).mean() < 0.05
    picture = normalise_picture(data, "jpg", config)
    assert (picture.height, picture.width) == expected.shape[:2] and not picture.kept
    assert picture.jpeg == to_jpeg(expected, config.quality)


def test_photographs_shrink_as_torchvision_and_pillow_shrink_them() -> None:
    found = photographs()
    if not found:
        pytest.skip("scikit-learn's photographs are not installed")
    for data in found:
        config = PictureConfig(short_side_px=224, quality=100)
        picture = normalise_picture(data, "jpg", config)
        assert picture.jpeg == to_jpeg(reference(data, config), 100)
        by_pillow = Image.open(io.BytesIO(data)).resize((picture.width, picture.height), Image.Resampling.BICUBIC)
        assert np.abs(scale(pixels_of(data), config).astype(int) - np.asarray(by_pillow)).mean() < 0.05
        # What is left is the loss of JPEG at quality 100, chroma halved.
        assert np.abs(pixels_of(picture.jpeg).astype(int) - np.asarray(by_pillow)).mean() < 3


@pytest.mark.parametrize(("width", "height"), [(1997, 1503), (1504, 2000), (2001, 1500)])
@pytest.mark.parametrize("crop", ["none", "center", "square"])
def test_large_photographs_lose_only_detail_that_shrinking_averages(crop: Crop, width: int, height: int) -> None:
    data = encoded(scene(width, height), quality=92)
    config = PictureConfig(short_side_px=127, crop=crop, quality=100)
    upright = decode_upright(data, lambda height, width, plain: divisor_for(height, width, min(height, width) / 127))
    assert upright.pixels_hwc.shape == (-(-height // 2), -(-width // 2), 3) and (upright.height, upright.width) == (height, width)
    expected, picture = reference(data, config), normalise_picture(data, "jpg", config)
    assert picture.pixels_hwc is not None and picture.pixels_hwc.shape == expected.shape
    apart = picture.pixels_hwc.astype(int) - expected
    assert np.abs(apart).mean() < 0.35 and abs(apart.mean()) < 0.02 and np.abs(apart).max() <= 4
    assert (picture.source_width, picture.source_height) == (width, height)
    if crop == "none":
        pixels, *size = decode_image(data, 127)
        assert size == [width, height] and np.abs(pixels.astype(int) - shrink(decode_upright(data).pixels_hwc, 127)).mean() < 0.35


def test_print_that_becomes_illegible_stays_within_a_grey_level_of_decoding_whole() -> None:
    """The worst that a codec's own halving does, at the least shrinking that takes it."""
    page = Image.new("RGB", (1200, 1508), "white")
    draw, font = ImageDraw.Draw(page), ImageFont.load_default(size=11)
    letters = np.random.default_rng(3).choice(list("abcdefghijklmnopqrstuvwxyz     ABCDEFG"), (120, 260))
    for line, row in enumerate(letters):
        draw.text((0, 13 * line), "".join(row), fill="black", font=font)
    buffer = io.BytesIO()
    page.save(buffer, "JPEG", quality=92)
    halved, *_ = decode_image(buffer.getvalue(), 103)
    assert divisor_for(1508, 1200, 1200 / 103) == 2
    assert np.abs(halved.astype(int) - shrink(decode_upright(buffer.getvalue()).pixels_hwc, 103)).mean() < 1


@pytest.mark.parametrize("side", [1, 2, 3, 5])
@pytest.mark.parametrize(("width", "height"), [(33, 33), (57, 39), (410, 61), (8, 300)])
def test_tiny_targets_have_the_sizes_of_torchvision(side: int, width: int, height: int) -> None:
    config = PictureConfig(short_side_px=side)
    data = encoded(scene(width, height), quality=95)
    found = normalise_picture(data, "jpg", config).pixels_hwc
    expected = reference(data, config)
    assert found is not None and found.shape == expected.shape and np.abs(found.astype(int) - expected).mean() < 1


@pytest.mark.parametrize(("width", "height"), [(1600, 1200), (1601, 1203)])
def test_large_photographs_that_lie_on_their_side_are_turned(width: int, height: int) -> None:
    upright = scene(width, height)
    exif = Image.Exif()
    exif[0x0112] = 6
    config = PictureConfig(short_side_px=100)
    turned = normalise_picture(encoded(upright.transpose(Image.Transpose.ROTATE_90), exif=exif, quality=98), "jpg", config)
    straight = normalise_picture(encoded(upright, quality=98), "jpg", config)
    assert turned.pixels_hwc is not None and straight.pixels_hwc is not None and turned.pixels_hwc.shape == straight.pixels_hwc.shape
    assert (turned.source_width, turned.source_height) == (width, height)
    assert np.abs(turned.pixels_hwc.astype(int) - straight.pixels_hwc).mean() < 0.5


def test_preparing_pictures_imports_no_torchvision() -> None:
    made = "import io; from PIL import Image; data = io.BytesIO(); Image.new('RGB', (900, 600)).save(data, 'JPEG')"
    used = (
        "from pipeline.samples.resize import PictureConfig, normalise_picture; normalise_picture(data.getvalue(), 'jpg', PictureConfig())"
    )
    done = f"import sys, pipeline.samples.prepare; {made}; {used}; sys.exit('torchvision' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", done], check=False).returncode == 0


def test_a_jpeg_within_bounds_keeps_its_bytes() -> None:
    data = encoded(scene(90, 60), quality=35, exif=Image.Exif())
    for config in (PictureConfig(), PictureConfig(short_side_px=60), PictureConfig(short_side_px=60, upscale=True)):
        picture = normalise_picture(data, "left.jpeg", config)
        assert (picture.jpeg, picture.width, picture.height, picture.kept) == (data, 90, 60, True)
    square = encoded(scene(60, 60))
    for crop in ("center", "square"):
        assert normalise_picture(square, "jpg", PictureConfig(crop=crop)).jpeg == square


@pytest.mark.parametrize(
    "config",
    [
        PictureConfig(short_side_px=59),
        PictureConfig(keep_within=False),
        PictureConfig(crop="center"),
        PictureConfig(crop="square"),
        PictureConfig(upscale=True),
    ],
    ids=["larger than asked for", "not wanted", "to be cut", "to be squeezed", "to be enlarged"],
)
def test_a_jpeg_that_has_to_change_is_encoded_again(config: PictureConfig) -> None:
    assert not normalise_picture(encoded(scene(90, 60)), "jpg", config).kept


def test_other_formats_and_modes_are_encoded_again() -> None:
    image = scene(90, 60)
    turned = Image.Exif()
    turned[0x0112] = 3
    for data in (
        encoded(image, "PNG"),
        encoded(image.convert("L")),
        encoded(image.convert("CMYK")),
        encoded(image, exif=turned),
        encoded(image, "MPO", save_all=True, append_images=[image]),
    ):
        picture = normalise_picture(data, "jpg", PictureConfig())
        stored = Image.open(io.BytesIO(picture.jpeg))
        assert (picture.kept, stored.format, stored.mode, stored.size) == (False, "JPEG", "RGB", (90, 60))


def test_damage_is_refused_even_where_bytes_would_be_kept() -> None:
    data = encoded(scene(90, 60))
    for damaged in (data[: len(data) // 2], data[: len(data) // 2] + b"\xff\xd9"):
        for pixels in (True, False):
            with pytest.raises((SampleError, OSError)):
                normalise_picture(damaged, "jpg", PictureConfig(), pixels=pixels)
    assert normalise_picture(data, "jpg", PictureConfig(), pixels=False).pixels_hwc is None
    for empty, field, reason in ((b"", "jpg", Reason.EMPTY_MEDIUM), (data, "txt", Reason.NO_MEDIUM)):
        with pytest.raises(SampleError) as caught:
            normalise_picture(empty, field, PictureConfig())
        assert caught.value.reason is reason


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_gives_the_same_stored_picture(orientation: int) -> None:
    undo = [None, 0, 3, 1, 5, 2, 6, 4][orientation - 1]  # Image.Transpose that makes the stored picture from the upright one
    upright = scene(120, 80)
    stored = upright if undo is None else upright.transpose(Image.Transpose(undo))
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture = normalise_picture(encoded(stored, "PNG", exif=exif), "png", PictureConfig(short_side_px=40))
    assert picture.jpeg == normalise_picture(encoded(upright, "PNG"), "png", PictureConfig(short_side_px=40)).jpeg
    assert len(Image.open(io.BytesIO(picture.jpeg)).getexif()) == 0


def test_only_what_is_asked_for_is_enlarged() -> None:
    data = encoded(scene(90, 60), "PNG")
    assert normalise_picture(data, "png", PictureConfig(crop="center")).width == 60
    enlarged = normalise_picture(data, "png", PictureConfig(upscale=True))
    assert (enlarged.width, enlarged.height) == (384, 256)
    cut = normalise_picture(data, "png", PictureConfig(upscale=True, crop="center"))
    assert (cut.width, cut.height) == (256, 256)


def test_results_that_are_too_large_are_refused() -> None:
    line = Image.new("RGB", (66_000, 1))
    for config in (PictureConfig(), PictureConfig(upscale=True, short_side_px=2_000)):
        with pytest.raises(SampleError) as caught:
            normalise_picture(encoded(line, "PNG"), "png", config)
        assert caught.value.reason is Reason.TOO_MANY_PIXELS


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 90),
    st.integers(1, 90),
    st.integers(1, 64),
    st.sampled_from(["none", "center", "square"]),
    st.booleans(),
)
def test_sizes_keep_the_promises_and_a_second_time_changes_nothing(width: int, height: int, side: int, crop: Crop, upscale: bool) -> None:
    config = PictureConfig(short_side_px=side, crop=crop, upscale=upscale)
    once = normalise_picture(encoded(scene(width, height), "PNG"), "png", config)
    short = min(width, height)
    assert min(once.width, once.height) == (side if upscale else min(side, short))
    if crop == "none":
        long, expected_long = max(once.width, once.height), min(once.width, once.height) * max(width, height) / short
        assert expected_long - 1 < long <= expected_long
        assert once.width == once.height or (once.width > once.height) == (width > height)
    else:
        assert once.width == once.height
    assert pixels_of(once.jpeg).shape == (once.height, once.width, 3)
    again = normalise_picture(once.jpeg, "jpg", config)
    assert again.kept and again.jpeg == once.jpeg


def test_quality_trades_size_for_loss() -> None:
    image = scene(200, 150)
    low, high = (normalise_picture(encoded(image, "PNG"), "png", PictureConfig(quality=quality)).jpeg for quality in (30, 95))
    assert len(low) < len(high)
    loss = [np.abs(pixels_of(jpeg).astype(int) - np.asarray(image)).mean() for jpeg in (low, high)]
    assert loss[0] > loss[1]


def test_values_out_of_range_are_named() -> None:
    for wrong, name in (
        ({"short_side_px": 0}, "short_side_px 0"),
        ({"quality": 0}, "quality 0"),
        ({"quality": 101}, "quality 101"),
        ({"crop": "x"}, "crop 'x'"),
    ):
        with pytest.raises(RequestError, match=name):
            PictureConfig(**wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize(("mean", "std"), [((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)), ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))])
def test_floats_are_torchvisions(mean: tuple[float, ...], std: tuple[float, ...]) -> None:
    pixels = torch.arange(256, dtype=torch.uint8).repeat(2 * 3 * 4).view(2, 3, 32, 32)
    expected = v2.Compose([v2.ToDtype(torch.float32, scale=True), v2.Normalize(mean, std)])(pixels)
    found = to_float(pixels, mean, std)
    assert found.dtype == torch.float32 and (found - expected).abs().max() < 1e-6
    devices = ["cuda"] if torch.cuda.is_available() else []
    for device in devices:
        assert (to_float(pixels.to(device), mean, std).cpu() - expected).abs().max() < 1e-6


def test_floats_of_anything_else_are_refused() -> None:
    pixels = torch.zeros(1, 3, 2, 2, dtype=torch.uint8)
    for wrong in (pixels.float(), pixels[0]):
        with pytest.raises(ValueError, match="expected uint8"):
            to_float(wrong, (0.5,) * 3, (0.5,) * 3)
    for mean, std in (((0.5,) * 2, (0.5,) * 3), ((0.5,) * 3, (0.5, 0.0, 0.5))):
        with pytest.raises(ValueError, match="std above 0"):
            to_float(pixels, mean, std)
