"""How busy an engine is, what kept it waiting, and how fast it is by itself: measured in its actor, added up by the driver."""

import threading
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from typing import Any

WARM_UP_CALLS, ALONE_CALLS = 1, 8
"""Calls that are not counted, and those after them that say how fast the engine is by itself."""
BUSY_ENOUGH = 0.9


@dataclass(frozen=True, slots=True)
class Account:
    """One actor from its first call to its latest: of two, the one with more calls holds the other."""

    actor: str
    calls: int = 0
    samples: int = 0
    tokens: int = 0
    """Generated, as far as the engine tells."""
    span_s: float = 0.0
    """From the first call's begin to the latest one's end."""
    busy_s: float = 0.0
    """In the engine; of an engine that talks to a server: its own measure of the slots in use."""
    waited_input_s: float = 0.0
    """With nothing to do: reading and decoding, or the output's commit, held it up."""
    waited_host_s: float = 0.0
    """With samples at hand whose host work (collate) was not done."""
    alone_samples: int = 0
    alone_tokens: int = 0
    alone_s: float = 0.0
    """Of the first calls after the warm-up; of an engine whose calls overlap: of the first calls, the share of their time in use."""


class Meter:
    """Counts calls of an engine; they come one at a time, from any thread."""

    def __init__(self, actor: str) -> None:
        self._lock = threading.Lock()
        self._account = Account(actor)
        self._began_s = self._left_s = 0.0

    def call(self, arrived_s: float, entered_s: float, samples: int, tokens: int, use: float | None = None) -> None:
        """A call that has just ended. `arrived_s`: when its block came to the actor; all by time.perf_counter().

        `use`: share of a server's slots in use since the start, of an engine whose calls overlap.
        """
        now_s = time.perf_counter()
        with self._lock:
            old = self._account
            if not old.calls:
                self._began_s = self._left_s = entered_s
            self._began_s = min(self._began_s, entered_s)
            idle_s = max(0.0, entered_s - self._left_s)
            input_s = min(idle_s, max(0.0, arrived_s - self._left_s))
            busy_s = now_s - entered_s
            first = old.calls < WARM_UP_CALLS + ALONE_CALLS
            alone = use is None and first and old.calls >= WARM_UP_CALLS
            used_s = 0.0 if use is None else use * (now_s - self._began_s)
            self._account = replace(
                old,
                calls=old.calls + 1,
                samples=old.samples + samples,
                tokens=old.tokens + tokens,
                span_s=now_s - self._began_s,
                busy_s=old.busy_s + busy_s if use is None else used_s,
                waited_input_s=old.waited_input_s + input_s,
                waited_host_s=old.waited_host_s + idle_s - input_s,
                alone_samples=old.alone_samples + (samples if alone else 0),
                alone_tokens=old.alone_tokens + (tokens if alone else 0),
                alone_s=old.alone_s + (busy_s if alone else 0.0),
            )
            if use is not None and first:  # calls that overlap: of the first ones, what they would do if the slots were always full
                now = self._account
                self._account = replace(now, alone_samples=now.samples, alone_tokens=now.tokens, alone_s=used_s)
            self._left_s = now_s

    def read(self) -> Account:
        """The account so far."""
        with self._lock:
            return self._account


def efficiency(accounts: Iterable[dict[str, Any]]) -> dict[str, Any] | None:
    """What a run says of its engine: shares and rates over all actors, what starved it, what to change. None without calls."""
    known = [Account(**account) for account in accounts]
    known = [account for account in known if account.calls]
    if not known:
        return None
    span_s, busy_s = sum(one.span_s for one in known), sum(one.busy_s for one in known)
    waits = {"read and decode": sum(one.waited_input_s for one in known), "collate": sum(one.waited_host_s for one in known)}
    busy = min(1.0, busy_s / span_s) if span_s else 1.0
    wall_s = max(one.span_s for one in known)
    alone = [(one.alone_samples / one.alone_s, one.alone_tokens / one.alone_s) for one in known if one.alone_s]
    starved = None if busy >= BUSY_ENOUGH else max(waits, key=lambda name: waits[name])
    return {
        "busy": round(busy, 4),
        "busy_by_actor": {one.actor: round(min(1.0, one.busy_s / one.span_s) if one.span_s else 1.0, 4) for one in known},
        "alone_samples_per_s": round(sum(rate for rate, _ in alone), 3) if alone else None,
        "alone_tokens_per_s": round(sum(rate for _, rate in alone), 1) if alone else None,
        "samples_per_s": round(sum(one.samples for one in known) / wall_s, 3) if wall_s else None,
        "tokens_per_s": round(sum(one.tokens for one in known) / wall_s, 1) if wall_s else None,
        "waited_s": {name: round(value, 3) for name, value in waits.items()},
        "starved_by": starved,
        "advice": advice(starved, len(known)),
        "actors": [asdict(one) for one in known],
    }


def advice(starved: str | None, actors: int) -> str:
    """The setting to change."""
    if starved is None:
        return "the engine is the bottleneck, as it should be: more or faster devices, a smaller --dtype, or a larger --batch-size"
    if starved == "collate":
        return "host work holds the engine up: a larger --batch-size, or more CPUs a worker"
    fewer = "fewer --workers, or " if actors > 1 else ""
    return f"reading and decoding hold the engine up: {fewer}more CPUs (on a cluster CPU nodes can feed GPU nodes), more archives, or faster storage"
