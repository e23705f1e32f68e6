"""Hidden patches of pictures, frames and spectrograms: what is hidden, encoded and reconstructed.

    n  media     f  frames of 10 ms     p  patches, as many as grid cells     x  values of a patch     m  tokens     d  width of the text model

BatchNorm keeps its statistics in this pass: pictures with grey holes are not what they are for. All frames of a clip hide the
same patches; else a neighbouring frame would show them.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import NamedTuple

import torch

from pipeline.model.batch import Batch
from pipeline.model.chance import Stream, uniform
from pipeline.model.heads import PatchHead
from pipeline.model.hide import hide_patches, patches_of, pick
from pipeline.model.objectives import Loss, patch_loss
from pipeline.model.pictures import PictureEncoder, freeze_statistics
from pipeline.model.recordings import RecordingEncoder

Numbers = Callable[[], AbstractContextManager[None]]
SPAN_FRAMES = 16
"""Frames of a spectrogram (10 ms each) that are hidden together: less, and the neighbours tell."""


class Reconstructed(NamedTuple):
    """What a head made of hidden patches, beside what they are."""

    predicted_npx: torch.Tensor
    target_npx: torch.Tensor
    """Pixels minus the data's mean over its spread, or log-mel likewise."""
    hidden_np: torch.Tensor
    """bool."""
    weight_np: torch.Tensor
    """float32: of the sample, 0 on what was shown."""

    def loss(self) -> Loss:
        """Of the hidden patches."""
        return patch_loss(self.predicted_npx, self.target_npx, self.weight_np)


def reconstruct_pictures(
    encoder: PictureEncoder, head: PatchHead, batch: Batch, words_btd: torch.Tensor, share: float, numbers: Numbers = nullcontext
) -> Reconstructed:
    """The pictures of a batch, and the frames of its clips; `numbers` gives the encoder's precision as a context."""
    blocks = []
    if batch.pictures is not None:
        rows = batch.pictures.rows_n
        blocks.append((rows, batch.pictures.pixels_nchw, batch.weight_b[rows]))
    if batch.clips is not None:
        n, k = batch.clips.frames_nkchw.shape[:2]
        rows = batch.clips.rows_n.repeat_interleave(k)
        shown = torch.arange(k, device=rows.device).repeat(n) < batch.clips.n_frames_n.repeat_interleave(k)
        blocks.append((rows, batch.clips.frames_nkchw.flatten(0, 1), batch.weight_b[rows] * shown))
    rows_n, pixels, weight = (torch.cat(parts) for parts in zip(*blocks, strict=True))
    normal = encoder.normalised(pixels)
    hidden = hidden_patches(batch.seeds_b[rows_n], encoder.grid**2, share)
    with numbers(), statistics_kept(encoder):
        grid = encoder.features(hide_patches(normal, hidden, encoder.stride))
        tokens = encoder.tokens(grid)[:, -(encoder.grid**2) :]
    predicted = head(tokens, hidden, words_btd[rows_n], batch.token_mask_bt[rows_n], torch.ones_like(hidden))
    return Reconstructed(predicted, patches_of(normal, encoder.stride), hidden, hidden * weight[:, None])


def reconstruct_recordings(
    encoder: RecordingEncoder, head: PatchHead, batch: Batch, words_btd: torch.Tensor, share: float, numbers: Numbers = nullcontext
) -> Reconstructed:
    """The recordings of a batch: spans of 160 ms, all bands; `numbers` gives the encoder's precision as a context."""
    assert batch.recordings is not None
    rows = batch.recordings.rows_n
    mel, heard_nf = encoder.features(batch.recordings.wave_nt, batch.recordings.length_n)
    heard = heard_nf[:, :: encoder.stride]
    hidden = hidden_spans(batch.seeds_b[rows], heard, share, encoder.stride)
    with numbers():
        tokens, _ = encoder.encode(mel.masked_fill(hidden.repeat_interleave(encoder.stride, dim=1)[:, None], 0.0), heard_nf)
    predicted = head(tokens, hidden, words_btd[rows], batch.token_mask_bt[rows], heard)
    n, bands, frames = mel.shape
    target = mel.view(n, bands, frames // encoder.stride, encoder.stride).permute(0, 2, 1, 3).flatten(2)
    return Reconstructed(predicted, target, hidden, hidden * batch.weight_b[rows][:, None])


def hidden_patches(seeds_n: torch.Tensor, count: int, share: float) -> torch.Tensor:
    """bool, n x count: a share of the patches, at least one, by each sample's seed."""
    draws = uniform(seeds_n, Stream.HIDE_PATCHES, count)
    return pick(torch.ones_like(draws, dtype=torch.bool), draws, share)


def hidden_spans(seeds_n: torch.Tensor, heard_nm: torch.Tensor, share: float, stride: int) -> torch.Tensor:
    """bool, n x m: a share of the spans that have sound, at least one; only tokens, of `stride` frames, with sound."""
    tokens, span = heard_nm.shape[1], SPAN_FRAMES // stride
    spans = heard_nm[:, ::span]
    picked = pick(spans, uniform(seeds_n, Stream.HIDE_PATCHES, spans.shape[1]), share)
    return picked.repeat_interleave(span, dim=1)[:, :tokens] & heard_nm


@contextmanager
def statistics_kept(encoder: PictureEncoder) -> Iterator[None]:
    """BatchNorm of the encoder uses its running statistics, and leaves them, inside the block."""
    training = encoder.training
    freeze_statistics(encoder)
    try:
        yield
    finally:
        encoder.train(training)
