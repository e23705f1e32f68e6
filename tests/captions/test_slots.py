"""How many requests a server bears, found out against one that refuses what is above its slots:

- the slots fill within a few rounds, stay full, and are hardly ever asked for more than there are;
- a server that never refuses gets as many as allowed, and never more;
- one that refuses everything for a while is left alone for as long as it asks for, and filled again after.
"""

import asyncio
import time

import pytest

from pipeline.captions.slots import Slots


class Clerk:
    """Serves in a fixed time, refuses what is too much."""

    def __init__(self, slots: int) -> None:
        self.slots, self.inside, self.served, self.refused, self.used_s, self.most = slots, 0, 0, 0, 0.0, 0

    async def ask(self, slots: Slots, service_s: float) -> None:
        while True:
            async with slots.slot() as sent_with:
                if self.inside < self.slots:
                    self.inside += 1
                    self.most = max(self.most, self.inside)
                    began = time.monotonic()
                    await asyncio.sleep(service_s)
                    self.used_s += time.monotonic() - began
                    self.inside -= 1
                    self.served += 1
                    slots.answered()
                    return
                self.refused += 1
                slots.refused(sent_with, 0.05)
            await asyncio.sleep(0.05)


async def run(clerk: Clerk, most: int, requests: int, service_s: float = 0.02) -> tuple[Slots, float]:
    slots, began = Slots(most), time.monotonic()
    await asyncio.gather(*(clerk.ask(slots, service_s) for _ in range(requests)))
    return slots, time.monotonic() - began


@pytest.mark.parametrize("served", [1, 5, 20])
def test_slots_fill_and_are_hardly_asked_for_more(served: int) -> None:
    clerk = Clerk(served)
    slots, spent_s = asyncio.run(run(clerk, 64, 30 * served))
    assert clerk.served == 30 * served and clerk.most == served
    assert served <= slots.limit <= served + 1 and clerk.refused <= served + 20  # never fewer than are served
    assert clerk.used_s / served / spent_s > 0.6


def test_a_server_that_never_refuses_gets_what_is_allowed() -> None:
    clerk = Clerk(10**6)
    slots, _ = asyncio.run(run(clerk, 40, 400))
    assert clerk.most == slots.limit == 40 and clerk.refused == 0


def test_a_server_that_refuses_everything_is_left_alone_and_filled_again() -> None:
    async def scene() -> tuple[int, Clerk]:
        clerk = Clerk(0)
        slots = Slots(16)
        work = asyncio.gather(*(clerk.ask(slots, 0.01) for _ in range(40)))
        await asyncio.sleep(0.6)
        refused, clerk.slots = clerk.refused, 4
        await work
        return refused, clerk

    refused, clerk = asyncio.run(scene())
    assert refused < 40 and clerk.served == 40
