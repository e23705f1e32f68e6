"""An S3 server, a web server, a Google store, and a proxy that breaks what goes through it on command. Fixtures are in tests/conftest.py."""

import contextlib
import hashlib
import http.client
import http.server
import json
import os
import socket
import struct
import threading
import time
import urllib.parse
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from email.utils import formatdate
from pathlib import Path
from typing import Any

KEYS = {"AWS_ACCESS_KEY_ID": "tests", "AWS_SECRET_ACCESS_KEY": "tests", "AWS_REGION": "us-east-1", "AWS_EC2_METADATA_DISABLED": "true"}


def read_range(url: str, offset: int, count: int) -> bytes:
    """What the product's own reader gives, from a byte on."""
    from pipeline import storage

    reader = storage.open_reader(url)
    view = memoryview(bytearray(count))
    got = reader.read_into(offset, view)
    reader.close()
    return bytes(view[:got])


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that hang up are the point here."""


@contextlib.contextmanager
def serving(handler: type[http.server.BaseHTTPRequestHandler], owner: Any) -> Iterator[str]:
    """The URL of a server that runs for the body; `owner` is `self.server.owner` in the handler."""
    server = _Server(("127.0.0.1", 0), handler)
    server.owner = owner  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()


@contextlib.contextmanager
def s3_server() -> Iterator[str]:
    """The endpoint of an empty S3."""
    import logging

    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        yield "http://{}:{}".format(*server.get_host_and_port())
    finally:
        server.stop()


@dataclass
class Proxy:
    """Passes requests on; `faults` are used up one a request that matches, in order."""

    target: str
    url: str = ""
    faults: deque[tuple[str, str]] = field(default_factory=deque)
    """(method, what): 500, 503, expired, full, denied, reset (in the middle of the answer), stall."""
    requests: list[tuple[str, str, str | None]] = field(default_factory=list)
    """(method, path, Range) of all that came."""
    always: str = ""
    """A fault of every request."""
    stall_s: float = 1.5

    def fault(self, method: str) -> str:
        if self.faults and self.faults[0][0] == method:
            return self.faults.popleft()[1]
        return self.always


_ERRORS = {
    "500": (500, "InternalError"),
    "503": (503, "SlowDown"),
    "expired": (400, "ExpiredToken"),
    "full": (507, "QuotaExceeded"),
    "denied": (403, "AccessDenied"),
}


class _Passing(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments: Any) -> None:
        pass

    def _pass(self) -> None:
        proxy: Proxy = self.server.owner  # type: ignore[attr-defined]
        body = self._body()
        proxy.requests.append((self.command, self.path, self.headers.get("Range")))
        fault = proxy.fault(self.command)
        if fault in _ERRORS:
            code, name = _ERRORS[fault]
            text = f"<?xml version='1.0'?><Error><Code>{name}</Code><Message>{name} by the proxy</Message></Error>".encode()
            self._answer(
                code, [("Content-Type", "application/xml"), ("Content-Length", str(len(text)))], b"" if self.command == "HEAD" else text
            )
            return
        connection = http.client.HTTPConnection(proxy.target.removeprefix("http://"), timeout=30)
        connection.request(self.command, self.path, body or None, self._headers_for(body))
        answer = connection.getresponse()
        data = answer.read()
        hidden = ("transfer-encoding", "connection", "date", "server")
        headers = [(name, value) for name, value in answer.getheaders() if name.lower() not in hidden]
        if self.command != "HEAD" and not any(name.lower() == "content-length" for name, _ in headers):
            headers.append(("Content-Length", str(len(data))))
        connection.close()
        if fault:
            self._answer(answer.status, headers, data[: len(data) // 2])
            if fault == "stall":
                time.sleep(proxy.stall_s)
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # closing sends a reset
            self.connection.close()
            self.close_connection = True
            return
        self._answer(answer.status, headers, data)

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        body = b""
        while size := int(self.rfile.readline().split(b";")[0], 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        while self.rfile.readline().strip():
            pass
        return body

    def _headers_for(self, body: bytes) -> dict[str, str]:
        hop = ("transfer-encoding", "content-length", "expect", "connection")
        headers = {name: value for name, value in self.headers.items() if name.lower() not in hop}
        return headers | ({"Content-Length": str(len(body))} if self.command in ("PUT", "POST") else {})

    def _answer(self, code: int, headers: list[tuple[str, str]], data: bytes) -> None:
        self.send_response(code)
        for name, value in headers:
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)
        self.wfile.flush()

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _pass


@contextlib.contextmanager
def proxy_to(target: str) -> Iterator[Proxy]:
    """A proxy in front of a server."""
    proxy = Proxy(target)
    with serving(_Passing, proxy) as proxy.url:
        yield proxy


@dataclass
class Web:
    """A folder as a web server shows it."""

    folder: Path
    ranges: bool = True
    etags: bool = True
    """Else it tells the time of the last change."""
    url: str = ""


class _Files(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments: Any) -> None:
        pass

    def do_GET(self) -> None:
        web: Web = self.server.owner  # type: ignore[attr-defined]
        path = web.folder / self.path.lstrip("/")
        if not path.is_file():
            self.send_response(404)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        data, asked = path.read_bytes(), self.headers.get("Range")
        size, code, extra = len(data), 200, []
        if asked and web.ranges:
            first, _, last = asked.removeprefix("bytes=").partition("-")
            lo, hi = int(first), min(int(last or size - 1), size - 1)
            data, code, extra = data[lo : hi + 1], 206, [("Content-Range", f"bytes {lo}-{hi}/{size}")]
        self.send_response(code)
        mtime_s = path.stat().st_mtime
        extra.append(
            ("ETag", f'"{hashlib.md5(path.read_bytes()).hexdigest()}"')
            if web.etags
            else ("Last-Modified", formatdate(mtime_s, usegmt=True))
        )
        for name, value in [*extra, ("Content-Length", str(len(data)))]:
            self.send_header(name, value)
        if web.ranges:
            self.send_header("Accept-Ranges", "bytes")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    do_HEAD = do_GET


@contextlib.contextmanager
def web_of(folder: Path, *, ranges: bool = True, etags: bool = True) -> Iterator[Web]:
    """A web server over a folder."""
    web = Web(folder, ranges, etags)
    with serving(_Files, web) as web.url:
        yield web


@contextlib.contextmanager
def environment(**values: str) -> Iterator[None]:
    """Sets variables for the body."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@dataclass
