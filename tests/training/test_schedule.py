"""How far a run is and the learning rate there: the nearest bound counts; warm-up rises, the cosine falls to its floor."""

import pytest

from pipeline.errors import RequestError
from pipeline.training.schedule import ScheduleConfig, Spent, learning_rate_share, share_done


def test_the_nearest_bound_counts() -> None:
    config = ScheduleConfig(epochs=2, max_steps=100, max_minutes=10)
    assert share_done(Spent(steps=10, samples=100, seconds=60), config, rows=100) == 0.5
    assert share_done(Spent(steps=90, samples=100, seconds=60), config, rows=100) == 0.9
    assert share_done(Spent(steps=10, samples=10, seconds=6000), config, rows=100) == 1.0


def test_the_learning_rate_rises_evenly_and_falls_as_a_cosine() -> None:
    config = ScheduleConfig(warmup=0.1, floor=0.02)
    assert learning_rate_share(0.05, config) == pytest.approx(0.5)
    assert learning_rate_share(0.1, config) == pytest.approx(1.0)
    assert learning_rate_share(0.55, config) == pytest.approx(0.51)
    assert learning_rate_share(1.0, config) == pytest.approx(0.02)


def test_a_training_without_an_end_is_refused() -> None:
    with pytest.raises(RequestError, match="has no end"):
        ScheduleConfig(epochs=0)
