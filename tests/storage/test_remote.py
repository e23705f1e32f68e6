"""Object stores and web servers, with faults between:

- files on S3 are listed, read by range, written whole, deleted; a night's output folder there works as on a disk;
- 500, 503, a reset in the middle and a stall cost nothing but time: the bytes are right, and what had arrived is not asked for again;
- a file that changed while it was read, refused credentials, a full bucket and a missing file are one line each, at once;
- a web server is read by range; one that knows none is read from the start, forward and back, also when its connection breaks;
- a gzip archive over a connection that breaks gives the samples that it gives on a disk, from S3 and from web servers with and without ranges;
  one that was replaced meanwhile stops the run, also where the server starts from the beginning;
- a web server's file is known by size and ETag, or by its time; a server that fails now is no missing file;
- whatever breaks wherever, a reader gives exactly the file's bytes (property).
"""

import io
import os
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline import storage
from pipeline.commit.plan import expand, inputs
from pipeline.errors import RequestError, StoppedError
from pipeline.remote import Identity, ResumingReader
from pipeline.samples.group import EndOfShard, Sample, read_samples
from pipeline.storage import Folder
from tests.stores import Proxy, proxy_to, read_range, web_of

DATA = Random(0).randbytes(3_000_000)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch, s3: Proxy) -> Iterator[None]:
    monkeypatch.setattr("pipeline.remote.FIRST_WAIT_S", 0.01)
    yield
    s3.always = ""
    s3.faults.clear()


def read(url: str, offset: int = 0, count: int = len(DATA)) -> bytes:
    return read_range(url, offset, count)


def test_a_folder_on_s3_works_as_on_a_disk(s3: Proxy) -> None:
    folder = Folder("s3://bucket/out")
    assert folder.list("captions") == [] and not folder.exists("a") and storage.writable("s3://bucket/out") is None
    folder.put("captions/a/b.parquet", b"1")
    folder.put("captions/a/b.parquet", b"two")
    with folder.create("captions/large") as draft:
        draft.write(DATA * 3)
    with pytest.raises(ZeroDivisionError), folder.create("captions/never") as draft:
        draft.write(b"x" * 9)
        raise ZeroDivisionError
    assert [(blob.path, blob.size) for blob in folder.list("captions")] == [("captions/a/b.parquet", 3), ("captions/large", 3 * len(DATA))]
    folder.put("x.gz", b"as it is")  # pyarrow would pack and unpack by the name
    assert folder.get("x.gz") == read("s3://bucket/out/x.gz") == b"as it is"
    assert folder.get("captions/a/b.parquet") == b"two" and read("s3://bucket/out/captions/large", 5, 7) == DATA[5:12]
    assert folder.list("captions")[0].mtime_s > 1e9 and storage.folders_in("s3://bucket/out") == ["captions"]
    folder.delete("captions/a/b.parquet")
    folder.delete("captions/a/b.parquet")
    with pytest.raises(FileNotFoundError):
        folder.get("captions/a/b.parquet")
    assert [blob.path for blob in storage.walk("s3://bucket/out")] == ["s3://bucket/out/captions/large", "s3://bucket/out/x.gz"]


def test_patterns_name_archives_on_s3(s3: Proxy) -> None:
    for name in ("corpus/x/0.tar", "corpus/x/1.tar", "corpus/y/2.tar", "corpus/y/n.txt"):
        Folder("s3://bucket").put(name, b"x")
    root, blobs = expand(["s3://bucket/corpus/**/*.tar"])
    assert root == "s3://bucket/corpus" and [blob.path[len(root) :] for blob in blobs] == ["/x/0.tar", "/x/1.tar", "/y/2.tar"]
    assert len(expand(["s3://bucket/corpus"])[1]) == 3 and len(expand(["s3://bucket/corpus/x/{0..1}.tar"])[1]) == 2
    with pytest.raises(RequestError, match="no shard matches s3://bucket/nothing"):
        expand(["s3://bucket/nothing/*.tar"])


@pytest.mark.parametrize("fault", ["500", "503", "reset", "stall"])
def test_faults_cost_nothing_but_time(s3: Proxy, fault: str) -> None:
    Folder("s3://bucket").put("f.tar", DATA)
    reader = storage.open_reader("s3://bucket/f.tar")
    s3.requests.clear()
    s3.faults.extend([("GET", fault)] * (2 if fault != "stall" else 1))
    view = memoryview(bytearray(len(DATA)))
    assert reader.read_into(0, view) == len(DATA) and view == DATA
    reader.close()
    assert not s3.faults, "the fault did not come about"
    assert all(asked for method, _, asked in s3.requests if method == "GET"), "the whole file was asked for"


