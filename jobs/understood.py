"""Results of examiners -> figures with intervals, and one row a sample. Memory: a few numbers a sample, features of the pool only."""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from jobs.examiner import READINGS, part_path
from pipeline import schema, storage
from pipeline.errors import RequestError, StoppedError
from pipeline.evaluation import understanding
from pipeline.evaluation.figures import Ratio, bits_of, figures, mean_of, perplexity_of
from pipeline.evaluation.labels import rare
from pipeline.evaluation.references import References

MEDIA = ("right", "shuffled", "absent")
PROBE_MOST = 50_000
"""Samples that a probe learns from and is tested on: of more, the first; 1.5 KB each."""
PLAIN = [name for name in schema.UNDERSTOOD.names if name in schema.MEASURED.names]


@dataclass(slots=True)
class Results:
    """What was measured, in the order of the corpus."""

    table: pa.Table
    """schema.UNDERSTOOD, but for what is filled in here."""
    captions: pa.Table
    """caption, cut and references of each row."""
    vectors: dict[str, np.ndarray] = field(default_factory=dict)
    """Of the first PROBE_MOST samples, by name; without those that the model does not make."""


def read_results(store: storage.Folder, numbers: Sequence[int]) -> Results:
    """The files of bundles. RequestError where no sample could be measured."""
    tables, captions, vectors, left = [], [], dict[str, list[np.ndarray]](), PROBE_MOST
    for number in numbers:
        try:
            table = pq.read_table(pa.BufferReader(store.get(part_path(number))), schema=schema.MEASURED)
        except FileNotFoundError as exc:
            raise StoppedError(
                f"{store.url}/{part_path(number)} is gone: another evaluation of the same ended meanwhile; its figures stand in "
                "understanding.json, or run the same command again"
            ) from exc
        tables.append(table.select(PLAIN))
        captions.append(table.select(["caption", "cut", "references"]))
        taken = table.slice(0, max(0, left))
        left -= taken.num_rows
        for name in ("media", "words", "common_media", "common_texts"):
            column = taken.column(name).combine_chunks()
            if len(column) and column.null_count == 0:
                vectors.setdefault(name, []).append(column.flatten().to_numpy().reshape(len(column), -1))
    return Results(pa.concat_tables(tables), pa.concat_tables(captions), {name: np.concatenate(parts) for name, parts in vectors.items()})


def measures(test: Results, probe: Results | None, *, pool: int, seed: int) -> tuple[pa.Table, dict[str, Ratio], dict[str, Any]]:
    """The table with everything filled in, the ratios to make figures of, and what is no ratio."""
    table, plain = test.table, dict[str, Any]()
    ratios = _probability(table)
    columns: dict[str, list[Any]] = {name: [None] * table.num_rows for name in schema.UNDERSTOOD.names if name not in PLAIN}
    labels = table.column("label").to_pylist()
    if any(label is not None for label in labels):
        plain["classification"] = _classify(test, probe, labels, columns, ratios, seed)
    if "common_media" in test.vectors:
        plain["retrieval"] = _retrieve(test, columns, ratios, pool)
    painted = [row for row in table.column("painted").to_pylist() if row is not None]
    if painted:
        ratios |= _painting(table)
    for name, values in columns.items():
        table = table.append_column(name, pa.array(values, schema.UNDERSTOOD.field(name).type))
    return table.select(schema.UNDERSTOOD.names), ratios, plain


def _probability(table: pa.Table) -> dict[str, Ratio]:
    logp = {name: table.column(f"logp_{name}").to_numpy() for name in MEDIA}
    tokens, n_bytes, unknown = (table.column(name).to_numpy() for name in ("n_tokens", "n_bytes", "n_unknown"))
    shuffled = table.column("logp_shuffled").is_valid().to_numpy()
    ratios: dict[str, Ratio] = {}
    for name in MEDIA:
        taken = shuffled if name == "shuffled" else np.ones(len(tokens), bool)
        ratios[f"perplexity.{name}"] = perplexity_of(logp[name], tokens * taken)
        ratios[f"bits_per_byte.{name}"] = bits_of(logp[name], n_bytes * taken)
        ratios[f"unknown_share.{name}"] = Ratio(unknown * taken, tokens * taken)
    for name in MEDIA[1:]:
        ours, theirs = logp["right"], logp[name]
        won = (ours > theirs) + 0.5 * (ours == theirs)
        ratios[f"pair_accuracy.{name}"] = mean_of(np.where(shuffled | (name != "shuffled"), won, np.nan))
    return ratios


def _classify(
    test: Results, probe: Results | None, labels: Sequence[str | None], columns: dict[str, list[Any]], ratios: dict[str, Ratio], seed: int
) -> dict[str, Any]:
    """Adds predictions and their ratios; gives the numbers of what was classified."""
    known = Counter(label for label in labels if label is not None)
    most = known.most_common(1)[0][0]
    ratios["majority"] = mean_of(np.array([np.nan if label is None else float(label == most) for label in labels]))
    for side, vector in (("medium", "media"), ("text", "words")):
        predicted = _probed(test, probe, labels, vector, seed)
        columns[f"probe_{side}"] = predicted
        ratios[f"{side}.probe"] = _hits(predicted, labels)
        readings = test.table.column(f"zero_shot_{side}").to_pylist()
        for name in READINGS:
            ratios[f"{side}.{name}"] = _hits([None if row is None else row[name] for row in readings], labels)
    skipped = {"without_label": sum(label is None for label in labels), "alone": sorted(rare(labels)) if probe is None else []}
    return {"classes": len(known), "samples": sum(known.values()), "majority": most, **skipped}


