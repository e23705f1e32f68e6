"""Augmentation: nothing at 0; a sample's changes come from its seed alone; grey stays grey; only allowed pictures are mirrored;
flat colours, filters and gammas are their formulas."""

import dataclasses

import pytest
import torch

from pipeline.errors import RequestError
from pipeline.model.batch import Batch, Clips, Pictures, Recordings
from pipeline.model.chance import uniform
from pipeline.training.augment import AugmentConfig, Draw, augment, median_of_five

STILL = AugmentConfig(crop=0, rotate_deg=0, brightness=0, contrast=0, saturation=0, gain_db=0)


def batch_of(pixels: torch.Tensor, seeds: list[int]) -> Batch:
    n = len(seeds)
    return Batch(
        origins=tuple(("a", row) for row in range(n)),
        token_ids_bt=torch.zeros(n, 8, dtype=torch.int64),
        token_mask_bt=torch.ones(n, 8, dtype=torch.bool),
        weight_b=torch.ones(n),
        seeds_b=torch.tensor(seeds),
        pictures=Pictures(rows_n=torch.arange(n), pixels_nchw=pixels),
    )


def changed(pixels: torch.Tensor, seeds: list[int], config: AugmentConfig, mirror: bool = True) -> torch.Tensor:
    found = augment(batch_of(pixels, seeds), torch.full((len(seeds),), mirror), config).pictures
    assert found is not None and found.pixels_nchw.dtype == torch.uint8
    return found.pixels_nchw


@pytest.fixture
def noise() -> torch.Tensor:
    return torch.randint(0, 256, (3, 3, 24, 24), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def test_nothing_changes_at_0(noise: torch.Tensor) -> None:
    assert torch.equal(changed(noise, [1, 2, 3], STILL), noise)


def test_a_samples_changes_come_from_its_seed_whatever_stands_beside_it(noise: torch.Tensor) -> None:
    config = AugmentConfig(mirror=0.5, hue_deg=20, grey=0.2)
    together = changed(noise, [11, 12, 13], config)
    alone = changed(noise[1:2], [12], config)
    assert torch.equal(together[1:2], alone)
    assert not torch.equal(changed(noise[1:2], [14], config), alone)


def test_grey_stays_grey_under_every_change_of_colour() -> None:
    ramp = torch.arange(0, 256, dtype=torch.float32).repeat(3, 1).view(1, 3, 16, 16).to(torch.uint8)
    config = AugmentConfig(crop=0, rotate_deg=0, brightness=0.3, contrast=0.3, saturation=0.5, hue_deg=90)
    found = changed(ramp, [5], config).int()
    assert (found[:, 0] - found[:, 1]).abs().max() <= 1 and (found[:, 0] - found[:, 2]).abs().max() <= 1


def test_always_grey_removes_colour(noise: torch.Tensor) -> None:
    found = changed(noise, [1, 2, 3], AugmentConfig(crop=0, rotate_deg=0, brightness=0, contrast=0, saturation=0, grey=1)).int()
    assert (found[:, 0] - found[:, 2]).abs().max() <= 1


def test_a_filter_is_the_formula_and_only_some_pictures_go_through_one(noise: torch.Tensor) -> None:
    still = dataclasses.replace(STILL, random_filter=1.0)
    found = changed(noise, [1, 2, 3], still).float()
    draws = uniform(torch.tensor([1, 2, 3]), Draw.FILTER, 83)
    for row in range(3):
        x, share = noise[row].float() - 128, float(draws[row, 1])
        w = torch.special.ndtri(draws[row, 2:]).view(3, 3, 3, 3) / 27**0.5
        by_hand = [float((w[colour] * x[:, 4:7, 8:11]).sum()) for colour in range(3)]  # around pixel 5, 9
        wanted = torch.tensor([share * float(x[colour, 5, 9]) + (1 - share) * by_hand[colour] + 128 for colour in range(3)])
        assert (found[row, :, 5, 9] - wanted.clamp(0, 255)).abs().max() <= 0.51
    many = noise[:1].expand(400, -1, -1, -1)
    some = changed(many, list(range(400)), dataclasses.replace(STILL, random_filter=0.3))
    assert 0.22 < float((some != many).flatten(1).any(dim=1).float().mean()) < 0.38
    assert torch.equal(some[7:8], changed(noise[:1], [7], dataclasses.replace(STILL, random_filter=0.3))), "whatever stands beside it"


def test_flat_colours_are_the_median_at_few_levels(noise: torch.Tensor) -> None:
    five = torch.randint(0, 256, (5, 1000), generator=torch.Generator().manual_seed(1)).float()
    assert torch.equal(median_of_five(*five), five.median(dim=0).values)
    found = changed(noise, [1, 2, 3], dataclasses.replace(STILL, flat=1.0)).float()
    steps = 3 + (5 * uniform(torch.tensor([1, 2, 3]), Draw.FLAT, 2)[:, 1]).floor()
    for row in range(3):
        levels = {int(255 * level / float(steps[row]) + 0.5) for level in range(int(steps[row]) + 1)}
        assert {int(value) for value in found[row].unique().tolist()} <= levels
        patch = noise[row, :, 3:8, 7:12].float()  # around pixel 5, 9
        middle = patch.median(dim=2).values.median(dim=1).values
        assert found[row, :, 5, 9].tolist() == [int((m * steps[row] / 255).round() * 255 / steps[row] + 0.5) for m in middle]
    many = noise[:1].expand(400, -1, -1, -1)
    some = changed(many, list(range(400)), dataclasses.replace(STILL, flat=0.3))
    assert 0.22 < float((some != many).flatten(1).any(dim=1).float().mean()) < 0.38


def test_a_gamma_keeps_black_and_white_and_bends_what_is_between() -> None:
    ramp = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16).repeat(1, 3, 1, 1)
    found = changed(ramp, [9], dataclasses.replace(STILL, gamma=0.4)).flatten(2).float()[0]
    powers = torch.exp((2 * uniform(torch.tensor([9]), Draw.GAMMA, 3)[0] - 1) * 0.4)
    assert found[:, 0].tolist() == [0, 0, 0] and found[:, 255].tolist() == [255, 255, 255]
    assert (found[:, 100] - 255 * (100 / 255) ** powers).abs().max() <= 0.51 and len(set(powers.tolist())) == 3


