"""`nightcap evaluate CHECKPOINT --prepared DIR` on a small model that was trained for seconds:

- perplexity is that of the model's own scores, batch by batch; the right medium beats a shuffled one and none;
- classes come from a table, a column or the archives' JSON; a probe and zero-shot tell them apart, media and texts;
- pictures are made from texts, with figures beside those of another's text and of one colour;
- the same seed gives the same file; --limit bounds the samples; how they are cut into bundles changes nothing but who is shuffled;
- bundles that are measured are not measured again; actors on Ray give the same figures;
- each wrong request is one line.
"""

import io
import json
import math
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from webdataset import TarWriter

from jobs.bundles import labels_of, stretches_of
from jobs.evaluate import EvaluateConfig, run
from jobs.examiner import READINGS, Examiner
from jobs.report import ReportConfig
from jobs.report import run as report
from pipeline import schema
from pipeline.captions.checkpoint import Checkpoint
from pipeline.captions.engine import EngineConfig
from pipeline.errors import RequestError, StoppedError
from pipeline.evaluation import painting
from pipeline.model.build import build
from pipeline.model.folder import load, save_checkpoint_folder
from pipeline.model.hide import patches_of
from pipeline.model.mix import ObjectiveMix
from pipeline.samples.medium import Medium
from pipeline.training.batches import collate
from pipeline.training.corpus import open_corpus, read_rows
from pipeline.training.feed import decode_rows, feed_spec
from tests.reports.test_training_page import SECOND, write_training
from tests.training.small import PX, TINY, tokenizer, write_prepared

SIZE = 32


def batch_of(prepared: Path, model: Any) -> Any:
    (file,) = open_corpus(str(prepared)).files
    rows = np.arange(file.rows)
    table = decode_rows(read_rows(file, ((0, file.rows),)), feed_spec(model.config), seed=0, epoch=-1, files=rows * 0, rows=rows)
    return collate(table, px=PX, pad_id=tokenizer().pad_id).batch


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Threads cost more than they do on models of this size."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def place(one_thread: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`prepared` with 32 pictures of coloured shapes, and `model`, trained on them for 40 steps."""
    folder = tmp_path_factory.mktemp("understand")
    prepared = write_prepared(folder / "prepared", shards=(SIZE,))
    torch.manual_seed(0)
    model = build(replace(TINY, objectives=("causal", "masked_medium", "contrastive")), prepared / "tokenizer")
    batch = batch_of(prepared, model)
    optimiser = torch.optim.AdamW(model.parameters(), 2e-3)
    mix = ObjectiveMix(label_smoothing=0.0)
    for _ in range(40):
        loss = model(batch, mix, train=True)["causal"]
        optimiser.zero_grad()
        (loss.total / loss.count).backward()
        optimiser.step()
    save_checkpoint_folder(model, tokenizer(), folder / "model")
    return folder


def measured(place: Path, **options: Any) -> dict[str, Any]:
    given = {"prepared": str(place / "prepared"), "replicates": 20, "workers": 1, "paint": 0, "generate": False} | options
    assert run(EvaluateConfig(str(place / "model"), **given)) == 0
    found: dict[str, Any] = json.loads((place / "model/evaluation/understanding.json").read_text())
    return found


def values(found: dict[str, Any]) -> dict[str, Any]:
    return {name: figure["value"] for name, figure in found["figures"].items()}


def colours(place: Path) -> str:
    """A table of labels: the first colour in each text."""
    rows = pq.read_table(place / "prepared/prepared").to_pylist()
    lines = [f"{row['shard']},{row['index']},{row['text'].split()[1]}" for row in rows]
    (place / "colours.csv").write_text("\n".join(["shard,index,label", *lines]) + "\n")
    return str(place / "colours.csv")


