"""Folders of media with texts -> archives, tokenizer, prepared rows, a trained model, captions: each by its command, as a user runs it."""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq


def nightcap(*arguments: str) -> None:
    """One command; CalledProcessError where it fails."""
    subprocess.run([str(Path(sys.executable).with_name("nightcap")), *arguments], check=True)


def taught(
    folder: Path, medium: str, prepare: Sequence[str], train: Sequence[str], *, test: Sequence[str] = ("test",)
) -> dict[str, list[dict[str, Any]]]:
    """Learns from `folder/train` (pairs of medium and .txt) and captions each of `test`: its caption rows, with reference in `text`."""
    for part in ("train", *test):
        nightcap("shard", str(folder / part), "--output", str(folder / "shards" / part), "--max-samples", "500", "--shuffle", "1")
    words = str(folder / "tokenizer")
    nightcap("tokenizer", str(folder / "shards/train"), "--output", words, "--vocab-size", "400", "--lowercase")
    taken = ("--take", medium, "--require-text", "--tokenizer", words, *prepare)
    nightcap("prepare", str(folder / "shards/train"), "--output", str(folder / "prepared"), *taken)
    nightcap("train", str(folder / "prepared"), "--output", str(folder / "model"), "--modalities", medium, *train)
    found = {}
    for part in test:
        captions = folder / "captions" / part
        model = str(folder / "model/model")
        nightcap("caption", str(folder / "shards" / part), "--output", str(captions), "--engine", "checkpoint", "--model", model)
        files = sorted((captions / "captions").rglob("*.parquet"))
        found[part] = [row for file in files for row in pq.read_table(file, columns=["key", "text", "caption"]).to_pylist()]
    return found