def test_only_pictures_that_may_be_are_mirrored(noise: torch.Tensor) -> None:
    config = AugmentConfig(crop=0, rotate_deg=0, brightness=0, contrast=0, saturation=0, mirror=1)
    assert (changed(noise, [1, 2, 3], config).int() - noise.flip(3).int()).abs().max() <= 1
    assert (changed(noise, [1, 2, 3], config, mirror=False).int() - noise.int()).abs().max() <= 1


def test_a_crop_keeps_within_the_share_it_may_cut() -> None:
    ramp = torch.arange(0, 250, 250 / 64).view(1, 1, 1, 64).expand(40, 3, 64, 64).to(torch.uint8)
    config = AugmentConfig(crop=0.2, rotate_deg=0, brightness=0, contrast=0, saturation=0)
    widths = [float(row[0, 32].float().max() - row[0, 32].float().min()) for row in changed(ramp, list(range(40)), config)]
    assert min(widths) > 0.55 * 250, "0.8 of the side, of which up to a quarter may hang over the edge"


def test_frames_of_a_clip_change_alike_and_are_not_mirrored(noise: torch.Tensor) -> None:
    frames = noise[:1, None].expand(1, 4, 3, 24, 24)
    plain = batch_of(noise[:1], [3])
    clips = Clips(rows_n=torch.tensor([0]), frames_nkchw=frames, n_frames_n=torch.tensor([4]), times_nk=torch.zeros(1, 4))
    with_clip = Batch(
        **{name: getattr(plain, name) for name in ("origins", "token_ids_bt", "token_mask_bt", "weight_b", "seeds_b")}, clips=clips
    )
    found = augment(with_clip, torch.ones(1, dtype=torch.bool), AugmentConfig(mirror=1)).clips
    assert found is not None and all(torch.equal(found.frames_nkchw[0, 0], found.frames_nkchw[0, k]) for k in range(4))
    still = augment(
        with_clip, torch.ones(1, dtype=torch.bool), AugmentConfig(crop=0, brightness=0, contrast=0, saturation=0, mirror=1)
    ).clips
    assert still is not None and torch.equal(still.frames_nkchw, frames)


def test_gain_is_bounded_and_clipped() -> None:
    plain = batch_of(torch.zeros(2, 3, 8, 8, dtype=torch.uint8), [1, 2])
    wave = torch.tensor([[1000, -1000], [32_767, -32_768]], dtype=torch.int16)
    recordings = Recordings(rows_n=torch.arange(2), wave_nt=wave, length_n=torch.tensor([2, 2]))
    names = ("origins", "token_ids_bt", "token_mask_bt", "weight_b", "seeds_b")
    sound = Batch(**{name: getattr(plain, name) for name in names}, recordings=recordings)
    found = augment(sound, torch.ones(2, dtype=torch.bool), AugmentConfig(gain_db=6)).recordings
    assert found is not None and found.wave_nt.dtype == torch.int16
    assert 500 <= int(found.wave_nt[0, 0]) <= 1996 and int(found.wave_nt[0, 0]) != 1000


def test_values_out_of_range_are_refused() -> None:
    with pytest.raises(RequestError, match="crop is 1.0"):
        AugmentConfig(crop=1.0)
