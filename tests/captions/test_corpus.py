"""What captions of a corpus have in common, from sketches:

- sketches of single tables add up to what one over all would say, whatever the order, and survive a footer;
- a caption that more than one in 256 media got is found, with a count that is never too high; memory is bounded;
- shares of duplicates come out near the truth; texts with small changes are near duplicates, different ones are not;
- captions shifted by one against their references raise an alarm that names the table; captions in their place never do.
"""

import random
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from pipeline import storage
from pipeline.captions.corpus import HEAVY, SMALLEST, Sketch, about, alarms, decode, near_keys, read_corpus, sketch_of, summary
from pipeline.commit import tables

NOUNS = [
    f"{one}{two}" for one in ("bar", "cor", "dun", "fel", "gim", "hol", "jas", "kel") for two in ("ant", "ber", "cus", "dor", "eld", "fin")
]


def words(noise: random.Random, count: int = 9) -> str:
    return " ".join(noise.choices(NOUNS, k=count))


def retold(text: str, noise: random.Random) -> str:
    """The same thing in partly other words."""
    return " ".join(word if noise.random() < 0.6 else noise.choice(NOUNS) for word in text.split())


def table(captions: list[str], references: list[Any] | None = None, shard: str = "a.tar") -> pa.Table:
    n = len(captions)
    columns = {"shard": [shard] * n, "caption_index": [0] * n, "caption": captions, "text": references or [None] * n}
    return pa.table({**columns, "text": pa.array(columns["text"], pa.string())})


def test_sketches_add_up_in_any_order_and_survive_a_footer() -> None:
    noise = random.Random(1)
    texts = [words(noise) for _ in range(300)] * 2 + ["the same"] * 50
    noise.shuffle(texts)
    parts = [sketch_of(table(texts[at : at + 65])) for at in range(0, len(texts), 65)]
    sums = []
    for order in (parts, parts[::-1]):
        whole = Sketch()
        for part in order:
            whole.add(decode(part.encode()))
        sums.append((whole.captions, whole.exact, whole.near, summary(whole)["duplicates"]))
    assert sums[0] == sums[1]
    direct = sketch_of(table(texts))
    assert (direct.captions, direct.exact, direct.near) == sums[0][:3]


def test_a_frequent_caption_is_found_among_many_in_bounded_memory() -> None:
    noise = random.Random(2)
    whole, n = Sketch(), 20_000
    for _ in range(20):
        texts = [words(noise) for _ in range(n // 20 - 10)] + ["a man in a room"] * 10  # one in 100
        noise.shuffle(texts)
        whole.add(sketch_of(table(texts)))
        assert max(len(whole.heavy), len(whole.alike)) <= HEAVY and max(len(whole.exact), len(whole.near)) <= SMALLEST
    first = summary(whole)["said_often"][0]
    assert first["caption"] == "a man in a room" and 200 - n / HEAVY <= first["at_least"] <= 200
    assert any("a man in a room" in line for line in alarms(summary(whole)))


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
def test_the_share_of_duplicates_is_near_the_truth(share: float) -> None:
    noise = random.Random(3)
    twins = [words(noise) for _ in range(int(2_000 * share))]
    found = summary(sketch_of(table([*twins, *twins, *(words(noise) for _ in range(int(4_000 * (1 - share))))])))
    assert found["duplicates"] == pytest.approx(share, abs=0.08)


def test_small_changes_are_near_duplicates_and_other_texts_are_not() -> None:
    noise = random.Random(4)
    alike = apart = 0
    for _ in range(200):
        text = words(noise, 20)
        alike += bool(set(near_keys(text)) & set(near_keys(text + " indeed")))
        apart += bool(set(near_keys(text)) & set(near_keys(words(noise, 20))))
    assert alike >= 185 and apart <= 2


@pytest.mark.parametrize("step", [0, 1, -1])
def test_captions_shifted_by_one_raise_an_alarm_that_names_the_table(step: int) -> None:
    noise = random.Random(5)
    references = [words(noise) for _ in range(80)]
    captions = [retold(references[(at + step) % 80], noise) for at in range(80)]
    found = summary(sketch_of(table(captions, references), "b/7.tar"))
    assert found["shifted"] is (step != 0) and found["shifted_shards"] == (["b/7.tar"] if step else [])
    assert any("b/7.tar" in line for line in alarms(found)) is (step != 0)


def test_captions_without_likeness_or_without_references_raise_no_alarm() -> None:
    noise = random.Random(6)
    for references in ([words(noise) for _ in range(500)], [None] * 500, ["the same"] * 500):
        assert not summary(sketch_of(table([words(noise) for _ in range(500)], references)))["shifted"]
    assert summary(sketch_of(table([])))["captions"] == 0 and summary(sketch_of(table(["", "."])))["captions"] == 2


def test_the_summary_of_an_output_is_read_from_footers(tmp_path: Path) -> None:
    store = storage.Folder(str(tmp_path))
    for shard in ("a", "b"):
        made = table(["a cat on a sofa"] * 30 + [f"number {at} of {shard}" for at in range(10)], shard=f"{shard}.tar")
        store.put(f"captions/{shard}.parquet", tables.encode(made, about(made)))
    store.put("captions/old.parquet", tables.encode(table(["written before there were sketches"])))
    found = read_corpus(store)
    assert found is not None and (found["tables"], found["captions"]) == (3, 80)
    assert found["said_often"][0] == {"caption": "a cat on a sofa", "at_least": 60}
    assert read_corpus(storage.Folder(str(tmp_path / "nothing"))) is None
