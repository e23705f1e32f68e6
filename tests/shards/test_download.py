"""Media by URL, from a server of this machine:

- bodies come out as they were sent, in the order of the manifest, named by what they are;
- a busy server is asked again; what is gone, too long, silent, empty or no medium is a row with its URL and reason, and costs
  its sample only;
- the keys of the others do not depend on it.
"""

import json
import threading
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.shards.kit import FLAC, JPG, make

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
            threading.Event().wait(4)
        else:
            bodies = {"long.jpg": JPG + bytes(2000), "page": b"<html>", "empty.jpg": b"", "sound": FLAC, "png.jpg": b"\x89PNG\r\n\x1a\n"}
            body = bodies.get(name, JPG + name.encode())
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
    names = ["a.jpg", "gone", "busy", "long.jpg", "sound", "page", "empty.jpg", "down", "png.jpg", "silent", "z?x=1"]
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
        "row 12": ("bad_row", None),
        "gone": ("download_failed", "000000001"),
        "long.jpg": ("too_large", "000000003"),
        "page": ("no_medium", "000000005"),
        "empty.jpg": ("empty_medium", "000000006"),
        "down": ("download_failed", "000000007"),
        "silent": ("download_failed", "000000009"),
    }
    assert (asked["/gone"], asked["/down"], asked["/busy"], asked["/a.jpg"]) == (1, 2, 2, 1)
