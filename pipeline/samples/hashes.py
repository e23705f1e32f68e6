"""What identifies a sample's content, whatever its key and wherever it stands. Every byte is hashed once."""

import hashlib
from collections.abc import Iterable
from typing import NamedTuple, Protocol


class Part(Protocol):
    """A member as far as its content goes: `group.Field`."""

    name: str
    size: int
    data: bytes | None


class Hashes(NamedTuple):
    """Hex SHA-256 of a sample and of its members."""

    sample: str
    """Over the members sorted by field name: name in UTF-8, NUL, SHA-256 of its bytes (32 bytes). `sha256sum` of the members gives all that it takes."""
    members: dict[str, str]
    """Field name -> of that member's bytes."""


def hashes_of(fields: Iterable[Part]) -> Hashes:
    """Names are unique within a sample. ValueError where a payload was not read."""
    whole, members = hashlib.sha256(), {}
    for part in sorted(fields, key=lambda part: part.name):
        if part.data is None:
            raise ValueError(f"the bytes of field {part.name} were not read; read the sample with load=True")
        member = hashlib.sha256(part.data)
        whole.update(part.name.encode("utf-8", "surrogatepass") + b"\0" + member.digest())
        members[part.name] = member.hexdigest()
    return Hashes(whole.hexdigest(), members)
