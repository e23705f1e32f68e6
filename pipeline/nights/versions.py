"""One folder a recipe: `v0001-<digest>`, beside those of recipes before. Pure.

The digest alone decides which folder a recipe has, so that two nights that start at once choose the same; the number only
tells a person what came first.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

_NAME = re.compile(r"v(\d+)-([0-9a-f]{10})")


def digest_of(recipe: Mapping[str, Any]) -> str:
    """Ten hex digits of what decides the captions; where the corpus lies is no part of it."""
    canonical = json.dumps({name: value for name, value in recipe.items() if name != "root"}, sort_keys=True, default=str)
    return hashlib.sha256(canonical.encode()).hexdigest()[:10]


def versions_in(names: Iterable[str]) -> list[str]:
    """The version folders among names, the oldest first."""
    return sorted((name for name in set(names) if _NAME.fullmatch(name)), key=lambda name: (int(name[1:].split("-")[0]), name))


def version_for(recipe: Mapping[str, Any], names: Iterable[str]) -> str:
    """The folder of a recipe: the one that has its digest, else a new one behind those there are."""
    known, digest = versions_in(names), digest_of(recipe)
    for name in known:
        if name.endswith(f"-{digest}"):
            return name
    last = max((int(name[1:].split("-")[0]) for name in known), default=0)
    return f"v{last + 1:04d}-{digest}"


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """What differs between two recipes, one line a field, for a person."""
    found = []
    for name in sorted({*old, *new} - {"root"}):
        before, after = (json.dumps(recipe.get(name), ensure_ascii=False, sort_keys=True, default=str) for recipe in (old, new))
        if before != after:
            found.append(f"{name}: {_short(before)} -> {_short(after)}")
    return found


def _short(text: str) -> str:
    return text if len(text) <= 100 else text[:97] + "..."
