"""Existing WebDataset archives: joined, split, shuffled anew. Media stay where they stand; of gzip they are unpacked once.

Damaged samples and damage without a name are rejects. img2dataset's output is read as what it is, archives: its tables
beside hold nothing of a sample that its json does not.
"""

import json
from collections.abc import Iterator, Sequence
from contextlib import closing

from pipeline import storage
from pipeline.errors import Reason
from pipeline.samples.group import EndOfShard, Field, Sample, read_samples, split_name
from pipeline.samples.medium import modality_of
from pipeline.samples.spans import TAR, DamageKind
from pipeline.samples.unpack import has_gzip_magic
from pipeline.shards.item import Bad, Item, Member, Options, Piece, Place
from pipeline.shards.listing import version_of

NAME = "webdataset"
EXTENSIONS = (".tar", ".tar.gz", ".tgz")
_ONLY = frozenset(("txt", "json"))
_TEXT_BYTES = 4 << 20
_UNBOUNDED = 1 << 62
_HIDING = (DamageKind.BAD_HEADER, DamageKind.MISSING_BYTES, DamageKind.CUT, DamageKind.GZIP)  # samples whose names are lost
_PACKED_SAMPLE_BYTES = 512 << 20
"""A longer sample inside gzip is a reject: it would have to be held whole."""


def pieces(blobs: Sequence[storage.Blob], layout: str = NAME) -> Iterator[Piece]:
    """One piece an archive."""
    for blob in blobs:
        yield Piece(layout, blob.path, extra=(("version", version_of(blob)),))


def items(piece: Piece, options: Options) -> Iterator[Item | Bad]:
    """The samples of an archive in order, then what is damaged. Storage errors travel."""
    shard = piece.url.rpartition("/")[2]
    with closing(storage.open_reader(piece.url)) as reader:
        packed = has_gzip_magic(reader)
        only = None if packed else _ONLY
        limit = _PACKED_SAMPLE_BYTES if packed else _UNBOUNDED
        told: set[str] = set()
        for found in read_samples(reader, packed=packed, max_sample_bytes=limit, only=only):
            if isinstance(found, EndOfShard):
                yield from _damage(shard, found, told)
                continue
            if found.problem is not None:
                told.add(found.key)
            yield _item(piece.url, shard, found)


def _item(url: str, shard: str, sample: Sample) -> Item | Bad:
    if sample.problem is not None:
        return Bad(sample.key, shard, sample.index, sample.problem.reason, sample.problem.detail)
    if sample.repeated and not any(modality_of(field.name) for field in sample.fields):
        names = ", ".join(f".{field.name}" for field in sample.fields)
        detail = f"has only {names}: the rest of it stands elsewhere in the archive, which is not sorted by name"
        return Bad(sample.key, shard, sample.index, Reason.SEPARATED, detail)
    members: list[Member] = []
    meta = {"original_shard": shard}
    for field in sample.fields:
        facts = _facts(field)
        if facts is not None:
            meta = {**meta, **facts}
        elif field.data is None:
            members.append(Member(field.name, place=Place(url, field.offset, field.size)))
        else:
            members.append(Member(field.name, field.data))
    return Item(sample.key, tuple(members), meta, (), shard, sample.index)


def _facts(field: Field) -> dict[str, str] | None:
    """A json member that is an object; any other is copied as it is."""
    if field.name != "json" or field.data is None or field.size > _TEXT_BYTES:
        return None
    try:
        parsed = json.loads(field.data)
    except (ValueError, RecursionError):
        return None
    return parsed if isinstance(parsed, dict) else None


def _damage(shard: str, end: EndOfShard, told: set[str]) -> Iterator[Bad]:
    """Damage that no rejected sample tells of: what it hides is known by its place, at most by its name."""
    for damage in end.damage:
        if damage.kind not in _HIDING or damage.end <= damage.start:
            continue
        split = split_name(damage.name) if damage.name is not None else None
        key = split[0] if split is not None else damage.name or ""
        if key not in told:
            where = f"bytes {damage.start:,}-{damage.end:,}" + ("" if damage.space == TAR else " of the packed file")
            yield Bad(key, shard, None, Reason.DAMAGED, f"{where}: {damage.detail}")
