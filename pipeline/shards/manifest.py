"""Manifests: tables with a path, a URL or the bytes of a medium in each row, and its text. All other columns go to the json.

Also metadata files of Hub folders (`file_name`), and Parquet as the Hub has it (structures of bytes and path).
"""

from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from pipeline import storage
from pipeline.errors import Reason, RequestError, SampleError
from pipeline.samples.medium import modality_of
from pipeline.shards.columns import Columns, choose, extension_of_path, field_of, place_of
from pipeline.shards.download import extension_of_url
from pipeline.shards.item import Bad, Item, Member, Options, Piece, Place
from pipeline.shards.listing import local_path, version_of
from pipeline.shards.magic import extension_of
from pipeline.shards.tables import Row, columns_of, divide, rows_of

NAME = "manifest"
_NOT_JSON = (bytes, bytearray, memoryview)


def pieces(url: str, options: Options, *, layout: str = NAME, media_root: str = "") -> Iterator[Piece]:
    """The parts of one table. RequestError where it has no column that leads to media."""
    url = local_path(url)
    columns_for(url, options)
    blob = storage.stat(url)
    if blob is None:
        raise RequestError(f"{url}: no such file")
    root = local_path(options.media_root or media_root or url.rpartition("/")[0] or "/")
    for start, stop in divide(url, blob.size):
        yield Piece(layout, url, start, stop, (("root", root), ("version", version_of(blob))))


def columns_for(url: str, options: Options) -> Columns:
    """The columns of a table that are used."""
    names, inline = columns_of(url)
    return choose(names, inline, options, url)


def items(piece: Piece, options: Options) -> Iterator[Item | Bad]:
    """The samples of a part of a table."""
    columns = columns_for(piece.url, options)
    root = dict(piece.extra)["root"]
    source = piece.url.rpartition("/")[2]
    for row in rows_of(piece.url, piece.start, piece.stop):
        yield sample(row, source, root, columns, options)


def sample(row: Row, source: str, root: str, columns: Columns, options: Options) -> Item | Bad:
    """One row as a sample, or why it is none."""
    if row.values is None:
        return Bad(f"row {row.at}" if row.at is not None else "", source, row.at, Reason.BAD_ROW, row.problem)
    name, url = f"row {row.at}", None
    try:
        identity = _text(row.values.get(columns.id)) if columns.id else ""
        name = identity or name
        members: list[Member] = []
        for column in columns.media:
            value = row.values.get(column)
            if value is None and len(columns.media) > 1 and column != columns.media[0]:
                continue
            named, member = _member(column, value, root, columns, options)
            if member.place is not None and member.place.url.startswith(("http://", "https://")):
                url = member.place.url
            name = identity or (named if column == columns.media[0] and named else name)
            members.append(member)
        captions = _captions(row.values.get(columns.text), options) if columns.text else ()
    except SampleError as error:
        return Bad(name, source, row.at, error.reason, error.detail, url)
    left_out = {*columns.inline, columns.text}
    meta = {key: _jsonable(value) for key, value in row.values.items() if key not in left_out and value is not None}
    return Item(name, tuple(members), meta, captions, source, row.at, identity or None)


def _member(column: str, value: Any, root: str, columns: Columns, options: Options) -> tuple[str, Member]:
    """(name in the source, member) of one medium."""
    if column in columns.inline:
        path = value.get("path") or "" if isinstance(value, dict) else ""
        data = value.get("bytes") if isinstance(value, dict) else value
        if data:
            return path, Member(field_of(column, _extension(path, bytes(data)), columns), bytes(data))
        if not path:
            raise SampleError(Reason.EMPTY_MEDIUM, f"{column} is empty")
        value = path
    elif not isinstance(value, str) or not value.strip():
        raise SampleError(Reason.BAD_ROW, f"{column} is empty" if value in (None, "") or isinstance(value, str) else f"{column} is no text")
    text = value if column in columns.paths else value.strip()
    if column in columns.urls or text.startswith(("http://", "https://")):
        if not text.startswith(("http://", "https://")):
            raise SampleError(Reason.BAD_ROW, f"{text[:200]!r} is no http or https URL")
        return text, Member(field_of(column, extension_of_url(text), columns), place=Place(text))
    place = place_of(text, root, allow_outside=options.allow_outside)
    return text, Member(field_of(column, extension_of_path(text), columns), place=place)


def _extension(path: str, data: bytes) -> str:
    found = extension_of(data)
    named = path.rpartition(".")[2].lower()
    if found is not None and modality_of(named) != modality_of(found):
        return found
    if modality_of(named) is not None:
        return named
    raise SampleError(Reason.NO_MEDIUM, "its bytes are no picture, recording or clip of a known kind")


def _captions(value: Any, options: Options) -> tuple[str, ...]:
    texts = [_text(one) for one in value] if isinstance(value, list | tuple) else [_text(value)]
    kept = tuple(text for text in texts if text.strip())
    if not kept and not options.keep_empty_text:
        raise SampleError(Reason.EMPTY_TEXT, "the text is empty; --keep-empty-text takes the sample without a text")
    return kept


def _text(value: Any) -> str:
    return value if isinstance(value, str) else "" if value is None else str(value)


def _jsonable(value: Any) -> Any:
    """The value as JSON has it: no bytes, times as ISO text."""
    if isinstance(value, dict):
        return {str(key): _jsonable(one) for key, one in value.items() if not isinstance(one, _NOT_JSON)}
    if isinstance(value, list | tuple):
        return [_jsonable(one) for one in value if not isinstance(one, _NOT_JSON)]
    if value is None or isinstance(value, str | int | float | bool):
        return value
    with suppress(AttributeError):
        return value.isoformat()
    return str(value)
