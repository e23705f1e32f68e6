"""Object stores and web servers: how they are reached, and a reader that outlives broken connections.

A piece of a file is asked for by its range. What arrived of it before the connection broke is kept, and the rest is asked
for from that very byte, after the file was seen to be the same by size and ETag: nothing is ever skipped by counting. A
server that knows no ranges is asked from the start again, and bytes are thrown away up to the known offset.
Read in order, the next piece is on its way while one is worked on. Credentials and endpoints come from the usual environment.
"""

import contextlib
import functools
import os
import re
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from email.utils import parsedate_to_datetime
from typing import Any, NamedTuple, Protocol

import pyarrow.fs as pafs

from pipeline.errors import StoppedError

PIECE_BYTES = 8 << 20
"""Asked for at a time when a file is read in order: at 50 ms an answer that is 160 MB/s; two stand in memory."""
ATTEMPTS = 6
"""Tries of one piece, the store's own client not counted; waits double from FIRST_WAIT_S on, together about 15 s."""
FIRST_WAIT_S = 0.5
STALL_S = 30.0
"""Seconds without a byte after which a connection counts as broken; the environment's NIGHTCAP_STALL_S changes it."""
_REFUSED = re.compile(
    r"ACCESS_DENIED|AccessDenied|ExpiredToken|InvalidAccessKeyId|INVALID_ACCESS_KEY_ID|SignatureDoesNotMatch|SIGNATURE_DOES_NOT_MATCH"
    r"|HTTP status 400\) during HeadObject"  # an expired token, where there is no body to say so
    r"|InvalidToken|INVALID_CLIENT_TOKEN|UNRECOGNIZED_CLIENT|HTTP status 40[13]|Unauthorized|Forbidden|[Aa]nonymous caller"
)
_FULL = re.compile(r"QuotaExceeded|QUOTA_EXCEEDED|InsufficientStorage|EntityTooLarge|HTTP status 507|XMinioStorageFull")
_GONE = re.compile(r"NO_SUCH_BUCKET|NoSuchBucket|NO_SUCH_KEY|NoSuchKey|HTTP status 404")


class Identity(NamedTuple):
    """What tells one version of a remote file from another."""

    size: int
    etag: str
    """Empty where the server gives none: then the size alone has to do."""


class Source(Protocol):
    """One remote file."""

    def identify(self) -> Identity:
        """Asks the server."""

    def fetch(self, offset: int, view: memoryview) -> int:
        """Fills `view` from `offset`; fewer bytes where the connection breaks. Or raises."""

    def reopen(self) -> None:
        """Gives up the connection."""


def stall_s() -> float:
    """Seconds without a byte after which a connection counts as broken."""
    return float(os.environ.get("NIGHTCAP_STALL_S", STALL_S))


def s3_filesystem(bucket: str) -> pafs.FileSystem:
    """S3 or what is compatible. AWS_ENDPOINT_URL_S3 or AWS_ENDPOINT_URL names another endpoint, AWS_REGION the region."""
    environment = os.environ
    endpoint = environment.get("AWS_ENDPOINT_URL_S3") or environment.get("AWS_ENDPOINT_URL") or ""
    region = environment.get("AWS_REGION") or environment.get("AWS_DEFAULT_REGION")
    if not region:
        region = "us-east-1"
        if not endpoint:
            with contextlib.suppress(OSError):
                region = pafs.resolve_s3_region(bucket)
    options: dict[str, Any] = {}
    if endpoint:
        scheme, _, host = endpoint.rpartition("://")
        options |= {"endpoint_override": host.rstrip("/"), "scheme": scheme or "https"}
    return pafs.S3FileSystem(
        region=region,
        anonymous=environment.get("AWS_NO_SIGN_REQUEST", "").lower() in ("1", "true", "yes"),
        request_timeout=stall_s(),
        connect_timeout=min(10.0, stall_s()),
        retry_strategy=pafs.AwsStandardS3RetryStrategy(max_attempts=5),
        **options,
    )


