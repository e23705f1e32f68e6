"""The files of a captioning run, written without running one."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image
from webdataset import TarWriter

from pipeline import schema
from pipeline.reports.record import write_record
from pipeline.reports.tally import Tally
from pipeline.samples.wave import encode_flac
from pipeline.storage import Folder

EVIL = '<script>document.title="run"</script><img src=http://127.0.0.1:9/x onerror="document.title=1"> $x^2$ & "quoted"'
RUN = "20260101T000000-abcdef"


def picture(seed: int) -> bytes:
    """A small JPEG."""
    data = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, (40, 60, 3), dtype=np.uint8)).save(data, "jpeg")
    return data.getvalue()


def recording() -> bytes:
    """A second of a tone as FLAC."""
    return encode_flac((8000 * np.sin(np.arange(16_000) / 9)).astype(np.int16), 16_000)


def row(at: int, shard: str, **given: Any) -> dict[str, Any]:
    """A caption row: a picture that was captioned, unless told otherwise."""
    line: dict[str, Any] = dict.fromkeys(schema.CAPTIONS.names)
    line |= {"key": f"k{at}", "shard": shard, "index": at, "caption_index": 0, "status": "success", "flags": [], "modality": "image"}
    return line | {"text": f"reference {at}", "caption": f"caption {at}", "language": "en", "width": 60, "height": 40} | given


def write_rows(output: Path, shard: str, rows: list[dict[str, Any]]) -> None:
    """A caption table."""
    path = output / "captions" / f"{shard.removesuffix('.tar')}.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows, schema.CAPTIONS), path)


def write_run(folder: Path) -> Path:
    """An archive of five pictures and a recording, the tables of its run, one reject; returns the output folder."""
    (folder / "shards").mkdir()
    with TarWriter(str(folder / "shards/a.tar"), encoder=False, mtime=0) as tar:
        for at in range(5):
            tar.write({"__key__": f"k{at}", "jpg": picture(at), "txt": b"x"})
        tar.write({"__key__": "k5", "flac": recording()})
        tar.write({"__key__": "k6", "jpg": b"broken"})
    output = folder / "out"
    rows = [row(at, "a.tar") for at in range(5)]
    rows[1] |= {"text": EVIL, "caption": EVIL, "key": "k1"}
    rows += [row(5, "a.tar", modality="audio", duration_s=1.0, width=None, height=None, caption="a tone", flags=["repetition"])]
    rows += [row(6, "a.tar", status="rejected", reason="undecodable", caption=None)]
    write_rows(output, "a.tar", rows)
    reject = {"key": EVIL, "shard": "a.tar", "index": 6, "stage": "decode", "reason": "undecodable", "detail": EVIL, "transient": False}
    (output / "quarantine").mkdir()
    table = pa.Table.from_pylist([reject | {"offset": 10_240, "size": 1_024, "members": None}], schema.QUARANTINE)
    pq.write_table(table, output / "quarantine/a.parquet")
    tally = Tally()
    tally.counts.update({"success": 6, "rejected:undecodable": 1})
    tally.seconds.update({"read and decode": 2.0, "engine": 1.0})
    tally.timeline = [(0.5, 3, 0), (1.0, 7, 1)]
    tally.started_s -= 1.0
    write_record(
        Folder(str(output)),
        RUN,
        job="caption",
        results="captions",
        config={"prompt": EVIL},
        recipe={"root": str(folder / "shards"), "engine": "facts"},
        tally=tally,
        outcome={"shards_left": 0, "stopped": None},
    )
    return output
