"""Tar reader against webdataset's on the same shards, one core: samples a second, interleaved A B A B, medians.

python infra/bench/reader.py [pairs]
"""

import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import numpy as np
import webdataset

from pipeline import storage
from pipeline.samples.group import Sample, hashes_of, read_samples

SHAPES = {"2 KB + txt": (2_000, 6_000), "16 KB + txt": (16_000, 4_000), "64 KB + txt": (64_000, 2_000)}
"""Bytes of a picture, and samples in the shard."""


def build(path: Path, size: int, count: int) -> None:
    """A shard of noise with the shape of pictures and captions."""
    rng = np.random.default_rng(0)
    with webdataset.TarWriter(str(path), encoder=False, mtime=0) as writer:
        for number in range(count):
            writer.write({"__key__": f"{number:09d}", "jpg": rng.bytes(size), "txt": b"a caption of ordinary length, forty bytes or so"})


def ours(path: Path, hashes: bool) -> int:
    """Samples read, every field as bytes."""
    count = 0
    with closing(storage.open_reader(str(path))) as reader:
        for sample in read_samples(reader, packed=None, max_sample_bytes=1 << 29):
            if isinstance(sample, Sample):
                count += 1
                if hashes:
                    hashes_of(sample.fields)
    return count


def theirs(path: Path) -> int:
    """The same with webdataset."""
    return sum(1 for _ in webdataset.WebDataset(str(path), shardshuffle=False))


def timed(work: Callable[[], int]) -> float:
    """Samples a second."""
    started = time.perf_counter()
    count = work()
    return count / (time.perf_counter() - started)


def main(pairs: int) -> None:
    """Prints a line a shape."""
    with tempfile.TemporaryDirectory() as folder:
        for name, (size, count) in SHAPES.items():
            path = Path(folder) / f"{size}.tar"
            build(path, size, count)
            works = (lambda p=path: theirs(p), lambda p=path: ours(p, False), lambda p=path: ours(p, True))
            rates = [[timed(work) for work in works] for _ in range(pairs)]
            web, plain, hashed = (statistics.median(column) for column in zip(*rates, strict=True))
            print(
                f"{name:12} webdataset {web:8,.0f}/s   ours {plain:8,.0f}/s ({plain / web:.1f}x)   with both hashes {hashed:8,.0f}/s ({hashed / web:.1f}x)"
            )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 5)
