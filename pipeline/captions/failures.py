"""What an answer of a server means: a caption, or which kind of failure, and what it says of itself, without the key."""

import re
from enum import Enum, auto
from typing import Any, NamedTuple


class Kind(Enum):
    """What is to be done about a failure."""

    BUSY = auto()  # 429, 503: wait as long as it says, ask for less
    ABSENT = auto()  # nobody listens: wait
    BROKEN = auto()  # 5xx, cut off, not JSON, an error with status 200: try again, some times
    SLOW = auto()  # no answer in time: the same
    REFUSED = auto()  # 400, 413, 422: this sample will never do
    KEY = auto()  # 401, 403
    MODEL = auto()  # 404


class Failed(NamedTuple):
    """A failure."""

    kind: Kind
    detail: str
    retry_after_s: float | None = None


class NoCaption(Exception):
    """The server answered with status 200, and no caption."""

    def __init__(self, detail: str, *, refused: bool = False) -> None:
        super().__init__(detail)
        self.refused = refused


ERROR_TEXT = re.compile(
    r"\s*(?:\{\s*\"(?:error|detail)\"\s*:|internal server error\b|(?:5\d\d )?(?:bad gateway|service unavailable|gateway time-?out)\b|"
    r"error(?: \d{3})?\s*:|traceback \(most recent call last\)|<!doctype html|<html\b|upstream (?:connect )?error|cuda (?:error|out of memory))",
    re.IGNORECASE,
)
"""Beginnings of texts that servers give with status 200 in place of a caption."""


def caption_text(answer: Any) -> tuple[str, str | None]:
    """(caption, finish reason) of a completion as parsed from JSON. NoCaption where there is none."""
    known = answer if isinstance(answer, dict) else {}
    choices = known.get("choices")
    if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
        error = known.get("error")
        code = _code(answer) or _code(error)
        raise NoCaption(
            f"status 200 without a caption: {_short(error or answer)}", refused=code is not None and 400 <= code < 500 and code != 429
        )
    message, finish = choices[0].get("message"), choices[0].get("finish_reason")
    said = message if isinstance(message, dict) else {}
    text = said.get("refusal") if said.get("content") is None else said["content"]
    if finish == "content_filter":
        raise NoCaption("the server's content filter stopped it", refused=True)
    if not isinstance(text, str) or finish == "error":
        raise NoCaption(f"status 200 without a caption: {_short(choices[0])}")
    if ERROR_TEXT.match(text):
        raise NoCaption(f"status 200 with an error text: {_short(text)}")
    return " ".join(text.split()), finish


def failure_of(exc: Exception, key: str) -> Failed:
    """What an exception of the openai package, or NoCaption, means. The key never stands in the detail."""
    import openai

    detail = _detail(exc, key)
    if isinstance(exc, NoCaption):
        return Failed(Kind.REFUSED if exc.refused else Kind.BROKEN, detail)
    if isinstance(exc, openai.APITimeoutError):
        return Failed(Kind.SLOW, "no answer in time")
    if isinstance(exc, openai.APIConnectionError):
        cause = type(exc.__cause__).__name__
        return Failed(
            Kind.ABSENT if "Connect" in cause else Kind.BROKEN, f"{cause}: {_short(exc.__cause__ or exc)}".replace(key or "\0", "***")
        )
    if isinstance(exc, openai.APIStatusError):
        return Failed(_kind(exc.status_code), f"status {exc.status_code}: {detail}", _retry_after_s(exc))
    if isinstance(exc, openai.APIError | ValueError):  # not JSON, or JSON of another shape
        return Failed(Kind.BROKEN, f"an answer that cannot be read: {detail}")
    raise exc


def _kind(status: int) -> Kind:
    if status in (429, 503):
        return Kind.BUSY
    if status in (401, 403):
        return Kind.KEY
    if status == 404:
        return Kind.MODEL
    return Kind.BROKEN if status in (408, 409, 425) or status >= 500 else Kind.REFUSED


def _retry_after_s(exc: Any) -> float | None:
    """Seconds; None where the server does not say, or says it by date."""
    try:
        return min(600.0, max(0.0, float(exc.response.headers.get("retry-after", ""))))
    except ValueError:
        return None


def _detail(exc: Exception, key: str) -> str:
    text = _short(exc)
    return text.replace(key, "***") if key else text


def _short(value: Any) -> str:
    return " ".join(str(value).split())[:300]


def _code(value: Any) -> int | None:
    found = value.get("code") if isinstance(value, dict) else None
    return found if isinstance(found, int) else None