def test_a_file_that_changes_while_it_is_read_stops_the_run(s3: Proxy) -> None:
    store = Folder("s3://bucket")
    store.put("g.tar", DATA)
    reader = storage.open_reader("s3://bucket/g.tar")
    store.put("g.tar", DATA[::-1])
    s3.faults.extend([("GET", "500")] * 5)  # the store's own client tries five times
    with pytest.raises(StoppedError, match="s3://bucket/g.tar changed while it was read"):
        reader.read_into(0, memoryview(bytearray(100)))
    reader.close()


def test_refused_credentials_and_a_full_bucket_are_one_line_at_once(s3: Proxy) -> None:
    store = Folder("s3://bucket")
    store.put("h.tar", b"x" * 100)
    reader = storage.open_reader("s3://bucket/h.tar")
    s3.always = "expired"
    for work in (lambda: reader.read_into(0, memoryview(bytearray(100))), lambda: read("s3://bucket/h.tar"), lambda: store.put("x", b"x")):
        with pytest.raises(StoppedError, match="bucket/(h.tar|x): the store refuses the credentials .*; renew them"):
            work()
    with pytest.raises(RequestError, match="s3://bucket/corpus cannot be read: .*ExpiredToken"):
        expand(["s3://bucket/corpus/*.tar"])
    s3.always = "full"
    with pytest.raises(StoppedError, match="the store takes no more .*; make room"):
        store.put("captions/x.parquet", b"x")
    s3.always = ""
    assert not store.exists("captions/x.parquet")
    with pytest.raises(FileNotFoundError):
        storage.open_reader("s3://bucket/missing.tar")


@pytest.mark.parametrize("ranges", [True, False])
def test_a_web_server_is_read_by_range_or_from_the_start(tmp_path: Path, ranges: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "f.tar").write_bytes(DATA)
    monkeypatch.setenv("NIGHTCAP_STALL_S", "0.5")
    with web_of(tmp_path, ranges=ranges) as web, proxy_to(web.url) as proxy:
        url = f"{proxy.url}/f.tar"
        assert read(url) == DATA and read(url, 2_000_000, 10) == DATA[2_000_000:2_000_010]
        reader = storage.open_reader(url)
        for fault in ("reset", "500", "stall"):
            proxy.faults.append(("GET", fault))
            for offset in (1_500_000, 100, 2_999_990):
                view = memoryview(bytearray(1000))
                got = reader.read_into(offset, view)
                assert bytes(view[:got]) == DATA[offset : offset + 1000]
            assert not proxy.faults
        reader.close()
        assert storage.stat(url) is not None and [blob.size for blob in expand([url])[1]] == [len(DATA)]
        with pytest.raises(FileNotFoundError):
            storage.open_reader(f"{proxy.url}/none.tar")


def packed_archive(seed: int) -> bytes:
    """A gzip tar of 30 samples of 40 KB that do not compress."""
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w:gz", compresslevel=1) as tar:
        for number in range(30):
            member = tarfile.TarInfo(f"{number:03d}.jpg")
            member.size = 40_000
            tar.addfile(member, io.BytesIO(Random(seed + number).randbytes(member.size)))
    return made.getvalue()


def samples_of(reader: storage.Reader) -> list[tuple[str, bytes | None]]:
    """Key and bytes of each; the account at the end has to be without damage."""
    *samples, end = read_samples(reader, max_sample_bytes=1 << 20)
    assert isinstance(end, EndOfShard) and not end.n_damage
    return [(sample.key, sample.fields[0].data) for sample in samples if isinstance(sample, Sample)]


@pytest.fixture(params=["s3", "ranges", "no ranges"])
def packed(request: pytest.FixtureRequest, s3: Proxy, tmp_path: Path) -> Iterator[tuple[str, Proxy, Callable[[bytes], None]]]:
    """(URL, the proxy before it, a function that replaces the file)."""
    if request.param == "s3":
        yield "s3://bucket/packed.tar.gz", s3, lambda data: Folder("s3://bucket").put("packed.tar.gz", data)
        return
    with web_of(tmp_path, ranges=request.param == "ranges") as web, proxy_to(web.url) as proxy:
        yield f"{proxy.url}/packed.tar.gz", proxy, lambda data: (tmp_path / "packed.tar.gz").write_bytes(data) and None


