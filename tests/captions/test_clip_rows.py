"""A clip of several frames and its sound survive the way from the decoder to the engine."""

import numpy as np

from pipeline import schema
from pipeline.captions.stage import media_of
from pipeline.samples.medium import Medium
from pipeline.samples.rows import Rows


def test_frames_times_and_sound_come_out_as_they_went_in() -> None:
    pixels = np.arange(3 * 4 * 5 * 3, dtype=np.uint8).reshape(12, 5, 3)
    wave = np.arange(50, dtype=np.int16)
    row = dict.fromkeys(("kind", "shard", "fingerprint", "status"), "") | {
        "flags": [],
        "index": 0,
        "piece": 0,
        "last": True,
        "guard": False,
    }
    rows = Rows()
    rows.add({**row, "media_field": "mp4", "media_bytes": 9}, Medium("video", "mp4", 9, pixels, wave, 8_000, times_s=(0.0, 0.5, 1.5)))
    rows.add({**row, "media_field": "jpg", "media_bytes": 9}, Medium("image", "jpg", 9, pixels))
    table = rows.take()
    assert table.schema == schema.SAMPLES
    clip, picture = media_of(table, [0, 1])
    assert clip.times_s == (0.0, 0.5, 1.5) and picture.times_s is None
    assert clip.pixels_hwc is not None and np.array_equal(clip.pixels_hwc, pixels)
    assert clip.wave_t is not None and np.array_equal(clip.wave_t, wave)
