"""A real HTTP server that speaks the OpenAI protocol, and misbehaves on command.

What it does with a request is decided by `behave(number, body)`, a function of the test: None answers as asked, else a
`Bad`. Its captions tell what they were asked with, so that a test sees what arrived.
"""

import hashlib
import json
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

MODEL = "tiny-vision"


class Bad(NamedTuple):
    """An answer that is none."""

    status: int = 200
    body: bytes = b"{}"
    headers: tuple[tuple[str, str], ...] = ()
    cut: bool = False
    """The connection ends in the middle of the body."""
    content_type: str = "application/json"


def error(status: int, message: str, **headers: str) -> Bad:
    """An error as servers write it."""
    body = json.dumps({"error": {"message": message, "type": "x", "code": status}}).encode()
    return Bad(status, body, tuple((name.replace("_", "-"), value) for name, value in headers.items()))


def completion(text: Any, finish: str = "stop", **more: Any) -> bytes:
    """A chat completion."""
    choice = {"index": 0, "finish_reason": finish, "message": {"role": "assistant", "content": text, **more}}
    usage = {"prompt_tokens": 11, "completion_tokens": 7, "total_tokens": 18}
    return json.dumps({"id": "x", "object": "chat.completion", "created": 1, "model": MODEL, "choices": [choice], "usage": usage}).encode()


class Server:
    """Starts at construction, on a port of its own or a given one."""

    def __init__(self, port: int = 0, *, key: str = "", latency_s: float = 0.0, slots: int = 0) -> None:
        self.behave: Callable[[int, dict[str, Any]], Bad | None] = lambda number, body: None
        self.key, self.latency_s, self.slots = key, latency_s, slots
        self.bodies: list[dict[str, Any]] = []
        self.inside = self.most_inside = self.refused = 0
        self.spans: list[tuple[float, float]] = []
        self.lock = threading.Lock()
        self.gone = False
        self._http = ThreadingHTTPServer(("127.0.0.1", port), self._handler())
        self._http.daemon_threads = True
        self.port = self._http.server_address[1]
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def stop(self) -> None:
        """No answer from here on, not even on connections that are open."""
        self.gone = True
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: Any) -> None:
                pass

            def do_GET(self) -> None:
                if self._authorised():
                    models = {"object": "list", "data": [{"id": MODEL, "object": "model", "created": 1, "owned_by": "me"}]}
                    self._send(Bad(200, json.dumps(models).encode()))

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                if server.gone:
                    self.close_connection = True
                    return
                if not self._authorised():
                    return
                with server.lock:
                    number = len(server.bodies)
                    server.bodies.append(body)
                    full = bool(server.slots) and server.inside >= server.slots
                    server.refused += full
                    if not full:
                        server.inside += 1
                        server.most_inside = max(server.most_inside, server.inside)
                if full:
                    self._send(error(429, "no slot is free", retry_after="0.05"))
                    return
                began = time.monotonic()
                time.sleep(server.latency_s)
                answer = server.behave(number, body) or Bad(200, completion(describe(body)))
                with server.lock:
                    server.inside -= 1
                    server.spans.append((began, time.monotonic()))
                self._send(answer)

            def _authorised(self) -> bool:
                given = self.headers.get("authorization", "")
                if server.key and given != f"Bearer {server.key}":
                    self._send(error(401, f"Incorrect API key provided: {given}"))
                    return False
                return True

            def _send(self, answer: Bad) -> None:
                if server.gone:
                    self.close_connection = True
                    return
                self.send_response(answer.status)
                self.send_header("content-type", answer.content_type)
                self.send_header("content-length", str(len(answer.body)))
                for name, value in answer.headers:
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(answer.body[: len(answer.body) // 2] if answer.cut else answer.body)
                if answer.cut:
                    self.close_connection = True

        return Handler


def describe(body: dict[str, Any]) -> str:
    """What was asked: kinds of parts, their texts, and a hash of the media."""
    parts = body["messages"][0]["content"]
    kinds = "".join(part["type"][0] for part in parts)
    words = " ".join(part["text"] for part in parts if part["type"] == "text")
    media = hashlib.sha256(json.dumps([part for part in parts if part["type"] != "text"]).encode()).hexdigest()[:6]
    return f"parts {kinds} of {media} said {words} with seed {body.get('seed')}"