def explained(exc: BaseException, what: str) -> StoppedError | None:
    """The failure as a line for a person, where it is one that another try does not mend: credentials, room. Else None."""
    text = str(exc)
    code = getattr(exc, "status", None)
    if _FULL.search(text) or code == 507:
        return StoppedError(f"{what}: the store takes no more ({_line(text)}); make room and run the same command again")
    if _REFUSED.search(text) or code in (401, 403):
        return StoppedError(f"{what}: the store refuses the credentials ({_line(text)}); renew them and run the same command again")
    return None


def _line(text: str) -> str:
    return text.strip().split("\n", 1)[0][:300]


def is_final(exc: BaseException) -> bool:
    """True where another try cannot help: the file is not there, the request is wrong. Time-outs and broken connections are no such."""
    if isinstance(exc, FileNotFoundError | PermissionError | StoppedError | MemoryError):
        return True
    code = getattr(exc, "status", None)
    if isinstance(code, int):
        return 400 <= code < 500 and code not in (408, 425, 429)
    return _GONE.search(str(exc)) is not None


class ResumingReader:
    """A `storage.Reader` over a source."""

    def __init__(self, source: Source, url: str, *, wait: Callable[[float], None] = time.sleep, piece_bytes: int = PIECE_BYTES) -> None:
        self._source = source
        self._url = url
        self._wait = wait
        self._piece_bytes = piece_bytes
        self.identity: Identity = self._tried(source.identify)
        self.size = self.identity.size
        self._held, self._held_from = memoryview(b""), 0
        self._last_stop = -1
        self._ahead: Future[memoryview] | None = None
        self._ahead_from = -1
        self._pool: ThreadPoolExecutor | None = None
        self._lock = threading.Lock()

    def read_into(self, offset: int, view: memoryview) -> int:
        """Fills `view` from `offset`; short only at the end of the file. StoppedError where the file changed, or credentials are refused."""
        done = 0
        while done < len(view) and offset + done < self.size:
            at = offset + done
            within = at - self._held_from
            if not 0 <= within < len(self._held):
                self._hold(at, len(view) - done)
                within = 0
            piece = self._held[within : within + len(view) - done]
            view[done : done + len(piece)] = piece
            done += len(piece)
        self._last_stop = offset + done
        return done

    def close(self) -> None:
        """Ends the thread that reads ahead; without it one thread and two pieces stay until the process ends."""
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)
        self._held = memoryview(b"")
        self._source.reopen()

    def _hold(self, at: int, wanted: int) -> None:
        ahead, self._ahead = self._ahead, None
        in_order = at == self._last_stop or at == self._held_from + len(self._held) > 0
        if ahead is not None and self._ahead_from == at:
            self._held = ahead.result()
        else:
            if ahead is not None:
                ahead.cancel()
            self._held = self._fetched(at, max(wanted, self._piece_bytes) if in_order else wanted)
        self._held_from = at
        following = at + len(self._held)
        if in_order and following < self.size:
            if self._pool is None:
                self._pool = ThreadPoolExecutor(1, "read-ahead")
            self._ahead_from = following
            self._ahead = self._pool.submit(self._fetched, following, self._piece_bytes)

    def _fetched(self, at: int, count: int) -> memoryview:
        """The bytes from `at`; as many as asked for, but for the end of the file."""
        view = memoryview(bytearray(min(count, self.size - at)))
        done = 0

        def more() -> None:
            nonlocal done
            while done < len(view):
                got = self._source.fetch(at + done, view[done:])
                if got == 0:
                    raise ConnectionError(f"the connection ended at byte {at + done:,} of {self.size:,}")
                done += got

        with self._lock:
            self._tried(more)
        return view

    def _tried(self, work: Callable[[], Any]) -> Any:
        for attempt in range(ATTEMPTS):
            try:
                if attempt:
                    self._again(attempt)
                return work()
            except Exception as exc:
                told = explained(exc, self._url)
                if told is not None:
                    raise told from exc
                if is_final(exc):
                    raise
                last = exc
        raise OSError(f"{self._url}: {ATTEMPTS} tries failed, the last with {type(last).__name__}: {_line(str(last))}") from last

    def _again(self, attempt: int) -> None:
        """Waits, connects anew, and makes sure that it is the same file."""
        self._wait(FIRST_WAIT_S * 2 ** (attempt - 1))
        self._source.reopen()
        known = getattr(self, "identity", None)
        if known is not None and (found := self._source.identify()) != known:
            raise StoppedError(
                f"{self._url} changed while it was read ({known.size:,} bytes {known.etag}, now {found.size:,} {found.etag}); "
                "run the same command again"
            )


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value


