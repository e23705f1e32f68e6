"""Training fed from prepared data against the same step on one batch kept in memory: `train.py [tiny|small|large] [rounds]`.

Both run in one Ray Train worker, in turn: while a batch from memory is trained on, the feed's execution is shut down; when it starts
again, steps are not counted until reading ahead has filled its bound. By the clock, and by CPU time of all of Ray, which other
work on the machine disturbs less. Augmentation, marks and sums belong to both. Also: time to the first step, from the
start of Ray on; `memory [samples...]`: peak memory over corpora of so many pictures, `reading [samples...]`:
of reading tasks alone; `workers`: one against two.
"""

import contextlib
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
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
SETTLE_S = 4.0
"""Until reading ahead has reached its bound: before that it reads more than the steps use up."""
SIZES = {
    "tiny": (96, ModelConfig(backbone="mobilenet_v3_small", norm="frozen", input_px=96, text_model="tiny", max_tokens=16), 32, 60),
    "small": (
        96,
        ModelConfig(
            backbone="efficientnet-lite0",
            backbone_stride=16,
            frozen_share=1.0,
            whole_grid=True,
            norm="frozen",
            input_px=96,
            text_model="small",
            text_layers=3,
            max_tokens=16,
        ),
        32,
        30,
    ),
    "large": (224, ModelConfig(backbone="resnet50", input_px=224, text_model="small", max_tokens=16), 16, 6),
}
"""Pixels, model, batch, steps of one measurement; `small` costs what the demo's does."""


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
        # As `prepare` does: a dictionary of pictures that come again and again would let a row group look smaller than it is.
        table = pa.Table.from_pylist(rows, schema=schema.PREPARED)
        pq.write_table(table, path, row_group_size=500, compression="NONE", use_dictionary=["shard", "modality"])


def _cpu_s(driver: int) -> Counter[str]:
    """CPU seconds of the driver and everything below it, which is all of Ray, by the name of the process."""
    root = psutil.Process(driver)
    found: Counter[str] = Counter()
    for process in (root, *root.children(recursive=True)):
        with contextlib.suppress(psutil.Error):
            called = "driver" if process.pid == driver else process.name()
            found["idle" if "IDLE" in called else called] += sum(process.cpu_times()[:2])  # type: ignore[assignment]
    return found


def _timed(name: str, steps: Callable[[], Any], driver: int, count: int) -> dict[str, Any]:
    """Wall and CPU seconds a step."""
    began, before = time.perf_counter(), _cpu_s(driver)
    steps()
    wall, after = time.perf_counter() - began, _cpu_s(driver)
    spent = {called: (after[called] - before[called]) / count for called in after}
    return {name: wall / count, f"{name}_cpu": sum(spent.values()), f"{name}_by": spent}


def measured_work(config: dict[str, Any]) -> None:
    """In the worker: feed, memory, feed, memory; seconds a step of each, a line of `rounds.jsonl` a round."""
    began = time.time()
    rounds, steps, output = config["rounds"], config["steps"], Path(config["setup"].output)
    plain = worker.Training.run

    def run(self: Any, tables: Any) -> Any:
        first = 0.0
        for _ in range(rounds):
            groups = self._groups(tables())
            kept = next(groups)
            self._step(kept)
            first = first or time.time()
            time.sleep(SETTLE_S)
            found = _timed("feed", lambda: [self._step(feds) for feds in itertools.islice(groups, steps)], config["driver"], steps)  # noqa: B023
            groups.close()
            time.sleep(1)
            found |= _timed("memory", lambda: [self._step(kept) for _ in range(steps)], config["driver"], steps)  # noqa: B023
            numbers = {"encoder": self.model.precision.encoder, "text": self.model.precision.text}
            with (output / "rounds.jsonl").open("a") as file:
                file.write(json.dumps({**found, "first": first, "began": began, "numbers": numbers}) + "\n")
        return self.standing

    worker.Training.run = run
    try:
        worker.work(config)
    finally:
        worker.Training.run = plain


