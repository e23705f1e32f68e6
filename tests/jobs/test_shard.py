"""`nightcap shard` on a real Ray:

- what it writes is read alike by webdataset, wids, datasets, Ray and open_clip, and its index files are what they look for;
- the bytes do not depend on the run: a run whose archives, index or shuffle are half there ends with the same bytes;
- failed downloads leave a row and an unused key, and are asked for again when that is asked for; a repeated id is a reject;
- another source or other options into the same output are refused; rejects above the budget stop it before anything is written.
"""

import json
import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from jobs.shard import ShardConfig, run
from pipeline.errors import RequestError, StoppedError
from tests.shards.kit import JPG, read
from tests.shards.test_download import server as server  # a fixture

COUNT = 60

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def ray_session() -> Iterator[None]:
    from jobs.cluster import session

    with session("local", verbose=False):
        yield


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from PIL import Image

    folder = tmp_path_factory.mktemp("pictures")
    chance = random.Random(1)
    for number in range(COUNT):
        below = folder / str(number % 3)
        below.mkdir(exist_ok=True)
        Image.new("RGB", (16, 16), tuple(chance.randbytes(3))).save(below / f"p{number}.jpg")
        (below / f"p{number}.txt").write_text(f"picture {number}")
    return folder


def tars(output: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(output.glob("*.tar"))}


def config(source: Path, output: Path, **given: Any) -> ShardConfig:
    return ShardConfig(source=(str(source),), output=str(output), **{"max_samples": 25, "shuffle": 3, **given})