def _hits(predicted: Sequence[str | None], labels: Sequence[str | None]) -> Ratio:
    pairs = zip(predicted, labels, strict=True)
    return mean_of(np.array([np.nan if one is None or label is None else float(one == label) for one, label in pairs]))


def _probed(test: Results, probe: Results | None, labels: Sequence[str | None], vector: str, seed: int) -> list[str | None]:
    """The class that a linear probe gives each sample: fitted on other samples of the same corpus, or on another corpus."""
    out: list[str | None] = [None] * len(labels)
    features = test.vectors[vector]
    if probe is None:
        alone = rare(labels[: len(features)])
        rows = [at for at in range(len(features)) if labels[at] is not None and labels[at] not in alone]
        given = [str(labels[at]) for at in rows]
        if len(set(given)) < 2:
            return out
        predicted: Sequence[str] = understanding.cross_validated(features[rows], given, seed=seed)
    else:
        taught = [(at, label) for at, label in enumerate(probe.table.column("label").to_pylist()[:PROBE_MOST]) if label is not None]
        rows = [at for at in range(len(features)) if labels[at] is not None]
        learned = understanding.fit_probe(probe.vectors[vector][[at for at, _ in taught]], [label for _, label in taught])
        predicted = learned.predict(features[rows])
    for at, name in zip(rows, predicted, strict=True):
        out[at] = name
    return out


def _retrieve(test: Results, columns: dict[str, list[Any]], ratios: dict[str, Ratio], pool: int) -> dict[str, Any]:
    """Adds ranks and recalls among the pool; gives its size and the median ranks."""
    count = len(test.vectors["common_media"])
    places = zip(test.table.column("shard").to_pylist()[:count], test.table.column("index").to_pylist()[:count], strict=True)
    order = sorted(range(count), key=lambda at, known=list(places): hashlib.blake2b(repr(known[at]).encode()).digest())  # type: ignore[misc]
    rows = np.sort(np.array(order[:pool]))
    texts = test.table.column("text").take(rows).to_pylist()
    codes: dict[str, int] = {}
    labels = np.array([codes.setdefault(text, len(codes)) for text in texts])
    media, words = test.vectors["common_media"][rows], test.vectors["common_texts"][rows]
    found = {
        "rank_of_text": understanding.ranks(media, words, labels, labels),
        "rank_of_medium": understanding.ranks(words, media, labels, labels),
    }
    for name, way in (("rank_of_text", "medium_to_text"), ("rank_of_medium", "text_to_medium")):
        ranks = np.full(test.table.num_rows, np.nan)
        ranks[rows] = found[name]
        for at, rank in zip(rows.tolist(), found[name].tolist(), strict=True):
            columns[name][at] = rank
        for k in (1, 5, 10):
            ratios[f"{way}.recall_{k}"] = mean_of(np.where(np.isnan(ranks), np.nan, ranks <= k))
    return {"pool": len(rows)} | {f"median_{name}": float(np.median(values)) for name, values in found.items()}


def _painting(table: pa.Table) -> dict[str, Ratio]:
    rows = table.column("painted").to_pylist()

    def of(take: Callable[[dict[str, Any]], Any]) -> Ratio:
        values = [None if row is None else take(row) for row in rows]
        return mean_of(np.array([np.nan if value is None else float(value) for value in values]))

    ratios = {f"painted.{name}": of(itemgetter(name)) for name in ("psnr", "psnr_shuffled", "psnr_flat")}
    ratios["painted.named"] = of(lambda row: row["caption"] == row["reference"])
    ratios["painted.real_named"] = of(lambda row: row["caption_of_real"] == row["reference"])
    return ratios


def result_of(table: pa.Table, ratios: dict[str, Ratio], *, replicates: int, seed: int) -> dict[str, Any]:
    """Figures of all samples, by name, and of buckets by modality and label."""
    if table.num_rows == 0:
        raise RequestError("no sample was measured")
    modalities = [value or "none" for value in table.column("modality").to_pylist()]
    labels = [value or "none" for value in table.column("label").to_pylist()]
    buckets = {name: values for name, values in (("modality", modalities), ("label", labels)) if len(set(values)) > 1}
    found = figures(ratios, buckets, replicates=replicates, seed=seed)
    whole, *_ = found.values()
    nested: dict[str, dict[str, Any]] = {}
    for (dimension, bucket), values in list(found.items())[1:]:
        nested.setdefault(dimension, {})[bucket] = values
    return {"figures": whole, "buckets": nested}


def caption_table(results: Results) -> pa.Table:
    """The model's captions as a table of schema.CAPTIONS."""
    rows = []
    places = results.table.select(["shard", "index", "modality", "text"]).to_pylist()
    for place, said in zip(places, results.captions.to_pylist(), strict=True):
        status = schema.TRUNCATED if said["cut"] else schema.SUCCESS
        reference = said["references"][0] if said["references"] else place["text"]
        fixed = {"text": reference, "caption": said["caption"], "caption_index": 0, "status": status, "flags": []}
        rows.append(dict.fromkeys(schema.CAPTIONS.names) | place | fixed)
    return pa.Table.from_pylist(rows, schema.CAPTIONS)


def reference_table(results: Results, where: str) -> References:
    """All texts of each sample."""
    found = References(where)
    places = zip(results.table.column("shard").to_pylist(), results.table.column("index").to_pylist(), strict=True)
    for place, texts in zip(places, results.captions.column("references").to_pylist(), strict=True):
        found.by_place[place] = texts
    return found


def examples(table: pa.Table, most: int) -> Iterator[dict[str, Any]]:
    """Painted pictures for a page."""
    rows = [row for row in table.column("painted").to_pylist() if row is not None]
    yield from rows[:most]
