"""What a training wrote while it went on, as a page shows it: curves by step, and what the model said at each validation.

A training that was killed and went on has steps twice, in the file of one run or in those of several: what came later counts.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from pipeline import storage
from pipeline.reports.charts import Curve, curves

COLUMNS = 6
"""Validations whose captions are shown: the first, the last, and some between."""
ROWS = 12
"""Of the tables that stand beside charts."""
LOSSES = ("Loss", "Loss in validation")
MEDIA = ("right", "shuffled", "absent")


@dataclass(slots=True)
class Training:
    """A training so far, over all runs of its folder."""

    steps: list[dict[str, Any]] = field(default_factory=list)
    """Records of kind `step`, by ascending step."""
    validations: list[dict[str, Any]] = field(default_factory=list)
    starts: list[dict[str, Any]] = field(default_factory=list)
    """One a start: the first, and one after each crash."""


def read_training(store: storage.Folder, run_id: str) -> Training:
    """All metrics of the folder's runs up to this one; lines that cannot be read are passed over."""
    found = Training()
    for blob in sorted(store.list("runs"), key=lambda blob: blob.path):
        run, _, name = blob.path.removeprefix("runs/").partition("/")
        if name == "metrics.jsonl" and run <= run_id:
            for line in store.get(blob.path).splitlines():
                _take(found, line)
    return found


def _take(found: Training, line: bytes) -> None:
    try:
        record = json.loads(line)
        kind, step = record["kind"], int(record["step"])
    except (ValueError, KeyError, TypeError):
        return  # the last line of a run that was killed
    if kind == "start":
        found.starts.append(record)
        for records in (found.steps, found.validations):
            records[:] = [one for one in records if one["step"] <= step]
    elif kind in ("step", "validation"):
        (found.steps if kind == "step" else found.validations).append(record)


def view(training: Training) -> dict[str, Any]:
    """What the template takes: charts as SVG with a table of the same figures, and captions by step."""
    steps, validations = training.steps, training.validations
    names = list(dict.fromkeys(name for record in [*steps, *validations] for name in record["loss"]))[:4]
    trained = [_curve(name, steps, "loss", name) for name in names]
    validated = [_curve(f"{name}, validation", validations, "loss", name, marked=True) for name in names]
    together = [[*trained, *validated]] if len(names) == 1 else [trained, validated]
    charts = [
        *(_chart(title, "of a target, by objective", lines, log=False) for title, lines in zip(LOSSES, together, strict=False)),
        _chart("Perplexity in validation", "with the right medium, another's, and none", _perplexities(validations), log=True),
        _chart("Learning rate", "", [_curve("learning rate", steps, "learning_rate")], log=False),
        _chart("Samples a second", "", [_curve("samples a second", steps, "samples_per_s")], log=False),
    ]
    return {
        "charts": [chart for chart in charts if chart["svg"]],
        "step": steps[-1]["step"] if steps else 0,
        "last": steps[-1] if steps else None,
        "best": next((one for one in reversed(validations) if one.get("best")), None),
        "restarts": max(0, len(training.starts) - 1),
        "origins": training.starts[-1].get("origins", []) if training.starts else [],
        "captions": captions_by_step(validations),
    }


def _perplexities(validations: Sequence[dict[str, Any]]) -> list[Curve]:
    return [_curve(name, validations, "perplexity", name, marked=True) for name in MEDIA] if validations else []


def _curve(title: str, records: Iterable[dict[str, Any]], *path: str, marked: bool = False) -> Curve:
    points: list[tuple[float, float]] = []
    for record in records:
        value: Any = record
        for name in path:
            value = value.get(name) if isinstance(value, dict) else None
        if isinstance(value, int | float):
            points.append((record["step"], float(value)))
    return Curve(title, [x for x, _ in points], [y for _, y in points], marked)


def _chart(title: str, note: str, lines: list[Curve], *, log: bool) -> dict[str, Any]:
    lines = [line for line in lines if len(line.x)]
    log = log and all(min(line.y) > 0 for line in lines)
    return {
        "title": title,
        "note": note,
        "svg": curves(lines, "step", log=log),
        "names": [line.name for line in lines],
        "label": "; ".join(f"{line.name} {line.y[0]:.4g} at step {line.x[0]:,}, {line.y[-1]:.4g} at step {line.x[-1]:,}" for line in lines),
        "rows": _rows(lines),
    }


def _rows(lines: Sequence[Curve]) -> list[tuple[int, list[float | None]]]:
    """(step, value by line) at some steps of the longest line."""
    known = [dict(zip(line.x, line.y, strict=True)) for line in lines]
    steps = sorted({step for values in known for step in values})
    return [(int(step), [values.get(step) for values in known]) for step in spread(steps, ROWS)]


def spread(values: Sequence[Any], most: int) -> list[Any]:
    """At most so many of the values, evenly, first and last included."""
    if len(values) <= most:
        return list(values)
    return [values[round(at * (len(values) - 1) / (most - 1))] for at in range(most)]


def table_of(shard: str) -> str:
    """The prepared table that a shard's rows stand in."""
    for extension in (".tar.gz", ".tgz", ".tar"):
        if shard.lower().endswith(extension):
            return f"prepared/{shard[: -len(extension)]}.parquet"
    return f"prepared/{shard}.parquet"


def captions_by_step(validations: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Steps, and rows of (shard, index, reference, captions by step) for the samples of the last validation."""
    shown = spread([one for one in validations if one.get("captions")], COLUMNS)
    if not shown:
        return {"steps": [], "rows": []}
    said = [{(one["shard"], one["index"]): one["caption"] for one in record["captions"]} for record in shown]
    rows = [
        {"shard": one["shard"], "index": int(one["index"]), "reference": one["reference"]}
        | {"captions": [captions.get((one["shard"], one["index"]), "") for captions in said]}
        for one in shown[-1]["captions"]
    ]
    return {"steps": [record["step"] for record in shown], "rows": rows}
