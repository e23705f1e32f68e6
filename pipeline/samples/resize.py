"""Bytes of a picture -> the JPEG that is trained on: upright RGB, shorter side as asked for, one lossy step at most.

Decoding is `image.py`'s, so that what is refused for captions is refused here too. Scaling is torchvision's antialiased
bicubic on uint8, 5 to 9 times as fast as Pillow's on the machine it was measured on (AVX2, 2026-11), with results 0.003
grey levels apart on the mean. Encoding is libjpeg-turbo's by way of simplejpeg, in three quarters of Pillow's time; below quality 96
it takes the faster DCT, 0.03 grey levels worse. torchvision's codecs are to go, and importing them takes a process 1.5 s.
A large photograph is decoded at a half or a quarter of its size, as long as it has to shrink to a `GAP`th of that: 1.3 times
as fast and more at 12 megapixels, photographs 0.1 grey levels off on the mean, the finest print below 1. A picture that is within bounds already keeps its bytes, but is
decoded all the same, at an eighth where no filter asks for its pixels: damage must not pass for a picture.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import simplejpeg
import torch

from pipeline.errors import Reason, RequestError, SampleError
from pipeline.samples.bicubic import resize
from pipeline.samples.image import check_pixels, decode_upright, divisor_for
from pipeline.samples.medium import Pixels, modality_of

Crop = Literal["none", "center", "square"]

MAX_JPEG_SIDE_PX = 65_500
"""Longest side that libjpeg writes."""
CHECKED = 8
"""What sides are divided by while a picture is decoded only to see whether it can be: its coefficients are all read at any size."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PictureConfig:
    """What pictures are brought to. Part of the recipe: it decides what the model sees."""

    short_side_px: int = 256
    """The shorter side in pixels; larger keeps more detail and costs storage and decoding time by its square."""
    crop: Crop = "none"
    """`none` keeps the aspect; `center` scales and cuts the square in the middle; `square` scales both sides to one, and cuts nothing."""
    upscale: bool = False
    """Enlarge pictures that are smaller; without it they keep their size."""
    quality: int = 90
    """JPEG quality, 1..100; higher means larger files with less loss."""
    keep_within: bool = True
    """Keep the original bytes, metadata and colour profile included, of a JPEG that would come out with the size it has."""

    def __post_init__(self) -> None:
        """Raises RequestError for a value out of range."""
        if not 1 <= self.short_side_px <= MAX_JPEG_SIDE_PX:
            raise RequestError(f"short_side_px {self.short_side_px}: give 1 to {MAX_JPEG_SIDE_PX} pixels")
        if not 1 <= self.quality <= 100:
            raise RequestError(f"quality {self.quality}: give 1 to 100")
        if self.crop not in get_args(Crop):
            raise RequestError(f"crop {self.crop!r}: give one of {', '.join(get_args(Crop))}")


@dataclass(frozen=True, slots=True, eq=False)
class Picture:
    """A picture as it is stored."""

    jpeg: bytes
    """Baseline RGB JPEG without metadata, or the original bytes."""
    width: int
    """Pixels, of `jpeg`."""
    height: int
    kept: bool
    """`jpeg` is the original, byte for byte."""
    pixels_hwc: Pixels | None
    """uint8 RGB, height x width x 3: what was encoded, or what the original decodes to; None for one that was only checked."""
    source_width: int
    """Pixels of the original, upright."""
    source_height: int


def normalise_picture(data: bytes, field: str, config: PictureConfig, *, pixels: bool = True) -> Picture:
    """The picture upright, in RGB, scaled and cut as `config` says, as JPEG. Without `pixels` those of an original are only checked.

    Transparency is laid on white; an animation gives its first frame. Raises SampleError for a field that is no
    picture, an empty, damaged or too large picture, and whatever the codec raises for an undecodable one.
    """
    if modality_of(field) != "image":
        raise SampleError(Reason.NO_MEDIUM, f".{field} is no picture")

    def kept(height: int, width: int, plain: bool) -> bool:
        return config.keep_within and plain and _target(height, width, config) == (height, width)

    def divide(height: int, width: int, plain: bool) -> int:
        if kept(height, width, plain):
            return 1 if pixels else CHECKED
        scaled = _scaled(height, width, config)
        return divisor_for(height, width, min(height / scaled[0], width / scaled[1]))

    upright = decode_upright(data, divide)
    height, width = upright.height, upright.width
    if kept(height, width, upright.plain):
        return Picture(data, width, height, True, upright.pixels_hwc if upright.divisor == 1 else None, width, height)
    stored = scale(upright.pixels_hwc, config, (height, width), upright.covers)
    return Picture(to_jpeg(stored, config.quality), stored.shape[1], stored.shape[0], False, stored, width, height)


