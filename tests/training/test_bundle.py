"""What a read task holds:

- rows are found by their places, whichever row groups they came from, small ones that were joined and large ones alike;
- what is held is held once: reading takes one row group more, whatever the bundle's size.
"""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline import schema
from pipeline.training import bundle
from pipeline.training.corpus import open_corpus, read_rows
from pipeline.training.feed import COLUMNS
from pipeline.training.order import plan
from pipeline.training.progress import Progress
from tests.training.small import write_prepared

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("together_bytes", [0, 3000, 1 << 30])
def test_rows_are_found_by_their_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, together_bytes: int) -> None:
    monkeypatch.setattr(bundle, "TOGETHER_BYTES", together_bytes)
    corpus = open_corpus(str(write_prepared(tmp_path, (13, 7, 9), group_rows=4)))
    progress = Progress(begun={0: {"part/000.parquet": ((1, 3), (8, 12))}})
    task = plan(corpus, corpus.universe({}), progress, seed=5, epochs=1)[0]
    held = bundle.read_bundle(task, corpus.files, COLUMNS)
    assert len(held.rows) == 29 - 6
    for places in (np.random.default_rng(1).permutation(23), np.array([22, 0, 22, 5])):
        for at, row in zip(places, held.take(places).to_pylist(), strict=True):
            position = int(held.rows[at])
            stored = read_rows(corpus.files[held.files[at]], ((position, position + 1),)).select(COLUMNS).to_pylist()
            assert [row] == stored


ALONE = """
import sys
import pyarrow as pa
from pipeline.training.bundle import read_bundle
from pipeline.training.corpus import open_corpus
from pipeline.training.order import Chunk, FeedTask

corpus = open_corpus(sys.argv[1])
file = corpus.files[0]
chunks = tuple(Chunk(0, number, ((group.first, group.first + group.rows),)) for number, group in enumerate(file.groups))
held = read_bundle(FeedTask(0, 0, 0, chunks), corpus.files, ("shard", "index", "image"))
print(len(file.groups), file.groups[0].size, pa.default_memory_pool().max_memory())
"""


def test_what_is_held_is_held_once(tmp_path: Path) -> None:
    (tmp_path / "prepared").mkdir()
    media = np.random.default_rng(1)
    rows = [{"shard": "a.tar", "index": at, "modality": "image", "image": media.bytes(1 << 16), "flags": []} for at in range(480)]
    table = pa.Table.from_pylist(rows, schema=schema.PREPARED)
    pq.write_table(table, tmp_path / "prepared/a.parquet", row_group_size=80, compression="NONE", use_dictionary=False)
    # In a process of its own: Arrow's peak is that of all that the process ever did.
    ran = subprocess.run([sys.executable, "-c", ALONE, str(tmp_path)], capture_output=True, text=True, cwd=ROOT, check=True)
    groups, size, peak = (int(value) for value in ran.stdout.split())
    assert groups == 6 and size > 5 << 20
    assert peak < (groups + 2.5) * size, f"{peak:,} bytes for {groups} row groups of {size:,}"
