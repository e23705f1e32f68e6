"""Night after night on one local Ray: additions, a rewritten archive, a recipe change, and a night whose process is killed.

- every morning each archive of the listing is accounted for, and the samples in the tables are those in the archives;
- what is unchanged is not opened; of a rewritten archive only samples that are new reach the engine, and the table is that of a fresh run;
- a killed night is finished by the same command; a complete one is not done again; another recipe stands beside the old one;
- a budget ends a night well, and the next one continues; drift gives exit code 3.
"""

import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from jobs.cluster import session
from jobs.nightly import DRIFTED, NightlyConfig, run
from jobs.plan import PlanConfig
from jobs.plan import run as plan
from pipeline.captions.engine import EngineConfig
from pipeline.nights.drift import DriftConfig

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(300)]
ROOT = Path(__file__).parents[2]


class Counting:
    """Says how bright a picture is, and logs what it was shown in the file that `model` names; with `:60` behind it hangs after 60."""

    accepts = ("image",)
    rows_per_call = 20

    def __init__(self, config: EngineConfig) -> None:
        self._log, _, bound = config.model.partition(":")
        self._left = int(bound or 1_000_000)

    @classmethod
    def identity(cls, config: EngineConfig) -> dict[str, Any]:
        return {"version": 1}

    def __call__(self, media: list[Any]) -> list[str]:
        self._left -= len(media)
        if self._left < 0:
            time.sleep(600)
        with open(self._log, "a") as log:
            log.write("".join(f"{int(medium.pixels_hwc.mean())}\n" for medium in media))
        return [f"brightness {int(medium.pixels_hwc.mean())} of 255, as measured" for medium in media]


@pytest.fixture(scope="module", autouse=True)
def ray() -> Iterator[None]:
    with session("local", verbose=False):
        yield


def write(path: Path, shades: list[int], mtime_s: float) -> None:
    """One grey picture a sample."""
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for number, shade in enumerate(shades):
            data = io.BytesIO()
            Image.fromarray(np.full((8, 8, 3), shade, np.uint8)).save(data, "PNG")
            member = tarfile.TarInfo(f"{number:04d}.png")
            member.size = len(data.getvalue())
            tar.addfile(member, io.BytesIO(data.getvalue()))
    os.utime(path, (mtime_s, mtime_s))


class Corpus:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.shades: dict[str, list[int]] = {}
        self.now_s = 1_790_000_000.0

    def put(self, name: str, shades: list[int]) -> None:
        self.now_s += 3600
        self.shades[name] = shades
        write(self.folder / f"in/{name}.tar", shades, self.now_s)

    def night(self, date: str, **more: Any) -> dict[str, Any]:
        """Runs a night here; its record, which has to balance and to agree with the archives."""
        (self.folder / "log").write_text("")
        engine = EngineConfig(engine=f"{__name__}:Counting", model=str(self.folder / "log"), max_tokens=more.pop("max_tokens", 0))
        config = NightlyConfig((str(self.folder / "in"),), output=str(self.folder / "out"), date=date, engine=engine, **more)
        code = run(config)
        return self.balanced(date, code)

    def balanced(self, date: str, code: int) -> dict[str, Any]:
        record: dict[str, Any] = json.loads((self.folder / f"out/nights/{date}.json").read_text())
        assert record["exit_code"] == code
        archives = record["archives"]
        assert archives["listed"] == len(self.shades) == sum(archives[name] for name in ("unchanged", "done", "waiting", "older"))
        page = (self.folder / f"out/nights/{date}.html").read_text()
        assert "Every archive of the listing is accounted for." in page and record["version"] in page
        if not archives["waiting"] and not archives["older"] and not archives["removed"]:
            assert sum(record["after"].values()) == sum(map(len, self.shades.values()))
            for name, shades in self.shades.items():
                table = pq.read_table(self.folder / "out" / record["version"] / f"captions/{name}.parquet")
                captions = table.sort_by("index").column("caption").to_pylist()
                assert captions == [f"brightness {shade} of 255, as measured" for shade in shades]
        return record

    def seen(self) -> list[int]:
        """What the engine was shown in the last night."""
        return sorted(int(line) for line in (self.folder / "log").read_text().split())


@pytest.fixture
def corpus(tmp_path: Path) -> Corpus:
    made = Corpus(tmp_path)
    made.put("a", list(range(10, 30)))
    made.put("b/c", list(range(40, 60)))
    return made


