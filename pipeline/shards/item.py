"""What a layout gives: samples by where their bytes stand, and rows that are no sample.

No media bytes travel here where a place can be named instead: an item is a few hundred bytes, whatever it points to.
What exists once a file is a named tuple: a frozen dataclass takes four times as long to make.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, NamedTuple

from pipeline.errors import Reason


class Place(NamedTuple):
    """A byte range of a file; from offset 0 it is the whole file, and another size than promised is damage."""

    url: str
    offset: int = 0
    """Bytes."""
    size: int = -1
    """Bytes; -1: the whole file, whose size is unknown until it is downloaded."""


class Member(NamedTuple):
    """One member of a sample: either its bytes, or where they stand."""

    field: str
    """Extension in the archive, lower case: jpg, txt, left.png."""
    data: bytes | None = None
    place: Place | None = None


_NOTHING: Mapping[str, Any] = MappingProxyType({})


class Item(NamedTuple):
    """One sample of a source."""

    name: str
    """Its name there, kept in the json of the sample; keys are assigned by position."""
    members: tuple[Member, ...]
    meta: Mapping[str, Any] = _NOTHING
    """Further facts that JSON can hold; they become the sample's json."""
    captions: tuple[str, ...] = ()
    """All texts that belong to it; the first becomes its txt, all stand in the json if there are several."""
    source: str = ""
    """The file that names it, as in `Bad`."""
    row: int | None = None
    id: str | None = None
    """Where the source gives ids: a second sample with the same one is refused."""


class Bad(NamedTuple):
    """A row or file of the source that is no sample, with its reason."""

    name: str
    source: str
    """The file that names it: a manifest, an archive, or the media file itself."""
    row: int | None
    """1-based line or 0-based row of `source`, as its format counts; None where it has none."""
    reason: Reason
    detail: str
    """One line for a person."""
    url: str | None = None
    """What was to be downloaded."""


@dataclass(frozen=True, slots=True)
class Piece:
    """A unit of work of one layout; what `start` and `stop` count is the layout's business."""

    layout: str
    url: str
    start: int = 0
    stop: int = -1
    extra: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Options:
    """How a source is to be read; an empty column name is detected."""

    path_column: str = ""
    url_column: str = ""
    bytes_column: str = ""
    text_column: str = ""
    id_column: str = ""
    allow_outside: bool = False
    """Accept paths that lead out of the source folder."""
    media_root: str = ""
    """Folder that relative paths of a manifest start from; empty is the manifest's own."""
    keep_empty_text: bool = False
    """Samples whose text is there but empty become samples without text instead of rejects."""
