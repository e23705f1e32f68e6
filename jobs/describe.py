"""`dataset.json`: what a prepared folder holds, derived from what stands there."""

import json
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pyarrow.parquet as pq

from pipeline import schema, storage
from pipeline.commit.archives import stats_path
from pipeline.commit.parts import ARCHIVES, table_path
from pipeline.commit.rowgroups import COUNTS
from pipeline.samples.tokens import Tokenizer
from pipeline.shards.inventory import Archive, write_inventory

PATH = "dataset.json"
FORMAT = 1
THREADS = 16


def describe(store: storage.Folder, recipe: dict[str, Any], tokenizer: Tokenizer | None) -> dict[str, Any]:
    """Writes the description and returns it. Footers of tables that an earlier one knows by name and size are not read again."""
    known = {(shard["path"], shard["bytes"]): shard for shard in _known(store).get("shards", [])}
    tables = recipe["tables"]
    suffix = table_path(tables, "").rpartition("/")[2]
    blobs = [blob for blob in store.list(tables) if blob.path.endswith(suffix) and storage.TEMPORARY not in blob.path]
    with ThreadPoolExecutor(THREADS) as pool:
        shards = list(pool.map(lambda blob: known.get((blob.path, blob.size)) or _shard(store, blob), blobs))
    totals: Counter[str] = Counter()
    for shard in shards:
        totals.update(shard["counts"])
    chain = {name: value for name, value in recipe.items() if name not in ("root", "job", "tokens")}
    found = {
        "format": FORMAT,
        "tables": tables,
        "schema": {field.name: str(field.type) for field in schema.PREPARED},
        "tokenizer": None if tokenizer is None else _tokenizer(tokenizer, recipe["tokens"]),
        **chain,
        "counts": {"shards": len(shards), "bytes": sum(shard["bytes"] for shard in shards), **dict(sorted(totals.items()))},
        "shards": shards,
    }
    store.put(PATH, json.dumps(found, indent=1, ensure_ascii=False).encode())
    if tables == ARCHIVES:
        archives = [Archive(one["path"].removeprefix(f"{tables}/"), one["counts"]["rows"], one["bytes"]) for one in shards]
        write_inventory(storage.Folder(f"{store.url}/{tables}"), "prepared", archives)
    return found


def _known(store: storage.Folder) -> dict[str, Any]:
    try:
        found: Any = json.loads(store.get(PATH))
    except (FileNotFoundError, ValueError):
        return {}
    return found if isinstance(found, dict) and found.get("format") == FORMAT else {}


def _shard(store: storage.Folder, blob: storage.Blob) -> dict[str, Any]:
    if blob.path.startswith(f"{ARCHIVES}/"):
        return {"path": blob.path, "bytes": blob.size, "counts": json.loads(store.get(stats_path(blob.path)))["counts"]}
    filesystem, path = storage.resolve(f"{store.url}/{blob.path}")
    footer = pq.read_metadata(path, filesystem=filesystem)
    return {"path": blob.path, "bytes": blob.size, "counts": json.loads(footer.metadata[COUNTS.encode()])}


def _tokenizer(tokenizer: Tokenizer, tokens: dict[str, Any]) -> dict[str, Any]:
    names = ("vocab_size", "begin_id", "end_id", "pad_id", "unk_id", "mask_id")
    return {
        "folder": "tokenizer",
        **{name: getattr(tokenizer, name) for name in names},
        **tokens["tokenizer"],
        "max_tokens": tokens["max_tokens"],
        "bucket_tokens": tokens["bucket_tokens"],
    }
