"""`runs/<run id>/run.json`: what a run did, in a form that other tools read."""

import importlib.metadata
import json
import os
import platform
import secrets
import sys
from datetime import UTC, datetime
from typing import Any

from pipeline.reports.tally import Tally
from pipeline.storage import Folder

PACKAGES = ("nightcap", "ray", "torch", "torchvision", "transformers", "ctranslate2", "faster-whisper", "av", "soxr", "pillow", "pyarrow")


def new_run_id() -> str:
    """A name that sorts by time and is not used twice: 20260131T235959-ab12cd."""
    return f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{secrets.token_hex(3)}"


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that decide what comes out."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def write_record(
    store: Folder,
    run_id: str,
    *,
    job: str,
    results: str = "results",
    config: dict[str, Any],
    recipe: dict[str, Any],
    tally: Tally,
    outcome: dict[str, Any],
) -> str:
    """Writes the record, also for a run that failed; returns its path below the output folder. `results` names what came out."""
    path = f"runs/{run_id}/run.json"
    busiest = max(tally.seconds, key=lambda step: tally.seconds[step], default=None)
    record = {
        "run_id": run_id,
        "job": job,
        "command": sys.argv,
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "elapsed_s": round(tally.elapsed_s, 3),
        "startup_s": None if tally.first_s is None else round(tally.first_s, 3),
        "counts": dict(sorted(tally.counts.items())),
        "samples": tally.samples,
        results: tally.results,
        "samples_per_s": round(tally.rate(), 3),
        "audio_s": round(tally.audio_s, 3),
        "audio_s_per_s": round(tally.audio_s / tally.elapsed_s, 3) if tally.elapsed_s else 0.0,
        "shards_committed": tally.shards,
        "damaged_ranges": tally.damage,
        "work_s": {name: round(value, 3) for name, value in sorted(tally.seconds.items())},
        "busiest_step": busiest,
        "timeline": [*tally.timeline, (round(tally.elapsed_s, 3), tally.samples, tally.rejected)],
        "examples": tally.examples,
        "recipe": recipe,
        "config": config,
        "versions": versions(),
        "machine": {"cpus": os.cpu_count(), "system": platform.platform(), "processor": platform.machine()},
        **outcome,
    }
    store.put(path, json.dumps(record, indent=1, ensure_ascii=False, default=str).encode())
    return path


def last_config(store: Folder, job: str = "caption") -> dict[str, Any] | None:
    """The configuration of the latest run of a job recorded below an output folder, or None."""
    for blob in reversed(store.list("runs")):
        if blob.path.endswith("/run.json"):
            record = json.loads(store.get(blob.path))
            if record["job"] == job:
                config: dict[str, Any] = record["config"]
                return config
    return None
