"""Clips -> memory tokens: each frame by the picture encoder, with its time; and the sound track where there is one.

    n  clips     k  frames     m  tokens of a frame     g  cells of one side of its grid     d  width of the text model

The picture encoder is that of pictures, so that what it learns of one serves the other. Motion stands in no frame alone: a
convolution over neighbouring cells of neighbouring frames sees it. Time positions alone, from which the text model would have to work
it out, left the direction of a moving bar at chance for 120 steps, and the convolution alone that of things of many looks for 400; told how alike
neighbouring cells are, it takes 40 (2026-11, decision 0009).
"""

import math

import torch
from torch import nn

from pipeline.model.batch import Clips
from pipeline.model.config import ModelConfig
from pipeline.model.pictures import PictureEncoder

AROUND = tuple((y, x) for y in range(3) for x in range(3))
MAX_WAVELENGTH_S, MIN_WAVELENGTH_S = 600.0, 0.05


class Motion(nn.Module):
    """What changes from frame to frame, cell by cell: a 3 x 3 x 3 convolution over time and both sides, at a quarter of the width, of the
    tokens and of how alike each cell is to the nine around it in the next frame and in the one before (Fischer et al.: FlowNet, 2015)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.narrow, self.wide = nn.Linear(width, width // 4), nn.Linear(width // 4, width)
        self.around = nn.Conv3d(width // 4 + 2 * len(AROUND), width // 4, 3, padding=1)

    def forward(self, cells_nkgd: torch.Tensor, plain_nkgd: torch.Tensor, shown_nk: torch.Tensor) -> torch.Tensor:
        """Tokens of the grid's cells, n x k x (g * g) x d, the same without positions, and which frames are there -> what is to be added to each."""
        n, k, m, _ = cells_nkgd.shape
        side = math.isqrt(m)
        narrow = nn.functional.gelu(self.narrow(cells_nkgd)) * shown_nk[:, :, None, None]  # padding is as what lies outside
        alike = likeness(plain_nkgd.view(n, k, side, side, -1), shown_nk).flatten(2, 3)
        volume = torch.cat([narrow, alike.to(narrow.dtype)], dim=3).permute(0, 3, 1, 2).reshape(n, -1, k, side, side)
        around = nn.functional.gelu(self.around(volume)).reshape(n, -1, k, m).permute(0, 2, 3, 1)
        return self.wide(around)


def likeness(cells_nkhwd: torch.Tensor, shown_nk: torch.Tensor) -> torch.Tensor:
    """n x k x h x w x 18: cosine of each cell, less its frame's mean, with the cells around it in the next frame, then in the one before.

    0 with what lies outside. It says the same of a movement whatever it is that moves.
    """
    away = cells_nkhwd - cells_nkhwd.mean(dim=(2, 3), keepdim=True)
    unit = nn.functional.normalize(away.float(), dim=-1) * shown_nk[:, :, None, None, None]
    height, width = unit.shape[2:4]
    framed = nn.functional.pad(unit, (0, 0, 1, 1, 1, 1, 1, 1))  # a frame before and after, a cell on all sides
    found = []
    for step in (2, 0):
        near = framed[:, step : step + unit.shape[1]]
        found += [(unit * near[:, :, y : y + height, x : x + width]).sum(dim=-1) for y, x in AROUND]
    return torch.stack(found, dim=-1)


class ClipEncoder(nn.Module):
    """Frames and their times -> tokens, n x (k * m) x d, and which of them belong to a frame."""

    def __init__(self, config: ModelConfig, width: int) -> None:
        super().__init__()
        self.max_frames, self.motion = config.max_frames, Motion(width)
        self.orders = nn.Parameter(torch.randn(config.max_frames, width) * config.position_std)
        self.times = nn.Linear(width, width, bias=False)
        nn.init.normal_(self.times.weight, std=config.position_std / math.sqrt(width))

    def forward(self, clips: Clips, pictures: PictureEncoder, seeds_n: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """Tokens and their mask. A frame's token is the picture's, plus what moves there, its order, and a map of its time."""
        frames = clips.frames_nkchw[:, : self.max_frames]
        n, k = frames.shape[:2]
        seeds = None if seeds_n is None else seeds_n.repeat_interleave(k)  # one draw a clip: all its frames are changed alike
        tokens = pictures(frames.flatten(0, 1), seeds)
        width, cells = tokens.shape[2], pictures.grid**2
        tokens = tokens.view(n, k, -1, width)
        shown = torch.arange(k, device=frames.device)[None] < clips.n_frames_n[:, None]
        grid = tokens[:, :, -cells:]
        moved = self.motion(grid, grid - pictures.positions, shown)
        tokens = tokens + nn.functional.pad(moved, (0, 0, tokens.shape[2] - cells, 0))
        place = self.orders[:k] + self.times(waves_of_time(clips.times_nk[:, :k], width))
        tokens = tokens + place[:, :, None]
        return tokens.flatten(1, 2), shown.repeat_interleave(tokens.shape[2], dim=1)


def waves_of_time(times_nk: torch.Tensor, width: int) -> torch.Tensor:
    """Seconds -> n x k x width: sines and cosines of wavelengths from a twentieth of a second to ten minutes."""
    steps = torch.linspace(0.0, 1.0, width // 2, device=times_nk.device)
    rates = 2 * math.pi / (MIN_WAVELENGTH_S * (MAX_WAVELENGTH_S / MIN_WAVELENGTH_S) ** steps)
    angles = times_nk[..., None] * rates
    return torch.cat([angles.sin(), angles.cos()], dim=-1)
