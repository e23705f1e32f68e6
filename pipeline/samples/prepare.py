"""A shard, or a part of one -> rows of `schema.PREPARED` and refused samples, a chunk at a time. No Ray.

The chain runs as careful work: a sample that kills, hangs or swallows memory costs itself alone. What is kept goes into one
Arrow table a chunk; original bytes never leave it.
"""

import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, field

import pyarrow as pa

from pipeline import schema, storage
from pipeline.attempts import Attempts, Unit
from pipeline.errors import Reason, SampleError
from pipeline.samples.careful import Careful
from pipeline.samples.chain import TEXT, ChainConfig, Item, Row
from pipeline.samples.chunks import ShardTask, chunks, describe, origin_of, rejected
from pipeline.samples.drops import Drop, drops_of
from pipeline.samples.group import EndOfShard, Field, Sample
from pipeline.samples.guard import Limits
from pipeline.samples.rows import Rows
from pipeline.samples.tokens import Tokenizer

CHUNK_SAMPLES = 256
CHUNK_BYTES = 16 << 20
"""Encoded bytes of a chunk: what stands in memory undecoded, and what a crash sends to a child process."""
REFUSED = ("key", "index", "status", "stage", "reason", "detail", "offset", "size", "flags")
"""What is kept of a refused sample; its bytes are fetched from the archive when its shard is committed."""
CHOSEN = frozenset(reason for reason in Reason if reason.value.startswith("filtered_")) | {Reason.DUPLICATE}
"""Reasons of samples that are removed because somebody asked for it: no fault, and no part of the reject budget."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Preparation:
    """How shards are prepared, the same for all tasks of a run."""

    chain: ChainConfig
    tokenizer: Tokenizer | None
    max_sample_bytes: int = 512 << 20
    """Bytes; a larger sample is rejected, never buffered."""
    limits: Limits
    """Time and memory a sample may take."""
    output: str
    """URL of the folder for crash markers; empty for none: a sample that kills its worker then ends the run."""
    run_id: str
    drop: str = ""
    """URL of the output of `dedup`, whose drops are left out; empty for none."""


@dataclass(slots=True)
class Done:
    """What became of one chunk."""

    table: pa.Table
    """schema.PREPARED: what was kept."""
    lo: int
    """First index of the chunk; of the end, the number of samples."""
    hi: int
    refused: list[Row]
    """Columns `REFUSED` of every other sample."""
    seconds: dict[str, float]
    """Work by step."""
    end: EndOfShard | None = None

    def counts(self) -> Counter[str]:
        """Samples by status, refused ones as `status:reason`."""
        found = Counter(f"{row['status']}:{row['reason']}" for row in self.refused)
        if self.table.num_rows:
            found[schema.SUCCESS] = self.table.num_rows
        return found


def prepare_shard(task: ShardTask, config: Preparation) -> Iterator[Done]:
    """The chunks of a task in order, then its end if it reads to there. Storage errors travel."""
    reader = storage.open_reader(task.url)
    with closing(reader), closing(_Preparer(task, config)) as preparer:
        began = time.perf_counter()
        for item in chunks(task, reader, config.max_sample_bytes, samples=CHUNK_SAMPLES, size_bytes=CHUNK_BYTES):
            read_s = time.perf_counter() - began
            if isinstance(item, EndOfShard):
                yield Done(schema.PREPARED.empty_table(), item.n_samples, item.n_samples, [], {"read": read_s}, item)
                return
            done = preparer.prepare(item)
            done.seconds["read"] = read_s
            yield done
            began = time.perf_counter()


def prepare_again(task: ShardTask, chunks: Iterable[list[Sample]], config: Preparation) -> Iterator[Done]:
    """Samples of a shard that are at hand, such as those that quarantine kept; what became of them, chunk by chunk."""
    with closing(_Preparer(task, config)) as preparer:
        for chunk in chunks:
            yield preparer.prepare(chunk)


@dataclass(slots=True)
class _Preparer:
    """Owns the child process once one is needed."""

    task: ShardTask
    config: Preparation
    _careful: Careful = field(init=False)
    _dropped: dict[int, Drop] = field(init=False)
    _origin: Row = field(init=False)

    def __post_init__(self) -> None:
        config = self.config
        attempts = Attempts(storage.Folder(config.output) if config.output else None, config.run_id, "prepare")
        arguments = (config.chain, config.tokenizer)
        self._careful = Careful("pipeline.samples.chain:ChainWork", arguments, config.limits, attempts, self.task.suspects)
        self._dropped = drops_of(config.drop, self.task.shard, self.task.fingerprint) if config.drop else {}
        self._origin = origin_of(self.task)

    def close(self) -> None:
        """Ends the child process; without it one process and its memory stay until this worker ends."""
        self._careful.close()

    def prepare(self, chunk: list[Sample]) -> Done:
        """All samples of a chunk."""
        began = time.perf_counter()
        kept, refused, seconds = Rows(schema.PREPARED), [], dict[str, float]()
        with self._careful.chunk(Unit(self.task.shard, chunk[0].index, chunk[-1].index)):
            self._careful.ahead([sample.fields for sample in chunk if sample.problem is None])
            seconds["text, tokens"] = time.perf_counter() - began
            for sample in chunk:
                row, item = self._described(sample)
                if item is not None:
                    row = self._prepared(row, item, seconds)
                if row["status"] == schema.OK:
                    kept.add(row)
                else:
                    refused.append({name: row.get(name) for name in REFUSED})
        table = kept.take()
        seconds["hash, rows, guard"] = time.perf_counter() - began - sum(seconds.values())
        return Done(table, chunk[0].index, chunk[-1].index, refused, seconds)

    def _described(self, sample: Sample) -> tuple[Row, Item | None]:
        """The row before the chain, and what the chain takes; None for a sample that is refused already."""
        row, medium = describe(sample, self._origin, self.config.chain.media)
        drop = self._dropped.get(sample.index)
        if drop is not None and row["status"] == schema.OK:
            return {**row, "status": schema.FILTERED, "stage": "filter", "reason": drop.reason.value, "detail": drop.detail}, None
        if medium is not None and medium.data is not None:
            return row, Item(sample.fields, medium, row["modality"])
        if row["reason"] == Reason.NO_MEDIUM and TEXT in self.config.chain.take and _has_text(sample.fields):
            row |= {"status": schema.OK, "stage": None, "reason": None, "detail": None}
            return row, Item(sample.fields, None, None)
        return row, None

    def _prepared(self, row: Row, item: Item, seconds: dict[str, float]) -> Row:
        try:
            for columns, spent in self._careful.run(row["index"], item):
                row = {**row, **columns, "flags": list(dict.fromkeys([*row["flags"], *columns["flags"]]))}
                for step, spent_s in spent.items():
                    seconds[step] = seconds.get(step, 0.0) + spent_s
        except SampleError as exc:
            if exc.reason in CHOSEN:
                return {**row, **rejected(exc, "filter"), "status": schema.FILTERED}
            return {**row, **rejected(exc, "prepare")}
        return row


def _has_text(fields: tuple[Field, ...]) -> bool:
    return any(field.name in ("txt", "json") for field in fields)
