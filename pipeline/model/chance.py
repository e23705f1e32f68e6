"""Random numbers that belong to a sample: the same whatever stands beside it, on any device, with any number of workers.

SplitMix64 (Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators, 2014) as a counter: number i of stream s
is a hash of (seed, s, i). torch's own generators would tie a sample's draw to its place in the batch.
"""

from enum import IntEnum

import torch

_GOLDEN = 0x9E3779B97F4A7C15 - (1 << 64)
_FIRST = 0xBF58476D1CE4E5B9 - (1 << 64)
_SECOND = 0x94D049BB133111EB - (1 << 64)
_BITS = 24  # what a float32 between 0 and 1 holds


class Stream(IntEnum):
    """What a number is drawn for: streams of one sample are independent of each other."""

    HIDE_MEDIUM = 1
    PICK_TOKENS = 2
    REPLACE_TOKENS = 3
    WHICH_TOKEN = 4
    HIDE_PATCHES = 5
    STYLE = 6
    FEATURES = 7
    DROP_WORDS = 8


def uniform(seeds_b: torch.Tensor, stream: IntEnum, count: int) -> torch.Tensor:
    """int64 seeds, b -> float32, b x count, each 0 <= u < 1 in steps of 2**-24; on the seeds' device."""
    start = _mix(_mix(seeds_b) + int(stream))
    counter = torch.arange(1, count + 1, device=seeds_b.device, dtype=torch.int64)
    mixed = _mix(start[:, None] + counter[None] * _GOLDEN)
    return _shifted(mixed, 64 - _BITS).to(torch.float32) / float(1 << _BITS)


def _mix(value: torch.Tensor) -> torch.Tensor:
    value = (value ^ _shifted(value, 30)) * _FIRST
    value = (value ^ _shifted(value, 27)) * _SECOND
    return value ^ _shifted(value, 31)


def _shifted(value: torch.Tensor, bits: int) -> torch.Tensor:
    """Shifted right with zeros: torch's own shift copies the sign."""
    return (value >> bits) & ((1 << (64 - bits)) - 1)
