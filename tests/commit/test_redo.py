"""Markers of tables that are to be replaced:

- an archive that was asked for anew is open until its new table stands; the old table stays meanwhile;
- a wish is of one version of the archive: another version's does not open it, and a later wish replaces it;
- a table that is younger than the wish fulfils it, also where its writer could not take the marker away.
"""

import os
import time
from pathlib import Path

import pytest

from pipeline.commit import redo
from pipeline.commit.plan import ShardInput, make_plan
from pipeline.storage import Folder

TABLE = "captions/a/0.parquet"


@pytest.fixture
def store(tmp_path: Path) -> Folder:
    folder = Folder(str(tmp_path))
    folder.put(TABLE, b"old")
    os.utime(tmp_path / TABLE, (1000.0, 1000.0))
    return folder


def archive(fingerprint: str, mtime_s: float) -> ShardInput:
    return ShardInput("/in/a/0.tar", "a/0.tar", "a/0", fingerprint, 1, mtime_s)


def opened(store: Folder, shard: ShardInput, *, changed: bool = False) -> bool:
    return bool(make_plan([shard], store, changed=changed).open)


def test_the_old_table_stays_and_the_archive_is_open_until_the_wish_is_fulfilled(store: Folder) -> None:
    shard = archive("v2", 2000.0)
    assert not opened(store, shard)
    assert opened(store, shard, changed=True)
    assert opened(store, shard) and not redo.is_done(store, "captions", "a/0", "v2")
    assert store.get(TABLE) == b"old"
    redo.fulfilled(store, "a/0", "v2")
    assert redo.is_done(store, "captions", "a/0", "v2")


def test_a_wish_is_of_one_version(store: Folder) -> None:
    assert opened(store, archive("v2", 2000.0), changed=True)
    assert redo.is_done(store, "captions", "a/0", "v1") and not opened(store, archive("v3", 3000.0))
    assert opened(store, archive("v3", 3000.0), changed=True)
    assert [blob.path for blob in store.list(redo.FOLDER)] == ["_redo/a/0/v3"]


def test_a_younger_table_fulfils_a_wish(store: Folder, tmp_path: Path) -> None:
    shard = archive("v2", 2000.0)
    assert opened(store, shard, changed=True)
    store.put(TABLE, b"new")
    os.utime(tmp_path / TABLE, (time.time() + 5,) * 2)
    assert not opened(store, shard) and store.list(redo.FOLDER) == []


def test_archives_below_each_other_keep_their_wishes_apart(store: Folder) -> None:
    redo.ask(store, "a", "v1")
    redo.ask(store, "a/0", "v2")
    redo.ask(store, "a", "v3")
    assert [blob.path for blob in store.list(redo.FOLDER)] == ["_redo/a/0/v2", "_redo/a/v3"]
