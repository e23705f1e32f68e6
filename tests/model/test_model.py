"""The model:

- it cannot peek: no word sees a later one, a hidden word or hidden pixels change nothing, a hidden medium is not there;
- a sample's result does not depend on padding, nor on what stands beside it;
- one batch may mix pictures, recordings and clips, and every trained parameter learns from it;
- each objective learns a handful of samples by heart;
- frozen layers and statistics stay as they are; decay is on matrices only.
"""

import dataclasses
from pathlib import Path

import pytest
import torch
from torch import nn

from pipeline.model.groups import param_groups
from pipeline.model.hide import both_ways, hide_words
from pipeline.model.mix import ObjectiveMix
from pipeline.model.model import MultimodalLM, text_names
from pipeline.model.patches import reconstruct_pictures
from tests.model.small import ALL, OF_PICTURES, batch_of, clips, pictures, recordings, small_model, texts

EVERYTHING = ObjectiveMix(masked_text_weight=1.0, masked_medium_weight=1.0, contrastive_weight=1.0, ctc_weight=1.0)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> MultimodalLM:
    torch.set_num_threads(1)
    return small_model(tmp_path_factory.mktemp("words"), modalities=("image", "audio", "video"), objectives=ALL).eval()


def test_no_place_sees_a_later_word(model: MultimodalLM) -> None:
    ids = texts(2)
    memory = model.encode(batch_of(ids, pictures=pictures(2)))
    changed = ids.clone()
    changed[:, 3] = 39
    before, after = model.logits(memory, ids), model.logits(memory, changed)
    assert torch.equal(before[:, :3], after[:, :3]) and not torch.allclose(before[:, 3], after[:, 3])


def test_a_hidden_word_does_not_show_through(model: MultimodalLM) -> None:
    ids = texts(8)
    other = ids.clone()
    memory = model.encode(batch_of(ids, pictures=pictures(8)))
    words = (ids != 2) & (ids != 3)
    hidden = hide_words(ids, words, torch.arange(8), 0.3, 4, torch.arange(5, 6))
    masked = hidden.asked_bt & (hidden.token_ids_bt == 4)
    other[masked] = 39
    again = hide_words(other, words, torch.arange(8), 0.3, 4, torch.arange(5, 6))
    assert bool(masked.any()) and torch.equal(hidden.token_ids_bt, again.token_ids_bt)
    logits = model._text(hidden.token_ids_bt, memory, both_ways(ids != 0))
    moved = hidden.token_ids_bt.clone()
    moved[:, 3] = 38
    assert not torch.allclose(logits[:, 1], model._text(moved, memory, both_ways(ids != 0))[:, 1])  # it does look ahead


def test_dropped_words_do_not_show_through_and_are_dropped_while_training_only(model: MultimodalLM) -> None:
    ids = texts(3, 6)
    others = ids.clone()
    others[:, 1:4] = torch.where(ids[:, 1:4] < 20, ids[:, 1:4] + 15, ids[:, 1:4] - 15)
    mix = ObjectiveMix(word_dropout=0.999999)
    shown = pictures(3)
    with torch.no_grad():
        memory = model.encode(batch_of(ids, pictures=shown))
        last = [batch_of(each, pictures=shown) for each in (ids, others)]
        for batch in last:
            batch.token_mask_bt[:, :4] = False  # only words after the changed ones are asked for
        trained = [float(model(batch, mix, train=True, memory=memory)["causal"].total) for batch in last]
        asked = [float(model(batch, mix, train=False, memory=memory)["causal"].total) for batch in last]
    assert trained[0] == pytest.approx(trained[1], abs=1e-6)
    assert abs(asked[0] - asked[1]) > 1e-4


def test_hidden_pixels_do_not_show_through(model: MultimodalLM) -> None:
    batch = batch_of(texts(3), pictures=pictures(3))
    seen: list[torch.Tensor] = []
    handle = model.picture_head.register_forward_hook(lambda _module, _inputs, out: seen.append(out))
    states = model.word_states(batch.token_ids_bt, batch.token_mask_bt)
    try:
        first = reconstruct_pictures(model.pictures, model.picture_head, batch, states, 0.5).loss()
        from pipeline.model.patches import hidden_patches

        hidden = hidden_patches(batch.seeds_b, model.pictures.grid**2, 0.5)
        side = model.pictures.grid
        cells = hidden.view(3, 1, side, side).repeat_interleave(8, 2).repeat_interleave(8, 3)
        assert batch.pictures is not None
        inked = torch.where(cells, 255 - batch.pictures.pixels_nchw, batch.pictures.pixels_nchw)
        other = dataclasses.replace(batch, pictures=dataclasses.replace(batch.pictures, pixels_nchw=inked))
        second = reconstruct_pictures(model.pictures, model.picture_head, other, states, 0.5).loss()
    finally:
        handle.remove()
    assert torch.equal(seen[0], seen[1]) and not torch.equal(first.total, second.total)
    assert float(first.count) == float(hidden.sum())


