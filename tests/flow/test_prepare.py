"""`nightcap prepare` on Ray:

- one operator runs, and nothing else; mixed modalities come out as one table a shard, with tokens, and dataset.json says what is there
- `prepared` gives the same rows as a Ray dataset
- few large archives are divided, with the same rows; a limit tries, the next run does all, a third nothing
- killed anywhere, the same command ends with the same rows: every sample once, nothing left over
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs import prepare
from jobs.cluster import session
from jobs.prepare import PrepareConfig, dataset, plan, prepared, run
from jobs.run import tasks_of
from pipeline import schema
from pipeline.errors import RequestError, StoppedError
from pipeline.samples.chain import ChainConfig
from pipeline.samples.filters import FilterConfig
from pipeline.samples.resize import PictureConfig
from pipeline.samples.tokens import TokenizerConfig
from tests.commit.test_prepared import write_tar
from tests.samples.synthetic import clip, flac, jpeg, words_tokenizer

pytestmark = [pytest.mark.ray, pytest.mark.slow]
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def ray() -> Iterator[None]:
    with session("local", verbose=False):
        yield


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    (tmp_path / "in").mkdir()
    for name in "ab":
        pictures = [(f"{at:03d}.{field}", data) for at in range(40) for field, data in (("jpg", jpeg(48, 40, at)), ("txt", b"red cup"))]
        write_tar(tmp_path / f"in/{name}.tar", [*pictures, ("x.flac", flac(0.2, 8_000)), ("y.mp4", clip(6)), ("z.jpg", b"rubbish")])
    words_tokenizer("red cup").save(tmp_path / "words")
    return tmp_path


def config(corpus: Path, **more: Any) -> PrepareConfig:
    chain = ChainConfig(picture=PictureConfig(short_side_px=24), tokens=TokenizerConfig(tokenizer=str(corpus / "words")))
    given = {"output": str(corpus / "out"), "chain": chain, "max_rejects": "10%", **more}
    return PrepareConfig((str(corpus / "in"),), **given)


def rows(corpus: Path, output: str = "out") -> pa.Table:
    return (
        pq.read_table(corpus / output / "prepared").sort_by([("shard", "ascending"), ("index", "ascending")]).replace_schema_metadata(None)
    )


def leftovers(output: Path) -> list[str]:
    return [
        str(path)
        for path in output.rglob("*")
        if path.is_file() and ("_parts" in path.parts or "_attempts" in path.parts or ".tmp-" in path.name)
    ]


def test_one_operator_prepares_mixed_archives_and_the_same_rows_can_be_streamed(ray: None, corpus: Path) -> None:
    job = plan(config(corpus, row_group="1KB"))
    executed = dataset(job, tuple(tasks_of(job.run))).materialize()
    names = [line.split(": ")[0].split(" ", 2)[-1] for line in executed.stats().splitlines() if line.startswith("Operator")]
    assert names == ["ReadPrepare"]
    assert executed.num_blocks() == executed.count() > 2  # each receipt by itself: the display does not wait for the end of a shard
    assert run(config(corpus)) == 0
    found = rows(corpus)
    assert found.num_rows == 84 and found.schema == schema.PREPARED
    assert found.column("modality").to_pylist()[-2:] == ["audio", "video"] and found.column("n_tokens")[0].as_py() == 4
    described = json.loads((corpus / "out/dataset.json").read_text())
    assert described["counts"] == {
        "shards": 2,
        "bytes": described["counts"]["bytes"],
        "audio": 2,
        "image": 80,
        "rows": 84,
        "tokens": 320,
        "video": 2,
    }
    assert described["tokenizer"]["vocab_size"] == 7 and (corpus / "out/tokenizer/tokenizer.json").is_file()
    streamed = prepared(str(corpus / "in"), config(corpus).chain, scratch=str(corpus / "scratch"))
    tables = list(streamed.iter_batches(batch_size=None, batch_format="pyarrow"))
    assert pa.concat_tables(tables).sort_by([("shard", "ascending"), ("index", "ascending")]) == found
    assert leftovers(corpus / "out") == []


def test_few_archives_are_divided_with_the_same_rows_and_limits_try(ray: None, corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run(config(corpus, limit=5)) == 0
    assert not (corpus / "out/prepared").exists() and pq.read_table(corpus / "out/trial").num_rows == 5
    assert run(config(corpus)) == 0
    whole = rows(corpus)
    monkeypatch.setattr(prepare, "PART_BYTES", 20_000)
    divided = plan(config(corpus, output=str(corpus / "other")))
    tasks = prepare.divided(divided, tasks_of(divided.run))
    assert len(tasks) > 6 and all(task.span is not None for task in tasks)
    assert run(config(corpus, output=str(corpus / "other"))) == 0
    assert rows(corpus, "other") == whole
    quarantined = [pq.read_table(corpus / name / "quarantine/a.parquet").replace_schema_metadata(None) for name in ("out", "other")]
    assert quarantined[0] == quarantined[1] and leftovers(corpus / "other") == []
    before = {path: path.stat().st_mtime_ns for path in (corpus / "other/prepared").iterdir()}
    assert run(config(corpus, output=str(corpus / "other"))) == 0
    assert {path: path.stat().st_mtime_ns for path in (corpus / "other/prepared").iterdir()} == before


def test_filters_are_no_part_of_the_reject_budget_and_recipes_are_guarded(ray: None, corpus: Path) -> None:
    chain = ChainConfig(picture=PictureConfig(short_side_px=24), filters=FilterConfig(min_side_px=100))
    assert run(config(corpus, chain=chain, max_rejects="3%")) == 0
    assert rows(corpus).column("modality").to_pylist() == ["audio"] * 2
    refused = pq.read_table(corpus / "out/quarantine/a.parquet")
    assert refused.column("stage").to_pylist().count("filter") == 41
    with pytest.raises(RequestError, match="was made with filters"):
        plan(config(corpus, chain=ChainConfig(picture=PictureConfig(short_side_px=24))))
    with pytest.raises(StoppedError, match=r"2 of 86 samples were rejected.*undecodable 2"):
        run(config(corpus, output=str(corpus / "strict"), max_rejects="1%"))


@pytest.mark.timeout(300)
def test_killed_anywhere_the_same_command_ends_with_every_sample_once(corpus: Path) -> None:
    for name in "cdef":
        write_tar(corpus / f"in/{name}.tar", [(f"{at:03d}.jpg", jpeg(900, 700, at, quality=85)) for at in range(60)])
    command = [
        sys.executable,
        "-m",
        "jobs.cli",
        "prepare",
        str(corpus / "in"),
        "--picture.short-side-px",
        "24",
        "--max-rejects",
        "10%",
        "-o",
    ]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}

    def start(output: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen([*command, str(corpus / output)], env=environment, start_new_session=True, stdout=subprocess.DEVNULL)

    process = start("out")
    deadline, killed = time.monotonic() + 150, False
    while not killed and time.monotonic() < deadline and process.poll() is None:
        if any((corpus / "out/_attempts").rglob("*.json")):
            workers = [one for one in psutil.Process(process.pid).children(recursive=True) if "ray::ReadPrepare" in " ".join(one.cmdline())]
            if workers:
                workers[0].kill()
                killed = True
        time.sleep(0.01)
    assert killed
    while not any((corpus / "out").glob("prepared/*.parquet")) and time.monotonic() < deadline:
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert start("out").wait(timeout=100) == 0
    found = rows(corpus)
    assert found.select(["shard", "index"]).to_pylist() == [
        {"shard": f"{name}.tar", "index": at} for name in "abcdef" for at in range(42 if name in "ab" else 60)
    ]
    temporary = [path for path in leftovers(corpus / "out") if ".tmp-" not in path]
    assert temporary == []  # what a killed driver was writing is deleted after a day
