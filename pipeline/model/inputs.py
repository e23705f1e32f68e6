"""Decoded media -> what a model takes: pictures brought to its square, in one way for training, validation and captions."""

from collections.abc import Sequence

import numpy as np
import torch

from pipeline.model.config import Fit
from pipeline.samples.bicubic import resize
from pipeline.samples.medium import Pixels
from pipeline.samples.resize import PictureConfig, scale


def fit_picture(pixels_hwc: Pixels, side_px: int, fit: Fit) -> Pixels:
    """uint8 RGB of any size -> side x side x 3, contiguous; `crop` cuts the middle of the longer side, `stretch` cuts nothing."""
    height, width = pixels_hwc.shape[:2]
    if (height, width) == (side_px, side_px):
        return np.ascontiguousarray(pixels_hwc)
    if fit == "stretch":
        return resize(pixels_hwc, side_px, side_px)
    # The middle is cut before scaling: a line of 1 x 10,000, enlarged first, would not fit into memory.
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    square = np.ascontiguousarray(pixels_hwc[top : top + side, left : left + side])
    return scale(square, PictureConfig(short_side_px=side_px, crop="center", upscale=True))


def stack_pictures(pictures: Sequence[Pixels]) -> torch.Tensor:
    """Pictures of one size -> uint8, n x 3 x h x w."""
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).contiguous()
