"""The workers of a run, as one of them sees the others. A world of one needs no process group.

What steers a step (counts, clocks, flags) goes through a gloo group of its own on the CPU, also beside NCCL: a device need not
be waited for. Only worker 0's clock counts, so that all decide alike.
"""

import functools
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist


@dataclass(frozen=True, slots=True)
class World:
    """This worker's place."""

    rank: int
    size: int
    device: torch.device
    control: Any = None
    """gloo process group for what steers; None in a world of one."""

    @property
    def first(self) -> bool:
        """True on the worker that writes."""
        return self.rank == 0

    def sum(self, values: Sequence[float]) -> list[float]:
        """Each value added up over workers."""
        if self.size == 1:
            return [float(value) for value in values]
        tensor = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(tensor, group=self.control)
        return [float(value) for value in tensor]

    def gather(self, value: Any) -> list[Any]:
        """The values of all workers, by rank, on every worker."""
        if self.size == 1:
            return [value]
        found: list[Any] = [None] * self.size
        dist.all_gather_object(found, value, group=self.control)
        return found

    def barrier(self) -> None:
        """Waits for all workers."""
        if self.size > 1:
            dist.barrier(group=self.control)


def join(device: torch.device) -> World:
    """The world of the process group that stands, or of this process alone."""
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return World(0, 1, device)
    return World(dist.get_rank(), dist.get_world_size(), device, dist.new_group(backend="gloo"))


@functools.cache
def cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
