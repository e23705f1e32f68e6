"""Captions back into archives: new texts, everything else byte for byte.

- Every sample comes out with its members as they were and its caption, in order; other readers see the same.
- A member of the caption's name is replaced; json keeps its other entries; several captions are a list there, the first in a member.
- Samples without a caption are kept or left out as asked, and counted either way.
- Another archive, a changed sample, a changed medium, a table of others or a short one: refused, naming it, and nothing is written.
- The same input gives the same bytes; a crash at any point is repaired by the next call; a new version is merged anew.
"""

import gzip
import io
import json
import tarfile
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import webdataset
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline import schema, storage
from pipeline.errors import RequestError, StoppedError
from pipeline.samples.group import EndOfShard, Sample, hashes_of, read_samples
from pipeline.samples.medium import modality_of
from pipeline.shards.merge import Form, Job, Merged, merge, verify_first

Members = Sequence[tuple[str, bytes]]
PLAIN = [(f"{at:03d}.{name}", data) for at in range(4) for name, data in (("jpg", b"\xff\xd8" + bytes([at]) * 700), ("txt", b"old"))]


def write(path: Path, members: Members) -> Path:
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w") as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    path.write_bytes(gzip.compress(target.getvalue()) if path.suffix == ".gz" else target.getvalue())
    return path


def samples_of(path: Path) -> list[Sample]:
    with closing(storage.open_reader(str(path))) as reader:
        *samples, end = read_samples(reader, max_sample_bytes=1 << 30)
    assert isinstance(end, EndOfShard) and end.damage == ()
    return samples  # type: ignore[return-value]


def contents(path: Path) -> list[tuple[str, dict[str, bytes | None]]]:
    return [(sample.key, {part.name: part.data for part in sample.fields}) for sample in samples_of(path)]


def table_of(path: Path, captions: dict[int, Sequence[str] | str], shard: str = "a.tar") -> Path:
    """A caption table: several captions where a sequence is given, the reason of a reject where there is none."""
    rows: list[dict[str, Any]] = []
    for sample in samples_of(path):
        given_texts = captions.get(sample.index, f"caption of {sample.key}")
        hashes = hashes_of(sample.fields)
        media = [digest for name, digest in hashes.members.items() if modality_of(name)]
        fixed = {
            "key": sample.key,
            "shard": shard,
            "index": sample.index,
            "sample_sha256": hashes.sample,
            "media_sha256": media[0] if media else None,
            "flags": [],
        }
        if not given_texts:
            rows.append({**fixed, "caption_index": 0, "status": "rejected", "reason": "undecodable"})
        for number, text in enumerate([given_texts] if isinstance(given_texts, str) else given_texts):
            if text:
                rows.append({**fixed, "caption_index": number, "caption": text, "status": "success"})
    target = path.parent / "table.parquet"
    pq.write_table(pa.Table.from_pylist(rows, schema=schema.CAPTIONS), target)
    return target


def job(path: Path, table: Path, version: str = "v1", shard: str = "a.tar") -> Job:
    return Job(str(path), shard, "a", version, str(table))


def run(path: Path, captions: dict[int, Sequence[str] | str], **form: Any) -> tuple[Merged, Path]:
    out = path.parent / "out"
    result = merge(job(path, table_of(path, captions)), Form(**form), storage.Folder(str(out)))
    return result, out / "a.tar"


@pytest.mark.parametrize("name", ["a.tar", "a.tar.gz"])
def test_every_sample_gets_its_caption_and_keeps_its_members(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / name, PLAIN)
    result, merged = run(path, {2: "ein schöner Text 键"})
    before, after = contents(path), contents(merged)
    assert [key for key, _ in after] == [key for key, _ in before] and result.counts == {"merged": 4}
    for at, ((key, old), (_, new)) in enumerate(zip(before, after, strict=True)):
        assert new == {**old, "caption.txt": ("ein schöner Text 键" if at == 2 else f"caption of {key}").encode()}
    assert merged.stat().st_size == result.size_bytes


def test_webdataset_and_datasets_read_the_merged_archive(tmp_path: Path) -> None:
    import datasets

    _, merged = run(write(tmp_path / "a.tar", PLAIN), {})
    theirs = [dict(sample) for sample in webdataset.WebDataset(str(merged), shardshuffle=False, empty_check=False)]
    assert [(sample["__key__"], sample["caption.txt"]) for sample in theirs] == [
        (f"{n:03d}", f"caption of {n:03d}".encode()) for n in range(4)
    ]
    assert [sample["jpg"] for sample in theirs] == [fields["jpg"] for _, fields in contents(merged)]
    stream = datasets.load_dataset("webdataset", data_files=str(merged), split="train", streaming=True).cast_column(
        "jpg", datasets.Image(decode=False)
    )
    assert [row["jpg"]["bytes"] for row in stream] == [sample["jpg"] for sample in theirs]


