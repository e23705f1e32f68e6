"""`nightcap evaluate CHECKPOINT --prepared DIR` on a small model that was trained for seconds:

- perplexity is that of the model's own scores, batch by batch; the right medium beats a shuffled one and none;
- the same seed gives the same file; --limit bounds the samples;
- each wrong request is one line.
"""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from jobs.evaluate import EvaluateConfig, run
from pipeline.errors import RequestError
from pipeline.model.build import build
from pipeline.model.folder import load, save_checkpoint_folder
from pipeline.model.mix import ObjectiveMix
from pipeline.training.batches import collate
from pipeline.training.corpus import open_corpus, read_rows
from pipeline.training.feed import decode_rows, feed_spec
from tests.training.small import PX, TINY, tokenizer, write_prepared

SIZE = 32


def batch_of(prepared: Path, model: Any) -> Any:
    (file,) = open_corpus(str(prepared)).files
    rows = np.arange(file.rows)
    table = decode_rows(read_rows(file, ((0, file.rows),)), feed_spec(model.config), seed=0, epoch=-1, files=rows * 0, rows=rows)
    return collate(table, px=PX, pad_id=tokenizer().pad_id).batch


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`prepared` with 32 pictures of coloured shapes, and `model`, trained on them for 40 steps."""
    folder = tmp_path_factory.mktemp("understand")
    prepared = write_prepared(folder / "prepared", shards=(SIZE,))
    torch.manual_seed(0)
    model = build(TINY, prepared / "tokenizer")
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
    assert run(EvaluateConfig(str(place / "model"), prepared=str(place / "prepared"), **options)) == 0
    found: dict[str, Any] = json.loads((place / "model/evaluation/understanding.json").read_text())
    return found


def test_the_text_is_read_off_the_picture(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = measured(place)
    perplexity = {name: figures["perplexity"] for name, figures in found["probability"].items()}
    assert found["samples"] == SIZE
    assert perplexity["right"] < 0.8 * perplexity["shuffled"]
    assert found["pair_accuracy"]["shuffled"] > 0.8
    assert found["retrieval"] is None
    assert "right one is likelier" in capsys.readouterr().out


def test_perplexity_is_that_of_the_models_own_scores(place: Path) -> None:
    model = load(place / "model").model.eval()
    batch = batch_of(place / "prepared", model)
    with torch.inference_mode():
        each = model.score(model.encode(batch), batch.token_ids_bt, batch.token_mask_bt)
    wanted = math.exp(-float(each.double().sum()) / int(batch.token_mask_bt[:, 1:].sum()))
    assert measured(place)["probability"]["right"]["perplexity"] == pytest.approx(wanted, rel=1e-4)


def test_the_same_seed_gives_the_same_file_and_limit_bounds_it(place: Path) -> None:
    assert measured(place, limit=10) == measured(place, limit=10)
    assert measured(place, limit=10)["samples"] == 10


def test_wrong_requests_are_one_line(place: Path, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="with --prepared DIR"):
        run(EvaluateConfig(str(place / "model")))
    with pytest.raises(RequestError, match="holds no prepared"):
        run(EvaluateConfig(str(place / "model"), prepared=str(tmp_path)))
    with pytest.raises(RequestError, match="goes with a checkpoint"):
        run(EvaluateConfig(str(tmp_path), prepared=str(place / "prepared")))
    with pytest.raises(RequestError, match="2 samples or more"):
        EvaluateConfig("x", limit=1)
