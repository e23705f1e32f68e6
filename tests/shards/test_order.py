"""Order and assignment:

- a shuffle is a permutation for any number of samples, the same for the same seed, another for another;
- cut into buckets it gives what sorting in memory gives, whatever the memory;
- no archive passes a bound, and none could take one more sample; a sample larger than the bound stands alone;
- a repeated id is found whatever the number of passes, and the first one stays.
"""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.shards import order
from pipeline.shards.index import IndexWriter, ItemRow, batches, read_rows, rows_of
from pipeline.shards.item import Place
from pipeline.shards.order import Shuffle, assign, repeated_ids, shuffled
from pipeline.shards.twice import without_repeats
from pipeline.storage import Folder


def index(store: Folder, path: str, sizes: list[int], ids: list[int | None] | None = None, text: bytes = b"t") -> None:
    with store.create(path) as draft:
        writer = IndexWriter(draft)
        for at, size in enumerate(sizes):
            members = [("jpg", Place(f"/x/{path}-{at}.jpg", 0, size)), ("txt", text)]
            writer.add(ItemRow(f"{path}-{at}", "m.csv", at, ids[at] if ids else None, size, members))
        writer.close()


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 3000), st.integers(0, 2**40))
def test_a_shuffle_is_a_permutation(total: int, seed: int) -> None:
    assert sorted(shuffled(np.arange(total, dtype=np.uint64), total, seed).tolist()) == list(range(total))


def test_seeds_give_different_orders_that_look_like_chance() -> None:
    found = [shuffled(np.arange(10_000, dtype=np.uint64), 10_000, seed).astype(float) for seed in (1, 2)]
    for one in (np.corrcoef(found[0], found[1])[0, 1], np.corrcoef(found[0], np.arange(10_000))[0, 1]):
        assert abs(one) < 0.05
    assert (np.abs(np.diff(found[0])) == 1).mean() < 0.01


@pytest.mark.parametrize("memory", [1 << 30, 1])
def test_buckets_give_what_sorting_in_memory_gives(tmp_path: Path, memory: int) -> None:
    store = Folder(str(tmp_path))
    counts = [700, 1, 1300]
    paths = [f"_scan/{number}.arrow" for number in range(3)]
    for path, count in zip(paths, counts, strict=True):
        index(store, path, [600] * count, text=b"t" * 10_000)
    names = [row.name for path in paths for batch in batches(f"{tmp_path}/{path}") for row in rows_of(batch)]
    index_bytes = sum(batch.nbytes for path in paths for batch in batches(f"{tmp_path}/{path}"))
    shuffle = Shuffle.of(str(tmp_path), total=sum(counts), seed=5, index_bytes=index_bytes, memory_bytes=memory)
    assert (shuffle.buckets > 3) == (memory == 1)
    scattered, first = [], 0
    for number, (path, count) in enumerate(zip(paths, counts, strict=True)):
        chunks = order.scatter(shuffle, number, path, first)
        scattered += [order.scattered_path(number, chunk) for chunk in range(chunks)]
        first += count
    for bucket in range(shuffle.buckets):
        order.gather(shuffle, bucket, scattered)
    found = [
        row.name
        for bucket in range(shuffle.buckets)
        for batch in batches(f"{tmp_path}/{order.bucket_path(bucket)}")
        for row in rows_of(batch)
    ]
    places = shuffled(np.arange(len(names), dtype=np.uint64), len(names), 5).tolist()
    assert found == [name for _, name in sorted(zip(places, names, strict=True))]


@settings(max_examples=60, deadline=None)
@given(sizes=st.lists(st.lists(st.integers(512, 6000), max_size=30), min_size=1, max_size=4), most=st.integers(1, 9))
def test_archives_are_as_full_as_the_bounds_allow(tmp_path_factory: pytest.TempPathFactory, sizes: list[list[int]], most: int) -> None:
    store = Folder(str(tmp_path_factory.mktemp("index")))
    paths = [f"{number}.arrow" for number in range(len(sizes))]
    for path, some in zip(paths, sizes, strict=True):
        index(store, path, some)
    flat = [size for some in sizes for size in some]
    plans = list(assign(store, paths, max_bytes=10_000, max_samples=most))
    position = 0
    for number, plan in enumerate(plans):
        taken = flat[position : position + plan.samples]
        rows = [row for span in plan.spans for row in read_rows(f"{store.url}/{span.path}", span.start, span.stop)]
        assert (plan.number, plan.first) == (number, position) and [row.size for row in rows] == taken
        assert plan.samples == 1 or (plan.samples <= most and 1024 + sum(taken) <= 10_000)
        position += plan.samples
        if position < len(flat):
            assert plan.samples == most or 1024 + sum(taken) + flat[position] > 10_000
    assert position == len(flat)


@pytest.mark.parametrize("memory", [1 << 30, 100])
def test_a_repeated_id_is_dropped_and_the_first_one_stays(tmp_path: Path, memory: int) -> None:
    store = Folder(str(tmp_path))
    index(store, "_scan/0.arrow", [600] * 4, [1, 2, None, 1])
    index(store, "_scan/1.arrow", [600] * 3, [3, 2, None])
    paths = ["_scan/0.arrow", "_scan/1.arrow"]
    found = repeated_ids(store, paths, with_id=5, memory_bytes=memory)
    assert {path: rows.tolist() for path, rows in found.items()} == {"_scan/0.arrow": [3], "_scan/1.arrow": [1]}
    for path, rows in found.items():
        without_repeats(store.url, path, rows.tolist())
    assert [row.row for row in read_rows(f"{tmp_path}/_scan/0.arrow", 0, 9)] == [0, 1, 2]
    assert [row.row for row in read_rows(f"{tmp_path}/_scan/1.arrow", 0, 9)] == [0, 2]
    assert repeated_ids(store, paths, with_id=5, memory_bytes=memory) == {}
