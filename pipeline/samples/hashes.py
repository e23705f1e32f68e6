"""What identifies a sample's content, whatever its key and wherever it stands."""

import hashlib
from collections.abc import Iterable
from typing import Protocol


class Part(Protocol):
    """A member as far as its content goes: `group.Field`."""

    name: str
    size: int
    data: bytes | None


def sample_sha256(fields: Iterable[Part]) -> str:
    """Hex SHA-256 over the members sorted by field name: name in UTF-8, NUL, size as 8 bytes little endian, bytes.

    ValueError where a payload was not read.
    """
    digest = hashlib.sha256()
    for part in sorted(fields, key=lambda part: part.name):
        data = _loaded(part)
        digest.update(part.name.encode("utf-8") + b"\0" + len(data).to_bytes(8, "little"))
        digest.update(data)
    return digest.hexdigest()


def media_sha256(part: Part) -> str:
    """Hex SHA-256 of one member's bytes. ValueError where they were not read."""
    return hashlib.sha256(_loaded(part)).hexdigest()


def _loaded(part: Part) -> bytes:
    if part.data is None:
        raise ValueError(f"the bytes of field {part.name} were not read; read the sample with load=True")
    return part.data
