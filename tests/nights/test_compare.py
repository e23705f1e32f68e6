"""What a night has to do, what it takes over, and where:

- every archive of a listing gets exactly one verdict, whatever clocks say; only tables that do not say what they were made from are judged by time;
- removed archives are those with a table and no listing;
- captions are taken over for equal media and equal rendered prompts, whole samples only, and nothing else;
- one recipe has one folder, whoever chooses it.
"""

import json
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline import schema
from pipeline.nights.compare import Made, compare
from pipeline.nights.versions import differences, digest_of, version_for, versions_in
from pipeline.samples.earlier import Earlier, key_for, taken_in, with_taken


@dataclass(frozen=True)
class Archive:
    stem: str
    fingerprint: str
    mtime_s: float

    @property
    def shard(self) -> str:
        return f"{self.stem}.tar"


prints = st.sampled_from(["", "v1", "v2"])
times = st.floats(0, 3e9)
listings = st.dictionaries(st.sampled_from("abcdef"), st.tuples(st.sampled_from(["v1", "v2"]), times))
mades = st.dictionaries(st.sampled_from("abcdef"), st.tuples(prints, times))


@given(listings, mades, st.one_of(st.just(0.0), times))
def test_every_archive_gets_exactly_one_verdict(listing: Any, made: Any, since_s: float) -> None:
    archives = [Archive(stem, *values) for stem, values in listing.items()]
    tables = {stem: Made(*values) for stem, values in made.items()}
    found = compare(archives, tables, since_s)
    assert sorted((*found.new, *found.changed, *found.unchanged, *found.older)) == sorted(listing)
    assert list(found.removed) == sorted(set(made) - set(listing))
    for archive in archives:
        table = tables.get(archive.stem)
        if table is not None and table.fingerprint:
            assert (archive.stem in found.unchanged) == (table.fingerprint == archive.fingerprint), "a clock decided"
        assert archive.stem not in found.todo or archive.mtime_s >= since_s


@given(listings, mades, times)
def test_a_clock_that_jumps_changes_no_verdict_where_tables_say_what_they_were_made_from(listing: Any, made: Any, jump_s: float) -> None:
    archives = [Archive(stem, *values) for stem, values in listing.items()]
    told = {stem: Made(values[0] or "v1", values[1]) for stem, values in made.items()}
    jumped = {stem: Made(table.fingerprint, table.written_s - jump_s) for stem, table in told.items()}
    assert compare(archives, told) == compare(archives, jumped)


def test_tables_that_do_not_say_are_judged_by_time() -> None:
    tables = {"a": Made("", 100.0), "b": Made("", 100.0)}
    assert compare([Archive("a", "v", 101.0), Archive("b", "v", 99.0)], tables).changed == ("a",)


def captions(*rows: dict[str, Any]) -> pa.Table:
    known = {"shard": "a.tar", "caption_index": 0, "status": "success", "flags": [], "modality": "image"}
    full = [{**dict.fromkeys(schema.CAPTIONS.names), **known, "caption": f"c{at}", "index": at, **row} for at, row in enumerate(rows)]
    return pa.Table.from_pylist(full, schema.CAPTIONS)


samples = st.lists(
    st.tuples(st.sampled_from("xyz"), st.sampled_from("tu"), st.sampled_from(["success", "truncated", "rejected"])), max_size=8
)


@given(samples, samples)
def test_exactly_equal_media_with_equal_prompts_are_taken_over(before: Any, after: Any) -> None:
    table = captions(*({"media_sha256": m, "text": t, "status": s, "caption": None if s == "rejected" else m + t} for m, t, s in before))
    earlier = Earlier(table, key_for(["text"]))
    good = {(medium, text) for medium, text, status in before if status != "rejected"}
    for medium, text, _ in after:
        found = earlier.find({"media_sha256": medium, "text": text, "modality": "image"})
        assert (found is not None) == ((medium, text) in good)
        if found is not None:
            assert json.loads(found["earlier"])[0]["caption"] == medium + text


def test_a_sample_with_any_caption_that_failed_is_not_taken_over_and_flags_of_reading_are_read_anew() -> None:
    two = [{"index": 0, "caption_index": at, "media_sha256": "m", "status": ("success", "error")[at]} for at in (0, 1)]
    assert Earlier(captions(*two)).find({"media_sha256": "m", "modality": "image"}) is None
    flagged = captions({"media_sha256": "m", "flags": ["key_repeated", "looped"], "n_output_tokens": 3, "mean_logprob": -0.5, "width": 9})
    found = Earlier(flagged).find({"media_sha256": "m", "modality": "image"})
    assert found is not None and Earlier(flagged).find({"media_sha256": None, "modality": "image"}) is None
    row = {
        **dict.fromkeys(schema.PARTS.names),
        "kind": "sample",
        "shard": "a.tar",
        "fingerprint": "f",
        "index": 7,
        "piece": 0,
        "last": True,
    }
    rows = pa.Table.from_pylist([row | {"flags": ["json_unparsable"], "caption_index": 0} | found], schema.PARTS)
    assert taken_in(rows) == {"a.tar": {7: "success"}}
    (made,) = with_taken(rows).to_pylist()
    assert (made["flags"], made["index"], made["earlier"]) == (["json_unparsable", "looped"], 7, None)
    assert (made["caption"], made["n_output_tokens"], made["mean_logprob"], made["width"]) == ("c0", 3, -0.5, 9)
    assert with_taken(with_taken(rows)) == with_taken(rows)


def test_prompts_decide_what_has_to_be_equal() -> None:
    assert key_for([]) == ("media_sha256",)
    assert key_for(["text", "width", "json.title", "json.x"]) == ("media_sha256", "text", "sample_sha256")


recipes = st.dictionaries(st.sampled_from(["engine", "prompt", "beams", "root"]), st.one_of(st.text(max_size=3), st.integers(0, 3)))


@given(st.lists(recipes, max_size=5), recipes)
def test_a_recipe_has_one_folder_and_keeps_it(before: list[dict[str, Any]], recipe: dict[str, Any]) -> None:
    folders: list[str] = []
    for one in [*before, recipe]:
        folders.append(version_for(one, [*folders, "nights", "captions"]))
    assert folders[-1] == version_for(recipe, folders) and folders[-1].endswith(digest_of(recipe))
    assert len(set(folders)) == len({digest_of(one) for one in [*before, recipe]})
    assert versions_in(folders)[0] == folders[0]
    assert version_for({**recipe, "root": "elsewhere"}, folders) == folders[-1]


def test_what_differs_is_told_by_field() -> None:
    assert differences({"beams": 1, "root": "/a"}, {"beams": 2, "prompt": "p", "root": "/b"}) == ["beams: 1 -> 2", 'prompt: null -> "p"']


@pytest.mark.parametrize("name", ["v1-0123456789", "v0001-xyz", "runs", "v0001-01234567890"])
def test_other_folders_are_no_versions(name: str) -> None:
    assert (versions_in([name]) == [name]) == (name == "v1-0123456789")
