"""What `dedup` decided of one shard: read by `prepare`, a shard's file at a time.

drop/<shard>.parquet    schema.DROPS, also for shards of which nothing is dropped: a missing file means not decided yet
drop/_digests.parquet   one row a shard: the hash of what was decided on it
drop/_decided.json      stands there once all shards are decided

What `prepare` made with decisions is bound to them, not to the folder they lie in: `drops.json` in its output holds the hash of
those on each archive. Archives that come later add to it; decisions that changed are refused.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import storage
from pipeline.errors import Reason, RequestError

FOLDER = "drop"
DECIDED, DIGESTS = f"{FOLDER}/_decided.json", f"{FOLDER}/_digests.parquet"
USED = "drops.json"
"""In the output of `prepare`: {shard: [fingerprint, digest]}."""
DECISIONS = pa.schema([pa.field(name, pa.string(), nullable=False) for name in ("shard", "fingerprint", "digest")])
FINGERPRINT = b"nightcap.fingerprint"


class Decision(NamedTuple):
    """What was decided on one shard, in short."""

    shard: str
    fingerprint: str
    """Of its archive then: path, size and mtime."""
    digest: str
    """Hash of its rows of schema.DROPS."""


@dataclass(frozen=True, slots=True)
class Drop:
    """One sample that an earlier one stands for. For quarantine: a reason and a line of detail."""

    detail: str
    """What it has in common with which sample."""
    reason: Reason = Reason.DUPLICATE


def drop_path(shard: str) -> str:
    """Where the decisions on a shard lie below the output of `dedup`; `shard` with its extension."""
    return f"{FOLDER}/{shard}.parquet"


def drop_options(folder: str) -> dict[str, Any]:
    """What `dedup` was asked in this folder: part of the recipe. RequestError unless it has finished there."""
    try:
        options: dict[str, Any] = json.loads(storage.Folder(folder).get(DECIDED))["options"]
    except FileNotFoundError as exc:
        raise RequestError(f"--drop {folder}: no {DECIDED} in it; give the --output of a nightcap dedup that has finished") from exc
    except (ValueError, KeyError, TypeError) as exc:
        raise RequestError(f"--drop {folder}: {DECIDED} cannot be read ({exc}); run nightcap dedup again") from exc
    return options


def bind_drops(store: storage.Folder, folder: str, shards: Iterable[tuple[str, str]]) -> None:
    """Notes in an output which decisions its tables are made with. `shards`: name and fingerprint of those that are to be made.

    For the driver, before anything runs. RequestError where one was never decided on, or was another archive then, and where
    the decisions on an archive are others than those that this output began with.
    """
    try:
        table = pq.read_table(pa.BufferReader(storage.Folder(folder).get(DIGESTS)))
    except FileNotFoundError as exc:
        raise RequestError(f"--drop {folder}: no {DIGESTS} in it; run nightcap dedup again") from exc
    decided = {row["shard"]: (row["fingerprint"], row["digest"]) for row in table.to_pylist()}
    try:
        used = {shard: tuple(pair) for shard, pair in json.loads(store.get(USED)).items()}
    except FileNotFoundError:
        used = {}
    known = dict(used)
    for shard, fingerprint in shards:
        if shard not in decided:
            raise _undecided(folder, shard)
        if decided[shard][0] != fingerprint:
            raise _changed(folder, shard)
        if used.get(shard, ("",))[0] != fingerprint:
            known[shard] = decided[shard]
    other = [shard for shard, pair in sorted(known.items()) if decided.get(shard, ("",))[0] == pair[0] and decided[shard] != pair]
    if other:
        raise RequestError(
            f"--drop {folder}: the decisions on {other[0]} are not those that {store.url} was made with ({len(other):,} archives); "
            "use another --output, or the former decisions"
        )
    if known != used:
        store.put(USED, json.dumps(known, indent=0, sort_keys=True).encode())


def _undecided(folder: str, shard: str) -> RequestError:
    return RequestError(
        f"--drop {folder}: nothing was decided on {shard}; run nightcap dedup again with this archive, named below the same root"
    )


def _changed(folder: str, shard: str) -> RequestError:
    return RequestError(f"--drop {folder}: {shard} has changed since it was decided on; run nightcap dedup --changed again")


def drops_of(folder: str, shard: str, fingerprint: str = "") -> dict[int, Drop]:
    """Index -> why it is dropped, for one shard. `folder`: the output of `dedup`.

    RequestError where the shard was never decided, or was another archive then (`fingerprint`, of path, size and mtime).
    """
    try:
        data = storage.Folder(folder).get(drop_path(shard))
    except FileNotFoundError as exc:
        raise _undecided(folder, shard) from exc
    table = pq.read_table(pa.BufferReader(data))
    known = (table.schema.metadata or {}).get(FINGERPRINT, b"").decode()
    if fingerprint and known != fingerprint:
        raise _changed(folder, shard)
    return {
        row["index"]: Drop(f"same {row['reason']} as {row['twin_shard']} sample {row['twin_index']} ({row['twin_key']})")
        for row in table.to_pylist()
    }
