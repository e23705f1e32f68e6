"""One of two workers of a bare training, as a process: `python -m tests.training.two_workers RANK FOLDER`, FOLDER from the test."""

import sys
from pathlib import Path

import torch
import torch.distributed as dist

from pipeline.training.loop import Training
from pipeline.training.world import join
from tests.training.small import bare_feed, mixed_setup


def main(rank: int, folder: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    setup = mixed_setup(folder / "data", folder / "two", accumulate=1)
    world = join(torch.device("cpu"))
    training = Training(setup, world, None)
    training.run(bare_feed(training, setup, rank=rank, size=2))
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
