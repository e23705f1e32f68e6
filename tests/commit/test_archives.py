"""Prepared WebDataset archives, without Ray:

- `webdataset` reads back every row: media byte for byte, text, tokens, origin; so does our own reader, and it gives equal rows
- the same rows give the same bytes, in one task or in parts; keys that repeat stay apart; `check` finds no damage
- commit, quarantine and `--limit` are those of tables; dataset.json, sizes.json and wids.json count what stands there
- trainers of ours say that they read Parquet
"""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import webdataset

from jobs.describe import describe
from jobs.prepare import PrepareConfig, recipe_of
from pipeline import schema, storage
from pipeline.commit.archives import read_archive
from pipeline.commit.parts import ARCHIVES
from pipeline.commit.prepared import WriteConfig, write_shard
from pipeline.errors import RequestError
from pipeline.samples.chain import ChainConfig
from pipeline.samples.frames import FramesConfig
from pipeline.samples.group import EndOfShard, Sample, read_samples
from pipeline.samples.resize import PictureConfig
from pipeline.samples.stretch import divide
from pipeline.training.corpus import open_corpus
from tests.commit.test_prepared import config as tables_config
from tests.commit.test_prepared import task, write_tar
from tests.samples.synthetic import clip, flac, jpeg, words_tokenizer

CHAIN = ChainConfig(take=("image", "audio", "video", "text"), picture=PictureConfig(short_side_px=16), frames=FramesConfig(n_frames=3))


@pytest.fixture
def here(tmp_path: Path) -> Path:
    members = [(f"{at:03d}.{field}", data) for at in range(20) for field, data in (("jpg", jpeg(40, 30, at)), ("txt", b"red cup"))]
    members += [("a/sound.flac", flac(0.1, 16_000)), ("clip.mp4", clip(6)), ("lonely.txt", "杯子 ☕".encode()), ("bad.jpg", b"rubbish")]
    members += [("005.jpg", jpeg(40, 30, 5)), ("005.json", b'{"captions": ["one", "two"]}'), ("005.jpg", jpeg(40, 30, 6))]
    (tmp_path / "in").mkdir()
    write_tar(tmp_path / "in/a.tar", members)
    return tmp_path


def config(here: Path, output: str = "out", tables: str = ARCHIVES) -> WriteConfig:
    base = tables_config(here, CHAIN)
    prepare = replace(base.prepare, output=str(here / output), tokenizer=words_tokenizer("red cup"))
    return replace(base, output=str(here / output), prepare=prepare, tables=tables)


def expected(here: Path) -> pa.Table:
    list(write_shard(task(here), config(here, "tables", "prepared")))
    return pq.read_table(here / "tables/prepared/a.parquet").replace_schema_metadata(None)


def test_webdataset_reads_every_row_back(here: Path) -> None:
    list(write_shard(task(here), config(here)))
    rows = expected(here).to_pylist()
    found: list[dict[str, Any]] = list(webdataset.WebDataset(str(here / "out/archives/a.tar"), shardshuffle=False))  # type: ignore[attr-defined]
    keys = [sample["__key__"] for sample in found]
    assert len(found) == len(rows) == 25 and keys[-2:] == ["005-24", "005-25"] and len(set(keys)) == 25
    for sample, row in zip(found, rows, strict=True):
        described = json.loads(sample["json"])
        same = ("shard", "index", "key", "sample_sha256", "media_sha256", "modality", "token_ids", "n_tokens", "timestamps_s", "flags")
        assert {name: described.get(name) for name in same} == {name: row[name] for name in same}
        assert (sample.get("jpg"), sample.get("flac")) == (row["image"], row["audio"])
        assert sample.get("txt", b"").decode() == (row["text"] or "")
        assert [sample[name] for name in sorted(sample) if name.startswith("frame")] == (row["frames"] or [])
    assert json.loads(found[-2]["json"])["captions"] == ["one", "two"] and len(rows[21]["frames"]) == 3


def test_our_reader_gives_equal_rows_and_finds_no_damage(here: Path) -> None:
    list(write_shard(task(here), config(here)))
    path = str(here / "out/archives/a.tar")
    back = pa.concat_tables(read_archive(path))
    assert back.schema == schema.PREPARED and back == expected(here)
    *samples, end = list(read_samples(storage.open_reader(path), max_sample_bytes=1 << 20))
    assert isinstance(end, EndOfShard) and end.n_damage == end.repeated_keys == 0 and not end.ignored
    assert all(isinstance(sample, Sample) and sample.problem is None for sample in samples)
    assert (here / "out/quarantine/a.parquet").is_file()
    with pytest.raises(ValueError, match="none that nightcap prepare wrote"):
        list(read_archive(str(here / "in/a.tar")))


def test_the_same_rows_give_the_same_bytes_also_in_parts(here: Path) -> None:
    list(write_shard(task(here), config(here)))
    whole = (here / "out/archives/a.tar").read_bytes()
    spans = divide(storage.open_reader(str(here / "in/a.tar")), 9_000)
    assert len(spans) > 2
    small = replace(config(here, "parts"), group_bytes=1_000)
    receipts = [list(write_shard(task(here, span=span, siblings=spans), small)) for span in spans]
    assert receipts[-1][-1].column("committed").to_pylist() == [True]
    assert (here / "parts/archives/a.tar").read_bytes() == whole
    assert pq.read_table(here / "parts/quarantine/a.parquet").num_rows == 1


def test_commit_limit_and_descriptions_are_as_for_tables(here: Path) -> None:
    list(write_shard(task(here, stop_after=4), config(here)))
    assert (here / "out/trial/a.tar").is_file() and not (here / "out/archives").exists()
    list(write_shard(task(here), config(here)))
    before = (here / "out/archives/a.tar").stat().st_mtime_ns
    assert list(write_shard(task(here), config(here)))[-1].column("committed").to_pylist() == [False]
    assert (here / "out/archives/a.tar").stat().st_mtime_ns == before
    asked = PrepareConfig(("x",), output="x", chain=CHAIN, format="webdataset")
    store = storage.Folder(str(here / "out"))
    found = describe(store, recipe_of(asked, None), None)
    assert found["tables"] == "archives" and found["counts"]["rows"] == 25 and found["counts"]["video"] == 1
    assert json.loads(store.get("archives/sizes.json")) == {"a.tar": 25}
    assert json.loads(store.get("archives/wids.json"))["shardlist"] == [
        {"url": "a.tar", "nsamples": 25, "filesize": found["counts"]["bytes"]}
    ]
    assert describe(store, recipe_of(asked, None), None) == found
    with pytest.raises(RequestError, match="training reads Parquet"):
        open_corpus(str(here / "out"))
