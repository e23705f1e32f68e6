"""A disk that fills up in the middle of a run: a real one, of 52 KiB, where the tables alone need 60.

The run ends with exit code 1 and one line that says what to do; what was committed before stays. With more room the same
command finishes with the tables of an undisturbed run, and no leftovers.
"""

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(300)]

# A mount of this process and its children alone: nothing is left mounted, whatever ends the test.
ALONE = ["unshare", "--map-root-user", "--mount"]
TWICE = """
import pathlib, shutil, subprocess, sys
from jobs.cli import main
from jobs.cluster import session

disk, copy, *arguments = sys.argv[1:]

def run(name):
    try:
        main(arguments)
    except SystemExit as ended:
        print(f"{name} ended with {ended.code}", flush=True)
    print("held", *sorted(path.name for path in pathlib.Path(disk, "output").rglob("*.parquet")), flush=True)

subprocess.run(["mount", "-t", "tmpfs", "-o", "size=52k", "tmpfs", disk], check=True)
with session("local", verbose=False):
    run("first")
    subprocess.run(["mount", "-o", "remount,size=4m", disk], check=True)
    run("second")
shutil.copytree(pathlib.Path(disk, "output"), copy)
"""


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    if shutil.which("unshare") is None:
        pytest.skip("there is no unshare (util-linux) here to mount a small disk with")
    folder = tmp_path / "disk"
    folder.mkdir()
    trial = subprocess.run([*ALONE, "mount", "-t", "tmpfs", "tmpfs", str(folder)], capture_output=True, text=True, check=False)
    if trial.returncode != 0:
        pytest.skip(f"a small disk cannot be mounted here: {trial.stderr.strip()}")
    return folder


def test_a_full_disk_stops_the_run_with_one_line_and_with_room_it_ends_like_an_undisturbed_one(
    corpus: Any, disk: Path, undisturbed: dict[str, Any]
) -> None:
    (corpus.path / "twice.py").write_text(TWICE)
    arguments = ["caption", str(corpus.path / "shards"), "-o", str(disk / "output"), "--engine", "user_module:Engine"]
    ran = subprocess.run(
        [*ALONE, sys.executable, str(corpus.path / "twice.py"), str(disk), str(corpus.path / "output"), *arguments],
        cwd=corpus.path,
        env=corpus.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=240,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout
    first, second = ran.stdout.split("first ended with 1\n")
    said = [line for line in first.splitlines() if "No space" in line or "no room" in line]
    assert len(said) == 1 and "Traceback" not in first, first
    assert said[0].startswith(f"nightcap: no room left while writing {disk}") and said[0].endswith("run the same command again")
    assert ".parquet" in second.splitlines()[0], "nothing was committed before the disk was full"
    assert "second ended with 0\n" in second, second
    assert corpus.tables("output") == undisturbed
    assert corpus.leftovers("output") == []
