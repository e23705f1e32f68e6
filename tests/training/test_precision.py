"""The trial of numbers: which is clearly faster is found although other work disturbs it, part by part, and nothing of it stays."""

import random
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from pipeline.model.model import Precision
from pipeline.training import precision
from pipeline.training.world import World

ALONE = World(0, 1, torch.device("cpu"))


class Model(torch.nn.Module):
    """Has a weight, statistics and a precision, as the trial wants of a model."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = torch.nn.BatchNorm1d(2)
        self.precision = Precision()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[SimpleNamespace]:
    """Time goes on only where a trial says so."""
    now = SimpleNamespace(s=0.0)
    monkeypatch.setattr(precision, "time", SimpleNamespace(perf_counter=lambda: now.s))
    monkeypatch.setattr(precision, "supported", lambda _device: True)
    yield now


def trials(model: Model, clock: SimpleNamespace, cost: dict[str, tuple[float, float]], noise: Callable[[], float]) -> dict[Any, Any]:
    """Each part takes (float32, bfloat16) seconds and what the noise adds."""

    def trial(part: str) -> Callable[[], None]:
        def run() -> None:
            model.norm(torch.randn(4, 2)).sum().backward()
            clock.s += cost[part][getattr(model.precision, part) == "bfloat16"] + noise()

        return run

    return {part: trial(part) for part in cost}


@pytest.mark.parametrize("seed", range(20))
def test_the_faster_number_of_each_part_is_found_beside_other_work(seed: int, clock: SimpleNamespace) -> None:
    model, draw = Model(), random.Random(seed)
    disturbed = lambda: draw.choice([0.0, 0.001, 0.03, 0.2])  # noqa: E731  # of a pass of 0.05 s
    found = precision.choose(model, "auto", ALONE, trials(model, clock, {"encoder": (0.05, 0.04), "text": (0.03, 0.05)}, disturbed))
    assert found.precision == Precision(encoder="bfloat16", text="float32")
    assert found.seconds["encoder"]["bfloat16"] < found.seconds["encoder"]["float32"]


def test_a_tie_is_float32(clock: SimpleNamespace) -> None:
    model = Model()
    found = precision.choose(model, "auto", ALONE, trials(model, clock, {"encoder": (0.05, 0.049), "text": (0.05, 0.05)}, lambda: 0.0))
    assert found.precision == Precision()


def test_a_large_model_is_tried_a_few_times_only(clock: SimpleNamespace) -> None:
    model = Model()
    precision.choose(model, "auto", ALONE, trials(model, clock, {"encoder": (2.0, 1.0), "text": (2.0, 1.0)}, lambda: 0.0))
    assert clock.s == 2 * (1 + precision.LEAST_ROUNDS) * 3.0


def test_nothing_of_the_trial_stays(clock: SimpleNamespace) -> None:
    model = Model()
    before, numbers, random_state = model.norm.running_mean.clone(), model.precision, torch.get_rng_state()  # type: ignore[union-attr]
    precision.choose(model, "auto", ALONE, trials(model, clock, {"encoder": (0.05, 0.04)}, lambda: 0.0))
    assert torch.equal(model.norm.running_mean, before) and model.precision is numbers  # type: ignore[arg-type]
    assert torch.equal(torch.get_rng_state(), random_state) and all(weight.grad is None for weight in model.parameters())


def test_a_wish_is_granted_untried() -> None:
    def never() -> None:
        raise AssertionError

    for wish in ("float32", "bfloat16"):
        found = precision.choose(Model(), wish, ALONE, {"encoder": never, "text": never})  # type: ignore[arg-type]
        assert found == precision.Choice(Precision(encoder=wish, text=wish), {})  # type: ignore[arg-type]
