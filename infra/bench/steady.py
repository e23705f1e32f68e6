"""`caption` against its engine alone: the same media, decoded beforehand, in the same batches."""

import os
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import engines
import pyarrow as pa

from jobs import caption
from jobs.cluster import session
from jobs.run import execute, tasks_of
from pipeline.captions.engine import EngineConfig, create
from pipeline.captions.stage import media_of
from pipeline.samples.medium import Medium
from pipeline.samples.source import read_shard


@contextmanager
def bench() -> Iterator[Path]:
    """A temporary folder and one Ray session whose workers can import the engines here."""
    sys.path.append(os.getcwd())
    with tempfile.TemporaryDirectory() as name:
        os.environ[engines.LOG] = str(Path(name, "calls.log"))
        os.environ["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
        began = time.monotonic()
        with session("", verbose=False):
            print(f"Ray start, apart: {time.monotonic() - began:.1f} s", flush=True)
            yield Path(name)


def job_of(folder: Path, engine: EngineConfig) -> caption.Job:
    """A planned run into a fresh output."""
    output = tempfile.mkdtemp(dir=folder, prefix="output-")
    return caption.prepare(caption.CaptionConfig((str(folder / "shards"),), output=output, engine=engine))


def through(folder: Path, engine: EngineConfig) -> tuple[float, float]:
    """(seconds from the first call's begin to the last call's end, seconds before the first call) of a whole run."""
    job = job_of(folder, engine)
    began = time.monotonic()
    execute(job.run, caption.steps_of(job))
    log = engines.calls()
    total = sum(media for _, _, media in log)
    assert total == job.run.tally.samples, (total, job.run.tally.samples)
    return log[-1][1] - log[0][0], log[0][0] - began


def batches(folder: Path, engine: EngineConfig) -> list[list[Medium]]:
    """All media, decoded, in the batches that the stage makes of them."""
    job = job_of(folder, engine)
    table = pa.concat_tables([table for task in tasks_of(job.run) for table in read_shard(task, caption.read_config(job))])
    found = []
    for start in range(0, table.num_rows, job.info.rows_per_call):
        block = table.slice(start, job.info.rows_per_call)
        at = [number for number, status in enumerate(block.column("size").to_pylist()) if status is not None]
        media = sorted(media_of(block, at), key=lambda medium: -(medium.duration_s or 0.0))
        found += [media[first : first + job.info.micro_batch] for first in range(0, len(media), job.info.micro_batch)]
    return found


def alone(groups: list[list[Medium]], engine: EngineConfig) -> float:
    """Seconds of collate and call, one after the other; loading is apart."""
    loaded = create(engine)
    began = time.monotonic()
    for group in groups:
        loaded.run(loaded.collate(group))
    spent = time.monotonic() - began
    engines.calls()
    loaded.close()
    return spent
