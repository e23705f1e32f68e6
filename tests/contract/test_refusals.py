"""What engines refuse, in one line with a remedy, before anything starts: wrong names, impossible values, options that they would ignore."""

from typing import Any

import pytest

from pipeline.captions.engine import EngineConfig, describe
from pipeline.errors import RequestError
from tests.contract.engines import Shapes, config_of


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"engine": "fcats"}, "did you mean facts"),
        ({"engine": "faster-whisper"}, "needs --model"),
        ({"engine": "transformers", "model": "./no-such-folder"}, "no such folder"),
        ({"engine": "no_such_module:Engine"}, "cannot be imported"),
    ],
)
def test_a_wrong_engine_or_model_is_one_line_with_a_remedy(more: dict[str, str], says: str) -> None:
    with pytest.raises(RequestError, match=says):
        describe(EngineConfig(**more))


@pytest.mark.parametrize(
    "more", [{"beams": 0}, {"temperature": -1.0}, {"top_p": 0.0}, {"max_tokens": -1}, {"beams": 2, "temperature": 1.0}]
)
def test_impossible_options_are_refused_with_their_value(more: dict[str, Any]) -> None:
    with pytest.raises(RequestError, match="--"):
        EngineConfig(engine="facts", **more)


@pytest.mark.parametrize("more", [{"device": "gpu"}, {"device": "cuda:x"}, {"dtype": "fp8"}])
def test_an_unknown_device_or_dtype_is_refused_before_anything_starts(more: dict[str, Any]) -> None:
    with pytest.raises(RequestError, match="is unknown"):
        EngineConfig(engine="facts", **more)


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"language": "xx"}, "unknown to Whisper"),
        ({"language": "de"}, "English model"),
        ({"temperature": 0.5}, "cannot sample reproducibly"),
    ],
)
def test_faster_whisper_refuses_what_it_cannot_keep(more: dict[str, Any], says: str, models: dict[str, str]) -> None:
    with pytest.raises(RequestError, match=says):
        describe(config_of("faster-whisper", models, **more))


@pytest.mark.parametrize(("more", "says"), [({"language": "de"}, "English model"), ({"prompt": "w3"}, "for pictures only")])
def test_options_that_a_speech_model_would_ignore_are_refused(more: dict[str, Any], says: str, models: dict[str, str]) -> None:
    with pytest.raises(RequestError, match=says):
        describe(config_of("whisper", models, **more))


@pytest.mark.parametrize(
    ("more", "says"), [({"language": "en"}, "leave it out"), ({"dtype": "int8"}, "float32, bfloat16"), ({"max_tokens": 16}, "15 tokens")]
)
def test_options_that_a_checkpoint_would_ignore_are_refused(more: dict[str, Any], says: str, models: dict[str, str]) -> None:
    with pytest.raises(RequestError, match=says):
        describe(config_of("checkpoint", models, **more))


def test_a_cut_checkpoint_is_refused_before_anything_starts(models: dict[str, str], tmp_path: Any) -> None:
    import shutil

    shutil.copytree(models["checkpoint"], tmp_path / "cut")
    weights = tmp_path / "cut" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    with pytest.raises(RequestError, match="damaged or cut"):
        describe(EngineConfig(engine="checkpoint", model=str(tmp_path / "cut")))


def test_a_folder_without_weights_is_refused(models: dict[str, str], tmp_path: Any) -> None:
    import shutil

    shutil.copytree(models["vit-gpt2"], tmp_path / "empty", ignore=shutil.ignore_patterns("*.safetensors"))
    with pytest.raises(RequestError, match="no weights"):
        describe(EngineConfig(engine="transformers", model=str(tmp_path / "empty")))


def test_a_users_class_may_name_one_modality_plainly_but_no_unknown_one(monkeypatch: pytest.MonkeyPatch) -> None:
    config = EngineConfig(engine="tests.contract.engines:Shapes")
    monkeypatch.setattr(Shapes, "accepts", "image")
    assert describe(config).needs.accepts == ("image",)
    monkeypatch.setattr(Shapes, "accepts", ("picture",))
    with pytest.raises(RequestError, match="picture"):
        describe(config)


def test_pickled_weights_are_refused_unless_asked(models: dict[str, str], tmp_path: Any) -> None:
    import shutil

    folder = tmp_path / "pickled"
    shutil.copytree(models["vit-gpt2"], folder)
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(RequestError, match="--allow-pickle"):
        describe(EngineConfig(engine="transformers", model=str(folder)))


@pytest.mark.parametrize(
    ("kind", "more", "says"),
    [
        ("ctc", {"beams": 2}, "CTC model"),
        ("ctc", {"prompt": "w3"}, "for pictures only"),
        ("llava", {"media": ("audio",)}, "image and video"),
        ("faster-whisper", {"prompt": "{text}"}, "one prompt for all"),
    ],
)
def test_what_a_model_cannot_do_is_refused(kind: str, more: dict[str, Any], says: str, models: dict[str, str]) -> None:
    with pytest.raises(RequestError, match=says):
        describe(config_of(kind, models, **more))
