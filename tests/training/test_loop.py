"""The loop of one worker, without Ray:

- it learns a handful of samples by heart, and reads them off the picture;
- on a fixed seed the loss follows a recorded curve; nothing but the seeds of samples decides what they look like;
- killed between any two checkpoints and resumed, every epoch is trained exactly once, and weights are those of a run in one piece;
- validation finds the best checkpoint, training ends early when it is told to, and metrics say what happened;
- each moment is saved once, the last one included; what is not finite is not saved, and what was in flight then is.
"""

import dataclasses
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch
from safetensors.torch import load_file

from pipeline.errors import StoppedError
from pipeline.model.folder import load
from pipeline.storage import Folder
from pipeline.training.checkpoints import Checkpoints
from pipeline.training.loop import Training
from pipeline.training.metrics import read_metrics
from pipeline.training.progress import Progress
from pipeline.training.schedule import ScheduleConfig
from pipeline.training.setup import LoopConfig, Setup, Standing
from pipeline.training.step import OptimiserConfig
from pipeline.training.world import World
from tests.training.small import PX, TINY, bare_feed, loss_curve, make_setup, write_prepared

ALONE = World(0, 1, torch.device("cpu"))
QUIET = LoopConfig(batch_size=8, precision="float32", validations=0)


def train(setup: Setup, checkpoint: str | None = None) -> Training:
    torch.set_num_threads(1)  # two threads wait for each other at every operation when the machine is busy
    training = Training(setup, ALONE, checkpoint)
    training.run(bare_feed(training, setup))
    return training


def losses(setup: Setup, kind: str = "step") -> list[dict[str, Any]]:
    return [record for record in read_metrics(Folder(setup.output), setup.run_id) if record["kind"] == kind]


@pytest.mark.slow
def test_it_learns_a_handful_by_heart_from_the_pictures(tmp_path: Path) -> None:
    held = {"part/000.parquet": ((16, 32),)}  # the same 16 pictures once more
    setup = make_setup(
        write_prepared(tmp_path / "data", (32,)),
        tmp_path / "out",
        held_out=held,
        schedule=ScheduleConfig(epochs=100),
        optimiser=OptimiserConfig(learning_rate=3e-3),
        loop=dataclasses.replace(QUIET, validations=1),
    )
    train(setup)
    found = losses(setup, "validation")[-1]
    assert found["perplexity"]["right"] < 1.1, found
    assert found["perplexity"]["shuffled"] > 3 * found["perplexity"]["right"], found
    shown = found["captions"]
    assert all(sample["caption"] == sample["reference"] for sample in shown), shown
    model = load(tmp_path / "out/model").model
    assert model.config.input_px == PX


def test_the_loss_follows_its_recorded_curve(tmp_path: Path) -> None:
    curve = loss_curve(tmp_path)
    golden = json.loads((Path(__file__).parents[1] / "golden/training_loss.json").read_text())["loss"]
    # Processors add up in different orders; twelve steps of AdamW let that grow to about a thousandth.
    assert curve == pytest.approx(golden, rel=0.02)


