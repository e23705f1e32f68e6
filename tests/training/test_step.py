"""One step, whatever the number of workers:

- one worker with two micro-batches and two workers with one end with the same weights;
- the numbers of targets known beforehand are those of the losses, for every objective;
- a loss that is not finite stops, names the samples, and leaves the weights.
"""

import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from pipeline.errors import StoppedError
from pipeline.model.build import build
from pipeline.model.mix import ObjectiveMix
from pipeline.training.batches import collate
from pipeline.training.counts import target_counts
from pipeline.training.loop import Training
from pipeline.training.setup import make_optimiser
from pipeline.training.step import OptimiserConfig, Stepper
from pipeline.training.world import World
from tests.training.small import PX, STILL, TINY, bare_feed, make_setup, mixed_setup, tokenizer, write_prepared
from tests.training.test_feed import mixed

ALONE = World(0, 1, torch.device("cpu"))


@pytest.mark.slow
def test_one_worker_with_two_micro_batches_equals_two_workers(tmp_path: Path) -> None:
    prepared = write_prepared(tmp_path / "data", (14, 10))
    command = [sys.executable, "-m", "tests.training.two_workers"]
    workers = [subprocess.Popen([*command, str(rank), str(tmp_path)], cwd=Path(__file__).parents[2]) for rank in (0, 1)]
    setup = mixed_setup(prepared, tmp_path / "one", accumulate=2)
    training = Training(setup, ALONE, None)
    started = {name: value.clone() for name, value in training.model.state_dict().items()}
    training.run(bare_feed(training, setup))
    assert [worker.wait(timeout=100) for worker in workers] == [0, 0]
    one, two = load_file(tmp_path / "one/model/model.safetensors"), load_file(tmp_path / "two/model/model.safetensors")
    assert one.keys() == two.keys()
    moved = max(float((one[name] - started[name]).abs().max()) for name in one)
    apart = max(float((one[name] - two[name]).abs().max()) for name in one)
    # Sums are added in another order: a few units in the last place of gradients, which AdamW divides by their own size.
    assert moved > 1e-3 and apart < 0.01 * moved, (moved, apart)


@pytest.mark.parametrize("share", [0.15, 0.6])
def test_targets_counted_beforehand_are_those_of_the_losses(tmp_path: Path, share: float) -> None:
    tokenizer().save(tmp_path)
    every = ("causal", "masked_text", "masked_medium", "contrastive", "ctc")
    config = dataclasses.replace(TINY, modalities=("image", "audio", "video"), objectives=every, media_dropout=0.5, recording_width=64)
    model = build(dataclasses.replace(config, recording_layers=1), tmp_path)
    mix = ObjectiveMix(**{f"{name}_weight": 1.0 for name in every}, masked_text_share=share, masked_medium_share=share)
    for seed in range(3):
        batch = collate(mixed(), px=PX, pad_id=0).batch
        batch = dataclasses.replace(batch, seeds_b=batch.seeds_b + seed)
        found = {name: float(loss.count) for name, loss in model(batch, mix, train=True).items()}
        assert target_counts(model, batch, mix) == pytest.approx(found)


def test_a_loss_that_is_not_finite_stops_and_names_its_samples(tmp_path: Path) -> None:
    setup = make_setup(write_prepared(tmp_path / "data"), tmp_path / "out")
    training = Training(setup, ALONE, None)
    tables = list(bare_feed(training, setup)())
    fed = collate(tables[0], px=PX, pad_id=0)
    model = training.model
    stepper = Stepper(model, make_optimiser(model, OptimiserConfig()), OptimiserConfig(), setup.mix, ALONE)
    with torch.no_grad():
        model.null.fill_(float("nan"))
        next(iter(model.pictures.parameters())).fill_(float("inf"))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    shard, index = fed.batch.origins[0]
    with pytest.raises(StoppedError, match=rf"the loss is not finite in a batch of .*{shard}:{index}\b"):
        stepper.step([fed], stepper.counts([fed]), 1.0, STILL)
    assert all(torch.equal(value, before[name]) or value.isnan().any() for name, value in model.state_dict().items())
