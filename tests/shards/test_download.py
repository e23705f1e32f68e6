"""Media by URL, from a server of this machine:

- bodies come out as they were sent, in the order of the manifest, named by what they are;
- a busy server is asked again; what is gone, too long, silent, empty or no medium is a row with its URL and reason, and costs
  its sample only; so is a server that redirects in circles, breaks off, or never ends;
- the keys of the others do not depend on it;
- archives keep to their bound, though no size was known before: further ones follow, the same for the same bytes.
"""

import json
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from pipeline.shards.order import ShardPlan
from pipeline.shards.pack import samples_of
from pipeline.storage import Folder
from tests.shards.kit import FLAC, JPG, make, read

asked: Counter[str] = Counter()


class Answers(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        asked[self.path] += 1
        name = self.path.strip("/").split("?")[0]
        if name == "busy" and asked[self.path] == 1:
            self.send_error(503)
        elif name == "gone":
            self.send_error(404)
        elif name == "down":
            self.send_error(500)
        elif name == "silent":
            threading.Event().wait(2)
        elif name == "circle":
            self.send_response(302)
            self.send_header("Location", "/circle")
            self.end_headers()
        elif name in ("cut", "endless"):
            self.send_response(200)
            self.send_header("Content-Length", "900") if name == "cut" else None
            self.end_headers()
            with suppress(OSError):  # whoever asked has gone
                for _ in range(1 if name == "cut" else 100):
                    self.wfile.write(JPG)
                    threading.Event().wait(0 if name == "cut" else 0.03)
        else:
            bodies = {"long.jpg": JPG + bytes(2000), "page": b"<html>", "empty.jpg": b"", "sound": FLAC, "png.jpg": b"\x89PNG\r\n\x1a\n"}
            body = bodies.get(name, JPG + name.encode() + bytes(900 if name.startswith("big") else 0))
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[str]:
    asked.clear()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_downloads_in_order_and_failures_as_rows(tmp_path: Path, server: str) -> None:
    names = [
        "a.jpg",
        "gone",
        "busy",
        "long.jpg",
        "sound",
        "page",
        "empty.jpg",
        "down",
        "png.jpg",
        "silent",
        "z?x=1",
        "circle",
        "cut",
        "endless",
    ]
    lines = [{"url": f"{server}/{name}", "caption": name} for name in names] + [{"url": "ftp://x/y.jpg", "caption": "c"}]
    (tmp_path / "m.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    made = make(tmp_path / "m.jsonl", tmp_path / "out")
    found = [(sample["__key__"].decode(), sample["txt"].decode(), sorted(sample)[1]) for sample in made.samples]
    assert found == [
        ("000000000", "a.jpg", "jpg"),
        ("000000002", "busy", "jpg"),
        ("000000004", "sound", "flac"),
        ("000000008", "png.jpg", "json"),
        ("000000010", "z?x=1", "jpg"),
    ]
    assert made.samples[0]["jpg"] == JPG + b"a.jpg" and made.samples[2]["flac"] == FLAC and "png" in made.samples[3]
    assert json.loads(made.samples[0]["json"])["url"] == f"{server}/a.jpg"
    rows = {(row["url"] or row["name"]).rpartition("/")[2]: (row["reason"], row["key"]) for row in made.refused}
    assert rows == {
        "row 15": ("bad_row", None),
        "circle": ("download_failed", "000000011"),
        "cut": ("download_failed", "000000012"),
        "endless": ("download_failed", "000000013"),
        "gone": ("download_failed", "000000001"),
        "long.jpg": ("too_large", "000000003"),
        "page": ("no_medium", "000000005"),
        "empty.jpg": ("empty_medium", "000000006"),
        "down": ("download_failed", "000000007"),
        "silent": ("download_failed", "000000009"),
    }
    assert (asked["/gone"], asked["/down"], asked["/busy"], asked["/a.jpg"]) == (1, 2, 2, 1)


def test_archives_of_downloads_keep_to_their_bound_and_what_an_earlier_attempt_left_goes(tmp_path: Path, server: str) -> None:
    names = ["big1", "big2", "gone", "big3", "big4", "big5"]
    (tmp_path / "m.csv").write_text("url\n" + "".join(f"{server}/{name}\n" for name in names))
    output = tmp_path / "out"
    output.mkdir()
    for stale in ("shard-00000_001.tar", "shard-00000_002.tar", "shard-00001_001.tar", "shard-00001_002.tar"):
        (output / stale).write_bytes(b"of an attempt that was killed")
    # A sample is planned as 1,536 bytes, a header and a json; with its picture it has 2,560.
    bound = 1024 + 4 * 1536
    made = make(tmp_path / "m.csv", output, max_samples=4, max_bytes=bound)
    assert sorted(path.name for path in output.glob("*.tar")) == ["shard-00000.tar", "shard-00000_001.tar", "shard-00001.tar"]
    assert [[sample["__key__"] for sample in read(tar)] for tar in made.tars] == [
        [b"000000000", b"000000001"],
        [b"000000003"],
        [b"000000004", b"000000005"],
    ]
    assert [len(tar) for tar in made.tars] == [1024 + 2 * 2560, 1024 + 2560, 1024 + 2 * 2560]
    store = Folder(str(output))
    assert samples_of(store, ShardPlan(0, 0, 4, ()), "shard-00000.tar", [2]) == [("shard-00000.tar", 2), ("shard-00000_001.tar", 1)]
    assert make(tmp_path / "m.csv", tmp_path / "again", max_samples=4, max_bytes=bound).tars == made.tars
