"""What a replay may change in a committed shard:

- rejected rows that have a caption now are replaced and leave quarantine; damage stays; an empty quarantine goes;
- captions that stand are not touched, and a sample that is rejected again keeps its first verdict and its bytes;
- a repeat changes nothing, and repairs what a crash between the two files left.
"""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from pipeline import schema
from pipeline.commit import tables
from pipeline.commit.revise import revise
from pipeline.storage import Folder


def caption(index: int, status: str = "success", text: str | None = "new", reason: str | None = None) -> dict[str, Any]:
    values = {"shard": "a.tar", "index": index, "caption_index": 0, "status": status, "caption": text, "reason": reason, "flags": []}
    return {**dict.fromkeys(schema.CAPTIONS.names), **values}


def kept(index: int | None) -> dict[str, Any]:
    values = {"shard": "a.tar", "index": index, "stage": "decode", "reason": "undecodable", "transient": False}
    return {**dict.fromkeys(schema.QUARANTINE.names), **values}


def rows(*given: dict[str, Any]) -> pa.Table:
    return pa.Table.from_pylist(list(given), schema=schema.CAPTIONS)


def reject(index: int, reason: str = "undecodable") -> dict[str, Any]:
    return caption(index, "rejected", None, reason)


@pytest.fixture
def store(tmp_path: Path) -> Folder:
    store = Folder(str(tmp_path))
    store.put("captions/a.parquet", tables.encode(rows(caption(0, text="old"), reject(1), reject(2))))
    quarantine = pa.Table.from_pylist([kept(1), kept(2), kept(None)], schema=schema.QUARANTINE)
    store.put("quarantine/a.parquet", tables.encode(quarantine))
    return store


def captions(store: Folder) -> list[tuple[int, str, str | None]]:
    return [(one["index"], one["status"], one["caption"]) for one in tables.decode(store.get("captions/a.parquet")).to_pylist()]


def quarantined(store: Folder) -> list[int | None]:
    return list(tables.decode(store.get("quarantine/a.parquet")).column("index").to_pylist())


def test_a_sample_that_succeeds_moves_from_quarantine_to_captions(store: Folder) -> None:
    revise(store, "a", rows(caption(2)), {"run": "x"})
    assert captions(store) == [(0, "success", "old"), (1, "rejected", None), (2, "success", "new")]
    assert quarantined(store) == [1, None]


def test_damage_stays_in_quarantine_and_an_empty_one_is_deleted(store: Folder) -> None:
    revise(store, "a", rows(caption(1), caption(2)), {})
    assert quarantined(store) == [None]
    store.put("captions/a.parquet", tables.encode(rows(reject(1))))
    store.put("quarantine/a.parquet", tables.encode(pa.Table.from_pylist([kept(1)], schema=schema.QUARANTINE)))
    revise(store, "a", rows(caption(1)), {})
    assert not store.exists("quarantine/a.parquet")


def test_captions_that_stand_and_first_verdicts_stay(store: Folder) -> None:
    before = captions(store)
    revise(store, "a", rows(caption(0), reject(1, "endpoint")), {})
    assert captions(store) == before and quarantined(store) == [1, 2, None]
    assert tables.decode(store.get("captions/a.parquet")).column("reason").to_pylist() == [None, "undecodable", "undecodable"]


def test_a_repeat_changes_nothing_and_repairs_a_crash_in_between(store: Folder) -> None:
    before = store.get("quarantine/a.parquet")
    revise(store, "a", rows(caption(1)), {})
    once = captions(store), quarantined(store)
    store.put("quarantine/a.parquet", before)
    revise(store, "a", rows(caption(1)), {})
    assert (captions(store), quarantined(store)) == once
