"""What may die in a run, and what must not be lost by it:

- the driver (SIGKILL): the same command again ends with the tables of an undisturbed run, and no leftovers;
- an engine's process (SIGKILL): the run ends by itself with the same tables;
- the process that reads (SIGKILL), with blocks handed on and parts written, and one that commits: likewise;
- a sample that kills its decoder's or its engine's process: that sample is rejected, and no other.
"""

import contextlib
import os
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(300)]

SLOW_READER = """
import os, pathlib, time
from pipeline.samples.decode import decode as default

HERE = pathlib.Path(__file__).parent
WAIT = HERE / "wait"

def decode(data, field, needs):
    for medium in default(data, field, needs):
        if medium.width == 1224 and WAIT.exists():
            (HERE / "waiting").write_text(str(os.getpid()))
            while WAIT.exists():
                time.sleep(0.01)
        yield medium
"""


def wait_for(what: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    """Until it is so; fails with what the process printed when that ends before."""
    deadline = time.monotonic() + 120
    while not what():
        if process.poll() is not None or time.monotonic() > deadline:
            os.killpg(process.pid, signal.SIGKILL)
            pytest.fail(f"it never came to that: {process.communicate()[0]}")
        time.sleep(0.01)


def kill_at_work(process: subprocess.Popen[str], title: str) -> bool:
    """SIGKILL to one process below the run that is busy with the task of this name; it is stopped first and looked at again."""
    for worker in psutil.Process(process.pid).children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            if worker.cmdline()[:1] == [title]:
                worker.suspend()
                if worker.cmdline()[:1] == [title]:
                    worker.kill()
                    return True
                worker.resume()
    return False


def test_after_the_driver_is_killed_the_same_command_ends_like_an_undisturbed_run_even_if_an_engine_dies_too(
    corpus: Any, undisturbed: dict[str, Any]
) -> None:
    process = corpus.start("output")
    wait_for((corpus.path / "called").exists, process)
    time.sleep(0.5)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    (corpus.path / "die-once").touch()
    corpus.caption("output")
    assert not (corpus.path / "die-once").exists()
    assert corpus.tables("output") == undisturbed
    assert corpus.leftovers("output") == []


def test_a_reader_and_a_committer_that_are_killed_cost_nothing(corpus: Any, undisturbed: dict[str, Any]) -> None:
    (corpus.path / "slow_reader.py").write_text(SLOW_READER)
    (corpus.path / "wait").touch()
    process = corpus.start("output", "--decoder", "slow_reader:decode")
    wait_for(lambda: kill_at_work(process, "ray::MapBatches(counted_commit)"), process)
    wait_for(lambda: any((corpus.path / "output/_parts/e").rglob("*.parquet")) and (corpus.path / "waiting").exists(), process)
    reader = psutil.Process(int((corpus.path / "waiting").read_text()))
    assert reader.cmdline()[0].startswith("ray::ReadShard")
    reader.suspend()
    (corpus.path / "wait").unlink()
    reader.kill()
    corpus.finish(process)
    assert corpus.tables("output") == undisturbed
    assert corpus.leftovers("output") == []


def test_a_sample_that_kills_its_engine_costs_that_sample_alone(corpus: Any) -> None:
    (corpus.path / "poison-engine").touch()
    corpus.caption("output")
    found = corpus.by_key("output")
    assert {key for key, row in found.items() if row["status"] != "success"} == {"b-017"}
    assert found["b-017"]["reason"] == "crashed" and len(found) == 144
    assert [member["name"] for member in corpus.quarantine("output", "b")[0]["members"]] == ["b-017.png", "b-017.txt"]
    assert corpus.leftovers("output") == []


def test_a_sample_that_kills_its_decoder_costs_that_sample_alone_and_can_be_replayed(corpus: Any) -> None:
    with tarfile.open(corpus.path / "shards/b.tar") as tar:
        (corpus.path / "poison-decoder").write_text(str(tar.getmember("b-017.png").size))
    corpus.caption("output", "--decoder", "user_module:decode")
    found = corpus.by_key("output")
    assert {key: row["reason"] for key, row in found.items() if row["status"] != "success"} == {"b-017": "crashed"}
    (corpus.path / "poison-decoder").write_text("-1")
    command = [sys.executable, "-m", "jobs.cli", "replay", str(corpus.path / "output")]
    again = subprocess.run(command, cwd=corpus.path, env=corpus.environment, capture_output=True, text=True, timeout=200, check=False)
    assert again.returncode == 0, again.stdout + again.stderr
    found = corpus.by_key("output")
    assert {row["status"] for row in found.values()} == {"success"} and len(found) == 144
    assert found["b-017"]["caption"] == "30 x 77 poison"
    assert not Path(corpus.path / "output/quarantine/b.parquet").exists()
