"""The page of a training:

- curves by objective, learning rate, perplexities and speed, each with the same figures in words and as a table;
- captions by step stand beside the media of their samples; what the model said is escaped;
- steps that were done twice, after a crash, stand once; a last line that was cut is passed over;
- a training that has logged nothing yet has a page; so has one whose prepared data are gone;
- its size does not grow with the number of steps.
"""

import json
from pathlib import Path
from typing import Any

import pytest

from jobs.report import ReportConfig, run
from pipeline.reports.training import ROWS, read_training, spread, table_of, view
from pipeline.storage import Folder
from tests.reports.run_folder import EVIL
from tests.training.small import write_prepared

FIRST, SECOND = "20260101T000000-aaaaaa", "20260102T000000-bbbbbb"


def step(at: int, **losses: float) -> dict[str, Any]:
    rates = {"learning_rate": 1e-3 / (1 + at), "samples_per_s": 100.0 + at, "waiting": 0.01, "eta_s": 1.0}
    return {
        "kind": "step",
        "step": at,
        "samples": 32 * at,
        "epoch": at / 10,
        "done": at / 100,
        "seconds": float(at),
        "loss": losses,
        **rates,
    }


def validation(at: int, caption: str, **losses: float) -> dict[str, Any]:
    captions = [{"shard": "part/000.tar", "index": "1", "reference": "a red square", "caption": caption}]
    perplexity = {"right": 90.0 / at, "shuffled": 95.0, "absent": 40.0}
    return {
        "kind": "validation",
        "step": at,
        "done": at / 100,
        "loss": losses,
        "perplexity": perplexity,
        "best": True,
        "captions": captions,
    }


def write_metrics(output: Path, run_id: str, records: list[dict[str, Any]], tail: str = "") -> None:
    folder = output / "runs" / run_id
    folder.mkdir(parents=True)
    (folder / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records) + tail)
    steps = [record for record in records if record["kind"] == "step"]
    record = {"run_id": run_id, "job": "train", "command": ["nightcap", "train"], "finished": "2026-01-01T00:00:00+00:00", "stopped": None}
    record |= {"samples_per_s": 100.0, "waiting": 0.01, "last_step": steps[-1] if steps else None, "machine": {}, "versions": {}}
    (folder / "run.json").write_text(json.dumps(record | {"config": {"prepared": str(output.parent / "prepared"), "validation": ""}}))


def write_training(folder: Path) -> Path:
    """A training that was killed after step 30, and went on from step 20; returns its output."""
    write_prepared(folder / "prepared", shards=(8,))
    start = {"kind": "start", "step": 0, "precision": {"encoder": "float32", "text": "float32"}, "origins": [f"weights {EVIL}"]}
    output = folder / "out"
    first = [start, step(10, causal=5.0, masked_text=6.0), validation(20, "a dog", causal=4.5), step(30, causal=9.0, masked_text=9.0)]
    write_metrics(output, FIRST, first, tail='{"kind": "step", "st')
    second = [start | {"step": 20}, step(30, causal=3.0, masked_text=4.0), validation(40, EVIL, causal=2.5), validation(50, "a red square")]
    write_metrics(output, SECOND, second)
    return output


@pytest.fixture
def output(tmp_path: Path) -> Path:
    return write_training(tmp_path)


def page(output: Path, run_id: str = SECOND) -> str:
    run(ReportConfig(str(output / "runs" / run_id)))
    return (output / "runs" / run_id / "report.html").read_text()


def test_steps_done_twice_stand_once(output: Path) -> None:
    training = read_training(Folder(str(output)), SECOND)
    assert [(one["step"], one["loss"]["causal"]) for one in training.steps] == [(10, 5.0), (30, 3.0)]
    assert [one["step"] for one in training.validations] == [20, 40, 50]
    assert view(training)["restarts"] == 1
    assert [one["step"] for one in read_training(Folder(str(output)), FIRST).steps] == [10, 30]


def test_curves_have_their_figures_in_words_and_as_a_table(output: Path) -> None:
    text = page(output)
    for title in ("Loss", "Loss in validation", "Perplexity in validation", "Learning rate", "Samples a second"):
        assert f"<figcaption>{title} " in text
    assert "Loss: causal 5 at step 10, 3 at step 30; masked_text 6 at step 10, 4 at step 30" in text
    assert "shuffled 95 at step 20" in text
    assert text.count("The same as a table") == text.count('<svg aria-hidden="true"') == 5
    assert "times gone on after a stop" in text


def test_captions_stand_beside_their_media_and_are_escaped(output: Path) -> None:
    text = page(output)
    assert [f"step {at}</th>" in text for at in (20, 40, 50)] == [True] * 3
    assert text.count("data:image/jpeg;base64,") == 1 and "(equals the reference)" in text
    assert text.count("<script") == 1 and text.count("&lt;script&gt;document") >= 2


def test_prepared_data_that_are_gone_leave_their_reason(output: Path) -> None:
    (output.parent / "prepared/prepared/part/000.parquet").unlink()
    assert "the table cannot be read" in page(output)


def test_a_training_that_logged_nothing_has_a_page(tmp_path: Path) -> None:
    write_metrics(tmp_path, FIRST, [])
    assert "<b>0</b><span>steps</span>" in page(tmp_path, FIRST)


def test_its_size_does_not_grow_with_the_steps(tmp_path: Path) -> None:
    sizes = []
    for name, steps in (("short", 1_000), ("long", 6_000)):
        write_metrics(tmp_path / name, FIRST, [step(at, causal=2.0 + (at % 7) / 10) for at in range(1, steps)])
        sizes.append(len(page(tmp_path / name, FIRST)))
    assert sizes[1] < 1.2 * sizes[0] < 300_000
    training = read_training(Folder(str(tmp_path / "long")), FIRST)
    assert all(len(chart["rows"]) <= ROWS for chart in view(training)["charts"])


def test_names_and_places_are_found() -> None:
    assert spread(list(range(100)), 3) == [0, 50, 99] and spread([1], 3) == [1]
    assert [table_of(name) for name in ("a/b.tar", "b.tar.gz", "b.TGZ", "b")] == [
        "prepared/a/b.parquet",
        "prepared/b.parquet",
        "prepared/b.parquet",
        "prepared/b.parquet",
    ]
