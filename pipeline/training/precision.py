"""Which parts of the model compute in bfloat16: tried at the start on a real batch, each part by itself.

On processors with AVX-512 BF16 a ResNet is 1.5 to 1.8 times as fast in bfloat16 and a depthwise network slower, so that no
rule serves. Encoder and text model are timed apart, forward and backward: the difference that one makes drowns in the time of
both. Rounds alternate, so that other work on the machine falls on both numbers, and the least time counts: what disturbs only
ever adds. Weights, optimiser and losses stay float32.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch

from pipeline.model.model import Number, Precision
from pipeline.training.world import World

Wish = Literal["auto", "float32", "bfloat16"]
Part = Literal["encoder", "text"]
LEAST_ROUNDS, MOST_ROUNDS = 4, 30
PART_S = 2.0
"""Seconds after which no further round of a part begins, once there were LEAST_ROUNDS: a small model gets more rounds, and needs them."""
WORTH = 0.95
"""Share of float32's time below which bfloat16 is taken: a tie is no reason to round."""


@dataclass(frozen=True, slots=True)
class Choice:
    """What was chosen, and why."""

    precision: Precision
    seconds: Mapping[Part, Mapping[Number, float]]
    """Part -> number -> least seconds of a forward and backward pass; empty where nothing was tried."""


def supported(device: torch.device) -> bool:
    """True where bfloat16 may be faster: GPUs and processors that multiply it."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported())
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def choose(model: Any, wish: Wish, world: World, trials: Mapping[Part, Callable[[], None]]) -> Choice:
    """The faster number of each part, alike on all workers; a part's trial does one forward and backward pass of it alone.

    The model's buffers, gradients and precision, and torch's random state, are as before. Every worker calls it.
    """
    both = Precision(encoder="bfloat16", text="bfloat16")
    if wish == "float32" or (wish == "auto" and world.sum([supported(world.device)])[0] < world.size):
        return Choice(Precision(), {})
    if wish == "bfloat16" or world.device.type == "cuda":
        return Choice(both, {})
    before, buffers = model.precision, {name: buffer.clone() for name, buffer in model.named_buffers()}
    with torch.random.fork_rng(devices=[]):
        mine = {part: _least(model, part, trial, world) for part, trial in trials.items()}
    with torch.no_grad():
        for name, buffer in model.named_buffers():
            buffer.copy_(buffers[name])
    model.precision = before
    model.zero_grad(set_to_none=True)
    seconds = world.gather(mine)[0]
    return Choice(Precision(**{part: faster(times) for part, times in seconds.items()}), seconds)


def faster(seconds: Mapping[Number, float]) -> Number:
    """bfloat16 where it is clearly faster."""
    return "bfloat16" if seconds["bfloat16"] < WORTH * seconds["float32"] else "float32"


def _least(model: Any, part: Part, trial: Callable[[], None], world: World) -> dict[Number, float]:
    """Least seconds of each number; the first round warms up. Workers do as many rounds as the first one: a trial may gather."""
    numbers: tuple[Number, ...] = get_args(Number)
    least: dict[Number, float] = dict.fromkeys(numbers, float("inf"))
    spent = 0.0
    for turn in range(MOST_ROUNDS + 1):
        if turn > LEAST_ROUNDS and world.sum([world.first and spent > PART_S])[0]:
            break
        for number in numbers if turn % 2 else numbers[::-1]:
            model.precision = Precision(encoder=number) if part == "encoder" else Precision(text=number)
            began = time.perf_counter()
            trial()
            seconds = time.perf_counter() - began
            spent += seconds
            if turn:
                least[number] = min(least[number], seconds)
    return least
