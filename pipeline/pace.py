"""A pause in Ray Data's scheduling loop, which otherwise spins.

Ray waits for a task to yield a block. A reader that is ahead of its consumer has yielded one that back pressure keeps from being read, so
that the wait ends at once and the loop runs without a pause: 55 to 100 % of a core, taken from the trainer or engine on a machine with few
(py-spy, 2 cores, Ray 2.60, 2026-11: a training at 95 samples/s had 280/s from memory).
"""

import time
from typing import Any

PAUSE_S = 0.02
"""Seconds a turn; all that is ready is handled in each, so that it delays blocks of some MiB by a few percent of their decoding."""


class Pace:
    """For `DataContext.custom_execution_callback_classes`."""

    def before_execution_starts(self, executor: Any) -> None:
        """Nothing to do."""

    def on_execution_step(self, executor: Any) -> None:
        """Called once a turn of the loop."""
        time.sleep(PAUSE_S)

    def after_execution_succeeds(self, executor: Any) -> None:
        """Nothing to do."""

    def after_execution_fails(self, executor: Any, error: Exception) -> None:
        """Nothing to do."""


def set_pace(context: Any) -> None:
    """Adds the pause to a Ray `DataContext`, once."""
    if Pace not in context.custom_execution_callback_classes:
        context.custom_execution_callback_classes.append(Pace)
