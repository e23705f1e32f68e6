"""One step of the optimiser: micro-batches in, weights moved, whatever the number of workers.

    loss = sum over objectives o of  w_o * (sum of o's losses) / (number of o's targets)

with both sums over all micro-batches of all workers: one worker with two micro-batches and two workers with one compute the same.
The numbers of targets are known before the forward pass, so that each micro-batch is divided rightly and no graph is kept.
"""

import contextlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from cyclopts import Parameter
from torch import nn

from pipeline.errors import RequestError, StoppedError
from pipeline.model.mix import ObjectiveMix
from pipeline.training.augment import AugmentConfig, augment
from pipeline.training.batches import Fed, to_device
from pipeline.training.counts import target_counts
from pipeline.training.kept import KeptGrids
from pipeline.training.world import World


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True, slots=True)
class OptimiserConfig:
    """How weights move."""

    learning_rate: float = 3e-4
    """Highest learning rate of new layers; too high diverges, too low wastes time."""
    weight_decay: float = 0.05
    """Decay of matrices; biases, norms and embeddings of positions have none."""
    beta1: float = 0.9
    """AdamW's memory of the gradient."""
    beta2: float = 0.98
    """AdamW's memory of its square; higher is steadier and slower to adapt."""
    clip: float = 1.0
    """Longest gradient; longer ones are shortened to it. 0 never clips."""

    def __post_init__(self) -> None:
        """Raises RequestError for values out of range."""
        if not (self.learning_rate > 0 and self.weight_decay >= 0 and self.clip >= 0):
            raise RequestError("learning_rate must be above 0; weight_decay and clip 0 or more")
        if not (0 <= self.beta1 < 1 and 0 <= self.beta2 < 1):
            raise RequestError(f"beta1 {self.beta1} and beta2 {self.beta2}: give 0 to below 1")


@dataclass(frozen=True, slots=True)
class Stepped:
    """What a step did, over all workers."""

    totals: dict[str, float]
    """Sum of losses by objective, of this worker alone."""
    counts: dict[str, float]
    """Targets by objective, over all workers."""
    gradient: float
    """Length of the gradient before clipping."""


class Stepper:
    """Owns the wrapped model and the optimiser."""

    def __init__(
        self,
        model: Any,
        optimiser: torch.optim.Optimizer,
        config: OptimiserConfig,
        mix: ObjectiveMix,
        world: World,
        kept: KeptGrids | None = None,
    ) -> None:
        self._kept = kept
        self._model, self._optimiser, self._config, self._mix, self._world = model, optimiser, config, mix, world
        self._parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        wrapped: Any = model
        if world.size > 1:
            devices = [world.device] if world.device.type == "cuda" else None
            # Which parameters a batch uses depends on its modalities and on the mix.
            wrapped = nn.parallel.DistributedDataParallel(model, device_ids=devices, find_unused_parameters=True)
        self._wrapped = wrapped

    def counts(self, feds: Sequence[Fed]) -> dict[str, float]:
        """Targets of this worker's micro-batches, by objective, in the mix's order."""
        found = dict.fromkeys(self._mix.wanted(), 0.0)
        for fed in feds:
            for name, count in target_counts(self._model, fed.batch, self._mix).items():
                found[name] += count
        return found

    def step(self, feds: Sequence[Fed], counts: dict[str, float], share: float, augmentation: AugmentConfig) -> Stepped:
        """One step with `counts` of all workers, at a share of the full learning rate. StoppedError names the samples of a loss or
        gradient that is not finite; the weights stay as they were."""
        for group in self._optimiser.param_groups:
            group["lr"] = group["full_lr"] * share
        totals = dict.fromkeys(counts, 0.0)
        kept: list[dict[str, torch.Tensor]] = []
        for number, fed in enumerate(feds):
            last = number == len(feds) - 1
            with contextlib.nullcontext() if last or self._world.size == 1 else self._wrapped.no_sync():
                kept.append(self._backward(fed, counts, augmentation))
        clip = self._config.clip or math.inf
        gradient = float(nn.utils.clip_grad_norm_(self._parameters, clip))
        for found in kept:
            for name, total in found.items():
                totals[name] += float(total)
        if not math.isfinite(gradient) or not all(math.isfinite(total) for total in totals.values()):
            self._optimiser.zero_grad(set_to_none=True)
            raise StoppedError(self._blame(feds, kept))
        self._optimiser.step()
        self._optimiser.zero_grad(set_to_none=True)
        return Stepped(totals, counts, gradient)

    def _backward(self, fed: Fed, counts: dict[str, float], augmentation: AugmentConfig) -> dict[str, torch.Tensor]:
        batch = to_device(fed.batch, self._world.device)
        if self._kept is None:
            batch = augment(batch, fed.mirror_b.to(self._world.device), augmentation)
        else:
            batch = self._kept.changed(fed, batch, augmentation)
        weights = self._mix.weights()
        found = self._wrapped(batch, self._mix, train=True)
        # DDP averages gradients over workers; the sum is wanted.
        parts = [weights[name] * self._world.size / max(counts[name], 1.0) * loss.total for name, loss in found.items()]
        torch.stack([part.reshape(()) for part in parts]).sum().backward()
        return {name: loss.total.detach() for name, loss in found.items()}

    def _blame(self, feds: Sequence[Fed], kept: list[dict[str, torch.Tensor]]) -> str:
        """Which samples: those of micro-batches whose own loss is not finite, else (only the gradient is not) all of the step."""
        mine = [
            origin
            for fed, found in zip(feds, kept, strict=True)
            if not all(math.isfinite(float(total)) for total in found.values())
            for origin in fed.batch.origins
        ]
        everyone = self._world.gather((mine, [origin for fed in feds for origin in fed.batch.origins]))
        blamed = [origin for culprits, _ in everyone for origin in culprits]
        what = "the loss" if blamed else "the gradient"
        samples = blamed or [origin for _, present in everyone for origin in present]
        shown = ", ".join(f"{shard}:{index}" for shard, index in samples[:64])
        more = f" and {len(samples) - 64} more" if len(samples) > 64 else ""
        return (
            f"{what} is not finite in a batch of {shown}{more}; the last checkpoint is kept. "
            "Look at these samples, or lower --learning-rate and run the same command again"
        )
