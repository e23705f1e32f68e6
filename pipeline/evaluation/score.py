"""Scores of whole caption tables in two passes, in bounded memory.

pass 1 counts in how many samples each n-gram occurs and how many different ones the captions have; pass 2 makes the
statistics of each sample, adds them to the bootstrap, and hands on one row a caption. Both map pure functions over pieces
(`tables.SCORED`), so that a pool of processes can do the work: the order of results is that of the pieces.
"""

import heapq
import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline import schema
from pipeline.errors import RequestError
from pipeline.evaluation.cider import document_grams
from pipeline.evaluation.generation import AT, BETTER_LOW, Pairs, scores, statistics
from pipeline.evaluation.intervals import Bootstrap, Sums
from pipeline.evaluation.ngrams import Frequencies, Spill, Stored, grams_of, save
from pipeline.evaluation.normalise import AUTO, words_of
from pipeline.evaluation.tokens import hashed

Pieces = Callable[[], Iterator[pa.Table]]
"""Starts a pass over tables of `tables.SCORED`."""
Map = Callable[[Callable[[Any], Any], Iterable[Any]], Iterator[Any]]
"""As the built-in `map` with one iterable: in order, and lazily."""

LENGTHS = ((1, "0"), (5, "1-4"), (10, "5-9"), (20, "10-19"), (50, "20-49"))
LANGUAGES = 10
"""Languages with a bucket of their own; the others share one."""
SAMPLE_SCORES = ("chrf", "cider_d", "rouge_l", "exact_match", "token_f1", "wer", "cer")


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoreConfig:
    """What decides the figures."""

    normaliser: str = AUTO
    """auto, english or neutral; for WER, CER, exact match and F1."""
    replicates: int = 1000
    """Bootstrap replicates; 0 for no intervals."""
    seed: int = 0
    """Of the bootstrap."""
    by: str = ""
    """The score that says which samples are best, worst and changed most; empty is wer for recordings, cider_d else."""
    extremes: int = 20
    """How many of them are kept."""

    def __post_init__(self) -> None:
        if self.by and self.by not in SAMPLE_SCORES:
            raise RequestError(f"--by {self.by} is no score of single samples; choose one of {', '.join(SAMPLE_SCORES)}")
        if self.replicates < 0:
            raise RequestError(f"--replicates {self.replicates} cannot be negative; 0 is no intervals")


@dataclass(slots=True)
class Scored:
    """What two passes found."""

    samples: int
    by: str
    sums: dict[tuple[str, str], Sums]
    """Summed statistics by (dimension, bucket)."""
    distinct: list[dict[str, float]]
    """Of each system: distinct_1 and distinct_2, the share of n-grams of all its captions that are different ones."""
    worst: list[dict[str, Any]] = field(default_factory=list)
    best: list[dict[str, Any]] = field(default_factory=list)
    """Rows of schema.SCORES."""
    improved: list[dict[str, Any]] = field(default_factory=list)
    declined: list[dict[str, Any]] = field(default_factory=list)
    """Rows where the first system is better, or worse, than the other by most."""


@dataclass(frozen=True, slots=True)
class _First:
    """What pass 1 takes from a piece."""

    documents: np.ndarray
    captions: list[list[np.ndarray]]
    """n-grams of the captions, by system and order."""
    scored: int
    references: int
    languages: Counter[str]
    modalities: Counter[str]


def score(
    pieces: Pieces, config: ScoreConfig, folder: Path, map_pieces: Map = map, take: Callable[[pa.Table], None] | None = None
) -> Scored:
    """Both passes. `folder` is for temporary files; `take` gets tables of schema.SCORES. RequestError where nothing can be scored."""
    frequencies, counted, distinct = _count(pieces(), folder, map_pieces)
    by = config.by or ("wer" if 2 * counted.modalities["audio"] > counted.scored else "cider_d")
    task = _Task(save(frequencies, folder), config.normaliser, frozenset(name for name, _ in counted.languages.most_common(LANGUAGES)))
    bootstrap = Bootstrap(counted.scored, config.replicates, config.seed)
    found = Scored(counted.scored, by, {}, distinct)
    extremes = _Extremes(by, config.extremes)
    for table, sums, buckets in map_pieces(task, pieces()):
        bootstrap.add(sums, buckets)
        extremes.add(table)
        if take is not None:
            take(table)
    found.sums = bootstrap.sums()
    extremes.into(found)
    return found


