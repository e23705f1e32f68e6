"""`nightcap evaluate`: caption tables and their references in, scores with intervals out.

    pass 1: document frequencies -> pass 2: statistics a sample (processes) -> bootstrap, samples.parquet, scores.json

No Ray: a million captions take minutes on one machine, and the figures need one place to be added up.
"""

import json
import multiprocessing
import os
import tempfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import pyarrow as pa
import pyarrow.parquet as pq
from cyclopts import Parameter

from jobs.display import console
from jobs.scoreboard import show
from pipeline import schema, storage
from pipeline.errors import RequestError
from pipeline.evaluation import normalise, references, tables
from pipeline.evaluation.score import Map, ScoreConfig, score
from pipeline.evaluation.summary import summary

POOL_FROM_BYTES = 8 << 20
"""Size of the tables from which processes pay off: each takes about 3 s to start."""
AHEAD = 3
"""Pieces in flight a process: bounds memory."""


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluateConfig:
    """Options of `nightcap evaluate`."""

    captions: Annotated[str, Parameter(negative=())] = field(kw_only=False)
    """Output folder of nightcap caption, a folder of caption tables, or one table; or a checkpoint, with --prepared."""
    prepared: str = ""
    """For a checkpoint: output folder of nightcap prepare, of samples that it was not trained on."""
    limit: int = 2000
    """For a checkpoint: samples measured, drawn by hash; 0 is all."""
    labels: str = ""
    """For a checkpoint: classes of the samples. A table (CSV, JSON, JSON lines, Parquet) with key, or shard and index, and label;
    column:NAME of the prepared tables; or json:NAME of the JSON that came with the samples. Classified by probe and zero-shot."""
    class_text: str = "{label}"
    """For a checkpoint: the text that stands for a class in zero-shot classification; {label} is its name."""
    probe_prepared: str = ""
    """For a checkpoint: another prepared folder that the linear probe learns from; without it five-fold on the same samples."""
    probe_labels: str = ""
    """For a checkpoint: classes of --probe-prepared, where --labels does not name them."""
    generate: bool = True
    """For a checkpoint: also caption every sample (greedy), and score the captions as those of nightcap caption are."""
    retrieval_pool: int = 5000
    """For a checkpoint: samples that retrieval searches among, drawn by hash; recall falls as it grows."""
    paint: int = 64
    """For a checkpoint that has a head for hidden patches of pictures: texts that pictures are made from; 0 is none."""
    references: str = ""
    """File with references, several a sample if there are: JSON {key: [texts]} or COCO's annotations, or JSON lines, CSV or
    Parquet with key (or shard and index) and text or references. Samples it does not name keep the text they came with."""
    against: str = ""
    """Another run over the same archives: paired comparison, on the samples that both have."""
    output: Annotated[str, Parameter(alias="-o")] = ""
    """Folder for scores.json and samples.parquet; empty is `evaluation` in the captions' folder."""
    normaliser: str = normalise.AUTO
    """What WER, CER, exact match and F1 compare by: english (Whisper's), neutral, or auto: english for captions marked en."""
    by: str = ""
    """Score that ranks single samples, such as cider_d or wer; empty is wer for recordings, cider_d otherwise."""
    replicates: int = 1000
    """Bootstrap replicates for the intervals; 0 is none. Time grows with it: 1,000 cost about 20 s a million samples."""
    seed: int = 0
    """Of the bootstrap."""
    workers: int = 0
    """Processes; 0 is one a CPU for large tables, none for small ones; of a checkpoint one a GPU, or for two CPUs."""
    changed: int = 10
    """Samples shown that changed most, each way, with --against."""
    address: str = ""
    """For a checkpoint: Ray cluster; without it RAY_ADDRESS, else a Ray on this machine."""
    verbose: bool = False
    """Show Ray's own messages."""

    def __post_init__(self) -> None:
        normalise.check(self.normaliser)
        score_config(self)
        if self.limit < 0 or self.limit == 1:
            raise RequestError(f"--limit {self.limit}: a checkpoint is measured on 2 samples or more; 0 is all")
        if self.retrieval_pool < 2 or self.paint < 0:
            raise RequestError(f"--retrieval-pool {self.retrieval_pool} needs 2 or more, --paint {self.paint} 0 or more")
        if "{label}" not in self.class_text:
            raise RequestError(f"--class-text {self.class_text!r} does not hold {{label}}, where the name of a class goes")
        if self.probe_prepared and not self.labels:
            raise RequestError("--probe-prepared goes with --labels, which say what a probe is to tell apart")
        if self.workers < 0 or self.changed < 0:
            raise RequestError(f"--workers {self.workers} and --changed {self.changed} cannot be negative")


def score_config(config: EvaluateConfig) -> ScoreConfig:
    """The part that decides the figures."""
    return ScoreConfig(normaliser=config.normaliser, replicates=config.replicates, seed=config.seed, by=config.by)


