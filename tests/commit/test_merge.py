"""What becomes of rows on their way to the final tables:

- pieces of a recording become one row: captions joined, durations and tokens summed, a rejected piece rejects it all;
- a row that comes twice stands once; of two results for a unit that of the smaller part name wins, and two merges agree;
- quarantine keeps bytes within its bound, also behind a sample that is too large, and none if the archive is gone;
- a shard that is done is not written again by a late writer;
- sweep merges complete sets, deletes old temporary files everywhere and bears files that are not ours;
- parts of a former version of an archive never become its captions.
"""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from pipeline import schema
from pipeline.commit import merge, tables
from pipeline.commit.commit import Commit
from pipeline.commit.parts import Unit, part_path
from pipeline.commit.plan import ShardInput, make_plan
from pipeline.commit.temporary import STALE_S
from pipeline.storage import TEMPORARY, Folder

SHARD, FINGERPRINT = "a/0.tar", "new"


def row(index: int, **values: Any) -> dict[str, Any]:
    known = {
        **dict.fromkeys(schema.PARTS.names),
        "kind": schema.KIND_SAMPLE,
        "shard": SHARD,
        "fingerprint": FINGERPRINT,
        "index": index,
        "piece": 0,
        "last": True,
        "key": f"k{index}",
        "offset": index * 1024,
        "size": 1024,
        "flags": [],
        "status": "success",
        "modality": "audio",
        "duration_s": 1.5,
        "caption_index": 0,
        "caption": f"c{index}",
    }
    return {**known, **values}


def rejected(index: int, **values: Any) -> dict[str, Any]:
    return row(index, status="rejected", reason="undecodable", stage="decode", caption=None, **values)


def end(n: int, damage: Sequence[dict[str, Any]] = (), **values: Any) -> dict[str, Any]:
    account = json.dumps({"n_samples": n, "damage": list(damage)})
    return row(n, kind=schema.KIND_END, key=None, status="ok", modality=None, caption=None, end=account, **values)


def table(*rows: dict[str, Any]) -> pa.Table:
    return pa.Table.from_pylist(list(rows), schema=schema.PARTS)


def members(shard: str, spans: Sequence[tuple[int, int]]) -> list[list[tuple[str, bytes]] | None]:
    return [[("x.wav", b"%d" % offset)] for offset, _ in spans]


def gone(shard: str, spans: Sequence[tuple[int, int]]) -> list[list[tuple[str, bytes]] | None]:
    raise FileNotFoundError(shard)


@pytest.fixture
def store(tmp_path: Path) -> Folder:
    return Folder(str(tmp_path / "out"))


def read(store: Folder, folder: str = "captions") -> list[dict[str, Any]]:
    return list(tables.decode(store.get(f"{folder}/a/0.parquet")).to_pylist())


def test_pieces_of_a_recording_become_one_row(store: Folder) -> None:
    first = row(
        0,
        last=False,
        caption="one",
        n_output_tokens=1,
        mean_logprob=-1.0,
        flags=["x"],
        segments=[{"start_s": 0, "end_s": 1, "text": "one"}],
    )
    second = row(
        0,
        piece=1,
        caption="two",
        n_output_tokens=3,
        mean_logprob=-2.0,
        flags=["y"],
        status="truncated",
        finish_reason="length",
        language="de",
    )
    Commit(store, members).write(table(end(1), second, first))
    (found,) = read(store)
    assert (found["caption"], found["status"], found["finish_reason"], found["language"]) == ("one two", "truncated", "length", "de")
    assert (found["duration_s"], found["n_output_tokens"], found["mean_logprob"], found["flags"]) == (3.0, 4, -1.75, ["x", "y"])
    assert [segment["text"] for segment in found["segments"]] == ["one"]


def test_a_clip_that_comes_whole_after_its_segments_has_the_caption_of_the_whole(store: Folder) -> None:
    def piece(number: int, start_s: float, said: str, **more: Any) -> dict[str, Any]:
        one = {"modality": "video", "start_s": start_s, "duration_s": 2.0, "caption": said, "n_output_tokens": 2, "mean_logprob": -1.0}
        return row(
            0,
            piece=number,
            **{**one, "seed": number, "last": False, "segments": [{"start_s": start_s, "end_s": start_s + 2, "text": said}], **more},
        )

    whole = {"duration_s": 4.0, "segments": None, "last": True, "mean_logprob": -3.0, "flags": ["short"]}
    Commit(store, members).write(table(piece(0, 0.0, "one"), piece(1, 2.0, "two"), piece(2, 0.0, "all", **whole), end(1)))
    (found,) = read(store)
    assert (found["caption"], found["duration_s"], found["mean_logprob"], found["seed"]) == ("all", 4.0, -3.0, 2)
    assert [segment["text"] for segment in found["segments"]] == ["one", "two"]
    assert (found["n_output_tokens"], found["flags"]) == (6, ["short"])