def _count(pieces: Iterator[pa.Table], folder: Path, map_pieces: Map) -> tuple[Frequencies, _First, list[dict[str, float]]]:
    total = _First(np.empty(0, np.uint64), [], 0, 0, Counter(), Counter())
    scored = samples = 0
    with Spill(folder, "documents") as documents:
        spills: list[list[Spill]] = []
        try:
            for first in map_pieces(_first_pass, pieces):
                documents.add(first.documents)
                scored, samples = scored + first.scored, samples + first.references
                total.languages.update(first.languages)
                total.modalities.update(first.modalities)
                while len(spills) < len(first.captions):
                    spills.append([Spill(folder, f"captions-{len(spills)}-{order}") for order in (1, 2)])
                for spill, grams in zip(itertools.chain(*spills), itertools.chain(*first.captions), strict=True):
                    spill.add(grams)
            grams, counts, _ = documents.counted(2)
            distinct = [{f"distinct_{order}": _share(spill) for order, spill in enumerate(orders, 1)} for orders in spills]
        finally:
            for spill in itertools.chain(*spills):
                spill.close()
    return Frequencies(grams, counts, samples), _First(total.documents, [], scored, samples, total.languages, total.modalities), distinct


def _share(spill: Spill) -> float:
    _, _, distinct = spill.counted(1 << 31)
    return distinct / spill.total if spill.total else float("nan")


def _first_pass(piece: pa.Table) -> _First:
    rows = piece.to_pylist()
    samples = [group[0] for group in _samples(rows)]
    scored = [row for group in _scored(rows) for row in group]
    captions = []
    for system in range(len(rows[0]["captions"]) if rows else 0):
        grams = grams_of([hashed(words_of(row["captions"][system], row["language"])) for row in scored], 2)
        captions.append([grams.gram[grams.order == order] for order in (1, 2)])
    return _First(
        document_grams([[hashed(words_of(one, row["language"])) for one in row["references"]] for row in samples]),
        captions,
        sum(1 for _ in _scored(rows)),
        len(samples),
        Counter(row["language"] or "unknown" for row in scored),
        Counter(row["modality"] or "none" for row in scored),
    )


