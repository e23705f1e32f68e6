"""Checkpoints on disk:

- the last few and the best are kept, and `model` holds the exported one;
- one that was cut, changed or not finished is passed over, and said;
- a disk that fills up stops with the last good one kept, and leaves nothing half written.
"""

import errno
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.errors import StoppedError
from pipeline.storage import Folder
from pipeline.training.checkpoints import Checkpoints

ROOT = Path(__file__).parents[2]
ALONE = ["unshare", "--map-root-user", "--mount"]


def writer(text: str) -> object:
    def write(folder: Path) -> None:
        (folder / "model.safetensors").write_text(text)
        (folder / "config.json").write_text("{}")
        (folder / "optimizer.safetensors").write_text("moments")

    return write


def save(checkpoints: Checkpoints, steps: int, *, export: bool = False, best: str | None = None) -> str:
    name = checkpoints.new_name(steps)
    checkpoints.save(name, writer(f"weights {steps}"), {"steps": steps}, export=export, best=best)  # type: ignore[arg-type]
    checkpoints.wait()
    checkpoints.check()
    return name


@pytest.fixture
def checkpoints(tmp_path: Path) -> Checkpoints:
    return Checkpoints(Folder(str(tmp_path)), keep=2)


def test_the_last_few_and_the_best_are_kept(checkpoints: Checkpoints, tmp_path: Path) -> None:
    best = save(checkpoints, 1, export=True)
    others = [save(checkpoints, steps, best=best) for steps in (5, 30, 200)]
    assert checkpoints.names() == [others[2], others[1], best]
    found = checkpoints.latest(pytest.fail)
    assert found is not None and found.name == others[2] and found.state == {"steps": 200}
    assert sorted(path.name for path in (tmp_path / "model").iterdir()) == ["config.json", "model.safetensors"]
    assert (tmp_path / "model/model.safetensors").read_text() == "weights 1"
    assert checkpoints.fetch(best, tmp_path / "unused") == tmp_path / "checkpoints" / best


def cut(folder: Path) -> None:
    (folder / "model.safetensors").write_text("weights")


def changed(folder: Path) -> None:
    (folder / "model.safetensors").write_text("weights 9")


def without_a_file(folder: Path) -> None:
    (folder / "optimizer.safetensors").unlink()


def without_its_end(folder: Path) -> None:
    (folder / "complete.json").unlink()


def with_half_its_end(folder: Path) -> None:
    (folder / "complete.json").write_text('{"model.safe')


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (cut, "has 7 of 9 bytes"),
        (changed, "has other bytes"),
        (without_a_file, "optimizer.safetensors is missing"),
        (without_its_end, "complete.json is missing"),
        (with_half_its_end, "complete.json cannot be read"),
    ],
)
def test_a_checkpoint_that_is_not_whole_is_passed_over_and_said(
    checkpoints: Checkpoints, tmp_path: Path, damage: object, said: str
) -> None:
    first, second = save(checkpoints, 1), save(checkpoints, 2)
    damage(tmp_path / "checkpoints" / second)  # type: ignore[operator]
    told: list[str] = []
    found = checkpoints.latest(told.append)
    assert found is not None and found.name == first
    assert len(told) == 1 and second in told[0] and said in told[0] and "the one before it is used" in told[0]


def test_where_none_is_whole_it_is_said_that_training_begins_anew(checkpoints: Checkpoints, tmp_path: Path) -> None:
    cut(tmp_path / "checkpoints" / save(checkpoints, 1))
    told: list[str] = []
    assert checkpoints.latest(told.append) is None
    assert len(told) == 1 and "training begins anew" in told[0]


def test_those_that_are_not_whole_hold_no_place_of_a_good_one(checkpoints: Checkpoints, tmp_path: Path) -> None:
    first, second, third = (save(checkpoints, steps) for steps in (10, 20, 30))
    assert first not in checkpoints.names()
    cut(tmp_path / "checkpoints" / third)
    fourth = save(checkpoints, 25)
    assert checkpoints.names() == [fourth, second]


