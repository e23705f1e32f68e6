"""How far engines scale: a fixed latency a call, logical CPUs, work in proportion to workers; and what a shard costs the driver.

    scaling.py [workers ...]        1 2 4 8 16 without any
    scaling.py driver [archives]    driver CPU and memory by archive

Samples a second from the first call's begin to the last call's end, against one worker times workers. The engine sleeps, so that two
cores bear sixteen of it; what is measured is whether the rest keeps up.
"""

import os
import resource
import sys
import tempfile
import time
from pathlib import Path

import engines
import psutil
from corpus import show, write_pictures

from jobs import caption
from jobs.cluster import session
from jobs.run import execute
from pipeline.captions.engine import EngineConfig

CALLS, MICRO_BATCH, CALL_MS = 40, 16, 400


class Brief(engines.Sleeping):
    """Small blocks, so that a short run has many."""

    rows_per_call = 32


def engine_rate(folder: Path, workers: int) -> tuple[float, float]:
    """(samples/s, share of the time that the engines were busy)."""
    shards = folder / f"in-{workers}"
    write_pictures(shards, 2 * workers, CALLS * MICRO_BATCH // 2)
    engine = EngineConfig(engine="scaling:Brief", model=f"0,{CALL_MS}", device="cpu")
    config = caption.CaptionConfig((str(shards),), output=str(folder / f"out-{workers}"), engine=engine, workers=workers)
    job = caption.prepare(config)
    execute(job.run, caption.steps_of(job))
    log = engines.calls()
    spent = max(end for _, end, _ in log) - min(begin for begin, _, _ in log)
    return sum(media for _, _, media in log) / spent, sum(end - begin for begin, end, _ in log) / spent / workers


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
    for workers, (rate, busy) in rates.items():
        efficiency = rate / (rates[counts[0]][0] / counts[0] * workers)
        show({f"{workers} workers": [rate]}, f"samples/s, efficiency {efficiency:.3f}, engines busy {busy:.3f}")


if __name__ == "__main__":
    main()
