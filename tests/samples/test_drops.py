"""What `prepare` made with decisions of `dedup` is bound to the decisions, not to the folder they lie in:

- another folder with the same decisions is taken; archives that are decided on later, and archives that changed, are added
- decisions that changed are refused, under the same path too, and nothing is noted; so are archives that were never decided on
"""

import itertools
import json
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline import schema, storage
from pipeline.dedup.corpus import decide_corpus
from pipeline.dedup.likeness import LikenessConfig
from pipeline.errors import RequestError
from pipeline.samples.drops import DIGESTS, USED, bind_drops, drop_options


def here(function: Callable[..., Any], arguments: Iterable[tuple[Any, ...]]) -> Iterator[Any]:
    return itertools.starmap(function, arguments)


def decide(folder: Path, shards: dict[str, str], version: str = "1") -> None:
    """Shards by name, each letter one medium."""
    for name, media in shards.items():
        rows = [{"index": at, "key": str(at), "media_sha256": medium.encode() * 32} for at, medium in enumerate(media)]
        metadata = {"nightcap.shard": f"{name}.tar", "nightcap.fingerprint": f"{name}{version}"}
        (folder / "signatures").mkdir(parents=True, exist_ok=True)
        table = pa.Table.from_pylist(rows, schema.SIGNATURES.with_metadata(metadata))
        pq.write_table(table, folder / f"signatures/{name}.parquet")
    decide_corpus(str(folder), LikenessConfig(by=("media",)), here)


@pytest.fixture
def out(tmp_path: Path) -> storage.Folder:
    decide(tmp_path / "dedup", {"a": "xyx", "b": "zx"})
    return storage.Folder(str(tmp_path / "out"))


def bind(out: storage.Folder, folder: Path, *names: str, version: str = "1") -> dict[str, list[str]]:
    bind_drops(out, str(folder), [(f"{name}.tar", f"{name}{version}") for name in names])
    noted: dict[str, list[str]] = json.loads(out.get(USED))
    return noted


def test_the_same_decisions_are_taken_wherever_they_lie_and_later_ones_are_added(out: storage.Folder, tmp_path: Path) -> None:
    first = bind(out, tmp_path / "dedup", "a", "b")
    shutil.copytree(tmp_path / "dedup", tmp_path / "copy")
    shutil.rmtree(tmp_path / "dedup")
    assert bind(out, tmp_path / "copy") == first, "everything is done"
    decide(tmp_path / "fresh", {"a": "xyx", "b": "zx", "c": "zz"})
    assert drop_options(str(tmp_path / "fresh")) == drop_options(str(tmp_path / "copy"))
    later = bind(out, tmp_path / "fresh", "c")
    assert {name: later[name] for name in first} == first and set(later) == {"a.tar", "b.tar", "c.tar"}


def test_decisions_that_changed_are_refused_also_under_the_same_path(out: storage.Folder, tmp_path: Path) -> None:
    before = bind(out, tmp_path / "dedup", "a", "b")
    decide(tmp_path / "dedup", {"0": "z"})  # sorts before the others, and takes a sample from one
    with pytest.raises(RequestError, match=r"decisions on b.tar are not those that .* \(1 archives\)"):
        bind(out, tmp_path / "dedup", "0")
    assert json.loads(out.get(USED)) == before


def test_an_archive_that_changed_has_new_decisions(out: storage.Folder, tmp_path: Path) -> None:
    before = bind(out, tmp_path / "dedup", "a", "b")
    decide(tmp_path / "dedup", {"b": "xxx"}, version="2")
    assert bind(out, tmp_path / "dedup") == before, "it is not redone yet"
    after = bind(out, tmp_path / "dedup", "b", version="2")
    assert after["a.tar"] == before["a.tar"] and after["b.tar"][0] == "b2" != before["b.tar"][0]


def test_what_was_never_decided_on_is_refused_before_anything_runs(out: storage.Folder, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"nothing was decided on c.tar"):
        bind(out, tmp_path / "dedup", "a", "c")
    with pytest.raises(RequestError, match=r"a.tar has changed since"):
        bind(out, tmp_path / "dedup", "a", version="9")
    assert not out.exists(USED)
    with pytest.raises(RequestError, match="has finished"):
        drop_options(str(tmp_path / "nowhere"))
    (tmp_path / "dedup" / DIGESTS).unlink()
    with pytest.raises(RequestError, match="run nightcap dedup again"):
        bind(out, tmp_path / "dedup", "a")
