"""The ledger and the record of a night:

- the ledger says what the tables hold; only tables that changed are opened; lost, damaged or old, it is made anew;
- a damaged table is one line that names it; samples with several captions count once;
- a record that was written is read back; one that cannot be read is one line for its own night, and nothing for later ones.
"""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from pipeline import schema
from pipeline.commit import tables
from pipeline.errors import RequestError
from pipeline.nights import ledger, record
from pipeline.nights.drift import Figures
from pipeline.nights.page import render, verdict
from pipeline.nights.record import Night
from pipeline.storage import Folder


def put(store: Folder, stem: str, statuses: list[str], fingerprint: str = "v1", captions: int = 1) -> None:
    rows = [
        {
            **dict.fromkeys(schema.CAPTIONS.names),
            "shard": f"{stem}.tar",
            "index": at,
            "caption_index": number,
            "status": status,
            "flags": [],
        }
        for at, status in enumerate(statuses)
        for number in range(captions)
    ]
    metadata = {tables.FINGERPRINT: fingerprint} if fingerprint else {}
    store.put(f"captions/{stem}.parquet", tables.encode(pa.Table.from_pylist(rows, schema.CAPTIONS), metadata))


@pytest.fixture
def store(tmp_path: Path) -> Folder:
    made = Folder(str(tmp_path))
    put(made, "a", ["success", "rejected", "success"])
    put(made, "b/c", ["success"], fingerprint="", captions=3)
    put(made, "empty", [])
    return made


def test_it_says_what_the_tables_hold(store: Folder) -> None:
    found = ledger.refresh(store, ledger.Ledger({}), "2026-01-01")
    assert found.counts() == {"success": 3, "rejected": 1} and found.counts(["b/c", "gone"]) == {"success": 1}
    assert {stem: made.fingerprint for stem, made in found.made().items()} == {"a": "v1", "b/c": "", "empty": "v1"}
    ledger.save(store, found)
    assert ledger.load(store) == found


def test_only_tables_that_changed_are_opened(store: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = ledger.refresh(store, ledger.Ledger({}), "2026-01-01")
    put(store, "a", ["success"] * 5, fingerprint="v2")
    put(store, "d", ["skipped"])
    (tmp_path / "captions/empty.parquet").unlink()
    opened: list[str] = []
    real: Any = ledger._read
    monkeypatch.setattr(ledger, "_read", lambda store, stem, *rest: opened.append(stem) or real(store, stem, *rest))
    second = ledger.refresh(store, first, "2026-01-02")
    assert sorted(opened) == ["a", "d"] and sorted(second.entries) == ["a", "b/c", "d"]
    assert {stem: entry.night for stem, entry in second.entries.items()} == {"a": "2026-01-02", "b/c": "2026-01-01", "d": "2026-01-02"}


@pytest.mark.parametrize("data", [b"", b"PAR1 and no more", tables.encode(pa.table({"x": [1]}))])
def test_a_ledger_that_cannot_be_read_is_made_anew(store: Folder, data: bytes) -> None:
    store.put(ledger.PATH, data)
    assert ledger.load(store) == ledger.Ledger({})


def test_a_damaged_table_is_named(store: Folder) -> None:
    store.put("captions/d.parquet", b"PAR1 rubbish")
    with pytest.raises(RequestError, match=r"captions/d.parquet cannot be read .*; delete it, and it is made anew"):
        ledger.refresh(store, ledger.Ledger({}), "2026-01-01")


def night(date: str, **more: Any) -> Night:
    archives = {"listed": 3, "unchanged": 1, "done": 1, "waiting": 1, "older": 0, "new": 2, "changed": 0, "removed": 0}
    known = {"archives": archives, "ended": "x", "figures": {"samples": 9, "rejected": 0.5, "unknown": 1}, "exit_code": 0, "version": "v"}
    return Night(date=date, begun="x", **{**known, **more})


def test_records_are_read_back_and_those_that_cannot_be_read_are_passed_over(store: Folder) -> None:
    for date, more in (("2026-01-01", {}), ("2026-01-02", {"ended": ""}), ("2026-01-04", {"version": "w"}), ("2026-01-09", {})):
        record.save(store, night(date, **more))
    store.put("nights/2026-01-03.json", b"{")
    store.put("nights/notes.txt", b"")
    assert record.load(store, "2026-01-01") == night("2026-01-01") and record.load(store, "2026-02-01") is None
    with pytest.raises(RequestError, match="nights/2026-01-03.json of the output cannot be read"):
        record.load(store, "2026-01-03")
    before = record.before(store, "2026-01-09")
    assert [one.date for one in before] == ["2026-01-01", "2026-01-04"]
    assert record.figures_of(before, "v") == [Figures(samples=9, rejected=0.5)]


def test_the_page_tells_the_verdict_and_escapes_names() -> None:
    assert night("2026-01-01").balances and not night("2026-01-01", archives={"listed": 3, "done": 1}).balances
    names = {"new": ["<b>.tar"], "changed": [], "removed": [], "waiting": ["w.tar"]}
    alarm = {"name": "rejected", "value": 0.5, "usual": 0.1, "limit": 0.02, "sentence": "50.0% of the samples were rejected"}
    drifted = night(
        "2026-01-02", exit_code=3, names=names, alarms=[alarm], after={"success": 4}, tonight={"success": 1}, recipe_changed=["a: 1 -> 2"]
    )
    page = render(drifted, [night("2026-01-01")])
    assert "&lt;b&gt;.tar" in page and "<b>.tar" not in page and "a: 1 -&gt; 2" in page and "50.0% of the samples" in page
    assert "unlike the nights before" in verdict(drifted) and "2026-01-01" in page and 'class="alarm">50.00%' in page
    assert "1 archives wait" in verdict(night("2026-01-01", why="the budget of 2 hours is used up"))
    assert json.loads(json.dumps(drifted.archives))["listed"] == 3
