"""Heads of the objectives beside the next word: reconstruction of hidden patches, and the common space of media and texts.

n  media     m  tokens     t  words     d  width of the text model     x  values of a patch     g  samples of all workers
"""

import math
from typing import Any

import torch
from torch import distributed, nn

FIRST_SCALE, MOST_SCALE = 1 / 0.07, 100.0
"""Of similarities, at the start and at most (CLIP)."""


class PatchHead(nn.Module):
    """Tokens of a medium with hidden patches, n x m x d, and words, n x t x d -> values of every patch, n x m x x.

    Two transformer layers: tokens attend to each other and to the words, so that the text says what the picture does not show.
    """

    def __init__(self, width: int, values: int, dropout: float) -> None:
        super().__init__()
        self.hidden = nn.Parameter(torch.randn(width) * 0.1)
        layer = nn.TransformerDecoderLayer(
            width, max(1, width // 64), 2 * width, dropout, nn.functional.gelu, batch_first=True, norm_first=True
        )
        self.layers = nn.TransformerDecoder(layer, 2, nn.LayerNorm(width))
        self.values = nn.Linear(width, values)

    def forward(
        self,
        tokens_nmd: torch.Tensor,
        hidden_nm: torch.Tensor,
        words_ntd: torch.Tensor,
        word_mask_nt: torch.Tensor,
        token_mask_nm: torch.Tensor,
    ) -> torch.Tensor:
        """`hidden_nm` says which patches the encoder did not see; masks are True on what is there."""
        tokens = tokens_nmd + self.hidden * hidden_nm[..., None]
        states = self.layers(tokens, words_ntd, tgt_key_padding_mask=~token_mask_nm, memory_key_padding_mask=~word_mask_nt)
        return self.values(states)


class CommonSpace(nn.Module):
    """Means of memory tokens and of word states -> rows of length 1 in one space, and how sharply they are compared."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.media = nn.Linear(width, width, bias=False)
        self.texts = nn.Linear(width, width, bias=False)
        self.log_scale = nn.Parameter(torch.tensor(math.log(FIRST_SCALE)))

    def scale(self) -> torch.Tensor:
        """Factor of similarities."""
        return self.log_scale.exp().clamp(max=MOST_SCALE)

    def of_media(self, states_bmd: torch.Tensor, mask_bm: torch.Tensor) -> torch.Tensor:
        """b x d, of length 1."""
        return nn.functional.normalize(self.media(mean_of(states_bmd, mask_bm)), dim=-1)

    def of_texts(self, states_btd: torch.Tensor, mask_bt: torch.Tensor) -> torch.Tensor:
        """b x d, of length 1."""
        return nn.functional.normalize(self.texts(mean_of(states_btd, mask_bt)), dim=-1)


def mean_of(states_bmd: torch.Tensor, mask_bm: torch.Tensor) -> torch.Tensor:
    """Mean over what the mask shows, b x d, float32; 0 where it shows nothing."""
    mask = mask_bm[..., None].float()
    return (states_bmd.float() * mask).sum(dim=1) / mask.sum(dim=1).clamp(min=1.0)


def gathered(rows_bd: torch.Tensor) -> torch.Tensor:
    """Rows of all workers, g x d, in the order of ranks; gradients flow back to the worker that a row is from.

    Every worker calls it with the same number of rows. Alone it is the identity.
    """
    if not (distributed.is_available() and distributed.is_initialized()) or distributed.get_world_size() == 1:
        return rows_bd
    if not rows_bd.requires_grad:
        parts = [torch.empty_like(rows_bd) for _ in range(distributed.get_world_size())]
        distributed.all_gather(parts, rows_bd.contiguous())
        return torch.cat(parts)
    return _Gather.apply(rows_bd.contiguous())


class _Gather(torch.autograd.Function):
    """All-gather whose gradient is the sum of what every worker wants of a row."""

    @staticmethod
    def forward(context: Any, rows_bd: torch.Tensor) -> torch.Tensor:
        parts = [torch.empty_like(rows_bd) for _ in range(distributed.get_world_size())]
        distributed.all_gather(parts, rows_bd)
        return torch.cat(parts)

    @staticmethod
    def backward(context: Any, gradient_gd: torch.Tensor) -> torch.Tensor:
        gradient = gradient_gd.contiguous()
        distributed.all_reduce(gradient)
        return gradient.chunk(distributed.get_world_size())[distributed.get_rank()]


def own_rows(count: int) -> slice:
    """Which rows of the gathered ones are this worker's."""
    rank = distributed.get_rank() if distributed.is_available() and distributed.is_initialized() else 0
    return slice(rank * count, (rank + 1) * count)