def test_a_member_of_that_name_is_replaced(tmp_path: Path) -> None:
    _, merged = run(write(tmp_path / "a.tar", PLAIN), {}, member="txt")
    assert [fields["txt"] for _, fields in contents(merged)] == [f"caption of {n:03d}".encode() for n in range(4)]
    assert all(set(fields) == {"jpg", "txt"} for _, fields in contents(merged))


def test_json_keeps_its_other_entries_and_unreadable_json_its_bytes(tmp_path: Path) -> None:
    jsons = [b'{"z": 1, "a": "\\u00e9"}', b"{", b"[1]"]
    members = [(f"{at}.{name}", data) for at in range(3) for name, data in (("jpg", b"x"), ("json", jsons[at]))]
    result, merged = run(write(tmp_path / "a.tar", [*members, ("3.jpg", b"y")]), {0: "neu"}, member="", json_field="new")
    found = [fields["json"] for _, fields in contents(merged)]
    assert json.loads(found[0] or b"") == {"z": 1, "a": "é", "new": "neu"} and found[1:3] == [b"{", b"[1]"]
    assert json.loads(found[3] or b"") == {"new": "caption of 3"}
    assert result.counts == {"merged": 2, "kept:json_unreadable": 1, "kept:json_no_object": 1}


def test_of_several_captions_the_member_has_the_first_and_json_all(tmp_path: Path) -> None:
    _, merged = run(write(tmp_path / "a.tar", PLAIN), {1: ["first", "second"]}, json_field="captions")
    found = contents(merged)
    assert found[1][1]["caption.txt"] == b"first" and json.loads(found[1][1]["json"] or b"")["captions"] == ["first", "second"]
    assert json.loads(found[0][1]["json"] or b"")["captions"] == ["caption of 000"]


@pytest.mark.parametrize(("keep", "left"), [(True, 4), (False, 3)])
def test_samples_without_a_caption_are_kept_or_left_out(tmp_path: Path, keep: bool, left: int) -> None:
    path = write(tmp_path / "a.tar", PLAIN)
    result, merged = run(path, {1: ()}, keep_rejected=keep)
    found = contents(merged)
    assert len(found) == left and sum(result.counts.values()) == 4
    assert result.counts == {"merged": 3, f"{'kept' if keep else 'dropped'}:undecodable": 1}
    assert not keep or found[1] == contents(path)[1]


