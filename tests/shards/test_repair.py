"""A damaged or unsorted archive becomes a clean one: what is whole is saved, nothing else, and never altered.

- For any one injury: the clean archive has no damage, unique sorted keys, and every sample that was not touched, byte for byte.
- Partners that stand apart come together; keys used twice stay apart; texts whose medium is gone are left out.
- Packed archives too; the same bytes every time; a crash is repaired by the next call; a finished one is not written again.
"""

import gzip
import io
import tarfile
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import webdataset
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline import storage
from pipeline.samples.group import EndOfShard, read_samples
from pipeline.shards.repair import Repaired, repair

Members = Sequence[tuple[str, bytes]]


def pack(members: Members) -> bytes:
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w") as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return target.getvalue()


def mend(folder: Path, data: bytes, name: str = "a.tar", version: str = "v") -> tuple[Repaired, dict[str, dict[str, bytes | None]]]:
    (folder / name).write_bytes(data)
    done = repair(str(folder / name), "a", version, storage.Folder(str(folder / "clean")))
    with closing(storage.open_reader(str(folder / "clean" / "a.tar"))) as reader:
        *samples, end = read_samples(reader, max_sample_bytes=1 << 30)
    assert isinstance(end, EndOfShard) and end.damage == () and end.repeated_keys == 0
    keys = [sample.key for sample in samples]  # type: ignore[union-attr]
    assert keys == sorted(set(keys)) and len(keys) == done.samples
    return done, {sample.key: {part.name: part.data for part in sample.fields} for sample in samples}  # type: ignore[union-attr]


def pairs(count: int, seed: int = 0) -> list[tuple[str, bytes]]:
    rng = np.random.default_rng(seed)
    return [(f"{at:03d}.{name}", rng.bytes(int(rng.integers(1, 1500)))) for at in range(count) for name in ("jpg", "txt")]


def by_key(members: Members) -> dict[str, dict[str, bytes]]:
    found: dict[str, dict[str, bytes]] = {}
    for name, data in members:
        key, _, field = name.partition(".")
        found.setdefault(key, {})[field] = data
    return found


def test_partners_that_stand_apart_come_together_and_webdataset_reads_them(tmp_path: Path) -> None:
    members = pairs(5)
    done, found = mend(tmp_path, pack([*members[1::2], *members[-2::-2]]))
    assert found == by_key(members) and (done.joined, done.renamed, done.lost) == (4, 0, {})
    theirs = list(webdataset.WebDataset(str(tmp_path / "clean" / "a.tar"), shardshuffle=False, empty_check=False))
    assert [(one["__key__"], one["jpg"], one["txt"]) for one in theirs] == [
        (key, one["jpg"], one["txt"]) for key, one in sorted(found.items())
    ]


def test_a_key_that_is_used_twice_gets_a_number(tmp_path: Path) -> None:
    members = [("k.jpg", b"1"), ("k_2.jpg", b"2"), ("k.jpg", b"3"), ("k.txt", b"4"), ("k.jpg", b"5")]
    done, found = mend(tmp_path, pack(members))
    assert sorted(fields["jpg"] or b"" for fields in found.values()) == [b"1", b"2", b"3", b"5"]
    assert found["k"] == {"jpg": b"1"} and found["k_2"] == {"jpg": b"2"} and done.renamed == 2
    assert [fields.get("txt") for fields in found.values() if fields["jpg"] == b"3"] == [b"4"]


def test_a_text_whose_medium_is_gone_is_left_out(tmp_path: Path) -> None:
    members = pairs(4)
    data = bytearray(pack(members))
    with closing(storage.BytesReader(bytes(data))) as reader:
        sample = next(
            item for item in read_samples(reader, max_sample_bytes=1 << 30) if not isinstance(item, EndOfShard) and item.key == "002"
        )
    data[sample.offset : sample.offset + 512] = b"\xaa" * 512  # its picture's header, name and all
    done, found = mend(tmp_path, bytes(data))
    assert found == {key: fields for key, fields in by_key(members).items() if key != "002"}
    assert sum(done.lost.values()) == 1


def test_a_packed_archive_that_ends_early_is_saved_as_far_as_it_goes(tmp_path: Path) -> None:
    members = pairs(8)
    packed = gzip.compress(pack(members))
    done, found = mend(tmp_path, packed[: len(packed) * 2 // 3], "a.tar.gz")
    assert 0 < len(found) < 8 and all(by_key(members)[key] == fields for key, fields in found.items() if len(fields) == 2)


@settings(max_examples=60, derandomize=True, deadline=None, database=None, suppress_health_check=list(HealthCheck))
@given(st.integers(0, 20), st.floats(0, 1, exclude_max=True), st.sampled_from(["wipe", "cut", "remove", "insert"]), st.integers(1, 3000))
def test_after_any_injury_every_untouched_sample_is_saved(
    tmp_path_factory: pytest.TempPathFactory, seed: int, where: float, kind: str, length: int
) -> None:
    members = pairs(6, seed)
    data = pack(members)
    at = int(where * len(data))
    alien = np.random.default_rng(seed).bytes(length)
    after = data[at + length :]
    injured = {
        "wipe": data[:at] + alien[: len(data) - at] + after,
        "cut": data[:at],
        "remove": data[:at] + after,
        "insert": data[:at] + alien + data[at:],
    }
    _, found = mend(tmp_path_factory.mktemp("repair"), injured[kind])
    stop = len(data) if kind == "cut" else at if kind == "insert" else at + length
    with closing(storage.BytesReader(data)) as reader:
        samples = [item for item in read_samples(reader, max_sample_bytes=1 << 30) if not isinstance(item, EndOfShard)]
    for sample in samples:
        if sample.offset + sample.size <= at - 512 or sample.offset >= stop + 512:
            assert found.get(sample.key) == {part.name: part.data for part in sample.fields}, sample.key


def test_the_same_bytes_every_time_and_a_crash_is_repaired(tmp_path: Path) -> None:
    members = pairs(4)
    data = pack(members[::-1])
    first, _ = mend(tmp_path, data)
    clean = tmp_path / "clean" / "a.tar"
    content, written = clean.read_bytes(), clean.stat().st_mtime_ns
    assert mend(tmp_path, data)[0] == first and clean.stat().st_mtime_ns == written
    (tmp_path / "clean" / "repairs" / "a.json").unlink()  # died between archive and record
    assert mend(tmp_path, data)[0] == first and clean.read_bytes() == content
    clean.unlink()
    assert mend(tmp_path, data)[0] == first and clean.read_bytes() == content
    assert mend(tmp_path, pack(members[:4]), version="w")[0].samples == 2
