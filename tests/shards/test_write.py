"""The writer of archives:

- whatever the names, sizes and bytes, tarfile, webdataset and our own reader give back what was written, in order;
- the same samples give the same bytes, whoever owns the files and whenever they were touched;
- a file that is missing, shorter or longer than was promised costs its own sample, and nothing else of the archive;
- a sample that would be read back as another one is refused;
- a full disk stops with a message, and leaves no archive.
"""

import io
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import webdataset
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.errors import Reason, StoppedError
from pipeline.shards import write
from pipeline.shards.item import Place
from pipeline.shards.write import Ready, write_shard
from pipeline.storage import Folder
from tests.shards.kit import read

BUFFER_BYTES = 64 << 10
"""Small, so that what reaches over it is quickly made."""
LETTERS = st.characters(codec="utf-8", exclude_characters="./\0\n\r", exclude_categories=["Cs", "Cc"])
PART = st.text(LETTERS, min_size=1, max_size=60)
KEY = st.lists(PART, min_size=1, max_size=4).map("/".join).filter(lambda key: not key.startswith("__") and not key.endswith("/"))
FIELD = st.from_regex(r"[a-z0-9]{1,5}(\.[a-z0-9]{1,5})?", fullmatch=True)
SIZE = st.sampled_from([0, 1, 511, 512, 513, 5000, BUFFER_BYTES - 1024, BUFFER_BYTES + 1])
SAMPLES = st.lists(st.tuples(KEY, st.dictionaries(FIELD, SIZE, min_size=1, max_size=3)), max_size=4, unique_by=lambda one: one[0])


@pytest.fixture(autouse=True, scope="module")
def small_buffer() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(write, "BUFFER_BYTES", BUFFER_BYTES)
        yield


