"""Guard: what kills, hangs or bloats a child costs that item alone; the limits around work in this process.

- a crash, an exit, an endless loop and a huge allocation each become one SampleError, and the next item works
- a SampleError travels as itself, other exceptions as RuntimeError, a factory's failure says so
- no child is left after close, nor after its parent was killed, nor a process that the child started
- what ends an idle child, and the end of the thread that started it, cost no item
- the memory bound raises MemoryError and is lifted afterwards; the watchdog ends a process that hangs
"""

import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from pipeline.errors import Reason, SampleError
from pipeline.samples.guard import Guard, Limits, memory_bound, watchdog

SOURCE = """
import ctypes, os, re, subprocess
from pipeline.errors import Reason, SampleError

def factory(word):
    def run(item):
        if item == "crash":
            ctypes.string_at(0)
        if item == "loop":
            while True:
                pass
        if item == "bloat":
            return [len(bytearray(10 << 30))]
        if item == "exit":
            os._exit(7)
        if item == "sample":
            raise SampleError(Reason.UNDECODABLE, "as it is")
        if item == "bug":
            raise KeyError("oops")
        if item == "unpicklable":
            return [lambda: None]
        if item == "pid":
            return [os.getpid()]
        if item == "start":
            return [subprocess.Popen(["sleep", "300"]).pid]
        if item == "stuck":
            re.match("(a+)+$", "a" * 60 + "b")
        if item == "print":
            print("noise", flush=True)
        return [word, item]
    return run

def broken():
    raise ValueError("no weights")

def dies():
    os._exit(3)
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "guarded_work.py").write_text(SOURCE)
    monkeypatch.syspath_prepend(str(tmp_path))
    return "guarded_work"


@pytest.fixture
def guard(module: str) -> Iterator[Guard]:
    guard = Guard(f"{module}:factory", ("hello",), Limits(seconds=1.0, memory_bytes=512 << 20))
    yield guard
    guard.close()


@pytest.mark.parametrize(
    ("item", "reason", "detail"),
    [
        ("crash", Reason.CRASHED, "SIGSEGV"),
        ("exit", Reason.CRASHED, "exit code 7"),
        ("loop", Reason.HUNG, "1 s"),
        ("stuck", Reason.HUNG, "1 s"),
        ("bloat", Reason.OUT_OF_BOUNDS_MEMORY, "512 MiB"),
        ("sample", Reason.UNDECODABLE, "as it is"),
    ],
)
def test_a_bad_item_is_a_reject_and_the_next_one_works(guard: Guard, item: str, reason: Reason, detail: str) -> None:
    with pytest.raises(SampleError) as caught:
        guard.run(item)
    assert caught.value.reason is reason
    assert detail in caught.value.detail
    assert guard.run("next") == ["hello", "next"]


def test_a_bug_is_a_runtime_error_and_not_the_samples_fault(guard: Guard) -> None:
    with pytest.raises(RuntimeError, match="KeyError: 'oops'"):
        guard.run("bug")
    with pytest.raises(RuntimeError, match="unpicklable|pickle|lambda"):
        guard.run("unpicklable")
    assert guard.run("print") == ["hello", "print"]


def test_large_items_and_results_pass(guard: Guard) -> None:
    item = bytes(50 << 20)
    assert guard.run(item) == ["hello", item]


@pytest.mark.parametrize(("factory", "text"), [("broken", "no weights"), ("dies", "exit code 3"), ("absent", "AttributeError")])
def test_a_factory_that_fails_says_so(module: str, factory: str, text: str) -> None:
    before = psutil.Process().children(recursive=True)
    guard = Guard(f"{module}:{factory}", (), Limits(5.0, 0))
    with pytest.raises(RuntimeError, match=text):
        guard.run("item")
    assert not set(psutil.Process().children(recursive=True)) - set(before)


def test_no_child_is_left_after_close_and_a_second_close_is_harmless(guard: Guard) -> None:
    before = psutil.Process().children(recursive=True)
    guard.run("item")
    assert set(psutil.Process().children()) - set(before)
    guard.close()
    guard.close()
    assert not set(psutil.Process().children(recursive=True)) - set(before)


def gone(pid: int) -> bool:
    """Waits up to 10 s for a process to end; one that nobody has reaped yet has ended."""
    for _ in range(1_000):
        try:
            if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
                return True
        except psutil.NoSuchProcess:
            return True
        time.sleep(0.01)
    return False


def test_what_the_child_started_ends_with_it(guard: Guard) -> None:
    (started,) = guard.run("start")
    assert psutil.pid_exists(started)
    guard.close()
    assert gone(started)


def test_an_idle_child_that_was_killed_costs_no_item(guard: Guard) -> None:
    (child,) = guard.run("pid")
    os.kill(child, signal.SIGKILL)
    assert gone(child)
    assert guard.run("next") == ["hello", "next"]


def test_the_child_outlives_the_thread_that_started_it(guard: Guard) -> None:
    found: list[list[int]] = []
    thread = threading.Thread(target=lambda: found.append(guard.run("pid")))
    thread.start()
    thread.join()
    assert guard.run("pid") == found[0]


@pytest.mark.parametrize("item", ["loop", "stuck"])
def test_a_child_dies_with_a_parent_that_is_killed_also_in_a_loop_of_c(module: str, tmp_path: Path, item: str) -> None:
    code = (
        "import sys\nfrom pipeline.samples.guard import Guard, Limits\n"
        f"guard = Guard('{module}:factory', ('x',), Limits(60.0, 0))\n"
        f"print(*guard.run('pid'), *guard.run('start'), flush=True)\nguard.run('{item}')\n"
    )
    path = os.pathsep.join([str(tmp_path), *filter(None, sys.path), os.getcwd()])
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": path}
    ) as parent:
        assert parent.stdout is not None
        child, started = (int(word) for word in parent.stdout.readline().split())
        parent.send_signal(signal.SIGKILL)
    assert gone(child)
    assert gone(started)


def test_the_memory_bound_raises_and_is_lifted_afterwards() -> None:
    before = resource.getrlimit(resource.RLIMIT_DATA)
    with pytest.raises(MemoryError), memory_bound(64 << 20):
        bytearray(1 << 30)
    assert resource.getrlimit(resource.RLIMIT_DATA) == before
    assert len(bytearray(256 << 20)) == 256 << 20
    with memory_bound(0):
        assert resource.getrlimit(resource.RLIMIT_DATA) == before


def test_the_watchdog_ends_a_process_that_hangs_and_leaves_one_that_does_not() -> None:
    with watchdog(60), watchdog(0):
        pass
    code = "import time\nfrom pipeline.samples.guard import watchdog\nwith watchdog(0.2):\n    pass\ntime.sleep(0.5)\n"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0
    code = "import time\nfrom pipeline.samples.guard import watchdog\nwith watchdog(0.2):\n    time.sleep(60)\n"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ended.returncode == 1
    assert "Timeout" in ended.stderr
