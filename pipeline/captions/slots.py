"""How many requests a server takes at a time, found out by asking: grows while it answers, gives way where it is busy.

At first the number doubles with every round of answers, until the server says that it is busy; then it goes back to what was
served, and tries one more only now and then: a server that refuses what is too much is kept full, not driven to and fro.
Where it refuses even one at a time, all wait for as long as it asked for.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

FIRST = 8
PROBE_ROUNDS = 20
"""Answers a slot after which one more is tried, once the server has said that it was busy."""


class Slots:
    """A number of slots that adapts. For one event loop."""

    def __init__(self, most: int) -> None:
        self._most = most
        self.limit = float(min(FIRST, most))
        self.in_use = 0
        self._known_busy = False
        self._since = 0
        self._open_s = 0.0
        self._changed = asyncio.Condition()
        self._mark_s: float | None = None
        self._used_s = self._offered_s = 0.0

    @asynccontextmanager
    async def slot(self) -> AsyncIterator[int]:
        """One slot for the body, once there is one; gives how many are in use then, this one among them."""
        async with self._changed:
            while self.in_use >= int(self.limit) or time.monotonic() < self._open_s:
                closed_s = self._open_s - time.monotonic()
                if closed_s > 0:
                    self._changed.release()
                    try:
                        await asyncio.sleep(closed_s)
                    finally:
                        await self._changed.acquire()
                else:
                    await self._changed.wait()
            self._count()
            self.in_use += 1
            sent_with = self.in_use
        try:
            yield sent_with
        finally:
            async with self._changed:
                self._count()
                self.in_use -= 1
                self._changed.notify_all()

    def answered(self) -> None:
        """The server served a request."""
        self._since += 1
        if self.limit >= self._most:
            return
        if not self._known_busy:
            self.limit = min(float(self._most), self.limit + 1)  # every answer one more: doubles a round
        elif self._since >= PROBE_ROUNDS * self.limit:
            self._since = 0
            self.limit = min(float(self._most), int(self.limit) + 1.0)

    def refused(self, sent_with: int, retry_after_s: float) -> None:
        """The server said that it is busy; the caller waits, and tries again, by itself. `sent_with`: what `slot` gave.

        What the server held then was less than that: one less is never too few, however late its answer is read.
        """
        self._known_busy, self._since = True, 0
        if sent_with <= 1:
            self._open_s = max(self._open_s, time.monotonic() + retry_after_s)
        self.limit = max(1.0, min(self.limit, sent_with - 1.0))

    def _count(self) -> None:
        now_s = time.monotonic()
        if self._mark_s is not None:
            self._used_s += self.in_use * (now_s - self._mark_s)
            self._offered_s += max(self.limit, self.in_use) * (now_s - self._mark_s)
        self._mark_s = now_s

    def use(self) -> float:
        """Share of the slots in use since the first request, 0 to 1."""
        return self._used_s / self._offered_s if self._offered_s else 1.0