def test_a_rejected_piece_rejects_the_sample_and_the_receipt_counts_it_once(store: Folder) -> None:
    (receipt,) = Commit(store, members).write(table(row(0, last=False), rejected(0, piece=1), row(1), end(2)))
    assert receipt.counts == {"rejected:undecodable": 1, "success": 1} and receipt.committed
    assert [(one["status"], one["caption"]) for one in read(store)] == [("rejected", None), ("success", "c1")]


def test_a_row_that_comes_twice_in_one_table_stands_once(store: Folder) -> None:
    Commit(store, members).write(table(row(0), row(0), end(1), end(1)))
    assert [one["caption"] for one in read(store)] == ["c0"]


def test_the_smallest_part_name_wins_whatever_came_first(tmp_path: Path) -> None:
    small, large = table(row(0, caption="small"), row(1)), table(row(0, caption="large"), row(1), row(2))
    found = []
    for order in ((small, large), (large, small)):
        store = Folder(str(tmp_path / str(len(found))))
        for rows in (*order, table(end(3))):
            Commit(store, members).write(rows)
        found.append(read(store))
    assert found[0] == found[1] and [one["caption"] for one in found[0]] == ["small", "c1", "c2"]


def test_a_result_beats_a_transient_reject_of_a_smaller_part_name(store: Folder) -> None:
    failed = row(0, status="rejected", reason="endpoint", stage="engine", caption=None)
    for rows in (table(failed), table(end(2))):
        Commit(store, members).write(rows)
    assert not store.exists("captions/a/0.parquet")
    (receipt,) = Commit(store, members).write(table(row(0), row(1)))
    assert receipt.committed and [one["caption"] for one in read(store)] == ["c0", "c1"] and store.list("_parts") == []


def test_quarantine_keeps_small_samples_behind_one_above_the_bound(store: Folder) -> None:
    huge = rejected(0, size=merge.SHARD_BYTES + 1)
    damage = {"kind": "cut", "start": 5, "end": 9, "name": None, "detail": "x", "space": "tar"}
    Commit(store, members).write(table(huge, rejected(1), end(2, [damage])))
    found = read(store, "quarantine")
    assert [one["members"] for one in found] == [None, [{"name": "x.wav", "bytes": b"1024"}], None]
    assert (found[2]["index"], found[2]["offset"], found[2]["size"], found[2]["detail"]) == (None, 5, 4, "cut: x")


def test_an_archive_that_is_gone_costs_the_bytes_and_nothing_else(store: Folder) -> None:
    Commit(store, gone).write(table(rejected(0), end(1)))
    assert [(one["index"], one["members"]) for one in read(store, "quarantine")] == [(0, None)]


def test_a_late_writer_does_not_write_over_a_done_shard(store: Folder) -> None:
    Commit(store, members).write(table(row(0), end(1)))
    whole, part = Commit(store, members).write(table(row(0, caption="late"), end(1))), Commit(store, members).write(table(row(0)))
    assert not whole[0].committed and not part[0].committed
    assert [one["caption"] for one in read(store)] == ["c0"] and store.list("_parts") == []


def test_sweep_merges_complete_sets_and_deletes_old_temporary_files_only(store: Folder, tmp_path: Path) -> None:
    halves = [(Unit(0, 0), Unit(0, 0), table(row(0)), False), (Unit(1, 0), Unit(1, 0), table(end(1)), True)]
    for lo, hi, rows, last in halves:
        store.put(part_path("a/0", FINGERPRINT, lo, hi, whole=True, transient=False, end=last), tables.encode(rows))
    old = [f"{folder}/{TEMPORARY}00-x" for folder in ("_parts/z", "captions", "quarantine")]
    for path in (*old, "captions/" + TEMPORARY + "young", "_parts/stray.parquet"):
        store.put(path, b"x")
    for path in old:
        os.utime(tmp_path / "out" / path, (0, 0))
    assert STALE_S > 0 and Commit(store, members).sweep() == [SHARD]
    assert [blob.path for blob in store.list("captions")] == ["captions/" + TEMPORARY + "young", "captions/a/0.parquet"]
    assert [blob.path for blob in store.list("_parts")] == ["_parts/stray.parquet"] and store.list("quarantine") == []


def test_parts_of_a_former_version_of_an_archive_never_become_its_captions(store: Folder) -> None:
    for lo, rows, last in ((0, table(row(0, caption="old")), False), (1, table(end(1)), True)):
        store.put(part_path("a/0", "former", Unit(lo, 0), Unit(lo, 0), whole=True, transient=False, end=last), tables.encode(rows))
    (opened,) = make_plan([ShardInput("/r/a/0.tar", SHARD, "a/0", FINGERPRINT, 1, 1.0)], store).open
    assert opened.todo is None
    assert Commit(store, members).sweep() == []
    Commit(store, members).write(table(row(0), end(1)))
    assert [one["caption"] for one in read(store)] == ["c0"]
