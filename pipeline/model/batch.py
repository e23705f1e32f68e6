"""One training batch: what crosses from the feed to the model. Media are uint8 and int16 until they are on the device.

    b  samples of the batch     n  samples that have this kind of medium     t  tokens, or samples of a wave
    k  frames of a clip         c  colours     h, w  pixels

A batch may mix modalities: each block of media says which rows of the batch it belongs to.
"""

from dataclasses import dataclass

import torch


@dataclass(frozen=True, slots=True, kw_only=True)
class Pictures:
    """The pictures of a batch."""

    rows_n: torch.Tensor
    """int64: the row of the batch that each belongs to, ascending, at most one a row."""
    pixels_nchw: torch.Tensor
    """uint8 RGB."""
    grid_ncgg: torch.Tensor | None = None
    """What the backbone gives for these pixels where it is known already, n x channels x cells x cells; else it is computed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recordings:
    """The recordings of a batch, padded with zeros at the end."""

    rows_n: torch.Tensor
    """int64."""
    wave_nt: torch.Tensor
    """int16 mono at the model's rate."""
    length_n: torch.Tensor
    """int64: samples without padding."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Clips:
    """The clips of a batch, padded with black frames at the end."""

    rows_n: torch.Tensor
    """int64."""
    frames_nkchw: torch.Tensor
    """uint8 RGB."""
    n_frames_n: torch.Tensor
    """int64: frames without padding."""
    times_nk: torch.Tensor
    """float32: seconds from the clip's start; 0 in padding."""
    sound: Recordings | None = None
    """Sound tracks of those that have one; `rows_n` counts rows of the batch."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Samples of one step of one worker."""

    origins: tuple[tuple[str, int], ...]
    """(shard, index), one a row; padding rows repeat a real one with weight 0."""
    token_ids_bt: torch.Tensor
    """int64: [CLS] words [SEP], then padding."""
    token_mask_bt: torch.Tensor
    """bool: True on tokens, [CLS] and [SEP] included."""
    weight_b: torch.Tensor
    """float32: 1, or 0 for a row that only fills the batch."""
    seeds_b: torch.Tensor
    """int64: a hash of (run seed, epoch, shard, index); all randomness of a sample comes from it."""
    pictures: Pictures | None = None
    recordings: Recordings | None = None
    clips: Clips | None = None
