"""A pause in Ray Data's scheduling loop, which otherwise spins, and a start that knows how many CPUs there are.

Ray waits for a task to yield a block. A reader that is ahead of its consumer has yielded one that back pressure keeps from being read, so
that the wait ends at once and the loop runs without a pause: 55 to 100 % of a core, taken from the trainer or engine on a machine with few
(py-spy, 2 cores, Ray 2.60, 2026-11: a training at 95 samples/s had 280/s from memory).

At its start Ray asks an actor what the cluster has, does not wait for the answer, takes it for nothing, and looks again a second
later: until then one task runs, whatever the CPUs.
"""

import time
from typing import Any

PAUSE_S = 0.02
"""Seconds a turn; all that is ready is handled in each, so that it delays blocks of some MiB by a few percent of their decoding."""
AHEAD_PAUSE_S = 0.1
"""The same where reading is seconds ahead of its consumer: a turn costs 1 to 2 ms, so that 20 ms would be 8 % of a core."""
ANSWER_S = 0.5
"""Seconds that an execution waits for the answer; it takes some milliseconds, and nothing may be free for as long as a cluster grows."""


class Pace:
    """For `DataContext.custom_execution_callback_classes`."""

    pause_s = PAUSE_S

    def before_execution_starts(self, executor: Any) -> None:
        """Called once its parts are made, before its loop asks what there is."""
        ask = getattr(getattr(executor, "_cluster_autoscaler", None), "get_total_resources", None)
        until = time.monotonic() + ANSWER_S
        while ask is not None and not ask().cpu and time.monotonic() < until:
            time.sleep(0.005)

    def on_execution_step(self, executor: Any) -> None:
        """Called once a turn of the loop."""
        time.sleep(self.pause_s)

    def after_execution_succeeds(self, executor: Any) -> None:
        """Nothing to do."""

    def after_execution_fails(self, executor: Any, error: Exception) -> None:
        """Nothing to do."""


class AheadPace(Pace):
    """For a reader that is seconds ahead."""

    pause_s = AHEAD_PAUSE_S


def set_pace(context: Any, pace: type[Pace] = Pace) -> None:
    """Gives a Ray `DataContext` this pause, in place of any other."""
    others = [known for known in context.custom_execution_callback_classes if not (isinstance(known, type) and issubclass(known, Pace))]
    context.custom_execution_callback_classes[:] = [*others, pace]
