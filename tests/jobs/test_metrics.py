"""Metrics for a cluster, and a line of JSON an archive:

- what a receipt says is what is counted, with the tags that are declared; nothing is counted for what did not happen;
- what an engine waited for is counted once, though accounts add up and two calls end in any order;
- a training that goes on counts its own steps only;
- the dashboard shows exactly the metrics that there are, under the names that Ray exports, by tags that they have;
- every archive has one line, whole when it is committed, and one that says so when it is not.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import yaml

from jobs import metrics
from jobs.counted import CountedStage
from jobs.metrics import METRICS, CountedBlocks, Watched, exported, record_receipt
from pipeline import schema
from pipeline.reports.archive_log import ArchiveLog
from pipeline.storage import Folder

GRAFANA = Path(__file__).parents[2] / "infra/grafana"
RECEIPT: dict[str, Any] = {
    "shard": "a.tar",
    "lo": 0,
    "hi": 9,
    "counts": json.dumps({"success": 8, "rejected:undecodable": 2}),
    "audio_s": 1.5,
    "committed": True,
    "damage": 0,
    "seconds": json.dumps({"engine": 2.0}),
    "examples": "[]",
    "sums": json.dumps({"output_tokens": 40, "flag:repetition": 1, "bytes": 1000}),
}


class Sink:
    """Stands where Ray's metrics do: what was recorded, by name and tags."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, float, dict[str, str]]] = []

    def metric(self, name: str) -> Any:
        def take(value: float, tags: dict[str, str]) -> None:
            assert tuple(tags) == METRICS[name].tags
            self.seen.append((name, value, tags))

        return type("Metric", (), {method: staticmethod(take) for method in ("inc", "set", "observe")})

    def total(self, name: str, **tags: str) -> float:
        return sum(value for known, value, given in self.seen if known == name and tags.items() <= given.items())


@pytest.fixture
def sink(monkeypatch: pytest.MonkeyPatch) -> Sink:
    found = Sink()
    monkeypatch.setattr(metrics, "_metric", found.metric)
    return found


def test_a_receipt_is_counted_once_by_its_tags(sink: Sink) -> None:
    def blocks(count: int) -> Iterator[pa.Table]:
        for _ in range(count):
            yield pa.Table.from_pylist([RECEIPT])

    assert len(list(CountedBlocks(blocks, "prepare")(2))) == 2
    assert sink.total("nightcap_samples", status="success", command="prepare") == 16
    assert sink.total("nightcap_samples", status="rejected") == sink.total("nightcap_rejects", reason="undecodable") == 4
    assert sink.total("nightcap_stage_seconds", stage="engine") == sink.total("nightcap_block_seconds", stage="engine") == 4
    assert sink.total("nightcap_tokens", direction="out") == 80 and sink.total("nightcap_flags", flag="repetition") == 2
    assert sink.total("nightcap_bytes") == 2000 and sink.total("nightcap_archives") == 2 and sink.total("nightcap_media_seconds") == 3
    assert not any(name in ("nightcap_damaged_ranges",) or tags.get("direction") == "in" for name, _, tags in sink.seen)


def test_what_an_engine_waited_for_is_counted_once(sink: Sink, monkeypatch: pytest.MonkeyPatch) -> None:
    def account(calls: int, busy_s: float, waited_s: float) -> dict[str, Any]:
        return {"calls": calls, "busy_s": busy_s, "waited_input_s": waited_s, "waited_host_s": 0.0}

    monkeypatch.setattr("jobs.counted.CaptionStage", lambda config: None)
    stage = CountedStage(None)  # type: ignore[arg-type]
    for calls, busy_s, waited_s in ((1, 1.0, 0.0), (3, 3.0, 0.5), (2, 2.0, 0.25), (4, 4.5, 0.5)):
        stage._count(account(calls, busy_s, waited_s))
    assert sink.total("nightcap_engine_busy_seconds") == 4.5
    assert sink.total("nightcap_wait_seconds", queue="read and decode") == 0.5
    assert sum(name == "nightcap_queue_wait_seconds" and tags["queue"] == "collate" for name, _, tags in sink.seen) == 3