def test_a_damaged_sample_is_left_out_and_counted(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tar", PLAIN)
    table = table_of(path, {})
    data = bytearray(path.read_bytes())
    data[4096 + 100 : 4096 + 140] = b"\xff" * 40  # the header of 001.txt (each sample takes 3,072 bytes, its jpg 1,536)
    path.write_bytes(data)
    with closing(storage.open_reader(str(path))) as reader:
        *found, _ = read_samples(reader, max_sample_bytes=1 << 30)
    broken = [sample.index for sample in found if isinstance(sample, Sample) and sample.problem is not None]
    assert broken == [1]
    result = merge(job(path, table), Form(), storage.Folder(str(tmp_path / "out")))
    assert result.counts == {"merged": 3, "dropped:damaged": 1} and result.examples == {"dropped:damaged": ["001"]}


@pytest.mark.parametrize("part", ["jpg", "txt"])
def test_a_sample_that_changed_is_refused_by_name_and_nothing_is_written(tmp_path: Path, part: str) -> None:
    path = write(tmp_path / "a.tar", PLAIN)
    table = table_of(path, {})
    write(path, [(name, data + b"!" if name == f"002.{part}" else data) for name, data in PLAIN])
    with pytest.raises(StoppedError, match=r"a\.tar:002 is not the sample"):
        merge(job(path, table), Form(), storage.Folder(str(tmp_path / "out")))
    assert not list((tmp_path / "out").rglob("*.*"))


def test_a_medium_that_is_not_the_captioned_one_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tar", PLAIN)
    table = pq.read_table(table_of(path, {}))
    wrong = table.set_column(table.schema.get_field_index("media_sha256"), "media_sha256", pa.array(["0" * 64] * len(table)))
    pq.write_table(wrong, tmp_path / "table.parquet")
    with pytest.raises(StoppedError, match=r"a\.tar:000 has no medium"):
        merge(job(path, tmp_path / "table.parquet"), Form(), storage.Folder(str(tmp_path / "out")))


def test_tables_of_other_archives_are_refused_before_anything_starts(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tar", PLAIN)
    with pytest.raises(RequestError, match="captions of b.tar, not of a.tar"):
        verify_first(job(path, table_of(path, {}, shard="b.tar")), 1 << 20)
    other = write(tmp_path / "b.tar", [("000.jpg", b"other")])
    with pytest.raises(RequestError, match="a.tar:000 is not the sample"):
        verify_first(job(path, table_of(other, {})), 1 << 20)
    (tmp_path / "none.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(RequestError, match="no caption table"):
        verify_first(job(path, tmp_path / "none.parquet"), 1 << 20)
    verify_first(job(path, table_of(path, {})), 1 << 20)


@pytest.mark.parametrize("count", [3, 5])
def test_a_table_with_more_or_fewer_rows_is_refused(tmp_path: Path, count: int) -> None:
    path = write(tmp_path / "a.tar", [*PLAIN, ("004.jpg", b"more")][: 2 * count])
    table = table_of(path, {})
    write(path, PLAIN)
    with pytest.raises(StoppedError, match=r"a\.tar"):
        merge(job(path, table), Form(), storage.Folder(str(tmp_path / "out")))


def test_samples_that_would_flow_together_stop_the_merge(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tar", [("k.jpg", b"1"), ("x.jpg", b"2"), ("k.txt", b"3")])
    with pytest.raises(StoppedError, match=r"a\.tar:k would be read back as another sample.*--rejected keep"):
        run(path, {1: ()}, member="zz", keep_rejected=False)
    result, merged = run(path, {1: ()}, member="zz")
    assert result.counts["merged"] == 2 and [key for key, _ in contents(merged)] == ["k", "x", "k"]


def test_a_sample_above_the_bound_stops_the_merge_unless_rejects_are_dropped(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tar", PLAIN)
    with pytest.raises(StoppedError, match="above --max-sample-bytes"):
        run(path, {}, max_sample_bytes=100)
    result, _ = run(path, {}, max_sample_bytes=100, keep_rejected=False)
    assert result.counts == {"dropped:too_large": 4}


class Crash(Exception):
    """The process dies here."""


class Fragile(storage.Folder):
    """A folder that dies before the given write."""

    def __init__(self, url: str, at: int) -> None:
        super().__init__(url)
        self.left = at

    def _step(self) -> None:
        self.left -= 1
        if self.left < 0:
            raise Crash

    def put(self, path: str, data: bytes) -> None:
        self._step()
        super().put(path, data)

    def create(self, path: str, tag: str = "", *, direct: bool = False) -> Any:
        self._step()
        return super().create(path, tag, direct=direct)


@pytest.mark.parametrize("at", [0, 1])
def test_a_crash_is_repaired_by_the_next_call_and_the_bytes_are_the_same(tmp_path: Path, at: int) -> None:
    path = write(tmp_path / "a.tar", PLAIN)
    table = table_of(path, {})
    merge(job(path, table), Form(), storage.Folder(str(tmp_path / "calm")))
    with pytest.raises(Crash):
        merge(job(path, table), Form(), Fragile(str(tmp_path / "out"), at))
    first = merge(job(path, table), Form(), storage.Folder(str(tmp_path / "out")))
    for name in ("a.tar", "merged/a.json"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "calm" / name).read_bytes()
    written = (tmp_path / "out" / "a.tar").stat().st_mtime_ns
    assert merge(job(path, table), Form(), storage.Folder(str(tmp_path / "out"))) == first
    assert (tmp_path / "out" / "a.tar").stat().st_mtime_ns == written
    table = table_of(path, {0: "changed"})
    merge(job(path, table, "v2"), Form(), storage.Folder(str(tmp_path / "out")))
    assert contents(tmp_path / "out" / "a.tar")[0][1]["caption.txt"] == b"changed"


texts = st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=20)
members_of_samples = st.lists(
    st.dictionaries(st.sampled_from(["jpg", "txt", "json", "caption.txt", "left.png", "wav"]), st.binary(max_size=600), min_size=1),
    max_size=6,
)


@settings(max_examples=40, derandomize=True, deadline=None, database=None, suppress_health_check=list(HealthCheck))
@given(
    members_of_samples,
    st.lists(st.one_of(texts, st.none()), min_size=6, max_size=6),
    st.booleans(),
    st.sampled_from(["caption.txt", "txt", "z"]),
)
def test_whatever_the_samples_media_come_back_untouched(
    tmp_path_factory: pytest.TempPathFactory, samples: list[dict[str, bytes]], captions: list[str | None], keep: bool, member: str
) -> None:
    folder = tmp_path_factory.mktemp("merge")
    path = write(folder / "a.tar", [(f"k{at}.{name}", data) for at, fields in enumerate(samples) for name, data in sorted(fields.items())])
    result, merged = run(path, {at: text or () for at, text in enumerate(captions)}, keep_rejected=keep, member=member)
    wanted = [
        (f"k{at}", {**fields, member: text.encode()} if text else fields)
        for at, (fields, text) in enumerate(zip(samples, captions, strict=False))
        if text or keep
    ]
    assert contents(merged) == wanted and sum(result.counts.values()) == len(samples)
