"""Google's store: listed by pyarrow, read by its JSON interface, one bounded range a request.

pyarrow's own reader (26.0) asks for everything from an offset on and hangs up when it has enough, asks for the whole file when it is
merely looked at, holds Python's lock while it waits for that, and knows no limit on silence but its own of minutes. Here a piece is
asked for by its range and of the very generation that was opened; silence counts as a broken connection after the usual time.

Credentials are the application's default; without any, public buckets are read without. STORAGE_EMULATOR_HOST names another endpoint.
"""

import contextlib
import os
from datetime import timedelta
from typing import Any
from urllib.parse import quote

import pyarrow.fs as pafs

from pipeline.remote import Identity, stall_s

RETRIES = timedelta(seconds=15)
"""That pyarrow's client spends on one request."""
ENDPOINT = "https://storage.googleapis.com"
_READ_BYTES = 64 << 10
"""Read at a time; less than that is lost where a connection breaks."""
_SCOPE = "https://www.googleapis.com/auth/devstorage.read_write"


def gcs_filesystem() -> pafs.FileSystem:
    """For listings and whole files."""
    endpoint = os.environ.get("STORAGE_EMULATOR_HOST", "")
    if endpoint:
        scheme, _, host = endpoint.rpartition("://")
        return pafs.GcsFileSystem(anonymous=True, scheme=scheme or "http", endpoint_override=host.rstrip("/"), retry_time_limit=RETRIES)
    return pafs.GcsFileSystem(anonymous=_credentials() is None, retry_time_limit=RETRIES)


def _credentials() -> Any:
    """The application's default, or None."""
    import google.auth
    from google.auth.exceptions import DefaultCredentialsError

    try:
        return google.auth.default(scopes=[_SCOPE])[0]
    except DefaultCredentialsError:
        return None


def _session() -> Any:
    import requests
    from google.auth.transport.requests import AuthorizedSession

    credentials = None if os.environ.get("STORAGE_EMULATOR_HOST") else _credentials()
    return requests.Session() if credentials is None else AuthorizedSession(credentials)


class Refused(OSError):
    """An answer that is no success."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(f"HTTP status {status}: {text}")
        self.status = status


class GcsSource:
    """A `remote.Source`: one file of a bucket."""

    def __init__(self, path: str) -> None:
        bucket, _, name = path.partition("/")
        endpoint = os.environ.get("STORAGE_EMULATOR_HOST", "") or ENDPOINT
        scheme, _, host = endpoint.rpartition("://")
        self._url = f"{scheme or 'http'}://{host.rstrip('/')}/storage/v1/b/{quote(bucket, safe='')}/o/{quote(name, safe='')}"
        self._path = path
        self._http = _session()
        self._generation = ""

    def identify(self) -> Identity:
        """Size and generation, which every write changes. FileNotFoundError where there is no such file."""
        with self._asked({"fields": "size,generation"}, {}) as answer:
            found = answer.json()
        self._generation = str(found["generation"])
        return Identity(int(found["size"]), self._generation)

    def fetch(self, offset: int, view: memoryview) -> int:
        """One ranged request; what came before the connection broke is kept."""
        from urllib3.exceptions import HTTPError

        parameters = {"alt": "media", "ifGenerationMatch": self._generation}
        # As it is stored: the store would unpack what was put there as gzip, and know no ranges then.
        headers = {"Range": f"bytes={offset}-{offset + len(view) - 1}", "Accept-Encoding": "gzip", "Cache-Control": "no-transform"}
        done = 0
        with self._asked(parameters, headers) as answer:
            if answer.status_code != 206 and offset:
                raise ConnectionError(f"the answer to a range of {self._path} is no range")
            try:
                while done < len(view) and (piece := answer.raw.read(min(_READ_BYTES, len(view) - done), decode_content=False)):
                    view[done : done + len(piece)] = piece
                    done += len(piece)
            except (OSError, HTTPError):
                if not done:
                    raise
        return done

    def reopen(self) -> None:
        """Gives up the connections."""
        self._http.close()

    def _asked(self, parameters: dict[str, str], headers: dict[str, str]) -> Any:
        answer = self._http.get(self._url, params=parameters, headers=headers, stream=True, timeout=(min(10.0, stall_s()), stall_s()))
        if answer.status_code in (200, 206):
            return answer
        with contextlib.closing(answer):
            if answer.status_code == 404:
                raise FileNotFoundError(2, "no such file in the bucket, or no such bucket", self._path)
            if answer.status_code == 412:  # another generation: opening it anew will say so
                raise ConnectionError(f"{self._path} was replaced")
            raise Refused(answer.status_code, answer.text[:200])
