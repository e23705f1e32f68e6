"""`dedup` killed by SIGKILL at any of its writes, in either pass: the same call goes on, and its decisions are those of a run that was never killed."""

import io
import itertools
import multiprocessing
import os
import signal
import tarfile
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from pipeline import schema, storage
from pipeline.dedup.corpus import decide_corpus
from pipeline.dedup.likeness import LikenessConfig
from pipeline.dedup.signatures import SignatureConfig, sign_shard
from pipeline.samples.chunks import ShardTask
from pipeline.samples.drops import DECIDED
from pipeline.samples.guard import Limits
from pipeline.samples.medium import Needs
from pipeline.samples.source import ReadConfig

SHARDS = ("0", "1", "2")


def path_of(shard: str) -> str:
    return f"signatures/{shard.removesuffix('.tar')}.parquet"


def work(folder: str, output: str) -> None:
    """Both passes, one shard after the other; what is there is not made again."""
    read = ReadConfig(
        needs=Needs(accepts=schema.MODALITIES),
        decoder="pipeline.dedup.signatures:decode_nothing",
        limits=Limits(60, 0),
        output=output,
        run_id="x",
    )
    for name in SHARDS:
        if not storage.Folder(output).exists(path_of(f"{name}.tar")):
            list(
                sign_shard(ShardTask(f"{folder}/{name}.tar", f"{name}.tar", name), SignatureConfig(read=read, texts=True, path_of=path_of))
            )
    decide_corpus(output, LikenessConfig(by=("media", "text")), itertools.starmap)


def work_and_die(folder: str, output: str, at: int) -> None:
    """Dies at write number `at`: odd ones before the file appears, even ones after."""
    publish, count = os.replace, itertools.count(1)

    def deadly(*names: Any) -> None:
        number = next(count)
        if number == at and at % 2:
            os.kill(os.getpid(), signal.SIGKILL)
        publish(*names)
        if number == at:
            os.kill(os.getpid(), signal.SIGKILL)

    os.replace = deadly  # type: ignore[assignment]  # in a process of its own
    work(folder, output)


def decisions(output: Path) -> dict[str, list[dict[str, Any]]]:
    return {name: pq.read_table(output / f"drop/{name}.tar.parquet").to_pylist() for name in SHARDS}


@pytest.mark.slow
def test_killed_at_any_write_the_same_call_decides_the_same(tmp_path: Path) -> None:
    for name in SHARDS:
        with tarfile.open(tmp_path / f"{name}.tar", "w") as tar:
            for at in range(6):
                for field, data in (("jpg", b"m%d" % (at % 4)), ("txt", b"the text %d %s" % (at, name.encode()))):
                    member = tarfile.TarInfo(f"{at}.{field}")
                    member.size = len(data)
                    tar.addfile(member, io.BytesIO(data))
    work(str(tmp_path), str(tmp_path / "whole"))
    expected = decisions(tmp_path / "whole")
    assert [len(rows) for rows in expected.values()] == [2, 6, 6]
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__, "datasketch"])
    deaths = 0
    for at in (1, 2, 3, 4, 6, 9, 12, 16, 21, 28, 1_000):
        process = context.Process(target=work_and_die, args=(str(tmp_path), str(tmp_path / "killed"), at))
        process.start()
        process.join(60)
        if process.exitcode == 0:
            break
        assert process.exitcode == -signal.SIGKILL
        deaths += 1
    assert deaths >= 4 and (tmp_path / "killed" / DECIDED).is_file()
    assert decisions(tmp_path / "killed") == expected
    assert [path.name for path in (tmp_path / "killed").iterdir() if path.name.startswith("_") and path.name != "_attempts"] == []
