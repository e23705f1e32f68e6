"""One piece of a source -> its index: an Arrow file of schema.ITEMS, and its rejects. The source is read here once.

    _scan/000012.arrow          samples in order, in batches that fit a processor's cache
    _scan/000012.blob           media that have no place of their own: inside Parquet, inside gzip
    _scan/000012.json           the receipt; when it exists the piece is done
    rejects/source-000012.parquet

Memory is one batch. Text stands in the index, so that no text file is opened twice; media stay where they are.
"""

import hashlib
import json
import math
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from json.encoder import encode_basestring
from typing import Any

from pipeline.errors import Reason, SampleError
from pipeline.samples.group import split_name
from pipeline.samples.medium import FIELDS
from pipeline.shards import rejects as tables
from pipeline.shards.index import IndexWriter, ItemRow
from pipeline.shards.item import Bad, Item, Member, Options, Piece, Place
from pipeline.shards.layouts import items_of
from pipeline.shards.rejects import Rejects
from pipeline.storage import Draft, Folder

FOLDER = "_scan"
INLINE_BYTES = 4 << 10
"""Longer data that is no text goes to the blob."""
_BLOCK = 512
_TEXT = ("txt", "json")
_PLAIN = frozenset((*FIELDS, *_TEXT))
_ENCODE = json.JSONEncoder(ensure_ascii=False, allow_nan=False).encode


@dataclass(frozen=True, slots=True)
class Scanned:
    """The receipt of a piece."""

    number: int
    samples: int
    index_bytes: int
    """Of the index in memory: decides how many buckets a shuffle takes."""
    with_id: int
    """Samples with an explicit id."""
    rejects: dict[str, int] = field(default_factory=dict)
    """Rejected rows by reason."""
    examples: list[list[str]] = field(default_factory=list)
    """Up to three a reason: [reason, source, name, detail]."""

    @property
    def path(self) -> str:
        """Of the index, below the output."""
        return index_path(self.number)


def index_path(number: int) -> str:
    """Of a piece's index, below the output."""
    return f"{FOLDER}/{number:06d}.arrow"


def rejects_path(number: int) -> str:
    """Of a piece's rejects, below the output."""
    return f"{tables.FOLDER}/source-{number:06d}.parquet"


def load_receipt(store: Folder, number: int) -> Scanned | None:
    """The receipt of a piece that was scanned before."""
    try:
        return Scanned(**json.loads(store.get(f"{FOLDER}/{number:06d}.json")))
    except FileNotFoundError:
        return None


def scan_piece(number: int, piece: Piece, options: Options, output: str) -> Scanned:
    """Writes index, blob and rejects of a piece, the receipt last. Rows that are no sample are counted, not raised."""
    store = Folder(output)
    samples = with_id = 0
    with Rejects(store, rejects_path(number)) as rejects, store.create(index_path(number)) as draft, ExitStack() as blobs:
        index = IndexWriter(draft)
        blob = _Blob(store, f"{FOLDER}/{number:06d}.blob", blobs)
        for found in items_of(piece, options):
            if isinstance(found, Bad):
                rejects.add(found)
                continue
            try:
                row = _row(found, blob)
            except SampleError as error:
                rejects.add(Bad(found.name, found.source, found.row, error.reason, error.detail))
                continue
            index.add(row)
            samples += 1
            with_id += row.id_hash is not None
        index.close()
    receipt = Scanned(number, samples, index.size_bytes, with_id, dict(rejects.counts), rejects.examples)
    store.put(f"{FOLDER}/{number:06d}.json", json.dumps(asdict(receipt)).encode())
    return receipt


def _row(item: Item, blob: "_Blob") -> ItemRow:
    """A sample as it will stand in the archive: its members, the first caption as txt, all else as json."""
    fields: dict[str, bytes | Place] = {}
    for member in item.members:
        if member.field in fields:
            raise SampleError(Reason.DUPLICATE_NAME, f"two members are .{member.field}, which names that differ only in case give")
        if member.field not in _PLAIN and member.field and split_name(f"k.{member.field}") != ("k", member.field):
            raise SampleError(Reason.BAD_ROW, f"{member.field!r} can be no extension in an archive")
        fields[member.field] = _stored(member, blob)
    try:
        if item.captions:
            fields.setdefault("txt", item.captions[0].encode())
        if "json" not in fields:
            fields["json"] = _json(item)
    except UnicodeEncodeError as error:
        raise SampleError(Reason.BAD_ROW, f"its text holds half a character ({error.reason})") from error
    id_hash = None
    if item.id is not None:
        digest = hashlib.blake2b(f"{item.source}\0{item.id}".encode("utf-8", "surrogatepass"), digest_size=8)
        id_hash = int.from_bytes(digest.digest(), "little")
    size = 0
    for data in fields.values():
        known = len(data) if isinstance(data, bytes) else max(0, data.size)
        size += _BLOCK + known + -known % _BLOCK
    return ItemRow(item.name, item.source, item.row, id_hash, size, list(fields.items()))


def _stored(member: Member, blob: "_Blob") -> bytes | Place:
    if member.place is not None:
        return member.place
    assert member.data is not None
    if member.field in _TEXT or len(member.data) <= INLINE_BYTES:
        return member.data
    return blob.append(member.data)


def _json(item: Item) -> bytes:
    if not item.meta and len(item.captions) < 2:  # as most pairs: the encoder's own function for a text is six times faster
        return f'{{"original_name": {encode_basestring(item.name)}}}'.encode()
    facts: dict[str, Any] = {"original_name": item.name, **item.meta}
    if len(item.captions) > 1:
        facts["captions"] = list(item.captions)
    try:
        return _ENCODE(facts).encode()
    except ValueError as error:
        if isinstance(error, UnicodeEncodeError):
            raise
        return json.dumps(_finite(facts), ensure_ascii=False).encode()


def _finite(value: Any) -> Any:
    """The value with null for numbers that JSON cannot hold."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {name: _finite(one) for name, one in value.items()}
    return [_finite(one) for one in value] if isinstance(value, list | tuple) else value


class _Blob:
    """Media without a place of their own, one after another in a file that is created when the first one comes."""

    def __init__(self, store: Folder, path: str, closing: ExitStack) -> None:
        self._store = store
        self._path = path
        self._closing = closing
        self._draft: Draft | None = None

    def append(self, data: bytes) -> Place:
        """Where the data stands once the file is published."""
        if self._draft is None:
            self._draft = self._closing.enter_context(self._store.create(self._path))
            self._draft.write(b"media\n")  # so that no place begins at 0, which means a whole file
        offset = self._draft.size
        self._draft.write(data)
        return Place(f"{self._store.url}/{self._path}", offset, len(data))
