"""A folder of a disk, used by two runs at once:

- a file put, or written piece by piece, while another run deletes and prunes all that it finds, is there all the same;
- so it is on a file system without locks, as long as the other run takes a breath;
- a temporary file of a process that died is deleted, one that is being written is not.
"""

import errno
import fcntl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from pipeline.storage import TEMPORARY, Folder

PUTS = 200


@contextmanager
def cleaned(store: Folder, pause_s: float = 0.0) -> Iterator[None]:
    """Another run finds the work of the folder done, over and over, while the body runs."""
    ended = threading.Event()

    def clean() -> None:
        while not ended.is_set():
            for blob in store.list("_parts"):
                store.delete(blob.path)
            store.prune("_parts")
            time.sleep(pause_s)

    cleaner = threading.Thread(target=clean)
    cleaner.start()
    try:
        yield
    finally:
        ended.set()
        cleaner.join()


def names(store: Folder) -> list[str]:
    return [blob.path for blob in store.list("_parts")]


@pytest.mark.parametrize("durable", [True, False])
def test_a_file_is_put_while_another_run_cleans_its_folder(tmp_path: Path, durable: bool) -> None:
    store = Folder(str(tmp_path))
    with cleaned(store):
        for number in range(PUTS):
            store.put(f"_parts/a/{number % 7}/f", b"x", durable=durable)
    store.put("_parts/a/last", b"kept", durable=durable)
    assert "_parts/a/last" in names(store)
    assert not [name for name in names(store) if TEMPORARY in name]


def test_a_file_is_written_piece_by_piece_while_another_run_cleans_its_folder(tmp_path: Path) -> None:
    store = Folder(str(tmp_path))
    with cleaned(store), store.create("_parts/a/b/f") as draft:
        for _ in range(20):
            draft.write(b"x")
            time.sleep(0.002)
        assert [name for name in names(store) if TEMPORARY in name]
    with store.create("_parts/a/last") as draft:
        draft.write(b"kept")
    assert "_parts/a/last" in names(store)


def test_without_locks_a_file_is_written_again_when_its_temporary_one_was_cleaned_up(tmp_path: Path, monkeypatch: Any) -> None:
    def no_locks(*_: Any) -> None:
        raise OSError(errno.ENOTSUP, "no locks here")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    store = Folder(str(tmp_path))
    with cleaned(store, pause_s=0.01):
        for number in range(PUTS):
            store.put(f"_parts/a/{number % 7}/f", b"x", durable=False)
    store.put("_parts/a/last", b"kept")
    assert "_parts/a/last" in names(store)


def test_a_temporary_file_of_a_dead_writer_is_deleted_and_one_of_a_live_writer_is_not(tmp_path: Path) -> None:
    store = Folder(str(tmp_path))
    (tmp_path / "_parts").mkdir()
    (tmp_path / "_parts" / f"{TEMPORARY}dead").write_bytes(b"half")
    with store.create("_parts/f") as draft:
        draft.write(b"half")
        for blob in store.list("_parts"):
            store.delete(blob.path)
        assert len(names(store)) == 1 and TEMPORARY in names(store)[0] and "dead" not in names(store)[0]
    assert names(store) == ["_parts/f"]
