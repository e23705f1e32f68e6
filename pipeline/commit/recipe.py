"""`recipe.json`: what decides the results in an output folder. A folder holds one recipe; another is refused."""

import json
from typing import Any

from pipeline.commit.parts import CAPTIONS
from pipeline.errors import RequestError
from pipeline.storage import Folder

PATH = "recipe.json"


def root_of(store: Folder) -> str | None:
    """The root that shard names of this folder are relative to; None before the first run."""
    found = known(store)
    return None if found is None or found.get("root") is None else str(found["root"])


def guard(store: Folder, recipe: dict[str, Any], tables: str = CAPTIONS) -> dict[str, Any]:
    """Writes the recipe at the first run, compares it later. RequestError names the field that differs.

    It is read back after writing, so that of two first runs at once with different recipes one is refused.
    """
    wanted: dict[str, Any] = json.loads(json.dumps(recipe))
    found = known(store)
    if found is None:
        if any(not blob.path.startswith(".") for blob in store.list(tables)):
            raise RequestError(f"{store.url} holds {tables} but no {PATH}; restore it, or use another --output")
        store.put(PATH, json.dumps(wanted, indent=1, ensure_ascii=False, sort_keys=True).encode())
        found = known(store)
    for name in sorted({*wanted, *(found or {})}, key=lambda name: (name not in ("job", "engine"), name)):
        old, new = (found or {}).get(name), wanted.get(name)
        if old != new:
            raise RequestError(
                f"{store.url} was made with {name} = {_short(old)}, this request has {_short(new)}; use another --output, or the old value"
            )
    return wanted


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 120 else text[:117] + "..."


def known(store: Folder) -> dict[str, Any] | None:
    """The recipe of an output; None before its first run. RequestError for a file that is none."""
    try:
        found: Any = json.loads(store.get(PATH))
        if not isinstance(found, dict):
            raise ValueError("not an object")
    except FileNotFoundError:
        return None
    except (ValueError, NotADirectoryError) as exc:
        raise RequestError(f"{store.url}/{PATH} cannot be read ({exc}); restore it, or use another --output") from exc
    return found
