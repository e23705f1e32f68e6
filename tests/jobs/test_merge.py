"""`nightcap merge` and `nightcap check` as commands: refusals in one line, and the whole way on one local Ray.

- Captions of other archives, unfinished captions, an output that is the input: refused before Ray starts.
- check --fix of damaged and unsorted archives, captions of what is clean, merge: every sample is accounted for in table and record.
- Run again, merge does nothing and says the same; in another form the folder is refused.
"""

import io
import json
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jobs.caption import CaptionConfig
from jobs.caption import run as caption
from jobs.check import CheckConfig
from jobs.check import run as check
from jobs.cli import main
from jobs.cluster import session
from jobs.merge import MergeConfig
from jobs.merge import run as merge
from pipeline.captions.engine import EngineConfig
from pipeline.errors import RequestError
from pipeline.samples.group import EndOfShard, read_samples
from pipeline.storage import BytesReader, Folder


def picture(seed: int) -> bytes:
    data = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, (20, 30, 3), dtype=np.uint8)).save(data, "JPEG")
    return data.getvalue()


def write(path: Path, members: Sequence[tuple[str, bytes]]) -> None:
    path.parent.mkdir(exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


def pairs(first: int) -> list[tuple[str, bytes]]:
    return [(f"{at:03d}.{name}", data) for at in range(first, first + 5) for name, data in (("jpg", picture(at)), ("txt", b"old"))]


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    printed = capsys.readouterr()
    assert ended.value.code == 2 and printed.out == "" and len(printed.err.strip().splitlines()) == 1, printed.err
    return printed.err


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "in" / "a.tar", pairs(0))
    write(tmp_path / "in" / "b.tar", pairs(5))
    return tmp_path


def test_merge_refuses_what_does_not_belong_together(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "no recipe.json" in refused(capsys, "merge", "in", "out", "-o", "merged")
    store = Folder(str(here / "out"))
    store.put("recipe.json", json.dumps({"root": str(here / "in")}).encode())
    store.put("captions/z.parquet", b"")
    assert "of other shards" in refused(capsys, "merge", "in", "out", "-o", "merged")
    store.put("captions/a.parquet", b"")
    assert "1 of 2 archives have no caption table (b.tar)" in refused(capsys, "merge", "in", "out", "-o", "merged")
    assert "is no caption table" in refused(capsys, "merge", "in/a.tar", "out", "-o", "merged")
    assert "name another" in refused(capsys, "merge", "in", "out", "-o", "in")
    assert "no field name" in refused(capsys, "merge", "in", "out", "-o", "merged", "--as", "A/b")
    assert not (here / "merged").exists()


def test_check_refuses_to_fix_into_its_own_input(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "name another" in refused(capsys, "check", "in", "--fix", "in")
    assert "no size" in refused(capsys, "check", "in", "--max-sample-bytes", "much")


@pytest.fixture(scope="module")
def ray() -> Iterator[None]:
    with session("local", verbose=False):
        yield


@pytest.mark.ray
@pytest.mark.slow
def test_from_damaged_archives_to_archives_with_captions(here: Path, ray: None, capsys: pytest.CaptureFixture[str]) -> None:
    members = pairs(10)
    write(here / "in" / "c.tar", [*members[::2], *members[1::2]])
    data = bytearray((here / "in" / "a.tar").read_bytes())
    data[0:100] = b"\xff" * 100  # the header of 000.jpg
    (here / "in" / "d.tar").write_bytes(data)

    assert check(CheckConfig(("in",), json=True, fix="clean")) == 1
    found = json.loads(capsys.readouterr().out)
    assert (found["archives"], found["n_damage"], found["damaged"]) == (4, 1, [str(here / "in" / "d.tar")])
    assert found["damage"][0]["start"] == 0 and found["repeating"] == [str(here / "in" / "c.tar")]
    assert found["repeats"]["content"]["repeats"] >= 4 and found["repeats"]["keys"]["repeats"] == 5
    assert found["fields"]["jpg"]["count"] == 19 and found["width_px"]["max"] == 30
    assert {one["path"]: one["samples"] for one in found["fixed"]} == {"c.tar": 5, "d.tar": 4}
    assert check(CheckConfig(("@clean/shards.txt",), hash=False)) == 0
    assert "19" in capsys.readouterr().out

    engine = EngineConfig(engine="facts")
    for source, output in ((("in/a.tar", "in/b.tar"), "out"), (("clean",), "out-clean")):
        assert caption(CaptionConfig(source, output=str(here / output), engine=engine)) == 0
    config = MergeConfig("in/{a,b}.tar", "out", output="merged")
    assert merge(config) == 0
    record = json.loads(next((here / "merged" / "runs").rglob("run.json")).read_text())
    assert record["counts"] == {"merged": 10} and record["merged"] == 10
    *samples, end = read_samples(BytesReader((here / "merged" / "b.tar").read_bytes()), max_sample_bytes=1 << 20)
    assert isinstance(end, EndOfShard) and end.n_damage == 0
    assert [{part.name: part.data for part in sample.fields}["jpg"] for sample in samples if not isinstance(sample, EndOfShard)] == [
        data for name, data in pairs(5) if name.endswith("jpg")
    ]
    sizes = {"a.tar": 5, "b.tar": 5}
    assert json.loads((here / "merged" / "sizes.json").read_text()) == sizes
    listed = json.loads((here / "merged" / "wids.json").read_text())["shardlist"]
    assert [(one["url"], one["nsamples"], one["filesize"]) for one in listed] == [
        (name, count, (here / "merged" / name).stat().st_size) for name, count in sizes.items()
    ]
    before = {path: path.stat().st_mtime_ns for path in (here / "merged").glob("*.tar")}
    assert merge(config) == 0 and before == {path: path.stat().st_mtime_ns for path in (here / "merged").glob("*.tar")}
    with pytest.raises(RequestError, match="json_field|was made with as"):
        merge(MergeConfig("in/{a,b}.tar", "out", output="merged", json_field="caption"))