class Gcs:
    """A bucket's files as Google's JSON interface shows them: by `bucket/name`, with a generation each."""

    files: dict[str, bytes] = field(default_factory=dict)
    generations: dict[str, int] = field(default_factory=dict)
    url: str = ""

    def put(self, path: str, data: bytes) -> None:
        """Writes a file, which gives it another generation."""
        self.files[path] = data
        self.generations[path] = self.generations.get(path, 1_700_000_000_000_000) + 1


class _GcsFiles(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments: Any) -> None:
        pass

    def do_GET(self) -> None:
        gcs: Gcs = self.server.owner  # type: ignore[attr-defined]
        url = urllib.parse.urlsplit(self.path)
        asked = {name: values[0] for name, values in urllib.parse.parse_qs(url.query).items()}
        _, _, _, _, bucket, _, *name = url.path.split("/")  # /storage/v1/b/BUCKET/o/NAME
        if not name:
            found = sorted(path for path in gcs.files if path.startswith(f"{bucket}/{asked.get('prefix', '')}"))
            return self._answer(200, json.dumps({"kind": "storage#objects", "items": [self._about(gcs, path) for path in found]}).encode())
        path = f"{bucket}/{urllib.parse.unquote(name[0])}"
        if path not in gcs.files:
            return self._answer(404, b'{"error": {"code": 404, "message": "No such object"}}')
        if asked.get("alt") != "media":
            return self._answer(200, json.dumps(self._about(gcs, path)).encode())
        if asked.get("ifGenerationMatch", str(gcs.generations[path])) != str(gcs.generations[path]):
            return self._answer(412, b'{"error": {"code": 412, "message": "conditionNotMet"}}')
        data, wanted = gcs.files[path], self.headers.get("Range")
        if wanted is None:
            return self._answer(200, data)
        lo, _, hi = wanted.removeprefix("bytes=").partition("-")
        piece = data[int(lo) : int(hi) + 1 if hi else len(data)]
        return self._answer(206, piece, ("Content-Range", f"bytes {lo}-{int(lo) + len(piece) - 1}/{len(data)}"))

    def _about(self, gcs: Gcs, path: str) -> dict[str, Any]:
        bucket, _, name = path.partition("/")
        times = dict.fromkeys(("updated", "timeCreated"), "2026-01-02T03:04:05.678Z")
        numbers = {"size": str(len(gcs.files[path])), "generation": str(gcs.generations[path]), "metageneration": "1"}
        return {"kind": "storage#object", "bucket": bucket, "name": name, **numbers, **times}

    def _answer(self, code: int, data: bytes, *headers: tuple[str, str]) -> None:
        self.send_response(code)
        for name, value in (*headers, ("Content-Length", str(len(data)))):
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)


@contextlib.contextmanager
def gcs_server() -> Iterator[Gcs]:
    """An empty Google store."""
    gcs = Gcs()
    with serving(_GcsFiles, gcs) as gcs.url:
        yield gcs
