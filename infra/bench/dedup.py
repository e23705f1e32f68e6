"""`nightcap dedup` on short texts: rate, and peak memory with 10 times the corpus, beside `datasketch` alone on the same texts.

One of ten texts is an earlier one with a word changed at its end. The loop reads texts from memory, with the same permutations
and sequences, and asks datasketch's MinHashLSH for each before it is inserted: one process, everything in memory.
"""

import io
import json
import tarfile
import tempfile
import time
from pathlib import Path

import datasketch
import numpy as np
from peaks import peaks

from pipeline.dedup.signatures import GRAM_CHARACTERS, PERMUTATIONS

SHARD_SAMPLES, FEW, MANY, WORDS = 5_000, 1, 10, 18


def texts_of(count: int) -> list[str]:
    """Texts of WORDS words, about 110 characters."""
    draw = np.random.default_rng(0)
    words = np.array(["".join(draw.choice(list("abcdefghijklmnopqrstuvwxyz"), int(draw.integers(2, 9)))) for _ in range(20_000)])
    found: list[str] = []
    for at in range(count):
        if at % 10 == 9:
            found.append(found[int(draw.integers(0, at))].rsplit(" ", 1)[0] + " " + str(words[draw.integers(0, len(words))]))
        else:
            found.append(" ".join(words[draw.integers(0, len(words), WORDS)].tolist()))
    return found


def write(folder: Path, texts: list[str]) -> None:
    """Archives of SHARD_SAMPLES samples that are text alone."""
    folder.mkdir()
    for shard in range(0, len(texts), SHARD_SAMPLES):
        with tarfile.open(folder / f"{shard // SHARD_SAMPLES:04d}.tar", "w", format=tarfile.USTAR_FORMAT) as tar:
            for at, text in enumerate(texts[shard : shard + SHARD_SAMPLES]):
                data, member = text.encode(), tarfile.TarInfo(f"{at:06d}.txt")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))


def alone(texts: list[str]) -> tuple[int, float]:
    """Texts that datasketch finds to be like an earlier one, and seconds."""
    began, gone = time.perf_counter(), 0
    index = datasketch.MinHashLSH(threshold=0.8, num_perm=PERMUTATIONS)
    empty = datasketch.MinHash(PERMUTATIONS, seed=1, scheme="affine32")
    for at, text in enumerate(texts):
        minhash = empty.copy()
        minhash.update_batch(sorted({text[start : start + GRAM_CHARACTERS].encode() for start in range(len(text) - GRAM_CHARACTERS + 1)}))
        if any(index_of.jaccard(minhash) >= 0.8 for index_of in map(KEPT.__getitem__, index.query(minhash))):
            gone += 1
        else:
            KEPT[at] = minhash
            index.insert(at, minhash)
    return gone, time.perf_counter() - began


KEPT: dict[int, datasketch.MinHash] = {}


def main() -> None:
    """Prints rates and peaks."""
    texts = texts_of(MANY * SHARD_SAMPLES)
    with tempfile.TemporaryDirectory() as name:
        found = []
        for shards in (FEW, MANY):
            write(Path(name, str(shards)), texts[: shards * SHARD_SAMPLES])
            output = Path(name, f"output-{shards}")
            found.append(peaks(["dedup", f"{name}/{shards}", "--output", str(output), "--by", "text", "--max-rejects", "100%"]))
            decided = json.loads((output / "drop/_decided.json").read_text())
            count, seconds = shards * SHARD_SAMPLES, found[-1]["seconds"]
            print(
                f"nightcap dedup   {count:,} texts   {decided['dropped']['text']:,} go   {seconds:.1f} s   {count / seconds:,.0f}/s, start of Ray included",
                flush=True,
            )
        few, many = found
        print(f"steady           {(MANY - FEW) * SHARD_SAMPLES / (many['seconds'] - few['seconds']):,.0f}/s")
        for what in ("driver USS", "worker USS"):
            print(f"{what:<16} {few[what]:.0f} -> {many[what]:.0f} MiB   x {many[what] / few[what]:.2f}")
    count = FEW * SHARD_SAMPLES
    gone, seconds = alone(texts[:count])
    print(f"datasketch alone {count:,} texts   {gone:,} go   {seconds:.1f} s   {count / seconds:,.0f}/s in one process")


if __name__ == "__main__":
    main()
