"""Shards as a Ray Data source: one read task a shard, rows of `schema.SAMPLES`, an end row each.

What a task reads is fixed when the run is planned and travels inside it: a replay by Ray yields the same blocks.
A chunk of samples is marked in storage while it is decoded; a marker found at the start of a chunk means that an
earlier attempt died there, and the chunk is decoded sample by sample in a child process.
"""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from typing import Any

import pyarrow as pa
from ray.data import Datasource, ReadTask
from ray.data.block import BlockMetadata

from pipeline import schema, storage
from pipeline.attempts import Attempts, Unit
from pipeline.errors import Reason, SampleError
from pipeline.samples.careful import Careful
from pipeline.samples.group import EndOfShard, Field, Sample, media_sha256, read_samples, sample_sha256
from pipeline.samples.guard import Limits
from pipeline.samples.medium import Medium, Needs, modality_of
from pipeline.samples.rows import Rows, reference_text
from pipeline.samples.stretch import Span, Stretch, read_span
from pipeline.storage import Reader

CHUNK_SAMPLES = 64
CHUNK_BYTES = 8 << 20
"""Encoded bytes after which a chunk is decoded: what a crash puts at stake, and what stands in memory undecoded."""
BLOCK_BYTES = 32 << 20
"""Decoded bytes after which a block is handed on; Ray's own default of 128 MiB would be what workers hold."""


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


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadConfig:
    """How shards are read, the same for all tasks of a run."""

    needs: Needs
    decoder: str = "default"
    max_sample_bytes: int = 512 << 20
    """Bytes; a larger sample is rejected, never buffered."""
    limits: Limits
    """Time and memory a sample may take."""
    output: str
    """URL of the output folder, for crash markers and the stop flag."""
    run_id: str


class ShardDatasource(Datasource):  # type: ignore[misc]  # Ray ships no types
    """One read task a shard. Pass `override_num_blocks=len(tasks)`, or Ray splits blocks row by row."""

    def __init__(self, tasks: tuple[ShardTask, ...], read: Callable[[ShardTask], Iterator[pa.Table]], name: str = "Shard") -> None:
        """`read` runs in the task; `name` is what Ray shows: ReadShard."""
        self._tasks = tasks
        self._read = read
        self._name = name

    def get_name(self) -> str:
        """For the operator's name."""
        return self._name

    def get_read_tasks(self, parallelism: int, per_task_row_limit: int | None = None, data_context: Any = None) -> list[ReadTask]:
        """The tasks in order; the arguments are Ray's and change nothing, so that every call gives the same."""
        read = self._read
        metadata = BlockMetadata(num_rows=None, size_bytes=None, input_files=None, exec_stats=None)
        return [ReadTask(partial(read, task), metadata) for task in self._tasks]

    def estimate_inmemory_data_size(self) -> int | None:
        """Unknown before decoding."""
        return None


def stop_flag(run_id: str) -> str:
    """Path below the output of the file that keeps new shards of a run from starting."""
    return f"runs/{run_id}/stop"


def read_shard(task: ShardTask, config: ReadConfig) -> Iterator[pa.Table]:
    """Tables of `schema.SAMPLES` for one shard, in order, the end row last. Storage errors travel."""
    if storage.Folder(config.output).exists(stop_flag(config.run_id)):
        return
    reader = storage.open_reader(task.url)
    with closing(reader), closing(ChunkDecoder(task, config)) as decoder:
        for item in chunks(task, reader, config.max_sample_bytes):
            if isinstance(item, EndOfShard):
                yield _end_table(task, item)
            else:
                yield from decoder.decode(item)


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


def _end_table(task: ShardTask, end: EndOfShard) -> pa.Table:
    rows = Rows()
    rows.add({**_identity(task, end.n_samples), "kind": schema.KIND_END, "end": end.to_json()})
    return rows.take()


def _identity(task: ShardTask, index: int) -> dict[str, Any]:
    return {
        "kind": schema.KIND_SAMPLE,
        "shard": task.shard,
        "fingerprint": task.fingerprint,
        "index": index,
        "piece": 0,
        "last": True,
        "flags": [],
        "status": schema.OK,
        "guard": False,
    }


