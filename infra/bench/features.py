"""What `--keep-features` saves: CPU time of a step with and without, in turn, once all versions are there: `features.py [rounds]`.

The demo's recipe (wants its packages) on texts of six words, one thread, no Ray: both sides train on the same batches from memory. As the demo's
trial of numbers chose, in bfloat16, and in float32. Also what filling costs beside a plain step, and the memory of a version.
"""

import dataclasses
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from train import write_prepared

from jobs import lesson, train
from pipeline.model.model import Number, Precision
from pipeline.training.augment import AugmentConfig
from pipeline.training.batches import Fed, collate
from pipeline.training.corpus import read_rows
from pipeline.training.feed import decode_rows
from pipeline.training.kept import KeptGrids
from pipeline.training.progress import rows_of
from pipeline.training.setup import Setup, make_optimiser, start_model
from pipeline.training.step import Stepper
from pipeline.training.world import World

VERSIONS, STEPS = 2, 10


def epoch(setup: Setup, number: int, batch: int) -> list[Fed]:
    """Batches of all rows of the first file, with the draws of this epoch."""
    file = setup.corpus.files[0]
    rows = rows_of(setup.universe[file.name])
    table = decode_rows(read_rows(file, setup.universe[file.name]), setup.spec, seed=0, epoch=number, files=rows * 0, rows=rows)
    return [collate(table.slice(at, batch), px=setup.spec.px, pad_id=setup.tokenizer.pad_id) for at in range(0, STEPS * batch, batch)]


def cpu_ms(stepper: Stepper, feds: Sequence[Fed], changes: AugmentConfig) -> float:
    """CPU time of a step."""
    began = time.process_time()
    for fed in feds:
        stepper.step([fed], stepper.counts([fed]), 0.1, changes)
    return 1000 * (time.process_time() - began) / len(feds)


def compared(setup: Setup, number: Number, rounds: int, batch: int) -> None:
    """Prints one line."""
    feds = [fed for version in range(VERSIONS) for fed in epoch(setup, version, batch)]
    models = [start_model(setup, None), start_model(setup, None)]
    for model in models:
        model.precision = Precision(encoder=number, text=number)
    kept = KeptGrids(models[1], VERSIONS, 1 << 30)
    plain, keeping = (
        Stepper(model, make_optimiser(model, setup.optimiser), setup.optimiser, setup.mix, World(0, 1, torch.device("cpu")), store)
        for model, store in zip(models, (None, kept), strict=True)
    )
    changes = setup.augmentation
    cpu_ms(plain, feds[:2], changes)
    filling, first = cpu_ms(keeping, feds, changes), cpu_ms(plain, feds, changes)
    without, with_kept = [], []
    for turn in range(rounds):
        for stepper, times in ((plain, without), (keeping, with_kept))[:: 1 if turn % 2 else -1]:
            times.append(cpu_ms(stepper, feds, changes))
    saved = [1 - less / more for less, more in zip(with_kept, without, strict=True)]
    print(f"{number}: {statistics.median(without):.1f} ms a step without, {statistics.median(with_kept):.1f} with: ", end="")
    print(f"saves {statistics.median(saved):.3f} (least {min(saved):.3f}, most {max(saved):.3f} of {rounds}); ", end="")
    grid = models[0].grids(feds[0].batch.pictures)[0]
    print(
        f"filling {filling:.1f} against {first:.1f}; {grid.numel() * grid.element_size() / 1024:.1f} KiB a picture and version", flush=True
    )


def main(rounds: int) -> None:
    """Both numbers."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        recipe = lesson.recipe(f"{name}/data", "", f"{name}/out", 1.0)
        batch = recipe.loop.batch_size
        write_prepared(Path(name) / "data", STEPS * batch, recipe.model.input_px)
        setup = train.plan(dataclasses.replace(recipe, validation_share=0.0))
        for number in ("bfloat16", "float32"):
            compared(setup, number, rounds, batch)


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 7)