def test_a_hidden_medium_is_not_there_and_a_shown_one_is(model: MultimodalLM) -> None:
    ids = texts(2)
    one, two = (model.encode(batch_of(ids, pictures=pictures(2, seed))) for seed in (1, 2))
    assert torch.equal(model.logits(one.absent(), ids), model.logits(two.absent(), ids))
    assert not torch.allclose(model.logits(one, ids), model.logits(two, ids))
    nothing = model.encode(batch_of(ids))
    assert torch.allclose(model.logits(nothing, ids), model.logits(one.absent(), ids), atol=1e-5)


def test_media_are_hidden_at_the_rate_asked_for_while_training_only(tmp_path: Path) -> None:
    model = small_model(tmp_path, media_dropout=0.25)
    batch = batch_of(texts(256, 3), pictures=pictures(256))
    with torch.no_grad():
        assert 0.15 < float(model.encode(batch, train=True).mask_bm[:, 0].float().mean()) < 0.35
        assert not bool(model.encode(batch).mask_bm[:, 0].any())


def test_a_sample_does_not_depend_on_padding_nor_on_its_neighbours(model: MultimodalLM) -> None:
    ids = texts(4, 6)
    ids[1, 4:] = torch.tensor([3, 0])
    whole = batch_of(ids, pictures=pictures(1, rows=[0]), recordings=recordings([9000, 14000], [1, 2]), clips=clips(1, 3, [3]))
    score = model.score(model.encode(whole), ids, ids != 0)
    short = recordings([9000, 14000])
    alone = dataclasses.replace(short, rows_n=torch.tensor([0]), wave_nt=short.wave_nt[:1, :9000], length_n=short.length_n[:1])
    own = batch_of(ids[1:2, :5], recordings=alone)
    assert torch.allclose(model.score(model.encode(own), own.token_ids_bt, own.token_mask_bt), score[1:2, :4], atol=2e-4)
    assert score[1, 4].item() == 0


def test_the_probability_of_all_texts_of_a_length_is_at_most_one_and_the_chain_rule_holds(model: MultimodalLM) -> None:
    memory = model.encode(batch_of(texts(1), pictures=pictures(1)))
    ids = texts(1)
    logits = model.logits(memory, ids[:, :-1]).detach().log_softmax(-1)
    by_hand = sum(float(logits[0, place, ids[0, place + 1]]) for place in range(4))
    assert model.score(memory, ids, ids != 0).sum().item() == pytest.approx(by_hand, abs=1e-4)
    every = torch.arange(40)
    rows = memory.rows(torch.zeros(40, dtype=torch.int64))
    two = torch.stack([torch.full((40,), 2), every], dim=1)
    assert model.score(rows, two, torch.ones_like(two, dtype=torch.bool)).exp().sum().item() == pytest.approx(1.0, abs=1e-4)


def test_every_parameter_learns_from_a_batch_of_all_media(model: MultimodalLM) -> None:
    sound = recordings([6000], [4])
    batch = batch_of(
        texts(6),
        pictures=pictures(2, rows=[0, 1]),
        recordings=recordings([9000, 4000], [2, 3]),
        clips=dataclasses.replace(clips(2, 3, [4, 5]), sound=sound),
    )
    model.train()
    losses = model.losses(batch, EVERYTHING, train=True)
    assert set(losses) == set(ALL) and all(float(loss.count) > 0 for loss in losses.values())
    torch.stack([loss.total / loss.count for loss in losses.values()]).sum().backward()
    missing = [name for name, value in model.named_parameters() if value.requires_grad and value.grad is None]
    model.zero_grad(set_to_none=True)
    model.eval()
    assert missing == []


def test_the_same_seeds_give_the_same_losses_in_another_order(model: MultimodalLM) -> None:
    batch = batch_of(texts(4), pictures=pictures(4))
    turned = torch.tensor([3, 1, 0, 2])
    other = dataclasses.replace(batch_of(batch.token_ids_bt[turned], pictures=pictures(4)), seeds_b=batch.seeds_b[turned])
    assert batch.pictures is not None and other.pictures is not None
    other.pictures.pixels_nchw.copy_(batch.pictures.pixels_nchw[turned])
    with torch.no_grad():
        first, second = model(batch, EVERYTHING, train=True), model(other, EVERYTHING, train=True)
    for name in ALL:
        assert float(first[name].total) == pytest.approx(float(second[name].total), rel=1e-4), name


@pytest.mark.parametrize(("objective", "bound"), [("causal", 0.05), ("masked_text", 0.1), ("contrastive", 0.05), ("ctc", 0.05)])
def test_an_objective_learns_a_handful_by_heart(objective: str, bound: float, tmp_path: Path) -> None:
    model = small_model(tmp_path, objectives=ALL, modalities=("image", "audio"), recording_stride=4)
    weights = {f"{name}_weight": float(name == objective) for name in ALL}
    mix = ObjectiveMix(**weights, label_smoothing=0.0, masked_text_share=0.3)
    media = {"recordings": recordings([9000, 8000, 7000, 9000, 8000, 7000])} if objective == "ctc" else {"pictures": pictures(6)}
    batch = batch_of(texts(6, 5), **media)
    optimiser = torch.optim.AdamW(model.param_groups(2e-3, 0.0))
    for _ in range(120):
        loss = model.losses(batch, mix, train=True)[objective]
        (loss.total / loss.count).backward()
        optimiser.step()
        optimiser.zero_grad()
        if float(loss.total.detach() / loss.count) < bound:
            return
    pytest.fail(f"{objective} is at {float(loss.total.detach() / loss.count):.3f} after 120 steps")


