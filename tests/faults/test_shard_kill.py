"""A driver of `nightcap shard` that is killed may cost the archives in flight, and nothing else: the same command ends with the
bytes of a run that nobody killed.
"""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def start(source: Path, output: Path) -> subprocess.Popen[bytes]:
    words = [sys.executable, "-m", "jobs.cli", "shard", str(source), "-o", str(output), "--max-samples", "50", "--shuffle", "1"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(words, env=environment, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT)


@pytest.mark.ray
@pytest.mark.slow
def test_killed_after_its_first_archives_and_run_again(tmp_path: Path) -> None:
    source = tmp_path / "in"
    source.mkdir()
    for number in range(2000):
        (source / f"{number}.jpg").write_bytes(b"\xff\xd8\xff" + number.to_bytes(4, "big") * 1000)
        (source / f"{number}.txt").write_text(f"picture {number}")
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    process = start(source, killed)
    deadline = time.monotonic() + 60
    while not list(killed.glob("shard-*.tar")) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    there = {path.name: path.stat().st_mtime_ns for path in killed.glob("shard-*.tar")}
    assert 0 < len(there) < 40 and not (killed / "sizes.json").exists()
    assert start(source, killed).wait(100) == 0 and start(source, whole).wait(100) == 0
    kept = {path.name: path.stat().st_mtime_ns for path in killed.glob("shard-*.tar") if path.name in there}
    assert kept == there
    found, expected = ({path.name: path.read_bytes() for path in folder.glob("*.*")} for folder in (killed, whole))
    assert len(expected) == 43 and {**found, "recipe.json": b""} == {**expected, "recipe.json": b""}
