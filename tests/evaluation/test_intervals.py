"""The bootstrap resamples samples exactly:

- each replicate draws as many samples as there are, however the corpus is cut into pieces;
- the interval covers the true mean about as often as it says;
- equal systems do not differ, a better one does, and pairing narrows the interval of the difference;
- buckets add up to the whole.
"""

import numpy as np
import pytest

from pipeline.evaluation.intervals import ALL, Bootstrap, interval, p_value


def replicates(values: np.ndarray, pieces: int, count: int = 400, seed: int = 0) -> np.ndarray:
    """(replicates, 2): drawn samples, and the sum of their values."""
    bootstrap = Bootstrap(len(values), count, seed)
    for piece in np.array_split(values, pieces):
        bootstrap.add(np.stack([np.ones_like(piece), piece], axis=1)[None], {})
    return bootstrap.sums()[ALL].replicates[0]


@pytest.mark.parametrize("pieces", [1, 2, 13])
def test_each_replicate_draws_as_many_samples_as_there_are(pieces: int) -> None:
    drawn = replicates(np.arange(40.0), pieces)
    assert set(drawn[:, 0]) == {40.0}
    assert drawn[:, 1].mean() == pytest.approx(780, rel=0.02)
    assert drawn[:, 1].std() == pytest.approx(np.arange(40.0).std() * np.sqrt(40), rel=0.12)


def test_the_interval_covers_the_mean_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(1)
    covered = 0
    for trial in range(200):
        values = rng.normal(3, 2, 60)
        found = interval(values.mean(), replicates(values, 3, 300, trial)[:, 1] / 60)
        covered += found.low <= 3 <= found.high
    assert 0.88 <= covered / 200 <= 0.99


def test_the_same_seed_gives_the_same_draws() -> None:
    values = np.arange(30.0)
    assert np.array_equal(replicates(values, 4), replicates(values, 4))
    assert not np.array_equal(replicates(values, 4), replicates(values, 4, seed=1))


def test_buckets_add_up_to_the_whole() -> None:
    bootstrap = Bootstrap(10, 50)
    values = np.arange(20.0).reshape(1, 10, 2)
    bootstrap.add(values[:, :6], {"kind": list("aabbab"), "length": list("xyxyxy")})
    bootstrap.add(values[:, 6:], {"kind": list("aabb"), "length": list("xxxx")})
    sums = bootstrap.sums()
    assert list(sums)[0] == ALL and len(sums) == 5
    for dimension, names in (("kind", "ab"), ("length", "xy")):
        parts = [sums[dimension, name] for name in names]
        assert sum(part.samples for part in parts) == sums[ALL].samples == 10
        assert np.allclose(sum(part.replicates for part in parts), sums[ALL].replicates)
        assert np.allclose(sum(part.observed for part in parts), values.sum(axis=1))


def test_pairing_finds_a_small_difference_between_noisy_systems() -> None:
    rng = np.random.default_rng(2)
    base = rng.normal(0, 10, 300)
    bootstrap = Bootstrap(300, 500)
    bootstrap.add(np.stack([base, base + 0.1 + rng.normal(0, 0.3, 300), base])[:, :, None], {})
    one, other, same = bootstrap.sums()[ALL].replicates[:, :, 0] / 300
    assert p_value(other - one) < 0.05
    assert p_value(same - one) == 1
    assert (other - one).std() < one.std() / 10


def test_a_bucket_that_is_never_drawn_has_no_interval() -> None:
    found = interval(0.5, np.full(10, np.nan))
    assert np.isnan(found.low) and found.value == 0.5


def test_more_samples_than_announced_are_refused() -> None:
    with pytest.raises(ValueError, match="announced"):
        Bootstrap(1, 5).add(np.ones((1, 2, 1)), {})