def test_hidden_patches_are_learnt_well_below_the_mean_colour(tmp_path: Path) -> None:
    model = small_model(tmp_path, objectives=OF_PICTURES)
    shown = pictures(4)
    smooth = torch.nn.functional.interpolate(shown.pixels_nchw[:, :, :4, :4].float(), size=32, mode="nearest").to(torch.uint8)
    batch = batch_of(texts(4), pictures=dataclasses.replace(shown, pixels_nchw=smooth))
    mix = ObjectiveMix(causal_weight=0.0, masked_medium_weight=1.0)
    optimiser = torch.optim.AdamW(model.param_groups(2e-3, 0.0))
    losses = []
    for _ in range(60):
        loss = model.losses(batch, mix, train=True)["masked_medium"]
        (loss.total / loss.count).backward()
        optimiser.step()
        optimiser.zero_grad()
        losses.append(float(loss.total.detach() / loss.count))
    variance = float(model.pictures.normalised(smooth).var())
    assert min(losses) < 0.2 * variance


def test_frozen_layers_and_statistics_stay_as_they_are(tmp_path: Path) -> None:
    model = small_model(tmp_path, frozen_share=0.5, norm="frozen", objectives=OF_PICTURES)
    before = {name: value.clone() for name, value in model.pictures.state_dict().items()}
    optimiser = torch.optim.AdamW(model.param_groups(1e-2, 0.1))
    losses = model.losses(batch_of(texts(4), pictures=pictures(4)), EVERYTHING, train=True)
    torch.stack([loss.total for loss in losses.values()]).sum().backward()
    optimiser.step()
    after = model.pictures.state_dict()
    frozen = tuple(f"layers.{at}." for at in range(model.pictures.n_frozen))
    moved = [name for name in before if not torch.equal(before[name], after[name])]
    assert model.pictures.n_frozen >= 2
    assert not [name for name in moved if name.startswith(frozen) or "running" in name]
    assert [name for name in moved if name.startswith("layers.")]
    assert not [
        module
        for module in model.pictures.layers[: model.pictures.n_frozen].modules()
        if module.training and len(list(module.children())) == 0
    ]


def test_statistics_are_learnt_by_the_batch_but_not_from_pictures_with_holes(tmp_path: Path) -> None:
    model = small_model(tmp_path, norm="batch", objectives=OF_PICTURES)
    norm = next(module for module in model.pictures.modules() if isinstance(module, nn.BatchNorm2d))
    batch, start = batch_of(texts(4), pictures=pictures(4)), norm.running_mean.clone()
    states = model.word_states(batch.token_ids_bt, batch.token_mask_bt)
    reconstruct_pictures(model.pictures, model.picture_head, batch, states, 0.5)
    assert torch.equal(norm.running_mean, start) and norm.training
    model.losses(batch, ObjectiveMix(), train=True)
    assert not torch.equal(norm.running_mean, start)


def test_decay_is_on_matrices_and_pretrained_layers_get_a_smaller_rate(model: MultimodalLM) -> None:
    groups = model.param_groups(1e-3, 0.05)
    counted = sum(len(group["params"]) for group in groups)
    assert counted == sum(value.requires_grad for value in model.parameters())
    decayed = {id(value) for group in groups if group["weight_decay"] for value in group["params"]}
    names = dict(model.named_parameters())
    assert id(names["text.bert.encoder.layer.0.attention.self.query.weight"]) in decayed
    for name in ("null", "pictures.positions", "text.bert.embeddings.word_embeddings.weight", "pictures.norm.weight"):
        assert id(names[name]) not in decayed, name
    rates = {group["lr"] for group in param_groups(model, 1e-3, 0.0, pretrained={"pictures": 0.1})}
    assert rates == {1e-3, 1e-4}


def test_names_of_texts_tell_them_apart_whatever_padding_follows() -> None:
    ids = torch.tensor([[2, 7, 8, 3, 0], [2, 8, 7, 3, 0], [2, 7, 8, 3, 0]])
    names = text_names(ids, ids != 0)
    assert names[0] == names[2] != names[1]
    assert torch.equal(names, text_names(ids[:, :4], ids[:, :4] != 0))


def test_a_medium_that_the_model_does_not_take_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="audio for a model that takes image"):
        small_model(tmp_path).encode(batch_of(texts(1), recordings=recordings([4000])))
    with pytest.raises(ValueError, match="16 x 16 px for a model of 32 x 32 px"):
        shown = pictures(1)
        small = dataclasses.replace(shown, pixels_nchw=shown.pixels_nchw[:, :, :16, :16])
        small_model(tmp_path).encode(batch_of(texts(1), pictures=small))
