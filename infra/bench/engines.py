"""Engines that log when each of their calls began and ended, so that start-up can be told from the steady state."""

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline.captions.engine import Caption, EngineConfig
from pipeline.captions.whisper import FasterWhisper
from pipeline.samples.medium import Medium, Needs

LOG = "NIGHTCAP_BENCH_LOG"
"""Environment variable that names the log."""


def log_call(began: float, media: int) -> None:
    """One line: begin, end (monotonic clock of the machine, seconds), media."""
    with open(os.environ[LOG], "a") as log:
        log.write(f"{began} {time.monotonic()} {media}\n")


def calls() -> list[tuple[float, float, int]]:
    """The log's lines; empties it."""
    path = Path(os.environ[LOG])
    found = [(float(a), float(b), int(n)) for a, b, n in (line.split() for line in path.read_text().splitlines())]
    path.unlink()
    return sorted(found)


class Sleeping:
    """Sleeps; `model` is `<collate ms>,<call ms>`."""

    micro_batch = 16
    rows_per_call = 256

    def __init__(self, config: EngineConfig) -> None:
        self._collate_s, self._call_s = (float(value) / 1000 for value in config.model.split(","))

    @classmethod
    def needs(cls, config: EngineConfig) -> Needs:
        """Pictures."""
        return Needs(accepts=("image",), short_side_px=64)

    def collate(self, media: Sequence[Medium]) -> list[Medium]:
        """Host work."""
        time.sleep(self._collate_s)
        return list(media)

    def __call__(self, batch: list[Medium]) -> list[Caption]:
        """Device work."""
        began = time.monotonic()
        time.sleep(self._call_s)
        log_call(began, len(batch))
        return [Caption("slept", finish_reason="stop") for _ in batch]


class LoggedWhisper(FasterWhisper):
    """The real engine; its log counts recordings."""

    def __call__(self, batch: list[Any]) -> list[Caption]:
        """One transcript a recording."""
        began = time.monotonic()
        captions = super().__call__(batch)
        log_call(began, len(captions))
        return captions
