"""Who a model is: its identity follows its content, not its place or what lies beside it; seeds follow the medium."""

import os
import shutil
from pathlib import Path

import pytest

from pipeline.captions.weights import EDGE_BYTES, identity, sample_seed


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    found = tmp_path / "a" / "model"
    found.mkdir(parents=True)
    (found / "config.json").write_text("{}")
    (found / "model.bin").write_bytes(bytes(3 * EDGE_BYTES))
    return found


def test_a_copy_elsewhere_is_the_same_model(folder: Path, tmp_path: Path) -> None:
    assert identity(Path(shutil.copytree(folder, tmp_path / "b" / "model"))) == identity(folder)


def test_a_file_that_is_no_part_of_the_model_changes_nothing(folder: Path) -> None:
    before = identity(folder)
    (folder / "README.md").write_text("words")
    assert identity(folder) == before


@pytest.mark.parametrize("at", [0, 3 * EDGE_BYTES // 2 + 5, 3 * EDGE_BYTES - 1])
def test_another_byte_at_a_sampled_place_of_the_weights_is_another_model(folder: Path, at: int) -> None:
    before = identity(folder)
    with (folder / "model.bin").open("r+b") as file:
        file.seek(at)
        file.write(b"\x01")
    assert identity(folder) != before


def test_another_size_or_config_is_another_model(folder: Path) -> None:
    before = identity(folder)
    os.truncate(folder / "model.bin", 3 * EDGE_BYTES + 1)
    longer = identity(folder)
    (folder / "config.json").write_text("[]")
    assert len({str(one) for one in (before, longer, identity(folder))}) == 3


def test_a_hub_snapshot_is_known_by_its_commit(tmp_path: Path) -> None:
    snapshot = tmp_path / "models--owner--name" / "snapshots" / "0123abc"
    snapshot.mkdir(parents=True)
    assert identity(snapshot) == {"name": "models--owner--name", "commit": "0123abc"}


def test_a_seed_follows_the_run_and_the_medium() -> None:
    assert sample_seed(1, b"a") == sample_seed(1, b"a")
    assert len({sample_seed(1, b"a"), sample_seed(2, b"a"), sample_seed(1, b"b")}) == 3
    assert 0 <= sample_seed(-1, b"") < 2**31
