"""How many requests a server takes at a time, found out by asking: grows while it answers, gives way where it is busy.

At first the number doubles with every round of answers, until the server says that it is busy; then it goes back to what was
served, and tries one more only now and then: a server that refuses what is too much is kept full, not driven to and fro.
Where it refuses even one at a time, all wait for as long as it asked for.
"""

import asyncio
import time
from collections import deque
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
        self._waiting: deque[asyncio.Future[int]] = deque()
        self._opens: asyncio.TimerHandle | None = None
        self._mark_s: float | None = None
        self._used_s = self._offered_s = 0.0

    @asynccontextmanager
    async def slot(self) -> AsyncIterator[int]:
        """One slot for the body, once there is one, first come first served; gives how many are in use then, this one among them."""
        sent_with = await self._enter()
        try:
            yield sent_with
        finally:
            self._leave()

    async def _enter(self) -> int:
        if not self._waiting and self.in_use < int(self.limit) and time.monotonic() >= self._open_s:
            return self._take()
        future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._waiting.append(future)
        self._hand_over()
        try:
            return await future
        except asyncio.CancelledError:
            if future.done() and not future.cancelled():
                self._leave()  # it was given a slot just then
            raise

    def _take(self) -> int:
        self._count()
        self.in_use += 1
        return self.in_use

    def _leave(self) -> None:
        self._count()
        self.in_use -= 1
        self._hand_over()

    def _hand_over(self) -> None:
        """Free slots to those that wait longest: each is woken once, where waking all for one slot took more than the request."""
        closed_s = self._open_s - time.monotonic()
        if closed_s > 0:
            if self._opens is None:
                self._opens = asyncio.get_running_loop().call_later(closed_s, self._opened)
            return
        while self._waiting and self.in_use < int(self.limit):
            future = self._waiting.popleft()
            if not future.done():
                future.set_result(self._take())

    def _opened(self) -> None:
        self._opens = None
        self._hand_over()

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
