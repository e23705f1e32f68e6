"""Peak memory of the driver and of a worker with 10 times the archives: bound 1.10 of the peak with once, aim 1.02."""

import tempfile
from pathlib import Path

from corpus import write_pictures
from peaks import peaks

SHARDS, SAMPLES, SIDE_PX = 20, 150, 128


def main() -> None:
    """The engine measures pictures and holds nothing: what grows is Ray's and ours."""
    with tempfile.TemporaryDirectory() as name:
        found = []
        for shards in (SHARDS, SHARDS * 10):
            write_pictures(Path(name, str(shards)), shards, SAMPLES, SIDE_PX)
            found.append(peaks(["caption", f"{name}/{shards}", "--output", f"{name}/output-{shards}", "--engine", "facts"]))
        few, many = found
        for what in few:
            print(
                f"{what:<12} {SHARDS} archives {few[what]:8.1f}   {SHARDS * 10} archives {many[what]:8.1f}   x {many[what] / few[what]:.3f}"
            )


if __name__ == "__main__":
    main()
