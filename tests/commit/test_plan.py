"""What a request names, what is done and what is left:

- globs, braces, folders, list files and `::` name archives; what matches nothing is refused with what is there instead;
- shard names are relative to the root; two archives with one table, and archives outside the root, are refused;
- a caption table is a done archive; parts leave only the missing index ranges to do.
"""

import json
import os
from pathlib import Path

import pytest

from pipeline.commit import recipe as recipes
from pipeline.commit.budget import Budget
from pipeline.commit.parts import Part, Unit
from pipeline.commit.plan import LAST_INDEX, expand, inputs, make_plan, todo
from pipeline.errors import RequestError
from pipeline.storage import Folder


@pytest.fixture
def data(tmp_path: Path) -> Path:
    for name in ("a/0.tar", "a/1.tar", "a/2.tar.gz", "b/c/3.tgz", "b/notes.txt"):
        path = tmp_path / "data" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    return tmp_path / "data"


def names(pattern: str) -> list[str]:
    root, blobs = expand([pattern])
    return [blob.path.removeprefix(root + "/") for blob in blobs]


def test_patterns_name_archives(data: Path) -> None:
    assert names(f"{data}") == ["a/0.tar", "a/1.tar", "a/2.tar.gz", "b/c/3.tgz"]
    assert names(f"{data}/a/*.tar") == ["0.tar", "1.tar"]
    assert names(f"{data}/**/*.t*") == ["a/0.tar", "a/1.tar", "a/2.tar.gz", "b/c/3.tgz", "b/notes.txt"]
    assert names(f"{data}/a/{{0..1}}.tar") == ["0.tar", "1.tar"]
    assert names(f"{data}/a/[01].tar") == ["0.tar", "1.tar"]
    assert names(f"{data}/a/0.tar::{data}/b/c/3.tgz") == ["a/0.tar", "b/c/3.tgz"]


def test_a_list_file_names_archives(data: Path) -> None:
    listed = data / "list.txt"
    listed.write_text(f"# ours\n{data}/a/0.tar\n\n{data}/a/1.tar\n")
    assert names(f"@{listed}") == ["0.tar", "1.tar"]


@pytest.mark.parametrize("pattern", ["missing/*.tar", "a/9.tar", "a/{7..9}.tar", "b/c/*.zip"])
def test_what_matches_nothing_is_refused_with_what_is_there(data: Path, pattern: str) -> None:
    with pytest.raises(RequestError, match="no shard matches .* exists and holds"):
        expand([f"{data}/{pattern}"])


def test_braces_name_folders_and_a_literal_name_may_hold_brackets(data: Path) -> None:
    assert names(f"{data}/{{a,b}}") == ["a/0.tar", "a/1.tar", "a/2.tar.gz", "b/c/3.tgz"]
    (data / "a/x[1].tar").write_bytes(b"x")
    assert names(f"{data}/a/x[1].tar") == ["x[1].tar"]
    with pytest.raises(RequestError, match="no shard matches"):
        expand([f"{data}/{{a,z}}"])
    with pytest.raises(RequestError, match="braces of .* do not match"):
        expand([f"{data}/a/{{0.tar"])


def test_a_list_file_that_names_nothing_or_is_no_text_is_refused(data: Path) -> None:
    (data / "list.txt").write_text("# none\n\n")
    with pytest.raises(RequestError, match="names no shard"):
        expand([f"@{data}/list.txt"])
    (data / "list.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(RequestError, match="is not text"):
        expand([f"@{data}/list.txt"])


def test_two_archives_with_one_table_are_refused(data: Path) -> None:
    (data / "a/0.tar.gz").write_bytes(b"y")
    root, blobs = expand([str(data)])
    with pytest.raises(RequestError, match="would write the same table"):
        inputs(blobs, root)


def test_archives_outside_the_root_are_refused(data: Path) -> None:
    _, blobs = expand([str(data)])
    with pytest.raises(RequestError, match="lies outside"):
        inputs(blobs, str(data / "a"))


def test_a_caption_table_is_a_done_archive_and_newer_archives_are_reported(data: Path, tmp_path: Path) -> None:
    root, blobs = expand([str(data)])
    store = Folder(str(tmp_path / "out"))
    store.put("captions/a/0.parquet", b"x")
    shards = inputs(blobs, root)
    plan = make_plan(shards, store)
    assert plan.done == 1 and [one.input.shard for one in plan.open] == ["a/1.tar", "a/2.tar.gz", "b/c/3.tgz"] and plan.newer == []
    os.utime(data / "a/0.tar", (2e9, 2e9))
    again = inputs(expand([str(data)])[1], root)
    assert make_plan(again, store).newer == ["a/0.tar"]
    assert [one.input.shard for one in make_plan(again, store, changed=True).open][0] == "a/0.tar"


def part(lo: tuple[int, int], hi: tuple[int, int], *, whole: bool = True, transient: bool = False, end: bool = False) -> Part:
    return Part("x", Unit(*lo), Unit(*hi), whole, transient, end)


def test_only_what_no_part_holds_for_good_is_left() -> None:
    assert todo([]) is None
    assert todo([part((0, 0), (4, 0))]) == ((5, LAST_INDEX),)
    assert todo([part((2, 0), (4, 0)), part((6, 0), (9, 0), end=True)]) == ((0, 1), (5, 5))
    assert todo([part((0, 0), (4, 0), transient=True)]) is None
    assert todo([part((0, 0), (3, 1), whole=False)]) == ((3, LAST_INDEX),)
    assert todo([part((0, 1), (3, 0))]) == ((0, 0), (4, LAST_INDEX))


def test_a_folder_holds_one_recipe(tmp_path: Path) -> None:
    store = Folder(str(tmp_path / "out"))
    assert recipes.root_of(store) is None
    recipes.guard(store, {"root": "/r", "engine": "facts"})
    recipes.guard(store, {"engine": "facts", "root": "/r"})
    with pytest.raises(RequestError, match='engine = "facts", this request has "x"'):
        recipes.guard(store, {"root": "/r", "engine": "x"})
    assert recipes.root_of(store) == "/r"
    assert json.loads((tmp_path / "out/recipe.json").read_text())["engine"] == "facts"


@pytest.mark.parametrize("content", [b"[1]", b"{", b"\xff"])
def test_a_recipe_that_cannot_be_read_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "recipe.json").write_bytes(content)
    with pytest.raises(RequestError, match="cannot be read"):
        recipes.guard(Folder(str(tmp_path)), {"root": "/r"})


def test_a_budget_is_a_share_or_a_count() -> None:
    assert not Budget.parse("5%").exceeded(199, 199)
    assert Budget.parse("5%").exceeded(200, 11) and not Budget.parse("5%").exceeded(200, 10)
    assert Budget.parse("5%").exceeded(10, 1, final=True)
    assert Budget.parse("3").exceeded(4, 4) and not Budget.parse("3").exceeded(1000, 3)
    for text in ("", "x", "-1", "5 %%", "120%", "nan%"):
        with pytest.raises(RequestError, match="--max-rejects"):
            Budget.parse(text)
