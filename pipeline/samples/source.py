"""Shards as a Ray Data source: one read task a shard, rows of `schema.SAMPLES`, an end row each.

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
from pipeline.errors import SampleError
from pipeline.samples.careful import Careful
from pipeline.samples.chunks import ShardTask, chunks, describe, origin_of, rejected, stop_flag
from pipeline.samples.earlier import load
from pipeline.samples.group import EndOfShard, Sample
from pipeline.samples.guard import Limits
from pipeline.samples.medium import Medium, Needs
from pipeline.samples.rows import Rows, json_columns

BLOCK_BYTES = 32 << 20
"""Decoded bytes after which a block is handed on; Ray's own default of 128 MiB would be what workers hold."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadConfig:
    """How shards are read, the same for all tasks of a run."""

    needs: Needs
    columns: tuple[str, ...] = ()
    """Values of a sample's `json` that go into `schema.SAMPLES.columns`, by their path: title, source.url."""
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


def _end_table(task: ShardTask, end: EndOfShard) -> pa.Table:
    rows = Rows()
    rows.add({**origin_of(task), "index": end.n_samples, "kind": schema.KIND_END, "end": end.to_json()})
    return rows.take()


class ChunkDecoder:
    """Decodes chunks of samples into tables; owns the child process once one is needed."""

    def __init__(self, task: ShardTask, config: ReadConfig) -> None:
        self._task = task
        self._config = config
        attempts = Attempts(storage.Folder(config.output), config.run_id, "decode")
        arguments = (config.decoder, config.needs)
        self._careful = Careful("pipeline.samples.decode:media_decoder", arguments, config.limits, attempts, task.suspects)
        self._origin = origin_of(task)
        self._earlier = load(storage.Folder(config.output), task.earlier)
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
        row, field = describe(sample, self._origin, self._config.needs.accepts)
        row["guard"] = self._careful.is_suspect(sample.index)
        row["columns"] = json_columns(sample.fields, self._config.columns)
        if field is None or field.data is None:
            yield row, None
            return
        if (known := self._earlier.find(row)) is not None:
            yield {**row, **known}, None
            return
        started, piece = time.perf_counter(), 0
        media = self._careful.run(sample.index, (field.data, field.name))
        while True:
            try:
                medium = next(media, None)
            except SampleError as exc:
                yield {**row, "piece": piece, **rejected(exc, "decode"), "decode_s": time.perf_counter() - started}, None
                return
            if medium is None:
                return
            yield {**row, "piece": piece, "decode_s": time.perf_counter() - started}, medium
            started, piece = time.perf_counter(), piece + 1


def end_of(table: pa.Table) -> dict[str, Any] | None:
    """The end row's account in a table, parsed, or None."""
    for text in table.column("end").to_pylist():
        if text is not None:
            account: dict[str, Any] = json.loads(text)
            return account
    return None
