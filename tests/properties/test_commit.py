"""Guarantees of the commit under any interleaving:

- whatever writers, mergers, zombies, sweeps and crashes do, in whatever order, a clean run afterwards ends with the
  tables of an undisturbed run: nothing lost, nothing twice, no parts left;
- at no point is a caption table visible without its quarantine table;
- an archive that changed is done anew when asked for, whatever writers of the old version still do; meanwhile the old table stays.
"""

import json
import threading
from typing import Any

import pyarrow as pa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline import schema
from pipeline.commit import tables
from pipeline.commit.commit import Commit
from pipeline.commit.merge import is_transient, winners
from pipeline.commit.plan import ShardInput, make_plan
from pipeline.storage import Blob

SHARD, FINGERPRINT = "a/b-000.tar", "f00d"


class Memory:
    """A store in memory; `before` is called ahead of every operation: it may block, or raise to crash the caller."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.before: Any = lambda: None

    def put(self, path: str, data: bytes) -> None:
        self.before()
        if path.startswith("captions/") and "rejected" in tables.decode(data).column("status").to_pylist():
            assert path.replace("captions/", "quarantine/") in self.files, "captions became visible before their quarantine"
        self.files[path] = data

    def get(self, path: str) -> bytes:
        self.before()
        if path not in self.files:
            raise FileNotFoundError(path)
        return self.files[path]

    def list(self, folder: str) -> list[Blob]:
        self.before()
        return [Blob(path, len(data), 0.0) for path, data in sorted(self.files.items()) if path.startswith(f"{folder}/")]

    def exists(self, path: str) -> bool:
        self.before()
        return path in self.files

    def delete(self, path: str) -> None:
        self.before()
        assert not path.startswith("captions/"), "captions are replaced, never deleted"
        self.files.pop(path, None)

    def prune(self, folder: str) -> None:
        pass


class Crash(BaseException):
    """The process is gone."""


class Process:
    """A function on a thread that takes one store operation at a time, when the scheduler says so."""

    def __init__(self, store: Memory, work: Any, crash_after: int | None) -> None:
        self._go, self._stopped = threading.Semaphore(0), threading.Semaphore(0)
        self.done, self.error = False, None
        self._left = crash_after
        self._thread = threading.Thread(target=self._run, args=(store, work), daemon=True)
        self._thread.start()
        self._stopped.acquire()

    def wait_turn(self) -> None:
        self._stopped.release()
        self._go.acquire()
        if self._left is not None:
            self._left -= 1
            if self._left < 0:
                raise Crash

    def _run(self, store: Memory, work: Any) -> None:
        _local.process = self
        try:
            work()
        except Crash:
            pass
        except BaseException as exc:
            self.error = exc
        self.done = True
        self._stopped.release()

    def step(self) -> None:
        self._go.release()
        self._stopped.acquire()


_local = threading.local()


def _before() -> None:
    process = getattr(_local, "process", None)
    if process is not None:
        process.wait_turn()


def row(index: int, piece: int, last: bool, caption_index: int, status: str, reason: str | None) -> dict[str, Any]:
    return {
        **dict.fromkeys(schema.PARTS.names),
        "kind": schema.KIND_SAMPLE,
        "shard": SHARD,
        "fingerprint": FINGERPRINT,
        "index": index,
        "piece": piece,
        "last": last,
        "key": f"k{index}",
        "offset": index * 1024,
        "size": 1024,
        "flags": [],
        "status": status,
        "stage": "engine" if reason else None,
        "reason": reason,
        "modality": "audio",
        "duration_s": 1.0,
        "caption_index": caption_index,
        "caption": f"caption {index} {piece} {caption_index}" if status == "success" else None,
    }


def end_row(n: int) -> dict[str, Any]:
    damage = [{"kind": "cut", "start": 5, "end": 9, "name": None, "detail": "x", "space": "tar"}] if n % 2 else []
    return {
        **row(n, 0, True, 0, "ok", None),
        "kind": schema.KIND_END,
        "key": None,
        "modality": None,
        "duration_s": None,
        "end": json.dumps({"n_samples": n, "damage": damage}),
    }


def of_version(rows: list[dict[str, Any]], fingerprint: str) -> list[dict[str, Any]]:
    """The same rows, of another version of the archive, which shows in their captions."""
    return [{**one, "fingerprint": fingerprint, "caption": one["caption"] and f"{fingerprint} {one['caption']}"} for one in rows]


def table(rows: list[dict[str, Any]]) -> pa.Table:
    return pa.Table.from_pylist(rows, schema=schema.PARTS)


def fetch(shard: str, spans: Any) -> Any:
    return [[("x.wav", f"{shard}{offset}".encode())] for offset, _ in spans]


def commit_over(store: Memory) -> Commit:
    return Commit(store, fetch)


@st.composite
def shards(draw: st.DrawFn) -> list[dict[str, Any]]:
    rows = []
    n = draw(st.integers(0, 6))
    for index in range(n):
        pieces = draw(st.integers(1, 3))
        captions = draw(st.integers(1, 2))
        for piece in range(pieces):
            bad = draw(st.integers(0, 4)) == 0
            status, reason = ("rejected", "undecodable") if bad else ("success", None)
            rows += [row(index, piece, piece == pieces - 1, number, status, reason) for number in range(1 if bad else captions)]
    return [*rows, end_row(n)]


def unit_of(given_row: dict[str, Any]) -> tuple[int, int]:
    return given_row["index"], given_row["piece"]


def batches_of(rows: list[dict[str, Any]], cuts: list[int]) -> list[list[dict[str, Any]]]:
    units = sorted({unit_of(one) for one in rows})
    edges = sorted({cut % (len(units) + 1) for cut in cuts} | {0, len(units)})
    return [[one for one in rows if unit_of(one) in set(units[a:b])] for a, b in zip(edges, edges[1:], strict=False) if a < b]


def with_transient(rows: list[dict[str, Any]], at: set[int]) -> list[dict[str, Any]]:
    """The same rows with the results of some samples lost to a passing failure."""
    changed: list[dict[str, Any]] = []
    for one in rows:
        if one["kind"] == schema.KIND_SAMPLE and one["index"] in at and one["status"] == "success":
            if one["caption_index"] == 0:
                changed.append({**one, "status": "rejected", "reason": "endpoint", "stage": "engine", "caption": None})
        else:
            changed.append(one)
    return changed


def finals(store: Memory) -> dict[str, pa.Table]:
    return {path: tables.decode(data) for path, data in store.files.items() if not path.startswith("_")}


def undisturbed(rows: list[dict[str, Any]]) -> dict[str, pa.Table]:
    store = Memory()
    commit_over(store).write(table(rows))
    return finals(store)


def archive(fingerprint: str, mtime_s: float = 0.0) -> ShardInput:
    return ShardInput(SHARD, SHARD, "a/b-000", fingerprint, 0, mtime_s)


def finish(store: Memory, rows: list[dict[str, Any]], fingerprint: str = FINGERPRINT) -> None:
    """What the same command does when it is run again: sweep, plan, read what is left, commit it, sweep."""
    commit = commit_over(store)
    commit.sweep()
    for opened in make_plan([archive(fingerprint)], store).open:
        ranges = opened.todo
        wanted = [
            one for one in rows if ranges is None or one["kind"] == schema.KIND_END or any(lo <= one["index"] <= hi for lo, hi in ranges)
        ]
        for one in batches_of(wanted, [1, 3]):
            commit.write(table(one))
    commit.sweep()


@settings(max_examples=80, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_any_interleaving_of_writers_mergers_zombies_and_crashes_ends_like_an_undisturbed_run(data: st.DataObject) -> None:
    rows = data.draw(shards())
    expected = undisturbed(rows)
    store = Memory()
    store.before = _before
    works: list[Any] = []
    for _ in range(data.draw(st.integers(1, 3))):
        transient = data.draw(st.sets(st.integers(0, 5), max_size=2))
        given_rows = with_transient(rows, transient)
        for batch in batches_of(given_rows, data.draw(st.lists(st.integers(0, 20), max_size=4))):
            works.append(lambda batch=batch: commit_over(store).write(table(batch)))
    works += [lambda: commit_over(store).sweep()] * data.draw(st.integers(0, 2))
    order = data.draw(st.permutations(range(len(works))))
    processes = [Process(store, works[at], data.draw(st.none() | st.integers(0, 12))) for at in order]
    zombies = processes[:1] if data.draw(st.booleans()) else []
    while any(not process.done for process in processes if process not in zombies):
        alive = [process for process in processes if not process.done and process not in zombies]
        alive[data.draw(st.integers(0, len(alive) - 1))].step()
    for zombie in zombies:
        for _ in range(data.draw(st.integers(0, 4))):
            if not zombie.done:
                zombie.step()
    finish(store, rows)
    for zombie in zombies:  # wakes up when all is over
        while not zombie.done:
            zombie.step()
    assert [process.error for process in processes if process.error] == []
    commit_over(store).sweep()
    assert finals(store) == expected
    assert [path for path in store.files if path.startswith("_")] == []


def drawn_works(data: st.DataObject, store: Memory, rows: list[dict[str, Any]]) -> list[Any]:
    """Writers of the rows in a few batches."""
    batches = batches_of(rows, data.draw(st.lists(st.integers(0, 20), max_size=3)))
    return [lambda batch=batch: commit_over(store).write(table(batch)) for batch in batches]


@settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_a_changed_archive_is_done_anew_and_its_old_table_stays_until_then(data: st.DataObject) -> None:
    old, new = of_version(data.draw(shards()), "0ld"), of_version(data.draw(shards()), "4ew")
    store = Memory()
    commit_over(store).write(table(old))
    before, expected = finals(store), undisturbed(new)
    assert make_plan([archive("4ew", 1.0)], store).newer == [SHARD]
    store.before = _before
    planner = Process(store, lambda: make_plan([archive("4ew", 1.0)], store, changed=True), data.draw(st.none() | st.integers(0, 3)))
    while not planner.done:
        planner.step()
    works = drawn_works(data, store, new) + drawn_works(data, store, old) + [lambda: commit_over(store).sweep()]
    processes = [
        Process(store, works[at], data.draw(st.none() | st.integers(0, 12))) for at in data.draw(st.permutations(range(len(works))))
    ]
    while alive := [process for process in processes if not process.done]:
        alive[data.draw(st.integers(0, len(alive) - 1))].step()
        captions = tables.decode(store.files["captions/a/b-000.parquet"])
        assert captions in (before["captions/a/b-000.parquet"], expected["captions/a/b-000.parquet"])
    make_plan([archive("4ew", 1.0)], store, changed=True)
    finish(store, new, "4ew")
    assert [process.error for process in processes if process.error] == []
    assert finals(store) == expected
    assert [path for path in store.files if path.startswith("_")] == []


@settings(max_examples=30, deadline=None, derandomize=True)
@given(shards(), st.sets(st.integers(0, 5), min_size=1, max_size=3), st.lists(st.integers(0, 20), max_size=4))
def test_a_shard_with_transient_rejects_stays_open_until_another_attempt_replaces_them(rows: Any, at: set[int], cuts: list[int]) -> None:
    store = Memory()
    given_rows = with_transient(rows, at)
    for batch in batches_of(given_rows, cuts):
        commit_over(store).write(table(batch))
    hit = any(is_transient(one[0]) for one in winners([table(given_rows)]).values())
    assert ("captions/a/b-000.parquet" in store.files) == (not hit)
    finish(store, rows)
    assert finals(store) == undisturbed(rows)
