"""A replay of a prepared shard, without Ray:

- after a fix, table, archive and quarantine are those of a run that never failed: order, flags of repeated keys, filters, damage
- what cannot be read still keeps its first verdict and its bytes; what a damaged archive left of a sample is not taken for all of it
- a repeat changes nothing, and repairs what a crash between table and quarantine left; a shard without a table is left alone
"""

from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline import schema, storage
from pipeline.commit import amend as amending
from pipeline.commit.amend import Amended, amend, merged
from pipeline.commit.parts import ARCHIVES, PREPARED
from pipeline.commit.prepared import WriteConfig, write_shard
from pipeline.errors import Reason, SampleError
from pipeline.samples import chain as chain_module
from pipeline.samples.chain import ChainConfig
from pipeline.samples.filters import FilterConfig
from pipeline.samples.resize import PictureConfig
from tests.commit.test_prepared import config as base_config
from tests.commit.test_prepared import task, write_tar
from tests.samples.synthetic import flac, jpeg

CHAIN = ChainConfig(picture=PictureConfig(short_side_px=16), filters=FilterConfig(min_side_px=20))
BROKEN = {0, 17, 29, 30, 31}
QUARANTINE = "quarantine/a.parquet"


@pytest.fixture
def here(tmp_path: Path) -> Path:
    members = []
    for at in range(30):
        medium = b"rubbish" if at == 7 else jpeg(10 if at == 17 else 40, 30, at)
        members += [(f"{at:03d}.jpg", medium), (f"{at:03d}.txt", f"text {at}".encode())]
    members += [("005.jpg", jpeg(40, 30, 30)), ("sound.flac", flac(0.1, 16_000)), ("torn.jpg", jpeg(40, 30, 32)), ("torn.txt", b"x" * 600)]
    (tmp_path / "in").mkdir()
    write_tar(tmp_path / "in/a.tar", members)
    data = (tmp_path / "in/a.tar").read_bytes()
    (tmp_path / "in/a.tar").write_bytes(data[: data.index(b"x" * 600) + 100])
    return tmp_path


def config(here: Path, output: str, tables: str) -> WriteConfig:
    base = base_config(here, CHAIN)
    prepare = replace(base.prepare, output=str(here / output))
    return replace(base, output=str(here / output), prepare=prepare, tables=tables, group_bytes=1_000)


def with_a_broken_decoder(here: Path, given: WriteConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = {flac(0.1, 16_000), *(jpeg(10 if at == 17 else 40, 30, at) for at in BROKEN if at != 31)}
    decode = chain_module.prepare_medium

    def fails(data: bytes, *rest: object) -> object:
        if data in broken:
            raise SampleError(Reason.UNDECODABLE, "the decoder has a fault")
        return decode(data, *rest)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(chain_module, "prepare_medium", fails)
        list(write_shard(task(here), given))


def files(here: Path, output: str, tables: str) -> tuple[object, pa.Table]:
    if tables == ARCHIVES:
        rows: object = (here / output / "archives/a.tar").read_bytes()
    else:
        rows = pq.read_table(here / output / "prepared/a.parquet").replace_schema_metadata(None)
    return rows, pq.read_table(here / output / QUARANTINE).replace_schema_metadata(None)


@pytest.mark.parametrize("tables", [PREPARED, ARCHIVES])
def test_after_a_fix_everything_is_as_if_the_run_had_never_failed(here: Path, tables: str, monkeypatch: pytest.MonkeyPatch) -> None:
    list(write_shard(task(here), config(here, "never", tables)))
    with_a_broken_decoder(here, config(here, "out", tables), monkeypatch)
    before = files(here, "out", tables)
    assert before != files(here, "never", tables) and before[1].num_rows == 8
    assert amend(QUARANTINE, config(here, "out", tables)) == Amended(waiting=7, kept=4, removed=1)
    assert files(here, "out", tables) == files(here, "never", tables)
    left = files(here, "out", tables)[1].to_pylist()
    assert [(row["key"], row["reason"]) for row in left] == [
        ("007", "undecodable"),
        ("017", "filtered_resolution"),
        ("torn", "damaged"),
        ("torn.txt", "damaged"),
    ]
    assert left[0]["members"][0]["bytes"] == b"rubbish" and left[1]["members"] is None
    stands = (here / "out" / QUARANTINE).stat().st_mtime_ns
    assert amend(QUARANTINE, config(here, "out", tables)) == Amended(waiting=2)
    assert files(here, "out", tables) == files(here, "never", tables) and (here / "out" / QUARANTINE).stat().st_mtime_ns == stands


def test_a_crash_between_table_and_quarantine_is_repaired_by_a_repeat(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    list(write_shard(task(here), config(here, "never", PREPARED)))
    with_a_broken_decoder(here, config(here, "out", PREPARED), monkeypatch)
    with monkeypatch.context() as patch:
        patch.setattr(amending, "_amend_quarantine", None)
        with pytest.raises(TypeError):
            amend(QUARANTINE, config(here, "out", PREPARED))
    assert files(here, "out", PREPARED)[1].num_rows == 8
    amend(QUARANTINE, config(here, "out", PREPARED))
    assert files(here, "out", PREPARED) == files(here, "never", PREPARED)
    assert [path.name for path in (here / "out").rglob(".tmp-*")] == []


def test_a_shard_without_a_table_is_left_to_prepare(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with_a_broken_decoder(here, config(here, "out", PREPARED), monkeypatch)
    (here / "out/prepared/a.parquet").unlink()
    assert amend(QUARANTINE, config(here, "out", PREPARED)) == Amended(waiting=7, open=True)
    assert not storage.Folder(str(here / "out")).exists("prepared/a.parquet")


def test_rows_are_merged_by_index_wherever_row_groups_end() -> None:
    def rows(*indexes: int, key: str = "old") -> pa.Table:
        empty = dict.fromkeys(schema.PREPARED.names)
        return pa.Table.from_pylist([{**empty, "index": at, "shard": "a", "key": key, "flags": []} for at in indexes], schema.PREPARED)

    tables = list(merged([rows(2, 4), rows(5), rows(9, 11)], rows(0, 3, 4, 5, 8, 12, 13, key="new")))
    assert [table.column("index").to_pylist() for table in tables] == [[0, 2, 3, 4], [5], [8, 9, 11], [12, 13]]
    assert pa.concat_tables(tables).column("key").to_pylist().count("old") == 3
    assert [table.column("index").to_pylist() for table in merged([], rows(1))] == [[1]]
