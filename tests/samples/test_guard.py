"""Guard: what kills, hangs or bloats a child costs that item alone; the limits around work in this process.

- a crash, an exit, an endless loop and a huge allocation each become one SampleError, and the next item works
- a SampleError travels as itself, other exceptions as RuntimeError, a factory's failure says so
- no child is left after close
- the memory bound raises MemoryError and is lifted afterwards; the watchdog ends a process that hangs
"""

import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from pipeline.errors import Reason, SampleError
from pipeline.samples.guard import Guard, Limits, memory_bound, watchdog

SOURCE = """
import ctypes, os
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
    guard = Guard(f"{module}:{factory}", (), Limits(5.0, 0))
    with pytest.raises(RuntimeError, match=text):
        guard.run("item")
    assert not psutil.Process().children(recursive=True)


def test_no_child_is_left_after_close_and_a_second_close_is_harmless(guard: Guard) -> None:
    guard.run("item")
    assert psutil.Process().children()
    guard.close()
    guard.close()
    assert not psutil.Process().children(recursive=True)


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
