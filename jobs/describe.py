"""`dataset.json`: what a prepared folder holds, derived from what stands there."""

import json
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pyarrow.parquet as pq

from pipeline import schema, storage
from pipeline.commit.parts import PREPARED
from pipeline.commit.rowgroups import COUNTS
from pipeline.samples.tokens import Tokenizer

PATH = "dataset.json"
FORMAT = 1
THREADS = 16


def describe(store: storage.Folder, recipe: dict[str, Any], tokenizer: Tokenizer | None) -> dict[str, Any]:
    """Writes the description and returns it. Footers of tables that an earlier one knows by name and size are not read again."""
    known = {(shard["path"], shard["bytes"]): shard for shard in _known(store).get("shards", [])}
    blobs = [blob for blob in store.list(PREPARED) if blob.path.endswith(".parquet") and storage.TEMPORARY not in blob.path]
    with ThreadPoolExecutor(THREADS) as pool:
        shards = list(pool.map(lambda blob: known.get((blob.path, blob.size)) or _shard(store, blob), blobs))
    totals: Counter[str] = Counter()
    for shard in shards:
        totals.update(shard["counts"])
    chain = {name: value for name, value in recipe.items() if name not in ("root", "job", "tokens")}
    found = {
        "format": FORMAT,
        "tables": PREPARED,
        "schema": {field.name: str(field.type) for field in schema.PREPARED},
        "tokenizer": None if tokenizer is None else _tokenizer(tokenizer, recipe["tokens"]),
        **chain,
        "counts": {"shards": len(shards), "bytes": sum(shard["bytes"] for shard in shards), **dict(sorted(totals.items()))},
        "shards": shards,
    }
    store.put(PATH, json.dumps(found, indent=1, ensure_ascii=False).encode())
    return found


def _known(store: storage.Folder) -> dict[str, Any]:
    try:
        found: Any = json.loads(store.get(PATH))
    except (FileNotFoundError, ValueError):
        return {}
    return found if isinstance(found, dict) and found.get("format") == FORMAT else {}


def _shard(store: storage.Folder, blob: storage.Blob) -> dict[str, Any]:
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