@pytest.fixture(scope="module")
def output(ray_session: None, source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("shards")
    assert run(config(source, output)) == 0
    return output


def test_it_holds_every_sample_once_under_keys_that_are_used_once(output: Path, source: Path) -> None:
    samples = [sample for tar in tars(output).values() for sample in read(tar)]
    assert [sample["__key__"] for sample in samples] == [b"%09d" % number for number in range(COUNT)]
    names = [json.loads(sample["json"])["original_name"] for sample in samples]
    assert sorted(names) == sorted(path.relative_to(source).as_posix() for path in source.rglob("*.jpg")) != names
    for sample, name in zip(samples, names, strict=True):
        assert sample["jpg"] == (source / name).read_bytes() and sample["txt"] == (source / name).with_suffix(".txt").read_bytes()
    assert not (output / "_scan").exists() and not (output / "_order").exists() and not (output / "rejects").exists()


def test_other_tools_read_the_same(output: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import webdataset

    expected = [
        (sample["__key__"].decode(), sample["jpg"], sample["txt"].decode()) for tar in tars(output).values() for sample in read(tar)
    ]
    urls = [str(path) for path in sorted(output.glob("*.tar"))]
    assert [(one["__key__"], one["jpg"], one["txt"].decode()) for one in webdataset.WebDataset(urls, shardshuffle=False)] == expected

    wids = pytest.importorskip("wids")
    indexed = wids.ShardListDataset(
        str(output / "wids.json"), cache_dir=str(tmp_path / "cache"), keep=True, transformations=[lambda sample: sample]
    )
    assert len(indexed) == COUNT
    assert [(one["__key__"], one[".jpg"].read(), one[".txt"].read().decode()) for one in (indexed[at] for at in range(COUNT))] == expected

    import ray

    rows = ray.data.read_webdataset(urls, decoder=None).take_all()
    assert sorted((row["__key__"], row["jpg"], row["txt"].decode()) for row in rows) == expected


def test_datasets_streams_the_same(output: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    datasets = pytest.importorskip("datasets")
    streamed = datasets.load_dataset("webdataset", data_files=str(output / "*.tar"), split="train", streaming=True, cache_dir=str(tmp_path))
    found = [(row["__key__"], row["txt"], row["json"]["original_name"], row["jpg"].size) for row in streamed]
    samples = [sample for tar in tars(output).values() for sample in read(tar)]
    assert found == [(s["__key__"].decode(), s["txt"].decode(), json.loads(s["json"])["original_name"], (16, 16)) for s in samples]


def test_open_clips_loader_finds_the_size_and_the_pairs(output: Path) -> None:
    data = pytest.importorskip("open_clip_train.data")
    pattern = str(output / "shard-{00000..00002}.tar")
    assert data.get_dataset_size(pattern) == (COUNT, 3)
    urls = data.expand_urls(pattern)[0]
    # Its own chain of these three breaks with webdataset 1.0, which ends each archive with an empty dictionary unless told not to.
    files = data.tar_file_expander(data.url_opener([{"url": url} for url in urls]), eof_value=None)
    samples = list(data.group_by_keys_nothrow(files))
    assert len(samples) == COUNT and all(data.filter_no_caption_or_no_image(sample) for sample in samples)


@pytest.mark.parametrize("left", ["archives", "index"])
def test_a_run_that_was_cut_short_ends_with_the_same_bytes(output: Path, source: Path, tmp_path: Path, left: str) -> None:
    again = tmp_path / "again"
    with pytest.raises(StoppedError, match="more than --max-rejects 0 allows") if left == "index" else _nothing():
        lone = source / "lone.txt"
        if left == "index":
            lone.write_text("no picture of that name")
        try:
            run(config(source, again, max_rejects="0", memory="1KB"))
        finally:
            lone.unlink(missing_ok=True)
    if left == "archives":
        (again / "sizes.json").unlink()
        (again / "shard-00001.tar").unlink()
        (again / ".tmp-0123-shard-00001.tar").write_bytes(b"what a killed task left")
        os.utime(again / ".tmp-0123-shard-00001.tar", (1, 1))
    else:
        assert not list(again.glob("*.tar")) and len(list((again / "rejects").glob("*.parquet"))) == 1
        (again / "recipe.json").unlink()  # the folder changed when the file went: another source
        for path in (again / "_scan").iterdir():
            path.unlink()
    assert run(config(source, again, memory="1KB")) == 0
    assert tars(again) == tars(output) and (again / "sizes.json").read_bytes() == (output / "sizes.json").read_bytes()
    assert not (again / "rejects").exists() or not list((again / "rejects").iterdir())


def _nothing() -> Any:
    from contextlib import nullcontext

    return nullcontext()


def test_failed_downloads_are_asked_for_again_and_repeated_ids_are_rejects(ray_session: None, server: str, tmp_path: Path) -> None:
    rows = [("a", "1"), ("busy", "2"), ("b", "2"), ("c", "3")]
    source = tmp_path / "m.csv"
    source.write_text("url,id,caption\n" + "".join(f"{server}/{name},{identity},t\n" for name, identity in rows))
    output = tmp_path / "out"
    given: dict[str, Any] = {"max_samples": 2, "shuffle": -1, "max_rejects": "90%", "download_retries": 0}

    def state() -> tuple[list[tuple[bytes, bytes]], list[tuple[str, str, str | None]]]:
        found = [sample for tar in tars(output).values() for sample in read(tar)]
        refused = [row for path in sorted((output / "rejects").glob("*.parquet")) for row in pq.read_table(path).to_pylist()]
        return [(one["__key__"], one["jpg"]) for one in found], [(row["name"], row["reason"], row["key"]) for row in refused]

    assert run(config(source, output, **given)) == 0
    whole = [(b"%09d" % at, JPG + name) for at, name in enumerate((b"a", b"busy", b"c"))]
    twice = ("2", "duplicate_name", None)
    assert state() == ([whole[0], whole[2]], [twice, ("2", "download_failed", "000000001")])
    assert run(config(source, output, **given)) == 0 and state()[0] == [whole[0], whole[2]]
    assert run(config(source, output, retry_failed=True, **given)) == 0 and state() == (whole, [twice])
    assert json.loads((output / "sizes.json").read_text()) == {"shard-00000.tar": 2, "shard-00001.tar": 1}


def test_an_output_that_is_whole_is_left_alone(output: Path, source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(config(source, output)) == 0
    assert "nothing to do" in capsys.readouterr().out


def test_other_options_into_the_same_output_are_refused(output: Path, source: Path) -> None:
    with pytest.raises(RequestError, match="max_samples = 25, this request has 30"):
        run(config(source, output, max_samples=30))


def test_an_output_inside_its_source_is_refused(source: Path) -> None:
    with pytest.raises(RequestError, match="lies inside the source"):
        run(config(source, source / "shards"))
