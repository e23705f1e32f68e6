"""How far engines scale: a fixed latency a call, logical CPUs, work in proportion to workers; and what a shard costs the driver.

    scaling.py [workers ...]        16 without any; one at a time is the quietest
    scaling.py driver [archives]    driver CPU and memory by archive

Samples a second and the engines' busy share while all of them are at work (from the moment the last one has begun its first call to the
moment the first one has ended its last), and from the first call to the last, where starting sixteen processes on two cores counts. The
engine sleeps, two seconds a call of sixteen pictures: sixteen engines then take 128 samples a second, about a fifth of what two cores read,
decode and commit, so that it is not the cores that are measured. The share of the cores in use is printed, to prove that.
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

CALLS, MICRO_BATCH, CALL_MS = 75, 16, 2000


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
    """One run."""

    seconds: float
    """While all workers were at work."""
    rate: float
    """Samples a second meanwhile."""
    busy: float
    """Share of that time that an engine was in a call."""
    whole_s: float
    """From the first call to the last, starts of processes included."""
    whole_rate: float
    cores: float
    """Share of the machine's cores in use, from before the first call to the end."""
    driver: float
    """Cores that the driver took."""


def engine_rate(folder: Path, workers: int) -> Steady:
    """One run of its own size."""
    shards = folder / f"in-{workers}"
    write_pictures(shards, 1, CALLS * MICRO_BATCH // 2)
    for number in range(1, 2 * workers):
        os.link(shards / "000000.tar", shards / f"{number:06d}.tar")
    engine = EngineConfig(engine="scaling:Brief", model=f"0,{CALL_MS}", device="cpu")
    config = caption.CaptionConfig((str(shards),), output=str(folder / f"out-{workers}"), engine=engine, workers=workers)
    job = caption.prepare(config)
    psutil.cpu_percent()
    began, spent = time.monotonic(), time.process_time()
    execute(job.run, caption.steps_of(job))
    cores, driver = psutil.cpu_percent() / 100, (time.process_time() - spent) / (time.monotonic() - began)
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
    whole_s = max(end for _, _, end, _ in log) - min(begin for _, begin, _, _ in log)
    return Steady(high - low, rate, busy, whole_s, sum(n for *_, n in log) / whole_s, cores, driver)


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
    for workers in [int(word) for word in words] or [16]:
        found = engine_rate(folder, workers)
        ideal = workers * MICRO_BATCH / CALL_MS * 1000
        print(
            f"{workers:3} workers: {found.rate:7.2f} samples/s for {found.seconds:.1f} s, {found.rate / ideal:.3f} of what their calls alone allow, "
            f"engines busy {found.busy:.3f}; {found.whole_rate:7.2f} samples/s ({found.whole_rate / ideal:.3f}) for {found.whole_s:.1f} s in all; "
            f"cores {found.cores:.2f} in use, driver {found.driver:.3f} of one",
            flush=True,
        )


if __name__ == "__main__":
    main()
