"""Clips -> memory tokens: each frame by the picture encoder, with its time; and the sound track where there is one.

    n  clips     k  frames     m  tokens of a frame     d  width of the text model

The picture encoder is that of pictures, so that what it learns of one serves the other. Motion stands in no frame alone: the text
model reads it from tokens of several times, which is what their time positions are for.
"""

import math

import torch
from torch import nn

from pipeline.model.batch import Clips
from pipeline.model.config import ModelConfig
from pipeline.model.pictures import PictureEncoder

MAX_WAVELENGTH_S, MIN_WAVELENGTH_S = 600.0, 0.05


class ClipEncoder(nn.Module):
    """Frames and their times -> tokens, n x (k * m) x d, and which of them belong to a frame."""

    def __init__(self, config: ModelConfig, width: int) -> None:
        super().__init__()
        self.max_frames = config.max_frames
        self.orders = nn.Parameter(torch.randn(config.max_frames, width) * config.position_std)
        self.times = nn.Linear(width, width, bias=False)
        nn.init.normal_(self.times.weight, std=config.position_std / math.sqrt(width))

    def forward(self, clips: Clips, pictures: PictureEncoder, seeds_n: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """Tokens and their mask. A frame's token is the picture's plus its order plus a map of its time."""
        frames = clips.frames_nkchw[:, : self.max_frames]
        n, k = frames.shape[:2]
        seeds = None if seeds_n is None else seeds_n.repeat_interleave(k)  # one draw a clip: all its frames are changed alike
        tokens = pictures(frames.flatten(0, 1), seeds)
        width = tokens.shape[2]
        place = self.orders[:k] + self.times(waves_of_time(clips.times_nk[:, :k], width))
        tokens = tokens.view(n, k, -1, width) + place[:, :, None]
        shown = torch.arange(k, device=frames.device)[None] < clips.n_frames_n[:, None]
        return tokens.flatten(1, 2), shown.repeat_interleave(tokens.shape[2], dim=1)


def waves_of_time(times_nk: torch.Tensor, width: int) -> torch.Tensor:
    """Seconds -> n x k x width: sines and cosines of wavelengths from a twentieth of a second to ten minutes."""
    steps = torch.linspace(0.0, 1.0, width // 2, device=times_nk.device)
    rates = 2 * math.pi / (MIN_WAVELENGTH_S * (MAX_WAVELENGTH_S / MIN_WAVELENGTH_S) ** steps)
    angles = times_nk[..., None] * rates
    return torch.cat([angles.sin(), angles.cos()], dim=-1)
