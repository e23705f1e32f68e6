"""Probability and understanding on arrays:

- a derangement is one: a permutation, seeded, in which nobody gets a medium of a reference like his own;
- perplexity and bits per byte are the chain rule's; NaN is refused with its place; intervals are those of other draws;
- ranks are those of a full sort, in blocks as at once; equal texts are all right;
- a probe learns what is linear, is tested on other samples, and refuses one class; zero-shot's three readings differ as they should;
- labels that are none, of another corpus, or of one class only are refused.
"""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import RequestError
from pipeline.evaluation import understanding
from pipeline.evaluation.figures import MOST_BUCKETS, bits_of, figures, mean_of, perplexity_of
from pipeline.evaluation.labels import check, check_seen, of_json, rare, source_of
from pipeline.evaluation.medium import derangement
from pipeline.evaluation.understanding import cross_validated, fit_probe, ranks, zero_shot


@given(st.lists(st.integers(0, 6), min_size=1, max_size=60), st.integers(0, 3))
def test_nobody_gets_a_medium_of_a_reference_like_his_own(references: list[int], seed: int) -> None:
    if len(references) < 2 or 2 * max(references.count(one) for one in references) > len(references):
        with pytest.raises(RequestError, match="cannot be shuffled"):
            derangement(references, seed)
        return
    found = derangement(references, seed)
    assert sorted(found) == list(range(len(references)))
    assert all(references[at] != references[other] for at, other in enumerate(found))
    assert found.tolist() == derangement(references, seed).tolist()


def test_another_seed_shuffles_otherwise() -> None:
    assert derangement(range(50), 0).tolist() != derangement(range(50), 1).tolist()


def test_perplexity_and_bits_are_the_chain_rule() -> None:
    logp, tokens = np.array([4 * math.log(0.5), 2 * math.log(0.25)]), np.array([4, 2])
    ratios = {"perplexity": perplexity_of(logp, tokens), "bits": bits_of(logp, np.array([4, 4])), "none": bits_of(logp, np.zeros(2))}
    found = figures(ratios, {"kind": ["a", "b"]}, replicates=50, seed=0)
    whole, first = found["all", "all"], found["kind", "a"]
    assert whole["perplexity"]["value"] == pytest.approx(2 ** (8 / 6)) and whole["bits"]["value"] == pytest.approx(1.0)
    assert first["perplexity"]["value"] == pytest.approx(2.0) == first["perplexity"]["low"] == first["perplexity"]["high"]
    assert whole["none"] == {"value": None, "low": None, "high": None}


def test_an_interval_holds_what_other_draws_give() -> None:
    hits = np.random.default_rng(0).random(9_000) < 0.3
    found = figures({"hits": mean_of(np.where(np.arange(9_000) < 8_000, hits, np.nan))}, {}, replicates=400, seed=1)["all", "all"]["hits"]
    spread = 1.96 * math.sqrt(0.21 / 8_000)
    assert found["value"] == pytest.approx(hits[:8_000].mean())
    assert found["high"] is not None and found["low"] is not None
    assert found["high"] - found["low"] == pytest.approx(2 * spread, rel=0.15)


def test_many_buckets_share_one() -> None:
    names = [f"class {at % 50:02d}" for at in range(500)]
    found = figures({"x": mean_of(np.ones(500))}, {"label": names}, replicates=5, seed=0)
    assert len(found) == MOST_BUCKETS + 2 and ("label", "others") in found


@pytest.mark.parametrize("wrong", [math.nan, math.inf, 0.5])
def test_what_is_no_log_probability_is_refused_with_its_place(wrong: float) -> None:
    with pytest.raises(RequestError, match="text 1 "):
        perplexity_of(np.array([-1.0, wrong]), np.array([1, 1]))


def test_a_probe_is_tested_on_what_it_did_not_learn_from() -> None:
    rng = np.random.default_rng(0)
    labels = ["a", "b"] * 40
    told = np.array([[1.0 if label == "a" else -1.0, 0.0] for label in labels]) + rng.normal(0, 0.1, (80, 2))
    assert cross_validated(told, labels) == labels
    untold = cross_validated(rng.normal(0, 1, (80, 40)), labels)
    assert 0.25 < np.mean([one == other for one, other in zip(untold, labels, strict=True)]) < 0.75


