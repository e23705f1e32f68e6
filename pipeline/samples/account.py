"""What archives hold, as one record that adds up: samples, fields, sizes, media, damage, order.

Of one archive or of a corpus: merging is associative and commutative, and what it keeps does not grow with what it counts. Lists
are the first of their kind in the order of archive and place, names of fields the shortest.
"""

import heapq
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

from pipeline.samples.spans import Damage
from pipeline.samples.spread import Spread

MAX_FIELDS = 100
"""Field names that are told apart. More come from keys with dots in them: the shortest names are the ones that are meant."""
MAX_DAMAGE = 1_000
"""Damaged ranges that are listed; the others are counted."""
MAX_NAMED = 100
"""Archives that are listed of each kind."""


class Hit(NamedTuple):
    """A damaged range and the archive that it is in."""

    url: str
    damage: Damage


@dataclass(slots=True)
class Survey:
    """The account of some archives."""

    archives: int = 0
    samples: int = 0
    size_bytes: int = 0
    """Of the archives; of the unpacked archive where one is packed."""
    fields: dict[str, Spread] = field(default_factory=dict)
    """Bytes of members, by field name: `count` is the samples that have it."""
    other_fields: int = 0
    """Members under further names than MAX_FIELDS."""
    text_chars: Spread = field(default_factory=Spread)
    """Characters of the texts that belong to samples."""
    width_px: Spread = field(default_factory=Spread)
    """Of pictures and clips, as stored."""
    height_px: Spread = field(default_factory=Spread)
    duration_ms: Spread = field(default_factory=Spread)
    """Of recordings and clips, as their containers say."""
    remarks: Counter[str] = field(default_factory=Counter)
    """What was not measured: `unreadable_image`, `unmeasured_audio`, `empty_text`, `reference_not_utf8`, ..."""
    ignored: Counter[str] = field(default_factory=Counter)
    """Members that belong to no sample, by kind."""
    problems: Counter[str] = field(default_factory=Counter)
    """Samples that cannot be used as they stand, by reason."""
    n_damage: int = 0
    """Damaged ranges."""
    damage: list[Hit] = field(default_factory=list)
    damaged: list[str] = field(default_factory=list)
    """Archives with damage."""
    n_damaged: int = 0
    repeated_keys: int = 0
    """Samples whose key came before in their archive: partners that are apart, or keys used twice."""
    repeating: list[str] = field(default_factory=list)
    """Archives with such."""
    n_repeating: int = 0
    out_of_order: int = 0
    """Samples whose key sorts before the one in front of them."""
    unsorted: list[str] = field(default_factory=list)
    """Archives with such."""
    n_unsorted: int = 0
    hashed: int = 0
    """Samples whose content was hashed."""

    def merge(self, other: "Survey") -> None:
        """Adds another account to this one."""
        for name in _NUMBERS:
            setattr(self, name, getattr(self, name) + getattr(other, name))
        for name in _SPREADS:
            getattr(self, name).merge(getattr(other, name))
        for name in _COUNTERS:
            getattr(self, name).update(getattr(other, name))
        for name in _LISTS:
            setattr(self, name, sorted({*getattr(self, name), *getattr(other, name)})[:MAX_NAMED])
        self.damage = heapq.nsmallest(MAX_DAMAGE, (*self.damage, *other.damage), key=_place)
        for name, spread in other.fields.items():
            self.fields.setdefault(name, Spread()).merge(spread)
        self.other_fields += drop_long_names(self.fields)

    def to_dict(self) -> dict[str, Any]:
        """As JSON can hold it."""
        values = {name: getattr(self, name) for name in (*_NUMBERS, *_LISTS)}
        values |= {name: dict(sorted(getattr(self, name).items())) for name in _COUNTERS}
        values |= {name: getattr(self, name).to_dict() for name in _SPREADS}
        share = max(1, self.samples)
        values["fields"] = {
            name: {"share": round(spread.count / share, 6), **spread.to_dict()} for name, spread in sorted(self.fields.items())
        }
        values["damage"] = [{"archive": hit.url, **asdict(hit.damage)} for hit in self.damage]
        return values


_NUMBERS = (
    *("archives", "samples", "size_bytes", "other_fields", "n_damage", "n_damaged"),
    *("repeated_keys", "n_repeating", "out_of_order", "n_unsorted", "hashed"),
)
_SPREADS = ("text_chars", "width_px", "height_px", "duration_ms")
_COUNTERS = ("remarks", "ignored", "problems")
_LISTS = ("damaged", "repeating", "unsorted")


def _place(hit: Hit) -> tuple[str, str, int, int, str]:
    return hit.url, hit.damage.space, hit.damage.start, hit.damage.end, hit.damage.kind


def drop_long_names(fields: dict[str, Spread]) -> int:
    """Keeps the MAX_FIELDS shortest names; returns the members under the others.

    A name that is dropped once is among the longest ever after, so what is kept was counted in full.
    """
    dropped = 0
    for name in sorted(fields, key=lambda name: (len(name), name))[MAX_FIELDS:]:
        dropped += fields.pop(name).count
    return dropped


def merged(surveys: Iterable[Survey]) -> Survey:
    """The account of all."""
    whole = Survey()
    for survey in surveys:
        whole.merge(survey)
    return whole
