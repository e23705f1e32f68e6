"""Decisions on a corpus, without Ray:

- they are those of the definition: in order, a sample goes if and only if an earlier one that stays is alike (brute force);
- deciding on the first shards gives what deciding on all gives for them, whatever comes later;
- every sample that goes has a twin that stays, is earlier, and is alike itself, also in a chain of likenesses;
- samples that cannot be read take no part; shards without samples and without drops have their table;
- how work is divided (groups, divisions, windows) changes nothing; a second call does nothing; other options decide anew;
- a million copies of one picture cost what ten cost: the bounds of comparisons hold, and still all but one go.
"""

import hashlib
import itertools
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline import schema
from pipeline.dedup import corpus, matches
from pipeline.dedup.corpus import already_decided, decide_corpus
from pipeline.dedup.likeness import LikenessConfig
from pipeline.dedup.signatures import text_minhash
from pipeline.samples.drops import DECIDED, drop_path

Row = tuple[str | None, int | None, str | None]
"""Medium, perceptual hash, text of a sample; all None is one that cannot be read."""


def here(function: Callable[..., Any], arguments: Iterable[tuple[Any, ...]]) -> Iterator[Any]:
    return itertools.starmap(function, arguments)


def sign(folder: Path, name: str, rows: list[Row]) -> None:
    values = [
        {
            "index": at,
            "key": f"{name}-{at}",
            "reason": "undecodable" if row == (None, None, None) else None,
            "media_sha256": None if row[0] is None else hashlib.sha256(row[0].encode()).digest(),
            "picture": row[1],
            "minhash": None if row[2] is None else text_minhash(row[2]),
        }
        for at, row in enumerate(rows)
    ]
    metadata = {"nightcap.shard": f"{name}.tar", "nightcap.fingerprint": f"f-{name}"}
    path = folder / f"signatures/{name}.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(values, schema.SIGNATURES.with_metadata(metadata)), path)


def decided(folder: Path, shards: dict[str, list[Row]], config: LikenessConfig) -> dict[tuple[str, int], tuple[str, str, int, str]]:
    for name, rows in shards.items():
        sign(folder, name, rows)
    decide_corpus(str(folder), config, here)
    return read(folder, list(shards))


def read(folder: Path, names: list[str]) -> dict[tuple[str, int], tuple[str, str, int, str]]:
    found = {}
    for name in names:
        table = pq.read_table(folder / drop_path(f"{name}.tar"))
        assert table.schema.remove_metadata() == schema.DROPS
        for row in table.to_pylist():
            found[name, row["index"]] = (row["reason"], row["twin_shard"], row["twin_index"], row["twin_key"])
    return found


def alike(a: Row, b: Row, config: LikenessConfig) -> list[str]:
    holds = []
    if "media" in config.by and a[0] is not None and a[0] == b[0]:
        holds.append("media")
    if "picture" in config.by and a[1] is not None and b[1] is not None and (a[1] ^ b[1]).bit_count() <= config.picture_bits:
        holds.append("picture")
    if "text" in config.by and a[2] is not None and a[2] == b[2]:
        holds.append("text")
    return holds


def by_definition(shards: dict[str, list[Row]], config: LikenessConfig) -> dict[tuple[str, int], tuple[str, str, int, str]]:
    samples = [((name, at), row) for name in sorted(shards) for at, row in enumerate(shards[name])]
    kept: list[tuple[tuple[str, int], Row]] = []
    gone = {}
    for (name, at), row in samples:
        twins = [(reason, twin) for twin, other in kept for reason in alike(other, row, config)]
        if not twins:
            kept.append(((name, at), row))
            continue
        reason, (shard, index) = min(twins, key=lambda found: (("media", "picture", "text").index(found[0]), found[1]))
        gone[name, at] = (reason, f"{shard}.tar", index, f"{shard}-{index}")
    return gone


TEXTS = ["a cat on a mat", "the dog in the garden", "eine Katze", "一隻貓在墊子上面", "قطة على السجادة"]
ANCHORS = [0, 0xFFFF_FFFF_FFFF_FFFF, 0x0123_4567_89AB_CDEF]
pictures = st.builds(
    lambda anchor, flips: anchor ^ sum(1 << bit for bit in flips), st.sampled_from(ANCHORS), st.sets(st.integers(0, 63), max_size=5)
)
rows = st.one_of(
    st.just((None, None, None)),
    st.tuples(
        st.one_of(st.none(), st.sampled_from("abcdefgh")), st.one_of(st.none(), pictures), st.one_of(st.none(), st.sampled_from(TEXTS))
    ),
)
corpora = st.lists(st.lists(rows, max_size=8), min_size=1, max_size=4).map(lambda lists: {f"{at:02d}": one for at, one in enumerate(lists)})
configs = st.builds(
    LikenessConfig,
    by=st.sets(st.sampled_from(["media", "picture", "text"]), min_size=1).map(lambda names: tuple(sorted(names))),
    picture_bits=st.integers(0, 8),
)
quick = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])


@quick
@given(corpora, configs)
def test_decisions_are_those_of_the_definition(
    tmp_path_factory: pytest.TempPathFactory, shards: dict[str, list[Row]], config: LikenessConfig
) -> None:
    assert decided(tmp_path_factory.mktemp("corpus"), shards, config) == by_definition(shards, config)


