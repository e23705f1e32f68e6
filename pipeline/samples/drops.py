"""What `dedup` decided of one shard: read by `prepare`, a shard's file at a time.

drop/<shard>.parquet    schema.DROPS, also for shards of which nothing is dropped: a missing file means not decided yet
drop/_decided.json      stands there once all shards are decided
"""

from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import storage
from pipeline.errors import Reason, RequestError

FOLDER = "drop"
DECIDED = f"{FOLDER}/_decided.json"
FINGERPRINT = b"nightcap.fingerprint"


@dataclass(frozen=True, slots=True)
class Drop:
    """One sample that an earlier one stands for. For quarantine: a reason and a line of detail."""

    detail: str
    """What it has in common with which sample."""
    reason: Reason = Reason.DUPLICATE


def drop_path(shard: str) -> str:
    """Where the decisions on a shard lie below the output of `dedup`; `shard` with its extension."""
    return f"{FOLDER}/{shard}.parquet"


def check_drops(folder: str) -> None:
    """RequestError unless `dedup` has finished in this folder. For the driver, before anything runs."""
    if not storage.Folder(folder).exists(DECIDED):
        raise RequestError(f"--drop {folder}: no {DECIDED} in it; give the --output of a nightcap dedup that has finished")


def drops_of(folder: str, shard: str, fingerprint: str = "") -> dict[int, Drop]:
    """Index -> why it is dropped, for one shard. `folder`: the output of `dedup`.

    RequestError where the shard was never decided, or was another archive then (`fingerprint`, of path, size and mtime).
    """
    try:
        data = storage.Folder(folder).get(drop_path(shard))
    except FileNotFoundError as exc:
        raise RequestError(
            f"--drop {folder}: nothing was decided on {shard}; run nightcap dedup again with this archive, named below the same root"
        ) from exc
    table = pq.read_table(pa.BufferReader(data))
    known = (table.schema.metadata or {}).get(FINGERPRINT, b"").decode()
    if fingerprint and known != fingerprint:
        raise RequestError(f"--drop {folder}: {shard} has changed since it was decided on; run nightcap dedup --changed again")
    return {
        row["index"]: Drop(f"same {row['reason']} as {row['twin_shard']} sample {row['twin_index']} ({row['twin_key']})")
        for row in table.to_pylist()
    }
