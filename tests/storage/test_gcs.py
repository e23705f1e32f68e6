"""Google's store as an input, with faults between:

- archives are listed and named by patterns; a file is read by bounded ranges, of the generation that was opened;
- 500, 503, a reset in the middle and silence cost nothing but time; what had arrived is not asked for again;
- a file that was replaced, refused credentials, a missing file and a store that stays away are one line each, in time;
- objects that the store calls gzip are read as they are stored, since it knows no ranges of them unpacked.
"""

import time
from collections.abc import Iterator
from random import Random

import pytest

from pipeline import storage
from pipeline.commit.plan import expand
from pipeline.errors import StoppedError
from pipeline.gcs import GcsSource
from tests.stores import Gcs, Proxy, environment, gcs_server, proxy_to, read_range

DATA = Random(1).randbytes(1_000_000)
URL = "gs://bucket/corpus/a b/0%.tar"


@pytest.fixture
def gcs(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Gcs, Proxy]]:
    """A store with three archives, behind a proxy."""
    monkeypatch.setattr("pipeline.remote.FIRST_WAIT_S", 0.01)
    with gcs_server() as store, proxy_to(store.url) as proxy:
        for name in ("corpus/a b/0%.tar", "corpus/a b/1.tar", "corpus/c.tar"):
            store.put(f"bucket/{name}", DATA)
        with environment(STORAGE_EMULATOR_HOST=proxy.url, NIGHTCAP_STALL_S="0.5"):
            storage._filesystem.cache_clear()
            yield store, proxy
    storage._filesystem.cache_clear()


def read(url: str, offset: int = 0, count: int = len(DATA)) -> bytes:
    return read_range(url, offset, count)


def test_archives_are_listed_and_named_by_patterns(gcs: tuple[Gcs, Proxy]) -> None:
    root, blobs = expand(["gs://bucket/corpus/**/*.tar"])
    assert root == "gs://bucket/corpus" and [blob.path for blob in blobs] == [
        URL,
        "gs://bucket/corpus/a b/1.tar",
        "gs://bucket/corpus/c.tar",
    ]
    assert blobs[0].size == len(DATA) and abs(blobs[0].mtime_s - 1_767_323_045.678) < 1e-3
    assert storage.stat(URL) == blobs[0] and storage.stat("gs://bucket/none") is None
    assert storage.is_folder("gs://bucket/corpus") and len(expand(["gs://bucket/corpus/a b"])[1]) == 2


def test_a_file_is_read_by_bounded_ranges(gcs: tuple[Gcs, Proxy]) -> None:
    _, proxy = gcs
    assert (
        read(URL) == DATA and read(URL, 5, 7) == DATA[5:12] and read(URL, len(DATA) - 3, 9) == DATA[-3:] and read(URL, len(DATA), 9) == b""
    )
    ranges = [asked for _, path, asked in proxy.requests if "alt=media" in path]
    assert ranges == [f"bytes=0-{len(DATA) - 1}", "bytes=5-11", f"bytes={len(DATA) - 3}-{len(DATA) - 1}"]


@pytest.mark.parametrize("fault", ["500", "503", "reset", "stall"])
def test_faults_cost_nothing_but_time(gcs: tuple[Gcs, Proxy], fault: str) -> None:
    _, proxy = gcs
    reader = storage.open_reader(URL)
    proxy.requests.clear()
    proxy.faults.append(("GET", fault))
    view = memoryview(bytearray(len(DATA)))
    assert reader.read_into(0, view) == len(DATA) and view == DATA
    reader.close()
    assert not proxy.faults
    first, last = (asked for _, path, asked in proxy.requests if "alt=media" in path)
    assert fault != "stall" or last != first, "what had arrived was asked for again"
    proxy.faults.append(("GET", fault))
    assert read(URL, 3, 4) == DATA[3:7]


def test_a_file_that_was_replaced_stops_the_run(gcs: tuple[Gcs, Proxy]) -> None:
    store, _ = gcs
    reader = storage.open_reader(URL)
    store.put("bucket/corpus/a b/0%.tar", DATA)
    with pytest.raises(StoppedError, match="changed while it was read"):
        reader.read_into(0, memoryview(bytearray(100)))
    reader.close()


def test_a_missing_file_refused_credentials_and_a_store_that_stays_away_are_one_line_in_time(gcs: tuple[Gcs, Proxy]) -> None:
    _, proxy = gcs
    with pytest.raises(FileNotFoundError):
        storage.open_reader("gs://bucket/none.tar")
    proxy.always = "denied"
    with pytest.raises(StoppedError, match=r"0%.tar: the store refuses the credentials .*; renew them"):
        storage.open_reader(URL)
    proxy.always = "503"
    began = time.monotonic()
    with pytest.raises(OSError, match=r"0%.tar: 6 tries failed, the last with Refused: HTTP status 503"):
        storage.open_reader(URL)
    assert time.monotonic() - began < 5


def test_what_is_stored_as_gzip_is_read_as_it_is_stored(gcs: tuple[Gcs, Proxy], monkeypatch: pytest.MonkeyPatch) -> None:
    """The store would unpack it, and send all of it whatever the range, unless gzip is accepted."""
    source, sent = GcsSource("bucket/corpus/c.tar"), []
    source.identify()
    asked = source._http.get
    monkeypatch.setattr(source._http, "get", lambda *rest, **more: sent.append(more["headers"]) or asked(*rest, **more))
    assert source.fetch(10, memoryview(bytearray(5))) == 5
    assert sent[0]["Accept-Encoding"] == "gzip" and sent[0]["Range"] == "bytes=10-14"
