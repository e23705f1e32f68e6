"""What runs in a Ray Train worker: its place, its iterator, the loop; and how a stop gets back to the driver.

A stop that all workers agree on (a loss that is not finite, a full disk) is written to `runs/<id>/stopped.json` and ends the run. Every
other failure, a killed process above all, is Ray's to retry: the worker group starts again from the newest checkpoint.
"""

import contextlib
import ctypes
import json
import sys
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import ray.train
import ray.train.torch
import torch
from ray.exceptions import RayTaskError

from pipeline.errors import NightcapError
from pipeline.storage import Folder
from pipeline.training.loop import Training
from pipeline.training.progress import Progress
from pipeline.training.setup import Setup
from pipeline.training.source import Begin, read_begin, write_begin
from pipeline.training.world import cores, join

PREFETCH = 2
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_KEPT_BYTES = 1 << 30


def stopped_path(run_id: str) -> str:
    """Below the output folder: why the run stopped, if it had to."""
    return f"runs/{run_id}/stopped.json"


def read_stop(store: Folder, run_id: str) -> str | None:
    """Why the run stopped, or None."""
    try:
        return str(json.loads(store.get(stopped_path(run_id)))["why"])
    except FileNotFoundError:
        return None


def work(config: dict[str, Any]) -> None:
    """The training function: one call a worker and start of a worker group."""
    setup: Setup = config["setup"]
    store = Folder(setup.output)
    if read_stop(store, setup.run_id) is not None:
        return
    device = ray.train.torch.get_device()
    if device.type == "cpu":
        torch.set_num_threads(max(1, cores() // ray.train.get_context().get_local_world_size()))
        _keep_memory()
    world = join(device)
    begin = read_begin(store, setup.run_id)
    shard = ray.train.get_dataset_shard("train")

    def tables() -> Iterator[pa.Table]:
        return iter(shard.iter_batches(batch_size=setup.loop.batch_size, batch_format="pyarrow", prefetch_batches=PREFETCH))

    def begin_again(progress: Progress) -> None:
        write_begin(store, setup.run_id, Begin(begin.checkpoint, progress))

    try:
        Training(setup, world, begin.checkpoint, begin_again).run(tables)
    except (NightcapError, RayTaskError) as exc:
        cause = exc.cause if isinstance(exc, RayTaskError) else exc
        if not isinstance(cause, NightcapError):
            raise
        with contextlib.suppress(NightcapError):  # the disk that is full may be this one
            store.put(stopped_path(setup.run_id), json.dumps({"why": str(cause)}).encode())
        if world.size > 1 or not _written(store, setup.run_id):
            raise  # other workers may wait in a collective that this one left


def _written(store: Folder, run_id: str) -> bool:
    return store.exists(stopped_path(run_id))


def _keep_memory() -> None:
    """glibc keeps freed memory: giving it back and faulting it in again at every step costs 11 to 17 % (2 cores, 2026-11)."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            libc = ctypes.CDLL("libc.so.6")
            libc.mallopt(_MMAP_THRESHOLD, _KEPT_BYTES)
            libc.mallopt(_TRIM_THRESHOLD, _KEPT_BYTES)
