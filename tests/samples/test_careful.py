"""Careful work:

- a chunk whose attempt died is marked; the next attempt goes through a child process, and the sample that kills costs itself
- a chunk that went that way keeps its marker: a third attempt does not die there again
- a suspect goes to the child though its chunk did not die; results come in order, also several an item
- the watchdog for many items ends a process that hangs, and not one that pauses between chunks
"""

import faulthandler
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipeline.attempts import Attempts, Unit
from pipeline.errors import Reason, SampleError
from pipeline.samples.careful import Careful
from pipeline.samples.guard import REARM_S, Limits, Watchdog
from pipeline.storage import Folder

MODULE = """
import os, signal, time

def work():
    def run(item):
        if item == "die":
            os.kill(os.getpid(), signal.SIGSEGV)
        if item == "hang":
            time.sleep(60)
        yield item, os.getpid()
        yield item + "!", os.getpid()
    return run
"""
ATTEMPT = """
import sys
from tests_careful_module import work
from pipeline.attempts import Attempts, Unit
from pipeline.samples.careful import Careful
from pipeline.samples.guard import Limits
from pipeline.storage import Folder
careful = Careful("tests_careful_module:work", (), Limits(float(sys.argv[2]), 0), Attempts(Folder(sys.argv[1]), "run", "stage"))
with careful.chunk(Unit("a.tar", 0, 2)):
    for index, item in enumerate(sys.argv[3:]):
        list(careful.run(index, item))
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "tests_careful_module.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def attempt(folder: Path, *items: str, seconds: float = 30.0) -> int:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), os.getcwd()])}
    command = [sys.executable, "-c", ATTEMPT, str(folder / "out"), str(seconds), *items]
    return subprocess.run(command, env=environment, capture_output=True, timeout=60, check=False).returncode


def careful(folder: Path, **more: object) -> Careful:
    attempts = Attempts(Folder(str(folder / "out")), "run", "stage")
    return Careful("tests_careful_module:work", (), Limits(5.0, 0), attempts, **more)  # type: ignore[arg-type]


def test_after_a_death_the_chunk_goes_to_a_child_and_the_culprit_costs_itself(folder: Path) -> None:
    assert attempt(folder, "a", "die", "b") < 0
    for _ in range(2):  # the marker stays: whoever comes again does not die either
        guarded = careful(folder)
        with guarded.chunk(Unit("a.tar", 0, 2)):
            assert [text for text, _ in guarded.run(0, "a")] == ["a", "a!"]
            with pytest.raises(SampleError) as caught:
                list(guarded.run(1, "die"))
            assert [pid for _, pid in guarded.run(2, "b")] != [os.getpid()] * 2
        guarded.close()
        assert caught.value.reason is Reason.CRASHED
    other = careful(folder)
    with other.chunk(Unit("a.tar", 3, 5)):
        assert [pid for _, pid in other.run(3, "c")] == [os.getpid()] * 2


def test_a_chunk_that_ends_leaves_no_marker(folder: Path) -> None:
    assert attempt(folder, "a", "b") == 0
    assert [path for path in (folder / "out").rglob("*") if path.is_file()] == []


def test_a_suspect_goes_to_the_child(folder: Path) -> None:
    watched = careful(folder, suspects=((1, 1),))
    with watched.chunk(Unit("a.tar", 0, 2)):
        assert next(watched.run(0, "a"))[1] == os.getpid()
        assert next(watched.run(1, "b"))[1] != os.getpid()
    watched.close()


def test_a_hang_ends_the_process(folder: Path) -> None:
    began = time.monotonic()
    assert attempt(folder, "a", "hang", seconds=0.5) != 0
    assert time.monotonic() - began < 30


def test_the_watchdog_counts_no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[float | None] = []
    monkeypatch.setattr(faulthandler, "dump_traceback_later", lambda seconds, **_: calls.append(seconds))
    monkeypatch.setattr(faulthandler, "cancel_dump_traceback_later", lambda: calls.append(None))
    watchdog = Watchdog(0.2)
    for _ in range(2):
        watchdog.watch()
        watchdog.watch()  # the count goes on: starting it anew for every item would cost too much
        watchdog.rest()
        watchdog.rest()
    assert calls == [0.2 + REARM_S, None] * 2
    Watchdog(0).watch()
    assert len(calls) == 4
