"""The child process of `guard.Guard`: items in, results or an exception out, over an inherited socket.

Ends when its parent does, however that ends.
"""

import contextlib
import ctypes
import importlib
import os
import signal
import sys
from collections.abc import Callable, Iterable
from multiprocessing.connection import Connection
from typing import Any

from pipeline.errors import SampleError
from pipeline.samples.guard import memory_bound

_PR_SET_PDEATHSIG = 1


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
    with memory_bound(memory_bytes):
        while True:
            _answer(connection, function, connection.recv())


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


def _die_with(parent: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        sys.exit(1)


def main() -> None:
    """Takes the socket's descriptor and the parent's process id from the command line."""
    _die_with(int(sys.argv[2]))
    with contextlib.suppress(EOFError, ConnectionError), Connection(int(sys.argv[1])) as connection:
        serve(connection)


if __name__ == "__main__":
    main()
