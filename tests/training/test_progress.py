"""Which rows were stepped on:

- ranges are what sets of rows are, for union, difference and cutting;
- killed anywhere, with any number of workers, the steps that checkpoints kept make up every epoch exactly once;
- a finished epoch takes no room; progress survives its JSON.
"""

import json

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pipeline.training.corpus import Corpus, Group, PreparedFile
from pipeline.training.order import FeedTask, permuted, plan
from pipeline.training.progress import Marker, Progress, Ranges, count, of_rows, rows_of, union, within, without

rows = st.sets(st.integers(0, 40))


def ranges_of(found: set[int]) -> Ranges:
    return of_rows(np.array(sorted(found), np.int64))


@given(rows, rows)
def test_ranges_are_sets_of_rows(first: set[int], second: set[int]) -> None:
    a, b = ranges_of(first), ranges_of(second)
    assert set(rows_of(a).tolist()) == first
    assert count(a) == len(first)
    assert union(a, b) == ranges_of(first | second)
    assert without(a, b) == ranges_of(first - second)
    assert within(a, 10, 30) == ranges_of({row for row in first if 10 <= row < 30})


@given(st.lists(st.tuples(st.integers(0, 20), st.integers(0, 20))))
def test_union_of_any_pairs_is_sorted_and_disjoint(pairs: list[tuple[int, int]]) -> None:
    merged = union(pairs)
    assert set(rows_of(merged).tolist()) == {row for lo, hi in pairs for row in range(lo, hi)}
    assert all(first[1] < second[0] for first, second in zip(merged, merged[1:], strict=False))


def corpus_of(sizes: list[int], group_rows: int) -> Corpus:
    files = []
    for number, size in enumerate(sizes):
        groups = [Group(first, min(group_rows, size - first), 1000) for first in range(0, size, group_rows)]
        files.append(PreparedFile(f"{number}.parquet", f"{number}.parquet", tuple(groups)))
    return Corpus(tuple(files))


def rows_in(task: FeedTask) -> list[tuple[int, int, int]]:
    """(epoch, file, row) in the order in which the task yields them."""
    found = [(task.epoch, chunk.file, int(row)) for chunk in task.chunks for row in rows_of(chunk.rows)]
    return [found[place] for place in permuted(task, len(found))]


@given(
    sizes=st.lists(st.integers(0, 30), min_size=1, max_size=4),
    group_rows=st.integers(1, 12),
    epochs=st.integers(1, 3),
    attempts=st.lists(st.tuples(st.integers(1, 4), st.integers(0, 25), st.integers(1, 5)), max_size=5),
    data=st.data(),
)
def test_killed_anywhere_with_any_number_of_workers_each_epoch_is_seen_exactly_once(
    sizes: list[int], group_rows: int, epochs: int, attempts: list[tuple[int, int, int]], data: st.DataObject
) -> None:
    corpus = corpus_of(sizes, group_rows)
    held = {"0.parquet": ((1, 3),)}
    universe, saved, kept = corpus.universe(held), Progress(), []
    for workers, steps, checkpoint_every in [*attempts, (1, 10**6, 10**6)]:
        progress = Progress.from_json(json.loads(json.dumps(saved.to_json())))
        stream = [row for task in plan(corpus, universe, progress, seed=1, epochs=epochs) for row in rows_in(task)]
        # Workers draw from the stream in any interleaving; a step takes up to `workers` x 2 rows of it.
        taken = data.draw(st.permutations(stream)) if stream and len(stream) < 40 else stream
        marker, pending = Marker(corpus.names), []
        for step in range(steps):
            batch = taken[step * workers * 2 : (step + 1) * workers * 2]
            if not batch:
                break
            marker.mark(*(np.array(column) for column in zip(*batch, strict=True)))
            pending += batch
            if (step + 1) % checkpoint_every == 0:
                progress.add(marker.take())
                progress.settle(universe)
                saved, kept, pending = Progress.from_json(progress.to_json()), kept + pending, []
        if steps == 10**6:  # the last attempt ends well, and saves
            progress.add(marker.take())
            progress.settle(universe)
            saved, kept = progress, kept + pending
    wanted = [
        (epoch, file, int(row))
        for epoch in range(epochs)
        for file, prepared in enumerate(corpus.files)
        for row in rows_of(universe.get(prepared.name, ()))
    ]
    assert sorted(kept) == sorted(wanted)
    assert not universe or (saved.finished >= epochs and saved.begun == {})
    assert saved.samples(universe) == len(wanted) if universe else True


def test_another_plan_of_the_same_progress_is_the_same_and_epochs_differ() -> None:
    corpus = corpus_of([300, 200], 50)
    universe = corpus.universe({})
    once = plan(corpus, universe, Progress(), seed=3, epochs=2)
    assert once == plan(corpus, universe, Progress(), seed=3, epochs=2)
    by_epoch = [[row[1:] for task in once if task.epoch == epoch for row in rows_in(task)] for epoch in (0, 1)]
    assert sorted(by_epoch[0]) == sorted(by_epoch[1]) and by_epoch[0] != by_epoch[1]
    assert by_epoch[0] != [row[1:] for task in plan(corpus, universe, Progress(), seed=4, epochs=1) for row in rows_in(task)]


def test_a_small_corpus_is_shuffled_as_a_whole() -> None:
    corpus = corpus_of([400, 400], 40)
    files = [row[1] for task in plan(corpus, corpus.universe({}), Progress(), seed=0, epochs=1) for row in rows_in(task)]
    assert 0.3 < np.mean(files[:100]) < 0.7


def test_a_task_reads_no_more_than_its_bound_and_each_row_group_in_one_piece() -> None:
    groups = tuple(Group(first, 1000, 20 << 20) for first in range(0, 40_000, 1000))
    corpus = Corpus((PreparedFile("a.parquet", "a.parquet", groups),))
    tasks = plan(corpus, corpus.universe({}), Progress(), seed=0, epochs=1)
    assert max(len(task.chunks) for task in tasks) == 2
    assert all(task.pieces == 1 for task in tasks)
    assert sorted(chunk.group for task in tasks for chunk in task.chunks) == list(range(40))
