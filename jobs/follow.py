"""What a training does, shown while it runs and accounted for at its end: all read from its metrics in storage."""

import json
import os
import platform
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from jobs.display import LINE_EVERY_S, console
from jobs.metrics import Watched
from pipeline.errors import StoppedError
from pipeline.reports.record import versions
from pipeline.storage import Folder, is_local
from pipeline.training.metrics import read_metrics
from pipeline.training.setup import Setup


@contextmanager
def follow(store: Folder, run_id: str) -> Iterator[None]:
    """Shows new lines of metrics while the body runs, every few seconds, and what is left at its end."""
    over = threading.Event()
    shown = _Shown(store, run_id)

    def watch() -> None:
        while not over.wait(LINE_EVERY_S / 4 if is_local(store.url) else LINE_EVERY_S):
            shown.more()

    thread = threading.Thread(target=watch, daemon=True, name="follow")
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        shown.more(last=True)


class _Shown:
    def __init__(self, store: Folder, run_id: str) -> None:
        self._store, self._run_id = store, run_id
        self._seen = 0
        self._watched = Watched()
        self._quiet = 0

    def more(self, *, last: bool = False) -> None:
        """Prints what is new; of step lines at most one at a time, and not every one."""
        try:
            records = read_metrics(self._store, self._run_id)
        except (OSError, ValueError):
            return  # the next look succeeds
        fresh, self._seen = records[self._seen :], len(records)
        steps = [record for record in fresh if record["kind"] == "step"]
        self._quiet += 1
        for record in fresh:
            self._watched.see(record)
            if record["kind"] != "step":
                for line in _lines(record):
                    console.print(line, markup=False, soft_wrap=True)
        if steps and (self._quiet >= 4 or last):
            self._quiet = 0
            console.print(_lines(steps[-1])[0], markup=False, soft_wrap=True)


def _lines(record: dict[str, Any]) -> list[str]:
    if record["kind"] == "start":
        return [*record["origins"], f"numbers: {', '.join(_chosen(record, part) for part in record['precision'])}"]
    losses = " ".join(f"{name} {_number(value)}" for name, value in record["loss"].items())
    if record["kind"] == "step":
        left = f" · about {record['eta_s']:,.0f} s left" if record["eta_s"] is not None else ""
        return [
            f"{record['done']:.0%} · step {record['step']:,} · epoch {record['epoch']:.2f} · loss {losses} · "
            f"{record['samples_per_s']:,.1f} samples/s · {record['waiting']:.1%} waiting for data{left}"
        ]
    perplexity = record["perplexity"]
    lines = [
        f"validation at step {record['step']:,}: loss {losses} · perplexity {_number(perplexity['right'])}, "
        f"with another's medium {_number(perplexity['shuffled'])}, without {_number(perplexity['absent'])}{' · best so far' if record['best'] else ''}"
    ]
    return lines + [f"    {shown['reference']} -> {shown['caption']}" for shown in record["captions"][:3]]


def _chosen(record: dict[str, Any], part: str) -> str:
    """`encoder bfloat16 (41 ms a pass, float32 73)`."""
    number, seconds = record["precision"][part], record["trial_s"].get(part)
    if seconds is None:
        return f"{part} {number}"
    other = "float32" if number == "bfloat16" else "bfloat16"
    return f"{part} {number} ({1000 * seconds[number]:,.0f} ms a pass, {other} {1000 * seconds[other]:,.0f})"


def _number(value: float | None) -> str:
    return "not finite" if value is None else f"{value:,.3f}"


def write_record(store: Folder, setup: Setup, config: Any, problem: StoppedError | None) -> str:
    """`run.json` of a training, also of one that stopped; returns its path below the output."""
    records = read_metrics(store, setup.run_id)
    steps = [record for record in records if record["kind"] == "step"]
    validations = [record for record in records if record["kind"] == "validation"]
    record = {
        "run_id": setup.run_id,
        "job": "train",
        "command": sys.argv,
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "stopped": str(problem) if problem else None,
        "samples_per_s": _mean(steps, "samples_per_s"),
        "waiting": _mean(steps, "waiting"),
        "last_step": steps[-1] if steps else None,
        "last_validation": validations[-1] if validations else None,
        "best_validation": next((record for record in reversed(validations) if record["best"]), None),
        "config": asdict(config),
        "versions": versions(),
        "machine": {"cpus": os.cpu_count(), "system": platform.platform(), "processor": platform.machine()},
    }
    path = f"runs/{setup.run_id}/run.json"
    store.put(path, json.dumps(record, indent=1, ensure_ascii=False, default=str).encode())
    return path


def _mean(records: list[dict[str, Any]], name: str) -> float | None:
    return round(sum(record[name] for record in records) / len(records), 4) if records else None


def closing_lines(store: Folder, run_id: str, output: str, record_path: str) -> list[str]:
    """Where everything is."""
    model = "model/config.json" if store.exists("model/config.json") else None
    where = f"model   {output}/model   (nightcap caption --engine checkpoint --model {output}/model)   " if model else ""
    return [f"{where}checkpoints {output}/checkpoints   record {output}/{record_path}"]
