"""Choosing an engine, and what of it goes into the recipe:

- the driver's description and recipe do not change with device, batch size or threads, and do with what decides captions;
- an unknown model folder names its neighbours;
- plain strings of a user's class become captions.
"""

import os
from pathlib import Path
from typing import Any

import pytest

from pipeline.captions.engine import Caption, EngineConfig, create, describe, recipe, threads_of
from pipeline.errors import RequestError
from pipeline.samples.medium import Medium


class Words:
    accepts = ("image",)

    def __init__(self, config: EngineConfig) -> None:
        del config

    def __call__(self, media: list[Medium]) -> list[str]:
        return ["word"] * len(media)


@pytest.fixture
def own(monkeypatch: pytest.MonkeyPatch) -> str:
    import sys
    import types

    module = types.ModuleType("words_of_a_user")
    module.Words = Words  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "words_of_a_user", module)
    return "words_of_a_user:Words"


def recipe_of(**more: Any) -> dict[str, Any]:
    config = EngineConfig(engine="facts", **more)
    return recipe(config, describe(config))


@pytest.mark.parametrize("more", [{"device": "cpu"}, {"batch_size": 3}, {"threads": 1}, {"seed": 5}])
def test_what_changes_speed_alone_is_not_in_the_recipe(more: dict[str, Any]) -> None:
    assert recipe_of(**more) == recipe_of()


@pytest.mark.parametrize(
    "more", [{"beams": 2}, {"max_tokens": 5}, {"language": "en"}, {"prompt": "a"}, {"temperature": 1.0}, {"dtype": "int8"}]
)
def test_what_decides_captions_is_in_the_recipe(more: dict[str, Any]) -> None:
    assert recipe_of(**more) != recipe_of()


def test_the_seed_is_in_the_recipe_where_tokens_are_sampled() -> None:
    assert recipe_of(temperature=1.0, seed=1) != recipe_of(temperature=1.0, seed=2)


def test_strings_of_a_users_class_become_captions(own: str) -> None:
    engine = create(EngineConfig(engine=own))
    assert engine.run(engine.collate([Medium("image", "jpg", 1)])) == [Caption("word")]
    engine.close()


def test_a_missing_model_folder_names_its_neighbours(tmp_path: Path) -> None:
    (tmp_path / "whisper-tiny").mkdir()
    with pytest.raises(RequestError, match="whisper-tiny"):
        describe(EngineConfig(engine="transformers", model=str(tmp_path / "wisper-tiny")))


def test_an_unknown_kind_of_model_names_the_known_ones(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(RequestError, match=r"'llama'.*blip, git, vision-encoder-decoder, whisper"):
        describe(EngineConfig(engine="transformers", model=str(tmp_path)))


@pytest.mark.parametrize("content", ["", "[1]", "{"])
def test_a_config_that_is_no_json_object_is_a_request_error(content: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(RequestError, match="config.json"):
        describe(EngineConfig(engine="transformers", model=str(tmp_path)))


def test_a_folder_without_a_config_says_what_it_holds(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    with pytest.raises(RequestError, match=r"no config\.json.*notes\.txt"):
        describe(EngineConfig(engine="transformers", model=str(tmp_path)))


def test_a_model_takes_all_cores_unless_asked_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # as Ray sets it
    assert threads_of(EngineConfig(engine="facts")) == len(os.sched_getaffinity(0))
    assert threads_of(EngineConfig(engine="facts", threads=3)) == 3
