"""Archives of real-sized JPEGs cut from real photographs (scikit-image, scikit-learn), each with a text of its own."""

import importlib.util
import io
import random
import sys
from pathlib import Path

from corpus import write_tar
from PIL import Image

SIDES_PX = (480, 640)
"""Shorter and longer side: the size that web corpora are mostly kept at. About 64 KB at quality 88."""
WORDS = (
    "a",
    "the",
    "red",
    "small",
    "old",
    "bright",
    "house",
    "street",
    "cat",
    "cup",
    "sky",
    "river",
    "people",
    "near",
    "under",
    "of",
    "and",
    "on",
)


def photographs() -> list[Image.Image]:
    """The photographs that the packages hold, at least 400 px on the shorter side."""
    found = []
    for package, pattern in (("skimage", "data/*.[jp][pn]g"), ("sklearn", "datasets/images/*.jpg")):
        spec = importlib.util.find_spec(package)
        if spec is None or not spec.submodule_search_locations:
            continue
        for path in sorted(Path(next(iter(spec.submodule_search_locations))).glob(pattern)):
            picture = Image.open(path).convert("RGB")
            if min(picture.size) >= 400:
                found.append(picture)
    if not found:
        sys.exit("packages scikit-image and scikit-learn are missing; make bench installs them")
    return found


def jpegs(count: int, seed: int) -> list[bytes]:
    """`count` different crops of the photographs, scaled to SIDES_PX."""
    rng, sources = random.Random(seed), photographs()
    made = []
    for _ in range(count):
        source = rng.choice(sources)
        share = rng.uniform(0.7, 1.0)
        width, height = (round(side * share) for side in source.size)
        left, top = rng.randint(0, source.width - width), rng.randint(0, source.height - height)
        size = SIDES_PX if rng.random() < 0.3 else SIDES_PX[::-1]
        data = io.BytesIO()
        source.resize(size, Image.Resampling.BILINEAR, box=(left, top, left + width, top + height)).save(data, "JPEG", quality=88)
        made.append(data.getvalue())
    return made


def write_photographs(folder: Path, shards: int, samples: int, distinct: int = 512) -> None:
    """`shards` archives of `samples` pictures; `distinct` pictures in all, each sample with its own text."""
    pictures, rng = jpegs(distinct, 0), random.Random(1)
    for shard in range(shards):
        members = []
        for at in range(samples):
            key = f"{shard:05d}{at:06d}"
            text = " ".join(rng.choices(WORDS, k=rng.randint(5, 18)))
            members += [(f"{key}.jpg", pictures[(shard * samples + at) % distinct]), (f"{key}.txt", text.encode())]
        write_tar(folder / f"{shard:05d}.tar", members)
