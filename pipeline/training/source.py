"""The feed as a Ray Data source, and where a feed begins: `runs/<id>/feed.json`.

One dataset serves a whole worker group. Train iterates it again and again, and each iteration plans anew from what
`feed.json` says has been stepped on: the driver's side writes it from the newest checkpoint whenever a worker group starts, the
first worker whenever a plan is used up. It is never written while an iteration runs, so that all calls of one see the same.
"""

import json
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
from ray.data import DataContext, Datasource, ReadTask, read_datasource
from ray.data.block import BlockMetadata

from pipeline.pace import AheadPace, set_pace
from pipeline.storage import Folder
from pipeline.training.checkpoints import Checkpoints
from pipeline.training.corpus import Corpus
from pipeline.training.feed import BLOCK_BYTES, FeedSpec, read_task
from pipeline.training.order import FeedTask, plan
from pipeline.training.progress import Progress, Ranges

NICE = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class FeedPlan:
    """What decides a feed, beside its progress."""

    output: str
    run_id: str
    corpus: Corpus
    universe: Mapping[str, Ranges]
    """Rows of an epoch."""
    spec: FeedSpec
    seed: int
    epochs: int
    """Epochs in all."""
    polite: bool = False
    """Read tasks let trainers on the same cores go first: a trainer's thread that waits for a core holds up all the others."""


@dataclass(frozen=True, slots=True)
class Begin:
    """Where a feed begins."""

    checkpoint: str | None
    """Name of the checkpoint that the worker group starts from; None for a new training."""
    progress: Progress


def feed_path(run_id: str) -> str:
    """Below the output folder."""
    return f"runs/{run_id}/feed.json"


def write_begin(store: Folder, run_id: str, begin: Begin) -> None:
    """Fixes where the next iteration begins. Only while none runs."""
    store.put(feed_path(run_id), json.dumps({"checkpoint": begin.checkpoint, "progress": begin.progress.to_json()}).encode())


def read_begin(store: Folder, run_id: str) -> Begin:
    """What was written last."""
    values = json.loads(store.get(feed_path(run_id)))
    return Begin(values["checkpoint"], Progress.from_json(values["progress"]))


class FeedSource(Datasource):  # type: ignore[misc]  # Ray ships no types
    """Read tasks for what is left, planned at each execution. Pass `override_num_blocks=1`: more, and Ray cuts blocks into pieces."""

    def __init__(self, feed: FeedPlan) -> None:
        self._feed = feed

    def get_read_tasks(self, parallelism: int, per_task_row_limit: int | None = None, data_context: Any = None) -> list[ReadTask]:
        """The tasks in order; the arguments are Ray's and change nothing, so that every call of an execution gives the same."""
        feed = self._feed
        begin = read_begin(Folder(feed.output), feed.run_id)
        tasks = plan(feed.corpus, feed.universe, begin.progress, seed=feed.seed, epochs=feed.epochs)
        metadata = BlockMetadata(num_rows=None, size_bytes=None, input_files=None, exec_stats=None)
        return [ReadTask(_bind(task, feed), metadata) for task in tasks]

    def estimate_inmemory_data_size(self) -> int | None:
        """Unknown before decoding."""
        return None


def _bind(task: FeedTask, feed: FeedPlan) -> Any:
    """The task with the files that it reads, and no others: a closure over the corpus would be sent with every task."""
    files = {chunk.file: feed.corpus.files[chunk.file] for chunk in task.chunks}
    spec, polite = feed.spec, feed.polite

    def read() -> Iterator[pa.Table]:
        if polite:
            os.setpriority(os.PRIO_PROCESS, 0, NICE)
        return read_task(task, files, spec)

    return read


def training_data(feed: FeedPlan, keep: int, concurrency: int | None) -> Callable[[], Any]:
    """For `TorchTrainer(datasets={"train": ...})`: called at every start of a worker group, it begins at the newest whole checkpoint."""

    def build() -> Any:
        store = Folder(feed.output)
        found = Checkpoints(store, keep).latest(lambda _: None)
        progress = Progress() if found is None else Progress.from_json(found.state["progress"])
        write_begin(store, feed.run_id, Begin(None if found is None else found.name, progress))
        context = DataContext.get_current()
        context.target_max_block_size = BLOCK_BYTES
        set_pace(context, AheadPace)
        context.enable_progress_bars = False
        context.print_on_execution_start = False
        return read_datasource(FeedSource(feed), override_num_blocks=1, concurrency=concurrency)

    return build
