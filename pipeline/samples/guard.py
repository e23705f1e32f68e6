"""Limits of time and memory for work that may kill its process: in a child process, or around a piece of this one.

`Guard` gives one item at a time to a child; what kills the child costs that item alone, and the next one gets a new
child. `watchdog` and `memory_bound` are the cheap forms for the ordinary path.
"""

import contextlib
import faulthandler
import functools
import os
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any, TextIO

from pipeline.errors import Reason, SampleError

REARM_S = 1.0
"""Seconds for which `Watchdog` lets a count stand before it starts it anew."""
START_S = 600.0
"""Seconds that a child may take to start, which includes loading an engine."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What one item may take; 0 or less for no limit."""

    seconds: float
    memory_bytes: int
    """Bytes above what the process holds before the item."""


class Guard:
    """Runs `factory(*arguments)` in a child process and gives its result one item at a time."""

    def __init__(self, factory: str, arguments: tuple[Any, ...], limits: Limits) -> None:
        """`factory` is `module:callable`; it returns a function of one item that gives an iterable. Starts nothing yet."""
        self._factory = factory
        self._arguments = arguments
        self._limits = limits
        self._process: subprocess.Popen[bytes] | None = None
        self._connection: Connection | None = None
        self._lifeline: int | None = None

    def run(self, item: Any) -> list[Any]:
        """The function's results for one item.

        Raises SampleError when the item kills the child, does not end or asks for too much memory, and for a
        SampleError of the function; RuntimeError for any other exception of it, and when the child cannot start.
        """
        connection = self._begin(item)
        try:
            if not connection.poll(self._limits.seconds if self._limits.seconds > 0 else None):
                self._stop()
                raise SampleError(Reason.HUNG, f"did not end within {self._limits.seconds:g} s")
            kind, payload = connection.recv()
        except (EOFError, ConnectionError) as exc:
            raise SampleError(Reason.CRASHED, self._stop(died=True)) from exc
        except BaseException:
            # Whatever else ends this call, an answer still on its way must not be taken for the next item's.
            self._stop()
            raise
        if kind == "results":
            return list(payload)
        if kind == "sample":
            raise SampleError(Reason(payload[0]), payload[1])
        if kind == "memory":
            self._stop()
            raise SampleError(Reason.OUT_OF_BOUNDS_MEMORY, f"asked for more than {self._limits.memory_bytes >> 20} MiB")
        raise RuntimeError(payload)

    def close(self) -> None:
        """Ends the child; without it the child and its memory stay until this process ends."""
        self._stop()

    def _begin(self, item: Any) -> Connection:
        """A child that has taken the item. What ended an idle child is not the item's fault: it gets a second one."""
        for last in (False, True):
            connection = self._started()
            try:
                connection.send(item)
                if not connection.poll(START_S):
                    raise RuntimeError(f"the child process for {self._factory} did not take an item within {START_S:g} s")
                connection.recv()
            except (EOFError, ConnectionError) as exc:
                ended = self._stop(died=True)
                if last:
                    raise SampleError(Reason.CRASHED, ended) from exc
            except BaseException:
                self._stop()
                raise
            else:
                break
        return connection

    def _started(self) -> Connection:
        if self._connection is not None:
            return self._connection
        ours, theirs = socket.socketpair()
        lifeline, self._lifeline = os.pipe()
        with theirs, open(lifeline, "rb"):
            self._connection = Connection(ours.detach())
            environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path)}
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "pipeline.samples.guard_child", str(theirs.fileno()), str(lifeline), str(os.getpid())],
                pass_fds=(theirs.fileno(), lifeline),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                env=environment,
                start_new_session=True,
            )
        try:
            self._connection.send((self._factory, self._arguments, self._limits.memory_bytes))
            if not self._connection.poll(START_S):
                raise RuntimeError(f"the child process for {self._factory} did not start within {START_S:g} s")
            failure = self._connection.recv()
        except (EOFError, ConnectionError) as exc:
            raise RuntimeError(f"the child process for {self._factory} died while starting: {self._stop(died=True)}") from exc
        except BaseException:
            self._stop()
            raise
        if failure is not None:
            self._stop()
            raise RuntimeError(f"the child process for {self._factory} failed to start: {failure}")
        return self._connection

    def _stop(self, *, died: bool = False) -> str:
        """Ends and reaps the child and what it started; how it ended, for a person."""
        process, connection = self._process, self._connection
        self._process = self._connection = None
        if connection is not None:
            connection.close()
        if process is None:
            self._let_go()
            return "no child process"
        if died:
            # Its end of the socket is closed a moment before its exit status is there.
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(5.0)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        ended = _ended(process.wait())
        self._let_go()
        return ended

    def _let_go(self) -> None:
        """Last, because it kills the child's process group, and a crash must be told from that."""
        lifeline, self._lifeline = self._lifeline, None
        if lifeline is not None:
            os.close(lifeline)


