"""What is left of an epoch -> read tasks in an order that (seed, epoch) decides.

Row groups are shuffled and bundled up to `BUNDLE_BYTES`; a task reads its bundle and permutes the rows in it, so that a batch
mixes rows of several shards although each row group is read in one piece. A small corpus is one bundle, read by
several tasks that each take their share of one permutation: then the shuffle is complete.

A plan covers as many epochs as fit `HORIZON_TASKS`, so that short epochs follow each other without a gap; of a long epoch it
covers the first `MOST_TASKS`, and the next plan the rest.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from pipeline.training.corpus import Corpus
from pipeline.training.progress import Progress, Ranges, count, within

BUNDLE_BYTES = 48 << 20
"""What a task holds undecoded."""
PIECE_ROWS = 128
"""A bundle is not cut finer than this."""
PIECES = 8
"""Tasks that an epoch of few bundles is cut into, so that several processes decode it."""
HORIZON_TASKS = 512
MOST_TASKS = 4_096
"""Tasks of one Ray execution: 0.2 ms each at its start."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """Rows of one row group that are still to be trained on."""

    file: int
    """Number of the file in the corpus."""
    group: int
    """Number of the row group in the file."""
    rows: Ranges
    """Positions in the file."""


@dataclass(frozen=True, slots=True)
class FeedTask:
    """What one read task yields: its share of the permuted rows of a bundle. The same fields give the same rows in the same order."""

    epoch: int
    seed: int
    bundle: int
    chunks: tuple[Chunk, ...]
    piece: int = 0
    pieces: int = 1


def plan(corpus: Corpus, universe: Mapping[str, Ranges], progress: Progress, *, seed: int, epochs: int) -> tuple[FeedTask, ...]:
    """Tasks for what is left, epoch by epoch, up to `epochs` of them in all; none where everything is done."""
    tasks: list[FeedTask] = []
    for epoch in range(progress.finished, epochs):
        found = list(_epoch_tasks(corpus, progress.left(epoch, universe), seed, epoch))
        tasks += found
        if len(tasks) >= HORIZON_TASKS:
            break
    return tuple(tasks[:MOST_TASKS])


def _epoch_tasks(corpus: Corpus, left: Mapping[str, Ranges], seed: int, epoch: int) -> Iterator[FeedTask]:
    chunks, sizes = _chunks(corpus, left)
    rng = np.random.default_rng([seed, epoch, 1])
    order = [int(number) for number in rng.permutation(len(chunks))]
    bundles: list[list[Chunk]] = []
    filled = BUNDLE_BYTES + 1
    for number in order:
        if filled + sizes[number] > BUNDLE_BYTES:
            bundles.append([])
            filled = 0
        bundles[-1].append(chunks[number])
        filled += sizes[number]
    for number, bundle in enumerate(bundles):
        rows = sum(count(chunk.rows) for chunk in bundle)
        pieces = max(1, min(-(-PIECES // len(bundles)), rows // PIECE_ROWS))
        for piece in range(pieces):
            yield FeedTask(epoch, seed, number, tuple(bundle), piece, pieces)


def _chunks(corpus: Corpus, left: Mapping[str, Ranges]) -> tuple[list[Chunk], list[int]]:
    """Chunks in the corpus' order with the bytes that reading each puts into memory."""
    chunks, sizes = [], []
    for number, file in enumerate(corpus.files):
        ranges = left.get(file.name, ())
        for at, group in enumerate(file.groups if ranges else ()):
            rows = within(ranges, group.first, group.first + group.rows)
            if rows:
                chunks.append(Chunk(number, at, rows))
                sizes.append(group.size * count(rows) // group.rows)
    return chunks, sizes


def permuted(task: FeedTask, n_rows: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """The places in the bundle that this task yields, in order."""
    rng = np.random.default_rng([task.seed, task.epoch, 2, task.bundle])
    return rng.permutation(n_rows)[task.piece :: task.pieces].astype(np.int64)
