"""Media by URL: a bounded number of downloads at a time, in the order of the samples, each into a file of its own.

A body goes to a local temporary folder as it arrives, so that memory is a few buffers; what was taken is deleted. Time-outs,
refused connections and the statuses of a busy server are tried again with growing pauses; others fail at once.
"""

import asyncio
import contextlib
import os
import random
import tempfile
from collections import deque
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from pipeline.errors import Reason, RequestError, SampleError
from pipeline.samples.medium import modality_of
from pipeline.shards.index import ItemRow
from pipeline.shards.item import Place
from pipeline.shards.magic import extension_of

if TYPE_CHECKING:
    from aiohttp import ClientResponse, ClientSession

AGENT = "Mozilla/5.0 (compatible; nightcap)"
_CHUNK_BYTES = 1 << 16
_MOST_PAUSE_S = 30.0
_BUSY = frozenset((408, 425, 429, 500, 502, 503, 504))


@dataclass(frozen=True, slots=True)
class DownloadConfig:
    """How media are downloaded."""

    concurrency: int = 32
    """Downloads of one archive at a time."""
    timeout_s: float = 30.0
    """Seconds for one attempt, from connecting to the last byte."""
    retries: int = 2
    """Further attempts after a passing failure."""
    max_bytes: int = 512 << 20
    """A longer body is a reject."""

    def __post_init__(self) -> None:
        if self.concurrency < 1 or self.retries < 0 or not 0 < self.timeout_s < float("inf"):
            raise RequestError(
                f"downloads want a concurrency of at least 1, no negative retries and a time-out above 0 s, "
                f"not {self.concurrency}, {self.retries} and {self.timeout_s}"
            )


class _Again(Exception):
    """A failure that another attempt may mend."""

    def __init__(self, detail: str, pause_s: float = 0.0) -> None:
        super().__init__(detail)
        self.detail = detail
        self.pause_s = pause_s