def payload(key: str, field: str, size: int) -> bytes:
    return (f"{key}.{field} ".encode() * (size // 2 + 1))[:size]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(samples=SAMPLES, by_place=st.booleans())
def test_what_is_written_is_read_back_by_three_readers(samples: list[tuple[str, dict[str, int]]], by_place: bool, tmp_path: Path) -> None:
    ready, expected = [], []
    for number, (key, fields) in enumerate(samples):
        members: list[tuple[str, Place | bytes]] = []
        for field, size in fields.items():
            data = payload(key, field, size)
            path = tmp_path / f"{number}-{field}"
            path.write_bytes(data)
            members.append((field, Place(str(path), 0, size) if by_place else data))
        ready.append(Ready(key, tuple(members)))
        expected.append((key, {field: payload(key, field, size) for field, size in sorted(fields.items())}))
    written = write_shard(Folder(str(tmp_path / "out")), "a.tar", ready)
    path = tmp_path / "out" / "a.tar"
    assert written.size_bytes == path.stat().st_size and written.samples == len(samples) and not written.lost
    names = [(f"{key}.{field}", data) for key, fields in expected for field, data in fields.items()]
    with tarfile.open(path) as tar:
        assert [(member.name, tar.extractfile(member).read()) for member in tar] == names  # type: ignore[union-attr]
    ours = [(one.pop("__key__").decode(), one) for one in read(path.read_bytes())]
    assert ours == expected
    if samples:
        dataset = webdataset.WebDataset(str(path), shardshuffle=False, empty_check=False)
        theirs = [(one["__key__"], {field: one[field] for field in one if not field.startswith("__")}) for one in dataset]
        assert theirs == expected


def test_times_owners_and_modes_of_the_source_get_into_no_byte(tmp_path: Path) -> None:
    archives = []
    for mode, when in ((0o644, 1.0), (0o600, 2e9)):
        picture = tmp_path / "x.jpg"
        picture.write_bytes(b"x" * 700)
        os.chmod(picture, mode)
        os.utime(picture, (when, when))
        write_shard(Folder(str(tmp_path)), "a.tar", [Ready("k", (("txt", b"t"), ("jpg", Place(str(picture), 0, 700))))])
        archives.append((tmp_path / "a.tar").read_bytes())
    assert archives[0] == archives[1]
    with tarfile.open(fileobj=io.BytesIO(archives[0])) as tar:
        assert {(one.mtime, one.uid, one.gid, one.mode, one.uname) for one in tar} == {(0, 0, 0, 0o644, "")}


@pytest.mark.parametrize(
    ("defect", "reason"),
    [("missing", Reason.MISSING_FILE), ("folder", Reason.MISSING_FILE), ("shorter", Reason.DAMAGED), ("longer", Reason.DAMAGED)],
)
def test_a_file_that_is_not_as_promised_costs_its_sample_only(tmp_path: Path, defect: str, reason: Reason) -> None:
    size = 3 * BUFFER_BYTES
    path = tmp_path / "bad"
    if defect == "folder":
        path.mkdir()
    elif defect != "missing":
        path.write_bytes(b"b" * (size + (10 if defect == "longer" else -10)))
    good = [Ready(f"k{number}", (("jpg", b"g" * 1000), ("txt", b"t"))) for number in range(4)]
    bad = Ready("bad", (("jpg", b"first"), ("png", Place(str(path), 0, size))))
    store = Folder(str(tmp_path / "out"))
    written = write_shard(store, "a.tar", [*good[:2], bad, *good[2:]])
    assert [(one.key, one.reason) for one in written.lost] == [("bad", reason)]
    assert "png" in written.lost[0].detail and str(path) in written.lost[0].detail
    write_shard(store, "without.tar", good)
    assert store.get("a.tar") == store.get("without.tar")


@pytest.mark.parametrize(
    ("key", "fields"),
    [
        ("a.b", ("jpg",)),
        ("", ("jpg",)),
        ("__x__/a", ("jpg",)),
        ("a", ("JPG",)),
        ("a", ("a/b",)),
        ("a", ()),
        ("a\0", ("jpg",)),
    ],
)
def test_a_sample_that_would_be_read_back_as_another_is_refused(tmp_path: Path, key: str, fields: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="sample|key"):
        write_shard(Folder(str(tmp_path)), "a.tar", [Ready(key, tuple((field, b"") for field in fields))])
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_stops_with_a_message_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, wrote = os.write, [0]

    def full(fd: int, data: bytes) -> int:
        wrote[0] += len(data)
        if wrote[0] > 2 * BUFFER_BYTES:
            raise OSError(28, "No space left on device")
        return real(fd, data)

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(StoppedError, match="no room left"):
        write_shard(Folder(str(tmp_path)), "a.tar", [Ready(f"k{number}", (("jpg", b"x" * BUFFER_BYTES),)) for number in range(5)])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("on_disk", [True, False], ids=["disk", "memory"])
def test_archives_longer_than_the_buffer_are_whole_also_where_samples_were_taken_back(tmp_path: Path, on_disk: bool) -> None:
    memory = Path("/dev/shm")
    if not on_disk and not memory.is_dir():
        pytest.skip("no file system in memory here")
    with TemporaryDirectory(dir=None if on_disk else memory) as target:
        long = tmp_path / "long.bin"
        long.write_bytes(bytes(range(256)) * (BUFFER_BYTES // 256) + b"odd")
        short = tmp_path / "short.bin"
        short.write_bytes(bytes(BUFFER_BYTES // 2))
        size = long.stat().st_size
        places = [("jpg", Place(str(long), 0, size)), ("png", Place(str(long), 7, size - 7)), ("txt", bytes(BUFFER_BYTES + 100))]
        samples = [
            Ready("a", tuple(places)),
            Ready("b", (("jpg", Place(str(long), 0, size)), ("png", Place(str(short), 0, size)))),
            Ready("c", tuple(places)),
        ]
        written = write_shard(Folder(target), "a.tar", samples)
        assert [lost.key for lost in written.lost] == ["b"]
        with tarfile.open(Path(target, "a.tar")) as tar:
            members = {member.name: reader.read() for member in tar if (reader := tar.extractfile(member)) is not None}
    data = long.read_bytes()
    one = {"jpg": data, "png": data[7:], "txt": bytes(BUFFER_BYTES + 100)}
    assert members == {f"{key}.{field}": one[field] for key in ("a", "c") for field in one}
    assert not list(tmp_path.glob(".tmp-*"))
