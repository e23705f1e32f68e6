"""Rows of a source that are no sample: counted, with examples for a person, and written as schema.REFUSED. Memory is bounded."""

from collections import Counter
from contextlib import ExitStack
from types import TracebackType
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import schema
from pipeline.shards.index import sink_of
from pipeline.shards.item import Bad
from pipeline.storage import Folder

FOLDER = "rejects"
EXAMPLES_PER_REASON = 3
_FLUSH_ROWS = 20_000


class Rejects:
    """A table of rejects. As a context: it appears when the block ends, or never if that raises; empty ones never do."""

    def __init__(self, store: Folder, path: str) -> None:
        self.counts: Counter[str] = Counter()
        """Rows by reason."""
        self.examples: list[list[str]] = []
        """Up to three a reason: [reason, source, name, detail]."""
        self._store = store
        self._path = path
        self._stack = ExitStack()
        self._writer: pq.ParquetWriter | None = None
        self._clear()

    def _clear(self) -> None:
        self._columns: dict[str, list[Any]] = {name: [] for name in schema.REFUSED.names}

    def __enter__(self) -> "Rejects":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if error is None:
            self.publish()
        else:
            self._stack.__exit__(kind, error, trace)

    def add(self, bad: Bad, key: str | None = None) -> None:
        """One row that is no sample; `key` is what it would have been called."""
        reason = bad.reason.value
        if self.counts[reason] < EXAMPLES_PER_REASON:
            self.examples.append([reason, _plain(bad.source), _plain(bad.name), _plain(bad.detail)])
        self.counts[reason] += 1
        row = (_plain(bad.source), bad.row, _plain(bad.name), reason, _plain(bad.detail), bad.url, key)
        for column, value in zip(self._columns.values(), row, strict=True):
            column.append(value)
        if len(self._columns["name"]) >= _FLUSH_ROWS:
            self._flush()

    def publish(self) -> None:
        """Makes the table appear; where nothing was rejected, an old one goes."""
        if not self.counts:
            self._store.delete(self._path)
            return
        self._flush()
        assert self._writer is not None
        self._writer.close()
        self._stack.close()

    def _flush(self) -> None:
        if self._writer is None:
            draft = self._stack.enter_context(self._store.create(self._path))
            self._writer = pq.ParquetWriter(sink_of(draft), schema.REFUSED, compression="zstd")
        self._writer.write_table(pa.table(self._columns, schema=schema.REFUSED))
        self._clear()


def _plain(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()
