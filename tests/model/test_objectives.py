"""The losses are the formulas that they say:

- cross-entropy, label smoothing, patches, and the contrast by hand computation;
- a text is shifted exactly once, ends in [SEP], and padding weighs nothing;
- equal texts are no negatives;
- the words of a recording count by all the ways in which its tokens may give them.
"""

import math

import pytest
import torch

from pipeline.model.objectives import causal_targets, contrastive_loss, ctc_loss, patch_loss, token_loss


def test_the_loss_of_a_word_is_its_negative_log_probability_times_the_weight() -> None:
    logits = torch.tensor([[[0.0, math.log(3.0)], [0.0, 0.0]], [[0.0, 0.0], [5.0, -5.0]]])  # p = 1/4, 3/4; 1/2, 1/2; ...
    loss = token_loss(logits, torch.tensor([[1, 0], [0, 0]]), torch.tensor([[1.0, 0.5], [0.0, 0.0]]))
    assert float(loss.total) == pytest.approx(-math.log(3 / 4) - 0.5 * math.log(1 / 2))
    assert float(loss.count) == 1.5


def test_label_smoothing_spreads_its_share_over_the_vocabulary() -> None:
    logits = torch.tensor([[[0.0, math.log(3.0)]]])
    loss = token_loss(logits, torch.tensor([[1]]), torch.ones(1, 1), label_smoothing=0.2)
    assert float(loss.total) == pytest.approx(-0.8 * math.log(3 / 4) - 0.1 * (math.log(3 / 4) + math.log(1 / 4)))


def test_a_target_of_weight_zero_may_be_anything_and_gets_no_gradient() -> None:
    logits = torch.randn(1, 2, 3, requires_grad=True)
    token_loss(logits, torch.tensor([[1, -100]]), torch.tensor([[1.0, 0.0]])).total.backward()
    assert logits.grad is not None and float(logits.grad[0, 1].abs().max()) == 0 < float(logits.grad[0, 0].abs().max())


def test_targets_are_the_next_words_up_to_the_end_and_no_padding() -> None:
    ids = torch.tensor([[2, 7, 8, 3], [2, 9, 3, 0]])
    targets, weight = causal_targets(ids, ids != 0, torch.tensor([1.0, 0.5]))
    assert targets.tolist() == [[7, 8, 3], [9, 3, 0]]
    assert weight.tolist() == [[1, 1, 1], [0.5, 0.5, 0]]


def test_a_patch_counts_once_and_only_if_hidden() -> None:
    loss = patch_loss(torch.tensor([[[1.0, 3.0], [9.0, 9.0]]]), torch.zeros(1, 2, 2), torch.tensor([[1.0, 0.0]]))
    assert (float(loss.total), float(loss.count)) == ((1 + 9) / 2, 1.0)


def test_the_contrast_is_the_mean_of_both_directions() -> None:
    media, words = torch.eye(2), torch.tensor([[1.0, 0.0], [0.6, 0.8]])
    loss = contrastive_loss(media, words, torch.tensor([1, 2]), torch.ones(2), torch.tensor(2.0), slice(0, 2))
    s = [[2.0, 1.2], [0.0, 1.6]]  # scale * <media_i, words_j>
    rows = [-math.log(math.exp(s[i][i]) / sum(map(math.exp, s[i]))) for i in range(2)]
    columns = [-math.log(math.exp(s[i][i]) / (math.exp(s[0][i]) + math.exp(s[1][i]))) for i in range(2)]
    assert float(loss.total) == pytest.approx(sum(rows + columns) / 2)
    own = contrastive_loss(media, words, torch.tensor([1, 2]), torch.ones(2), torch.tensor(2.0), slice(1, 2))
    assert float(own.total) == pytest.approx((rows[1] + columns[1]) / 2) and float(own.count) == 1


def test_equal_texts_and_samples_of_weight_zero_are_no_negatives() -> None:
    media, words = torch.eye(3), torch.nn.functional.normalize(torch.randn(3, 3, generator=torch.Generator().manual_seed(1)))
    twins = contrastive_loss(media, words, torch.tensor([5, 5, 5]), torch.ones(3), torch.tensor(4.0), slice(0, 3))
    assert float(twins.total) == pytest.approx(0.0, abs=1e-6)
    weight = torch.tensor([1.0, 1.0, 0.0])
    padded = contrastive_loss(media, words, torch.tensor([1, 2, 3]), weight, torch.tensor(4.0), slice(0, 3))
    alone = contrastive_loss(media[:2], words[:2], torch.tensor([1, 2]), torch.ones(2), torch.tensor(4.0), slice(0, 2))
    assert float(padded.total) == pytest.approx(float(alone.total)) and float(padded.count) == 2


def test_a_recordings_words_are_as_probable_as_all_the_paths_that_give_them() -> None:
    p = torch.tensor([[0.5, 0.3, 0.2], [0.1, 0.6, 0.3], [1 / 3, 1 / 3, 1 / 3]])  # blank, word 1, word 2 at three tokens
    logits = p.log()[None].repeat(3, 1, 1)
    words = torch.tensor([[1, 2], [1, 0], [1, 1]])
    # Two tokens give "1 2" by one path and "1" by three; "1 1" wants a blank between, hence three tokens.
    loss = ctc_loss(logits, torch.tensor([2, 2, 2]), words, torch.tensor([2, 1, 2]), torch.tensor([1.0, 0.5, 1.0]), 0)
    one = 0.3 * 0.1 + 0.5 * 0.6 + 0.3 * 0.6
    assert float(loss.total) == pytest.approx(-math.log(0.3 * 0.3) - 0.5 * math.log(one), rel=1e-5)
    assert float(loss.count) == 2 + 0.5 + 2
    twice = ctc_loss(logits[:1], torch.tensor([3]), words[2:], torch.tensor([2]), torch.ones(1), 0)
    assert float(twice.total) == pytest.approx(-math.log(0.3 * 0.1 / 3), rel=1e-5)


def test_what_follows_a_recording_and_its_words_changes_nothing() -> None:
    torch.manual_seed(0)
    logits = torch.randn(2, 6, 5)
    loss = ctc_loss(logits, torch.tensor([4, 6]), torch.tensor([[1, 2, 0], [3, 3, 1]]), torch.tensor([2, 3]), torch.ones(2), 0)
    alone = ctc_loss(logits[:1, :4], torch.tensor([4]), torch.tensor([[1, 2]]), torch.tensor([2]), torch.ones(1), 0)
    other = ctc_loss(logits[1:], torch.tensor([6]), torch.tensor([[3, 3, 1]]), torch.tensor([3]), torch.ones(1), 0)
    assert float(loss.total) == pytest.approx(float(alone.total + other.total), rel=1e-5)
