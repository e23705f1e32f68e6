"""Peak memory of the driver and of a worker with 10 times the archives: bound 1.10 of the peak with once."""

import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import psutil
from corpus import write_pictures

SHARDS, SAMPLES, PERIOD_S = 6, 100, 0.2


def peaks(folder: Path, output: Path) -> dict[str, float]:
    """Peak USS in MiB of the driver, and of the largest worker that ever ran a task."""
    command = [sys.executable, "-m", "jobs.cli", "caption", str(folder), "--output", str(output), "--engine", "facts"]
    driver = psutil.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    found = {"driver USS": 0.0, "driver RSS": 0.0, "worker USS": 0.0, "worker RSS": 0.0}
    while driver.poll() is None:
        with suppress(psutil.Error):
            _sample(driver, "driver", found)
            for child in driver.children(recursive=True):
                with suppress(psutil.Error):
                    if "ray::" in " ".join(child.cmdline()[:1]):
                        _sample(child, "worker", found)
        time.sleep(PERIOD_S)
    if driver.returncode:
        raise RuntimeError(f"caption ended with {driver.returncode}")
    return found


def _sample(process: psutil.Process, name: str, found: dict[str, float]) -> None:
    memory = process.memory_full_info()
    found[f"{name} USS"] = max(found[f"{name} USS"], memory.uss / 2**20)
    found[f"{name} RSS"] = max(found[f"{name} RSS"], memory.rss / 2**20)


def main() -> None:
    """RSS counts the shared object store too; USS does not."""
    with tempfile.TemporaryDirectory() as name:
        once, tenfold = (Path(name, folder) for folder in ("once", "tenfold"))
        write_pictures(once, SHARDS, SAMPLES)
        write_pictures(tenfold, SHARDS * 10, SAMPLES)
        few, many = (peaks(folder, Path(name, f"output-{folder.name}")) for folder in (once, tenfold))
        for what in few:
            print(
                f"{what:<12} {SHARDS} archives {few[what]:8.1f} MiB   {SHARDS * 10} archives {many[what]:8.1f} MiB   x {many[what] / few[what]:.3f}"
            )


if __name__ == "__main__":
    main()
