"""The next token of each row, drawn by noise that belongs to the row: the same whatever stands beside it.

The largest of logits plus Gumbel noise is a draw from their softmax (Gumbel 1954), so that sampling becomes a greedy search with
a changed score, and the noise of a row is a hash of its own seed and of the step: no generator is shared. Log-probabilities are
recorded on the way, one number a row and step, where keeping all scores would take vocabulary times tokens.
"""

from collections.abc import Sequence
from enum import IntEnum
from typing import Any, NamedTuple

import torch

from pipeline.model.chance import uniform

_STEP = 0x5851F42D4C957F2D
"""Odd, so that steps of one row never meet."""


class _Stream(IntEnum):
    NEXT_TOKEN = 101


class Way(NamedTuple):
    """How one row's tokens are chosen."""

    seed: int = 0
    temperature: float = 0.0
    """0 takes the most probable."""


class Draw:
    """A logits processor for `generate(do_sample=False)`, the last of its list; one a call."""

    def __init__(self, ways: Sequence[Way], top_k: int, top_p: float, device: Any) -> None:
        self._seeds_b = torch.tensor([way.seed for way in ways], dtype=torch.int64, device=device)
        self._temperature_b = torch.tensor([way.temperature for way in ways], dtype=torch.float32, device=device)
        self._drawn = any(way.temperature > 0 for way in ways)
        self._top_k, self._top_p = top_k, top_p
        self._pending_bv: Any = None
        self._logprobs: list[Any] = []

    def __call__(self, input_ids_bt: Any, scores_bv: Any) -> Any:
        """Scores whose largest is the token to take."""
        self._settle(input_ids_bt[:, -1])
        self._pending_bv = torch.log_softmax(scores_bv.float(), dim=-1)
        if not self._drawn:
            return scores_bv
        hot_b = self._temperature_b > 0
        warm_bv = scores_bv.float() / torch.where(hot_b, self._temperature_b, 1.0)[:, None]
        noisy_bv = self._narrowed(warm_bv) + self._noise(warm_bv.shape[1])
        return torch.where(hot_b[:, None], noisy_bv, scores_bv.float())

    def _noise(self, count: int) -> Any:
        step = torch.tensor((len(self._logprobs) * _STEP) % (1 << 63), dtype=torch.int64, device=self._seeds_b.device)
        u_bv = uniform(self._seeds_b + step, _Stream.NEXT_TOKEN, count).double() + 2.0**-25
        return (-torch.log(-torch.log(u_bv))).float()

    def _narrowed(self, scores_bv: Any) -> Any:
        """Without what top-k and top-p leave out."""
        if self._top_k:
            least_b = torch.topk(scores_bv, min(self._top_k, scores_bv.shape[1]), dim=-1).values[:, -1:]
            scores_bv = scores_bv.masked_fill(scores_bv < least_b, float("-inf"))
        if self._top_p < 1:
            ordered_bv, order_bv = torch.sort(scores_bv, descending=True, stable=True)
            before_bv = torch.softmax(ordered_bv, dim=-1).cumsum(dim=-1) - torch.softmax(ordered_bv, dim=-1)
            out_bv = torch.zeros_like(before_bv, dtype=torch.bool).scatter(1, order_bv, before_bv >= self._top_p)
            scores_bv = scores_bv.masked_fill(out_bv, float("-inf"))
        return scores_bv

    def _settle(self, tokens_b: Any) -> None:
        if self._pending_bv is not None:
            self._logprobs.append(self._pending_bv.gather(1, tokens_b[:, None])[:, 0])
            self._pending_bv = None

    def logprobs(self, sequences_bt: Any) -> Any:
        """Of the tokens that were taken, rows x steps; under the model, whatever the temperature."""
        self._settle(sequences_bt[:, -1])
        return torch.stack(self._logprobs, dim=1)
