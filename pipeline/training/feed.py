"""Prepared rows -> rows of one fixed shape, decoded: what read tasks give and trainers take.

Decoding is done here, in CPU tasks that may run on other machines, and not in the trainer: pixels travel as uint8 through
shared memory, which the trainer maps without a copy. Within a bundle rows come in a permuted order (order.py).
Augmentation and floats belong to the trainer's device.
"""

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.errors import SampleError, StoppedError
from pipeline.model.config import Fit, ModelConfig
from pipeline.model.inputs import fit_picture
from pipeline.samples.image import decode_image
from pipeline.samples.wave import WaveConfig, decode_wave
from pipeline.training.bundle import read_bundle
from pipeline.training.corpus import PreparedFile
from pipeline.training.order import FeedTask, permuted

BLOCK_BYTES = 8 << 20
"""Decoded bytes of one table: small, so that the first comes soon and several workers get equal shares."""
BLOCK_ROWS = 256

FEED = pa.schema(
    [
        pa.field("shard", pa.string(), nullable=False),
        pa.field("index", pa.int64(), nullable=False),
        pa.field("epoch", pa.int32(), nullable=False),
        pa.field("file", pa.int32(), nullable=False),  # number of the prepared file in the corpus
        pa.field("row", pa.int64(), nullable=False),  # position in that file
        pa.field("seed", pa.int64(), nullable=False),  # hash of (run seed, epoch, shard, index)
        pa.field("token_ids", pa.list_(pa.int32())),  # at most max_tokens, the last one kept; null where there is no text
        pa.field("mirror", pa.bool_(), nullable=False),  # the text speaks of no side: a mirrored picture still fits it
        pa.field("image", pa.large_binary()),  # uint8, 3 x px x px; null unless the modality is image
        pa.field("audio", pa.large_binary()),  # int16 mono at the model's rate; null without sound
        pa.field("frames", pa.large_binary()),  # uint8, frames x 3 x px x px; null unless the modality is video
        pa.field("times_s", pa.list_(pa.float32())),  # one a frame
    ]
)

COLUMNS = ("shard", "index", "modality", "text", "token_ids", "image", "audio", "frames", "timestamps_s", "sample_rate_hz")
_SIDES = re.compile(r"\b(left|right|clockwise|anticlockwise|counterclockwise|leftwards?|rightwards?)\b", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class FeedSpec:
    """What rows are brought to, the same for all tasks."""

    px: int
    """Side of pictures and frames."""
    fit: Fit = "crop"
    """How pictures of another shape are brought to it."""
    modalities: tuple[str, ...] = ("image",)
    """Media that are decoded; others count as absent."""
    sample_rate_hz: int = 16_000
    max_recording_s: float = 30.0
    """Longer recordings are cut."""
    max_frames: int = 16
    """Of longer clips this many frames are taken, evenly."""
    max_tokens: int = 64


def feed_spec(model: ModelConfig) -> FeedSpec:
    """What a model takes."""
    return FeedSpec(
        px=model.input_px,
        fit=model.fit,
        modalities=model.modalities,
        sample_rate_hz=model.sample_rate_hz,
        max_recording_s=model.max_recording_s,
        max_frames=model.max_frames,
        max_tokens=model.max_tokens,
    )


def sample_seed(seed: int, epoch: int, shard: str, index: int) -> int:
    """A non-negative int64 that all randomness of one sample in one epoch comes from."""
    digest = hashlib.blake2b(f"{seed}\0{epoch}\0{shard}\0{index}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def read_task(task: FeedTask, corpus_files: Mapping[int, PreparedFile] | Sequence[PreparedFile], spec: FeedSpec) -> Iterator[pa.Table]:
    """Tables of `FEED` for one task, always the same ones. StoppedError names a row whose medium cannot be decoded."""
    bundle = read_bundle(task, corpus_files, COLUMNS)
    order = permuted(task, len(bundle.rows))
    step = max(1, min(BLOCK_ROWS, BLOCK_BYTES // (3 * spec.px * spec.px)))
    for start in range(0, len(order), step):
        places = order[start : start + step]
        files, rows = bundle.files[places], bundle.rows[places]
        yield decode_rows(bundle.take(places), spec, seed=task.seed, epoch=task.epoch, files=files, rows=rows)


def decode_rows(table: pa.Table, spec: FeedSpec, *, seed: int, epoch: int, files: NDArray[np.int64], rows: NDArray[np.int64]) -> pa.Table:
    """Rows of schema.PREPARED -> a table of `FEED`."""
    decoded = [_decode_row(row, spec) for row in table.to_pylist()]
    for row, file, position in zip(decoded, files, rows, strict=True):
        row |= {"epoch": epoch, "file": int(file), "row": int(position), "seed": sample_seed(seed, epoch, row["shard"], row["index"])}
    return pa.Table.from_pylist(decoded, schema=FEED)


def _decode_row(row: dict[str, Any], spec: FeedSpec) -> dict[str, Any]:
    found: dict[str, Any] = {"shard": row["shard"], "index": row["index"], "mirror": not _SIDES.search(row.get("text") or "")}
    tokens = row["token_ids"]
    if tokens is not None:
        found["token_ids"] = tokens if len(tokens) <= spec.max_tokens else [*tokens[: spec.max_tokens - 1], tokens[-1]]
    if row["modality"] not in spec.modalities:
        return found
    try:
        if row["modality"] == "image":
            found["image"] = _picture(row["image"], spec).tobytes()
        elif row["modality"] == "video":
            frames, times = _evenly(row["frames"], spec.max_frames), _evenly(row["timestamps_s"], spec.max_frames)
            found["frames"] = b"".join(_picture(frame, spec).tobytes() for frame in frames)
            found["times_s"] = [time - times[0] for time in times]
        if row.get("audio") is not None:
            config = WaveConfig(sample_rate_hz=spec.sample_rate_hz)
            found["audio"] = decode_wave(row["audio"], "flac", config)[: int(spec.max_recording_s * spec.sample_rate_hz)].tobytes()
    except (RuntimeError, SampleError, TypeError, ValueError) as exc:
        where = f"{row['shard']}:{row['index']}"
        problem = str(exc).splitlines()[0] if str(exc) else type(exc).__name__
        raise StoppedError(f"{where}: its prepared {row['modality']} cannot be decoded ({problem}); run nightcap prepare again") from exc
    return found


def _picture(jpeg: bytes, spec: FeedSpec) -> NDArray[np.uint8]:
    """JPEG -> uint8, 3 x px x px."""
    pixels_hwc, _, _ = decode_image(jpeg, None)
    return np.ascontiguousarray(fit_picture(pixels_hwc, spec.px, spec.fit).transpose(2, 0, 1))


def _evenly(values: list[Any], most: int) -> list[Any]:
    """At most `most` of the values, first and last included."""
    if len(values) <= most:
        return values
    return [values[int(place)] for place in np.linspace(0, len(values) - 1, most).round()]
