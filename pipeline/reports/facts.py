"""What stands in a run's files, brought to a size that a page can hold, whatever the size of the run.

Counts and distributions come from all tables, up to FILES of them; the samples that are shown are those with the smallest
hash of their place, so that the same files always show the same samples. Only columns that are needed are read.
"""

import hashlib
import heapq
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline import storage
from pipeline.errors import RequestError
from pipeline.reports.archives import SUFFIX, counts_of, first_rows
from pipeline.reports.gallery import Shown
from pipeline.reports.rejects import read_rejects
from pipeline.reports.training import Training, read_training

FILES = 2_000
"""Tables that distributions are read from; of more, those with the smallest hash of their name."""
GALLERY_FILES, GALLERY_PER_FILE = 8, 12
"""Archives that the gallery shows, and samples of each: reading one costs a pass over its headers."""
UNDERSTANDING_FORMAT = 2
"""Of understanding.json; one of another version is not shown."""
TABLES = ("captions", "prepared", "archives")
PREPARED_FIRST = 1_000
"""Rows of a prepared table that its gallery comes from: their media stand in its first row groups, the rest is not read."""
SCORES = {"cider_d": 2, "chrf": 0, "rouge_l": 2, "token_f1": 2, "wer": 2}
"""Scores whose distribution is shown, and the digits that they are rounded to."""
_COLUMNS = (
    "key",
    "shard",
    "index",
    "modality",
    "text",
    "caption",
    "status",
    "reason",
    "flags",
    "language",
    "duration_s",
    "mean_logprob",
    "width",
    "height",
    "n_tokens",
)


@dataclass(slots=True)
class Facts:
    """A run, as a page shows it."""

    record: dict[str, Any]
    """run.json."""
    output: str
    table: str = "captions"
    """Which of TABLES the output holds."""
    files: int = 0
    files_read: int = 0
    rows: int = 0
    """In the tables that were read."""
    statuses: Counter[str] = field(default_factory=Counter)
    modalities: Counter[str] = field(default_factory=Counter)
    languages: Counter[str] = field(default_factory=Counter)
    flags: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    values: dict[str, Counter[float]] = field(default_factory=dict)
    """Distributions by name: value, rounded so that there are few, to count."""
    score_values: dict[str, Counter[float]] = field(default_factory=dict)
    """Likewise, of the scores of single captions."""
    rows_shown: list[dict[str, Any]] = field(default_factory=list)
    rejects: list[Shown] = field(default_factory=list)
    scores: dict[str, Any] | None = None
    """scores.json, if the output was evaluated."""
    understanding: dict[str, Any] | None = None
    """understanding.json, if the checkpoint was evaluated."""
    training: Training | None = None
    """Of a training's output."""


def locate(url: str) -> tuple[storage.Folder, str]:
    """(output folder, path of run.json below it) of an output folder, where its latest run counts, or of `runs/ID` in one."""
    folder, name = storage.Folder(url), url.rstrip("/").rpartition("/")
    if folder.exists("run.json") and name[0].endswith("runs"):
        return storage.Folder(name[0].removesuffix("runs") or "."), f"runs/{name[2]}/run.json"
    found = [blob.path for blob in folder.list("runs") if blob.path.endswith("/run.json")]
    if not found:
        raise RequestError(f"{url} holds no run; name the --output folder of a job, or its folder runs/ID")
    return folder, sorted(found)[-1]


def gather(store: storage.Folder, path: str) -> Facts:
    """Reads what the page of a run needs. RequestError where run.json cannot be read."""
    try:
        record = json.loads(store.get(path))
        if not isinstance(record, dict) or "run_id" not in record:
            raise ValueError("it is no record of a run")
    except (OSError, ValueError) as exc:
        raise RequestError(f"{store.url}/{path} cannot be read: {exc}") from exc
    facts = Facts(record, store.url)
    if store.exists("evaluation/scores.json"):
        facts.scores = json.loads(store.get("evaluation/scores.json"))
        _score_spreads(store, facts)
    if store.exists("model/evaluation/understanding.json"):
        found = json.loads(store.get("model/evaluation/understanding.json"))
        facts.understanding = found if found.get("format") == UNDERSTANDING_FORMAT else None
    for table in TABLES:
        names = [blob.path for blob in store.list(table) if blob.path.endswith(SUFFIX if table == "archives" else ".parquet")]
        if names:
            facts.table = table
            (_read_archives if table == "archives" else _read)(store, facts, sorted(names, key=lambda name: (_rank(name), name)))
            break
    facts.rejects = read_rejects(store, record.get("recipe", {}).get("root"))
    if record["job"] == "train":
        facts.training = read_training(store, record["run_id"])
    return facts


def _rank(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(errors="surrogatepass"), digest_size=8).digest(), "little")


