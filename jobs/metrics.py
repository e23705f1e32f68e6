"""What a cluster's Prometheus sees of a job: counters and histograms, raised once a block in the process that did the work.

    receipts of a block ─> samples, rejects, archives, bytes, tokens, seconds by step     (`record_receipt`)
    an engine's account ─> what kept it waiting                                           (counted.py)
    lines of metrics.jsonl ─> loss, learning rate, samples of a training                  (`Watched`, in the driver)

Ray exports them at every node's metrics port as `ray_nightcap_...`; infra/grafana shows them. A counter costs about 5 µs. A
histogram's `_sum` is made of the middles of its buckets (Ray 2.60): for means there are counters of seconds beside.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import pyarrow as pa

Kind = Literal["counter", "gauge", "histogram"]
SECONDS = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0)
"""Edges of the histograms' buckets: a block takes from milliseconds (facts) to minutes (a large model on a CPU)."""


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric."""

    kind: Kind
    tags: tuple[str, ...]
    meaning: str


METRICS: Mapping[str, Metric] = {
    "nightcap_samples": Metric("counter", ("command", "status"), "samples that are done, by what became of them"),
    "nightcap_rejects": Metric("counter", ("command", "reason"), "samples that were rejected, skipped or removed, by reason"),
    "nightcap_archives": Metric("counter", ("command",), "archives committed"),
    "nightcap_damaged_ranges": Metric("counter", ("command",), "damaged byte ranges of archives"),
    "nightcap_bytes": Metric(
        "counter", ("command",), "bytes of the samples that are done: as read for captions, as written by prepare and shard"
    ),
    "nightcap_media_seconds": Metric("counter", ("command",), "seconds of recordings and clips that are done"),
    "nightcap_tokens": Metric("counter", ("command", "direction"), "tokens of prompts (in) and captions (out)"),
    "nightcap_flags": Metric("counter", ("command", "flag"), "captions with a fault, by fault"),
    "nightcap_stage_seconds": Metric("counter", ("command", "stage"), "seconds of work by stage, added up over processes"),
    "nightcap_block_seconds": Metric("histogram", ("command", "stage"), "seconds of work that a block took in a stage"),
    "nightcap_wait_seconds": Metric("counter", ("command", "queue"), "seconds that an engine stood still, by what it waited for"),
    "nightcap_queue_wait_seconds": Metric("histogram", ("command", "queue"), "seconds that an engine stood still before a block"),
    "nightcap_engine_busy_seconds": Metric("counter", ("command",), "seconds that engines were at work"),
    "nightcap_train_samples": Metric("counter", (), "samples stepped on"),
    "nightcap_train_step": Metric("gauge", (), "step that the training is at"),
    "nightcap_train_loss": Metric("gauge", ("objective", "part"), "mean loss of a target, in training and in validation"),
    "nightcap_train_perplexity": Metric("gauge", ("medium",), "perplexity in validation with the right, a shuffled and no medium"),
    "nightcap_train_learning_rate": Metric("gauge", (), "learning rate"),
    "nightcap_train_waiting_share": Metric("gauge", (), "share of the time that training waited for data"),
}
"""Everything that is exported, by name."""


def exported(name: str) -> str:
    """The name of a metric's series in Prometheus."""
    return f"ray_{name}{ {'counter': '_total', 'gauge': '', 'histogram': '_bucket'}[METRICS[name].kind] }"


@cache
def _metric(name: str) -> Any:
    """The metric of this process."""
    from ray.util.metrics import Counter, Gauge, Histogram

    metric = METRICS[name]
    if metric.kind == "histogram":
        return Histogram(name, metric.meaning, boundaries=list(SECONDS), tag_keys=metric.tags)
    return (Counter if metric.kind == "counter" else Gauge)(name, metric.meaning, tag_keys=metric.tags)


def record(name: str, value: float, *tags: str) -> None:
    """Adds to a counter, observes in a histogram, sets a gauge; tags in the order of METRICS. Nothing for what would add nothing."""
    metric = METRICS[name]
    if metric.kind == "counter" and not value > 0:
        return
    named = dict(zip(metric.tags, tags, strict=True))
    method = {"counter": "inc", "gauge": "set", "histogram": "observe"}[metric.kind]
    getattr(_metric(name), method)(float(value), named)


@dataclass(frozen=True, slots=True)
class CountedBlocks:
    """A generator of tables of schema.RECEIPTS, counted."""

    function: Callable[..., Iterator[pa.Table]]
    job: str

    def __call__(self, *args: Any, **options: Any) -> Iterator[pa.Table]:
        for receipts in self.function(*args, **options):
            for receipt in receipts.to_pylist():
                record_receipt(receipt, self.job)
            yield receipts


def record_receipt(receipt: Mapping[str, Any], job: str) -> None:
    """What one row of schema.RECEIPTS says."""
    for outcome, count in json.loads(receipt["counts"]).items():
        status, _, reason = outcome.partition(":")
        record("nightcap_samples", count, job, status)
        if reason:
            record("nightcap_rejects", count, job, reason)
    for stage, seconds in json.loads(receipt["seconds"]).items():
        record("nightcap_stage_seconds", seconds, job, stage)
        record("nightcap_block_seconds", seconds, job, stage)
    sums = json.loads(receipt.get("sums") or "{}")
    for name, value in sums.items():
        if name.startswith("flag:"):
            record("nightcap_flags", value, job, name.removeprefix("flag:"))
    record("nightcap_tokens", sums.get("prompt_tokens", 0), job, "in")
    record("nightcap_tokens", sums.get("output_tokens", 0), job, "out")
    record("nightcap_bytes", sums.get("bytes", 0), job)
    record("nightcap_media_seconds", receipt["audio_s"], job)
    record("nightcap_archives", receipt["committed"], job)
    record("nightcap_damaged_ranges", receipt["damage"], job)


class Watched:
    """A training's lines as they come, in the driver."""

    def __init__(self) -> None:
        self._samples: int | None = None

    def see(self, line: Mapping[str, Any]) -> None:
        """A line of metrics.jsonl."""
        if line["kind"] == "start":
            self._samples = 0 if line["step"] == 0 else None  # one that goes on has samples of an earlier run
        if line["kind"] not in ("step", "validation"):
            return
        part = "training" if line["kind"] == "step" else "validation"
        for objective, loss in line["loss"].items():
            if loss is not None:
                record("nightcap_train_loss", loss, objective, part)
        for medium, value in line.get("perplexity", {}).items():
            if value is not None:
                record("nightcap_train_perplexity", value, medium)
        if part == "training":
            record("nightcap_train_step", line["step"])
            record("nightcap_train_learning_rate", line["learning_rate"])
            record("nightcap_train_waiting_share", line["waiting"])
            record("nightcap_train_samples", 0 if self._samples is None else line["samples"] - self._samples)
            self._samples = line["samples"]
