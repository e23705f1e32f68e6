"""Which parts of the model compute in bfloat16: tried at the start, the fastest is taken.

On processors with AVX-512 BF16 a ResNet is 1.5 to 1.8 times as fast in bfloat16 and a depthwise network slower, so that no
rule serves; a few steps on a real batch tell. Weights, optimiser and losses stay float32.
"""

import time
from collections.abc import Callable
from typing import Any, Literal

import torch

from pipeline.model.model import Number, Precision

Wish = Literal["auto", "float32", "bfloat16"]
ROUNDS = 6
WORTH = 0.95
"""Share of float32's time below which bfloat16 is taken: a tie is no reason to round."""


def supported(device: torch.device) -> bool:
    """True where bfloat16 may be faster: GPUs and processors that multiply it."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported())
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def choose(model: Any, wish: Wish, device: torch.device, trial: Callable[[], None]) -> Precision:
    """The fastest precision; `trial` does one forward and backward pass. The model's buffers and precision are as before."""
    both = Precision(encoder="bfloat16", text="bfloat16")
    if wish == "float32" or (wish == "auto" and not supported(device)):
        return Precision()
    if wish == "bfloat16" or device.type == "cuda":
        return both
    before, buffers = model.precision, {name: buffer.clone() for name, buffer in model.named_buffers()}
    encoder, text = Precision(encoder="bfloat16"), Precision(text="bfloat16")
    seconds = _fastest(model, (Precision(), encoder, text), trial)
    for name, buffer in model.named_buffers():
        buffer.copy_(buffers[name])
    model.precision = before
    model.zero_grad(set_to_none=True)
    numbers: dict[bool, Number] = {False: "float32", True: "bfloat16"}
    bound = WORTH * seconds[Precision()]
    return Precision(encoder=numbers[seconds[encoder] < bound], text=numbers[seconds[text] < bound])


def _fastest(model: Any, candidates: tuple[Precision, ...], trial: Callable[[], None]) -> dict[Precision, float]:
    """Least seconds of each over a few rounds, in turn, so that other work on the machine falls on all alike; the first warms up."""
    times: dict[Precision, float] = dict.fromkeys(candidates, float("inf"))
    for number in range(ROUNDS + 1):
        for candidate in candidates:
            model.precision = candidate
            began = time.perf_counter()
            trial()
            if number:
                times[candidate] = min(times[candidate], time.perf_counter() - began)
    return times
