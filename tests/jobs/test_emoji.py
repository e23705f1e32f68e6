"""The demo"s pictures are split once, by name:

- a name that is never trained shares no label with one that is;
- the halves of validation and test are fixed, disjoint and even;
- both artists drew the same names;
- the recipe of 20 minutes is the demo's, longer.
"""

import dataclasses
from pathlib import Path

import pytest
import yaml

from jobs.emoji import half, held_out, parts, plain
from jobs.lesson import recipe
from pipeline.errors import RequestError

HALVES = ["validation", "test", "validation", "validation"]
"""Of the first names; if they change, published figures are no longer comparable."""


def test_a_held_out_name_shares_no_label_with_another() -> None:
    labels = {f"thing {number}": {f"thing {number}"} for number in range(300)}
    labels |= {f"pair {number} {side}": {f"pair {number} {side}", f"Alias-{number}"} for number in range(200) for side in "ab"}
    found = held_out(labels)
    assert 40 < len(found) < 80 and not any(name.startswith("pair") for name in found)


def test_halves_are_fixed_and_even() -> None:
    assert [half(name) for name in ("1st place medal", "2nd place medal", "violin", "ox")] == HALVES
    share = sum(half(f"name {number}") == "test" for number in range(2000)) / 2000
    assert 0.45 < share < 0.55


def test_the_installed_pictures_are_split_as_promised() -> None:
    try:
        found = parts()
    except RequestError:
        pytest.skip("the emoji packages are not installed: make demo installs them")
    names = [{picture.name for picture in part} for part in found]
    assert names[1] | names[2] <= names[0] and not names[1] & names[2]
    unseen = names[3] | names[4]
    assert not unseen & names[0] and not names[3] & names[4]
    assert not {plain(name) for name in unseen} & {plain(name) for name in names[0]}
    assert len(found.train) > 1400 and min(map(len, found[1:3])) > 600 and min(map(len, found[3:])) > 120
    assert all("Twtr" in picture.path.parts for picture in found.new_artist_test)


def test_the_longer_recipe_is_the_demos_but_for_its_length() -> None:
    try:
        demo = recipe("prepared", "validation", "output", 3)
    except RequestError:
        pytest.skip("the emoji packages are not installed: make demo installs them")
    longer = yaml.safe_load((Path(__file__).parents[2] / "infra/emoji.yaml").read_text())
    longer |= longer.pop("augment")
    said = {"validation_samples": demo.validation_samples}
    for part in (demo.model, demo.mix, demo.optimiser, demo.schedule, demo.loop, demo.augment):
        plain_part = type(part)()
        said |= {
            field.name: getattr(part, field.name)
            for field in dataclasses.fields(part)
            if getattr(part, field.name) != getattr(plain_part, field.name)
        }
    other = {"max_minutes", "keep_features", "validations", "backbone_weights", "text_model"}
    assert {name: value for name, value in longer.items() if name not in other} == {
        name: value for name, value in said.items() if name not in other
    }
