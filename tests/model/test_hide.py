"""What is hidden:

- words by BERT's scheme: 80 % mask, 10 % another word, 10 % stay; words only, at least one, the share that was asked for;
- of the words before the next one each is dropped alike often, the start never;
- patches align with cells; numbers are a sample's own whatever stands beside it, and streams are independent.
"""

import torch

from pipeline.model.chance import Stream, uniform
from pipeline.model.hide import drop_words, hide_patches, hide_words, patches_of, pick
from pipeline.model.patches import hidden_patches, hidden_spans


def test_numbers_belong_to_the_sample_and_to_the_stream() -> None:
    seeds = torch.tensor([5, -9, 2**62])
    all_of_them = uniform(seeds, Stream.STYLE, 1000)
    assert torch.equal(all_of_them[1:2], uniform(seeds[1:2], Stream.STYLE, 1000))
    assert torch.equal(all_of_them[:, :10], uniform(seeds, Stream.STYLE, 10))
    assert float(all_of_them.min()) >= 0 and float(all_of_them.max()) < 1
    assert abs(float(all_of_them.mean()) - 0.5) < 0.02 and abs(float(all_of_them.var()) - 1 / 12) < 0.005
    both = torch.stack([all_of_them.flatten(), uniform(seeds, Stream.FEATURES, 1000).flatten()])
    assert abs(float(torch.corrcoef(both)[0, 1])) < 0.06
    neighbours = uniform(torch.arange(4000), Stream.STYLE, 1)[:, 0]
    assert abs(float(torch.corrcoef(torch.stack([neighbours[1:], neighbours[:-1]]))[0, 1])) < 0.06


def test_words_are_hidden_by_the_scheme_of_bert() -> None:
    ids = torch.full((4000, 12), 30)
    ids[:, 0], ids[:, -1] = 2, 3
    words = (ids != 2) & (ids != 3)
    found = hide_words(ids, words, torch.arange(4000), 0.3, 4, torch.arange(5, 30))
    asked = found.asked_bt
    assert not bool((asked & ~words).any()) and set(asked.sum(dim=1).tolist()) == {3}
    assert torch.equal(found.token_ids_bt[~asked], ids[~asked])
    shown = found.token_ids_bt[asked]
    masked, kept = float((shown == 4).float().mean()), float((shown == 30).float().mean())
    assert abs(masked - 0.8) < 0.015 and abs(kept - 0.1) < 0.012
    others = shown[(shown != 4) & (shown != 30)]
    assert set(others.tolist()) == set(range(5, 30))


def test_words_before_the_next_one_are_dropped_at_the_rate_asked_for_and_the_start_never() -> None:
    ids = torch.full((4000, 6), 30)
    ids[:, 0] = 2
    found = drop_words(ids, torch.arange(4000), 0.3, 4, 2)
    assert set(found[:, 0].tolist()) == {2} and set(found[:, 1:].flatten().tolist()) == {4, 30}
    assert all(abs(float((found[:, at] == 4).float().mean()) - 0.3) < 0.03 for at in range(1, 6))
    assert torch.equal(found[5:6], drop_words(ids[:1], torch.tensor([5]), 0.3, 4, 2)), "by its seed, whatever stands beside it"
    assert torch.equal(drop_words(ids, torch.arange(4000), 0.0, 4, 2), ids)


def test_at_least_one_word_is_asked_for_and_none_where_there_is_none() -> None:
    candidates = torch.tensor([[True, False, False], [False, False, False]])
    assert pick(candidates, torch.rand(2, 3), 0.15).tolist() == candidates.tolist()


def test_patches_are_the_cells_of_the_grid_row_by_row() -> None:
    picture = torch.arange(3 * 4 * 4).float().view(1, 3, 4, 4) + 1
    patches = patches_of(picture, 2)
    assert torch.equal(patches[0, 1], picture[0, :, 0:2, 2:4].flatten())
    hidden = torch.tensor([[False, True, False, False]])
    shown = hide_patches(picture, hidden, 2)
    assert float(shown[0, :, 0:2, 2:4].abs().max()) == 0 and torch.equal(shown[0, :, 2:], picture[0, :, 2:])


def test_a_share_of_patches_and_of_spans_with_sound_is_hidden() -> None:
    assert set(hidden_patches(torch.arange(50), 16, 0.5).sum(dim=1).tolist()) == {8}
    heard = torch.arange(64)[None] < torch.tensor([[64], [20], [1]])
    hidden = hidden_spans(torch.arange(3), heard, 0.5, 2)
    assert not bool((hidden & ~heard).any()) and bool(hidden.any(dim=1).all())
    assert int(hidden[0].sum()) == 32 and int(hidden[2].sum()) == 1
