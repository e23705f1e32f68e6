"""What a frozen picture encoder gave for changed pictures, kept: later epochs use it again and cost no encoder pass.

Each picture has as many versions as asked for, one an epoch, changed by the epoch's own draws; the epoch after the last version begins
with the first again. Versions that would be begun too late, because the machine is slow, are given up: training on what is kept is worth more
than the last changes. Dropped channels and words are still drawn anew. Memory is bounded: what does not fit is computed every time.
A worker keeps what it has computed itself; after a restart it begins with nothing.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import torch

from pipeline.errors import RequestError
from pipeline.model.batch import Batch, Pictures
from pipeline.model.config import ModelConfig
from pipeline.model.mix import ObjectiveMix
from pipeline.training.augment import AugmentConfig, augment
from pipeline.training.batches import Fed


def check_kept(versions: int, model: ModelConfig, mix: ObjectiveMix) -> None:
    """RequestError where features are no function of the picture and its draws alone, or pixels are needed all the same."""
    if versions and model.frozen_share < 1:
        raise RequestError(f"--keep-features {versions}: the encoder is trained; it wants --frozen-share 1")
    if versions and model.style_mix > 0:
        raise RequestError(f"--keep-features {versions}: styles are mixed inside the encoder; it wants --style-mix 0")
    if versions and (mix.masked_medium_weight > 0 or "image" not in model.modalities):
        raise RequestError(f"--keep-features {versions}: it is for pictures of which no patches are hidden")


class KeptGrids:
    """Grids by (file, row, version), up to a number of bytes."""

    def __init__(self, model: Any, versions: int, most_bytes: int, done: Callable[[], float] = lambda: 0.0, share: float = 1.0) -> None:
        """`done`: the share of the training that is done, 0..1; after `share` more of it than at the first batch no version is begun."""
        self._model, self._versions, self._room = model, versions, most_bytes
        self._done, self._share = done, share
        self._first_epoch, self._until, self._begun = -1, 1.0, 0
        self._grids: dict[tuple[int, int, int], torch.Tensor] = {}

    def changed(self, fed: Fed, batch: Batch, config: AugmentConfig) -> Batch:
        """`batch`, which is `fed`'s on the device, with its media changed and its pictures' grids computed."""
        mirror_b = fed.mirror_b.to(batch.seeds_b.device)
        pictures = batch.pictures
        if pictures is None:
            return augment(batch, mirror_b, config)
        self._begin(int(fed.epoch_b[: fed.size].max()))
        names = [self._name(fed, row) for row in pictures.rows_n.tolist()]
        grids = [None if name is None else self._grids.get(name) for name in names]
        missing = [at for at, grid in enumerate(grids) if grid is None]
        if missing:
            places = torch.tensor(missing, device=pictures.rows_n.device)
            some = Pictures(rows_n=pictures.rows_n[places], pixels_nchw=pictures.pixels_nchw[places])
            alone = dataclasses.replace(batch, pictures=some, recordings=None, clips=None)
            seen = augment(alone, mirror_b, config).pictures
            assert seen is not None
            with torch.no_grad():
                found = self._model.grids(seen)
            for at, grid in zip(missing, found, strict=True):
                grids[at] = grid
                self._keep(names[at], grid)
        rest = augment(dataclasses.replace(batch, pictures=None), mirror_b, config)
        return dataclasses.replace(
            rest, pictures=dataclasses.replace(pictures, grid_ncgg=torch.stack([grid for grid in grids if grid is not None]))
        )

    def _begin(self, epoch: int) -> None:
        """An epoch's version is begun, or what is begun has to do."""
        if self._begun == 0:
            self._first_epoch, self._until = epoch, self._done() + self._share
        version = epoch - self._first_epoch + 1
        if self._begun < version <= self._versions:
            if self._begun and self._done() >= self._until:
                self._versions = self._begun
            else:
                self._begun = version

    def _name(self, fed: Fed, row: int) -> tuple[int, int, int] | None:
        """None for a row that only fills the batch."""
        if row >= fed.size:
            return None
        return int(fed.file_b[row]), int(fed.row_b[row]), (int(fed.epoch_b[row]) - self._first_epoch) % self._versions

    def _keep(self, name: tuple[int, int, int] | None, grid: torch.Tensor) -> None:
        size = grid.numel() * grid.element_size()
        if name is not None and size <= self._room:
            self._room -= size
            self._grids[name] = grid.clone()