@quick
@given(corpora, configs, st.integers(1, 4))
def test_what_comes_later_changes_no_decision(
    tmp_path_factory: pytest.TempPathFactory, shards: dict[str, list[Row]], config: LikenessConfig, first: int
) -> None:
    folder = tmp_path_factory.mktemp("corpus")
    before = decided(folder, dict(list(shards.items())[:first]), config)
    after = decided(folder, shards, config)
    assert {at: why for at, why in after.items() if at[0] in list(shards)[:first]} == before


@pytest.mark.parametrize("by", [("media", "picture", "text")])
def test_how_work_is_divided_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, by: Any) -> None:
    draw = np.random.default_rng(0)
    shards = {
        f"{shard:03d}": [
            (
                str(draw.integers(0, 300)),
                ANCHORS[draw.integers(0, 3)] ^ (1 << int(draw.integers(0, 64))) ^ (1 << int(draw.integers(0, 64))),
                f"{TEXTS[draw.integers(0, 5)]} {draw.integers(0, 400)} {draw.integers(0, 400)}" if draw.random() < 0.5 else None,
            )
            for _ in range(int(draw.integers(0, 40)))
        ]
        for shard in range(12)
    }
    config = LikenessConfig(by=by, picture_bits=2)
    whole = decided(tmp_path / "whole", shards, config)
    assert 50 < len(whole) < sum(map(len, shards.values()))
    monkeypatch.setattr(corpus, "GROUP_SAMPLES", 30)
    monkeypatch.setattr(corpus, "WINDOW_SAMPLES", 50)
    monkeypatch.setattr(corpus, "DIVISION_BYTES", 10_000)
    monkeypatch.setattr(corpus, "FOOTERS", 5)
    monkeypatch.setattr(matches, "FLUSH_BYTES", 20_000)
    monkeypatch.setattr(matches, "BATCH_ROWS", 7)
    assert decided(tmp_path / "parts", shards, config) == whole
    assert not list(tmp_path.glob("parts/_*")), "what is temporary is deleted"


def test_a_chain_of_likenesses_keeps_what_no_kept_sample_is_like(tmp_path: Path) -> None:
    chain: list[Row] = [(None, sum(1 << bit for bit in range(4 * step)), None) for step in range(5)]  # each 4 bits from the next
    found = decided(tmp_path, {"0": chain}, LikenessConfig(by=("picture",), picture_bits=4))
    assert {index: twin for (_, index), (_, _, twin, _) in found.items()} == {1: 0, 3: 2}


def test_many_copies_cost_bounded_comparisons_and_all_but_one_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[int] = []
    original = matches.find_matches

    def counted(*arguments: Any) -> tuple[str, int]:
        path, count = original(*arguments)
        written.append(count)
        return path, count

    monkeypatch.setattr(corpus, "find_matches", counted)
    copies: list[Row] = [("same", 0x0123_4567_89AB_CDEF, None)] * 3_000
    assert len(decided(tmp_path, {"0": copies}, LikenessConfig())) == 2_999
    assert sum(written) <= 2 * matches.MATCHES * 3_000


def test_a_second_call_does_nothing_and_other_options_decide_anew(tmp_path: Path) -> None:
    shards: dict[str, list[Row]] = {"0": [("a", 0, None)], "1": [("b", 3, None)], "2": []}
    config = LikenessConfig()
    assert set(decided(tmp_path, shards, config)) == {("1", 0)}
    stamp = (tmp_path / DECIDED).stat().st_mtime_ns

    def nothing(*_: Any) -> Iterator[Any]:
        raise AssertionError("nothing is left to do")

    account = decide_corpus(str(tmp_path), config, nothing)
    assert account.dropped == {"media": 0, "picture": 1} and (account.shards, account.samples) == (3, 2)
    assert (tmp_path / DECIDED).stat().st_mtime_ns == stamp
    stricter = LikenessConfig(picture_bits=1)
    assert already_decided(str(tmp_path), stricter) is None
    decide_corpus(str(tmp_path), stricter, here)
    assert read(tmp_path, ["0", "1", "2"]) == {}


def test_decisions_on_shards_that_have_no_signatures_any_more_are_deleted(tmp_path: Path) -> None:
    decided(tmp_path, {"0": [("a", None, None)], "1": [("a", None, None)]}, LikenessConfig())
    (tmp_path / "signatures/1.parquet").unlink()
    decide_corpus(str(tmp_path), LikenessConfig(), here)
    assert not (tmp_path / drop_path("1.tar")).exists() and (tmp_path / drop_path("0.tar")).exists()


def test_killed_anywhere_the_same_call_ends_it(tmp_path: Path) -> None:
    shards: dict[str, list[Row]] = {f"{at}": [("a", at, None), (f"b{at}", 1 << (8 * at), "a text of its own")] for at in range(4)}
    config = LikenessConfig(by=("media", "picture", "text"), picture_bits=0)
    whole = decided(tmp_path / "whole", shards, config)
    for name, rows_of in shards.items():
        sign(tmp_path / "killed", name, rows_of)
    for deadline in range(1, 40):
        calls = itertools.count()

        def dying(
            function: Callable[..., Any], arguments: Iterable[tuple[Any, ...]], calls: Any = calls, deadline: int = deadline
        ) -> Iterator[Any]:
            for given_arguments in arguments:
                if next(calls) == deadline:
                    raise KeyboardInterrupt
                yield function(*given_arguments)

        try:
            decide_corpus(str(tmp_path / "killed"), config, dying)
        except KeyboardInterrupt:
            assert not (tmp_path / "killed" / DECIDED).exists(), "half of the decisions are no decisions"
            continue
        break
    assert deadline > 5
    assert read(tmp_path / "killed", list(shards)) == whole
