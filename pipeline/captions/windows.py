"""Cuts a recording into windows of at most 30 s, what a Whisper model hears at once, at quiet places."""

import numpy as np

from pipeline.samples.medium import Wave

SAMPLE_RATE_HZ = 16_000
WINDOW_S = 30.0
SEARCH_S = 5.0
"""Stretch at the end of a window in which the quietest place is looked for."""
QUIET_S = 0.1


def window_bounds(wave_t: Wave) -> list[tuple[int, int]]:
    """Where a wave is cut into windows of at most 30 s, as (start, stop) in samples: at the quietest 0.1 s near their ends."""
    longest, search, quiet = int(WINDOW_S * SAMPLE_RATE_HZ), int(SEARCH_S * SAMPLE_RATE_HZ), int(QUIET_S * SAMPLE_RATE_HZ)
    bounds, start = [], 0
    while len(wave_t) - start > longest:
        tail = wave_t[start + longest - search : start + longest].astype(np.float64)
        power = np.square(tail).reshape(-1, quiet).sum(axis=1)
        cut = start + longest - search + int(power.argmin()) * quiet + quiet // 2
        bounds.append((start, cut))
        start = cut
    bounds.append((start, len(wave_t)))
    return bounds
