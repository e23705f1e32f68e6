"""Training fed from prepared data against the same step on one batch kept in memory: `train.py [small|large] [rounds]`.

Both run in one Ray Train worker, in turn: while a batch from memory is trained on, the feed's execution is shut down; when it starts
again, steps are not counted until it has settled. Augmentation, marks and sums belong to both. Also: time to the first step, from the
start of Ray on; `memory`: peak memory over a corpus and one ten times as large; `workers`: one against two.
"""

import itertools
import json
import statistics
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from jobs import train
from jobs.cluster import session
from jobs.launch import launch
from pipeline import schema, storage
from pipeline.model.config import ModelConfig
from pipeline.samples.resize import to_jpeg
from pipeline.samples.vocabulary import train as learn
from pipeline.training import worker
from pipeline.training.metrics import read_metrics
from pipeline.training.schedule import ScheduleConfig
from pipeline.training.setup import LoopConfig

WORDS = ("red", "green", "small", "large", "house", "tree", "river", "cloud", "bird", "stone")
SETTLE_STEPS = 3
SIZES = {
    "small": (96, ModelConfig(backbone="mobilenet_v3_small", norm="frozen", input_px=96, text_model="tiny", max_tokens=16), 32, 40),
    "large": (224, ModelConfig(backbone="resnet50", input_px=224, text_model="small", max_tokens=16), 16, 6),
}
"""Pixels, model, batch, steps of one measurement."""


