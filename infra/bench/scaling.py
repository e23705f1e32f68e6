"""How far engines scale: a fixed latency a call, logical CPUs, work in proportion to workers; and what a shard costs the driver.

    scaling.py [workers ...]        1 2 4 8 16 without any
    scaling.py driver [archives]    driver CPU and memory by archive

Samples a second and the engines' busy share while all of them are at work: from the moment the last one has begun its first call to the
moment the first one has ended its last. Starting sixteen processes on two cores is told apart. The engine sleeps, so that two cores bear
sixteen of it; what is measured is whether the rest keeps up.
"""

import os
import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import engines
import psutil
from corpus import write_pictures

from jobs import caption
from jobs.cluster import session
from jobs.run import execute
from pipeline.captions.engine import Caption, EngineConfig
from pipeline.samples.medium import Medium

CALLS, MICRO_BATCH, CALL_MS = 80, 16, 400


class Brief(engines.Sleeping):
    """Small blocks, so that a short run has many."""

    rows_per_call = 32

    def __call__(self, batch: list[Medium]) -> list[Caption]:
        """Device work, logged with the process that did it."""
        began = time.monotonic()
        time.sleep(self._call_s)
        with open(os.environ[engines.LOG], "a") as log:
            log.write(f"{os.getpid()} {began} {time.monotonic()} {len(batch)}\n")
        return [Caption("slept", finish_reason="stop") for _ in batch]


class Steady(NamedTuple):
    """While all workers were at work."""

    seconds: float
    rate: float
    """Samples a second."""
    busy: float
    """Share of the time that an engine was in a call."""
    whole_s: float
    """From the first call to the last, starts of processes included."""


def engine_rate(folder: Path, workers: int) -> Steady:
    """One run of its own size."""
    shards = folder / f"in-{workers}"
    write_pictures(shards, 2 * workers, CALLS * MICRO_BATCH // 2)
    engine = EngineConfig(engine="scaling:Brief", model=f"0,{CALL_MS}", device="cpu")
    config = caption.CaptionConfig((str(shards),), output=str(folder / f"out-{workers}"), engine=engine, workers=workers)
    job = caption.prepare(config)
    execute(job.run, caption.steps_of(job))
    path = Path(os.environ[engines.LOG])
    log = [(int(pid), float(begin), float(end), int(n)) for pid, begin, end, n in (line.split() for line in path.read_text().splitlines())]
    path.unlink()
    pids = {pid for pid, *_ in log}
    assert len(pids) == workers, f"{len(pids)} of {workers} workers did anything"
    low = max(min(begin for who, begin, _, _ in log if who == pid) for pid in pids)
    high = min(max(end for who, _, end, _ in log if who == pid) for pid in pids)
    shares = [(max(0.0, min(end, high) - max(begin, low)), end - begin, n) for _, begin, end, n in log]
    rate = sum(n * inside / whole for inside, whole, n in shares) / (high - low)
    busy = sum(inside for inside, _, _ in shares) / (high - low) / workers
    return Steady(high - low, rate, busy, max(end for _, _, end, _ in log) - min(begin for _, begin, _, _ in log))


def driver(folder: Path, archives: int) -> None:
    """A run over many tiny archives."""
    write_pictures(folder / "many", archives, 1)
    config = caption.CaptionConfig((str(folder / "many"),), output=str(folder / "out-many"), engine=EngineConfig(engine="facts"))
    began, before = time.process_time(), psutil.Process().memory_full_info().uss
    wall = time.monotonic()
    job = caption.prepare(config)
    planned = time.process_time() - began
    execute(job.run, caption.steps_of(job))
    spent = time.process_time() - began
    grown = psutil.Process().memory_full_info().uss - before
    print(f"{archives} archives: driver {spent:.2f} s CPU ({planned:.2f} s of it planning), {spent / archives * 1000:.2f} s a thousand")
    print(
        f"driver memory +{grown / 2**20:.0f} MiB (peak {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MiB), {time.monotonic() - wall:.1f} s"
    )


def main() -> None:
    """One Ray with enough logical CPUs for everything."""
    import ray

    words = sys.argv[1:]
    os.environ["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ[engines.LOG] = str(folder / "calls.log")
        ray.init(address="local", num_cpus=24, include_dashboard=False, logging_level="ERROR", log_to_driver=False)
        with session("", verbose=False):
            measure(folder, words)
        ray.shutdown()


def measure(folder: Path, words: list[str]) -> None:
    """What was asked for."""
    if words[:1] == ["driver"]:
        driver(folder, int(words[1]) if len(words) > 1 else 400)
        return
    counts = [int(word) for word in words] or [1, 2, 4, 8, 16]
    rates = {workers: engine_rate(folder, workers) for workers in counts}
    for workers, found in rates.items():
        efficiency = found.rate / (rates[counts[0]].rate / counts[0] * workers)
        print(
            f"{workers:3} workers: {found.rate:8.1f} samples/s for {found.seconds:.1f} s of {found.whole_s:.1f}, "
            f"efficiency {efficiency:.3f}, engines busy {found.busy:.3f}"
        )


if __name__ == "__main__":
    main()
