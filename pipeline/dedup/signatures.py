"""One shard -> its table of signatures: the hash of the medium, a perceptual hash of pictures, MinHash of texts.

Reading, decoding and guarding are `samples.source`'s, with a decoder that looks at pictures only: recordings and clips are
known by their bytes. The table appears whole when the shard was read to its end, and never otherwise.
"""

import functools
import json
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from pipeline import schema, storage
from pipeline.draft import DraftFile
from pipeline.errors import Reason, SampleError
from pipeline.samples.chunks import ShardTask
from pipeline.samples.image import decode_image
from pipeline.samples.medium import Medium, Needs, Pixels, modality_of
from pipeline.samples.qualities import contrast
from pipeline.samples.source import ReadConfig, end_of, read_shard
from pipeline.samples.text import TextConfig, normalise_text

FOLDER = "signatures"
PERMUTATIONS = 128
"""Values of a MinHash: similarity is told to 0.035, one standard deviation at 0.8."""
GRAM_CHARACTERS = 5
"""Texts are compared by their sequences of so many characters, which needs no words and suits any script."""
PICTURE_PX = 64
"""Shorter side that pictures are shrunk to before they are hashed; the hash itself sees 32 x 32."""
BLANK_CONTRAST = 2.0
"""Grey levels. What is blanker gets no hash: it would be noise, and all blank pictures would be one."""
EXAMPLES = 3
_TEXT = TextConfig(form="NFKC", white_space="single")


def picture_needs() -> Needs:
    """What is decoded: pictures, small. All modalities are taken, so that the primary medium is the one that `prepare` takes."""
    return Needs(accepts=schema.MODALITIES, short_side_px=PICTURE_PX)


def decode_pictures(data: bytes, field: str, needs: Needs) -> Iterator[Medium]:
    """A decoder for `ReadConfig`: pixels of pictures, nothing of other media."""
    modality = modality_of(field)
    if modality != "image":
        yield from decode_nothing(data, field, needs)
        return
    pixels_hwc, width, height = decode_image(data, needs.short_side_px)
    yield Medium(modality="image", field=field, size_bytes=len(data), pixels_hwc=pixels_hwc, width=width, height=height)


def decode_nothing(data: bytes, field: str, _: Needs) -> Iterator[Medium]:
    """A decoder for `ReadConfig` that looks at no medium, only that there is one."""
    if not data:
        raise SampleError(Reason.EMPTY_MEDIUM, "0 bytes")
    yield Medium(modality=modality_of(field) or "", field=field, size_bytes=len(data))


def picture_hash(pixels_hwc: Pixels) -> int | None:
    """64 bits: signs of the low frequencies around their median (imagehash's phash). None for a blank picture."""
    if contrast(pixels_hwc) < BLANK_CONTRAST:
        return None
    import imagehash

    bits = imagehash.phash(Image.fromarray(pixels_hwc)).hash
    return int.from_bytes(np.packbits(bits).tobytes(), "big")


@functools.cache
def _empty() -> Any:
    import datasketch  # brings scipy.integrate, half a second that the command line does not need

    return datasketch.MinHash(PERMUTATIONS, seed=1, scheme="affine32")


def text_minhash(text: str) -> bytes | None:
    """PERMUTATIONS little-endian uint32; None for a text that is empty once it is normalised. Case and full width do not count."""
    folded = normalise_text(text, _TEXT).casefold()
    if not folded:
        return None
    last = max(1, len(folded) - GRAM_CHARACTERS + 1)
    minhash = _empty().copy()
    minhash.update_batch(sorted({folded[at : at + GRAM_CHARACTERS].encode() for at in range(last)}))
    return bytes(minhash.hashvalues.astype("<u4").tobytes())


@dataclass(frozen=True, slots=True, kw_only=True)
class SignatureConfig:
    """How signatures are made, the same for all shards."""

    read: ReadConfig
    texts: bool
    """Hash texts."""
    path_of: Callable[[str], str]
    """Shard -> path of its table below the output."""


class _Unfinished(Exception):
    """The shard was not read to its end: its table must not appear."""


def sign_shard(task: ShardTask, config: SignatureConfig) -> Iterator[pa.Table]:
    """Writes the table of one shard; yields schema.RECEIPTS as it goes on, the last one committed."""
    metadata = {"nightcap.shard": task.shard, "nightcap.fingerprint": task.fingerprint}
    with suppress(_Unfinished), storage.Folder(config.read.output).create(config.path_of(task.shard)) as draft:
        sink = DraftFile(draft)
        with pq.ParquetWriter(sink, schema.SIGNATURES.with_metadata(metadata), compression="zstd") as writer:
            end = yield from _signed(task, config, writer)
        if end is None:
            raise _Unfinished
    if end is not None:
        yield _receipt(task, end["n_samples"], end["n_samples"], Counter(), {}, [], damage=end["n_damage"], committed=True)


def _signed(task: ShardTask, config: SignatureConfig, writer: Any) -> Generator[pa.Table, None, dict[str, Any] | None]:
    """Writes a row a sample; yields receipts; returns the shard's account, None where it was not read to its end."""
    started = time.perf_counter()
    for table in read_shard(task, config.read):
        end = end_of(table)
        if end is not None:
            return end
        read_s, started = time.perf_counter() - started, time.perf_counter()
        rows = [_signature(row, config.texts) for row in table.to_pylist()]
        writer.write_table(pa.Table.from_pylist(rows, schema.SIGNATURES))
        counts = Counter(schema.SUCCESS if row["reason"] is None else f"{schema.REJECTED}:{row['reason']}" for row in rows)
        rejects = [[row["reason"], task.shard, row["key"] or "", row["detail"] or ""] for row in rows if row["reason"]]
        seconds = {"read and decode": read_s, "sign": time.perf_counter() - started}
        yield _receipt(task, rows[0]["index"], rows[-1]["index"], counts, seconds, rejects[:EXAMPLES], damage=0, committed=False)
        started = time.perf_counter()
    return None


def _signature(row: dict[str, Any], texts: bool) -> dict[str, Any]:
    """A row of SAMPLES as one of SIGNATURES, with the detail of a reject. Text without a medium is a sample here."""
    signature = {"index": row["index"], "key": row["key"], "reason": None, "detail": row["detail"]}
    alone = row["reason"] == Reason.NO_MEDIUM.value and row["text"]
    if row["status"] == schema.REJECTED and not alone:
        return {**signature, "reason": row["reason"]}
    if row["media_sha256"] is not None:
        signature["media_sha256"] = bytes.fromhex(row["media_sha256"])
    if row["pixels_hwc"] is not None:
        pixels_hwc = np.frombuffer(row["pixels_hwc"], np.uint8).reshape(row["pixels_height"], row["pixels_width"], 3)
        signature["picture"] = picture_hash(pixels_hwc)
    if texts and row["text"]:
        signature["minhash"] = text_minhash(row["text"])
    return signature


def _receipt(
    task: ShardTask,
    lo: int,
    hi: int,
    counts: Counter[str],
    seconds: dict[str, float],
    examples: list[list[str]],
    *,
    damage: int,
    committed: bool,
) -> pa.Table:
    row = {"shard": task.shard, "lo": lo, "hi": hi, "counts": json.dumps(counts), "audio_s": 0.0, "committed": committed, "damage": damage}
    return pa.Table.from_pylist([{**row, "seconds": json.dumps(seconds), "examples": json.dumps(examples)}], schema.RECEIPTS)
