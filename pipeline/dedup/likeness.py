"""When two samples are alike, and how likely pairs are found without comparing all: what shares a bucket is compared.

    media     the same bytes of the primary medium
    picture   perceptual hashes that differ in at most `picture_bits` bits: pixels alike, whatever the size and codec
    text      estimated Jaccard similarity of the texts' character sequences of at least `text_similarity`

Pictures: 64 bits are cut into picture_bits + 2 blocks, and each pair of blocks is a bucket; of two hashes within reach at
least two blocks agree, so that no pair is missed. Texts: MinHash in bands (LSH), which finds 95 % at the threshold and more above.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import combinations
from typing import Annotated, Any, Literal, NamedTuple, TypeAlias, get_args

import numpy as np
from cyclopts import Parameter
from numpy.typing import NDArray

from pipeline.dedup.signatures import PERMUTATIONS
from pipeline.errors import RequestError

By = Literal["media", "picture", "text"]
Numbers: TypeAlias = NDArray[np.uint64]
Proof: TypeAlias = NDArray[np.uint8]

MAX_PICTURE_BITS = 8
BAND_RECALL = 0.95
"""Share of pairs at exactly the threshold that bands find."""


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True, slots=True)
class LikenessConfig:
    """Which samples count as the same."""

    by: Annotated[tuple[By, ...], Parameter(negative=())] = ("media", "picture")
    """What makes a duplicate, each by itself: media (the same bytes), picture (looks the same), text (reads the same)."""
    picture_bits: int = 4
    """Bits of 64 by which perceptual hashes may differ, 0 to 8; other sizes and codecs of a photograph differ in 0 to 4, other photographs in 20 and more."""
    text_similarity: float = 0.8
    """Jaccard similarity of texts from which on they are the same, above 0 to 1; short texts differ much by one word."""

    def __post_init__(self) -> None:
        """Raises RequestError for a value out of range."""
        unknown = [name for name in self.by if name not in get_args(By)]
        if unknown or not self.by:
            raise RequestError(f"--by {' '.join(self.by)}: name one or more of {', '.join(get_args(By))}")
        if not 0 <= self.picture_bits <= MAX_PICTURE_BITS:
            raise RequestError(f"--picture-bits {self.picture_bits}: give 0 (the same hash) to {MAX_PICTURE_BITS}")
        if not 0.3 <= self.text_similarity <= 1:
            raise RequestError(f"--text-similarity {self.text_similarity}: give 0.3 to 1 (the same text)")


class Likeness(NamedTuple):
    """One way of being alike, over columns of schema.SIGNATURES."""

    name: str
    column: str
    tables: int
    """Buckets that a sample is in."""
    buckets: Callable[[Any], list[Numbers]]
    """Column values without nulls -> for each table one number a value: equal ones share a bucket."""
    proof: Callable[[Any], Proof]
    """Column values -> bytes a value, (n, width): all that `alike` needs."""
    alike: Callable[[Proof, Proof], NDArray[np.bool_]]


def likenesses(config: LikenessConfig) -> tuple[Likeness, ...]:
    """Those asked for; of several that hold for a pair, the first is named as the reason."""
    every = (_media(), _picture(config.picture_bits), _text(config.text_similarity))
    return tuple(likeness for likeness in every if likeness.name in config.by)


def _bytes(column: Any, width: int) -> Proof:
    """A column of fixed-size binary without nulls as (n, width)."""
    return np.frombuffer(column.buffers()[1], np.uint8, count=len(column) * width, offset=column.offset * width).reshape(-1, width)


def _mix(values: Numbers, salt: int) -> Numbers:
    """SplitMix64's finaliser: spreads over all 64 bits, so that partitions are even. Wraps around by design."""
    mixed = values + np.uint64((salt * 0x9E3779B97F4A7C15) & 0xFFFFFFFFFFFFFFFF)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))


def _media() -> Likeness:
    def buckets(column: Any) -> list[Numbers]:
        return [_mix(np.ascontiguousarray(_bytes(column, 32)[:, :8]).view("<u8")[:, 0], 1)]

    def proof(column: Any) -> Proof:
        return _bytes(column, 32)[:, :16]  # half of a SHA-256 tells 10**18 media apart

    return Likeness("media", "media_sha256", 1, buckets, proof, lambda a, b: np.all(a == b, axis=1))


def _picture(within: int) -> Likeness:
    edges = [round(at * 64 / (within + 2)) for at in range(within + 3)]
    blocks = list(zip(edges[:-1], edges[1:], strict=True))
    pairs = list(combinations(blocks, 2)) if within else [tuple(blocks)]

    def buckets(column: Any) -> list[Numbers]:
        values = column.to_numpy(zero_copy_only=False).astype(np.uint64)
        tables = []
        for salt, chosen in enumerate(pairs):
            mask = sum(((1 << (high - low)) - 1) << low for low, high in chosen)
            tables.append(_mix(values & np.uint64(mask), salt))
        return tables

    def proof(column: Any) -> Proof:
        return np.ascontiguousarray(column.to_numpy(zero_copy_only=False).astype("<u8")).view(np.uint8).reshape(-1, 8)

    def alike(a: Proof, b: Proof) -> NDArray[np.bool_]:
        return np.asarray(np.bitwise_count(a ^ b).sum(axis=1) <= within)

    return Likeness("picture", "picture", len(pairs), buckets, proof, alike)


def band_rows(similarity: float) -> int:
    """Rows of a band: as many as find BAND_RECALL of the pairs at this similarity, because more rows mean fewer vain comparisons."""
    fit = [rows for rows in range(1, 33) if 1 - (1 - similarity**rows) ** (PERMUTATIONS // rows) >= BAND_RECALL]
    return max(fit)


def _text(similarity: float) -> Likeness:
    rows = band_rows(similarity)
    bands = PERMUTATIONS // rows

    def buckets(column: Any) -> list[Numbers]:
        values = np.ascontiguousarray(_bytes(column, 4 * PERMUTATIONS)).view("<u4").astype(np.uint64)
        tables = []
        for band in range(bands):
            key = np.full(len(values), band, np.uint64)
            for at in range(band * rows, (band + 1) * rows):
                key = _mix(key ^ values[:, at], at)
            tables.append(key)
        return tables

    def proof(column: Any) -> Proof:
        return np.ascontiguousarray(_bytes(column, 4 * PERMUTATIONS)[:, ::4])  # the lowest byte of each: one in 256 agrees by chance

    def alike(a: Proof, b: Proof) -> NDArray[np.bool_]:
        agree = (a == b).mean(axis=1)
        return np.asarray((agree - 1 / 256) / (1 - 1 / 256) >= similarity - 1e-9)

    return Likeness("text", "minhash", bands, buckets, proof, alike)
