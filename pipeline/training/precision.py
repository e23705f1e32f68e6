"""Which parts of the model compute in bfloat16: tried at the start, the fastest is taken.

On processors with AVX-512 BF16 a ResNet is 1.5 to 1.8 times as fast in bfloat16 and a depthwise network slower, so that no
rule serves; a few steps on a real batch tell. Weights, optimiser and losses stay float32.
"""

import time
from collections.abc import Callable
from typing import Any, Literal

import torch

from pipeline.model.model import Precision

Wish = Literal["auto", "float32", "bfloat16"]
ROUNDS = 3
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
    plain = _seconds(model, Precision(), trial)
    encoder = _seconds(model, Precision(encoder="bfloat16"), trial) < WORTH * plain
    text = _seconds(model, Precision(text="bfloat16"), trial) < WORTH * plain
    for name, buffer in model.named_buffers():
        buffer.copy_(buffers[name])
    model.precision = before
    model.zero_grad(set_to_none=True)
    return Precision(encoder="bfloat16" if encoder else "float32", text="bfloat16" if text else "float32")


def _seconds(model: Any, precision: Precision, trial: Callable[[], None]) -> float:
    """The fastest of a few rounds, after one that warms up."""
    model.precision = precision
    times = []
    for _ in range(ROUNDS + 1):
        began = time.perf_counter()
        trial()
        times.append(time.perf_counter() - began)
    return min(times[1:])
