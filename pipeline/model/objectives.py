"""What is learned: pure functions from logits and targets to a loss, each with its formula and where it is from.

    b  samples     t  tokens     v  words of the vocabulary     p  patches     x  values of a patch     g  samples of all workers

A loss is a sum over targets with their count beside it: the loop adds both over accumulation steps and workers, then divides. A mean of
means would weigh short texts and half-empty batches more.
"""

from typing import NamedTuple

import torch
from torch.nn import functional


class Loss(NamedTuple):
    """A sum and what to divide it by."""

    total: torch.Tensor
    """Sum over targets, each times the weight of its sample; float32, with gradient."""
    count: torch.Tensor
    """Sum of the targets' weights; float32."""


def token_loss(logits_btv: torch.Tensor, targets_bt: torch.Tensor, weight_bt: torch.Tensor, label_smoothing: float = 0.0) -> Loss:
    """Cross-entropy of each target word under the logits at the same place.

        total = sum_bt w_bt * -((1 - e) log p_bt[target] + e / V * sum_v log p_bt[v]),   p = softmax(logits),  count = sum_bt w_bt

    e: label smoothing (Szegedy et al.: Rethinking the Inception Architecture, 2015). Targets of weight 0 may be anything.
    """
    picked = weight_bt > 0
    each = functional.cross_entropy(logits_btv[picked].float(), targets_bt[picked], reduction="none", label_smoothing=label_smoothing)
    weight = weight_bt[picked]
    return Loss((each * weight).sum(), weight.sum())


def causal_targets(token_ids_bt: torch.Tensor, token_mask_bt: torch.Tensor, weight_b: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Next words and their weights, both b x (t - 1): word i + 1 is the target of place i, shifted here and nowhere else.

    The loss -sum_i log P(w_i+1 | w_1..w_i, x) ends with [SEP], so that a text's end is learned; padding has weight 0.
    """
    return token_ids_bt[:, 1:], token_mask_bt[:, 1:].float() * weight_b[:, None]


def patch_loss(predicted_bpx: torch.Tensor, target_bpx: torch.Tensor, weight_bp: torch.Tensor) -> Loss:
    """Squared error of hidden patches, a patch counting once whatever its size (He et al.: Masked Autoencoders, 2021).

        total = sum_bp w_bp * mean_x (predicted - target)^2,   count = sum_bp w_bp,   w = 0 on what was shown

    Targets are pixels minus the data's mean over its spread, or log-mel likewise.
    """
    each = (predicted_bpx.float() - target_bpx.float()).square().mean(dim=-1)
    return Loss((each * weight_bp).sum(), weight_bp.sum())


def ctc_loss(
    logits_nmv: torch.Tensor, length_n: torch.Tensor, words_nt: torch.Tensor, count_n: torch.Tensor, weight_n: torch.Tensor, blank: int
) -> Loss:
    """Words of a recording in their order, wherever in it they are said (Graves et al.: Connectionist Temporal Classification, 2006).

        total = sum_n w_n * -log sum_{paths that give words_n} prod_m softmax(logits_nm)[path_m],   count = sum_n w_n * count_n

    A path has a word or the blank at each of the first `length_n` tokens, and gives its words, neighbours that are equal taken as one.
    Of `words_nt` the first `count_n` count. A recording with fewer tokens than its words need adds nothing to the total.
    """
    log_probs = logits_nmv.float().log_softmax(dim=-1).transpose(0, 1)
    each = functional.ctc_loss(log_probs, words_nt, length_n, count_n, blank=blank, reduction="none", zero_infinity=True)
    return Loss((each * weight_n).sum(), (weight_n * count_n).sum())


def contrastive_loss(
    media_gd: torch.Tensor, texts_gd: torch.Tensor, names_g: torch.Tensor, weight_g: torch.Tensor, scale: torch.Tensor, own: slice
) -> Loss:
    """Each medium finds its text among those of all workers, and each text its medium (Radford et al.: CLIP, 2021).

        s_ij = scale * <media_i, texts_j>
        total = sum_{i own} w_i * (-log softmax_j(s_ij)[i] - log softmax_j(s_ji)[i]) / 2,   count = sum_{i own} w_i

    Rows are of length 1. Pairs with equal texts (equal `names`) that are not the same sample leave the softmax: they are no
    negatives. So do samples of weight 0. `own` are this worker's rows; all together they are counted once.
    """
    similar = scale * media_gd @ texts_gd.T
    same = torch.eye(len(names_g), dtype=torch.bool, device=names_g.device)
    out = ((names_g[:, None] == names_g[None]) | (weight_g == 0)[None]) & ~same
    to_text = similar.masked_fill(out, float("-inf")).log_softmax(dim=1).diagonal()
    to_medium = similar.T.masked_fill(out, float("-inf")).log_softmax(dim=1).diagonal()
    weight = weight_g[own]
    return Loss((-(to_text + to_medium)[own] / 2 * weight).sum(), weight.sum())
