"""Who is at work on an output: a file that says so until it expires. Best effort; correctness never rests on it.

Two nights at once end like one, because the commit sees to that; the lease only keeps the second from doing the same work.
So it errs towards letting go: a lease that is old, lies in the future (a clock jumped), is of a process that is gone, or
cannot be read, holds nobody back.
"""

import contextlib
import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass

from pipeline.storage import Store

PATH = "lease.json"
TTL_S = 300.0
"""Seconds after its last renewal that a lease holds; a night renews five times as often."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """One holder."""

    holder: str
    """A name that nobody else has."""
    night: str
    host: str
    pid: int
    renewed_s: float
    """By the holder's clock, seconds since the epoch."""
    ttl_s: float = TTL_S

    def to_json(self) -> bytes:
        """As it stands in storage."""
        return json.dumps(asdict(self)).encode()


def parse(data: bytes) -> Lease | None:
    """The lease; None for one that cannot be read."""
    try:
        lease = Lease(**json.loads(data))
        float(lease.renewed_s), float(lease.ttl_s), int(lease.pid)
    except (ValueError, TypeError):
        return None
    return lease


def holds(lease: Lease | None, *, now_s: float, host: str, alive: Callable[[int], bool]) -> bool:
    """True while a lease should keep others away. `alive` tells whether a process of this host lives."""
    if lease is None or not 0 < lease.ttl_s <= 24 * 3600:
        return False
    if not -lease.ttl_s <= now_s - lease.renewed_s < lease.ttl_s:
        return False
    return lease.host != host or alive(lease.pid)


def process_lives(pid: int) -> bool:
    """True if there is such a process here."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True


def held_by(store: Store, *, now_s: float | None = None) -> Lease | None:
    """Whoever is at work now, or None."""
    try:
        lease = parse(store.get(PATH))
    except FileNotFoundError:
        return None
    now = time.time() if now_s is None else now_s
    return lease if holds(lease, now_s=now, host=socket.gethostname(), alive=process_lives) else None


@contextlib.contextmanager
def held(store: Store, holder: str, night: str, ttl_s: float = TTL_S) -> Iterator[None]:
    """Holds the lease for the body, renewing it on a thread; gives it back if it is still ours."""
    host, done = socket.gethostname(), threading.Event()

    def renew() -> None:
        lease = Lease(holder=holder, night=night, host=host, pid=os.getpid(), renewed_s=time.time(), ttl_s=ttl_s)
        with contextlib.suppress(OSError):  # a store that fails now may answer next time; work goes on
            store.put(PATH, lease.to_json())

    def keep() -> None:
        while not done.wait(ttl_s / 5):
            renew()

    renew()
    keeper = threading.Thread(target=keep, name="lease", daemon=True)
    keeper.start()
    try:
        yield
    finally:
        done.set()
        keeper.join(timeout=10)
        with contextlib.suppress(OSError):
            found = parse(store.get(PATH))
            if found is not None and found.holder == holder:
                store.delete(PATH)
