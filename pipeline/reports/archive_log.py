"""`runs/<run id>/archives.jsonl`: a line of JSON for each archive, when it is committed; and the same to the log `nightcap.archives`.

    {"time": "2026-01-31T23:59:59+00:00", "job": "caption", "run_id": "...", "shard": "a/b.tar", "committed": true, "samples": 500,
     "counts": {"success": 499, "rejected:undecodable": 1}, "seconds": {"engine": 12.1}, "wall_s": 14.0, "audio_s": 0.0, "damage": 0}

Archives that a run left open have their line at its end, with `committed` false. On a disk lines are appended as they come; an
object store gets files of up to LINES lines.
"""

import json
import logging
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pipeline.storage import Folder, is_local, resolve

LINES, SECONDS = 2_000, 60.0
"""Lines, or seconds since the last file, after which an object store gets one."""
LOG = logging.getLogger("nightcap.archives")


@dataclass(slots=True)
class _Open:
    """An archive that blocks come from."""

    began_s: float
    counts: Counter[str] = field(default_factory=Counter)
    seconds: Counter[str] = field(default_factory=Counter)
    sums: Counter[str] = field(default_factory=Counter)
    audio_s: float = 0.0
    damage: int = 0


class ArchiveLog:
    """Adds receipts up by archive. Memory is that of the archives which are open."""

    def __init__(self, store: Folder, run_id: str, job: str) -> None:
        self._store, self._run_id, self._job = store, run_id, job
        self._open: dict[str, _Open] = {}
        self._lines: list[str] = []
        self._files, self._sent_s = 0, time.monotonic()
        self._local = Path(resolve(store.url)[1]) / f"runs/{run_id}/archives.jsonl" if is_local(store.url) else None

    def add(self, receipt: Mapping[str, Any]) -> None:
        """Takes one row of `schema.RECEIPTS`."""
        known = self._open.setdefault(receipt["shard"], _Open(time.monotonic()))
        known.counts.update(json.loads(receipt["counts"]))
        known.seconds.update(json.loads(receipt["seconds"]))
        known.sums.update(json.loads(receipt.get("sums") or "{}"))
        known.audio_s += receipt["audio_s"]
        known.damage += receipt["damage"]
        if receipt["committed"]:
            self._write(receipt["shard"], self._open.pop(receipt["shard"]), committed=True)

    def close(self) -> None:
        """Writes what is left, archives that are not committed included."""
        for shard in sorted(self._open):
            self._write(shard, self._open[shard], committed=False)
        self._open.clear()
        self._send()

    def _write(self, shard: str, known: _Open, *, committed: bool) -> None:
        line = {
            "time": datetime.now(UTC).isoformat(timespec="seconds"),
            "job": self._job,
            "run_id": self._run_id,
            "shard": shard,
            "committed": committed,
            "samples": sum(known.counts.values()),
            "counts": dict(known.counts),
            "seconds": {name: round(value, 3) for name, value in known.seconds.items()},
            "sums": {name: round(value, 3) for name, value in known.sums.items()},
            "wall_s": round(time.monotonic() - known.began_s, 3),
            "audio_s": round(known.audio_s, 3),
            "damage": known.damage,
        }
        self._lines.append(json.dumps(line, ensure_ascii=False))
        LOG.info("%s", self._lines[-1])
        if self._local is not None or len(self._lines) >= LINES or time.monotonic() - self._sent_s > SECONDS:
            self._send()

    def _send(self) -> None:
        if not self._lines:
            return
        data = ("\n".join(self._lines) + "\n").encode(errors="replace")
        self._lines, self._sent_s = [], time.monotonic()
        if self._local is None:
            self._store.put(f"runs/{self._run_id}/archives-{self._files:05d}.jsonl", data)
            self._files += 1
            return
        self._local.parent.mkdir(parents=True, exist_ok=True)
        with self._local.open("ab") as file:
            file.write(data)