@pytest.mark.slow
def test_killed_and_resumed_every_epoch_is_trained_exactly_once(tmp_path: Path) -> None:
    prepared = write_prepared(tmp_path / "data", (19, 14), gaps=True)
    loop = dataclasses.replace(QUIET, batch_size=4, checkpoint_steps=2)
    seen: list[tuple[str, int]] = []

    class Killed(Exception):
        pass

    def attempt(die_after: int | None) -> Standing:
        setup = make_setup(prepared, tmp_path / "out", schedule=ScheduleConfig(epochs=2), loop=loop)
        found = Checkpoints(Folder(setup.output), 2).latest(pytest.fail)
        training = Training(setup, ALONE, None if found is None else found.name)
        pending: list[tuple[str, int]] = []
        step = training._stepper.step

        def watched(feds: Any, *rest: Any) -> Any:
            if die_after is not None and len(pending) >= 4 * die_after:
                training._checkpoints.wait()
                raise Killed
            stepped = step(feds, *rest)
            pending.extend(origin for fed in feds for origin in fed.batch.origins)
            return stepped

        training._stepper.step = watched  # type: ignore[method-assign]
        try:
            standing = training.run(bare_feed(training, setup))
        except Killed:
            saved = Checkpoints(Folder(setup.output), 2).latest(pytest.fail)
            steps = 0 if saved is None else saved.state["spent"]["steps"]
            begun = 0 if found is None else found.state["spent"]["steps"]
            seen.extend(pending[: 4 * (steps - begun)])
            return training.standing
        seen.extend(pending)
        return standing

    for die_after in (1, 5, 3, 0):
        attempt(die_after)
    standing = attempt(None)
    wanted = [(f"part/{shard:03d}.tar", index + index // 4) for shard, size in ((0, 19), (1, 14)) for index in range(size)]
    assert sorted(seen) == sorted(wanted * 2)
    assert standing.progress == Progress(finished=2) and standing.spent.samples == 66


def test_a_resumed_training_ends_with_the_weights_of_one_in_one_piece(tmp_path: Path) -> None:
    prepared = write_prepared(tmp_path / "data", (16,))
    whole = make_setup(prepared, tmp_path / "whole", schedule=ScheduleConfig(epochs=4))
    train(whole)
    halves = make_setup(
        prepared, tmp_path / "halves", schedule=ScheduleConfig(epochs=4), loop=dataclasses.replace(QUIET, checkpoint_steps=4)
    )

    class Killed(Exception):
        pass

    first = Training(halves, ALONE, None)

    def tables() -> Iterator[pa.Table]:
        for number, table in enumerate(bare_feed(first, halves)()):
            if number == 4:  # two epochs of two batches
                first._checkpoints.wait()
                raise Killed
            yield table

    with pytest.raises(Killed):
        first.run(tables)
    found = Checkpoints(Folder(halves.output), 2).latest(pytest.fail)
    assert found is not None and found.state["progress"] == {"finished": 2, "begun": {}}
    train(halves, found.name)
    one, two = (load_file(tmp_path / name / "model/model.safetensors") for name in ("whole", "halves"))
    assert all(torch.allclose(one[name], two[name], atol=1e-6) for name in one)


@pytest.mark.slow
def test_validation_keeps_the_best_and_patience_ends_the_training(tmp_path: Path) -> None:
    setup = make_setup(
        write_prepared(tmp_path / "data"),
        tmp_path / "out",
        held_out={"part/001.parquet": ((0, 8),)},
        schedule=ScheduleConfig(epochs=40),
        optimiser=OptimiserConfig(learning_rate=0.5, clip=0),  # learns nothing, so that the first validation stays the best for long
        loop=dataclasses.replace(QUIET, validations=20, patience=2, keep=1),
    )
    training = train(setup)
    found = losses(setup, "validation")
    scores = [record["loss"]["causal"] for record in found]
    best = min(range(len(scores)), key=scores.__getitem__)
    assert training.standing.ended and training.done < 1 and len(found) == best + 3
    assert [record["best"] for record in found][best] and not any(record["best"] for record in found[best + 1 :])
    names = Checkpoints(Folder(setup.output), 1).names()
    assert training.standing.best in names and len(names) == 2
    assert math.isclose(training.standing.best_score or 0, scores[best], rel_tol=1e-4)


@pytest.mark.parametrize("validations", [0, 1])
def test_the_last_step_is_saved_once(tmp_path: Path, validations: int) -> None:
    setup = make_setup(
        write_prepared(tmp_path / "data"),
        tmp_path / "out",
        held_out={"part/001.parquet": ((8, 16),)},
        schedule=ScheduleConfig(epochs=1, max_steps=2),
        loop=dataclasses.replace(QUIET, checkpoint_steps=1, keep=9, validations=validations),
    )
    train(setup)
    assert [name[:13] for name in Checkpoints(Folder(setup.output), 9).names()] == ["step-00000002", "step-00000001"]
    assert (tmp_path / "out/model/model.safetensors").is_file()


def test_a_loss_that_is_not_finite_stops_and_the_checkpoint_in_flight_is_written(tmp_path: Path) -> None:
    loop = dataclasses.replace(QUIET, checkpoint_steps=1)
    setup = make_setup(write_prepared(tmp_path / "data"), tmp_path / "out", loop=loop)
    training = Training(setup, ALONE, None)
    backward = training._stepper._backward

    def third_is_nan(fed: Any, *rest: Any) -> Any:
        found = backward(fed, *rest)
        return {name: total * math.nan for name, total in found.items()} if training.standing.spent.steps == 2 else found

    training._stepper._backward = third_is_nan  # type: ignore[method-assign]
    with pytest.raises(StoppedError, match=r"the loss is not finite in a batch of (part/00[01]\.tar:\d+(, | *;)?){8}"):
        training.run(bare_feed(training, setup))
    assert Checkpoints(Folder(setup.output), 2).names()[0].startswith("step-00000002"), "no waiting for it here"


def test_a_checkpoint_whose_first_step_is_not_finite_is_named(tmp_path: Path) -> None:
    loop = dataclasses.replace(QUIET, checkpoint_steps=1)
    prepared = write_prepared(tmp_path / "data")
    train(make_setup(prepared, tmp_path / "out", schedule=ScheduleConfig(max_steps=1), loop=loop))
    found = Checkpoints(Folder(str(tmp_path / "out")), 2).latest(pytest.fail)
    assert found is not None
    training = Training(make_setup(prepared, tmp_path / "out", loop=loop), ALONE, found.name)
    with torch.no_grad():
        training.model.null.fill_(math.nan)
        training.model.pictures.project.weight.fill_(math.nan)
    with pytest.raises(StoppedError, match=f"delete checkpoints/{found.name}, and the one before is used"):
        training.run(bare_feed(training, training._setup))


def test_weights_that_are_not_finite_make_no_checkpoint(tmp_path: Path) -> None:
    setup = make_setup(write_prepared(tmp_path / "data"), tmp_path / "out", loop=dataclasses.replace(QUIET, checkpoint_steps=1))
    training = Training(setup, ALONE, None)
    step = training._stepper.step

    def second_overflows(*arguments: Any) -> Any:
        stepped = step(*arguments)
        if training.standing.spent.steps == 1:
            with torch.no_grad():
                training.model.null.fill_(math.inf)
        return stepped

    training._stepper.step = second_overflows  # type: ignore[method-assign, assignment]
    with pytest.raises(StoppedError, match="the weights are not finite after step 2; the last checkpoint is kept"):
        training.run(bare_feed(training, setup))
    assert [name[:13] for name in Checkpoints(Folder(setup.output), 2).names()] == ["step-00000001"]


def test_metrics_say_where_a_training_stands(tmp_path: Path) -> None:
    setup = make_setup(write_prepared(tmp_path / "data"), tmp_path / "out", loop=dataclasses.replace(QUIET, tensorboard=True))
    train(setup)
    last = losses(setup)[-1]
    assert (last["step"], last["samples"], last["epoch"], last["done"], last["eta_s"]) == (4, 32, 1.0, 1.0, 0.0)
    assert last["loss"]["causal"] > 0 and last["samples_per_s"] > 0 and 0 <= last["waiting"] < 1
    start = losses(setup, "start")[0]
    assert start["precision"] == {"encoder": "float32", "text": "float32"} and any("random" in line for line in start["origins"])
    assert list((tmp_path / "out/runs/test/tensorboard").iterdir())


def test_the_model_starts_the_same_on_the_same_seed(tmp_path: Path) -> None:
    prepared = write_prepared(tmp_path / "data")
    first, second, other = (
        Training(make_setup(prepared, tmp_path / name, loop=dataclasses.replace(QUIET, seed=seed)), ALONE, None).model.null
        for name, seed in (("a", 1), ("b", 1), ("c", 2))
    )
    assert torch.equal(first, second) and not torch.equal(first, other)
    assert TINY.input_px == PX
