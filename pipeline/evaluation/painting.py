"""Pictures from text, first form: the head that fills hidden patches, asked for all of them, given the words alone.

    n  pictures     p  patches, as many as grid cells     t  tokens     d  width of the text model     x  values of a patch

The head was trained with a share of the patches hidden and predicts their mean, so that what it paints is soft, and with all
hidden it stands outside of what it has seen. It starts from nothing but the words; at every step those patches are kept that
changed least since the step before, and are shown to the encoder from then on (as MaskGIT does with its confidences: Chang et
al., 2022, and continuous values have none). The figures stand beside those of another sample's text and of one flat colour.
"""

import math
from typing import Any

import numpy as np
import torch

from pipeline.model.hide import hide_patches
from pipeline.model.patches import statistics_kept

STEPS = 8


def can_paint(model: Any) -> bool:
    """The model has a head for hidden patches of pictures."""
    return hasattr(model, "picture_head") and hasattr(model, "pictures")


def paint(model: Any, token_ids_nt: torch.Tensor, token_mask_nt: torch.Tensor, *, steps: int = STEPS) -> torch.Tensor:
    """uint8, n x 3 x side x side, made from texts. The same texts give the same pictures."""
    encoder, head = model.pictures, model.picture_head
    count, cells, side = len(token_ids_nt), encoder.grid**2, encoder.input_px
    words = model.word_states(token_ids_nt, token_mask_nt)
    hidden = torch.ones(count, cells, dtype=torch.bool, device=token_ids_nt.device)
    kept = torch.zeros(count, cells, 3 * encoder.stride**2, device=token_ids_nt.device)
    before: torch.Tensor | None = None
    for step in range(steps):
        picture = _joined(kept, encoder.stride, side)
        with statistics_kept(encoder):
            tokens = encoder.tokens(encoder.features(hide_patches(picture, hidden, encoder.stride)))[:, -cells:]
        said = head(tokens, hidden, words, token_mask_nt, torch.ones_like(hidden)).float()
        left = math.floor(cells * math.cos(math.pi / 2 * (step + 1) / steps)) if step + 1 < steps else 0
        fresh = _surest(said, before, hidden, left)
        kept = torch.where(fresh[..., None], said, kept)
        hidden, before = hidden & ~fresh, said
    return _pixels(_joined(kept, encoder.stride, side), encoder)


def _surest(said: torch.Tensor, before: torch.Tensor | None, hidden: torch.Tensor, left: int) -> torch.Tensor:
    """Hidden patches that changed least since the step before, so many that `left` stay hidden; at first every other one in turn."""
    count, cells = hidden.shape
    if before is None:
        change = (torch.arange(cells, device=said.device) * 0.6180339887 % 1.0).expand(count, -1)
    else:
        change = (said - before).square().mean(dim=2)
    rank = change.masked_fill(~hidden, math.inf).argsort(dim=1, stable=True).argsort(dim=1, stable=True)
    return hidden & (rank < hidden.sum(dim=1, keepdim=True) - left)


def _joined(patches_npx: torch.Tensor, stride: int, side: int) -> torch.Tensor:
    """Patches back to pixels around 0, n x 3 x side x side."""
    whole = side // stride * stride
    joined = torch.nn.functional.fold(patches_npx.transpose(1, 2), (whole, whole), stride, stride=stride)
    return torch.nn.functional.pad(joined, (0, side - whole, 0, side - whole))


def _pixels(normal_nchw: torch.Tensor, encoder: Any) -> torch.Tensor:
    mean, std = (torch.tensor(values, device=normal_nchw.device).view(1, 3, 1, 1) for values in (encoder.mean, encoder.std))
    return ((normal_nchw * std + mean) * 255).round().clamp(0, 255).to(torch.uint8)


def psnr(painted_nchw: torch.Tensor, real_nchw: torch.Tensor) -> np.ndarray:
    """Peak signal-to-noise ratio in dB of each picture, uint8 both, float64; 99 where they are equal."""
    error = (painted_nchw.double() - real_nchw.double()).square().mean(dim=(1, 2, 3)).cpu().numpy()
    ratio: np.ndarray = np.minimum(99.0, 10 * np.log10(255**2 / np.maximum(error, 1e-9)))
    return ratio


def flat(real_nchw: torch.Tensor) -> torch.Tensor:
    """Each picture as its own mean colour: what knows nothing of where things are, but cheats on the colour."""
    return real_nchw.float().mean(dim=(2, 3), keepdim=True).round().to(torch.uint8).expand_as(real_nchw)
