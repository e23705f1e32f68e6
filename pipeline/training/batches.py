"""Tables of the feed -> batches on the trainer's device.

A table's pixels are one stretch of memory: pictures of one batch become a tensor without a copy where no row is of another
modality. A batch is padded to its longest text, recording and clip, and no further: padding costs as much as words do.
"""

import dataclasses
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from pipeline.model.batch import Batch, Clips, Pictures, Recordings

_Nested = TypeVar("_Nested")


@dataclass(frozen=True, slots=True)
class Fed:
    """A batch with what the trainer alone needs of it."""

    batch: Batch
    epoch_b: NDArray[np.int64]
    file_b: NDArray[np.int64]
    """Number of the prepared file."""
    row_b: NDArray[np.int64]
    """Position in that file."""
    mirror_b: torch.Tensor
    """bool: a mirrored picture still fits the text."""

    @property
    def size(self) -> int:
        """Samples, padding not counted."""
        return len(self.epoch_b)


def collate(table: pa.Table, *, px: int, pad_id: int, real: int | None = None, pad_rows_to: int = 0) -> Fed:
    """A batch of all rows of the table, at least one; with `pad_rows_to` its first row is repeated with weight 0 up to that many.

    Of the table's rows only the first `real` count; None is all.
    """
    table = table.combine_chunks()
    n_rows = table.num_rows
    real = n_rows if real is None else real
    places = np.concatenate([np.arange(n_rows), np.zeros(max(0, pad_rows_to - n_rows), np.int64)])
    if len(places) > n_rows:
        padded = table.take(places)
    else:
        padded = table
    ids, mask = _tokens(padded.column("token_ids"), pad_id)
    has_text = padded.column("token_ids").is_valid().to_numpy(zero_copy_only=False)
    weight = (has_text & (np.arange(len(places)) < real)).astype(np.float32)
    origins = tuple(zip(padded.column("shard").to_pylist(), padded.column("index").to_pylist(), strict=True))
    batch = Batch(
        origins=origins,
        token_ids_bt=ids,
        token_mask_bt=mask,
        weight_b=torch.from_numpy(weight),
        seeds_b=torch.from_numpy(padded.column("seed").to_numpy().astype(np.int64)),
        pictures=_pictures(padded, px),
        recordings=_recordings(padded, of_clips=False),
        clips=_clips(padded, px),
    )
    numbers = [table.column(name).slice(0, real).to_numpy().astype(np.int64) for name in ("epoch", "file", "row")]
    mirror = torch.from_numpy(padded.column("mirror").to_numpy(zero_copy_only=False).copy())
    return Fed(batch, numbers[0], numbers[1], numbers[2], mirror)


def _tokens(column: pa.ChunkedArray, pad_id: int) -> tuple[torch.Tensor, torch.Tensor]:
    texts = [ids or [pad_id] for ids in column.to_pylist()]
    width = max(2, *(len(ids) for ids in texts))
    ids_bt = torch.full((len(texts), width), pad_id, dtype=torch.int64)
    mask_bt = torch.zeros(len(texts), width, dtype=torch.bool)
    for row, ids in enumerate(texts):
        ids_bt[row, : len(ids)] = torch.tensor(ids)
        mask_bt[row, : len(ids)] = True
    return ids_bt, mask_bt


def _present(table: pa.Table, name: str) -> tuple[torch.Tensor, list[NDArray[np.uint8]]]:
    """Rows that have the column, and the bytes of each, without a copy."""
    column = table.column(name)
    rows = np.flatnonzero(column.is_valid().to_numpy(zero_copy_only=False))
    values = [np.frombuffer(column[int(row)].as_buffer(), np.uint8) for row in rows]
    return torch.from_numpy(rows), values


def _pictures(table: pa.Table, px: int) -> Pictures | None:
    column = table.column("image")
    if column.null_count == len(column):
        return None
    if column.null_count == 0 and column.num_chunks == 1:
        data = column.chunk(0)
        size = 3 * px * px
        first = np.frombuffer(data.buffers()[1], np.int64)[data.offset]
        flat = np.frombuffer(data.buffers()[2], np.uint8)[first : first + len(data) * size]
        pixels = torch.from_numpy(_writable(flat).reshape(len(data), 3, px, px))
        return Pictures(rows_n=torch.arange(len(data)), pixels_nchw=pixels)
    rows, values = _present(table, "image")
    return Pictures(rows_n=rows, pixels_nchw=torch.from_numpy(np.stack(values).reshape(len(values), 3, px, px)))


def _writable(flat: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """torch warns of read-only memory; nothing writes to a batch, and copying 5 MB costs 1 ms."""
    return flat if flat.flags.writeable else flat.copy()


def _recordings(table: pa.Table, *, of_clips: bool) -> Recordings | None:
    is_clip = table.column("frames").is_valid().to_numpy(zero_copy_only=False)
    rows, values = _present(table, "audio")
    chosen = [number for number, row in enumerate(rows.tolist()) if is_clip[row] == of_clips]
    if not chosen:
        return None
    waves = [torch.from_numpy(values[number].view(np.int16).copy()) for number in chosen]
    lengths = torch.tensor([len(wave) for wave in waves])
    padded = torch.nn.utils.rnn.pad_sequence(waves, batch_first=True)
    return Recordings(rows_n=rows[chosen], wave_nt=padded, length_n=lengths)


def _clips(table: pa.Table, px: int) -> Clips | None:
    rows, values = _present(table, "frames")
    if not values:
        return None
    clips = [torch.from_numpy(value.reshape(-1, 3, px, px).copy()) for value in values]
    times = [torch.tensor(table.column("times_s")[int(row)].as_py(), dtype=torch.float32) for row in rows]
    return Clips(
        rows_n=rows,
        frames_nkchw=torch.nn.utils.rnn.pad_sequence(clips, batch_first=True),
        n_frames_n=torch.tensor([len(clip) for clip in clips]),
        times_nk=torch.nn.utils.rnn.pad_sequence(times, batch_first=True),
        sound=_recordings(table, of_clips=True),
    )


def to_device(value: _Nested, device: torch.device) -> _Nested:
    """A batch, or part of one, with all its tensors on the device; the same object where they are there already."""
    if device.type == "cpu":
        return value
    changes: dict[str, object] = {}
    for field in dataclasses.fields(value):  # type: ignore[arg-type]
        inner = getattr(value, field.name)
        if isinstance(inner, torch.Tensor):
            changes[field.name] = inner.pin_memory().to(device, non_blocking=True)
        elif dataclasses.is_dataclass(inner):
            changes[field.name] = to_device(inner, device)
    return dataclasses.replace(value, **changes)  # type: ignore[type-var]