def _read_archives(store: storage.Folder, facts: Facts, names: list[str]) -> None:
    """Counts of all archives, distributions and rows to show from the first rows of some."""
    for name in names[:GALLERY_FILES]:
        table = first_rows(f"{store.url}/{name}", PREPARED_FIRST, _COLUMNS)
        _count(facts, table)
        chosen = _Smallest(GALLERY_PER_FILE)
        chosen.add(table)
        facts.rows_shown += [row | {"table": name} for row in chosen.rows()]
    facts.files, facts.files_read = len(names), min(len(names), GALLERY_FILES)
    counts = sum((counts_of(store, name) for name in names[:FILES]), Counter[str]())
    facts.rows = counts.pop("rows", 0) or facts.rows
    facts.modalities = counts or facts.modalities


def _read(store: storage.Folder, facts: Facts, names: list[str]) -> None:
    facts.files = len(names)
    for number, name in enumerate(names[:FILES]):
        facts.files_read += 1
        chosen = _Smallest(GALLERY_PER_FILE) if number < GALLERY_FILES else None
        for first, batch in enumerate(_batches(store, name)):
            _count(facts, batch)
            if chosen is not None and (first == 0 or facts.table != "prepared"):
                chosen.add(batch.slice(0, PREPARED_FIRST) if facts.table == "prepared" else batch)
        if chosen is not None:
            facts.rows_shown += [row | {"table": name} for row in chosen.rows()]


def _score_spreads(store: storage.Folder, facts: Facts) -> None:
    """How the scores of single captions are distributed."""
    if store.exists("evaluation/samples.parquet"):
        for batch in _batches(store, "evaluation/samples.parquet", tuple(SCORES)):
            for name, digits in SCORES.items():
                if name in batch.column_names:
                    _spread(facts.score_values, name, pc.round(batch.column(name), digits))


def _batches(store: storage.Folder, name: str, columns: tuple[str, ...] = _COLUMNS) -> Iterator[pa.Table]:
    filesystem, path = storage.resolve(f"{store.url}/{name}")
    with filesystem.open_input_file(path) as file:
        parquet = pq.ParquetFile(file)
        present = [column for column in columns if column in parquet.schema_arrow.names]
        for batch in parquet.iter_batches(65_536, columns=present):
            yield pa.Table.from_batches([batch])


class _Smallest:
    """The rows whose place has the smallest hash; results first, so that a gallery shows what there is to see."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._heap: list[tuple[int, int, int, dict[str, Any]]] = []
        self._seen = 0

    def add(self, table: pa.Table) -> None:
        """Takes rows of one shard."""
        index = table.column("index").to_numpy().astype(np.uint64)
        hashes = (index + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
        hashes ^= hashes >> np.uint64(29)
        if "status" in table.column_names:
            done = pc.is_in(table.column("status"), pa.array(["success", "truncated", "error"])).to_numpy(zero_copy_only=False)
            hashes = np.where(done, hashes >> np.uint64(1), hashes | np.uint64(1 << 63))
        for at in np.argsort(hashes, kind="stable")[: self._count].tolist():
            self._seen += 1
            entry = (-int(hashes[at]), -int(index[at]), -self._seen)  # of several captions of a sample the first
            if len(self._heap) < self._count:
                heapq.heappush(self._heap, (*entry, table.slice(at, 1).to_pylist()[0]))
            elif entry > self._heap[0][:3]:
                heapq.heapreplace(self._heap, (*entry, table.slice(at, 1).to_pylist()[0]))

    def rows(self) -> list[dict[str, Any]]:
        """In the order of the shard."""
        return [row for *_, row in sorted(self._heap, key=lambda entry: (-entry[1], -entry[2]))]


def _count(facts: Facts, table: pa.Table) -> None:
    facts.rows += table.num_rows
    for name, counter in (("status", facts.statuses), ("modality", facts.modalities), ("language", facts.languages)):
        _add(counter, table, name)
    if "flags" in table.column_names:
        _add(facts.flags, pa.table({"flags": pc.list_flatten(table.column("flags"))}), "flags")
    if "reason" in table.column_names:
        _add(facts.reasons, table, "reason")
    for title, column in (("Words a caption", "caption"), ("Words a reference", "text")):
        if column in table.column_names:
            _spread(facts.values, title, pc.add(pc.count_substring(pc.utf8_trim_whitespace(table.column(column)), " "), 1))
    for title, column, digits in (("Seconds", "duration_s", 1), ("Mean log-probability", "mean_logprob", 2), ("Tokens", "n_tokens", 0)):
        if column in table.column_names:
            _spread(facts.values, title, pc.round(pc.cast(table.column(column), pa.float64()), digits))


def _add(counter: Counter[str], table: pa.Table, name: str) -> None:
    if name in table.column_names:
        for entry in table.column(name).drop_null().value_counts().to_pylist():
            counter[str(entry["values"])] += entry["counts"]


def _spread(spreads: dict[str, Counter[float]], title: str, values: pa.ChunkedArray) -> None:
    known = spreads.setdefault(title, Counter())
    if pa.types.is_floating(values.type):
        values = values.filter(pc.is_finite(values))  # a model that diverged gives NaN
    for entry in values.drop_null().value_counts().to_pylist():
        if len(known) < 10_000 or entry["values"] in known:
            known[float(entry["values"])] += entry["counts"]
