"""Rows of CSV, TSV, JSONL and Parquet, streamed, each with where it stands. What is no row is told apart, and reading goes on.

CSV is read as RFC 4180 has it, with quotes and line breaks in fields; a quote that never closes costs its own line. TSV has no
quoting, but a field that is quoted as a whole is taken out of its quotes, since both kinds are in use.
"""

import csv
import io
import json
import re
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import storage
from pipeline.errors import RequestError
from pipeline.shards.encoding import encoding_of

EXTENSIONS = ("csv", "tsv", "jsonl", "ndjson", "parquet")
LONGEST_FIELD = 16 << 20
PIECE_BYTES = 64 << 20
"""Of JSONL and Parquet that one task reads."""
_PARQUET_ROWS = 64
_RECORD_LINES = 1000  # a CSV row over more lines is taken for a quote that never closes
_QUOTED = re.compile(r'"((?:[^"]|"")*)"')


@dataclass(frozen=True, slots=True)
class Row:
    """One row, or why there is none."""

    at: int | None
    """1-based line of CSV, TSV and JSONL, 0-based row of Parquet; None where the lines before it were not counted."""
    values: dict[str, Any] | None
    problem: str = ""


def kind_of(url: str) -> str:
    """Extension of a table, or empty."""
    extension = url.lower().rpartition(".")[2]
    return extension if extension in EXTENSIONS else ""


def columns_of(url: str) -> tuple[list[str], list[str]]:
    """All columns of a table, and those that hold bytes. RequestError where it cannot be read."""
    kind = kind_of(url)
    try:
        if kind == "parquet":
            with _opened(url) as file:
                table = pq.ParquetFile(file).schema_arrow
            return table.names, [one.name for one in table if _holds_bytes(one.type)]
        if kind in ("csv", "tsv"):
            with _opened(url) as file:
                return _header(_lines(file)[0], kind)[0], []
        with _opened(url) as file:
            first = next((row for row in jsonl_rows(file, 0, -1) if row.values is not None), None)
        return list(first.values or {}) if first else [], []
    except FileNotFoundError as error:
        raise RequestError(f"{url}: no such file") from error
    except (OSError, pa.ArrowException, UnicodeDecodeError) as error:
        raise RequestError(f"{url} cannot be read as {kind.upper()}: {str(error).splitlines()[0]}") from error


def _holds_bytes(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):
        return any(one.name == "bytes" and _holds_bytes(one.type) for one in kind)
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def divide(url: str, size: int) -> list[tuple[int, int]]:
    """Ranges that tasks read on their own: bytes of JSONL, row groups of Parquet; CSV cannot be divided, its lines may be quoted."""
    kind = kind_of(url)
    if kind in ("jsonl", "ndjson"):
        return [(start, min(size, start + PIECE_BYTES)) for start in range(0, max(1, size), PIECE_BYTES)]
    if kind != "parquet":
        return [(0, -1)]
    with _opened(url) as file:
        found = pq.ParquetFile(file).metadata
        sizes = [found.row_group(group).total_byte_size for group in range(found.num_row_groups)]
    ranges: list[tuple[int, int]] = []
    start = held = 0
    for group, group_bytes in enumerate(sizes):
        held += group_bytes
        if held >= PIECE_BYTES:
            ranges.append((start, group + 1))
            start, held = group + 1, 0
    if start < len(sizes):
        ranges.append((start, len(sizes)))
    return ranges


def rows_of(url: str, start: int, stop: int) -> Iterator[Row]:
    """The rows of a range of a table. Storage errors travel."""
    kind = kind_of(url)
    with _opened(url) as file:
        if kind == "parquet":
            yield from _parquet_rows(file, start, stop)
        elif kind in ("csv", "tsv"):
            yield from delimited_rows(file, kind)
        else:
            yield from jsonl_rows(file, start, stop)


@contextmanager
def _opened(url: str) -> Iterator[Any]:
    filesystem, path = storage.resolve(url)
    with filesystem.open_input_file(path) as file:
        yield file


def _parquet_rows(file: Any, start: int, stop: int) -> Iterator[Row]:
    table = pq.ParquetFile(file, pre_buffer=False)
    at = sum(table.metadata.row_group(group).num_rows for group in range(start))
    for batch in table.iter_batches(batch_size=_PARQUET_ROWS, row_groups=list(range(start, stop)), use_threads=False):
        for values in batch.to_pylist():
            yield Row(at, values)
            at += 1


