"""Requests that `nightcap train` refuses before Ray starts, each in one line that says what, where and what to do."""

import dataclasses
import json
from pathlib import Path

import pytest

from jobs.train import TrainConfig, plan
from pipeline.errors import RequestError
from pipeline.model.mix import ObjectiveMix
from pipeline.samples.vocabulary import train
from pipeline.training.progress import count
from tests.training.small import TINY, write_prepared


def config(folder: Path, **changes: object) -> TrainConfig:
    values = {"output": str(folder / "out"), "model": TINY, **changes}
    return TrainConfig(str(folder / "data"), **values)  # type: ignore[arg-type]


def refused(folder: Path, **changes: object) -> str:
    with pytest.raises(RequestError) as found:
        plan(config(folder, **changes))
    assert "\n" not in str(found.value)
    return str(found.value)


def describe(folder: Path, **values: object) -> None:
    (folder / "dataset.json").write_text(json.dumps({"format": 1, **values}))


def test_a_good_request_is_planned_with_a_part_kept_for_validation(tmp_path: Path) -> None:
    write_prepared(tmp_path / "data", (60, 60))
    setup = plan(config(tmp_path, validation_share=0.1))
    assert sum(count(ranges) for ranges in setup.held_out.values()) == 12
    assert sum(count(ranges) for ranges in setup.universe.values()) == 108
    assert plan(config(tmp_path, validation_share=0.1)).held_out == setup.held_out


def test_a_folder_without_prepared_tables(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    assert "holds no prepared/**/*.parquet; give a folder that nightcap prepare wrote" in refused(tmp_path)


def test_data_prepared_without_a_tokenizer(tmp_path: Path) -> None:
    write_prepared(tmp_path / "data")
    for file in (tmp_path / "data/tokenizer").iterdir():
        file.unlink()
    assert "holds no tokenizer" in refused(tmp_path)


@pytest.mark.parametrize("samples", [0, 1])
def test_empty_and_one_sample_data(tmp_path: Path, samples: int) -> None:
    write_prepared(tmp_path / "data", (samples,))
    assert f"holds {samples} samples to train on; a training needs 2 or more" in refused(tmp_path)


def test_data_of_another_tokenizer_than_the_checkpoints_names_both(tmp_path: Path) -> None:
    plan(config(write_prepared(tmp_path / "data").parent))
    before = json.loads((tmp_path / "out/recipe.json").read_text())["tokenizer"]
    other = train(lambda: ["quite other words"], "wordpiece", 60)
    other.save(tmp_path / "data/tokenizer")
    said = refused(tmp_path)
    assert f"tokenizer = {json.dumps(before)}" in said and f"{other.vocab_size} tokens, sha256 {other.identity()['sha256']}" in said


def test_data_of_another_picture_size_than_the_checkpoints_names_both(tmp_path: Path) -> None:
    write_prepared(tmp_path / "data")
    describe(tmp_path / "data", picture={"short_side_px": 96})
    plan(config(tmp_path))
    describe(tmp_path / "data", picture={"short_side_px": 224})
    said = refused(tmp_path)
    assert 'picture = {"short_side_px": 96}' in said and '{"short_side_px": 224}' in said


def test_another_model_than_the_checkpoints(tmp_path: Path) -> None:
    write_prepared(tmp_path / "data")
    plan(config(tmp_path))
    assert "model.input_px = 32, this request has 64" in refused(tmp_path, model=dataclasses.replace(TINY, input_px=64))


def test_longer_training_and_other_workers_are_no_other_recipe(tmp_path: Path) -> None:
    write_prepared(tmp_path / "data")
    first = plan(config(tmp_path))
    recipe = (tmp_path / "out/recipe.json").read_bytes()
    again = plan(config(tmp_path, workers=2, max_failures=0, validation_samples=100))
    assert again.universe == first.universe and (tmp_path / "out/recipe.json").read_bytes() == recipe


def test_validation_data_of_another_tokenizer(tmp_path: Path) -> None:
    write_prepared(tmp_path / "data")
    write_prepared(tmp_path / "else")
    train(lambda: ["quite other words"], "wordpiece", 60).save(tmp_path / "else/tokenizer")
    assert "different tokenizers" in refused(tmp_path, validation=str(tmp_path / "else"))


def test_weights_that_are_not_there(tmp_path: Path) -> None:
    write_prepared(tmp_path / "data")
    said = refused(tmp_path, model=dataclasses.replace(TINY, text_model="./no/such/bert"))
    assert said == "--text-model ./no/such/bert: no such file or folder"


def test_an_objective_without_its_head(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="the model has no head for it"):
        config(tmp_path, mix=ObjectiveMix(contrastive_weight=1.0))


def test_words_that_cannot_be_dropped_for_want_of_a_mask(tmp_path: Path) -> None:
    write_prepared(tmp_path / "data")
    words = tmp_path / "data/tokenizer/tokenizer.json"
    words.write_text(words.read_text().replace("[MASK]", "[SPARE]"))
    assert "has no [MASK] token" in refused(tmp_path, mix=ObjectiveMix(word_dropout=0.2))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"text_model": "no-such-bert"}, "--text-model no-such-bert: "),
        ({"backbone": "resnet19"}, "near it: resnet1"),
        ({"backbone_stride": 7}, "--input-px 32: give a multiple of --backbone-stride 7"),
        ({"modalities": ("audio",), "recording_model": "no-such-whisper"}, "--recording-model no-such-whisper: "),
    ],
)
def test_a_model_that_cannot_start_is_refused_before_ray_and_leaves_no_recipe(
    change: dict[str, object], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    write_prepared(tmp_path / "data")
    assert says in refused(tmp_path, model=dataclasses.replace(TINY, **change))  # type: ignore[arg-type]
    plan(config(tmp_path))
