"""`shard`: folder pairs against `tar` over the same files; a shuffle of corpora larger than the memory it is given; memory as they grow.

Usage: shard.py [cpu] [pairs [picture bytes]]. Files are in the page cache; both sides sync what they wrote. `cpu`: seconds of a
processor that either takes, ours in this process without Ray, which other work on the machine hardly changes.
"""

import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from peaks import peaks

from jobs.cluster import session
from jobs.phases import execute
from jobs.shard import ShardConfig, prepare
from pipeline.shards.download import DownloadConfig
from pipeline.shards.item import Options
from pipeline.shards.layouts import detect, look_at
from pipeline.shards.order import assign
from pipeline.shards.pack import PackConfig, pack_shard
from pipeline.shards.scan import scan_piece
from pipeline.storage import Folder

ROUNDS = 3
MEMORY = "16MiB"


def pairs(folder: Path, count: int, size_bytes: int) -> Path:
    """Pictures of random bytes with a sentence each, a thousand to a folder."""
    chance = random.Random(1)
    for number in range(count):
        below = folder / f"{number // 1000:04d}"
        below.mkdir(parents=True, exist_ok=True)
        (below / f"{number:07d}.jpg").write_bytes(b"\xff\xd8\xff" + chance.randbytes(size_bytes - 3))
        (below / f"{number:07d}.txt").write_text(f"picture number {number} of a corpus for measuring\n")
    return folder


def texts(folder: Path, count: int) -> Path:
    """A manifest whose index is large: 4 KiB of text a row, all about one picture."""
    folder.mkdir()
    (folder / "a.jpg").write_bytes(b"\xff\xd8\xff" + bytes(1000))
    chance = random.Random(2)
    with (folder / "m.jsonl").open("w") as file:
        for number in range(count):
            file.write(json.dumps({"path": "a.jpg", "text": f"{number} {chance.randbytes(2048).hex()}"}) + "\n")
    return folder / "m.jsonl"


def ours(source: Path, output: Path) -> float:
    """Seconds of a run inside a Ray that is up."""
    began = time.monotonic()
    job, _ = prepare(ShardConfig(source=(str(source),), output=str(output)))
    execute(job)
    return time.monotonic() - began


def tars(source: Path, output: Path) -> float:
    """Seconds of tar and a sync of its file."""
    began = time.monotonic()
    subprocess.run(["tar", "-cf", str(output), "-C", str(source), "."], check=True)
    subprocess.run(["sync", str(output)], check=True)
    return time.monotonic() - began


def rate(folder: Path, count: int, size_bytes: int) -> None:
    """Prints the rate against tar's, alternating."""
    source = pairs(folder / "pairs", count, size_bytes)
    with session("", verbose=False):
        ours(source, folder / "warm")
        ratios = []
        for turn in range(ROUNDS):
            theirs, own = tars(source, folder / f"{turn}.tar"), ours(source, folder / f"out{turn}")
            ratios.append(theirs / own)
            print(f"tar {theirs:.2f} s   shard {own:.2f} s   ratio {theirs / own:.2f}", flush=True)
    print(f"{count:,} pairs of {size_bytes:,} bytes: {min(ratios):.2f} / {sorted(ratios)[ROUNDS // 2]:.2f} (min / median)")


def processor(folder: Path, count: int, size_bytes: int) -> None:
    """Prints processor time of tar and sync, and of looking, scanning and packing, alternating."""
    source, options = pairs(folder / "pairs", count, size_bytes), Options()
    ratios = []
    for turn in range(ROUNDS + 1):
        began = os.times()
        tars(source, folder / "x.tar")
        between = os.times()
        store = Folder(str(folder / f"out{turn}"))
        look = look_at(str(source))
        layout, _ = detect(look, options)
        receipts = [scan_piece(number, piece, options, store.url) for number, piece in enumerate(layout.pieces(look, options))]
        for plan in assign(store, [receipt.path for receipt in receipts], max_bytes=10**9, max_samples=10_000):
            pack_shard(plan, PackConfig(store.url, "shard", DownloadConfig(), 10**9))
        ended = os.times()
        theirs = between.children_user + between.children_system - began.children_user - began.children_system
        own = ended.user + ended.system - between.user - between.system
        if turn:  # the first reads files into the page cache
            ratios.append(theirs / own)
            print(f"tar {theirs:.2f} s   shard {own:.2f} s of a processor   ratio {theirs / own:.2f}", flush=True)
    print(f"{count:,} pairs of {size_bytes:,} bytes: {min(ratios):.2f} / {sorted(ratios)[ROUNDS // 2]:.2f} (min / median)")


def memory(folder: Path) -> None:
    """Prints peaks of shuffles whose index is 1.3, 6.5 and 20 times the memory given."""
    for count in (5_000, 25_000, 75_000):
        source = texts(folder / f"texts{count}", count)
        found = peaks(["shard", str(source), "-o", str(folder / f"shuffled{count}"), "--shuffle", "1", "--memory", MEMORY])
        print(f"{count:,} rows, {count * 4200 >> 20} MiB of index, --memory {MEMORY}: {found}", flush=True)


def main() -> None:
    """Rate and memory, or processor time."""
    given = [text for text in sys.argv[1:] if text != "cpu"]
    count, size_bytes = (int(text) for text in (*given, *("10000", "65536")[len(given) :]))
    with tempfile.TemporaryDirectory(prefix="shard-bench-") as name:
        if len(given) < len(sys.argv) - 1:
            processor(Path(name), count, size_bytes)
            return
        rate(Path(name), count, size_bytes)
        memory(Path(name))


if __name__ == "__main__":
    main()
