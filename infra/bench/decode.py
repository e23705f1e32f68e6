"""`decode_image` against bare torchvision decoding and resizing: pictures a second of one core.

    python infra/bench/decode.py [large]       photographs of about 64 KB, or of 12 megapixels

CPU time counts, not wall time, so that other work on the machine weighs less. Large ones are made of the largest photograph there is,
with the grain of a camera (6 grey levels), since an enlarged one would have no detail to lose.
"""

import importlib.util
import io
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from corpus import interleaved, show
from PIL import Image
from torchvision.io import ImageReadMode, decode_jpeg
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional

from pipeline.samples.image import decode_image

NAMES = ("astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg", "retina.jpg", "hubble_deep_field.jpg")
BYTES, SIDE_PX, COUNT, ROUNDS = 64_000, 224, 400, 5


def photographs() -> list[bytes]:
    """JPEGs of 0.9 to 1.1 times BYTES made of scikit-image's photographs, at quality 85 and the size that gives that."""
    spec = importlib.util.find_spec("skimage")
    if spec is None or not spec.submodule_search_locations:
        sys.exit("package scikit-image is missing; make bench installs it")
    folder = Path(next(iter(spec.submodule_search_locations)), "data")
    found = []
    for name in NAMES:
        if (folder / name).is_file():
            found.append(_shrunk(Image.open(folder / name).convert("RGB")))
    return found


def _shrunk(picture: Image.Image) -> bytes:
    low, high = 0.1, 4.0
    while True:
        scale = (low + high) / 2
        data = io.BytesIO()
        picture.resize([max(1, round(side * scale)) for side in picture.size]).save(data, "jpeg", quality=85)
        size = data.getbuffer().nbytes
        if abs(size - BYTES) < BYTES / 10 or high - low < 0.01:
            return data.getvalue()
        low, high = (scale, high) if size < BYTES else (low, scale)


def bare(data: bytes, side_px: int = SIDE_PX) -> np.ndarray:
    """What torchvision takes for the same pixels."""
    pixels_chw = decode_jpeg(torch.frombuffer(bytearray(data), dtype=torch.uint8), mode=ImageReadMode.RGB)
    height, width = pixels_chw.shape[1:]
    size = [max(1, round(side * side_px / min(height, width))) for side in (height, width)]
    small = functional.resize(pixels_chw, size, interpolation=InterpolationMode.BICUBIC, antialias=True)
    return np.ascontiguousarray(small.permute(1, 2, 0).numpy())


def cpu_seconds(work: Callable[[], object]) -> float:
    """CPU time of one call, all threads."""
    started = time.process_time()
    work()
    return time.process_time() - started


def large() -> None:
    """Pictures a second, and how far apart the pixels are."""
    source = max((Image.open(io.BytesIO(data)) for data in photographs()), key=lambda picture: picture.width * picture.height)
    enlarged = np.asarray(source.resize((4032, 3024), Image.Resampling.BICUBIC)).astype(np.float32)
    grain = np.random.default_rng(0).normal(0, 6, enlarged.shape[:2])[..., None]
    stream = io.BytesIO()
    Image.fromarray((enlarged + grain).clip(0, 255).astype(np.uint8)).save(stream, "jpeg", quality=90)
    data = stream.getvalue()
    print(f"12 megapixels, {len(data) / 1e6:.1f} MB")
    for side_px in (224, 256, 384):
        apart = np.abs(decode_image(data, side_px)[0].astype(int) - bare(data, side_px))
        ours, theirs = (min(cpu_seconds(partial(work, data, side_px)) for _ in range(6)) for work in (decode_image, bare))
        print(
            f"to {side_px}: {1000 * ours:.1f} ms, bare torchvision {1000 * theirs:.1f} ms: {theirs / ours:.2f} times as fast; "
            f"pixels {apart.mean():.3f} grey levels apart on the mean, {apart.max()} at most"
        )


def main() -> None:
    """Pictures a second."""
    torch.set_num_threads(1)
    if sys.argv[1:] == ["large"]:
        large()
        return
    pictures = photographs()
    sizes = [Image.open(io.BytesIO(data)).size for data in pictures]
    print(f"{len(pictures)} photographs of {[len(data) // 1000 for data in pictures]} KB, {sizes} px, to {SIDE_PX} px")
    many = [pictures[at % len(pictures)] for at in range(COUNT)]
    for data in pictures:
        assert np.array_equal(decode_image(data, SIDE_PX)[0], bare(data)), "the pixels differ"
    works = {
        "decode_image": lambda: COUNT / cpu_seconds(lambda: [decode_image(data, SIDE_PX) for data in many]),
        "bare torchvision": lambda: COUNT / cpu_seconds(lambda: [bare(data) for data in many]),
    }
    figures = interleaved(works, ROUNDS)
    show(figures, "pictures/s")
    show({"share of bare torchvision": [a / b for a, b in zip(*figures.values(), strict=True)]}, "")


if __name__ == "__main__":
    main()