def _ended(code: int) -> str:
    if code >= 0:
        return f"ended with exit code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    return f"killed by {name}" + (", as the out-of-memory killer does" if name == "SIGKILL" else "")


@contextlib.contextmanager
def watchdog(seconds: float) -> Iterator[None]:
    """Ends this process, with a traceback of all threads, when the body takes longer; 0 or less for no limit.

    There is one a process: an inner or later one replaces it.
    """
    if seconds <= 0:
        yield
        return
    faulthandler.dump_traceback_later(seconds, exit=True, file=_real_stderr())
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()


class Watchdog:
    """`watchdog` for many short items: a clock reading each, where starting and ending the count costs 0.2 ms.

    An item is given between `seconds` and `seconds` + REARM_S, since the count is started anew at most that often.
    """

    def __init__(self, seconds: float) -> None:
        """0 or less for no limit."""
        self._seconds = seconds
        self._armed_s: float | None = None

    def watch(self) -> None:
        """Work on an item begins."""
        now = time.monotonic()
        if self._seconds > 0 and (self._armed_s is None or now - self._armed_s > REARM_S):
            faulthandler.dump_traceback_later(self._seconds + REARM_S, exit=True, file=_real_stderr())
            self._armed_s = now

    def rest(self) -> None:
        """No item is worked on: time that passes now counts for none."""
        if self._armed_s is not None:
            faulthandler.cancel_dump_traceback_later()
            self._armed_s = None


def _real_stderr() -> TextIO:
    """A stream with a file descriptor, which faulthandler needs and a replaced stderr may lack."""
    stream = sys.__stderr__
    try:
        if stream is not None and stream.fileno() >= 0:
            return stream
    except (OSError, ValueError):
        pass
    return _null()


@functools.cache
def _null() -> TextIO:
    # Never closed: the thread of faulthandler writes to it as long as the process lives.
    return open(os.devnull, "w")


def data_bytes() -> int | None:
    """Bytes of data the process has mapped, as RLIMIT_DATA counts them (proc(5), statm); None off Linux."""
    try:
        with open("/proc/self/statm", "rb") as stream:
            return int(stream.read().split()[5]) * resource.getpagesize()
    except OSError:
        return None


@contextlib.contextmanager
def memory_bound(extra_bytes: int, base_bytes: int | None = None) -> Iterator[None]:
    """Allocations of the body beyond `extra_bytes` more than now raise MemoryError; 0 or less for no limit; no-op off Linux.

    `base_bytes` stands for what the process holds now: finding that out costs 0.05 ms, which many short items share. The bound
    is the whole process's: other threads fall under it as well.
    """
    now = None
    if extra_bytes > 0:
        now = data_bytes() if base_bytes is None else base_bytes
    if now is None:
        yield
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    bounds = [bound for bound in (now + extra_bytes, soft, hard) if bound != resource.RLIM_INFINITY]
    resource.setrlimit(resource.RLIMIT_DATA, (min(bounds), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))
