"""Features of a frozen encoder, kept:

- with as many versions as epochs a training ends with the same weights as without;
- with fewer, every picture is encoded once a version and never again, while channels are dropped anew;
- no version is begun once the share of the training for making them is over, and those that were are trained on;
- what does not fit into the memory given is encoded every time;
- a trained encoder, mixed styles and hidden patches are refused.
"""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

from jobs.train import TrainConfig
from pipeline.errors import RequestError
from pipeline.model.config import ModelConfig
from pipeline.model.mix import ObjectiveMix
from pipeline.training.augment import AugmentConfig
from pipeline.training.loop import Training
from pipeline.training.schedule import ScheduleConfig
from pipeline.training.setup import LoopConfig
from pipeline.training.world import World
from tests.training.small import TINY, bare_feed, make_setup, write_prepared

FROZEN = dataclasses.replace(TINY, frozen_share=1.0, feature_dropout=0.2, media_dropout=0.1)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    return write_prepared(tmp_path_factory.mktemp("data"), (8, 8))


def train(prepared: Path, output: Path, epochs: int, **loop: Any) -> tuple[dict[str, torch.Tensor], list[int]]:
    """The last weights, and how many pictures went through the encoder each time."""
    setup = make_setup(
        prepared,
        output,
        model=FROZEN,
        augmentation=AugmentConfig(),
        schedule=ScheduleConfig(epochs=epochs),
        loop=LoopConfig(batch_size=8, precision="float32", validations=0, **loop),
    )
    training = Training(setup, World(0, 1, torch.device("cpu")), None)
    encoder, seen = training.model.pictures, list[int]()
    whole = encoder.features

    def counted(pixels: torch.Tensor, seeds: torch.Tensor | None = None) -> torch.Tensor:
        seen.append(len(pixels))
        found: torch.Tensor = whole(pixels, seeds)
        return found

    encoder.features = counted
    training.run(bare_feed(training, setup))
    return {name: value.clone() for name, value in training.model.state_dict().items()}, seen


def test_as_many_versions_as_epochs_change_nothing(prepared: Path, tmp_path: Path) -> None:
    plain, often = train(prepared, tmp_path / "plain", 2)
    kept, once = train(prepared, tmp_path / "kept", 2, keep_features=2)
    assert sum(often) == sum(once) == 32
    assert all(torch.allclose(plain[name].float(), kept[name].float(), atol=1e-6) for name in plain)


def test_every_picture_is_encoded_once_a_version(prepared: Path, tmp_path: Path) -> None:
    one, seen = train(prepared, tmp_path / "one", 4, keep_features=1)
    assert sum(seen) == 16
    anew, _ = train(prepared, tmp_path / "anew", 4)
    assert not torch.allclose(one["pictures.project.weight"], anew["pictures.project.weight"])
    _, seen = train(prepared, tmp_path / "none", 4, keep_features=1, keep_features_mib=0)
    assert sum(seen) == 64


def test_no_version_is_begun_too_late(prepared: Path, tmp_path: Path) -> None:
    _, seen = train(prepared, tmp_path / "half", 4, keep_features=4, keep_features_share=0.5)
    assert sum(seen) == 32, "two versions of 16 pictures, and two epochs of nothing but them"
    _, seen = train(prepared, tmp_path / "first", 4, keep_features=4, keep_features_share=0.01)
    assert sum(seen) == 16, "the first is made whatever it takes"


@pytest.mark.parametrize(
    ("model", "mix", "why"),
    [
        (dataclasses.replace(FROZEN, frozen_share=0.5), ObjectiveMix(), "the encoder is trained"),
        (dataclasses.replace(FROZEN, style_mix=0.5), ObjectiveMix(), "styles are mixed"),
        (dataclasses.replace(FROZEN, objectives=("causal", "masked_medium")), ObjectiveMix(masked_medium_weight=1.0), "no patches"),
    ],
)
def test_what_has_no_features_to_keep_is_refused(model: ModelConfig, mix: ObjectiveMix, why: str) -> None:
    with pytest.raises(RequestError, match=why):
        TrainConfig("prepared", output="out", model=model, mix=mix, loop=LoopConfig(keep_features=4))
