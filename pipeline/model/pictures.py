"""Pictures -> memory tokens: the feature grid of a backbone, a token a cell, at the width of the text model.

    n  pictures     c  channels     h, w  pixels     g  cells of one side of the grid     m  tokens     d  width of the text model

Pooled class scores would be one vector; words attend to places, so the grid stays a sequence.
"""

import torch
from torch import nn

from pipeline.model.backbone import build_backbone, norm_of
from pipeline.model.chance import Stream, uniform
from pipeline.model.config import ModelConfig
from pipeline.samples.resize import to_float


class PictureEncoder(nn.Module):
    """uint8 pixels, n x 3 x h x w -> tokens, n x m x d, with m = g * g, and one more for the whole grid if asked for."""

    def __init__(self, config: ModelConfig, width: int, *, pretrained: bool) -> None:
        super().__init__()
        backbone = build_backbone(config, pretrained=pretrained)
        self.layers = backbone.layers
        self.stride, self.grid, self.channels = backbone.stride, backbone.grid_px, backbone.channels
        self.mean, self.std = backbone.mean, backbone.std
        self.input_px = config.input_px
        self.n_frozen = round(config.frozen_share * len(self.layers))
        self._statistics_frozen = norm_of(config) == "frozen"
        self._style_mix, self._feature_dropout = config.style_mix, config.feature_dropout
        for layer in self.layers[: self.n_frozen]:
            layer.requires_grad_(False)
        self.project = nn.Linear(self.channels, width)
        self.norm = nn.LayerNorm(width)
        self.positions = nn.Parameter(torch.randn(self.grid**2, width) * config.position_std)
        if config.whole_grid:
            self.project_whole = nn.Linear(self.channels * self.grid**2, width)
            self.norm_whole = nn.LayerNorm(width)
            self.position_whole = nn.Parameter(torch.randn(width) * config.position_std)

    def train(self, mode: bool = True) -> "PictureEncoder":
        """Frozen layers, and frozen statistics, stay in evaluation mode: `requires_grad` does not stop BatchNorm's averages."""
        super().train(mode)
        for at, layer in enumerate(self.layers):
            if at < self.n_frozen:
                layer.eval()
            elif self._statistics_frozen:
                freeze_statistics(layer)
        return self

    def normalised(self, pixels_nchw: torch.Tensor) -> torch.Tensor:
        """uint8 -> float32 around the mean colour, which is 0."""
        if tuple(pixels_nchw.shape[2:]) != (self.input_px, self.input_px):
            height, width = pixels_nchw.shape[2:]
            raise ValueError(f"pictures of {width} x {height} px for a model of {self.input_px} x {self.input_px} px")
        return to_float(pixels_nchw, self.mean, self.std)

    def features(self, normal_nchw: torch.Tensor, seeds_n: torch.Tensor | None = None) -> torch.Tensor:
        """float32 pixels around 0 -> n x channels x g x g. With seeds, styles are mixed and channels dropped."""
        grid = normal_nchw.contiguous(memory_format=torch.channels_last)
        for at, layer in enumerate(self.layers):
            with torch.set_grad_enabled(torch.is_grad_enabled() and at >= self.n_frozen):
                grid = layer(grid)
                if seeds_n is not None and self._style_mix > 0 and at < len(self.layers) // 2:
                    grid = mix_styles(grid, uniform(seeds_n, Stream.STYLE, 2 * (at + 1))[:, -2:], self._style_mix)
        return self._dropped(grid, seeds_n)

    def _dropped(self, grid_ncgg: torch.Tensor, seeds_n: torch.Tensor | None) -> torch.Tensor:
        if seeds_n is None or self._feature_dropout == 0:
            return grid_ncgg
        return drop_channels(grid_ncgg, uniform(seeds_n, Stream.FEATURES, grid_ncgg.shape[1]), self._feature_dropout)

    def tokens(self, grid_ncgg: torch.Tensor) -> torch.Tensor:
        """Feature grid -> n x m x d, each token normalised, with its position added."""
        cells = grid_ncgg.flatten(2).transpose(1, 2)
        tokens = self.norm(self.project(cells)) + self.positions
        if hasattr(self, "project_whole"):
            whole = self.norm_whole(self.project_whole(grid_ncgg.flatten(1))) + self.position_whole
            tokens = torch.cat([whole[:, None], tokens], dim=1)
        return tokens

    def forward(
        self, pixels_nchw: torch.Tensor, seeds_n: torch.Tensor | None = None, grid_ncgg: torch.Tensor | None = None
    ) -> torch.Tensor:
        """uint8 pixels -> tokens; pixels are not looked at where their grid is given. `seeds_n` only while training."""
        if grid_ncgg is not None:
            return self.tokens(self._dropped(grid_ncgg, seeds_n))
        return self.tokens(self.features(self.normalised(pixels_nchw), seeds_n))


def freeze_statistics(module: nn.Module) -> None:
    """BatchNorm below `module` uses its running statistics and leaves them."""
    for child in module.modules():
        if isinstance(child, nn.modules.batchnorm._BatchNorm):
            child.eval()


def mix_styles(grid_ncgg: torch.Tensor, draws_n2: torch.Tensor, probability: float) -> torch.Tensor:
    """MixStyle (Zhou et al.: Domain Generalization with MixStyle, 2021): a picture's channel means and spreads, mixed with another's.

        out = (x - mean_x) / std_x * (l std_x + (1 - l) std_y) + l mean_x + (1 - l) mean_y,   y the next picture of the batch

    `draws_n2` in 0..1: the first decides whether, the second is l. What is where stays; how it is drawn changes.
    """
    mean = grid_ncgg.mean(dim=(2, 3), keepdim=True)
    std = grid_ncgg.var(dim=(2, 3), keepdim=True, unbiased=False).add(1e-5).sqrt()
    share = torch.where(draws_n2[:, 0] < probability, draws_n2[:, 1], 1.0).view(-1, 1, 1, 1)
    mean_y, std_y = mean.roll(1, 0), std.roll(1, 0)
    scale = share + (1 - share) * std_y / std
    shift = share * mean + (1 - share) * mean_y - mean * scale
    return torch.addcmul(shift, grid_ncgg, scale)


def drop_channels(grid_ncgg: torch.Tensor, draws_nc: torch.Tensor, share: float) -> torch.Tensor:
    """Whole channels set to 0 where the draw is below `share`, the others scaled so that the mean stays."""
    kept = (draws_nc >= share).to(grid_ncgg.dtype) / (1.0 - share if share < 1 else 1.0)
    return grid_ncgg * kept[:, :, None, None]
