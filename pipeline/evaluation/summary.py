"""Summed statistics -> the figures of scores.json, each with its interval, and the difference of two runs."""

import math
from typing import Any

import numpy as np

from pipeline.evaluation.generation import BETTER_LOW, NEUTRAL, SIGNATURES, scores
from pipeline.evaluation.intervals import ALL, Sums, interval, p_value
from pipeline.evaluation.score import ScoreConfig, Scored
from pipeline.evaluation.tables import Coverage

FORMAT = 1
"""Of scores.json; raised when a reader of an older one would misread it."""

Figure = dict[str, float | None]


def summary(found: Scored, coverage: Coverage, config: ScoreConfig) -> dict[str, Any]:
    """What scores.json holds, but for where the tables lie."""
    whole = found.sums[ALL]
    result: dict[str, Any] = {
        "format": FORMAT,
        "coverage": {
            "rows": coverage.rows,
            "samples_scored": found.samples,
            "rows_without_reference": coverage.without_reference,
            "rows_without_caption": coverage.without_caption,
            "rows_only_here": coverage.only_here,
            "statuses": dict(coverage.statuses.most_common()),
        },
        "normaliser": config.normaliser,
        "signatures": SIGNATURES,
        "bootstrap": {"replicates": config.replicates, "seed": config.seed, "level": 0.95, "unit": "sample"},
        "scores": _figures(whole, 0) | {name: {"value": value} for name, value in found.distinct[0].items()},
        "buckets": _buckets(found.sums),
        "by": found.by,
        "worst": found.worst,
        "best": found.best,
    }
    if len(whole.observed) > 1:
        result["against"] = {
            "scores": _figures(whole, 1) | {name: {"value": value} for name, value in found.distinct[1].items()},
            "difference": _differences(whole),
            "improved": found.improved,
            "declined": found.declined,
        }
    return result


def _figures(sums: Sums, system: int) -> dict[str, Figure]:
    drawn = scores(sums.replicates[system])
    out: dict[str, Figure] = {}
    for name, value in scores(sums.observed[system]).items():
        found = interval(float(value), drawn[name])
        out[name] = {"value": _known(found.value), "low": _known(found.low), "high": _known(found.high)}
    return out


def _buckets(sums: dict[tuple[str, str], Sums]) -> dict[str, dict[str, Any]]:
    out: dict[str, dict[str, Any]] = {}
    for (dimension, bucket), found in sums.items():
        if (dimension, bucket) != ALL:
            out.setdefault(dimension, {})[bucket] = {"samples": found.samples, "scores": _figures(found, 0)}
    return out


def _differences(sums: Sums) -> dict[str, Any]:
    """First minus second on the same draws."""
    ours, theirs = (scores(sums.replicates[system]) for system in (0, 1))
    values = [scores(sums.observed[system]) for system in (0, 1)]
    out: dict[str, Any] = {}
    for name in values[0]:
        drawn = np.asarray(ours[name]) - np.asarray(theirs[name])
        found = interval(float(values[0][name] - values[1][name]), drawn)
        out[name] = {
            "value": _known(found.value),
            "low": _known(found.low),
            "high": _known(found.high),
            "p": _known(p_value(drawn)),
            "verdict": _verdict(name, found.low, found.high),
        }
    return out


def _verdict(name: str, low: float, high: float) -> str:
    if not (math.isfinite(low) and math.isfinite(high)) or low <= 0 <= high:
        return "unclear"
    if name in NEUTRAL:
        return "higher" if low > 0 else "lower"
    return "better" if (low > 0) != (name in BETTER_LOW) else "worse"


def _known(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
