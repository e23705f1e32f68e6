"""From odd archives to captions, on one local Ray: every sample has a row, in order, with the right status.

- members that are no files, keys twice, a member that claims 8 EiB: nothing is followed, and the others come out;
- a corpus in which nothing suits the engine ends well, all skipped;
- an empty archive, and one with folders only, are done with empty tables;
- an unsorted archive, missing partners, text that is no UTF-8, broken JSON, odd names: accounted for, nothing lost;
- `--limit` does part (and ends with 1 if any of it failed for a passing reason), the next run the rest, a third nothing;
- above the reject budget the run stops, and goes on when the budget allows it.
"""

import gzip
import io
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from jobs.caption import CaptionConfig, dataset, prepare, run
from jobs.cluster import session
from jobs.run import tasks_of
from pipeline.captions.engine import EngineConfig
from pipeline.errors import StoppedError

pytestmark = [pytest.mark.ray, pytest.mark.slow]


@pytest.fixture(scope="module", autouse=True)
def ray() -> Iterator[None]:
    with session("local", verbose=False):
        yield


def png(seed: int = 0) -> bytes:
    from PIL import Image

    data = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, (12, 16, 3), dtype=np.uint8)).save(data, "PNG")
    return data.getvalue()


def write(path: Path, members: list[tuple[str | bytes, bytes | None]]) -> None:
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT, encoding="utf-8", errors="surrogateescape") as tar:
        for name, data in members:
            text = name.decode("utf-8", "surrogateescape") if isinstance(name, bytes) else name
            member = tarfile.TarInfo(text)
            if data is None:
                member.type = tarfile.DIRTYPE
            else:
                member.size = len(data)
            tar.addfile(member, io.BytesIO(data or b""))


def caption(folder: Path, **more: Any) -> int:
    return run(
        CaptionConfig(
            (str(folder / "in"),), output=str(folder / "out"), engine=EngineConfig(engine="facts"), **{"max_rejects": "100%", **more}
        )
    )


def rows(folder: Path, name: str) -> list[dict[str, Any]]:
    return list(pq.read_table(folder / f"out/captions/{name}.parquet").to_pylist())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "in").mkdir()
    return tmp_path


def test_every_sample_of_odd_archives_has_its_row(folder: Path) -> None:
    write(folder / "in/empty.tar", [])
    write(folder / "in/folders.tar", [("a", None), ("a/b", None)])
    write(folder / "in/unsorted.tar", [("a.png", png()), ("b.png", png(1)), ("a.txt", b"A"), ("b.txt", b"B")])
    write(folder / "in/partners.tar", [("a.png", png()), ("b.txt", b"alone"), ("c.png", b""), ("d.png", png()[:60]), ("e.json", b"{}")])
    write(folder / "in/texts.tar", [("a.png", png()), ("a.txt", b"\xff\xfe\xfa"), ("b.png", png()), ("b.json", b"{broken")])
    names = [("x/../../y" + "n" * 200 + ".png", png()), (b"z\xff\xfe.png", png()), ("/abs/olute.PNG", png())]
    write(folder / "in/names.tar", names)
    packed = io.BytesIO()
    packed.write(gzip.compress((folder / "in/partners.tar").read_bytes()))
    (folder / "in/packed.tar.gz").write_bytes(packed.getvalue()[:-40])
    assert caption(folder) == 0
    assert rows(folder, "empty") == rows(folder, "folders") == []
    unsorted = rows(folder, "unsorted")
    assert [row["status"] for row in unsorted] == ["success", "success", "rejected", "rejected"]
    assert {row["reason"] for row in unsorted[2:]} == {"separated"}
    partners = rows(folder, "partners")
    assert [row["reason"] for row in partners] == [None, "no_medium", "empty_medium", "undecodable", "no_medium"]
    assert [row["flags"] for row in rows(folder, "texts")] == [["reference_not_utf8"], ["json_unparsable"]]
    assert [row["status"] for row in rows(folder, "names")] == ["success"] * 3
    assert rows(folder, "names")[1]["key"] == "z\\xff\\xfe"
    kept = pq.read_table(folder / "out/quarantine/partners.parquet").to_pylist()
    assert [(row["key"], row["members"][0]["name"]) for row in kept] == [("b", "b.txt"), ("c", "c.png"), ("d", "d.png"), ("e", "e.json")]
    assert any("packed" in (row["detail"] or "") for row in pq.read_table(folder / "out/quarantine/packed.parquet").to_pylist())


class Passing:
    """Fails for a passing reason on every picture."""

    accepts = ("image",)

    def __init__(self, config: EngineConfig) -> None:
        del config

    def __call__(self, media: list[Any]) -> list[str]:
        raise TimeoutError("try again")


