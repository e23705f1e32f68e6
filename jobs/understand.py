"""`nightcap evaluate CHECKPOINT --prepared DIR`: what a model understands, measured bundle by bundle, on Ray where there is more than one.

    prepared rows -> bundles -> examiners (a process each, with the model) -> a file a bundle -> figures with intervals

A bundle's file is its commit: after a crash the same command measures what is left. Of the corpus only labels and a few numbers
a sample are in memory.
"""

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from jobs.bundles import Bundle, bundles_of, columns_of, labels_of, stretches_of
from jobs.display import console
from jobs.evaluate import EvaluateConfig, score_tables
from jobs.examiner import Examiner, ExaminerSpec, part_path
from jobs.scoreboard import show_understanding
from jobs.understood import Results, caption_table, examples, measures, read_results, reference_table, result_of
from pipeline import storage
from pipeline.captions.weights import identity
from pipeline.commit.recipe import root_of
from pipeline.errors import RequestError
from pipeline.evaluation import references, tables
from pipeline.evaluation.labels import check_seen
from pipeline.model.folder import describe
from pipeline.samples.tokens import Tokenizer
from pipeline.training.corpus import Corpus, open_corpus
from pipeline.training.setup import tokenizer_of

FORMAT = 2
"""Of understanding.json."""
PARTS, CAPTIONS = "_parts", "captions/captions.parquet"
SHOWN = 12
"""Painted pictures that understanding.json keeps, for the page."""


@dataclass(frozen=True, slots=True)
class _Plan:
    """What is measured."""

    test: tuple[Bundle, ...]
    probe: tuple[Bundle, ...]
    classes: tuple[str, ...]
    paint: frozenset[tuple[str, int]]


def run(config: EvaluateConfig) -> int:
    """Measures, writes understanding.json and understood.parquet, prints. Returns the exit code. RequestError where nothing can be measured."""
    checkpoint = config.captions
    if not config.prepared:
        raise RequestError(f"{checkpoint} is a checkpoint: name the prepared data that it is measured on with --prepared DIR")
    store = storage.Folder(config.output or f"{checkpoint.rstrip('/')}/evaluation")
    problem = storage.writable(store.url)
    if problem is not None:
        raise RequestError(f"cannot write to {store.url}: {problem}; name another folder with --output")
    described = describe(checkpoint)
    plan = _plan(config, described.config.modalities, paints="masked_medium" in described.config.objectives)
    parts = storage.Folder(f"{store.url}/{PARTS}/{_fingerprint(config, plan)}")
    bundles = (*plan.test, *plan.probe)
    _measure(config, bundles, _spec(config, plan, parts.url))
    test = _results(parts, plan.test, config.prepared, described.config.modalities)
    probe = _results(parts, plan.probe, config.probe_prepared, described.config.modalities) if plan.probe else None
    table, ratios, plain = measures(test, probe, pool=config.retrieval_pool, seed=config.seed)
    named = {"format": FORMAT, "checkpoint": checkpoint, "prepared": config.prepared, "seed": config.seed, "samples": table.num_rows}
    shuffled = table.num_rows - table.column("logp_shuffled").null_count
    result = named | {"shuffled_samples": shuffled, **plain, **result_of(table, ratios, replicates=config.replicates, seed=config.seed)}
    result["painted"] = list(examples(table, SHOWN))
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    store.put("understood.parquet", sink.getvalue().to_pybytes())
    store.put("understanding.json", json.dumps(result, indent=1, ensure_ascii=False, allow_nan=False).encode())
    for blob in parts.list(""):
        parts.delete(blob.path)
    store.prune(PARTS)
    show_understanding(result)
    console.print(f"scores   {store.url}/understanding.json   samples {store.url}/understood.parquet", soft_wrap=True)
    if config.generate:
        _score_captions(config, test, store)
    return 0


def _results(parts: storage.Folder, bundles: Sequence[Bundle], prepared: str, modalities: Sequence[str]) -> Results:
    found = read_results(parts, [one.number for one in bundles])
    if found.table.num_rows == 0:
        raise RequestError(f"no sample of {prepared} has a text and a medium that the model takes ({', '.join(modalities)})")
    return found


def _score_captions(config: EvaluateConfig, test: Results, store: storage.Folder) -> None:
    """The model's captions, as a table that `nightcap evaluate` takes, and their scores."""
    sink = pa.BufferOutputStream()
    pq.write_table(caption_table(test), sink, compression="zstd")
    store.put(CAPTIONS, sink.getvalue().to_pybytes())
    given = references.load(config.references) if config.references else reference_table(test, "text")
    theirs = tables.find(config.against) if config.against else None
    console.print(f"Captions of {test.table.num_rows:,} samples, greedy", soft_wrap=True)
    score_tables(replace(config, workers=1), tables.find(f"{store.url}/{CAPTIONS}"), theirs, given, store)


