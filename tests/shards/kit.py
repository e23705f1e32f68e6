"""A source through the whole way in this process: detected, scanned, ordered, packed, read back."""

import io
import tarfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from pipeline.samples.group import EndOfShard, read_samples
from pipeline.shards.download import DownloadConfig
from pipeline.shards.item import Options
from pipeline.shards.layouts import detect, look_at
from pipeline.shards.order import assign
from pipeline.shards.pack import PackConfig, pack_shard
from pipeline.shards.scan import scan_piece
from pipeline.storage import BytesReader, Folder

JPG = b"\xff\xd8\xff\xe0 a picture "
FLAC = b"fLaC a recording "


@dataclass
class Made:
    """What came out."""

    layout: str
    samples: list[dict[str, bytes]] = field(default_factory=list)
    """Fields by name, and __key__."""
    refused: list[dict[str, Any]] = field(default_factory=list)
    tars: list[bytes] = field(default_factory=list)

    def reasons(self) -> list[tuple[str, str]]:
        return sorted((row["name"], row["reason"]) for row in self.refused)


def make(source: Path, output: Path, *, layout: str = "auto", max_samples: int = 1000, max_bytes: int = 1 << 30, **given: Any) -> Made:
    options, store = Options(**given), Folder(str(output))
    look = look_at(str(source))
    found, _ = detect(look, options, layout)
    receipts = [scan_piece(number, piece, options, store.url) for number, piece in enumerate(found.pieces(look, options))]
    made = Made(found.name)
    config = PackConfig(store.url, "shard", DownloadConfig(concurrency=4, timeout_s=1.0, retries=1, max_bytes=1000), max_bytes)
    for plan in assign(store, [receipt.path for receipt in receipts], max_bytes=max_bytes, max_samples=max_samples):
        pack_shard(plan, config)
    made.tars += [path.read_bytes() for path in sorted(output.glob("shard-*.tar"))]
    for tar in made.tars:
        made.samples += read(tar)
    for table in sorted((output / "rejects").glob("*.parquet")) if (output / "rejects").exists() else []:
        made.refused += pq.read_table(table).to_pylist()
    return made


def read(tar: bytes) -> list[dict[str, bytes]]:
    """Our own reader: nothing may be damaged."""
    found = []
    for sample in read_samples(BytesReader(tar), max_sample_bytes=1 << 30):
        if isinstance(sample, EndOfShard):
            assert not sample.damage and not sample.ignored and not sample.repeated_keys
        else:
            found.append({"__key__": sample.key.encode(), **{part.name: part.data or b"" for part in sample.fields}})
    return found


def tar_of(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, data in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return buffer.getvalue()