class Downloads:
    """Owns an event loop, a session and a temporary folder; `close` ends them."""

    def __init__(self, config: DownloadConfig) -> None:
        self._config = config
        self._loop = asyncio.new_event_loop()
        self._folder = tempfile.TemporaryDirectory(prefix="nightcap-")
        self._count = 0
        self._running: deque[asyncio.Task[tuple[ItemRow, SampleError | None]]] = deque()
        self._session: ClientSession | None = None

    def close(self) -> None:
        """Cancels what is under way and deletes the folder; without it both stay until the process ends."""
        for task in self._running:
            task.cancel()
        self._loop.run_until_complete(self._end())
        self._loop.close()
        self._folder.cleanup()

    async def _end(self) -> None:
        await asyncio.gather(*self._running, return_exceptions=True)
        if self._session is not None:
            await self._session.close()

    def of(self, first: ItemRow, rest: Iterator[ItemRow]) -> Iterator[tuple[ItemRow, SampleError | None]]:
        """Samples in order, their media in local files, or why not. A file is deleted when the next sample is asked for."""
        rows = self._rows(chain((first,), rest))
        while True:
            found = self._loop.run_until_complete(anext(rows, None))
            if found is None:
                return
            yield found
            for _, place in found[0].members:
                if isinstance(place, Place) and place.url.startswith(self._folder.name):
                    with contextlib.suppress(FileNotFoundError):
                        os.unlink(place.url)

    async def _rows(self, rows: Iterator[ItemRow]) -> AsyncIterator[tuple[ItemRow, SampleError | None]]:
        import aiohttp

        if self._session is None:
            self._session = aiohttp.ClientSession(
                headers={"User-Agent": AGENT},
                timeout=aiohttp.ClientTimeout(total=self._config.timeout_s),
                connector=aiohttp.TCPConnector(limit=self._config.concurrency),
                auto_decompress=False,
            )
        while True:
            while len(self._running) < self._config.concurrency and (row := next(rows, None)) is not None:
                self._running.append(asyncio.create_task(self._row(row)))
            if not self._running:
                return
            yield await self._running[0]
            self._running.popleft()

    async def _row(self, row: ItemRow) -> tuple[ItemRow, SampleError | None]:
        """The sample with the media of its URLs as files; the sample as it was where one of them fails."""
        members: list[tuple[str, bytes | Place]] = []
        for field, place in row.members:
            if not isinstance(place, Place) or place.size >= 0 or not place.url.startswith(("http://", "https://")):
                members.append((field, place))
                continue
            try:
                members.append(await self._place(field, place.url))
            except SampleError as error:
                for _, done in members:
                    if isinstance(done, Place) and done.url.startswith(self._folder.name):
                        os.unlink(done.url)
                return row, error
        return row._replace(members=members), None

    async def _place(self, field: str, url: str) -> tuple[str, Place]:
        self._count += 1
        path = f"{self._folder.name}/{self._count}"
        pause_s = 0.5
        for attempt in range(self._config.retries + 1):
            try:
                size = await self._fetch(url, path)
                break
            except _Again as error:
                if attempt == self._config.retries:
                    raise SampleError(Reason.DOWNLOAD_FAILED, f"{error.detail}, {attempt + 1} attempts") from error
                await asyncio.sleep(min(_MOST_PAUSE_S, max(error.pause_s, pause_s * random.uniform(0.5, 1.5))))
                pause_s *= 2
        with open(path, "rb") as file:
            found = extension_of(file.read(512))
        if size == 0:
            raise SampleError(Reason.EMPTY_MEDIUM, "the server sent nothing")
        if found is None and modality_of(field) is None:
            raise SampleError(Reason.NO_MEDIUM, "what the server sent is no picture, recording or clip")
        return _field(field, found), Place(path, 0, size)

    async def _fetch(self, url: str, path: str) -> int:
        """One attempt. SampleError for what will not change, `_Again` for the rest."""
        import aiohttp

        assert self._session is not None
        try:
            async with self._session.get(url) as response:
                if response.status in _BUSY:
                    after = response.headers.get("Retry-After", "")
                    raise _Again(f"HTTP {response.status}", float(after) if after.isdigit() else 0.0)
                if response.status != 200:
                    raise SampleError(Reason.DOWNLOAD_FAILED, f"HTTP {response.status}")
                return await self._save(response, path)
        except (aiohttp.InvalidURL, aiohttp.TooManyRedirects, ValueError) as error:
            raise SampleError(Reason.DOWNLOAD_FAILED, f"{type(error).__name__}: {error}") from error
        except TimeoutError as error:
            raise _Again(f"no answer within {self._config.timeout_s:g} s") from error
        except aiohttp.ClientError as error:
            raise _Again(f"{type(error).__name__}: {error}") from error

    async def _save(self, response: "ClientResponse", path: str) -> int:
        limit = self._config.max_bytes
        if response.content_length is not None and response.content_length > limit:
            raise SampleError(Reason.TOO_LARGE, f"{response.content_length} bytes, more than {limit}")
        size = 0
        with open(path, "wb") as file:
            async for chunk in response.content.iter_chunked(_CHUNK_BYTES):
                size += len(chunk)
                if size > limit:
                    raise SampleError(Reason.TOO_LARGE, f"more than {limit} bytes")
                file.write(chunk)
        return size


def _field(field: str, found: str | None) -> str:
    """The extension of a download: of its bytes where these tell and the URL's is no such medium, else the URL's."""
    if found is None or (modality_of(field) == modality_of(found) and _same(field, found)):
        return field
    if field and modality_of(field) is None:  # a further column of media
        return f"{field}.{found}"
    return found


def _same(field: str, found: str) -> bool:
    return field.rpartition(".")[2].replace("jpeg", "jpg") == found or modality_of(field) in ("audio", "video")


def extension_of_url(url: str) -> str:
    """The extension in a URL's path if it is one of a medium, else empty: the download tells."""
    name = urlsplit(url).path.rsplit("/", 1)[-1].lower()
    extension = name.rsplit(".", 1)[-1] if "." in name else ""
    return extension if modality_of(extension) is not None else ""