def _plan(config: EvaluateConfig, modalities: Sequence[str], *, paints: bool) -> _Plan:
    corpus = _corpus(config.captions, config.prepared)
    stretches = stretches_of(corpus, config.limit, config.seed)
    labels: Sequence[str | None] = ()
    taught: Sequence[str | None] = ()
    classes: tuple[str, ...] = ()
    probe: tuple[Bundle, ...] = ()
    if config.labels:
        labels, classes = labels_of(stretches, config.labels, root_of(storage.Folder(config.prepared)))
    test = tuple(bundles_of(stretches, labels, 0, features_only=False))
    if config.probe_prepared:
        other = stretches_of(_corpus(config.captions, config.probe_prepared), 0, config.seed)
        taught, learned = labels_of(other, config.probe_labels or config.labels, root_of(storage.Folder(config.probe_prepared)))
        check_seen(classes, learned, config.probe_prepared)
        probe = tuple(bundles_of(other, taught, len(test), features_only=True))
    paint: list[tuple[str, int]] = []
    for one in stretches if paints and "image" in modalities else ():
        if len(paint) < config.paint:
            rows = columns_of(one, ["shard", "index", "modality"])
            paint += [(row["shard"], row["index"]) for row in rows if row["modality"] == "image"]
    return _Plan(test, probe, classes, frozenset(paint[: config.paint]))


def _corpus(checkpoint: str, prepared: str) -> Corpus:
    """The corpus. RequestError where its texts went through another tokenizer than the model's."""
    corpus = open_corpus(prepared)
    if tokenizer_of(prepared).identity() != Tokenizer.load(checkpoint).identity():
        raise RequestError(
            f"{prepared} was prepared with another tokenizer than the model's; run nightcap prepare with --tokenizer {checkpoint}"
        )
    return corpus


def _fingerprint(config: EvaluateConfig, plan: _Plan) -> str:
    """Of everything that decides the bundles' results."""
    stretches = [
        (one.number, [(s.file.url, s.file.rows, s.first, s.last) for s in one.stretches], one.labels) for one in (*plan.test, *plan.probe)
    ]
    decides = [
        FORMAT,
        identity(Path(config.captions)),
        stretches,
        plan.classes,
        config.class_text,
        sorted(plan.paint),
        config.generate,
        config.seed,
    ]
    return hashlib.sha256(json.dumps(decides, default=str).encode()).hexdigest()[:16]


def _spec(config: EvaluateConfig, plan: _Plan, output: str) -> ExaminerSpec:
    local = storage.resolve(output)[1] if storage.is_local(output) else output
    return ExaminerSpec(
        checkpoint=os.path.abspath(config.captions),
        output=local,
        classes=plan.classes,
        class_text=config.class_text,
        paint=plan.paint,
        generate=config.generate,
        seed=config.seed,
        threads=0,
    )


def _measure(config: EvaluateConfig, bundles: Sequence[Bundle], spec: ExaminerSpec) -> None:
    """All bundles that are not measured yet; here if one process is enough, else by actors on Ray."""
    there = {blob.path.lstrip("/") for blob in storage.Folder(spec.output).list("")}
    left = [one for one in bundles if part_path(one.number) not in there]
    if len(left) < len(bundles):
        console.print(f"{len(bundles) - len(left):,} of {len(bundles):,} bundles are measured; going on with the others")
    elsewhere = config.address or os.environ.get("RAY_ADDRESS")
    if not elsewhere and (config.workers == 1 or len(left) < 2):
        examiner = Examiner(spec) if left else None
        for one in left:
            assert examiner is not None
            examiner.measure(one)
        return
    from jobs.cluster import gpus, session
    from jobs.each import over_actors

    with session(config.address, verbose=config.verbose):
        import ray

        devices, cpus = gpus(), int(ray.cluster_resources().get("CPU", 1))
        most = devices or (cpus if elsewhere else os.cpu_count() or 1)
        workers = min(config.workers or max(1, devices or most // 2), len(left))
        threads = 0 if devices or elsewhere else max(1, (os.cpu_count() or 1) // workers)
        told = replace(spec, threads=threads)
        for done, _ in enumerate(over_actors(Examiner, (told,), "measure", left, workers=workers, gpus=1 if devices else 0), 1):
            if done % 50 == 0:
                console.print(f"{done:,} of {len(left):,} bundles measured")
