"""Prepared tables, without Ray:

- a shard becomes one table with the rows that the chain makes, in order; rejected samples stand in quarantine with their bytes,
  removed ones without; the receipts' counts add up to the samples
- nothing is visible before the end; a shard that someone else has finished is left alone
- a shard in parts gives the rows and the quarantine of the whole, whoever joins, whatever was killed before
- memory does not grow with the shard; row groups have their size; `--limit` commits nothing
- the receipts say where the time went, writing and publishing included
- dataset.json counts what stands there, and reads no footer twice
"""

import io
import json
import tarfile
import time
import tracemalloc
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs.describe import describe
from jobs.prepare import PrepareConfig, recipe_of
from pipeline import schema, storage
from pipeline.commit import prepared as writing
from pipeline.commit.prepared import WriteConfig, part_of, tidy, write_shard
from pipeline.commit.rowgroups import RowGroups
from pipeline.commit.stage import Fetch
from pipeline.samples.chain import ChainConfig
from pipeline.samples.chunks import ShardTask
from pipeline.samples.filters import FilterConfig
from pipeline.samples.guard import Limits
from pipeline.samples.prepare import Preparation
from pipeline.samples.resize import PictureConfig
from pipeline.samples.stretch import divide
from tests.samples.synthetic import flac, jpeg

CHAIN = ChainConfig(picture=PictureConfig(short_side_px=16), filters=FilterConfig(min_chars=2))


def write_tar(path: Path, members: Sequence[tuple[str, bytes]]) -> None:
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for name, data in members:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))


@pytest.fixture
def here(tmp_path: Path) -> Path:
    members = []
    for at in range(60):
        medium = b"rubbish" if at == 7 else jpeg(40, 30, at)
        members += [(f"{at:03d}.jpg", medium), (f"{at:03d}.txt", b"x" if at == 9 else f"text {at}".encode())]
    members += [("sound.flac", flac(0.1, 16_000)), ("lonely.txt", b"alone"), ("005.jpg", jpeg(40, 30, 5))]
    (tmp_path / "in").mkdir()
    write_tar(tmp_path / "in/a.tar", members)
    return tmp_path


def task(here: Path, **more: Any) -> ShardTask:
    return ShardTask(str(here / "in/a.tar"), "a.tar", "f1", **more)


def config(here: Path, chain: ChainConfig = CHAIN) -> WriteConfig:
    output = str(here / "out")
    preparation = Preparation(chain=chain, tokenizer=None, limits=Limits(60, 0), output=output, run_id="run")
    return WriteConfig(prepare=preparation, output=output, fetch=Fetch(str(here / "in"), 1 << 20), metadata={"nightcap.run_id": "run"})


def table(here: Path) -> pa.Table:
    return pq.read_table(here / "out/prepared/a.parquet").replace_schema_metadata(None)


def quarantine(here: Path) -> pa.Table:
    return pq.read_table(here / "out/quarantine/a.parquet").replace_schema_metadata(None)


def counts(receipts: Sequence[pa.Table]) -> dict[str, int]:
    found: dict[str, int] = {}
    for row in (row for receipt in receipts for row in receipt.to_pylist()):
        for name, count in json.loads(row["counts"]).items():
            found[name] = found.get(name, 0) + count
    return found


def test_the_receipts_say_where_the_time_went(here: Path) -> None:
    began = time.perf_counter()
    receipts = [row for block in write_shard(task(here), config(here)) for row in block.to_pylist()]
    spent_s = time.perf_counter() - began
    seconds: Counter[str] = Counter()
    for row in receipts:
        seconds.update(json.loads(row["seconds"]))
    assert set(seconds) >= {"read", "text", "medium", "write"}
    assert min(seconds.values()) >= 0
    assert 0.7 * spent_s < seconds.total() <= spent_s


def test_a_shard_becomes_one_table_and_every_sample_is_accounted_for(here: Path) -> None:
    receipts = list(write_shard(task(here), config(here)))
    assert receipts[0].schema == schema.RECEIPTS and receipts[-1].column("committed").to_pylist() == [True]
    rejected = {"rejected:undecodable": 1, "filtered:filtered_text_length": 1, "rejected:no_medium": 1}
    assert counts(receipts) == {"success": 60, **rejected}
    found = table(here)
    assert found.schema == schema.PREPARED
    assert found.column("index").to_pylist() == [at for at in range(63) if at not in (7, 9, 61)]
    assert found.column("key").to_pylist()[-1] == "005" and found.column("flags").to_pylist()[-1] == ["key_repeated"]
    refused = quarantine(here).to_pylist()
    assert [(row["key"], row["stage"]) for row in refused] == [("007", "prepare"), ("009", "filter"), ("lonely", "read")]
    assert refused[0]["members"][0] == {"name": "007.jpg", "bytes": b"rubbish"}
    assert refused[1]["members"] is None and refused[1]["size"] > 0
    assert refused[2]["members"] == [{"name": "lonely.txt", "bytes": b"alone"}]


def test_nothing_is_visible_before_the_end_and_a_run_that_ends_early_leaves_nothing(here: Path) -> None:
    broken = replace(config(here), fetch=None)  # type: ignore[arg-type]  # fails when quarantine is written
    with pytest.raises(TypeError):
        list(write_shard(task(here), broken))
    assert [path for path in (here / "out").rglob("*") if path.is_file()] == []


