"""What a model makes of samples: features, log-probabilities of their texts and of class names. Pure torch, batch by batch.

    b  samples     m  memory tokens     t  tokens     d  width of the text model     k  classes

Media are encoded once; memories stay on the CPU, so that each can stand beside another sample's text.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch

from pipeline.model.batch import Batch
from pipeline.model.folder import Loaded
from pipeline.model.heads import mean_of
from pipeline.model.memory import Memory

BATCH = 32


class Seen(NamedTuple):
    """One batch on the CPU: its texts, and what the model made of texts and media."""

    batch: Batch
    """Texts only."""
    memory: Memory
    media_bd: np.ndarray
    """float32: mean of the medium's memory tokens."""
    texts_bd: np.ndarray
    """float32: mean of the word states, without any medium."""
    common_media_bd: np.ndarray | None
    """Rows of length 1 in the common space; None for a model without one."""
    common_texts_bd: np.ndarray | None


@dataclass(frozen=True, slots=True)
class Classes:
    """Names of classes as token ids."""

    names: tuple[str, ...]
    ids_kt: torch.Tensor
    mask_kt: torch.Tensor
    """True on tokens, the first and the last included."""

    @property
    def tokens_k(self) -> np.ndarray:
        """Tokens that are predicted: all but the first."""
        counts: np.ndarray = self.mask_kt.sum(dim=1).numpy() - 1
        return counts


def classes_of(names: Sequence[str], template: str, loaded: Loaded) -> Classes:
    """Class names, each put into the template at `{label}`."""
    texts = [template.replace("{label}", name) for name in names]
    encoded = [one.token_ids for one in loaded.tokenizer.encode(texts, loaded.model.config.max_tokens)]
    ids, mask = padded(encoded, loaded.tokenizer.pad_id)
    return Classes(tuple(names), ids, mask)


def padded(rows: Sequence[Sequence[int]], pad_id: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids and their mask, b x t."""
    width = max(map(len, rows))
    ids = torch.tensor([[*row, *[pad_id] * (width - len(row))] for row in rows])
    return ids, torch.tensor([[at < len(row) for at in range(width)] for row in rows])


def see(model: Any, batch: Batch) -> Seen | None:
    """Encodes the samples of a batch (on the model's device) that have a text and a medium; None where none has."""
    memory = model.encode(batch)
    rows = torch.nonzero((batch.weight_b > 0) & memory.mask_bm[:, 1:].any(dim=1))[:, 0]
    if not len(rows):
        return None
    longest = int(batch.token_mask_bt[rows].sum(dim=1).max())
    kept, ids, mask = memory.rows(rows), batch.token_ids_bt[rows, :longest], batch.token_mask_bt[rows, :longest]
    shown = kept.mask_bm.clone()
    shown[:, 0] = False  # the null token is no medium
    states = model.word_states(ids, mask)
    common: tuple[np.ndarray | None, np.ndarray | None] = (None, None)
    if hasattr(model, "common"):
        common = _array(model.common.of_media(kept.states_bmd, shown)), _array(model.common.of_texts(states, mask))
    texts = Batch(
        origins=tuple(batch.origins[row] for row in rows.tolist()),
        token_ids_bt=ids.cpu(),
        token_mask_bt=mask.cpu(),
        weight_b=batch.weight_b[rows].cpu(),
        seeds_b=batch.seeds_b[rows].cpu(),
    )
    return Seen(texts, _cpu(kept), _array(mean_of(kept.states_bmd, shown)), _array(mean_of(states, _words(mask))), *common)


def _words(mask_bt: torch.Tensor) -> torch.Tensor:
    """Without the first and the last token, which every text has; a text without words keeps them."""
    inner = mask_bt.clone()
    inner[:, 0] = False
    inner[torch.arange(len(inner)), mask_bt.sum(dim=1) - 1] = False
    return torch.where(inner.any(dim=1, keepdim=True), inner, mask_bt)


def text_sums(model: Any, memory: Memory, batch: Batch) -> np.ndarray:
    """log P of each text with the memory beside it, summed over its tokens, float64."""
    device = model.device
    seen = Memory(states_bmd=memory.states_bmd.to(device), mask_bm=memory.mask_bm.to(device))
    each = model.score(seen, batch.token_ids_bt.to(device), batch.token_mask_bt.to(device))
    sums: np.ndarray = each.sum(dim=1).double().cpu().numpy()
    return sums


def gather(seen: Sequence[Seen], places: Sequence[tuple[int, int]]) -> Memory:
    """Memories from different batches by (batch, row), padded to the longest."""
    states = [seen[number].memory.states_bmd[row] for number, row in places]
    masks = [seen[number].memory.mask_bm[row] for number, row in places]
    pad = torch.nn.utils.rnn.pad_sequence
    return Memory(states_bmd=pad(states, batch_first=True), mask_bm=pad(masks, batch_first=True))


def class_sums(model: Any, memory: Memory, classes: Classes) -> np.ndarray:
    """log P of each class name given each memory, b x k, float64."""
    count = memory.mask_bm.shape[0]
    columns = []
    for ids, mask in zip(classes.ids_kt, classes.mask_kt, strict=True):
        length = int(mask.sum())
        same = _same_text(ids[:length].expand(count, -1), mask[:length].expand(count, -1))
        columns.append(text_sums(model, memory, same))
    return np.stack(columns, axis=1)


def continued_sums(model: Any, batch: Batch, classes: Classes, end_id: int) -> np.ndarray:
    """log P of each class name as what a text goes on with, without any medium, b x k, float64."""
    words = [row[mask].tolist() for row, mask in zip(batch.token_ids_bt, batch.token_mask_bt, strict=True)]
    columns = []
    for ids, mask in zip(classes.ids_kt, classes.mask_kt, strict=True):
        name = ids[mask].tolist()[1:]
        begun = [row[:-1] if row[-1] == end_id else row for row in words]
        begun = [row[: max(1, model.config.max_tokens - len(name))] for row in begun]
        both, shown = padded([[*row, *name] for row in begun], end_id)
        scored = torch.tensor([[len(row) <= at < len(row) + len(name) for at in range(both.shape[1])] for row in begun])
        each = model.score(null_memory(model, len(words)), both.to(model.device), (scored & shown).to(model.device))
        columns.append(each.sum(dim=1).double().cpu().numpy())
    return np.stack(columns, axis=1)


def null_memory(model: Any, count: int) -> Memory:
    """What stands for no medium."""
    mask = torch.ones(count, 1, dtype=torch.bool, device=model.device)
    return Memory(states_bmd=model.null.expand(count, 1, -1), mask_bm=mask)


def common_classes(model: Any, classes: Classes) -> np.ndarray | None:
    """Class names in the common space, k x d; None for a model without one."""
    if not hasattr(model, "common"):
        return None
    ids, mask = classes.ids_kt.to(model.device), classes.mask_kt.to(model.device)
    return _array(model.common.of_texts(model.word_states(ids, mask), mask))


def _same_text(ids_bt: torch.Tensor, mask_bt: torch.Tensor) -> Batch:
    count = len(ids_bt)
    zeros = torch.zeros(count, dtype=torch.int64)
    return Batch(origins=(("", 0),) * count, token_ids_bt=ids_bt, token_mask_bt=mask_bt, weight_b=torch.ones(count), seeds_b=zeros)


def _array(tensor: torch.Tensor) -> np.ndarray:
    found: np.ndarray = tensor.float().cpu().numpy()
    return found


def _cpu(memory: Memory) -> Memory:
    return Memory(states_bmd=memory.states_bmd.cpu(), mask_bm=memory.mask_bm.cpu())