def test_three_nights_with_additions_a_rewritten_archive_a_recipe_change_and_a_kill(corpus: Corpus) -> None:
    first = corpus.night("2026-01-01")
    assert (first["archives"]["new"], first["tonight"]) == (2, {"success": 40}) and len(corpus.seen()) == 40
    assert corpus.night("2026-01-01") == first, "a complete night was done again"

    corpus.put("a", [200, *range(10, 28), 201])  # two samples gone, two new, the others moved
    for name in "defg":
        corpus.put(name, [ord(name)] * 20)
    killed = start_and_kill(corpus, "2026-01-02")
    assert 0 < killed < 5, "it was killed before or after all of its work"
    second = corpus.night("2026-01-02")
    archives = second["archives"]
    assert (archives["unchanged"], archives["done"], archives["waiting"], archives["removed"]) == (1, 5, 0, 0)
    assert second["tonight"] == {"success": 100} and sum(second["before"].values()) == 40
    table = pq.ParquetFile(corpus.folder / "out" / second["version"] / "captions/a.parquet")
    assert b"nightcap.fingerprint" in table.schema_arrow.metadata

    third = corpus.night("2026-01-03", max_tokens=9)
    assert third["version"] != second["version"] and third["recipe_changed"] == ["max_tokens: 0 -> 9"]
    assert third["tonight"] == {"success": 120} == third["after"] and third["before"] == {}
    assert (corpus.folder / "out" / second["version"] / "captions/a.parquet").exists()


def start_and_kill(corpus: Corpus, date: str) -> int:
    """Starts the night as a process of its own and kills it when its first table stands; how many tables of the night there are."""
    job = corpus.folder / "job.yaml"
    engine = f"{__name__}:Counting"
    job.write_text(f"shards: [{corpus.folder}/in]\noutput: {corpus.folder}/out\nengine: {engine}\nmodel: {corpus.folder}/log:60\n")
    version = next((corpus.folder / "out").glob("v0001-*"))

    def tables() -> int:
        paths = [version / f"captions/{name}.parquet" for name in "adefg"]
        return sum(path.exists() and path.stat().st_mtime > began for path in paths)

    began = time.time()
    command = [sys.executable, "-m", "jobs.cli", "nightly", str(job), "--date", date]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        while not tables() and process.poll() is None:
            time.sleep(0.02)
            assert time.time() - began < 60
    finally:
        process.send_signal(signal.SIGKILL)
        printed = process.communicate()[0]
    assert process.returncode == -signal.SIGKILL, printed
    assert (corpus.folder / "out/lease.json").exists()
    return tables()


def test_of_a_rewritten_archive_only_new_samples_reach_the_engine(corpus: Corpus) -> None:
    corpus.night("2026-01-01")
    corpus.put("a", [200, *range(10, 28), 201])
    night = corpus.night("2026-01-02")
    assert corpus.seen() == [200, 201] and night["taken_over"] == 18
    assert (night["archives"]["changed"], night["archives"]["unchanged"], night["tonight"]) == (1, 1, {"success": 20})
    (corpus.folder / "in/a.tar").unlink()
    del corpus.shades["a"]
    gone = corpus.night("2026-01-03", drift=DriftConfig(removed=0))
    assert gone["names"]["removed"] == ["a"] and gone["archives"]["done"] == 0 and corpus.seen() == []


def test_a_budget_ends_a_night_well_and_drift_is_an_exit_code_of_its_own(corpus: Corpus, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jobs.run.WAVE", 2)
    corpus.night("2026-01-01")
    for name in ("d", "e", "f", "g"):
        corpus.put(name, [ord(name)] * 300)
    night = corpus.night("2026-01-02", budget_samples=20)
    assert night["exit_code"] == 0 and night["archives"]["waiting"] == 2 and "budget of 20 samples" in night["why"]
    night = corpus.night("2026-01-03", drift=DriftConfig(min_samples=10, after=2, length=0, speed=0, duplicates=0.3))
    assert (night["exit_code"], night["archives"]["waiting"]) == (DRIFTED, 0)
    assert [alarm["name"] for alarm in night["alarms"]] == ["duplicates"]


class Slow(Counting):
    """Takes 10 ms a picture."""

    def __call__(self, media: list[Any]) -> list[str]:
        time.sleep(0.01 * len(media))
        return super().__call__(media)


def test_what_was_foretold_comes_within_a_factor_of_three(corpus: Corpus) -> None:
    for name in "defghi":
        corpus.put(name, [ord(name)] * 60)
    engine = EngineConfig(engine=f"{__name__}:Slow", model=str(corpus.folder / "log"))
    job: dict[str, Any] = {"output": str(corpus.folder / "out"), "date": "2026-01-01", "engine": engine}
    assert plan(PlanConfig((str(corpus.folder / "in"),), trial_samples=60, price_per_hour=3.6, **job)) == 0
    foretold = json.loads((corpus.folder / "out/plan.json").read_text())
    assert 0.7 < foretold["samples"]["value"] / 400 < 1.4 and foretold["bottleneck"] == "model" and foretold["output_bytes"]["value"] > 1000
    assert not list((corpus.folder / "out").glob("v*")), "the trial left something behind"
    assert run(NightlyConfig((str(corpus.folder / "in"),), **job)) == 0
    record = corpus.balanced("2026-01-01", 0)
    assert 1 / 3 < record["predicted"]["factor"] < 3, record["predicted"]["sentence"]
    assert record["predicted"]["sentence"] in (corpus.folder / "out/nights/2026-01-01.html").read_text()
    of_run = next((corpus.folder / "out" / record["version"] / "runs").iterdir())
    predicted = json.loads((of_run / "run.json").read_text())["predicted"]
    assert abs(predicted["factor"] / record["predicted"]["factor"] - 1) < 0.2
    assert predicted["sentence"] in (of_run / "report.html").read_text()
