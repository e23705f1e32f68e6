"""Two workers contrast their samples with each other's: losses add up to one worker's with the whole batch, and so do gradients."""

import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from pipeline.model.objectives import contrastive_loss

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_two_workers_contrast_as_one_with_the_whole_batch(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    outputs = [tmp_path / f"{rank}.pt" for rank in (0, 1)]
    command = [sys.executable, "-m", "tests.model.gather"]
    workers = [subprocess.Popen([*command, str(rank), port, str(output)], cwd=ROOT) for rank, output in enumerate(outputs)]
    try:
        assert [worker.wait(timeout=90) for worker in workers] == [0, 0]
    finally:
        for worker in workers:
            worker.kill()
            worker.wait()
    found = [torch.load(output, weights_only=True) for output in outputs]
    media, words = (torch.randn(4, 8, generator=torch.Generator().manual_seed(seed)).requires_grad_() for seed in (1, 2))
    whole = contrastive_loss(media, words, torch.tensor([7, 8, 8, 9]), torch.ones(4), torch.tensor(1.5), slice(0, 4))
    whole.total.backward()
    assert torch.allclose(found[0]["total"] + found[1]["total"], whole.total.detach(), atol=1e-5)
    assert media.grad is not None and words.grad is not None
    assert torch.allclose(torch.cat([one["media"] for one in found]), media.grad, atol=1e-5)
    assert torch.allclose(torch.cat([one["words"] for one in found]), words.grad, atol=1e-5)