def write_prepared(folder: Path, samples: int, px: int, shard_samples: int = 1000) -> None:
    """Smooth noise, which has the size and decoding time of photographs, with texts of six words."""
    rng = np.random.default_rng(0)
    pictures = []
    for _ in range(64):
        coarse = rng.integers(0, 256, (px // 8, px // 8, 3), dtype=np.uint8)
        pictures.append(to_jpeg(np.asarray(Image.fromarray(coarse).resize((px, px), Image.Resampling.BICUBIC)), 90))
    texts = [" ".join(rng.choice(WORDS, 6)) for _ in range(64)]
    words = learn(lambda: texts, "wordpiece", 200)
    words.save(folder / "tokenizer")
    (folder / "dataset.json").write_text(json.dumps({"format": 1}))
    for number, first in enumerate(range(0, samples, shard_samples)):
        rows = []
        for at in range(first, min(first + shard_samples, samples)):
            text = texts[at * 7 % 64]
            encoded = words.encode([text], 16)[0]
            row = {"key": f"{at:09d}", "shard": f"{number:05d}.tar", "index": at - first, "modality": "image", "text": text, "flags": []}
            rows.append({**row, "token_ids": encoded.token_ids, "n_tokens": encoded.n_tokens, "image": pictures[at % 64]})
        path = folder / f"prepared/{number:05d}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.Table.from_pylist(rows, schema=schema.PREPARED), path, row_group_size=500)


def measured_work(config: dict[str, Any]) -> None:
    """In the worker: feed, memory, feed, memory; seconds a step of each into `steps.json`."""
    began = time.time()
    rounds, steps, output = config["rounds"], config["steps"], Path(config["setup"].output)
    plain = worker.Training.run

    def run(self: Any, tables: Any) -> Any:
        found: dict[str, list[float]] = {"feed": [], "memory": []}
        waited, first, kept = [], 0.0, None
        for _ in range(rounds):
            groups = self._groups(tables())
            for number, feds in enumerate(itertools.islice(groups, SETTLE_STEPS + steps)):
                kept = feds
                if number == SETTLE_STEPS:
                    started, self._window.waited_s = time.perf_counter(), 0.0
                self._step(feds)
                first = first or time.time()
            found["feed"].append((time.perf_counter() - started) / steps)
            waited.append(self._window.waited_s / steps)
            groups.close()
            time.sleep(1)
            started = time.perf_counter()
            for _ in range(steps):
                self._step(kept)
            found["memory"].append((time.perf_counter() - started) / steps)
        numbers = {"encoder": self.model.precision.encoder, "text": self.model.precision.text}
        (output / "steps.json").write_text(json.dumps({**found, "waited": waited, "first": first, "began": began, "numbers": numbers}))
        return self.standing

    worker.Training.run = run
    try:
        worker.work(config)
    finally:
        worker.Training.run = plain


def planned(prepared: Path, output: Path, model: ModelConfig, batch: int, **schedule: Any) -> Any:
    loop = LoopConfig(batch_size=batch, validations=0, checkpoint_minutes=60)
    request = train.TrainConfig(
        str(prepared), output=str(output), model=model, loop=loop, schedule=ScheduleConfig(**schedule), validation_share=0.0
    )
    return train.plan(request)


def fed(size: str, rounds: int) -> None:
    """Seconds a step, fed and from memory."""
    px, model, batch, steps = SIZES[size]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_prepared(folder / "data", 6000 if size == "small" else 1000, px)
        setup = planned(folder / "data", folder / "out", model, batch, epochs=100)
        started = time.time()
        plain = worker.work
        worker.work = lambda config: measured_work({**config, "rounds": rounds, "steps": steps})
        try:
            with session("local", verbose=False):
                up = time.time()
                launch(setup, storage.Folder(setup.output), workers=1, max_failures=0, verbose=True)
        finally:
            worker.work = plain
        found = json.loads((folder / "out/steps.json").read_text())
    ratios = [memory / feed for feed, memory in zip(found["feed"], found["memory"], strict=True)]
    print(f"{size}: {model.backbone} {px} px, batch {batch}, numbers {found['numbers']}")
    print(
        f"  start of Ray {up - started:.1f} s, worker after {found['began'] - up:.1f} s, first step {found['first'] - up:.1f} s after Ray"
    )
    for name in ("feed", "memory", "waited"):
        print(f"  {name:7} ms a step: {' '.join(f'{1000 * value:.1f}' for value in found[name])}")
    print(f"  steps/s fed, of those from memory: {' '.join(f'{ratio:.3f}' for ratio in ratios)}, median {statistics.median(ratios):.3f}")


class Peak:
    """The most memory that each process of Ray has had of its own (USS), by its name."""

    def __init__(self) -> None:
        self.bytes: dict[str, int] = {}
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> "Peak":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._over.wait(0.5):
            for process in psutil.Process().children(recursive=True):
                try:
                    title = process.name() if "ray::" not in process.name() else process.name().split("(")[0]
                    self.bytes[title] = max(self.bytes.get(title, 0), process.memory_full_info().uss)
                except psutil.Error:
                    continue


def memory() -> None:
    """One epoch of a corpus, and as many steps over one ten times as large; peak USS of each kind of process."""
    px, model, batch, _ = SIZES["small"]
    peaks: dict[int, dict[str, int]] = {}
    with tempfile.TemporaryDirectory() as name:
        for times in (1, 10):
            folder = Path(name) / str(times)
            write_prepared(folder / "data", 3000 * times, px)
            setup = planned(folder / "data", folder / "out", model, batch, epochs=1, max_steps=0)
            with session("local", verbose=False), Peak() as peak:
                launch(setup, storage.Folder(setup.output), workers=1, max_failures=0, verbose=True)
            peaks[times] = peak.bytes
    for title in sorted(peaks[1].keys() & peaks[10].keys(), key=lambda title: -peaks[10][title])[:6]:
        small, large = peaks[1][title], peaks[10][title]
        print(f"  {title[:40]:40} {small / 2**20:8.0f} MiB, ten times the corpus {large / 2**20:8.0f} MiB, {large / small:.2f}x")


def workers() -> None:
    """Samples a second: one worker with all threads against two with half of them each, the same samples a step."""
    px, model, batch, _ = SIZES["small"]
    with tempfile.TemporaryDirectory() as name:
        write_prepared(Path(name) / "data", 4000, px)
        for count in (1, 2, 1, 2):
            output = Path(name) / f"out-{count}-{time.time_ns()}"
            setup = planned(Path(name) / "data", output, model, batch // count, epochs=1)
            with session("local", verbose=False):
                launch(setup, storage.Folder(setup.output), workers=count, max_failures=0, verbose=True)
            steps = [record for record in read_metrics(storage.Folder(setup.output), setup.run_id) if record["kind"] == "step"]
            print(f"  {count} workers: {steps[-1]['samples'] / steps[-1]['seconds']:.1f} samples/s", flush=True)


if __name__ == "__main__":
    what = sys.argv[1] if len(sys.argv) > 1 else "small"
    if what in SIZES:
        fed(what, int(sys.argv[2]) if len(sys.argv) > 2 else 3)
    else:
        {"memory": memory, "workers": workers}[what]()
