"""Listing and planning 100,000 archives of which 99,990 are done. Bound 10 s, aim 2 s."""

import tempfile
from pathlib import Path

from corpus import interleaved, seconds, show

from pipeline import storage
from pipeline.commit.plan import expand, inputs, make_plan

SHARDS, OPEN, ROUNDS = 100_000, 10, 3


def main() -> None:
    """Files are empty: planning reads names, sizes and times only."""
    with tempfile.TemporaryDirectory() as name:
        shards, output = Path(name, "shards"), Path(name, "output")
        for folder in (shards, output / "captions"):
            folder.mkdir(parents=True)
        for at in range(SHARDS):
            (shards / f"{at:06d}.tar").touch()
        for at in range(SHARDS - OPEN):
            (output / f"captions/{at:06d}.parquet").touch()

        def plan() -> float:
            def work() -> None:
                root, blobs = expand((str(shards / "*.tar"),))
                found = make_plan(inputs(blobs, root), storage.Folder(str(output)))
                assert (found.done, len(found.open)) == (SHARDS - OPEN, OPEN)

            return seconds(work)

        show(interleaved({"planning": plan}, ROUNDS), "s")


if __name__ == "__main__":
    main()
