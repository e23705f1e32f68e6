"""Options that several jobs take in the same form."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, is_dataclass
from typing import Annotated, Any, TypeVar, cast, get_type_hints

from cyclopts import Parameter

from pipeline import storage
from pipeline.commit.budget import Budget
from pipeline.errors import RequestError
from pipeline.samples.guard import Limits

T = TypeVar("T")

_UNITS = {"": 1, "B": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "KI": 1 << 10, "MI": 1 << 20, "GI": 1 << 30, "TI": 1 << 40}


def byte_count(flag: str, text: str) -> int:
    """Bytes of `512MiB`, `4GB`, `1000`. RequestError names the flag."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?I?)B?\s*", text.upper())
    if match is None:
        raise RequestError(f"{flag} {text!r} is no size; write for example 512MiB, 4GB or 1000000")
    return int(float(match[1]) * _UNITS[match[2]])


def restored(kind: type[T], values: Mapping[str, Any]) -> T:
    """A configuration class from what a run's record holds of it. Fields that the record lacks have their defaults; others are left out."""
    hints = get_type_hints(kind)
    return kind(**{name: _restored(hints[name], value) for name, value in values.items() if name in hints})


def _restored(hint: Any, value: Any) -> Any:
    if is_dataclass(hint):
        return restored(cast(type[Any], hint), value)
    return tuple(value) if isinstance(value, list) else value


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True, slots=True)
class ShardOptions:
    """Options of every job that turns archives into tables, one a shard."""

    shards: Annotated[tuple[str, ...], Parameter(negative=())] = field(kw_only=False)
    """Archives: globs (**/*.tar), brace patterns ({00000..00099}.tar), folders, list files (@shards.txt), or URLs."""
    output: Annotated[str, Parameter(alias="-o")]
    """Folder for the results; it holds one recipe. Run again with the same folder to continue."""
    limit: int = 0
    """Only the first LIMIT samples, for trying out; 0 is all. What was done counts when the whole is run later."""
    max_rejects: str = "5%"
    """Rejected samples above which the run stops: a share such as 5%, checked after 200 samples, or a count."""
    max_sample_bytes: str = "512MiB"
    """A sample above this size is rejected and never buffered."""
    sample_timeout_s: float = 300.0
    """Seconds that work on one sample may take; longer counts as hung. Too low rejects long media."""
    sample_memory: str = "4GiB"
    """Memory that decoding one sample may ask for."""
    changed: bool = False
    """Redo shards whose archive is newer than its results; without it they are only reported."""
    address: str = ""
    """Ray cluster; without it RAY_ADDRESS, else a Ray on this machine."""
    verbose: bool = False
    """Show Ray's own messages."""

    def __post_init__(self) -> None:
        """Raises RequestError for a value that cannot be meant."""
        if not self.shards:
            raise RequestError("no shards given; name a folder, a glob or a list file, such as 'data/*.tar'")
        if self.limit < 0:
            raise RequestError(f"--limit {self.limit} cannot be negative; 0 is no limit")
        if not 0 < self.sample_timeout_s < float("inf"):
            raise RequestError(f"--sample-timeout-s is {self.sample_timeout_s}; give seconds above 0")
        byte_count("--max-sample-bytes", self.max_sample_bytes)
        byte_count("--sample-memory", self.sample_memory)
        Budget.parse(self.max_rejects)
        if (self.address or os.environ.get("RAY_ADDRESS")) and self.output and storage.is_local(self.output):
            object.__setattr__(self, "output", storage.resolve(self.output)[1])  # a cluster's workers stand in a folder of their own

    def limits(self) -> Limits:
        """Time and memory that one sample may take."""
        return Limits(self.sample_timeout_s, byte_count("--sample-memory", self.sample_memory))