@contextlib.contextmanager
def shown(path: Path) -> Iterator[None]:
    """Prints each round when it is there: a run that is cut short has its figures."""
    over = threading.Event()

    def watch() -> None:
        seen = 0
        while not over.wait(0.5):
            lines = path.read_text().splitlines() if path.exists() else []
            for line in lines[seen:]:
                found = json.loads(line)
                times = ", ".join(f"{name} {1000 * found[name]:.1f} ({1000 * found[f'{name}_cpu']:.1f} CPU)" for name in ("feed", "memory"))
                print(f"  ms a step: {times}; ratio {_ratio(found):.3f}, of CPU time {_ratio(found, '_cpu'):.3f}", flush=True)
                more = {called: 1000 * (spent - found["memory_by"].get(called, 0.0)) for called, spent in found["feed_by"].items()}
                most = sorted(more.items(), key=lambda pair: -abs(pair[1]))[:6]
                print(f"    more CPU ms a step when fed: {', '.join(f'{called} {ms:.1f}' for called, ms in most)}", flush=True)
            seen = len(lines)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        time.sleep(1)
        over.set()
        thread.join()


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
        write_prepared(folder / "data", 1000 if size == "large" else 6000, px)
        setup = planned(folder / "data", folder / "out", model, batch, epochs=100)
        started, driver = time.time(), os.getpid()
        plain = worker.work
        worker.work = lambda config: measured_work({**config, "rounds": rounds, "steps": steps, "driver": driver})
        try:
            with session("local", verbose=False), shown(folder / "out/rounds.jsonl"):
                up = time.time()
                launch(setup, storage.Folder(setup.output), workers=1, max_failures=0, verbose=True)
        finally:
            worker.work = plain
        found = [json.loads(line) for line in (folder / "out/rounds.jsonl").read_text().splitlines()]
    ratios, cpu = ([_ratio(line, kind) for line in found] for kind in ("", "_cpu"))
    print(f"{size}: {model.backbone} {px} px, batch {batch}, numbers {found[0]['numbers']}")
    print(
        f"  Ray up after {up - started:.1f} s; after that: worker {found[0]['began'] - up:.1f} s, first step {found[0]['first'] - up:.1f} s"
    )
    for what, values in (("steps/s fed, of those from memory", ratios), ("the same by CPU time of all of Ray", cpu)):
        print(f"  {what}: median {statistics.median(values):.3f}, least {min(values):.3f}, {len(values)} rounds")


def _ratio(found: dict[str, Any], kind: str = "") -> float:
    return float(found[f"memory{kind}"] / found[f"feed{kind}"])


class Peak:
    """The most memory that each kind of Ray's processes has had, by its name: of its own (anonymous), and of the object store.

    Pages of the store that one process alone has touched are private too, so that USS counts them to it.
    """

    def __init__(self) -> None:
        self.own: dict[str, int] = {}
        self.store: dict[str, int] = {}
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> "Peak":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._over.wait(0.1):
            for process in psutil.Process().children(recursive=True):
                with contextlib.suppress(psutil.Error, OSError):
                    title = process.name() if "ray::" not in process.name() else process.name().split("(")[0]
                    lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
                    sizes = {line.split(":")[0]: int(line.split()[1]) << 10 for line in lines if line.startswith("Rss")}
                    for found, name in ((self.own, "RssAnon"), (self.store, "RssShmem")):
                        found[title] = max(found.get(title, 0), sizes.get(name, 0))


def memory(*samples: int) -> None:
    """One epoch of corpora of so many pictures; peaks of each kind of process."""
    px, model, batch, _ = SIZES["tiny"]
    with tempfile.TemporaryDirectory() as name:
        for many in samples or (1500, 15_000, 36_000):
            folder = Path(name) / str(many)
            write_prepared(folder / "data", many, px)
            setup = planned(folder / "data", folder / "out", model, batch, epochs=1, max_steps=0)
            with session("local", verbose=False), Peak() as peak:
                launch(setup, storage.Folder(setup.output), workers=1, max_failures=0, verbose=True)
            print(f"  {many} pictures, MiB of its own (of the object store):")
            for title in sorted(peak.own, key=lambda title: -peak.own[title])[:5]:
                print(f"    {title[:40]:40} {peak.own[title] / 2**20:6.0f} ({peak.store[title] / 2**20:.0f})", flush=True)


READER = """
import sys, threading, time
from pathlib import Path
from pipeline.training.corpus import open_corpus
from pipeline.training.feed import FeedSpec, read_task
from pipeline.training.order import plan
from pipeline.training.progress import Progress

def own_mib():
    return next(int(line.split()[1]) for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("RssAnon")) / 1024

def watch():
    while True:
        seen.append(own_mib())
        time.sleep(0.005)

corpus, px = open_corpus(sys.argv[1]), int(sys.argv[2])
tasks = plan(corpus, corpus.universe({}), Progress(), seed=0, epochs=1)
began, seen = own_mib(), []
threading.Thread(target=watch, daemon=True).start()
rows, first = 0, 0.0
for task in tasks:
    rows += sum(table.num_rows for table in read_task(task, corpus.files, FeedSpec(px=px)))
    first = first or max(seen)
print(f"{rows} pictures, {len(tasks)} tasks: {began:.0f} MiB before, most {first:.0f} in the first task, {max(seen):.0f} in all")
"""


def reading(*samples: int) -> None:
    """Memory of its own of one process that does all reading tasks of an epoch in turn, without Ray."""
    px = SIZES["tiny"][0]
    for many in samples or (1500, 15_000, 36_000, 100_000):
        with tempfile.TemporaryDirectory() as name:
            write_prepared(Path(name), many, px)
            print("  " + subprocess.check_output([sys.executable, "-c", READER, name, str(px)], text=True).strip(), flush=True)


def workers() -> None:
    """Samples a second: one worker with all threads against two with half of them each, the same samples a step."""
    px, model, batch, _ = SIZES["tiny"]
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
    elif what in ("memory", "reading"):
        {"memory": memory, "reading": reading}[what](*(int(many) for many in sys.argv[2:]))
    else:
        workers()