def test_a_training_that_goes_on_counts_its_own_steps(sink: Sink) -> None:
    def step(at: int) -> dict[str, Any]:
        return {
            "kind": "step",
            "step": at,
            "samples": 32 * at,
            "loss": {"causal": 1.0, "broken": None},
            "learning_rate": 0.1,
            "waiting": 0.0,
        }

    for first in (0, 10):
        watched = Watched()
        for line in ({"kind": "start", "step": first}, step(first + 5), step(first + 10)):
            watched.see(line)
    watched.see({"kind": "validation", "step": 20, "loss": {"causal": 2.0}, "perplexity": {"right": 3.0, "shuffled": None}})
    assert sink.total("nightcap_train_samples") == 32 * 10 + 32 * 5
    assert sink.total("nightcap_train_loss", part="validation") == 2.0 and sink.total("nightcap_train_perplexity", medium="right") == 3.0


def expressions() -> list[str]:
    board = json.loads((GRAFANA / "nightcap.json").read_text())
    return [target["expr"] for panel in board["panels"] for target in panel.get("targets", [])]


def test_the_dashboard_shows_exactly_the_metrics_that_there_are() -> None:
    shown = {name for expression in expressions() for name in re.findall(r"\bray_nightcap_\w+", expression)}
    assert shown == {exported(name) for name in METRICS}


def test_the_dashboard_asks_for_tags_that_metrics_have() -> None:
    by_export = {exported(name): {*metric.tags, "le"} for name, metric in METRICS.items()}
    for expression in expressions():
        for name in re.findall(r"\bray_nightcap_\w+", expression):
            asked = re.findall(r"by \(([^)]*)\)", expression) + re.findall(r"(\w+)=~?\"", expression)
            tags = {tag.strip() for group in asked for tag in group.split(",")}
            assert tags <= by_export[name], expression


def test_the_dashboard_and_the_scrape_configuration_are_whole() -> None:
    board = json.loads((GRAFANA / "nightcap.json").read_text())
    panels = [panel for panel in board["panels"] if panel["type"] != "row"]
    assert all(panel["description"] and panel["title"] and panel["targets"] for panel in panels)
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])
    places = [(panel["gridPos"]["x"] + panel["gridPos"]["w"]) for panel in panels]
    assert max(places) <= 24
    scraped = yaml.safe_load((GRAFANA / "prometheus.yml").read_text())["scrape_configs"]
    assert [job["job_name"] for job in scraped] == ["ray", "ray-kubernetes"]


def test_every_archive_has_one_line(tmp_path: Path) -> None:
    log = ArchiveLog(Folder(str(tmp_path)), "r", "caption")
    for shard, committed in (("a.tar", False), ("b.tar", False), ("a.tar", True)):
        log.add(RECEIPT | {"shard": shard, "committed": committed})
    lines = [json.loads(line) for line in (tmp_path / "runs/r/archives.jsonl").read_text().splitlines()]
    assert [(line["shard"], line["committed"], line["samples"]) for line in lines] == [("a.tar", True, 20)]
    assert lines[0]["counts"] == {"success": 16, "rejected:undecodable": 4} and lines[0]["seconds"] == {"engine": 4.0}
    log.close()
    lines = [json.loads(line) for line in (tmp_path / "runs/r/archives.jsonl").read_text().splitlines()]
    assert [(line["shard"], line["committed"]) for line in lines[1:]] == [("b.tar", False)]


def test_an_object_store_gets_files_of_lines() -> None:
    store = Folder("memory://archive-log")
    log = ArchiveLog(store, "r", "caption")
    for number in range(2_500):
        log.add(RECEIPT | {"shard": f"{number}.tar"})
    log.close()
    files = [blob.path.lstrip("/") for blob in store.list("runs/r")]
    assert files == ["runs/r/archives-00000.jsonl", "runs/r/archives-00001.jsonl"]
    assert sum(len(store.get(path).splitlines()) for path in files) == 2_500


def test_receipts_of_now_are_taken(sink: Sink) -> None:
    record_receipt({name: RECEIPT.get(name) for name in schema.RECEIPTS.names}, "caption")
    assert sink.total("nightcap_samples") == 10
