"""Classes of samples, from a table, a column of the prepared rows, or the samples' own JSON.

labels.csv, .tsv, .jsonl, .json, .parquet     rows with key, or shard and index, and label
column:NAME                                   a column of the prepared tables
json:NAME                                     a field of the `json` that came with each sample, dots between levels
"""

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.errors import RequestError

FEWEST = 2
"""Samples of a class that count: of one alone nothing can be learned and tested."""


@dataclass(frozen=True, slots=True)
class Source:
    """Where labels come from."""

    kind: str
    """table, column or json."""
    name: str
    """Path of the table, or name of the column or field."""


def source_of(spec: str) -> Source:
    """What `--labels` says."""
    kind, colon, name = spec.partition(":")
    if colon and kind in ("column", "json"):
        if not name:
            raise RequestError(f"--labels {spec}: name the {'column' if kind == 'column' else 'field'} behind the colon")
        return Source(kind, name)
    return Source("table", spec)


def of_json(data: bytes, field: str) -> str | None:
    """A field of a JSON object, or None where it is not there, not legible, or no text, number or truth value."""
    try:
        value: Any = json.loads(data)
        for name in field.split("."):
            value = value[name]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return text_of(value)


def text_of(value: Any) -> str | None:
    """A label as text; None for what is none."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return str(value).lower() if isinstance(value, bool) else None
    return str(value).strip() or None


def check(labels: Sequence[str | None], spec: str, example: Mapping[str, Any]) -> tuple[str, ...]:
    """The classes, sorted. RequestError where no sample has a label, or all have the same."""
    counts = Counter(label for label in labels if label is not None)
    if not counts:
        key = example.get("key")
        raise RequestError(
            f"--labels {spec} labels none of the {len(labels):,} samples (the first is {key!r}): are these labels of another corpus?"
        )
    if len(counts) == 1:
        (name,) = counts
        raise RequestError(
            f"--labels {spec}: all {counts[name]:,} labelled samples are {name!r}; a classification needs two classes or more"
        )
    return tuple(sorted(counts))


def check_seen(tested: Iterable[str], learned: Iterable[str], where: str) -> None:
    """RequestError for classes that a probe never saw, because no prediction could be right."""
    classes = set(tested)
    unseen = sorted(classes - set(learned))
    if unseen:
        raise RequestError(
            f"{len(unseen)} of the {len(classes)} classes were never seen in {where} ({', '.join(unseen[:3])}): leave their samples out of "
            "--labels, or give a corpus that has them"
        )


def rare(labels: Iterable[str | None]) -> set[str]:
    """Classes with fewer than FEWEST samples."""
    counts = Counter(label for label in labels if label is not None)
    return {name for name, count in counts.items() if count < FEWEST}