def test_a_shard_that_someone_else_has_finished_is_left_alone(here: Path) -> None:
    list(write_shard(task(here), config(here)))
    before = (here / "out/prepared/a.parquet").stat().st_mtime_ns
    receipts = list(write_shard(task(here), config(here)))
    assert receipts[-1].column("committed").to_pylist() == [False]
    assert (here / "out/prepared/a.parquet").stat().st_mtime_ns == before


def test_parts_give_the_rows_of_the_whole_whoever_joins(here: Path) -> None:
    list(write_shard(task(here), config(here)))
    whole, refused = table(here), quarantine(here)
    (here / "out/prepared/a.parquet").unlink()
    reader = storage.open_reader(str(here / "in/a.tar"))
    spans = divide(reader, 9_000)
    assert len(spans) > 3 and spans[-1].end is not None and spans[-1].repeated == (62,)
    parts = [task(here, span=span, siblings=spans) for span in spans]
    receipts = []
    for part in [*parts[1:], parts[2]]:  # one of them twice, as after a crash
        assert not (here / "out/prepared/a.parquet").exists()
        receipts += list(write_shard(part, config(here)))
    assert not any(receipt.column("committed")[-1].as_py() for receipt in receipts)
    last = list(write_shard(parts[0], config(here)))
    assert last[-1].column("committed").to_pylist() == [True]
    assert table(here) == whole and quarantine(here) == refused
    assert [path for path in (here / "out/_parts").rglob("*") if path.is_file()] == []


def test_a_part_that_comes_late_neither_joins_nor_stays(here: Path) -> None:
    reader = storage.open_reader(str(here / "in/a.tar"))
    spans = divide(reader, 40_000)
    parts = [task(here, span=span, siblings=spans) for span in spans]
    for part in parts:
        list(write_shard(part, config(here)))
    before = (here / "out/prepared/a.parquet").stat().st_mtime_ns
    list(write_shard(parts[0], config(here)))
    store = storage.Folder(str(here / "out"))
    assert store.exists(part_of(parts[0], spans[0]))
    tidy(store, ["a"], "run")
    assert (here / "out/prepared/a.parquet").stat().st_mtime_ns == before and not (here / "out/_parts").exists()


def test_damaged_packed_and_small_archives_are_not_divided(here: Path) -> None:
    data = bytearray((here / "in/a.tar").read_bytes())
    data[5_000:5_100] = bytes(range(100))
    assert divide(storage.BytesReader(bytes(data)), 9_000) == () or len(divide(storage.BytesReader(bytes(data)), 9_000)) > 1
    assert divide(storage.BytesReader(bytes(data[:40_000])), 9_000) == ()
    assert len(divide(storage.BytesReader(bytes((here / "in/a.tar").read_bytes())), 1 << 30)) == 1
    import gzip

    assert divide(storage.BytesReader(gzip.compress(bytes(data))), 9_000) == ()


def test_a_limit_commits_nothing(here: Path) -> None:
    receipts = list(write_shard(task(here, stop_after=5), config(here)))
    assert counts(receipts) == {"success": 5} and not receipts[-1].column("committed")[-1].as_py()
    assert not (here / "out/prepared").exists()
    assert pq.read_table(here / "out/trial/a.parquet").num_rows == 5


def test_memory_and_row_groups_do_not_grow_with_the_shard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.samples.prepare.CHUNK_BYTES", 1 << 19)
    (tmp_path / "in").mkdir()
    picture = jpeg(250, 200, 0, quality=98)
    small = replace(config(tmp_path, ChainConfig()), group_bytes=1 << 20)
    peaks = {}
    for blocks in (2, 20):
        count = blocks * (1 << 20) // len(picture)
        write_tar(tmp_path / "in/a.tar", [(f"{at:06d}.jpg", picture) for at in range(count)])
        tracemalloc.start()
        receipts = list(write_shard(replace(task(tmp_path), fingerprint=str(blocks)), small))
        peaks[blocks] = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        file = pq.ParquetFile(tmp_path / "out/prepared/a.parquet")
        assert file.metadata.num_rows == count and file.num_row_groups == pytest.approx(blocks, abs=2)
        assert len(receipts) == pytest.approx(blocks + 1, abs=2)
        (tmp_path / "out/prepared/a.parquet").unlink()
    assert peaks[20] < 1.2 * peaks[2] < 40 << 20


def test_the_description_counts_what_stands_there_and_reads_no_footer_twice(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    list(write_shard(task(here), config(here)))
    store = storage.Folder(str(here / "out"))
    recipe = recipe_of(PrepareConfig(("x",), output="x", chain=CHAIN), None)
    found = describe(store, recipe, None)
    assert found["counts"]["rows"] == 60 and found["counts"]["image"] == 59 and found["counts"]["audio"] == 1
    assert found["picture"]["short_side_px"] == 16 and found["tokenizer"] is None
    monkeypatch.setattr(pq, "read_metadata", None)
    assert describe(store, recipe, None) == found
    assert json.loads(store.get("dataset.json")) == json.loads(json.dumps(found))


def test_a_writer_that_is_given_up_writes_nothing_more(tmp_path: Path) -> None:
    store = storage.Folder(str(tmp_path))
    with pytest.raises(KeyError), store.create("x") as draft, RowGroups(draft, {}):
        raise KeyError
    assert list(tmp_path.iterdir()) == []
    assert writing.TRIAL == "trial"