class ChunkDecoder:
    """Decodes chunks of samples into tables; owns the child process once one is needed."""

    def __init__(self, task: ShardTask, config: ReadConfig) -> None:
        self._task = task
        self._config = config
        attempts = Attempts(storage.Folder(config.output), config.run_id, "decode")
        arguments = (config.decoder, config.needs)
        self._careful = Careful("pipeline.samples.decode:media_decoder", arguments, config.limits, attempts, task.suspects)
        self._rows = Rows()

    def close(self) -> None:
        """Ends the child process; without it one process and its memory stay until this worker ends."""
        self._careful.close()

    def decode(self, chunk: list[Sample]) -> Iterator[pa.Table]:
        """One or more tables for a chunk. Nothing is yielded while the watchdog is armed."""
        if not chunk:
            return
        with self._careful.chunk(Unit(self._task.shard, chunk[0].index, chunk[-1].index)):
            for sample in chunk:
                for row, medium in self._sample_rows(sample):
                    self._rows.add(row, medium)
                    if self._rows.payload_bytes >= BLOCK_BYTES:
                        self._careful.rest()
                        yield self._rows.take()
        if len(self._rows):
            yield self._rows.take()

    def _sample_rows(self, sample: Sample) -> Iterator[tuple[dict[str, Any], Medium | None]]:
        """The rows of one sample, each with its medium: one, or one a piece; a reject has none."""
        row, field = self._describe(sample)
        row["guard"] = self._careful.is_suspect(sample.index)
        if field is None or field.data is None:
            yield row, None
            return
        started, piece = time.perf_counter(), 0
        media = self._careful.run(sample.index, (field.data, field.name))
        while True:
            try:
                medium = next(media, None)
            except SampleError as exc:
                yield {**row, "piece": piece, **_reject(exc, "decode"), "decode_s": time.perf_counter() - started}, None
                return
            if medium is None:
                return
            yield {**row, "piece": piece, "decode_s": time.perf_counter() - started}, medium
            started, piece = time.perf_counter(), piece + 1

    def _describe(self, sample: Sample) -> tuple[dict[str, Any], Field | None]:
        """The row of a sample before decoding, and the field that holds its primary medium, if it is to be decoded."""
        row = {**_identity(self._task, sample.index), "key": sample.key, "offset": sample.offset, "size": sample.size}
        if sample.problem is not None:
            return {**row, **_reject(sample.problem, "read")}, None
        row["sample_sha256"] = sample_sha256(sample.fields)
        row["text"], row["flags"] = reference_text(sample.fields)
        if sample.repeated:
            row["flags"] = [*row["flags"], "key_repeated"]
        field = primary_medium(sample.fields, self._config.needs)
        if field is None:
            return {**row, **_reject(_no_medium(sample), "read")}, None
        row |= {"media_field": field.name, "media_bytes": field.size, "modality": modality_of(field.name)}
        row["media_sha256"] = media_sha256(field)
        if modality_of(field.name) not in self._config.needs.accepts:
            detail = f"the engine takes {', '.join(self._config.needs.accepts)}; .{field.name} is {modality_of(field.name)}"
            return {**row, "status": schema.SKIPPED, "stage": "decode", "reason": Reason.NOT_TAKEN.value, "detail": detail}, None
        return row, field


def primary_medium(fields: tuple[Field, ...], needs: Needs) -> Field | None:
    """The field to caption: the first by name that the engine takes, plain extensions first; else any medium; else None."""
    media = [field for field in fields if modality_of(field.name) is not None]
    if not media:
        return None
    return min(media, key=lambda field: (modality_of(field.name) not in needs.accepts, "." in field.name, field.name))


def _no_medium(sample: Sample) -> SampleError:
    names = ", ".join(f".{field.name}" for field in sample.fields)
    if sample.repeated:
        return SampleError(Reason.SEPARATED, f"has only {names}: its medium stands elsewhere in the shard, which is not sorted by name")
    return SampleError(Reason.NO_MEDIUM, f"has only {names}: no picture, recording or clip")


def _reject(exc: SampleError, stage: str) -> dict[str, Any]:
    return {"status": schema.REJECTED, "stage": stage, "reason": exc.reason.value, "detail": exc.detail}


def end_of(table: pa.Table) -> dict[str, Any] | None:
    """The end row's account in a table, parsed, or None."""
    for text in table.column("end").to_pylist():
        if text is not None:
            account: dict[str, Any] = json.loads(text)
            return account
    return None
