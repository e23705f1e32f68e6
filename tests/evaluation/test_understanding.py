"""Probability and understanding on arrays:

- a derangement is one: a permutation, seeded, in which nobody gets a medium of a reference like his own;
- perplexity and bits per byte are the chain rule's; NaN is refused with its place;
- ranks are those of a full sort, in blocks as at once; equal texts are all right;
- a probe learns what is linear and refuses one class; zero-shot's three readings differ as they should.
"""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import RequestError
from pipeline.evaluation import understanding
from pipeline.evaluation.medium import derangement, likelihood, pair_accuracy
from pipeline.evaluation.understanding import accuracy, fit_probe, ranks, retrieval, zero_shot


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


def test_likelihood_is_the_chain_rule() -> None:
    found = likelihood(np.array([4 * math.log(0.5), 2 * math.log(0.25)]), np.array([4, 2]), ["abcd", "äé"], np.array([0, 3]))
    assert found.perplexity == pytest.approx(2 ** (8 / 6))
    assert found.bits_per_byte == pytest.approx(8 / 8)
    assert found.unknown_share == 0.5


@pytest.mark.parametrize("wrong", [math.nan, math.inf, 0.5])
def test_what_is_no_log_probability_is_refused_with_its_place(wrong: float) -> None:
    with pytest.raises(RequestError, match="text 1 "):
        likelihood(np.array([-1.0, wrong]), np.array([1, 1]), ["a", "b"], np.array([0, 0]))


def test_no_text_is_refused() -> None:
    with pytest.raises(RequestError, match="no text"):
        likelihood(np.array([0.0]), np.array([0]), [""], np.array([0]))


def test_pair_accuracy_counts_ties_half() -> None:
    assert pair_accuracy(np.array([-1.0, -2, -3, -4]), np.array([-2.0, -1, -3, -9])) == 0.625


def test_ranks_are_those_of_a_full_sort(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    queries, targets = rng.normal(size=(50, 8)), rng.normal(size=(70, 8))
    labels = np.arange(70)
    similar = queries @ targets.T
    wanted = [1 + int((similar[at] > similar[at, at]).sum()) for at in range(50)]
    assert ranks(queries, targets, labels[:50], labels).tolist() == wanted
    monkeypatch.setattr(understanding, "BLOCK", 7)
    found = ranks(queries, targets, labels[:50], labels)
    assert found.tolist() == wanted
    assert retrieval(found).recall[5] == np.mean(np.array(wanted) <= 5)


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
    assert accuracy(probe.predict(features[1::2]), labels[1::2], probe.classes) > 0.97
    assert np.array_equal(probe.weights, fit_probe(features[::2], labels[::2]).weights)


def test_one_class_and_unseen_labels_are_refused() -> None:
    with pytest.raises(RequestError, match="two classes"):
        fit_probe(np.ones((3, 2)), ["a"] * 3)
    with pytest.raises(RequestError, match="never seen"):
        accuracy(["a"], ["z"], ["a", "b"])


def test_calibration_takes_away_what_is_probable_without_looking() -> None:
    given_x = np.log(np.array([[0.5, 0.2, 0.0001]]))
    found = zero_shot(given_x, np.log(np.array([0.5, 0.1, 0.0001])), np.array([1, 1, 9]))
    assert (found.raw[0], found.normalised[0], found.calibrated[0]) == (0, 0, 1)
    assert zero_shot(given_x, given_x[0], np.array([1, 1, 20])).normalised[0] == 2
