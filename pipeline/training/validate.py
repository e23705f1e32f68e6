"""What the model can do now, on samples that it is not trained on: losses, perplexities, and a few captions.

The perplexity with the right medium, with another sample's medium, and without any tells whether the text is read off the
medium: a model that only knows the language has three equal ones.
"""

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import torch

from pipeline.model.batch import Batch
from pipeline.model.generate import GenerationConfig, generate
from pipeline.model.mix import ObjectiveMix
from pipeline.samples.tokens import Tokenizer
from pipeline.training.batches import collate, to_device
from pipeline.training.corpus import Corpus, read_rows
from pipeline.training.feed import FeedSpec, decode_rows
from pipeline.training.progress import Ranges, rows_of
from pipeline.training.world import World

SHOWN = 8
_Media = TypeVar("_Media")


@dataclass(frozen=True, slots=True)
class Validation:
    """The state of a model, over all workers."""

    losses: dict[str, float]
    """Mean loss of a target by objective, without label smoothing."""
    perplexity: dict[str, float]
    """e to the mean of -log P of a token: with the `right` medium, a `shuffled` one, and `absent`."""
    captions: tuple[dict[str, str], ...]
    """A few samples: shard, index, reference, caption."""

    @property
    def score(self) -> float:
        """What the best checkpoint has the least of."""
        return sum(self.losses.values())


class Validator:
    """Holds this worker's share of the samples, decoded, uint8."""

    def __init__(
        self, corpus: Corpus, held_out: Mapping[str, Ranges], spec: FeedSpec, tokenizer: Tokenizer, world: World, batch_size: int
    ) -> None:
        tables = []
        for number, file in enumerate(corpus.files):
            rows = rows_of(held_out.get(file.name, ()))
            if len(rows):
                table = read_rows(file, held_out[file.name])
                tables.append(decode_rows(table, spec, seed=0, epoch=-1, files=np.full(len(rows), number), rows=rows))
        whole = pa.concat_tables(tables) if tables else None
        self.samples = 0 if whole is None else whole.num_rows
        self._table = None if whole is None else whole.take(list(range(world.rank, whole.num_rows, world.size)))
        self._spec, self._tokenizer, self._world, self._size = spec, tokenizer, world, max(2, batch_size)

    def _batches(self) -> Iterator[Batch]:
        """As many batches on every worker, of one size: some objectives gather over workers."""
        assert self._table is not None
        share = -(-self.samples // self._world.size)
        for start in range(0, share, self._size):
            rows = self._table.slice(start, self._size)
            size = min(self._size, share - start)
            if rows.num_rows == 0:
                yield collate(self._table.slice(0, 1), px=self._spec.px, pad_id=self._tokenizer.pad_id, real=0, pad_rows_to=size).batch
            else:
                yield collate(rows, px=self._spec.px, pad_id=self._tokenizer.pad_id, pad_rows_to=size).batch

    def run(self, model: Any, mix: ObjectiveMix) -> Validation:
        """Measures the model, which is left in training mode."""
        model.eval()
        totals = {name: [0.0, 0.0] for name in mix.wanted()}
        log_probs, captions = {"right": 0.0, "shuffled": 0.0, "absent": 0.0}, []
        tokens = 0.0
        with torch.inference_mode():
            for number, batch in enumerate(self._batches()):
                batch = to_device(batch, self._world.device)
                for name, loss in model.losses(batch, mix, train=False).items():
                    totals[name] = [totals[name][0] + float(loss.total), totals[name][1] + float(loss.count)]
                memory = model.encode(batch)
                others = {"right": memory, "shuffled": model.encode(with_other_media(batch)), "absent": memory.absent()}
                for name, seen in others.items():
                    each = model.score(seen, batch.token_ids_bt, batch.token_mask_bt)
                    log_probs[name] += float((each * batch.weight_b[:, None]).sum())
                tokens += float((batch.token_mask_bt[:, 1:] * batch.weight_b[:, None]).sum())
                if number == 0 and self._world.first:
                    captions = self._captions(model, memory, batch)
        model.train()
        return self._together(totals, log_probs, tokens, captions)

    def _together(
        self, totals: dict[str, list[float]], log_probs: dict[str, float], tokens: float, captions: Sequence[dict[str, str]]
    ) -> Validation:
        flat = self._world.sum([*(value for pair in totals.values() for value in pair), *log_probs.values(), tokens])
        losses = {name: flat[2 * at] / max(flat[2 * at + 1], 1.0) for at, name in enumerate(totals)}
        sums = flat[2 * len(totals) : -1]
        perplexity = {name: math.exp(min(-value / max(flat[-1], 1.0), 700.0)) for name, value in zip(log_probs, sums, strict=True)}
        return Validation(losses, perplexity, tuple(captions))

    def _captions(self, model: Any, memory: Any, batch: Batch) -> list[dict[str, str]]:
        rows = torch.nonzero(batch.weight_b > 0)[:SHOWN, 0]
        texts = generate(model, memory.rows(rows), GenerationConfig())
        found = []
        for row, text in zip(rows.tolist(), texts, strict=True):
            shard, index = batch.origins[row]
            reference = self._tokenizer.decode(batch.token_ids_bt[row][batch.token_mask_bt[row]].tolist())
            found.append({"shard": shard, "index": str(index), "reference": reference, "caption": self._tokenizer.decode(text.token_ids)})
        return found


def with_other_media(batch: Batch) -> Batch:
    """Each sample with the medium of another of its kind: media are moved on by half their number."""
    clips = _moved(batch.clips)
    if clips is not None and clips.sound is not None:
        clips = dataclasses.replace(clips, sound=_moved(clips.sound))
    return dataclasses.replace(batch, pictures=_moved(batch.pictures), recordings=_moved(batch.recordings), clips=clips)


def _moved(media: _Media) -> _Media:
    if media is None:
        return media
    count = len(media.rows_n)  # type: ignore[attr-defined]
    changes = {
        field.name: getattr(media, field.name).roll(max(1, count // 2), 0)
        for field in dataclasses.fields(media)  # type: ignore[arg-type]
        if field.name not in ("rows_n", "sound", "grid_ncgg")
    }
    return dataclasses.replace(media, **changes)  # type: ignore[type-var]
