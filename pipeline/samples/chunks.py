"""What a task reads of a shard, and its samples before decoding, some at a time.

What a task reads is fixed when the run is planned and travels inside it: a replay by Ray yields the same blocks.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pipeline import schema
from pipeline.errors import Reason, SampleError
from pipeline.samples.earlier import EarlierTable
from pipeline.samples.group import EndOfShard, Field, Sample, hashes_of, read_samples
from pipeline.samples.medium import modality_of
from pipeline.samples.rows import reference_text
from pipeline.samples.stretch import Span, Stretch, read_span
from pipeline.storage import Reader

CHUNK_SAMPLES = 64
CHUNK_BYTES = 8 << 20
"""Encoded bytes after which a chunk is decoded: what a crash puts at stake, and what stands in memory undecoded."""


@dataclass(frozen=True, slots=True)
class ShardTask:
    """What one read task does. Fixed by the plan."""

    url: str
    shard: str
    """Path below the recipe's root."""
    fingerprint: str
    todo: tuple[tuple[int, int], ...] | None = None
    """Inclusive index ranges to read; None for all."""
    suspects: tuple[tuple[int, int], ...] = ()
    """Inclusive index ranges that earlier runs died with: guarded from the start."""
    stop_after: int | None = None
    """Samples after which reading stops without an end row (`--limit`)."""
    span: Span | None = None
    """Only this part of a plain tar; then `todo` and `stop_after` are None."""
    siblings: tuple[Span, ...] = ()
    """All parts of the shard, this one among them."""
    earlier: EarlierTable | None = None
    """Captions of a former version of the archive, which are taken over for media that are the same."""


def stop_flag(run_id: str) -> str:
    """Path below the output of the file that keeps new shards of a run from starting."""
    return f"runs/{run_id}/stop"


def chunks(
    task: ShardTask, reader: Reader, max_sample_bytes: int, *, samples: int = CHUNK_SAMPLES, size_bytes: int = CHUNK_BYTES
) -> Iterator[list[Sample] | EndOfShard]:
    """The samples of a task, some at a time: at most `samples`, or as many as come to `size_bytes`. Then the account, if it reads to the end."""
    found: list[Sample] = []
    found_bytes = 0
    if task.span is not None:
        items = read_span(Stretch(reader, task.span), task.span, max_sample_bytes)
    else:
        items = read_samples(reader, packed=None, max_sample_bytes=max_sample_bytes, todo=task.todo, stop_after=task.stop_after)
    for item in items:
        if isinstance(item, EndOfShard):
            if found:
                yield found
            yield item
            return
        found.append(item)
        found_bytes += item.size
        if len(found) >= samples or found_bytes >= size_bytes:
            yield found
            found, found_bytes = [], 0
    if found:
        yield found


def origin_of(task: ShardTask) -> dict[str, Any]:
    """What all rows of a shard say."""
    return {
        "kind": schema.KIND_SAMPLE,
        "shard": task.shard,
        "fingerprint": task.fingerprint,
        "piece": 0,
        "last": True,
        "flags": [],
        "status": schema.OK,
        "guard": False,
    }


def describe(sample: Sample, origin: dict[str, Any], accepts: tuple[str, ...]) -> tuple[dict[str, Any], Field | None]:
    """The row of a sample before decoding, and the field that holds its primary medium, if it is to be decoded.

    `origin`: what all rows of its shard say; `accepts`: modalities that are taken.
    """
    row = {**origin, "index": sample.index, "key": sample.key, "offset": sample.offset, "size": sample.size}
    if sample.problem is not None:
        return {**row, **rejected(sample.problem, "read")}, None
    hashes = hashes_of(sample.fields)
    row["sample_sha256"] = hashes.sample
    row["text"], row["flags"] = reference_text(sample.fields)
    if sample.repeated:
        row["flags"] = [*row["flags"], "key_repeated"]
    field = primary_medium(sample.fields, accepts)
    if field is None:
        return {**row, **rejected(_no_medium(sample), "read")}, None
    row |= {"media_field": field.name, "media_bytes": field.size, "modality": modality_of(field.name)}
    row["media_sha256"] = hashes.members[field.name]
    if modality_of(field.name) not in accepts:
        detail = f"{', '.join(accepts)} is taken; .{field.name} is {modality_of(field.name)}"
        return {**row, "status": schema.SKIPPED, "stage": "decode", "reason": Reason.NOT_TAKEN.value, "detail": detail}, None
    return row, field


def primary_medium(fields: tuple[Field, ...], accepts: tuple[str, ...]) -> Field | None:
    """The field that holds the medium: the first by name that is taken, plain extensions first; else any medium; else None."""
    media = [field for field in fields if modality_of(field.name) is not None]
    if not media:
        return None
    return min(media, key=lambda field: (modality_of(field.name) not in accepts, "." in field.name, field.name))


def _no_medium(sample: Sample) -> SampleError:
    names = ", ".join(f".{field.name}" for field in sample.fields)
    if sample.repeated:
        return SampleError(Reason.SEPARATED, f"has only {names}: its medium stands elsewhere in the shard, which is not sorted by name")
    return SampleError(Reason.NO_MEDIUM, f"has only {names}: no picture, recording or clip")


def rejected(exc: SampleError, stage: str) -> dict[str, Any]:
    """The columns of a row that say why it has no result."""
    return {"status": schema.REJECTED, "stage": stage, "reason": exc.reason.value, "detail": exc.detail}