class ArrowSource:
    """A file of an object store."""

    def __init__(self, filesystem: pafs.FileSystem, path: str) -> None:
        self._filesystem = filesystem
        self._path = path
        self._file: Any = None

    def identify(self) -> Identity:
        """One request, which opens the file too."""
        file = self._opened()
        metadata = {}
        with contextlib.suppress(NotImplementedError, AttributeError):  # not every store tells
            metadata = {_text(key).lower(): _text(value) for key, value in (file.metadata() or {}).items()}
        return Identity(file.size(), metadata.get("etag", ""))

    def fetch(self, offset: int, view: memoryview) -> int:
        """One ranged request."""
        file = self._opened()
        file.seek(offset)
        return int(file.readinto(view))

    def reopen(self) -> None:
        """The next request opens the file anew."""
        file, self._file = self._file, None
        if file is not None:
            with contextlib.suppress(OSError):
                file.close()

    def _opened(self) -> Any:
        if self._file is None:
            self._file = self._filesystem.open_input_file(self._path)
        return self._file


@functools.lru_cache(maxsize=4)
def _http(silence_s: float) -> Any:
    """fsspec's client; one for all files, since it holds the connections."""
    import aiohttp
    import fsspec

    timeout = aiohttp.ClientTimeout(total=None, sock_connect=min(10.0, silence_s), sock_read=silence_s)
    return fsspec.filesystem("http", client_kwargs={"timeout": timeout}, skip_instance_cache=True)


class HttpSource:
    """A file of a web server, by ranges where it knows them, else as a stream from the start."""

    def __init__(self, url: str) -> None:
        self._http = _http(stall_s())
        self._url = url
        self._ranges: bool | None = None
        self._stream: Any = None
        self._at = 0
        self.modified_s = 0.0
        """When the server says that the file was changed, seconds since the epoch; 0.0 where it does not."""

    def identify(self) -> Identity:
        """One request. StoppedError where the server does not tell a size."""
        try:
            found = self._http.info(self._url)
        except FileNotFoundError as exc:  # fsspec says so whatever the failure was
            if exc.__cause__ is None or getattr(exc.__cause__, "status", None) in (404, 410):
                raise
            raise exc.__cause__ from None
        if found.get("size") is None:
            raise StoppedError(f"{self._url}: the server tells no size; download it, or use another server")
        if self._ranges is None:
            self._ranges = bool(found.get("partial"))
        with contextlib.suppress(TypeError, ValueError):
            self.modified_s = parsedate_to_datetime(found.get("Last-Modified")).timestamp()
        return Identity(int(found["size"]), str(found.get("ETag") or ""))

    def fetch(self, offset: int, view: memoryview) -> int:
        """One ranged request, or the next bytes of the stream."""
        if not self._ranges:
            return self._fetch_in_order(offset, view)
        data = self._http.cat_file(self._url, start=offset, end=offset + len(view))
        if len(data) > len(view):  # it said that it knows ranges, and sent the whole file
            self._ranges = False
            return self._fetch_in_order(offset, view)
        view[: len(data)] = data
        return len(data)

    def _fetch_in_order(self, offset: int, view: memoryview) -> int:
        if self._stream is None or self._at > offset:
            self.reopen()
            self._stream = self._http.open(self._url, "rb", block_size=0)
        while self._at < offset:
            passed = self._stream.read(min(1 << 20, offset - self._at))
            if not passed:
                raise ConnectionError(f"the connection ended at byte {self._at:,} on the way to {offset:,}")
            self._at += len(passed)
        data = self._stream.read(min(len(view), 1 << 20))
        view[: len(data)] = data
        self._at += len(data)
        return len(data)

    def reopen(self) -> None:
        """A stream begins anew at the start."""
        stream, self._stream, self._at = self._stream, None, 0
        if stream is not None:
            with contextlib.suppress(Exception):
                stream.close()
