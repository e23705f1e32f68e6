"""One archive of 4 GiB: a worker stays within 1 GiB of what it holds with an archive of a few pictures, and the driver too."""

import itertools
import tempfile
from collections.abc import Iterator
from pathlib import Path

from corpus import picture, write_tar
from peaks import peaks

SIZE, SIDE_PX = 4 << 30, 1400
BOUND_MIB = 1024


def members(size: int) -> Iterator[tuple[str, bytes]]:
    """Pictures of 1.3 MB, until they are `size` bytes together."""
    pictures = [picture(SIDE_PX, seed) for seed in range(8)]
    for at in itertools.count():
        data = pictures[at % len(pictures)]
        size -= len(data)
        yield f"{at:06d}.jpg", data
        if size <= 0:
            return


def main() -> None:
    """What a worker holds with three pictures stands for its imports and engine."""
    with tempfile.TemporaryDirectory() as name:
        found = {}
        for what, size in (("small", 3 << 20), ("large", SIZE)):
            write_tar(Path(name, f"{what}.tar"), members(size))
            found[what] = peaks(["caption", f"{name}/{what}.tar", "--output", f"{name}/output-{what}", "--engine", "facts"])
            print(what, {key: round(value, 1) for key, value in found[what].items()}, flush=True)
        for process in ("driver", "worker"):
            more = found["large"][f"{process} USS"] - found["small"][f"{process} USS"]
            print(f"{process}: {more:.0f} MiB above the small archive, bound {BOUND_MIB}: {'met' if more <= BOUND_MIB else 'missed'}")


if __name__ == "__main__":
    main()
