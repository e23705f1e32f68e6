"""`nightcap evaluate` on many captions: rows a second, and the peak memory of the driver and of its processes.

infra/bench/scores.py [rows]      default 1,000,000, in archives of 10,000;
                                      references of 5 to 15 words of a Zipf vocabulary
"""

import itertools
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq

from jobs.evaluate import EvaluateConfig, run
from pipeline import schema

PER_SHARD = 10_000
SYLLABLES = ("ka", "lo", "mi", "nu", "re", "so", "ta", "vi", "ze", "bo", "du", "fa", "gi", "he", "ju", "pe", "qua", "sta", "tri", "wo")
COMMON = ("a", "the", "of", "on", "with", "in", "man", "two", "and", "people")  # "two" is a number to the English normaliser
VOCABULARY = np.array([*COMMON, *("".join(three) for three in itertools.product(SYLLABLES, repeat=3))], object)


def texts(rng: np.random.Generator, rows: int) -> tuple[list[str], list[str]]:
    """References, and captions that have three words of ten otherwise."""
    lengths = rng.integers(5, 16, rows)
    ids, others = (np.minimum(rng.zipf(1.3, lengths.sum()) - 1, len(VOCABULARY) - 1) for _ in range(2))
    changed = np.where(rng.random(len(ids)) < 0.3, others, ids)
    edges = np.cumsum(lengths)[:-1]
    return tuple([" ".join(VOCABULARY[piece]) for piece in np.split(side, edges)] for side in (ids, changed))  # type: ignore[return-value]


def write(folder: Path, rows: int) -> None:
    """Caption tables of so many rows."""
    rng = np.random.default_rng(0)
    (folder / "captions").mkdir(parents=True)
    for shard, start in enumerate(range(0, rows, PER_SHARD)):
        n = min(PER_SHARD, rows - start)
        references, captions = texts(rng, n)
        columns = {field.name: pa.nulls(n, field.type) for field in schema.CAPTIONS}
        columns |= {"key": [f"k{start + at:08d}" for at in range(n)], "shard": [f"{shard:05d}.tar"] * n, "index": range(n)}
        columns |= {"text": references, "caption": captions, "caption_index": [0] * n, "status": ["success"] * n, "flags": [[]] * n}
        columns |= {"modality": ["image"] * n, "language": ["en"] * n}
        table = pa.table([pa.array(columns[field.name], field.type) for field in schema.CAPTIONS], schema=schema.CAPTIONS)
        pq.write_table(table, folder / f"captions/{shard:05d}.parquet", compression="zstd")


class Peak(threading.Thread):
    """The largest unshared memory of this process, and of any of its children, looked at ten times a second."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.own = self.child = 0
        self.stop = threading.Event()

    def run(self) -> None:
        """Until `stop` is set."""
        me = psutil.Process()
        while not self.stop.wait(0.1):
            self.own = max(self.own, me.memory_full_info().uss)
            for child in me.children():
                try:
                    self.child = max(self.child, child.memory_full_info().uss)
                except psutil.Error:
                    continue


def main() -> None:
    """Writes, scores, prints."""
    rows = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder), rows)
        peak = Peak()
        peak.start()
        started = time.perf_counter()
        run(EvaluateConfig(folder, workers=2))
        took = time.perf_counter() - started
        peak.stop.set()
    print(
        f"{rows:,} rows in {took:.1f} s: {rows / took:,.0f}/s; peak USS {peak.own / 2**20:,.0f} MiB, a process {peak.child / 2**20:,.0f} MiB"
    )


if __name__ == "__main__":
    main()
