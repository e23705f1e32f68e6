"""Cutting a recording into windows: they cover it exactly, none is above 30 s, cuts fall into silence where there is one."""

import numpy as np
import pytest

from pipeline.captions.windows import SAMPLE_RATE_HZ, window_bounds


@pytest.mark.parametrize("n", [0, 1, 480_000, 480_001, 2_000_003])
def test_windows_cover_the_wave_exactly_and_are_short_enough(n: int) -> None:
    bounds = window_bounds(np.random.default_rng(1).integers(-9000, 9000, n).astype(np.int16))
    assert bounds[0][0] == 0 and bounds[-1][1] == n
    assert all(stop == start for (_, stop), (start, _) in zip(bounds, bounds[1:], strict=False))
    assert all(stop - start <= 30 * SAMPLE_RATE_HZ for start, stop in bounds)


def test_the_cut_falls_into_the_pause() -> None:
    wave = np.full(40 * SAMPLE_RATE_HZ, 5000, np.int16)
    wave[27 * SAMPLE_RATE_HZ : 28 * SAMPLE_RATE_HZ] = 0
    (_, cut), _ = window_bounds(wave)
    assert 27 * SAMPLE_RATE_HZ <= cut <= 28 * SAMPLE_RATE_HZ