def test_a_checkpoint_stays_when_those_before_it_cannot_be_tidied(checkpoints: Checkpoints, monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(safe: set[str]) -> None:
        raise OSError(errno.EIO, "the store does not answer")

    monkeypatch.setattr(checkpoints, "_tidy", gone)
    with pytest.raises(OSError, match="does not answer"):
        save(checkpoints, 1)
    found = checkpoints.latest(pytest.fail)
    assert found is not None and found.state == {"steps": 1}


def test_without_any_there_is_none(checkpoints: Checkpoints) -> None:
    assert checkpoints.latest(pytest.fail) is None


def test_what_a_killed_writer_left_is_swept(checkpoints: Checkpoints, tmp_path: Path) -> None:
    name = save(checkpoints, 1)
    shutil.copytree(tmp_path / "checkpoints" / name, tmp_path / "checkpoints/.tmp-abc/new")
    checkpoints.sweep()
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == [name]


def test_any_other_failure_of_the_writer_is_told_as_it_is(checkpoints: Checkpoints, tmp_path: Path) -> None:
    def broken(folder: Path) -> None:
        raise OSError(errno.EIO, "the disk is gone")

    checkpoints.save(checkpoints.new_name(1), broken, {}, export=False, best=None)
    assert not checkpoints.wait() and checkpoints.failed
    with pytest.raises(OSError, match="the disk is gone"):
        checkpoints.check()
    assert not checkpoints.failed and checkpoints.names() == []


FULL = """
import subprocess, sys
from pathlib import Path
from pipeline.errors import StoppedError
from pipeline.storage import Folder
from pipeline.training.checkpoints import Checkpoints

disk = sys.argv[1]
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", disk], check=True)
checkpoints = Checkpoints(Folder(disk), keep=2)

def write(size):
    def fill(folder):
        from safetensors.torch import save_file
        import torch
        save_file({"weight": torch.zeros(size // 4)}, folder / "model.safetensors")
    return fill

def save(steps, size):
    checkpoints.save(checkpoints.new_name(steps), write(size), {"steps": steps}, export=False, best=None)
    checkpoints.wait()
    checkpoints.check()

save(1, 100_000)
try:
    save(2, 400_000)
except StoppedError as exc:
    print("stopped:", exc)
print("left:", sorted(path.name[:13] for path in Path(disk, "checkpoints").iterdir()))
subprocess.run(["mount", "-o", "remount,size=4m", disk], check=True)
save(3, 400_000)
print("newest:", checkpoints.latest(print).state)
"""


def test_a_full_disk_stops_and_keeps_the_last_good_one(tmp_path: Path) -> None:
    if shutil.which("unshare") is None:
        pytest.skip("there is no unshare (util-linux) here to mount a small disk with")
    trial = subprocess.run([*ALONE, "mount", "-t", "tmpfs", "tmpfs", str(tmp_path)], capture_output=True, text=True, check=False)
    if trial.returncode != 0:
        pytest.skip(f"a small disk cannot be mounted here: {trial.stderr.strip()}")
    ran = subprocess.run(
        [*ALONE, sys.executable, "-c", FULL, str(tmp_path)], capture_output=True, text=True, cwd=ROOT, timeout=100, check=True
    )
    lines = ran.stdout.splitlines()
    assert lines[0].startswith("stopped: no room left while writing a checkpoint") and "the last good one is step-00000001" in lines[0]
    assert lines[1] == "left: ['step-00000001']"
    assert lines[2] == "newest: {'steps': 3}"


def test_a_full_disk_is_recognised_however_it_is_said(checkpoints: Checkpoints) -> None:
    def full(folder: Path) -> None:
        raise RuntimeError("I/O error: No space left on device (os error 28)")

    checkpoints.save(checkpoints.new_name(1), full, {}, export=False, best=None)
    checkpoints.wait()
    with pytest.raises(StoppedError, match="there is none yet"):
        checkpoints.check()


def test_the_state_is_plain_json(checkpoints: Checkpoints, tmp_path: Path) -> None:
    name = save(checkpoints, 4)
    assert json.loads((tmp_path / "checkpoints" / name / "state.json").read_text()) == {"steps": 4} == checkpoints.state(name)