def test_members_that_are_no_files_and_claims_that_cannot_hold_cost_nothing_else(folder: Path) -> None:
    with tarfile.open(folder / "in/kinds.tar", "w", format=tarfile.GNU_FORMAT) as tar:
        kinds = {"l.png": tarfile.SYMTYPE, "h.png": tarfile.LNKTYPE, "c.png": tarfile.CHRTYPE, "f.png": tarfile.FIFOTYPE}
        for name, kind in kinds.items():
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, "/etc/passwd"
            tar.addfile(member)
        for key in ("deep/er/a", "b", "b"):  # the same key twice
            member = tarfile.TarInfo(f"{key}.png")
            member.size = len(png())
            tar.addfile(member, io.BytesIO(png()))
    huge = tarfile.TarInfo("huge.png")
    huge.size = 8 << 60
    good = (folder / "in/kinds.tar").read_bytes()[4 * 512 :]
    (folder / "in/claims.tar").write_bytes(huge.tobuf(tarfile.GNU_FORMAT) + b"\x89PNG" * 128 + good)
    assert caption(folder) == 0
    kinds_rows = rows(folder, "kinds")
    assert [row["key"] for row in kinds_rows if row["status"] == "success"][:2] == ["deep/er/a", "b"]
    assert not any("root:" in str(row) for row in kinds_rows)
    assert [row["key"] for row in rows(folder, "claims") if row["status"] == "success"][:2] == ["deep/er/a", "b"]
    assert pq.read_table(folder / "out/quarantine/claims.parquet").column("reason").to_pylist()[-1] == "damaged"


def test_a_corpus_in_which_nothing_suits_the_engine_is_done_with_every_sample_skipped(folder: Path) -> None:
    write(folder / "in/a.tar", [("a.wav", b"RIFF"), ("b.wav", b"RIFF")])
    config = CaptionConfig((str(folder / "in"),), output=str(folder / "out"), engine=EngineConfig(engine=f"{__name__}:Passing"))
    assert run(config) == 0
    assert [(row["status"], row["reason"]) for row in rows(folder, "a")] == [("skipped", "not_taken")] * 2


def test_a_limited_run_with_samples_that_failed_for_a_passing_reason_does_not_end_well(folder: Path) -> None:
    write(folder / "in/a.tar", [(f"{number}.png", png(number)) for number in range(3)])
    engine = EngineConfig(engine=f"{__name__}:Passing")
    with pytest.raises(StoppedError, match="2 samples failed for a passing reason"):
        run(CaptionConfig((str(folder / "in"),), output=str(folder / "out"), engine=engine, limit=2, max_rejects="100%"))


def test_an_engine_that_fails_on_every_sample_stops_the_run_with_its_last_error(folder: Path) -> None:
    write(folder / "in/a.tar", [(f"{number}.png", png(number)) for number in range(5)])
    with pytest.raises(StoppedError) as stopped:
        run(CaptionConfig((str(folder / "in"),), output=str(folder / "out"), engine=EngineConfig(engine=f"{__name__}:Passing")))
    assert str(stopped.value) == "the engine failed on each of 5 samples of a block alone; the last error: TimeoutError: try again"


def test_a_limit_does_part_the_next_run_the_rest_and_a_third_nothing(folder: Path) -> None:
    for name in "ab":
        write(folder / f"in/{name}.tar", [(f"{number:03d}.png", png(number)) for number in range(20)])
    assert caption(folder, limit=25) == 0
    assert sorted(path.name for path in (folder / "out/captions").iterdir()) == ["a.parquet"]
    assert caption(folder) == 0
    assert [row["index"] for row in rows(folder, "b")] == list(range(20))
    before = {path: path.stat().st_mtime_ns for path in (folder / "out/captions").iterdir()}
    assert caption(folder) == 0
    assert {path: path.stat().st_mtime_ns for path in (folder / "out/captions").iterdir()} == before
    assert not (folder / "out/_parts").exists()


def test_above_the_budget_the_run_stops_and_goes_on_when_it_may(folder: Path) -> None:
    write(folder / "in/a.tar", [(f"{number:03d}.png", b"rubbish") for number in range(10)])
    with pytest.raises(StoppedError, match=r"10 of 10 samples were rejected.*undecodable 10"):
        caption(folder, max_rejects="5%")
    assert caption(folder) == 0
    assert len(rows(folder, "a")) == 10


def test_the_plan_is_read_caption_commit_and_nothing_else(folder: Path) -> None:
    write(folder / "in/a.tar", [("a.png", png())])
    job = prepare(CaptionConfig((str(folder / "in"),), output=str(folder / "out"), engine=EngineConfig(engine="facts")))
    executed = dataset(job, tuple(tasks_of(job.run))).materialize()
    names = [line.split(": ")[0].split(" ", 2)[-1] for line in executed.stats().splitlines() if line.startswith("Operator")]
    assert names == ["ReadShard", "MapBatches(CountedStage)", "MapBatches(counted_commit)"]
