"""Folders of media with texts -> archives, tokenizer, prepared rows, a trained model, captions: each by its command, as a user runs it."""

import contextlib
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq


def nightcap(*arguments: str) -> None:
    """One command; CalledProcessError where it fails."""
    subprocess.run([str(Path(sys.executable).with_name("nightcap")), *arguments], check=True)


def prepared(folder: Path, medium: str, *more: str, test: Sequence[str]) -> None:
    """`folder/train` and each of `test` (pairs of medium and .txt) -> archives, and the first into prepared rows."""
    for part in ("train", *test):
        nightcap("shard", str(folder / part), "--output", str(folder / "shards" / part), "--max-samples", "500", "--shuffle", "1")
    words = str(folder / "tokenizer")
    nightcap("tokenizer", str(folder / "shards/train"), "--output", words, "--vocab-size", "400", "--lowercase")
    taken = ("--take", medium, "--require-text", "--tokenizer", words, *more)
    nightcap("prepare", str(folder / "shards/train"), "--output", str(folder / "prepared"), *taken)


def taught(folder: Path, medium: str, *more: str, test: Sequence[str]) -> dict[str, list[dict[str, Any]]]:
    """Trains on what `prepared` made and captions each of `test`: caption rows, with the reference in `text`."""
    with tempfile.TemporaryDirectory(dir=folder) as name:
        output = Path(name)
        nightcap("train", str(folder / "prepared"), "--output", str(output / "model"), "--modalities", medium, *more)
        found = {}
        for part in test:
            engine = ("--engine", "checkpoint", "--model", str(output / "model/model"))
            nightcap("caption", str(folder / "shards" / part), "--output", str(output / part), *engine)
            files = sorted((output / part / "captions").rglob("*.parquet"))
            found[part] = [row for file in files for row in pq.read_table(file, columns=["key", "text", "caption"]).to_pylist()]
    return found


@contextlib.contextmanager
def kept(folder: str) -> Iterator[tuple[Path, bool]]:
    """The folder to work in, and whether nothing is there yet; a temporary one where none is named."""
    if folder:
        fresh = not Path(folder).exists()
        Path(folder).mkdir(parents=True, exist_ok=True)
        yield Path(folder), fresh
    else:
        with tempfile.TemporaryDirectory() as name:
            yield Path(name), True
