"""Index files beside the archives, as trainers look for them, and what they say of an output that is finished.

sizes.json   {"shard-00000.tar": samples}                            open_clip
wids.json    {"wids_version": 1, "shardlist": [{url, nsamples, ...}]}  wids; urls are relative to the file
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.storage import Folder

SIZES = "sizes.json"
WIDS = "wids.json"


@dataclass(frozen=True, slots=True)
class Archive:
    """One archive of an output."""

    path: str
    """Below the output."""
    samples: int
    size_bytes: int


def write_inventory(store: Folder, name: str, archives: Sequence[Archive]) -> None:
    """Writes both files, sizes.json last: its existence says that the output is whole."""
    shardlist = [{"url": one.path, "nsamples": one.samples, "filesize": one.size_bytes} for one in archives]
    wids = {"wids_version": 1, "name": name, "shardlist": shardlist}
    store.put(WIDS, json.dumps(wids, indent=1, ensure_ascii=False).encode())
    store.put(SIZES, json.dumps({one.path: one.samples for one in archives}, indent=1, ensure_ascii=False).encode())


def read_sizes(store: Folder) -> dict[str, int] | None:
    """Samples by archive of an output that was finished; None where it was not."""
    try:
        found = json.loads(store.get(SIZES))
    except (FileNotFoundError, ValueError):
        return None
    return found if isinstance(found, dict) else None
