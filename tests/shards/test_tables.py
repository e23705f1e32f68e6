"""Rows of CSV, TSV, JSONL and Parquet:

- quotes, line breaks in fields, byte order marks and UTF-16 are read as they are meant;
- a row that is none is told with its line, and costs no other row: not even a quote that never closes;
- the ranges of a divided JSONL give every line exactly once.
"""

import csv
import io
import json
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import RequestError
from pipeline.shards.tables import columns_of, delimited_rows, jsonl_rows, rows_of

CELL = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=12)


@settings(max_examples=150, deadline=None)
@given(rows=st.lists(st.tuples(CELL, CELL), max_size=6), mark=st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]))
def test_what_pythons_writer_writes_is_read_back(rows: list[tuple[str, str]], mark: str) -> None:
    text = io.StringIO(newline="")
    csv.writer(text, quoting=csv.QUOTE_ALL).writerows([("file", "text"), *rows])
    found = list(delimited_rows(pa.BufferReader(text.getvalue().encode(mark)), "csv"))
    assert [row.values for row in found] == [{"file": a, "text": b} for a, b in rows]


def test_a_bad_row_of_csv_costs_no_other(tmp_path: Path) -> None:
    path = tmp_path / "m.csv"
    path.write_bytes(b'file,text\na.jpg,one\nb.jpg,"never closed\nc.jpg,three\nd.jpg\ne.jpg,caf\xe9\nf.jpg,"a\n""b"""\ng.jpg,seven\n')
    rows = list(rows_of(str(path), 0, -1))
    good = {row.values["file"]: row.values["text"] for row in rows if row.values}
    assert {"a.jpg", "c.jpg", "g.jpg"} <= set(good) and good["f.jpg"] == 'a\n"b"'
    assert [(row.at, row.problem.split(" ")[0]) for row in rows if row.values is None] == [(3, "no"), (5, "1"), (6, "text")]


def test_a_quote_that_closes_nowhere_costs_its_line(tmp_path: Path) -> None:
    path = tmp_path / "m.csv"
    path.write_text("file,text\n" + 'x.jpg,"open\n' + "".join(f"{number}.jpg,t\n" for number in range(3000)))
    rows = list(rows_of(str(path), 0, -1))
    assert sum(row.values is not None for row in rows) == 3000
    assert [row.at for row in rows if row.values is None] == [2]


def test_tsv_takes_a_field_out_of_its_quotes_only_if_it_is_quoted_whole(tmp_path: Path) -> None:
    path = tmp_path / "m.tsv"
    path.write_text('file\ttext\na.jpg\t"he ""said"" so"\nb.jpg\t"quote" he said\n')
    assert [row.values["text"] for row in rows_of(str(path), 0, -1) if row.values] == ['he "said" so', '"quote" he said']


def test_semicolons_divide_where_the_header_says_so(tmp_path: Path) -> None:
    path = tmp_path / "m.csv"
    path.write_text("file;text\na.jpg;one, two\n")
    assert [row.values for row in rows_of(str(path), 0, -1)] == [{"file": "a.jpg", "text": "one, two"}]


@settings(max_examples=100, deadline=None)
@given(st.lists(st.text(max_size=8), min_size=1, max_size=12), st.integers(1, 40))
def test_ranges_of_jsonl_give_every_line_once(texts: list[str], step: int) -> None:
    data = "".join(json.dumps({"t": text}) + "\n" for text in texts).encode()
    found = []
    for start in range(0, len(data), step):
        found += [row.values["t"] for row in jsonl_rows(pa.BufferReader(data), start, min(len(data), start + step)) if row.values]
    assert found == texts


def test_lines_that_are_no_object_are_told_with_their_number() -> None:
    data = b'\xef\xbb\xbf{"a": 1}\n\nnot\n[1]\n{"b": "\xe9"}\n{"c": 3}'
    rows = list(jsonl_rows(pa.BufferReader(data), 0, -1))
    assert [row.at for row in rows if row.values is None] == [3, 4, 5]
    assert [row.values for row in rows if row.values] == [{"a": 1}, {"c": 3}]


def test_a_file_that_is_no_table_of_its_kind_is_refused(tmp_path: Path) -> None:
    (tmp_path / "m.parquet").write_bytes(b"no parquet")
    with pytest.raises(RequestError, match="cannot be read as PARQUET"):
        columns_of(str(tmp_path / "m.parquet"))
