"""The child process of `guard.Guard`: items in, results or an exception out, over an inherited socket.

Ends when its parent does, however that ends. Memory is bounded anew for each item.
"""

import contextlib
import fcntl
import importlib
import os
import resource
import signal
import sys
from collections.abc import Callable, Iterable
from multiprocessing.connection import Connection
from typing import Any

from pipeline.errors import SampleError
from pipeline.samples.guard import memory_bound


def serve(connection: Connection) -> None:
    """Builds the function that the parent names, then answers items until the parent hangs up."""
    factory, arguments, memory_bytes = connection.recv()
    try:
        module, _, attribute = factory.partition(":")
        function = getattr(importlib.import_module(module), attribute)(*arguments)
    except Exception as exc:
        connection.send(_text(exc))
        return
    connection.send(None)
    while True:
        item = connection.recv()
        connection.send("taken")
        with memory_bound(memory_bytes):
            _answer(connection, function, item)


def _answer(connection: Connection, function: Callable[[Any], Iterable[Any]], item: Any) -> None:
    try:
        answer: tuple[str, Any] = ("results", list(function(item)))
    except SampleError as exc:
        answer = ("sample", (exc.reason.value, exc.detail))
    except MemoryError as exc:
        answer = ("memory", _text(exc))
    except Exception as exc:
        # Torch reports a failed allocation as a RuntimeError.
        answer = ("memory" if "can't allocate memory" in str(exc) else "error", _text(exc))
    try:
        connection.send(answer)
    except MemoryError as exc:
        connection.send(("memory", _text(exc)))
    except (OSError, EOFError):
        raise
    except Exception as exc:
        # Results that cannot be pickled: nothing was sent yet.
        connection.send(("error", _text(exc)))


def _text(exc: Exception) -> str:
    return f"{type(exc).__name__}: {exc}"[:2000]


def _die_with(parent: int, lifeline: int) -> None:
    """The kernel kills this process group when the parent's end of the pipe closes, also in a loop of C that holds the GIL.

    Not PR_SET_PDEATHSIG: that fires when the thread that started this process ends, not when its process does.
    """
    fcntl.fcntl(lifeline, fcntl.F_SETOWN, -os.getpgrp())
    if sys.platform == "linux":
        fcntl.fcntl(lifeline, fcntl.F_SETSIG, signal.SIGKILL)
    fcntl.fcntl(lifeline, fcntl.F_SETFL, fcntl.fcntl(lifeline, fcntl.F_GETFL) | os.O_ASYNC)
    if os.getppid() != parent:
        sys.exit(1)


def main() -> None:
    """Takes the descriptors of the socket and of the lifeline and the parent's process id from the command line."""
    _die_with(int(sys.argv[3]), int(sys.argv[2]))
    _, hard = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (0, hard))
    with contextlib.suppress(EOFError, ConnectionError), Connection(int(sys.argv[1])) as connection:
        serve(connection)


if __name__ == "__main__":
    main()