def run(config: EvaluateConfig) -> int:
    """Scores, writes, prints. Returns the exit code."""
    if os.path.isfile(os.path.join(config.captions, "model.safetensors")):
        from jobs import understand

        return understand.run(config)
    if config.prepared:
        raise RequestError(
            f"--prepared goes with a checkpoint, and {config.captions} holds no model.safetensors; name the folder that nightcap train wrote"
        )
    ours = tables.find(config.captions)
    theirs = tables.find(config.against) if config.against else None
    given = references.load(config.references) if config.references else None
    store = storage.Folder(config.output or _beside(config.captions))
    problem = storage.writable(store.url)
    if problem is not None:
        raise RequestError(f"cannot write to {store.url}: {problem}; name another folder with --output")
    score_tables(config, ours, theirs, given, store)
    return 0


def score_tables(
    config: EvaluateConfig, ours: tables.Tables, theirs: tables.Tables | None, given: references.References | None, store: storage.Folder
) -> None:
    """Scores caption tables, writes scores.json and samples.parquet, prints."""
    coverage = tables.Coverage()
    passes = iter((tables.Coverage(), coverage))
    with tempfile.TemporaryDirectory(prefix="nightcap-") as folder, _mapper(config, ours) as mapper, _samples(store) as take:
        found = score(lambda: _pieces(ours, theirs, given, next(passes)), score_config(config), Path(folder), mapper, take)
    result = {"captions": config.captions, "references": config.references or None, **summary(found, coverage, score_config(config))}
    if theirs is not None:
        result["against"]["captions"] = config.against
    store.put("scores.json", json.dumps(result, indent=1, ensure_ascii=False, allow_nan=False).encode())
    show(result, changed=config.changed)
    console.print(f"scores   {store.url}/scores.json   samples {store.url}/samples.parquet", soft_wrap=True)


def _beside(captions: str) -> str:
    folder = captions.rstrip("/")
    if folder.endswith(".parquet"):
        folder = folder.rpartition("/")[0] or "."
    return f"{folder.removesuffix('/captions')}/evaluation"


def _pieces(
    ours: tables.Tables, theirs: tables.Tables | None, given: references.References | None, coverage: tables.Coverage
) -> Iterator[pa.Table]:
    """The pieces of one pass. RequestError at its end where nothing of them can be scored."""
    scored = False
    for piece in tables.pieces(ours, theirs, given, coverage):
        scored = scored or any(all(one is not None for one in row) for row in piece.column("captions").to_pylist())
        yield piece
    if not scored:
        raise RequestError(_nothing(ours, given, coverage))


def _nothing(ours: tables.Tables, given: references.References | None, coverage: tables.Coverage) -> str:
    if coverage.rows == 0:
        return f"{ours.url} holds no rows: there is nothing to score"
    if coverage.rows == coverage.without_reference and given is not None:
        first = next(iter(next(ours.rows(ours.names[0]), [])), {})
        return (
            f"{given.path} names none of the {coverage.rows:,} samples ({given.example!r} there, {first.get('key')!r} here), and no text came "
            "with them: are these references of another corpus?"
        )
    if coverage.rows == coverage.without_reference:
        return f"none of the {coverage.rows:,} rows has a reference: no text came with the samples; give one with --references FILE"
    if coverage.only_here:
        return f"the two runs have no scored sample in common ({coverage.only_here:,} rows are only in {ours.url}); compare runs over the same archives"
    return f"none of the {coverage.without_caption:,} rows with a reference has a caption ({_statuses(coverage.statuses)}); nothing can be scored"


def _statuses(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in counts.items())


@contextmanager
def _mapper(config: EvaluateConfig, ours: tables.Tables) -> Iterator[Map]:
    """`map` here, or over processes."""
    size = sum(blob.size for blob in storage.walk(ours.url)) if not config.workers else 0
    workers = config.workers or (os.cpu_count() or 1 if size >= POOL_FROM_BYTES else 1)
    if workers == 1:
        yield map
        return
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:

        def mapped(work: Callable[[Any], Any], pieces: Iterable[Any]) -> Iterator[Any]:
            waiting: deque[Future[Any]] = deque()
            for piece in pieces:
                waiting.append(pool.submit(work, piece))
                if len(waiting) >= AHEAD * workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()

        yield mapped


@contextmanager
def _samples(store: storage.Folder) -> Iterator[Callable[[pa.Table], None]]:
    """Takes tables of schema.SCORES into samples.parquet, which appears when the block ends well."""
    with (
        store.create("samples.parquet") as draft,
        pq.ParquetWriter(pa.PythonFile(_Sink(draft), "w"), schema.SCORES, compression="zstd") as writer,
    ):
        yield writer.write_table


class _Sink:
    """A draft as the kind of file that pyarrow writes to."""

    closed = False

    def __init__(self, draft: storage.Draft) -> None:
        self._draft = draft

    def write(self, data: bytes) -> int:
        self._draft.write(data)
        return len(data)

    def tell(self) -> int:
        return self._draft.size

    def flush(self) -> None:
        """Nothing is held back."""

    def close(self) -> None:
        """The draft closes itself."""