def jsonl_rows(file: BinaryIO, start: int, stop: int) -> Iterator[Row]:
    """Lines that begin in a range of bytes; lines are counted from 1 where the range begins at 0."""
    at = max(0, start - 1)
    file.seek(at)
    lines = _buffered(file)
    if start:
        at += len(lines.readline())  # the line under way belongs to the range before, unless it ended just there
    line_number = None if start else 0
    while (stop < 0 or at < stop) and (line := lines.readline()):
        begins, at = at, at + len(line)
        if line_number is not None:
            line_number += 1
        yield from _json_row(line, begins, line_number)


def _json_row(line: bytes, begins: int, number: int | None) -> Iterator[Row]:
    text = line.removeprefix(b"\xef\xbb\xbf") if begins == 0 else line
    if not text.strip():
        return
    where = f"the line at byte {begins}"
    try:
        values = json.loads(text)
    except UnicodeDecodeError as error:
        yield Row(number, None, f"{where} is not UTF-8 at its byte {error.start}")
        return
    except (ValueError, RecursionError) as error:
        yield Row(number, None, f"{where} is no JSON: {error}")
        return
    yield Row(number, values) if isinstance(values, dict) else Row(number, None, f"{where} is no JSON object")


def _lines(file: BinaryIO) -> tuple[Iterator[str], str]:
    """Lines of text with their ends; bytes that are not of the file's encoding come as lone surrogates."""
    name, skip = encoding_of(file.read(4))
    file.seek(skip)
    return iter(io.TextIOWrapper(_buffered(file), encoding=name, errors="surrogateescape", newline="")), name


def _buffered(file: BinaryIO) -> io.BufferedReader:
    return io.BufferedReader(_Raw(file), 1 << 18)


def _header(lines: Iterator[str], kind: str) -> tuple[list[str], str]:
    """Column names and the delimiter."""
    first = next(lines, "")
    if kind == "tsv":
        return [_unquoted(name) for name in first.rstrip("\r\n").split("\t")], "\t"
    delimiter = max(",;\t", key=lambda mark: (first.count(mark), mark == ","))
    return next(csv.reader([first], delimiter=delimiter), []), delimiter


def _unquoted(text: str) -> str:
    match = _QUOTED.fullmatch(text)
    return match[1].replace('""', '"') if match else text


def delimited_rows(file: BinaryIO, kind: str) -> Iterator[Row]:
    """Rows of CSV or TSV below the header."""
    csv.field_size_limit(LONGEST_FIELD)
    lines, encoding = _lines(file)
    names, delimiter = _header(lines, kind)
    numbered = _Lines(lines)
    while True:
        begins = numbered.count + 1
        try:
            if kind == "tsv":
                line = next(numbered).rstrip("\r\n")
                values = [_unquoted(text) for text in line.split("\t")] if line else []
            else:
                values = next(csv.reader(numbered, delimiter=delimiter, strict=True))
        except StopIteration:
            return
        except csv.Error as error:
            numbered.take_back()
            yield Row(begins, None, f"no CSV: {error}")
            continue
        if len(values) == len(names):
            yield _checked(begins, dict(zip(names, values, strict=True)), encoding)
        elif values:
            taken = numbered.count - begins + 1
            over = f" over {taken} lines (a quote that never closes?)" if taken > 1 else ""
            numbered.take_back()
            yield Row(begins, None, f"{len(values)} fields{over}, the header has {len(names)}")
        numbered.settle()


def _checked(at: int, values: dict[str, Any], encoding: str) -> Row:
    for name, text in values.items():
        if not text.isascii():
            try:
                text.encode("utf-8")
            except UnicodeEncodeError:
                return Row(at, None, f"{name} is not {encoding.upper()}")
    return Row(at, values)


class _Lines:
    """Counts lines, and takes back all but the first of a row that did not work out."""

    def __init__(self, lines: Iterator[str]) -> None:
        self._lines = lines
        self._again: deque[str] = deque()
        self._row: list[str] = []
        self.count = 1  # the header

    def __iter__(self) -> "_Lines":
        return self

    def __next__(self) -> str:
        if len(self._row) >= _RECORD_LINES:
            raise csv.Error(f"a row over more than {_RECORD_LINES} lines (a quote that never closes?)")
        line = self._again.popleft() if self._again else next(self._lines)
        self.count += 1
        self._row.append(line)
        return line

    def settle(self) -> None:
        self._row.clear()

    def take_back(self) -> None:
        self.count -= len(self._row) - 1
        self._again.extendleft(reversed(self._row[1:]))
        self._row = []


class _Raw(io.RawIOBase):
    """An Arrow file as the raw stream that Python's buffers want."""

    def __init__(self, file: Any) -> None:
        self._file = file

    def readable(self) -> bool:
        return True

    def readinto(self, view: Any) -> int:
        data = self._file.read(len(view))
        view[: len(data)] = data
        return len(data)
