"""A checkpoint folder describes itself:

- what was saved is loaded, weights, tokenizer, configuration and what was pretrained, without the folders that training started from;
- cut, damaged, foreign and mismatched folders are refused in one line that names them.
"""

import json
from pathlib import Path

import pytest
import torch

from pipeline.errors import RequestError
from pipeline.model.build import describe_initialisation
from pipeline.model.config import ModelConfig, config_from_json, to_json
from pipeline.model.folder import describe, load, save_checkpoint_folder
from pipeline.model.model import MultimodalLM
from tests.model.small import ALL, OF_PICTURES, batch_of, pictures, save_tokenizer, small_config, small_model, texts


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> MultimodalLM:
    torch.set_num_threads(1)
    return small_model(tmp_path_factory.mktemp("words"), modalities=("image", "audio"), objectives=ALL).eval()


@pytest.fixture
def saved(model: MultimodalLM, tmp_path: Path) -> Path:
    save_checkpoint_folder(model, save_tokenizer(tmp_path / "words"), tmp_path / "model")
    return tmp_path / "model"


def test_what_was_saved_is_loaded(model: MultimodalLM, saved: Path) -> None:
    found = load(saved)
    state = found.model.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert found.model.config == model.config and found.model.shapes == model.shapes
    assert describe_initialisation(found.model) == describe_initialisation(model) != []
    batch = batch_of(texts(2), pictures=pictures(2))
    with torch.no_grad():
        assert torch.equal(found.model.encode(batch).states_bmd, model.encode(batch).states_bmd)
    assert found.tokenizer.decode([2, 5, 7, 3]) == "w0 w2"
    tied = found.model.text
    assert tied.cls.predictions.decoder.weight.data_ptr() == tied.bert.embeddings.word_embeddings.weight.data_ptr()


def test_the_same_model_is_saved_as_the_same_bytes(model: MultimodalLM, saved: Path, tmp_path: Path) -> None:
    save_checkpoint_folder(load(saved).model, str(saved), tmp_path / "again")
    assert {path.name: path.read_bytes() for path in saved.iterdir()} == {
        path.name: path.read_bytes() for path in (tmp_path / "again").iterdir()
    }


@pytest.mark.parametrize("cut", [0, 5, 300, -1])
def test_cut_weights_are_refused(cut: int, saved: Path) -> None:
    path = saved / "model.safetensors"
    path.write_bytes(path.read_bytes()[:cut])
    for ask in (describe, load):
        with pytest.raises(RequestError, match=r"model.safetensors is damaged or cut.*take another checkpoint"):
            ask(saved)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"format": 9}, "has checkpoint format 9; this version reads 1"),
        ({"model_type": "bert"}, "holds a model of type 'bert'"),
        ({"model": {"colour": 1}}, "unknown field 'colour'"),
        ({"model": {"input_px": "large"}}, "input_px is 'large'; expected int"),
        ({"text": None}, "must be objects"),
    ],
)
def test_another_format_is_refused_with_what_it_is(change: dict[str, object], says: str, saved: Path) -> None:
    path = saved / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(RequestError, match=says):
        load(saved)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
def test_a_missing_file_is_named(name: str, saved: Path) -> None:
    (saved / name).unlink()
    with pytest.raises(RequestError, match=f"no checkpoint: it has no {name}"):
        load(saved)


def test_weights_of_another_model_are_refused(saved: Path, tmp_path: Path) -> None:
    other = small_model(tmp_path / "other", modalities=("image",))
    save_checkpoint_folder(other, save_tokenizer(tmp_path / "words"), tmp_path / "theirs")
    (saved / "model.safetensors").write_bytes((tmp_path / "theirs" / "model.safetensors").read_bytes())
    with pytest.raises(RequestError, match="of another model"):
        load(saved)


def test_a_configuration_survives_json() -> None:
    config = small_config(modalities=("image", "video"), objectives=OF_PICTURES, frozen_share=0.25)
    assert config_from_json(json.loads(json.dumps(to_json(config)))) == config


@pytest.mark.parametrize(
    "wrong",
    [{"modalities": ()}, {"modalities": ("smell",)}, {"frozen_share": 1.5}, {"input_px": 8}, {"recording_width": 100}, {"max_tokens": 2}],
)
def test_configurations_that_fit_no_model_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(RequestError, match=next(iter(wrong))):
        ModelConfig(**wrong)  # type: ignore[arg-type]
