"""Counts of a run, added up from receipts while it goes on. Memory does not grow with the corpus."""

import json
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from pipeline import schema

EXAMPLES_PER_REASON = 3
POINTS = 240
"""Of the timeline: when there are more, every second one is dropped."""


@dataclass(slots=True)
class Tally:
    """What a run did so far."""

    counts: Counter[str] = field(default_factory=Counter)
    """Samples by status, or by `rejected:reason` and `skipped:reason`."""
    seconds: Counter[str] = field(default_factory=Counter)
    """Seconds of work by step, added up over processes."""
    audio_s: float = 0.0
    """Seconds of recordings in the results."""
    shards: int = 0
    """Shards committed by this run."""
    damage: int = 0
    """Damaged byte ranges."""
    examples: dict[str, list[list[str]]] = field(default_factory=dict)
    """Up to three rejects a reason: [shard, key, detail]."""
    sums: Counter[str] = field(default_factory=Counter)
    """Captions, flags (`flag:name`), retries and tokens, added up."""
    actors: dict[str, dict[str, Any]] = field(default_factory=dict)
    """The latest account of each engine actor."""
    timeline: list[tuple[float, int, int]] = field(default_factory=list)
    """(seconds since the start, samples, rejected) at moments that are about evenly apart; at most POINTS."""
    started_s: float = field(default_factory=time.monotonic)
    first_s: float | None = None
    """Seconds from the start to the first receipt."""

    def add(self, receipt: dict[str, Any]) -> None:
        """Adds one row of `schema.RECEIPTS`."""
        if self.first_s is None:
            self.first_s = time.monotonic() - self.started_s
        self.counts.update(json.loads(receipt["counts"]))
        self.seconds.update(json.loads(receipt["seconds"]))
        self.sums.update(json.loads(receipt.get("sums") or "{}"))
        for account in json.loads(receipt.get("actors") or "[]"):
            if account["calls"] >= self.actors.get(account["actor"], account)["calls"]:
                self.actors[account["actor"]] = account
        self.audio_s += receipt["audio_s"]
        self.shards += receipt["committed"]
        self.damage += receipt["damage"]
        for reason, *origin in json.loads(receipt["examples"]):
            known = self.examples.setdefault(reason, [])
            if len(known) < EXAMPLES_PER_REASON:
                known.append(origin)

        self._mark()

    def _mark(self) -> None:
        apart_s = 2 * (self.timeline[1][0] - self.timeline[0][0]) / 3 if len(self.timeline) > POINTS // 2 else 0.0
        if self.timeline and self.elapsed_s - self.timeline[-1][0] < apart_s:
            return
        self.timeline.append((round(self.elapsed_s, 3), self.samples, self.rejected))
        if len(self.timeline) > POINTS:
            del self.timeline[1::2]

    def of(self, status: str) -> int:
        """Samples with a status, over all reasons."""
        return sum(count for name, count in self.counts.items() if name.split(":")[0] == status)

    @property
    def samples(self) -> int:
        """Samples seen, whatever became of them."""
        return sum(self.counts.values())

    @property
    def results(self) -> int:
        """Samples with a result."""
        return self.of(schema.SUCCESS) + self.of(schema.TRUNCATED) + self.of(schema.ERROR)

    @property
    def rejected(self) -> int:
        """Samples rejected; skipped ones are not."""
        return self.of(schema.REJECTED)

    @property
    def elapsed_s(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self.started_s

    def rate(self) -> float:
        """Samples a second since the first receipt was waited for, start-up included until there is one."""
        return self.samples / self.elapsed_s if self.elapsed_s > 0 else 0.0

    def reasons(self) -> list[tuple[str, int]]:
        """(reason, samples) of rejects, most first."""
        named = [(name.split(":", 1)[1], count) for name, count in self.counts.items() if name.startswith(f"{schema.REJECTED}:")]
        return sorted(named, key=lambda item: (-item[1], item[0]))
