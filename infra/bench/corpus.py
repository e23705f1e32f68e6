"""Archives to measure on, and how a measurement is repeated and shown. Content is random but seeded."""

import io
import statistics
import tarfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
from PIL import Image


def write_tar(path: Path, members: Iterable[tuple[str, bytes]]) -> None:
    """A plain ustar archive of the members in order."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


def picture(side_px: int, seed: int) -> bytes:
    """A noisy JPEG, so that it does not compress to nothing."""
    pixels = np.random.default_rng(seed).integers(0, 256, (side_px, side_px, 3), dtype=np.uint8)
    data = io.BytesIO()
    Image.fromarray(pixels).save(data, "jpeg")
    return data.getvalue()


def write_pictures(folder: Path, shards: int, samples: int, side_px: int = 64) -> None:
    """`shards` archives of `samples` pictures each, with a text beside each."""
    pictures = [picture(side_px, seed) for seed in range(32)]
    for shard in range(shards):
        members = [
            (f"{at:06d}.{name}", data) for at in range(samples) for name, data in (("jpg", pictures[at % 32]), ("txt", b"reference"))
        ]
        write_tar(folder / f"{shard:06d}.tar", members)


def seconds(work: Callable[[], object]) -> float:
    """Wall time of one call."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def interleaved(works: dict[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """Figures of each work, A B A B, so that a busy spell of the machine meets all of them."""
    figures: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(rounds):
        for name, work in works.items():
            figures[name].append(work())
    return figures


def show(figures: dict[str, list[float]], unit: str) -> None:
    """Min and median of each."""
    for name, values in figures.items():
        print(f"{name:<28} min {min(values):10.3f}   median {statistics.median(values):10.3f} {unit}   of {len(values)}", flush=True)