def scale(
    pixels_hwc: Pixels, config: PictureConfig, source: tuple[int, int] | None = None, covers: tuple[float, float] | None = None
) -> Pixels:
    """Pixels scaled and cut as `config` says: uint8 RGB, height x width x 3, in and out; contiguous.

    Sizes and values are those of torchvision's `Resize(antialias=True)`, then `CenterCrop`. Where `pixels_hwc` are less than the
    original: `source`, its height and width, and `covers`, the same in pixels of `pixels_hwc`. Raises SampleError for a result
    with too many pixels: a line of 1 x 10,000, enlarged.
    """
    height, width = source or pixels_hwc.shape[:2]
    scaled_height, scaled_width = _scaled(height, width, config)
    check_pixels(scaled_width, scaled_height)
    if (scaled_height, scaled_width) != (height, width):
        pixels_hwc = resize(pixels_hwc, scaled_height, scaled_width, covers)
    target_height, target_width = _target(height, width, config)
    # Rounded as torchvision's center_crop does.
    top, left = round((scaled_height - target_height) / 2.0), round((scaled_width - target_width) / 2.0)
    return np.ascontiguousarray(pixels_hwc[top : top + target_height, left : left + target_width])


def _scaled(height: int, width: int, config: PictureConfig) -> tuple[int, int]:
    """Height and width before anything is cut. The longer side is rounded down, as torchvision does."""
    short, long = min(height, width), max(height, width)
    side = config.short_side_px if config.upscale else min(config.short_side_px, short)
    if config.crop == "square":
        return side, side
    other = int(side * long / short)
    return (side, other) if height <= width else (other, side)


def _target(height: int, width: int, config: PictureConfig) -> tuple[int, int]:
    """Height and width of what is stored."""
    scaled = _scaled(height, width, config)
    return (min(scaled), min(scaled)) if config.crop == "center" else scaled


def to_jpeg(pixels_hwc: Pixels, quality: int) -> bytes:
    """uint8 RGB, height x width x 3 -> baseline JPEG, 4:2:0, without metadata. Raises SampleError where a side is too long."""
    height, width = pixels_hwc.shape[:2]
    if max(height, width) > MAX_JPEG_SIDE_PX:
        raise SampleError(Reason.TOO_MANY_PIXELS, f"{width} x {height}: a JPEG has at most {MAX_JPEG_SIDE_PX} px a side")
    return bytes(simplejpeg.encode_jpeg(np.require(pixels_hwc, requirements=["C"]), quality, "RGB", "420"))


def to_float(pixels_bchw: torch.Tensor, mean: Sequence[float], std: Sequence[float]) -> torch.Tensor:
    """uint8, batch x channels x height x width, on any device -> float32 of the same shape there: (x / 255 - mean) / std.

    The same operations in the same order as torchvision's `ToDtype(scale=True)`, `Normalize`. `mean` and `std` are per channel,
    in units of 0..1. Raises ValueError for another dtype or shape, and for a deviation that is not positive.
    """
    if pixels_bchw.dtype != torch.uint8 or pixels_bchw.ndim != 4:
        raise ValueError(f"expected uint8, batch x channels x height x width; got {pixels_bchw.dtype}, {tuple(pixels_bchw.shape)}")
    if not len(mean) == len(std) == pixels_bchw.shape[1] or min(std) <= 0:
        raise ValueError(f"mean {tuple(mean)} and std {tuple(std)}: expected {pixels_bchw.shape[1]} values each, std above 0")
    centre, spread = (torch.tensor(values, dtype=torch.float32, device=pixels_bchw.device).view(1, -1, 1, 1) for values in (mean, std))
    return pixels_bchw.to(torch.float32).div_(255.0).sub_(centre).div_(spread)
