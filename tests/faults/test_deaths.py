"""What may die in a run, and what must not be lost by it:

- the driver (SIGKILL): the same command again ends with the tables of an undisturbed run, and no leftovers;
- an engine's process (SIGKILL): the run ends by itself with the same tables;
- a sample that kills its decoder's or its engine's process: that sample is rejected, and no other.
"""

import io
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

ROOT = Path(__file__).parents[2]
pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(300)]

MODULE = """
import os, pathlib, signal, time
from pipeline.samples.decode import decode as default

HERE = pathlib.Path(__file__).parent

class Engine:
    accepts = ("image",)
    rows_per_call = 8
    micro_batch = 4

    def __init__(self, config):
        pass

    def __call__(self, media):
        (HERE / "called").touch()
        time.sleep(0.05)
        once = HERE / "die-once"
        if once.exists():
            once.unlink()
            os.kill(os.getpid(), signal.SIGKILL)
        if (HERE / "poison-engine").exists() and any(medium.text == "poison" for medium in media):
            os.kill(os.getpid(), signal.SIGSEGV)
        return [f"{medium.width} x {medium.height} {medium.text}" for medium in media]

def decode(data, field, needs):
    if len(data) == int((HERE / "poison-decoder").read_text()):
        os.kill(os.getpid(), signal.SIGSEGV)
    return default(data, field, needs)
"""


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """Four archives of 30 pictures; `b-017` of the second says `poison`."""
    from PIL import Image
    from webdataset import TarWriter

    (tmp_path / "user_module.py").write_text(MODULE)
    rng = np.random.default_rng(0)
    (tmp_path / "shards").mkdir()
    for shard in "abcd":
        with TarWriter(str(tmp_path / "shards" / f"{shard}.tar"), encoder=False, mtime=0) as writer:
            for number in range(30):
                data = io.BytesIO()
                Image.fromarray(rng.integers(0, 255, (20 + number + 40 * (shard == "b"), 30, 3), dtype=np.uint8)).save(data, "PNG")
                text = "poison" if (shard, number) == ("b", 17) else f"text {number}"
                writer.write({"__key__": f"{shard}-{number:03d}", "png": data.getvalue(), "txt": text.encode()})
    return tmp_path


def start(corpus: Path, output: str, *more: str) -> subprocess.Popen[str]:
    command = [
        sys.executable,
        "-m",
        "jobs.cli",
        "caption",
        str(corpus / "shards"),
        "-o",
        str(corpus / output),
        "--engine",
        "user_module:Engine",
        *more,
    ]
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{corpus}"}
    return subprocess.Popen(
        command, cwd=corpus, env=environment, start_new_session=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def finish(process: subprocess.Popen[str], code: int = 0) -> str:
    printed, _ = process.communicate(timeout=240)
    assert process.returncode == code, printed
    return printed


def rows(folder: Path) -> dict[str, Any]:
    return {path.name: pq.read_table(path).replace_schema_metadata(None) for path in sorted((folder / "captions").glob("*.parquet"))}


def leftovers(folder: Path) -> list[str]:
    return [str(path) for name in ("_parts", "_attempts") for path in (folder / name).rglob("*") if path.is_file()]


def by_key(folder: Path) -> dict[str, Any]:
    return {row["key"]: row for table in rows(folder).values() for row in table.to_pylist()}


def test_after_the_driver_is_killed_the_same_command_ends_like_an_undisturbed_run_even_if_an_engine_dies_too(corpus: Path) -> None:
    finish(start(corpus, "undisturbed"))
    (corpus / "called").unlink()
    process = start(corpus, "output")
    deadline = time.monotonic() + 120
    while not (corpus / "called").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    time.sleep(0.5)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    (corpus / "die-once").touch()
    finish(start(corpus, "output"))
    assert not (corpus / "die-once").exists()
    assert len(by_key(corpus / "output")) == 120
    assert rows(corpus / "output") == rows(corpus / "undisturbed")
    assert leftovers(corpus / "output") == []


def test_a_sample_that_kills_its_engine_costs_that_sample_alone(corpus: Path) -> None:
    (corpus / "poison-engine").touch()
    finish(start(corpus, "output"))
    found = by_key(corpus / "output")
    assert {key for key, row in found.items() if row["status"] != "success"} == {"b-017"}
    assert found["b-017"]["reason"] == "crashed" and len(found) == 120
    kept = pq.read_table(corpus / "output/quarantine/b.parquet").to_pylist()
    assert [member["name"] for member in kept[0]["members"]] == ["b-017.png", "b-017.txt"]
    assert leftovers(corpus / "output") == []


def test_a_sample_that_kills_its_decoder_costs_that_sample_alone_and_can_be_replayed(corpus: Path) -> None:
    import tarfile

    with tarfile.open(corpus / "shards/b.tar") as tar:
        (corpus / "poison-decoder").write_text(str(tar.getmember("b-017.png").size))
    finish(start(corpus, "output", "--decoder", "user_module:decode"))
    found = by_key(corpus / "output")
    assert {key: row["reason"] for key, row in found.items() if row["status"] != "success"} == {"b-017": "crashed"}
    (corpus / "poison-decoder").write_text("-1")
    command = [sys.executable, "-m", "jobs.cli", "replay", str(corpus / "output")]
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{corpus}"}
    again = subprocess.run(command, cwd=corpus, env=environment, capture_output=True, text=True, timeout=200, check=False)
    assert again.returncode == 0, again.stdout + again.stderr
    found = by_key(corpus / "output")
    assert {row["status"] for row in found.values()} == {"success"} and len(found) == 120
    assert found["b-017"]["caption"] == "30 x 77 poison"
    assert not (corpus / "output/quarantine/b.parquet").exists()