def _samples(rows: list[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """Rows by sample, in order."""
    return [list(group) for _, group in itertools.groupby(rows, lambda row: (row["shard"], row["index"]))]


def _scored(rows: list[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """The samples of `rows` with those of their captions that every system has."""
    full = [[row for row in group if all(caption is not None for caption in row["captions"])] for group in _samples(rows)]
    return [group for group in full if group]


@dataclass(frozen=True, slots=True)
class _Task:
    """Pass 2 of a piece: a table of schema.SCORES, (systems, samples, columns) sums, and each sample's buckets."""

    frequencies: Stored
    normaliser: str
    languages: frozenset[str]

    def __call__(self, piece: pa.Table) -> tuple[pa.Table, np.ndarray, dict[str, list[str]]]:
        groups = _scored(piece.to_pylist())
        rows = [row for group in groups for row in group]
        systems = len(rows[0]["captions"]) if rows else 1
        languages = [row["language"] for row in rows]
        references = [row["references"] for row in rows]
        known = self.frequencies.load()
        pairs = [Pairs([row["captions"][system] for row in rows], references, languages) for system in range(systems)]
        found = np.stack([statistics(side, known, self.normaliser) for side in pairs])
        table = _table(rows, found)
        starts = np.cumsum([0, *(len(group) for group in groups)])[:-1]
        sums = np.add.reduceat(found, starts, axis=1) if rows else found
        return table, sums, self._buckets([group[0] for group in groups], found[0, starts, AT["reference_words"]] if rows else [])

    def _buckets(self, firsts: list[dict[str, Any]], lengths: Iterable[float]) -> dict[str, list[str]]:
        known = [row["language"] or "unknown" for row in firsts]
        return {
            "modality": [row["modality"] or "none" for row in firsts],
            "language": [name if name in self.languages else "other" for name in known],
            "reference words": [length_bucket(length) for length in lengths],
            "reference source": [row["source"] for row in firsts],
        }


def length_bucket(words: float) -> str:
    """The name of the bucket of a reference's length."""
    return next((name for below, name in LENGTHS if words < below), "50+")


def _table(rows: list[dict[str, Any]], found: np.ndarray) -> pa.Table:
    values = [{name: series.tolist() for name, series in scores(system).items() if name in SAMPLE_SCORES} for system in found]
    out = []
    for at, row in enumerate(rows):
        line = {name: row[name] for name in ("key", "shard", "index", "caption_index", "modality", "language", "source", "references")}
        line |= {"caption": row["captions"][0], "against": None, **_known(values[0], at)}
        if len(values) > 1:
            line["against"] = {"caption": row["captions"][1], **_known(values[1], at)}
        out.append(line)
    return pa.Table.from_pylist(out, schema.SCORES)


def _known(values: dict[str, list[float]], at: int) -> dict[str, float | None]:
    return {name: None if np.isnan(series[at]) else series[at] for name, series in values.items()}


def _floats(column: pa.ChunkedArray) -> np.ndarray:
    return np.asarray(column.to_numpy(), np.float64)


_Entry = tuple[float, int, dict[str, Any]]
"""Worth, minus the row's number (so that of equals the first stays), and the row."""


class _Extremes:
    """The rows at both ends, by a score of the first system and by its distance from the other. Ties go by place."""

    def __init__(self, by: str, count: int) -> None:
        self._by, self._count = by, count
        self._sign = -1.0 if by in BETTER_LOW else 1.0
        self._best: list[_Entry] = []
        self._worst: list[_Entry] = []
        self._improved: list[_Entry] = []
        self._declined: list[_Entry] = []
        self._seen = 0

    def add(self, table: pa.Table) -> None:
        """Takes rows of schema.SCORES."""
        values = _floats(table.column(self._by))
        self._push(self._best, self._sign * values, table)
        self._push(self._worst, -self._sign * values, table)
        if table.column("against").null_count < table.num_rows:
            other = _floats(pc.struct_field(table.column("against"), self._by))
            change = self._sign * (values - other)
            self._push(self._improved, np.where(change > 0, change, np.nan), table)
            self._push(self._declined, np.where(change < 0, -change, np.nan), table)
        self._seen += table.num_rows

    def _push(self, heap: list[_Entry], worths: np.ndarray, table: pa.Table) -> None:
        """Keeps those that are worth most; NaN is worth nothing. Only rows that are kept become Python objects."""
        known = np.flatnonzero(np.isfinite(worths))
        for at in known[np.argsort(-worths[known], kind="stable")][: self._count].tolist():
            entry = (float(worths[at]), -(self._seen + at))
            if len(heap) < self._count:
                heapq.heappush(heap, (*entry, table.slice(at, 1).to_pylist()[0]))
            elif heap and entry > heap[0][:2]:
                heapq.heapreplace(heap, (*entry, table.slice(at, 1).to_pylist()[0]))

    def into(self, found: Scored) -> None:
        """Hands the rows over, the most extreme first."""
        for name in ("best", "worst", "improved", "declined"):
            heap: list[_Entry] = getattr(self, f"_{name}")
            setattr(found, name, [row for _, _, row in sorted(heap, key=lambda entry: entry[:2], reverse=True)])
