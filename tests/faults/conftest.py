"""A corpus, an engine whose faults are switched on by files beside it, and whole runs of the command as processes."""

import io
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

ROOT = Path(__file__).parents[2]
SMALL, SAMPLES = "abcd", 30
LARGE = 24

MODULE = """
import os, pathlib, signal, time
from pipeline.samples.decode import decode as default

HERE = pathlib.Path(__file__).parent

class Engine:
    accepts = ("image",)
    rows_per_call = 8
    micro_batch = 4

    def __init__(self, config):
        meeting = HERE / "meet"
        if meeting.is_dir():
            (meeting / str(os.getpid())).touch()
            deadline = time.monotonic() + 60
            while len(list(meeting.iterdir())) < 2 and time.monotonic() < deadline:
                time.sleep(0.01)

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


@dataclass(frozen=True, slots=True)
class Corpus:
    """A folder with archives in `shards` and `user_module.py`; outputs lie beside them."""

    path: Path

    @property
    def environment(self) -> dict[str, str]:
        """In which `nightcap` and the module are found."""
        return {**os.environ, "PYTHONPATH": f"{ROOT}:{self.path}"}

    def command(self, output: str, *more: str) -> list[str]:
        """`nightcap caption` of all archives."""
        words = ["caption", str(self.path / "shards"), "-o", str(self.path / output), "--engine", "user_module:Engine"]
        return [sys.executable, "-m", "jobs.cli", *words, *more]

    def start(self, output: str, *more: str) -> subprocess.Popen[str]:
        """A run in a process group of its own."""
        return subprocess.Popen(
            self.command(output, *more),
            cwd=self.path,
            env=self.environment,
            start_new_session=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def caption(self, output: str, *more: str, code: int = 0) -> str:
        """A whole run; what it printed."""
        return self.finish(self.start(output, *more), code)

    @staticmethod
    def finish(process: subprocess.Popen[str], code: int = 0) -> str:
        """Waits for a run that must end with the exit code; what it printed."""
        printed, _ = process.communicate(timeout=240)
        assert process.returncode == code, printed
        return printed

    def add_shard(self, name: str, samples: Sequence[tuple[str, bytes, str]]) -> None:
        """Writes `shards/NAME.tar` of (key, PNG, text)."""
        from webdataset import TarWriter

        with TarWriter(str(self.path / "shards" / f"{name}.tar"), encoder=False, mtime=0) as writer:
            for key, png, text in samples:
                writer.write({"__key__": key, "png": png, "txt": text.encode()})

    def tables(self, output: str) -> dict[str, Any]:
        """Caption tables by file name, without their metadata, which names the run."""
        found = sorted((self.path / output / "captions").glob("*.parquet"))
        return {path.name: pq.read_table(path).replace_schema_metadata(None) for path in found}

    def by_key(self, output: str) -> dict[str, Any]:
        """Caption rows by key."""
        return {row["key"]: row for table in self.tables(output).values() for row in table.to_pylist()}

    def quarantine(self, output: str, name: str) -> list[dict[str, Any]]:
        """The quarantine table of one archive."""
        return list(pq.read_table(self.path / output / "quarantine" / f"{name}.parquet").to_pylist())

    def leftovers(self, output: str) -> list[str]:
        """Parts, markers and temporary files: a finished run leaves none."""
        folder = self.path / output
        return [
            str(path.relative_to(folder))
            for path in folder.rglob("*")
            if path.is_file() and (path.relative_to(folder).parts[0] in ("_parts", "_attempts", "_redo") or path.name.startswith(".tmp-"))
        ]


def png(pixels_hwc: np.ndarray) -> bytes:
    from PIL import Image

    data = io.BytesIO()
    Image.fromarray(pixels_hwc).save(data, "PNG")
    return data.getvalue()


def write_corpus(folder: Path) -> Corpus:
    """Four archives of 30 small pictures, which are committed whole, and one of 24 large ones, which travels in three blocks.

    `b-017` says `poison`; `e-020`, read when two blocks of its archive were handed on, is 1224 pixels wide, the others 1200.
    """
    (folder / "user_module.py").write_text(MODULE)
    (folder / "poison-decoder").write_text("-1")
    (folder / "shards").mkdir()
    corpus = Corpus(folder)
    rng = np.random.default_rng(0)
    for shard in SMALL:
        samples = []
        for number in range(SAMPLES):
            pixels_hwc = rng.integers(0, 255, (20 + number + 40 * (shard == "b"), 30, 3), dtype=np.uint8)
            samples.append((f"{shard}-{number:03d}", png(pixels_hwc), "poison" if (shard, number) == ("b", 17) else f"text {number}"))
        corpus.add_shard(shard, samples)
    large = [np.full((1000, 1224 if number == 20 else 1200, 3), number, np.uint8) for number in range(LARGE)]
    corpus.add_shard("e", [(f"e-{number:03d}", png(pixels_hwc), f"text {number}") for number, pixels_hwc in enumerate(large)])
    return corpus


@pytest.fixture
def corpus(tmp_path: Path) -> Corpus:
    return write_corpus(tmp_path)


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The caption tables of a run that nothing disturbs."""
    corpus = write_corpus(tmp_path_factory.mktemp("undisturbed"))
    printed = corpus.caption("output")
    assert "logging.cc" not in printed and "core_worker" not in printed, printed
    tables = corpus.tables("output")
    assert [(name, table.num_rows) for name, table in tables.items()] == [
        *((f"{name}.parquet", SAMPLES) for name in SMALL),
        ("e.parquet", LARGE),
    ]
    assert {status for table in tables.values() for status in table.column("status").to_pylist()} == {"success"}
    return tables
