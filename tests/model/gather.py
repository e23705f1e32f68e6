"""One of two workers of `test_gather.py`: contrasts its half of a batch, and writes what it got."""

import sys

import torch
from torch import distributed

from pipeline.model.heads import gathered, own_rows
from pipeline.model.objectives import contrastive_loss


def main(rank: int, port: str, output: str) -> None:
    """Joins, computes, leaves."""
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    media, words = (torch.randn(4, 8, generator=torch.Generator().manual_seed(seed)) for seed in (1, 2))
    mine = slice(2 * rank, 2 * rank + 2)
    own_media, own_words = media[mine].clone().requires_grad_(), words[mine].clone().requires_grad_()
    names = gathered(torch.tensor([7, 8, 8, 9])[mine])
    loss = contrastive_loss(gathered(own_media), gathered(own_words), names, gathered(torch.ones(2)), torch.tensor(1.5), own_rows(2))
    loss.total.backward()
    torch.save({"total": loss.total.detach(), "media": own_media.grad, "words": own_words.grad}, output)
    distributed.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], sys.argv[3])
