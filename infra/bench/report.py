"""`nightcap report` of a large run with its archives: seconds, size of the page, peak memory.

infra/bench/report.py [rows]      default 1,000,000, in archives of 10,000 small pictures and recordings;
                                  the archives are one file under many names; one sample of 100 is in quarantine with its bytes
"""

import io
import resource
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from PIL import Image
from scores import PER_SHARD, write  # beside this file
from webdataset import TarWriter

from pipeline import schema
from pipeline.reports.page import write_page
from pipeline.reports.record import write_record
from pipeline.reports.tally import Tally
from pipeline.samples.wave import encode_flac
from pipeline.storage import Folder

REJECTED_EVERY, RECORDING_EVERY = 100, 10


def picture(rng: np.random.Generator) -> bytes:
    """A JPEG of 256 x 256 px, soft, about 8 KB."""
    small = Image.fromarray(rng.integers(0, 255, (12, 12, 3), dtype=np.uint8))
    data = io.BytesIO()
    small.resize((256, 256), Image.Resampling.BICUBIC).save(data, "jpeg", quality=85)
    return data.getvalue()


def archives(folder: Path, rows: int) -> None:
    """One archive of PER_SHARD samples, under as many names as the run has shards."""
    rng = np.random.default_rng(0)
    pictures = [picture(rng) for _ in range(64)]
    recording = encode_flac((8000 * np.sin(np.arange(48_000) / 9)).astype(np.int16), 16_000)
    folder.mkdir()
    with TarWriter(str(folder / "00000.tar"), encoder=False, mtime=0) as tar:
        for at in range(min(PER_SHARD, rows)):
            medium = {"flac": recording} if at % RECORDING_EVERY == 0 else {"jpg": pictures[at % 64]}
            tar.write({"__key__": f"k{at:08d}", "txt": b"reference", **medium})
    for shard in range(1, -(-rows // PER_SHARD)):
        (folder / f"{shard:05d}.tar").symlink_to(folder / "00000.tar")


def reject(output: Path) -> None:
    """Gives the tables the archives' keys, and puts one sample of REJECTED_EVERY into quarantine."""
    bad = picture(np.random.default_rng(1))[:4000]
    (output / "quarantine").mkdir()
    for path in sorted((output / "captions").iterdir()):
        table = pq.read_table(path)
        keys = pa.array([f"k{at:08d}" for at in range(table.num_rows)])
        rejected = pa.array(np.arange(table.num_rows) % REJECTED_EVERY == 1)
        for name, value in (("status", "rejected"), ("reason", "undecodable"), ("caption", None)):
            column = pc.if_else(rejected, pa.scalar(value, pa.string()), table.column(name))
            table = table.set_column(table.column_names.index(name), schema.CAPTIONS.field(name), column)
        table = table.set_column(0, schema.CAPTIONS.field("key"), keys)
        pq.write_table(table, path, compression="zstd")
        rows = [dict.fromkeys(schema.QUARANTINE.names) for _ in range(int(pc.sum(rejected).as_py()))]
        for at, row in enumerate(rows):
            row |= {
                "key": f"k{at * REJECTED_EVERY + 1:08d}",
                "shard": f"{path.stem}.tar",
                "index": at * REJECTED_EVERY + 1,
                "stage": "decode",
            }
            row |= {"reason": "undecodable", "detail": "truncated", "transient": False, "offset": 0, "size": 4096}
            row |= {"members": [{"name": "x.jpg", "bytes": bad}]}
        pq.write_table(pa.Table.from_pylist(rows, schema.QUARANTINE), output / "quarantine" / path.name)


def main() -> None:
    """Writes the run, makes its page, prints."""
    rows = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write(folder / "out", rows)
        archives(folder / "shards", rows)
        reject(folder / "out")
        tally = Tally()
        tally.counts.update({"success": rows - rows // REJECTED_EVERY, "rejected:undecodable": rows // REJECTED_EVERY})
        store = Folder(str(folder / "out"))
        recipe = {"root": str(folder / "shards")}
        path = write_record(store, "20260101T000000-abcdef", job="caption", config={}, recipe=recipe, tally=tally, outcome={})
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        started, worked = time.perf_counter(), time.process_time()
        page = folder / "out" / write_page(store, path)
        took, work = time.perf_counter() - started, time.process_time() - worked
        size, media = page.stat().st_size / 1e6, page.read_text().count('src="data:')
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(
        f"{rows:,} rows: {took:.1f} s ({work:.1f} s of one CPU), {size:.2f} MB with {media} media; peak RSS {before >> 10} -> {peak >> 10} MiB"
    )


if __name__ == "__main__":
    main()
