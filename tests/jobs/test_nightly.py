"""A night before Ray starts:

- one that is complete is not done again: its exit code is told; with another recipe it is another night;
- what is refused leaves the night's record alone; columns are looked for in what will be opened, not in what is done.
"""

import io
import tarfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs.nightly import NightlyConfig, _version, run
from pipeline.captions.engine import EngineConfig
from pipeline.commit.plan import expand, inputs
from pipeline.errors import RequestError
from pipeline.nights import record
from pipeline.nights.ledger import FINGERPRINT
from pipeline.nights.record import Night
from pipeline.storage import Folder
from tests.samples.synthetic import jpeg

DATE = "2026-01-01"


def write(path: Path, fields: dict[str, bytes]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, data in fields.items():
            member = tarfile.TarInfo(f"0.{name}")
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))


def config(folder: Path, **prompts: str) -> NightlyConfig:
    engine = EngineConfig(engine="facts", prompts=prompts)
    return NightlyConfig((str(folder / "in"),), output=str(folder / "out"), date=DATE, engine=engine)


def complete(job: NightlyConfig, **more: Any) -> bytes:
    """The record of the night, done with the job's recipe."""
    store = Folder(job.output)
    path = record.save(store, Night(date=DATE, version=_version(job, store).name, begun="x", complete=True, exit_code=3, **more))
    return store.get(path)


def test_a_complete_night_is_not_done_again_and_one_with_another_recipe_is(tmp_path: Path) -> None:
    job = config(tmp_path)
    complete(job)
    assert run(job) == 3  # there is no corpus: nothing was looked for
    with pytest.raises(RequestError, match="no shard matches"):
        run(config(tmp_path, short="One word."))


def test_what_is_refused_leaves_the_nights_record_alone(tmp_path: Path) -> None:
    write(tmp_path / "in/a.tar", {"jpg": jpeg(8, 8), "txt": b"text", "json": b'{"title": "t"}'})
    known = complete(config(tmp_path))
    with pytest.raises(RequestError, match=r"\{json.titel\}: none of the first 1 samples of .*/a.tar has it; did you mean \{json.title\}"):
        run(config(tmp_path, long="{json.titel}"))
    store = Folder(str(tmp_path / "out"))
    assert store.get(f"nights/{DATE}.json") == known and not store.exists("lease.json")


def test_columns_are_looked_for_in_what_will_be_opened(tmp_path: Path) -> None:
    write(tmp_path / "in/a.tar", {"jpg": jpeg(8, 8), "json": b'{"title": "t"}'})
    write(tmp_path / "in/b.tar", {"jpg": jpeg(8, 8), "json": b"{}"})
    job = config(tmp_path, long="{json.title}")
    (done, _), store = inputs(expand(job.shards)[1], str(tmp_path / "in")), Folder(job.output)
    table = pa.table({"status": ["success"], "caption_index": pa.array([0], pa.int32())}).replace_schema_metadata(
        {FINGERPRINT: done.fingerprint}
    )
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    store.put(f"{_version(job, store).name}/captions/a.parquet", sink.getvalue().to_pybytes())
    with pytest.raises(RequestError, match=r"\{json.title\}: none of the first 1 samples of .*/b.tar has it"):
        run(job)