def test_the_text_is_read_off_the_picture(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = values(measured(place))
    assert found["perplexity.right"] < 0.8 * found["perplexity.shuffled"]
    assert found["pair_accuracy.shuffled"] > 0.8
    assert found["unknown_share.right"] == 0
    assert found["medium_to_text.recall_1"] <= found["medium_to_text.recall_10"]
    printed = capsys.readouterr().out
    assert "likelier" in printed and "Retrieval among 32 samples" in printed


def test_perplexity_is_that_of_the_models_own_scores(place: Path) -> None:
    model = load(place / "model").model.eval()
    batch = batch_of(place / "prepared", model)
    with torch.inference_mode():
        memory = model.encode(batch)
        for name, seen in (("right", memory), ("absent", memory.absent())):
            each = model.score(seen, batch.token_ids_bt, batch.token_mask_bt)
            wanted = math.exp(-float(each.double().sum()) / int(batch.token_mask_bt[:, 1:].sum()))
            assert values(measured(place))[f"perplexity.{name}"] == pytest.approx(wanted, rel=1e-4)


def test_the_same_seed_gives_the_same_file_and_limit_bounds_it(place: Path) -> None:
    assert measured(place, limit=10) == measured(place, limit=10)
    assert measured(place, limit=10)["samples"] == 10


def test_samples_stand_in_a_table(place: Path) -> None:
    found = measured(place, labels=colours(place), paint=3)
    table = pq.read_table(place / "model/evaluation/understood.parquet")
    assert table.schema.equals(schema.UNDERSTOOD) and table.num_rows == found["samples"] == SIZE
    logp, tokens = table.column("logp_right").to_numpy(), table.column("n_tokens").to_numpy()
    assert values(found)["perplexity.right"] == pytest.approx(math.exp(-logp.sum() / tokens.sum()))
    assert sum(row is not None for row in table.column("painted").to_pylist()) == 3
    assert table.column("probe_medium").null_count == 0
    hits = [one == other for one, other in zip(table.column("probe_text").to_pylist(), table.column("label").to_pylist(), strict=True)]
    assert values(found)["text.probe"] == pytest.approx(np.mean(hits))


def test_classes_are_told_apart(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = measured(place, labels=colours(place))
    seen = values(found)
    assert found["classification"]["classes"] > 2 and found["classification"]["samples"] == SIZE
    assert seen["text.probe"] > 1.5 * seen["majority"]  # the colour is a word of the text
    assert seen["medium.probe"] > seen["majority"]
    assert all(seen[f"{side}.{name}"] is not None for side in ("medium", "text") for name in READINGS)
    assert "linear probe" in capsys.readouterr().out
    learned = measured(place, labels=colours(place), probe_prepared=str(place / "prepared"))
    assert values(learned)["medium.probe"] > 0.9  # learned from the same samples


def test_zero_shot_is_that_of_the_models_own_scores(place: Path) -> None:
    measured(place, labels=colours(place), limit=0)
    (row, *_) = pq.read_table(place / "model/evaluation/understood.parquet").to_pylist()
    loaded = load(place / "model")
    model, names = loaded.model.eval(), sorted({line.rsplit(",", 1)[1] for line in Path(colours(place)).read_text().splitlines()[1:]})
    batch = batch_of(place / "prepared", model)
    sums, without, continued = [], [], []
    with torch.inference_mode():
        memory = model.encode(batch).rows(torch.tensor([0]))
        own = batch.token_ids_bt[0][batch.token_mask_bt[0]].tolist()
        for encoded in loaded.tokenizer.encode(names, 8):
            ids = torch.tensor([encoded.token_ids])
            sums.append(float(model.score(memory, ids, torch.ones_like(ids)).sum()))
            without.append(float(model.score(memory.absent(), ids, torch.ones_like(ids)).sum()))
            both = torch.tensor([[*own[:-1], *encoded.token_ids[1:]]])
            each = model.score(memory.absent(), both, torch.ones_like(both))[0]
            continued.append(float(each[len(own) - 2 :].sum()))
    assert row["zero_shot_medium"]["raw"] == names[int(np.argmax(sums))]
    assert row["zero_shot_medium"]["calibrated"] == names[int(np.argmax(np.array(sums) - np.array(without)))]
    assert row["zero_shot_text"]["raw"] == names[int(np.argmax(continued))]


def test_labels_come_from_a_table_a_column_and_from_archives(place: Path, tmp_path: Path) -> None:
    stretches = stretches_of(open_corpus(str(place / "prepared")), 0, 0)
    rows = pq.read_table(place / "prepared/prepared").to_pylist()
    wanted = [row["text"].split()[1] for row in rows]
    assert labels_of(stretches, colours(place), None) == (wanted, tuple(sorted(set(wanted))))
    assert labels_of(stretches, "column:index", None)[0] == [str(row["index"]) for row in rows]
    with pytest.raises(RequestError, match="has no such column"):
        labels_of(stretches, "column:nothing", None)
    with pytest.raises(RequestError, match="does not say where its archives lie"):
        labels_of(stretches, "json:colour", None)
    with pytest.raises(RequestError, match="cannot be read .*give a table of labels"):
        labels_of(stretches, "json:colour", str(tmp_path))
    path = tmp_path / rows[0]["shard"]
    path.parent.mkdir()
    with TarWriter(str(path), encoder=False) as tar:
        for row in rows:
            tar.write({"__key__": row["key"], "json": json.dumps({"colour": row["text"].split()[1]}).encode()})
    assert labels_of(stretches, "json:colour", str(tmp_path))[0] == wanted


def test_its_captions_are_scored_as_those_of_a_run_are(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    measured(place, generate=True, limit=12)
    folder = place / "model/evaluation"
    scores = json.loads((folder / "scores.json").read_text())
    table = pq.read_table(folder / "captions/captions.parquet")
    assert table.schema.equals(schema.CAPTIONS) and table.num_rows == scores["coverage"]["samples_scored"] == 12
    engine = Checkpoint(EngineConfig(engine="checkpoint", model=str(place / "model"), device="cpu"))
    rows = {(row["shard"], row["index"]): row for row in pq.read_table(place / "prepared/prepared").to_pylist()}
    for row in table.to_pylist()[:4]:
        pixels = np.array(Image.open(io.BytesIO(rows[row["shard"], row["index"]]["image"])))
        (said,) = engine(engine.collate([Medium("image", "jpg", 1000, pixels_hwc=pixels)]))
        assert said.text == row["caption"] and row["text"] == rows[row["shard"], row["index"]]["text"]
    assert "Captions of 12 samples, greedy" in capsys.readouterr().out
    assert run(EvaluateConfig(str(folder), against=str(folder), output=str(tmp_path), replicates=5)) == 0


def test_pictures_are_made_from_texts(place: Path) -> None:
    model = load(place / "model").model.eval()
    batch = batch_of(place / "prepared", model)
    with torch.inference_mode():
        ids, mask = batch.token_ids_bt[:4], batch.token_mask_bt[:4]
        made = painting.paint(model, ids, mask)
        assert made.shape == (4, 3, PX, PX) and made.dtype == torch.uint8
        assert torch.equal(made, painting.paint(model, ids, mask))
        assert torch.equal(made[:1], painting.paint(model, ids[:1], mask[:1]))  # whatever stands beside it
        assert not torch.equal(made, painting.paint(model, ids, mask, steps=1))
    real = batch.pictures.pixels_nchw
    patches = patches_of(model.pictures.normalised(real), model.pictures.stride)
    assert torch.equal(painting._pixels(painting._joined(patches, model.pictures.stride, PX), model.pictures), real)
    assert painting.psnr(real, real).tolist() == [99.0] * SIZE and (painting.psnr(painting.flat(real), real) > 5).all()
    found = measured(place, paint=6)
    assert len(found["painted"]) == 6 and found["figures"]["painted.psnr"]["value"] > 0
    assert found["figures"]["painted.named"]["value"] is not None


def test_they_stand_on_the_page_of_the_training(place: Path, tmp_path: Path) -> None:
    measured(place, labels=colours(place), paint=3)
    output = write_training(tmp_path)
    shutil.copytree(place / "model", output / "model")
    report(ReportConfig(str(output)))
    (page,) = (output / "runs" / SECOND).glob("report.html")
    text = page.read_text()
    for words in ("its own", "zero-shot, calibrated", "linear probe", "medium of a text", "a first form"):
        assert words in text
    assert text.count("Made from the text") == 3 and 'href="#understanding"' in text


def test_bundles_that_are_measured_are_not_measured_again(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jobs.bundles.ROWS", 8)
    whole, measured_bundles, real = measured(place), [], Examiner.measure

    def measure(self: Examiner, bundle: Any) -> int:
        if len(measured_bundles) == 2:
            raise StoppedError("killed")
        measured_bundles.append(bundle.number)
        return real(self, bundle)

    monkeypatch.setattr(Examiner, "measure", measure)
    with pytest.raises(StoppedError):
        measured(place)
    monkeypatch.setattr(Examiner, "measure", lambda self, bundle: (measured_bundles.append(bundle.number), real(self, bundle))[1])
    assert measured(place) == whole
    assert measured_bundles == [0, 1, 2, 3] and not (place / "model/evaluation/_parts").exists()


@pytest.mark.ray
@pytest.mark.slow
def test_actors_on_ray_give_the_same_figures(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jobs.bundles.ROWS", 8)
    alone, together = values(measured(place)), values(measured(place, workers=2))
    assert together == pytest.approx(alone, rel=1e-4)


def test_wrong_requests_are_one_line(place: Path, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="with --prepared DIR"):
        run(EvaluateConfig(str(place / "model")))
    with pytest.raises(RequestError, match="holds no prepared"):
        run(EvaluateConfig(str(place / "model"), prepared=str(tmp_path)))
    with pytest.raises(RequestError, match="goes with a checkpoint"):
        run(EvaluateConfig(str(tmp_path), prepared=str(place / "prepared")))
    for options, says in (
        ({"limit": 1}, "2 samples or more"),
        ({"retrieval_pool": 1}, "--retrieval-pool 1"),
        ({"class_text": "a"}, "does not hold"),
        ({"probe_prepared": "x"}, "goes with --labels"),
    ):
        with pytest.raises(RequestError, match=says):
            EvaluateConfig("x", **options)  # type: ignore[arg-type]
    (tmp_path / "labels.csv").write_text("key,label\nelsewhere,a\n")
    with pytest.raises(RequestError, match="labels none of the 32 samples"):
        measured(place, labels=str(tmp_path / "labels.csv"))


def test_a_checkpoint_of_another_version_and_other_tokens_are_told(place: Path, tmp_path: Path) -> None:
    shutil.copytree(place / "model", tmp_path / "model", ignore=shutil.ignore_patterns("evaluation"))
    config = json.loads((tmp_path / "model/config.json").read_text())
    (tmp_path / "model/config.json").write_text(json.dumps(config | {"format": 99}))
    with pytest.raises(RequestError, match="has checkpoint format 99; this version reads"):
        run(EvaluateConfig(str(tmp_path / "model"), prepared=str(place / "prepared")))
    (tmp_path / "model/config.json").write_text(json.dumps(config))
    shutil.copytree(place / "prepared", tmp_path / "prepared")
    changed = (tmp_path / "prepared/tokenizer/tokenizer.json").read_text().replace('"red"', '"rouge"')
    (tmp_path / "prepared/tokenizer/tokenizer.json").write_text(changed)
    with pytest.raises(RequestError, match="another tokenizer than the model's"):
        run(EvaluateConfig(str(tmp_path / "model"), prepared=str(tmp_path / "prepared")))


def test_a_model_that_diverged_is_told(place: Path, tmp_path: Path) -> None:
    loaded = load(place / "model")
    with torch.no_grad():
        loaded.model.pictures.project.weight.fill_(math.nan)
    save_checkpoint_folder(loaded.model, loaded.tokenizer, tmp_path / "model")
    with pytest.raises(RequestError, match="damaged or diverged; evaluate an earlier checkpoint"):
        run(EvaluateConfig(str(tmp_path / "model"), prepared=str(place / "prepared"), workers=1, paint=0, generate=False))
