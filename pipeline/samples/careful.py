"""Work on samples that may kill its process, hang, or swallow memory: what that costs is the one sample.

On the ordinary path work runs here, under a watchdog that ends the process and a bound that raises MemoryError. Each chunk
of samples is marked in storage meanwhile: a marker found at the start of a chunk means that an earlier attempt died
there, and its samples go one by one to a child process. A chunk that went that way keeps its marker until the run's end:
whoever comes to it again, because the task died further on, must not die here once more.
"""

import importlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from pipeline.attempts import Attempts, Unit
from pipeline.errors import Reason, SampleError
from pipeline.samples.guard import Guard, Limits, Watchdog, data_bytes, memory_bound

Work = Callable[[Any], Iterable[Any]]


class Careful:
    """Runs `factory(*arguments)`, a function of one item that gives an iterable, or a list of all at once, here or in a child process."""

    def __init__(
        self,
        factory: str,
        arguments: tuple[Any, ...],
        limits: Limits,
        attempts: Attempts,
        suspects: Iterable[tuple[int, int]] = (),
    ) -> None:
        """`factory` is `module:callable`. `suspects`: inclusive index ranges that earlier runs died with."""
        module, _, attribute = factory.partition(":")
        self._work: Work = getattr(importlib.import_module(module), attribute)(*arguments)
        self._child = (factory, arguments, limits)
        self._limits = limits
        self._attempts = attempts
        self._suspects = tuple(suspects)
        self._watchdog = Watchdog(limits.seconds)
        self._guard: Guard | None = None
        self._died_here = False
        self._base_bytes: int | None = None

    def close(self) -> None:
        """Ends the child process; without it one process and its memory stay until this worker ends."""
        if self._guard is not None:
            self._guard.close()

    def is_suspect(self, index: int) -> bool:
        """True for a sample that earlier runs died with."""
        return any(lo <= index <= hi for lo, hi in self._suspects)

    @contextmanager
    def chunk(self, unit: Unit) -> Iterator[None]:
        """Around the work on one chunk, whose start is what memory is bounded from. `rest` before anything that is not work on a sample, such as a yield."""
        self._died_here = self._attempts.died([unit])
        self._base_bytes = data_bytes()
        try:
            with self._attempts.marked([unit], keep=self._died_here):
                yield
        finally:
            self._watchdog.rest()

    def rest(self) -> None:
        """No sample is being worked on."""
        self._watchdog.rest()

    def ahead(self, items: Any) -> None:
        """Tells the work what comes in this chunk, if it takes that (`ahead`), and if nothing died here before."""
        hook = getattr(self._work, "ahead", None)
        if hook is not None and not self._died_here:
            self._watchdog.watch()
            hook(items)

    def run(self, index: int, item: Any) -> Iterator[Any]:
        """What the work gives for an item. Raises SampleError, also for one that kills, hangs or asks for too much memory."""
        if self._died_here or self.is_suspect(index):
            if self._guard is None:
                self._guard = Guard(*self._child)
            yield from self._guard.run(item)
            return
        made: Iterable[Any] | None = None
        while True:
            try:
                self._watchdog.watch()
                with memory_bound(self._limits.memory_bytes, self._base_bytes):
                    made = self._work(item) if made is None else made
                    if isinstance(made, list):  # all is done; the bound costs 0.01 ms each time
                        break
                    made = iter(made)
                    result = next(made)
            except StopIteration:
                return
            except MemoryError as exc:
                raise SampleError(Reason.OUT_OF_BOUNDS_MEMORY, f"asked for more than {self._limits.memory_bytes >> 20} MiB") from exc
            yield result
        yield from made
