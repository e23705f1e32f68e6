"""A small prepared folder: pictures of coloured shapes with their names, written as `nightcap prepare` writes them."""

import dataclasses
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from pipeline import schema
from pipeline.model.config import ModelConfig
from pipeline.model.mix import ObjectiveMix
from pipeline.samples.resize import to_jpeg
from pipeline.samples.tokens import Tokenizer
from pipeline.samples.vocabulary import train
from pipeline.training.augment import AugmentConfig
from pipeline.training.corpus import open_corpus
from pipeline.training.feed import FEED, FeedSpec, read_task
from pipeline.training.loop import Training
from pipeline.training.order import plan
from pipeline.training.progress import Ranges
from pipeline.training.schedule import ScheduleConfig
from pipeline.training.setup import LoopConfig, Setup, tokenizer_of
from pipeline.training.step import OptimiserConfig
from pipeline.training.world import World

PX = 32
COLOURS = {"red": (220, 30, 30), "green": (30, 200, 40), "blue": (40, 60, 220), "yellow": (230, 220, 40)}
SHAPES = ("square", "bar", "frame", "cross")
STILL = AugmentConfig(crop=0, rotate_deg=0, brightness=0, contrast=0, saturation=0, gain_db=0)
TINY = ModelConfig(
    backbone="resnet18", backbone_stride=8, input_px=PX, text_model="tiny", max_tokens=8, dropout=0.0, media_dropout=0.0, norm="group"
)


def picture(number: int) -> tuple[np.ndarray, str]:
    """Shape number so and so, and its name."""
    colour, shape = list(COLOURS)[number % 4], SHAPES[number // 4 % 4]
    pixels = np.full((PX, PX, 3), 250, np.uint8)
    box = {"square": np.s_[8:24, 8:24], "bar": np.s_[12:20, 2:30], "frame": np.s_[4:28, 4:28], "cross": np.s_[2:30, 13:19]}[shape]
    pixels[box] = COLOURS[colour]
    if shape == "frame":
        pixels[10:22, 10:22] = 250
    if shape == "cross":
        pixels[13:19, 2:30] = COLOURS[colour]
    return pixels, f"a {colour} {shape}"


def tokenizer() -> Tokenizer:
    """Of the words that the names are made of."""
    return train(lambda: [picture(number)[1] for number in range(16)], "wordpiece", 128, lowercase=True)


def write_prepared(folder: Path, shards: Sequence[int] = (16, 16), group_rows: int = 8, gaps: bool = False) -> Path:
    """A prepared folder with so many samples in each shard; with `gaps` every fifth index is missing, as after a reject."""
    words, number = tokenizer(), 0
    words.save(folder / "tokenizer")
    for shard, size in enumerate(shards):
        rows: list[dict[str, Any]] = []
        for index in range(size):
            pixels, text = picture(number)
            encoded = words.encode([text], 8)[0]
            rows.append(
                {
                    "key": f"k{number:05d}",
                    "shard": f"part/{shard:03d}.tar",
                    "index": index + index // 4 if gaps else index,
                    "modality": "image",
                    "text": text,
                    "token_ids": encoded.token_ids,
                    "n_tokens": encoded.n_tokens,
                    "image": to_jpeg(pixels, 95),
                    "width": PX,
                    "height": PX,
                    "flags": [],
                }
            )
            number += 1
        path = folder / f"prepared/part/{shard:03d}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.Table.from_pylist(rows, schema=schema.PREPARED), path, row_group_size=group_rows)
    (folder / "dataset.json").write_text(json.dumps({"format": 1}))
    return folder


def make_setup(prepared: Path, output: Path, *, held_out: dict[str, Ranges] | None = None, **changes: Any) -> Setup:
    """A run on the CPU in float32; `changes` replace fields of Setup."""
    corpus = open_corpus(str(prepared))
    held = held_out or {}
    values: dict[str, Any] = {
        "output": str(output),
        "run_id": "test",
        "corpus": corpus,
        "universe": corpus.universe(held),
        "validation": corpus,
        "held_out": held,
        "spec": FeedSpec(px=PX, max_tokens=8),
        "tokenizer": tokenizer_of(str(prepared)),
        "model": TINY,
        "mix": ObjectiveMix(label_smoothing=0.0),
        "optimiser": OptimiserConfig(learning_rate=2e-3),
        "schedule": ScheduleConfig(epochs=1),
        "augmentation": STILL,
        "loop": LoopConfig(batch_size=8, precision="float32", validations=0),
    }
    return Setup(**(values | changes))


def bare_feed(training: Training, setup: Setup, *, rank: int = 0, size: int = 1) -> Callable[[], Iterator[pa.Table]]:
    """What Ray's iterator gives a worker, without Ray: tables of one micro-batch, dealt out in turn, equal for all workers."""

    def tables() -> Iterator[pa.Table]:
        tasks = plan(setup.corpus, setup.universe, training.standing.progress, seed=setup.loop.seed, epochs=setup.epochs)
        found = [table for task in tasks for table in read_task(task, setup.corpus.files, setup.spec)]
        whole = pa.concat_tables(found) if found else FEED.empty_table()
        each = whole.num_rows // size
        for start in range(0, each, setup.loop.batch_size):
            stop = min(start + setup.loop.batch_size, each)
            yield whole.slice(start * size + rank * (stop - start), stop - start)

    return tables


def mixed_setup(prepared: Path, output: Path, *, accumulate: int) -> Setup:
    """Two objectives, no dropout, no BatchNorm statistics: what one and two workers must agree on."""
    return make_setup(
        prepared,
        output,
        model=dataclasses.replace(TINY, objectives=("causal", "masked_text"), norm="frozen"),
        mix=ObjectiveMix(masked_text_weight=0.5, label_smoothing=0.1),
        loop=LoopConfig(batch_size=3, accumulate=accumulate, precision="float32", validations=0),
    )


def loss_curve(folder: Path) -> list[float]:
    """Causal loss a target at each step of three epochs on a fixed seed."""
    torch.set_num_threads(1)
    setup = make_setup(write_prepared(folder / "data"), folder / "out", schedule=ScheduleConfig(epochs=3))
    curve: list[float] = []
    training = Training(setup, World(0, 1, torch.device("cpu")), None)
    original = training._stepper.step

    def recorded(*arguments: Any) -> Any:
        stepped = original(*arguments)
        curve.append(stepped.totals["causal"] / stepped.counts["causal"])
        return stepped

    training._stepper.step = recorded  # type: ignore[method-assign]
    training.run(bare_feed(training, setup))
    return curve