def test_labels_come_from_json_and_are_text() -> None:
    assert [of_json(data, "a.b") for data in (b'{"a": {"b": "x "}}', b'{"a": {"b": 3}}', b'{"a": {"b": true}}')] == ["x", "3", "true"]
    assert [of_json(data, "a.b") for data in (b'{"a": {"b": [1]}}', b'{"a": 1}', b"{", b'"a"', b"[" * 100_000, b"\xff")] == [None] * 6
    assert rare(["a", "b", "b", None]) == {"a"}


def test_labels_that_tell_nothing_are_refused() -> None:
    with pytest.raises(RequestError, match="labels none of the 2 samples .*'k'.* another corpus"):
        check([None, None], "l.csv", {"key": "k"})
    with pytest.raises(RequestError, match="all 2 labelled samples are 'a'"):
        check(["a", "a", None], "l.csv", {})
    with pytest.raises(RequestError, match="name the column"):
        source_of("column:")
    assert source_of("json:a.b").name == "a.b" and source_of("s3://x/l.csv").kind == "table"


def test_ranks_are_those_of_a_full_sort(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    queries, targets = rng.normal(size=(50, 8)), rng.normal(size=(70, 8))
    labels = np.arange(70)
    similar = queries @ targets.T
    wanted = [1 + int((similar[at] > similar[at, at]).sum()) for at in range(50)]
    assert ranks(queries, targets, labels[:50], labels).tolist() == wanted
    monkeypatch.setattr(understanding, "BLOCK", 7)
    assert ranks(queries, targets, labels[:50], labels).tolist() == wanted


def test_targets_with_the_same_text_are_all_right() -> None:
    targets = np.array([[1.0, 0], [0.9, 0], [0, 1.0]])
    assert ranks(np.array([[1.0, 0], [1.0, 0]]), targets, np.array([1, 2]), np.array([0, 1, 2])).tolist() == [2, 3]
    assert ranks(np.array([[1.0, 0]]), targets, np.array([0]), np.array([0, 0, 1])).tolist() == [1]


def test_a_constant_embedding_does_not_come_first() -> None:
    assert ranks(np.ones((4, 2)), np.ones((4, 2)), np.arange(4), np.arange(4)).tolist() == [3, 3, 3, 3]


def test_a_query_without_target_and_nan_are_refused() -> None:
    with pytest.raises(RequestError, match="query 0 has no target"):
        ranks(np.ones((1, 2)), np.ones((1, 2)), np.array([0]), np.array([1]))
    with pytest.raises(RequestError, match="NaN"):
        ranks(np.full((1, 2), np.nan), np.ones((1, 2)), np.array([0]), np.array([0]))


def test_a_probe_learns_what_is_linear() -> None:
    rng = np.random.default_rng(0)
    centres = {"a": [0, 0, 4], "b": [4, 0, 0], "c": [0, 4, 0]}
    labels = [name for name in centres for _ in range(40)]
    features = np.array([rng.normal(centres[label], 0.7) for label in labels])
    probe = fit_probe(features[::2], labels[::2])
    assert np.mean([one == other for one, other in zip(probe.predict(features[1::2]), labels[1::2], strict=True)]) > 0.97
    assert np.array_equal(probe.weights, fit_probe(features[::2], labels[::2]).weights)


def test_one_class_and_unseen_labels_are_refused() -> None:
    with pytest.raises(RequestError, match="two classes"):
        fit_probe(np.ones((3, 2)), ["a"] * 3)
    with pytest.raises(RequestError, match="never seen"):
        check_seen(["a", "z"], ["a", "b"], "there")


def test_calibration_takes_away_what_is_probable_without_looking() -> None:
    given_x = np.log(np.array([[0.5, 0.2, 0.0001]]))
    found = zero_shot(given_x, np.log(np.array([0.5, 0.1, 0.0001])), np.array([1, 1, 9]))
    assert (found.raw[0], found.normalised[0], found.calibrated[0]) == (0, 0, 1)
    assert zero_shot(given_x, given_x[0], np.array([1, 1, 20])).normalised[0] == 2
