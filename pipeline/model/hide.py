"""What is hidden from the model: words by BERT's scheme, patches aligned with the encoder's cells. Drawn by each sample's own seed.

b  samples     t  tokens     p  patches of a picture (row by row), or of a spectrogram (in time)
"""

from typing import NamedTuple

import torch

from pipeline.model.chance import Stream, uniform


class HiddenWords(NamedTuple):
    """A text with words hidden."""

    token_ids_bt: torch.Tensor
    """int64: what the model sees."""
    asked_bt: torch.Tensor
    """bool: places that it is asked for; their targets are the original ids, unshifted."""


def hide_words(
    token_ids_bt: torch.Tensor, words_bt: torch.Tensor, seeds_b: torch.Tensor, share: float, mask_id: int, choices: torch.Tensor
) -> HiddenWords:
    """BERT's scheme (Devlin et al., 2018): of the words asked for, 80 % become [MASK], 10 % another word, 10 % stay.

    `words_bt` is True on words, neither special tokens nor padding. A share of each text's words is asked for, rounded, at least
    one. `choices` are the ids that a replacement is drawn from.
    """
    length = token_ids_bt.shape[1]
    asked_bt = pick(words_bt, uniform(seeds_b, Stream.PICK_TOKENS, length), share)
    fate = uniform(seeds_b, Stream.REPLACE_TOKENS, length)
    which = (uniform(seeds_b, Stream.WHICH_TOKEN, length) * len(choices)).long().clamp(max=len(choices) - 1)
    shown = torch.where(asked_bt & (fate < 0.8), mask_id, token_ids_bt)
    shown = torch.where(asked_bt & (fate >= 0.8) & (fate < 0.9), choices[which], shown)
    return HiddenWords(shown, asked_bt)


def drop_words(token_ids_bt: torch.Tensor, seeds_b: torch.Tensor, share: float, mask_id: int, start_id: int) -> torch.Tensor:
    """Each word but the start becomes [MASK] with probability `share` (Bowman et al.: Generating Sentences from a Continuous Space, 2016).

    What is left of the text before it no longer tells the next word, so that it is read off the medium.
    """
    dropped_bt = (uniform(seeds_b, Stream.DROP_WORDS, token_ids_bt.shape[1]) < share) & (token_ids_bt != start_id)
    return torch.where(dropped_bt, mask_id, token_ids_bt)


def pick(candidates_bt: torch.Tensor, draws_bt: torch.Tensor, share: float) -> torch.Tensor:
    """bool, b x t: of each row's candidates those with the smallest draws, a share of them, rounded, at least one if there are any."""
    many = candidates_bt.sum(dim=1)
    wanted = (many.float() * share).round().long().clamp(min=1).minimum(many)
    draws = draws_bt.masked_fill(~candidates_bt, 2.0)
    rank = draws.argsort(dim=1, stable=True).argsort(dim=1, stable=True)
    return candidates_bt & (rank < wanted[:, None])


def both_ways(words_bt: torch.Tensor) -> torch.Tensor:
    """Attention mask b x 1 x t x t: every place sees every token, none sees padding. As a 4-D mask it replaces BERT's causal one."""
    return words_bt[:, None, None, :].expand(-1, 1, words_bt.shape[1], -1)


def patches_of(picture_bchw: torch.Tensor, stride: int) -> torch.Tensor:
    """Pixels b x c x h x w -> patches b x p x (c * stride * stride), row by row: the cells of an encoder with this stride."""
    return torch.nn.functional.unfold(picture_bchw, stride, stride=stride).transpose(1, 2)


def hide_patches(normal_bchw: torch.Tensor, hidden_bp: torch.Tensor, stride: int) -> torch.Tensor:
    """Hidden patches set to 0, the mean colour of normalised pixels, before any convolution has looked across their edge."""
    side = normal_bchw.shape[2] // stride
    hidden = hidden_bp.view(-1, 1, side, side).repeat_interleave(stride, dim=2).repeat_interleave(stride, dim=3)
    return normal_bchw.masked_fill(hidden, 0.0)