def test_a_gzip_archive_over_a_broken_connection_gives_its_samples(
    packed: tuple[str, Proxy, Callable[[bytes], None]], monkeypatch: pytest.MonkeyPatch
) -> None:
    url, proxy, put = packed
    monkeypatch.setattr("pipeline.remote.PIECE_BYTES", 300_000)
    data = packed_archive(0)
    put(data)
    expected = samples_of(storage.BytesReader(data))
    assert len(expected) == 30
    reader = storage.open_reader(url)
    proxy.faults.extend([("GET", "reset"), ("GET", "500"), ("GET", "reset")])
    assert samples_of(reader) == expected
    reader.close()
    assert not proxy.faults, "the faults did not come about"


def test_a_gzip_archive_that_is_replaced_on_the_way_stops_the_run(packed: tuple[str, Proxy, Callable[[bytes], None]]) -> None:
    url, proxy, put = packed
    put(packed_archive(0))
    reader = storage.open_reader(url)
    put(packed_archive(100))
    proxy.faults.extend([("GET", "500")] * 5)
    with pytest.raises(StoppedError, match="changed while it was read"):
        samples_of(reader)
    reader.close()
    proxy.faults.clear()


@pytest.mark.parametrize("etags", [True, False])
def test_a_file_of_a_web_server_is_known_by_its_etag_or_its_time(tmp_path: Path, etags: bool) -> None:
    file = tmp_path / "a.tar"

    def version(data: bytes, mtime_s: int) -> tuple[float, str]:
        file.write_bytes(data)
        os.utime(file, (mtime_s, mtime_s))
        root, (blob,) = expand([f"{web.url}/a.tar"])
        return blob.mtime_s, inputs([blob], root)[0].fingerprint

    with web_of(tmp_path, etags=etags) as web:
        (first_s, first), again, other = version(b"one", 1_700_000_000), version(b"one", 1_700_000_000), version(b"two", 1_700_009_999)
    assert first_s == (0.0 if etags else 1_700_000_000) and again == (first_s, first) and other[1] != first


def test_a_web_server_that_fails_now_is_no_missing_file(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(b"one")
    with web_of(tmp_path) as web, proxy_to(web.url) as proxy:
        proxy.faults.extend([("HEAD", "503"), ("GET", "503")] * 2)
        found = storage.stat(f"{proxy.url}/a.tar")
        assert found is not None and found.size == 3 and not proxy.faults
        assert storage.stat(f"{proxy.url}/b.tar") is None
        proxy.always = "denied"
        with pytest.raises(StoppedError, match="refuses the credentials"):
            storage.stat(f"{proxy.url}/a.tar")


class Flaky:
    """A source that gives less than asked for, raises, or hangs up, as it is told."""

    def __init__(self, data: bytes, faults: list[int]) -> None:
        self._data, self._faults = data, faults

    def identify(self) -> Identity:
        return Identity(len(self._data), "e")

    def fetch(self, offset: int, view: memoryview) -> int:
        fault = self._faults.pop() if self._faults else 99
        if fault == 0:
            raise OSError("broken")
        count = min(len(view), fault - 1 if fault < 99 else len(view), len(self._data) - offset)
        view[:count] = self._data[offset : offset + count]
        return count

    def reopen(self) -> None:
        pass


READS = st.lists(st.tuples(st.integers(0, 220), st.integers(0, 80)), max_size=12)


@settings(max_examples=60, deadline=None)
@given(st.binary(min_size=1, max_size=200), st.lists(st.integers(0, 9), max_size=5), READS, st.integers(1, 60))
def test_whatever_breaks_a_reader_gives_exactly_the_bytes(data: bytes, faults: list[int], reads: Any, piece: int) -> None:
    waited: list[float] = []
    reader = ResumingReader(Flaky(data, list(faults)), "s3://b/x", wait=waited.append, piece_bytes=piece)
    for offset, count in reads:
        view = memoryview(bytearray(count))
        got = reader.read_into(offset, view)
        assert bytes(view[:got]) == data[offset : offset + count]
    at = 0
    while at < len(data):
        view = memoryview(bytearray(7))
        at += reader.read_into(at, view)
    reader.close()
    assert waited == sorted(waited) or len(faults) > 1
