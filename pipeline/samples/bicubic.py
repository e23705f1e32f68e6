"""Pixels to another size by torchvision's reference: antialiased bicubic on uint8, without torchvision's dispatch around it."""

import numpy as np
import torch
from torch.nn.functional import interpolate

from pipeline.samples.medium import Pixels


def resize(pixels_hwc: Pixels, height: int, width: int, covers: tuple[float, float] | None = None) -> Pixels:
    """uint8, height x width x 3, to exactly this size; contiguous.

    `covers`: height and width of the picture in pixels of `pixels_hwc`, whose last row and column may stand for less than a whole one.
    """
    pixels_hwc = np.require(pixels_hwc, requirements=["C", "W"])
    before_height, before_width, channels = pixels_hwc.shape
    # Strides that leave no doubt about the layout: a batch of one is otherwise taken apart by channels, and put together again.
    pixels_bchw = torch.from_numpy(pixels_hwc).as_strided(
        (1, channels, before_height, before_width), (pixels_hwc.size, 1, before_width * channels, channels)
    )
    if covers is None or covers == (before_height, before_width):
        resized = interpolate(pixels_bchw, size=(height, width), mode="bicubic", antialias=True)
    else:
        scales = [(1 + 1e-9) * after / before for after, before in zip((height, width), covers, strict=True)]  # sizes are rounded down
        resized = interpolate(pixels_bchw, scale_factor=scales, mode="bicubic", antialias=True)[:, :, :height, :width]
    return np.ascontiguousarray(resized[0].permute(1, 2, 0).numpy())
