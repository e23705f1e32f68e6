"""What a copier gets: the text of the most similar picture that was trained on. A model that is worth its training does better.

    n  pictures     c  channels     g  cells of one side of the grid     x  values of a picture's feature

Similarity is the cosine of features of a backbone that saw none of the pictures: pooled over the grid, what is in the picture, or with
the grid flattened, what is where. Exact search; memory is one row of similarities a picture of a block.
"""

from collections.abc import Callable
from typing import Any

import torch

from pipeline.model.config import ModelConfig
from pipeline.model.pictures import PictureEncoder

_BLOCK = 64


def features(config: ModelConfig, pixels_nchw: torch.Tensor, *, pooled: bool) -> torch.Tensor:
    """float32, n x x, of length 1: the pretrained backbone's grid of uint8 pictures of `config.input_px`, pooled or flattened.

    RequestError for weights or sizes that do not fit.
    """
    encoder: Any = PictureEncoder(config, 1, pretrained=True).eval()
    found = []
    with torch.inference_mode():
        for start in range(0, len(pixels_nchw), _BLOCK):
            grid = encoder.features(encoder.normalised(pixels_nchw[start : start + _BLOCK]))
            rows = grid.mean(dim=(2, 3)) if pooled else grid.flatten(1)
            found.append(torch.nn.functional.normalize(rows, dim=1))
    return torch.cat(found) if found else torch.zeros(0, 0)


def nearest(known_nx: torch.Tensor, asked_mx: torch.Tensor) -> list[int]:
    """For each asked row the known row with the greatest dot product, the first of several. ValueError where nothing is known."""
    if not len(known_nx):
        raise ValueError("nearest of nothing: there is no known picture")
    found: list[int] = []
    for start in range(0, len(asked_mx), _BLOCK):
        found += (asked_mx[start : start + _BLOCK] @ known_nx.T).argmax(dim=1).tolist()
    return found


def copied(known: Callable[[int], str], known_nx: torch.Tensor, asked_mx: torch.Tensor) -> list[str]:
    """The texts that a copier gives."""
    return [known(at) for at in nearest(known_nx, asked_mx)]
