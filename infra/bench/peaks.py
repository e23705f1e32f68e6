"""Peak memory of a run of `nightcap` and of its workers, looked at from outside."""

import os
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import psutil

PERIOD_S = 0.1


def peaks(arguments: list[str]) -> dict[str, float]:
    """Peaks in MiB of the driver and of the largest worker that ever ran a task, and seconds, of a run that must end with 0.

    USS is what a process holds alone; RSS counts Ray's shared object store as well.
    """
    started = time.monotonic()
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])}
    command = [sys.executable, "-m", "jobs.cli", *arguments]
    driver = psutil.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment)
    found = dict.fromkeys(("driver USS", "driver RSS", "worker USS", "worker RSS"), 0.0)
    while driver.poll() is None:
        with suppress(psutil.Error):
            _look(driver.pid, "driver", found)
            for child in driver.children(recursive=True):
                with suppress(psutil.Error):
                    if child.cmdline()[:1] and child.cmdline()[0].startswith("ray::"):
                        _look(child.pid, "worker", found)
        time.sleep(PERIOD_S)
    if driver.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {driver.returncode}")
    return {**found, "seconds": time.monotonic() - started}


def _look(pid: int, name: str, found: dict[str, float]) -> None:
    """The kernel's sums: going through every mapping, as psutil does, takes seconds with an object store mapped."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    except (FileNotFoundError, ProcessLookupError):
        return
    sizes = {line.split(":")[0]: int(line.split()[1]) / 1024 for line in lines}
    own = sizes["Private_Clean"] + sizes["Private_Dirty"]
    found[f"{name} USS"] = max(found[f"{name} USS"], own)
    found[f"{name} RSS"] = max(found[f"{name} RSS"], sizes["Rss"])
