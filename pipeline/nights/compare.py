"""A listing against what is done: new, changed, unchanged, removed. Pure; no archive is opened.

An archive is done if its table was made from this version of it: the fingerprint of its path, size and modification time.
Fingerprints are compared for equality, so that no clock has to be right. Tables of old runs carry none: for them alone
the later modification time decides.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol


class Listed(Protocol):
    """An archive of a listing."""

    @property
    def shard(self) -> str:
        """Path below the root."""

    @property
    def stem(self) -> str:
        """The same without its extension: names its table."""

    @property
    def fingerprint(self) -> str:
        """Names this version of the archive."""

    @property
    def mtime_s(self) -> float:
        """Seconds since the epoch."""


@dataclass(frozen=True, slots=True)
class Made:
    """What is known of a table without opening it."""

    fingerprint: str
    """Of the archive it was made from; empty for tables that do not say."""
    written_s: float
    """When the table was written, seconds since the epoch."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """Every archive of the listing stands in exactly one of `new`, `changed`, `unchanged`, `older`; names are sorted."""

    new: tuple[str, ...]
    """Stems without a table."""
    changed: tuple[str, ...]
    """Stems whose table is of a former version."""
    unchanged: tuple[str, ...]
    older: tuple[str, ...]
    """Stems that would be new or changed, but are older than `--since`."""
    removed: tuple[str, ...]
    """Stems with a table whose archive is gone."""

    @property
    def todo(self) -> tuple[str, ...]:
        """What this night has to do."""
        return tuple(sorted((*self.new, *self.changed)))


def compare(listed: Iterable[Listed], made: Mapping[str, Made], since_s: float = 0.0) -> Comparison:
    """Judges every archive of the listing and every table."""
    groups: dict[str, list[str]] = {"new": [], "changed": [], "unchanged": [], "older": []}
    present = set()
    for archive in listed:
        present.add(archive.stem)
        verdict = _verdict(archive, made.get(archive.stem))
        if verdict != "unchanged" and archive.mtime_s < since_s:
            verdict = "older"
        groups[verdict].append(archive.stem)
    removed = tuple(sorted(stem for stem in made if stem not in present))
    return Comparison(**{name: tuple(sorted(stems)) for name, stems in groups.items()}, removed=removed)


def _verdict(archive: Listed, made: Made | None) -> str:
    if made is None:
        return "new"
    if made.fingerprint:
        return "unchanged" if made.fingerprint == archive.fingerprint else "changed"
    return "changed" if archive.mtime_s > made.written_s else "unchanged"
