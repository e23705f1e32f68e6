"""Whole runs of `nightcap train` on Ray, killed at chosen steps.

A worker that dies is started again by Ray from the newest checkpoint; a driver that dies leaves an output from which the same command
goes on inside the epoch, here with another number of workers. In the end every sample was trained once an epoch: what checkpoints
count, fed sample by fed sample, is exactly the samples of all epochs, and the progress says that none is missing.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.storage import Folder
from pipeline.training.checkpoints import Checkpoints
from pipeline.training.metrics import metrics_path
from tests.training.small import write_prepared

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(300)]

ROOT = Path(__file__).parents[2]
SAMPLES, EPOCHS = 103, 2

# Stands beside the data, where the workers of Ray find it by its name.
DEADLY = """
import os, pathlib, signal, sys, time

HERE = pathlib.Path(__file__).parent
STEPS = HERE / "steps"

def work(config):
    from pipeline.training import loop, worker

    plain = loop.Training._step

    def step(self, feds):
        plain(self, feds)
        at, rank = self.standing.spent.steps, self._world.rank
        with (HERE / f"steps-{rank}").open("a") as file:
            file.write(f"{at}\\n")
        for victim in ("worker", "driver"):
            order = HERE / f"kill-{victim}-at"
            if rank == 0 and order.exists() and int(order.read_text()) == at:
                self._checkpoints.wait()
                order.unlink()
                os.kill(os.getpid() if victim == "worker" else int((HERE / "driver").read_text()), signal.SIGKILL)
                time.sleep(60)

    loop.Training._step = step
    worker.work(config)

if __name__ == "__main__":
    import pipeline.training.worker
    import deadly
    from jobs import train
    from jobs.cli import main

    (HERE / "driver").write_text(str(os.getpid()))
    pipeline.training.worker.work, plain_work = deadly.work, pipeline.training.worker.work
    main(sys.argv[1:])
"""


def run(folder: Path, *more: str) -> subprocess.CompletedProcess[str]:
    shape = ["--backbone", "resnet18", "--backbone-stride", "8", "--input-px", "32", "--text-model", "tiny", "--max-tokens", "8"]
    how = ["--batch-size", "4", "--checkpoint-steps", "3", "--precision", "float32", "--epochs", str(EPOCHS), "--validation-share", "0"]
    command = [sys.executable, str(folder / "deadly.py"), "train", str(folder / "data"), "-o", str(folder / "out"), *shape, *how, *more]
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{folder}", "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=200, check=False)


def newest(folder: Path) -> dict[str, object]:
    found = Checkpoints(Folder(str(folder / "out")), 2).latest(pytest.fail)
    assert found is not None
    return found.state


def test_killed_worker_and_driver_every_sample_is_trained_once_an_epoch(tmp_path: Path) -> None:
    write_prepared(tmp_path / "data", (60, 43), group_rows=16, gaps=True)
    (tmp_path / "deadly.py").write_text(DEADLY)
    (tmp_path / "kill-worker-at").write_text("5")
    (tmp_path / "kill-driver-at").write_text("11")
    first = run(tmp_path, "--workers", "1")
    assert first.returncode == -9, first.stdout + first.stderr
    steps = [int(line) for line in (tmp_path / "steps-0").read_text().split()]
    assert steps == [1, 2, 3, 4, 5, 4, 5, 6, 7, 8, 9, 10, 11], "Ray began again after the checkpoint at step 3"
    state = newest(tmp_path)
    assert state["spent"]["samples"] == 36 and state["progress"]["finished"] == 0  # type: ignore[index]
    second = run(tmp_path, "--workers", "2")
    assert second.returncode == 0, second.stdout + second.stderr
    assert "going on after step 9" in second.stdout
    state = newest(tmp_path)
    assert state["progress"] == {"finished": EPOCHS, "begun": {}}
    assert state["spent"]["samples"] == SAMPLES * EPOCHS  # type: ignore[index]
    runs = sorted((tmp_path / "out/runs").iterdir())
    assert json.loads((tmp_path / "out" / metrics_path(runs[-1].name)).read_text().splitlines()[-1])["done"] == 1.0
    again = run(tmp_path)
    assert again.returncode == 0 and "is trained" in again.stdout
