"""How many targets the losses of a batch will have, before any forward pass: by the same seeds and rules as the model's.

With these a step of several micro-batches divides by the right number at once, and no graph is kept until the last is known.
A test holds them against what `MultimodalLM.forward` gives, for every objective.
"""

from typing import Any

import torch

from pipeline.model.batch import Batch
from pipeline.model.chance import Stream, uniform
from pipeline.model.mix import ObjectiveMix
from pipeline.model.model import only_words
from pipeline.model.objectives import causal_targets
from pipeline.model.patches import hidden_spans


def target_counts(model: Any, batch: Batch, mix: ObjectiveMix) -> dict[str, float]:
    """The `count` of each wanted objective's `Loss` on this batch while training."""
    rules = {"causal": _causal, "masked_text": _masked_text, "masked_medium": _masked_medium, "contrastive": _contrastive, "ctc": _ctc}
    return {name: rules[name](model, batch, mix) for name in mix.wanted()}


def _causal(model: Any, batch: Batch, mix: ObjectiveMix) -> float:
    return float(causal_targets(batch.token_ids_bt, batch.token_mask_bt, batch.weight_b)[1].sum())


def _masked_text(model: Any, batch: Batch, mix: ObjectiveMix) -> float:
    ids, special = batch.token_ids_bt, model.shapes.special
    words = (batch.token_mask_bt & (ids != special["start"]) & (ids != special["stop"])).sum(dim=1)
    return float((_picked(words, mix.masked_text_share) * batch.weight_b).sum())


def _picked(many: torch.Tensor, share: float) -> torch.Tensor:
    """As many as `hide.pick` picks of so many candidates."""
    return (many.float() * share).round().long().clamp(min=1).minimum(many)


def _ctc(model: Any, batch: Batch, mix: ObjectiveMix) -> float:
    if batch.recordings is None:
        return 0.0
    rows = batch.recordings.rows_n
    words = only_words(batch.token_ids_bt[rows], batch.token_mask_bt[rows], model.shapes.special)[1]
    return float((words * batch.weight_b[rows]).sum())


def _masked_medium(model: Any, batch: Batch, mix: ObjectiveMix) -> float:
    total = 0.0
    if batch.pictures is not None or batch.clips is not None:
        patches = _picked(torch.tensor(model.pictures.grid**2), mix.masked_medium_share)
        if batch.pictures is not None:
            total += float((batch.weight_b[batch.pictures.rows_n] * patches).sum())
        if batch.clips is not None:
            total += float((batch.weight_b[batch.clips.rows_n] * batch.clips.n_frames_n * patches).sum())
    if batch.recordings is not None:
        rows = batch.recordings.rows_n
        with torch.no_grad():
            stride = model.recordings.stride
            heard = model.recordings.features(batch.recordings.wave_nt, batch.recordings.length_n)[1][:, ::stride]
            hidden = hidden_spans(batch.seeds_b[rows], heard, mix.masked_medium_share, stride)
        total += float((hidden * batch.weight_b[rows][:, None]).sum())
    return total


def _contrastive(model: Any, batch: Batch, mix: ObjectiveMix) -> float:
    there = torch.zeros_like(batch.weight_b, dtype=torch.bool)
    sounds = (batch.recordings, None if batch.clips is None else batch.clips.sound)
    for media in (batch.pictures, batch.clips, *(sound for sound in sounds if hasattr(model, "recordings"))):
        if media is not None:
            there[media.rows_n] = True
    hidden = uniform(batch.seeds_b, Stream.HIDE_MEDIUM, 1)[:, 0] < model.config.media_dropout
    return float((batch.weight_b * (there & ~hidden)).sum())
