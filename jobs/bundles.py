"""What an examiner measures at once: stretches of prepared rows, with the labels of their samples.

A bundle is one task: its media are shuffled among themselves, and its results are one file. Rows come from whole stretches of
row groups, in an order drawn by hash, so that a limit is no choice of the first archives.
"""

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import pyarrow.parquet as pq

from pipeline import storage
from pipeline.errors import RequestError
from pipeline.evaluation import labels as classes
from pipeline.evaluation import references
from pipeline.samples.group import Sample, read_samples
from pipeline.training.corpus import Corpus, PreparedFile

ROWS = 512
"""Samples of a bundle: their memories are held at once, about 60 KB a picture, 0.5 MB a clip."""
LABELS = ("label", "class", "group", "category")
"""Columns of a table that may hold labels, the first that is there."""


@dataclass(frozen=True, slots=True)
class Stretch:
    """Rows of one prepared file."""

    file: PreparedFile
    first: int
    last: int
    """Exclusive."""


@dataclass(frozen=True, slots=True)
class Bundle:
    """What is measured at once."""

    number: int
    stretches: tuple[Stretch, ...]
    labels: tuple[str | None, ...]
    """Of each row; empty without labels."""
    features_only: bool
    """For learning a probe: no probabilities."""

    @property
    def rows(self) -> int:
        """Samples in it, as far as they can be measured."""
        return sum(one.last - one.first for one in self.stretches)


def stretches_of(corpus: Corpus, limit: int, seed: int) -> list[Stretch]:
    """Stretches of at most ROWS rows, together `limit` rows (0: all), by hash; in the order of the corpus."""
    found = [
        Stretch(file, group.first + start, group.first + min(start + ROWS, group.rows))
        for file in corpus.files
        for group in file.groups
        for start in range(0, group.rows, ROWS)
    ]
    if limit and corpus.rows > limit:
        order = sorted(found, key=lambda one: hashlib.blake2b(f"{seed}\0{one.file.name}\0{one.first}".encode()).digest())
        chosen, left = [], limit
        for one in order:
            if left > 0:
                chosen.append(Stretch(one.file, one.first, min(one.last, one.first + left)))
                left -= one.last - one.first
        found = sorted(chosen, key=lambda one: (one.file.name, one.first))
    return found


def bundles_of(stretches: Sequence[Stretch], labels: Sequence[str | None], first: int, *, features_only: bool) -> Iterator[Bundle]:
    """Neighbouring stretches together, up to ROWS rows; `labels` of all their rows, or none."""
    group: list[Stretch] = []
    rows = at = 0
    for one in [*stretches, None]:
        size = one.last - one.first if one is not None else 0
        if group and (one is None or rows + size > ROWS):
            yield Bundle(first, tuple(group), tuple(labels[at : at + rows]), features_only)
            first, at, group, rows = first + 1, at + rows, [], 0
        if one is not None:
            group.append(one)
            rows += size


def columns_of(stretch: Stretch, columns: Sequence[str]) -> list[dict[str, Any]]:
    """Some columns of a stretch's rows; of row groups without a row of it nothing is read. RequestError where a column is not there."""
    filesystem, path = storage.resolve(stretch.file.url)
    rows: list[dict[str, Any]] = []
    with pq.ParquetFile(path, filesystem=filesystem) as opened:
        missing = [name for name in columns if name not in opened.schema_arrow.names]
        if missing:
            raise RequestError(
                f"--labels column:{missing[0]}: {stretch.file.url} has no such column; it has {', '.join(opened.schema_arrow.names)}"
            )
        for number, group in enumerate(stretch.file.groups):
            low, high = max(stretch.first, group.first), min(stretch.last, group.first + group.rows)
            if low < high:
                rows += opened.read_row_group(number, columns=list(columns)).slice(low - group.first, high - low).to_pylist()
    return rows


def labels_of(stretches: Sequence[Stretch], spec: str, root: str | None) -> tuple[list[str | None], tuple[str, ...]]:
    """The label of each row, and all classes. RequestError where there are none, or one only. `root`: where the archives lie."""
    source = classes.source_of(spec)
    places = ["shard", "index", "key", *([source.name] if source.kind == "column" and source.name not in ("shard", "index", "key") else [])]
    rows = [row for one in stretches for row in columns_of(one, places)]
    if source.kind == "column":
        found = [classes.text_of(row[source.name]) for row in rows]
    elif source.kind == "json":
        found = _from_archives(rows, source.name, root)
    else:
        table = references.load(source.name, flag="--labels", columns=LABELS)
        named = [table.of(row["key"], row["shard"], row["index"]) for row in rows]
        found = [classes.text_of(texts[0]) if texts else None for texts in named]
    return found, classes.check(found, spec, rows[0] if rows else {})


def _from_archives(rows: Sequence[dict[str, Any]], field: str, root: str | None) -> list[str | None]:
    if root is None:
        raise RequestError(f"--labels json:{field}: the prepared folder does not say where its archives lie; give a table of labels")
    found: dict[tuple[str, int], str | None] = {}
    for shard in sorted({row["shard"] for row in rows}):
        wanted = {row["index"] for row in rows if row["shard"] == shard}
        try:
            with closing(storage.open_reader(f"{root}/{shard}")) as reader:
                todo = tuple((index, index) for index in sorted(wanted))
                for sample in read_samples(reader, max_sample_bytes=1 << 30, todo=todo, stop_after=max(wanted) + 1):
                    if isinstance(sample, Sample):
                        data = next((member.data for member in sample.fields if member.name == "json"), None)
                        found[shard, sample.index] = classes.of_json(data, field) if data else None
        except OSError as exc:
            raise RequestError(
                f"--labels json:{field}: {root}/{shard} cannot be read ({exc.strerror or exc}); give a table of labels"
            ) from exc
    return [found.get((row["shard"], row["index"])) for row in rows]
