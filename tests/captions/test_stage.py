"""The engine stage without Ray, on tables as the reader makes them:

- host work of a block runs beside its device work, never more than a few micro-batches ahead, and results keep their rows;
- two calls at a time share the device one by one, or run beside each other where the engine lets them;
- an engine that fails on some media costs those alone, whether collating or calling fails; one that fails on all stops the run;
- a block that is guarded unloads the engine only when nobody collates or calls.
"""

import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from pipeline import schema
from pipeline.captions.engine import EngineConfig, describe, questions
from pipeline.captions.stage import CaptionStage, StageConfig
from pipeline.errors import StoppedError
from pipeline.samples.guard import Limits
from pipeline.samples.medium import Medium

MICRO, ROWS = 4, 22


class Watched:
    """An engine that knows who is inside of it."""

    accepts = ("image",)
    seen: "Watched"

    def __init__(self, config: EngineConfig) -> None:
        type(self).seen = self
        self.lock = threading.Lock()
        self.calling = self.collating = self.most_calling = self.beside = self.ahead = self.most_ahead = 0
        self.open = True
        self.bad = config.prompt.split()

    def collate(self, media: Sequence[Medium]) -> list[Medium]:
        with self.lock:
            assert self.open
            self.collating += 1
        time.sleep(0.005)
        with self.lock:
            self.collating -= 1
            self.ahead += 1
            self.most_ahead = max(self.most_ahead, self.ahead)
        if any(f"collate-{medium.text}" in self.bad for medium in media):
            raise ValueError("cannot collate")
        return list(media)

    def __call__(self, batch: list[Medium]) -> list[str]:
        with self.lock:
            self.calling += 1
            self.ahead -= 1
            self.most_calling = max(self.most_calling, self.calling)
        for _ in range(5):
            time.sleep(0.002)
            self.beside += self.collating > 0
        with self.lock:
            self.calling -= 1
        if any(medium.text in self.bad or "all" in self.bad for medium in batch):
            raise ValueError("cannot call")
        return [f"caption of {medium.text}" for medium in batch]

    def close(self) -> None:
        assert self.collating == self.calling == 0
        self.open = False


class Overlapping(Watched):
    """One whose calls may run beside each other, and which holds a model."""

    concurrent = True

    def use(self) -> float:
        return 0.5


def stage(folder: Path, bad: str = "", kind: str = "Watched") -> CaptionStage:
    engine = EngineConfig(engine=f"{__name__}:{kind}", prompt=bad)
    asked = questions(engine, describe(engine))
    limits = Limits(60, 0)
    return CaptionStage(
        StageConfig(engine=engine, questions=asked, micro_batch=MICRO, output=str(folder), run_id="run", limits=limits, stall_s=60)
    )


def table(shard: str = "a.tar", rows: int = ROWS, **more: Any) -> pa.Table:
    common = {"kind": "sample", "shard": shard, "fingerprint": "f", "piece": 0, "last": True, "flags": [], "status": "ok", "guard": False}
    picture = {"modality": "image", "media_field": "png", "media_bytes": 9, "pixels_hwc": bytes(12), "pixels_height": 2, "pixels_width": 2}
    found = [{**common, **picture, "index": at, "text": f"{shard}:{at}", **more} for at in range(rows)]
    return pa.Table.from_pylist(found, schema=schema.SAMPLES)


def captions(parts: pa.Table) -> list[str | None]:
    assert parts.schema == schema.PARTS
    assert parts.column("index").to_pylist() == list(range(parts.num_rows))
    return list(parts.column("caption").to_pylist())


def test_the_next_micro_batch_is_collated_while_one_is_on_the_device(tmp_path: Path) -> None:
    found = captions(stage(tmp_path)(table()))
    assert found == [f"caption of a.tar:{at}" for at in range(ROWS)]
    engine = Watched.seen
    assert engine.beside >= ROWS // MICRO and engine.most_ahead <= 2 and engine.most_calling == 1


def test_two_calls_share_the_device_and_keep_their_rows(tmp_path: Path) -> None:
    both = stage(tmp_path)
    found: dict[str, list[str | None]] = {}
    threads = [threading.Thread(target=lambda name=name: found.update({name: captions(both(table(name)))})) for name in ("a.tar", "b.tar")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert found == {name: [f"caption of {name}:{at}" for at in range(ROWS)] for name in ("a.tar", "b.tar")}
    assert Watched.seen.most_calling == 1 and Watched.seen.most_ahead <= 4


@pytest.mark.parametrize(("bad", "says"), [("a.tar:5", "cannot call"), ("collate-a.tar:5", "cannot collate")])
def test_an_exception_costs_its_sample_alone(tmp_path: Path, bad: str, says: str) -> None:
    parts = stage(tmp_path, bad)(table())
    assert captions(parts) == [None if at == 5 else f"caption of a.tar:{at}" for at in range(ROWS)]
    row = parts.to_pylist()[5]
    assert (row["status"], row["reason"], row["detail"]) == ("rejected", "engine_failed", f"ValueError: {says}")


def test_an_engine_that_fails_on_every_sample_stops_the_run(tmp_path: Path) -> None:
    with pytest.raises(StoppedError, match=f"failed on each of {ROWS} samples .* cannot call"):
        stage(tmp_path, "all")(table())


def test_rows_without_a_medium_pass_untouched(tmp_path: Path) -> None:
    parts = stage(tmp_path)(table(rows=3, status="rejected", stage="decode", reason="undecodable"))
    assert captions(parts) == [None] * 3 and set(parts.column("reason").to_pylist()) == {"undecodable"}


def test_calls_of_an_engine_that_lets_them_overlap_run_beside_each_other(tmp_path: Path) -> None:
    both = stage(tmp_path, kind="Overlapping")
    threads = [threading.Thread(target=both, args=(table(name, 60),)) for name in ("a.tar", "b.tar")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert Overlapping.seen.most_calling == 2


@pytest.mark.parametrize("kind", ["Watched", "Overlapping"])
def test_a_guarded_block_unloads_the_engine_when_nobody_is_inside_and_loads_it_again(tmp_path: Path, kind: str) -> None:
    both = stage(tmp_path, kind=kind)
    found: dict[str, list[str | None]] = {}
    blocks = {"a.tar": table("a.tar", 60), "b.tar": table("b.tar", 2, guard=True)}
    threads = [threading.Thread(target=lambda name=name: found.update({name: captions(both(blocks[name]))})) for name in blocks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert found == {name: [f"caption of {name}:{at}" for at in range(block.num_rows)] for name, block in blocks.items()}
