"""`nights/<date>.json`: one night, whatever it took. Written when the night begins and when it ends; a repeat goes on with it."""

import json
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from pipeline.errors import RequestError
from pipeline.nights.drift import Figures
from pipeline.storage import Store

FOLDER = "nights"
NAMES_SHOWN = 20
"""Archives that a record names of each kind; counts are of all."""


@dataclass(slots=True, kw_only=True)
class Night:
    """What one night found, did and left."""

    date: str
    """YYYY-MM-DD."""
    version: str
    """Folder of the recipe."""
    begun: str
    """ISO 8601, UTC."""
    ended: str = ""
    """Likewise; empty while it is not over."""
    complete: bool = False
    """Nothing is left to do, so that a repeat of this night does nothing."""
    exit_code: int = 1
    why: str = ""
    """Why it ended before everything was done: a budget, a fault."""
    runs: list[str] = field(default_factory=list)
    """Run ids, in order; more than one after a crash or a repeat."""
    recipe_changed: list[str] = field(default_factory=list)
    """What differs from the version before, in the first night of a version."""
    archives: dict[str, int] = field(default_factory=dict)
    """listed = unchanged + done + waiting + older; beside them new, changed, removed."""
    names: dict[str, list[str]] = field(default_factory=dict)
    """The first few archives that are new, changed, removed, waiting."""
    before: dict[str, int] = field(default_factory=dict)
    """Samples by status in all tables when the night began."""
    after: dict[str, int] = field(default_factory=dict)
    """Likewise when it ended."""
    tonight: dict[str, int] = field(default_factory=dict)
    """Samples by status in the tables that were made tonight."""
    taken_over: int = 0
    """Samples whose captions came from a former version of their archive: no model ran for them."""
    figures: dict[str, Any] = field(default_factory=dict)
    """drift.Figures."""
    alarms: list[dict[str, Any]] = field(default_factory=list)
    """drift.Alarm."""
    elapsed_s: float = 0.0
    """Of all runs of the night."""
    predicted: dict[str, Any] | None = None
    """What `nightcap plan` foretold, and the factor between that and what came."""

    @property
    def balances(self) -> bool:
        """Every archive of the listing is accounted for exactly once."""
        return self.archives.get("listed", 0) == sum(self.archives.get(name, 0) for name in ("unchanged", "done", "waiting", "older"))


def save(store: Store, night: Night) -> str:
    """Writes the record; returns its path below the output."""
    path = f"{FOLDER}/{night.date}.json"
    store.put(path, json.dumps(asdict(night), indent=1, ensure_ascii=False, default=str).encode())
    return path


def load(store: Store, date: str) -> Night | None:
    """The record of a date, or None. RequestError for one that cannot be read."""
    path = f"{FOLDER}/{date}.json"
    try:
        return _parsed(store.get(path))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError) as exc:
        raise RequestError(f"{path} of the output cannot be read ({exc}); delete it, and the night begins anew") from exc


def before(store: Store, date: str) -> list[Night]:
    """The nights before a date that ended, oldest first. Records that cannot be read are passed over."""
    found = []
    for blob in store.list(FOLDER):
        match = re.fullmatch(rf"{FOLDER}/(\d{{4}}-\d\d-\d\d)\.json", blob.path)
        if match is None or match[1] >= date:
            continue
        try:
            night = _parsed(store.get(blob.path))
        except (ValueError, TypeError, FileNotFoundError):
            continue
        if night.ended:
            found.append(night)
    return sorted(found, key=lambda night: night.date)


def figures_of(nights: Iterable[Night], version: str) -> list[Figures]:
    """Figures of the nights that had this recipe: those of another say nothing about this one."""
    known = {one.name for one in fields(Figures)}
    return [
        Figures(**{name: value for name, value in night.figures.items() if name in known})
        for night in nights
        if night.version == version and night.figures
    ]


def _parsed(data: bytes) -> Night:
    values = json.loads(data)
    if not isinstance(values, dict):
        raise ValueError("no object")
    known = {one.name for one in fields(Night)}
    return Night(**{name: value for name, value in values.items() if name in known})
