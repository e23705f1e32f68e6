"""Changes to media that do not change what the text says, on whole batches of uint8, on whatever device they are.

    geometry    one affine map a picture: a smaller part of it, shifted, turned, mirrored
    colour      brightness, contrast, saturation, hue, and now and then no colour at all
    style       few flat colours, random filters and gammas: other textures and tones on the same shapes
    loudness    gain of recordings

What happens to a sample comes from its seed, hence from (run seed, epoch, shard, index), whatever stands beside it. All frames of
a clip are changed alike, and clips are neither mirrored nor turned: that would change the direction of what moves.
"""

import dataclasses
import math
from dataclasses import dataclass
from enum import IntEnum

import torch

from pipeline.errors import RequestError
from pipeline.model.batch import Batch, Clips, Pictures, Recordings
from pipeline.model.chance import uniform


class Draw(IntEnum):
    """Streams of random numbers, apart from those of `chance.Stream`."""

    GEOMETRY = 101
    COLOUR = 102
    GAIN = 103
    FILTER = 104
    GAMMA = 105
    FLAT = 106


@dataclass(frozen=True, kw_only=True, slots=True)
class AugmentConfig:
    """How much media are changed while training; 0 everywhere changes nothing."""

    crop: float = 0.2
    """Most of a side that is cut away, and twice that of how far the rest is moved. Higher generalises and loses borders."""
    rotate_deg: float = 8.0
    """Most that a picture is turned either way, in degrees."""
    mirror: float = 0.0
    """Probability of a mirrored picture; texts that speak of left, right or clockwise keep theirs. Wrong for arrows and letters."""
    brightness: float = 0.2
    """Most relative change; likewise for contrast and saturation."""
    contrast: float = 0.2
    """Most relative change of the distance from the mean grey."""
    saturation: float = 0.3
    """Most relative change of the distance from grey."""
    hue_deg: float = 0.0
    """Most turn of colours, in degrees of the colour wheel; wrong where texts name colours."""
    grey: float = 0.0
    """Probability of a picture without colour."""
    flat: float = 0.0
    """Probability of a picture in few flat colours, 4 to 8 levels of each after a median: shading and texture go, shapes stay. For
    drawings by others."""
    random_filter: float = 0.0
    """Probability of a picture seen through a random filter of its colours and their neighbours, mixed with itself: textures and colours
    change, shapes stay. For what is to be known when others draw it; wrong where texts name colours."""
    gamma: float = 0.0
    """Most change of each colour's gamma, as a logarithm: 0.4 gives 0.67 to 1.5. Wrong where texts name colours."""
    gain_db: float = 6.0
    """Most change of loudness of recordings, in decibels."""

    def __post_init__(self) -> None:
        """Raises RequestError for a value out of range."""
        for name in ("crop", "mirror", "brightness", "contrast", "saturation", "grey", "flat", "random_filter"):
            if not 0 <= getattr(self, name) <= (0.9 if name == "crop" else 1):
                raise RequestError(f"augmentation: {name} is {getattr(self, name)}; give 0 to {0.9 if name == 'crop' else 1}")
        if min(self.rotate_deg, self.hue_deg, self.gamma, self.gain_db) < 0:
            raise RequestError("augmentation: rotate_deg, hue_deg, gamma and gain_db cannot be negative")

    @property
    def geometric(self) -> bool:
        """Pictures are moved at all."""
        return max(self.crop, self.rotate_deg, self.mirror) > 0

    @property
    def colours(self) -> bool:
        """Colours are changed at all."""
        return max(self.brightness, self.contrast, self.saturation, self.hue_deg, self.grey) > 0


def augment(batch: Batch, mirror_b: torch.Tensor, config: AugmentConfig) -> Batch:
    """The batch with its media changed. `mirror_b` says for which rows a mirrored picture is allowed."""
    pictures, recordings, clips = batch.pictures, batch.recordings, batch.clips
    if pictures is not None:
        seeds = batch.seeds_b[pictures.rows_n]
        pixels = pictures.pixels_nchw
        if config.geometric:
            pixels = _moved(pixels, seeds, mirror_b[pictures.rows_n], config)
        pictures = Pictures(rows_n=pictures.rows_n, pixels_nchw=_styled(_coloured(pixels, seeds, config), seeds, config))
    if recordings is not None:
        recordings = _louder(recordings, batch.seeds_b, config)
    if clips is not None:
        frames = _clip_frames(clips, batch.seeds_b[clips.rows_n], config)
        sound = None if clips.sound is None else _louder(clips.sound, batch.seeds_b, config)
        clips = dataclasses.replace(clips, frames_nkchw=frames, sound=sound)
    return dataclasses.replace(batch, pictures=pictures, recordings=recordings, clips=clips)


def _clip_frames(clips: Clips, seeds_n: torch.Tensor, config: AugmentConfig) -> torch.Tensor:
    """Frames of a clip moved and coloured alike; neither turned nor mirrored."""
    n, k = clips.frames_nkchw.shape[:2]
    flat = clips.frames_nkchw.flatten(0, 1)
    still = dataclasses.replace(config, rotate_deg=0.0, mirror=0.0)
    seeds = seeds_n.repeat_interleave(k)
    if still.geometric:
        flat = _moved(flat, seeds, torch.zeros(n * k, dtype=torch.bool, device=flat.device), still)
    return _styled(_coloured(flat, seeds, config), seeds, config).unflatten(0, (n, k))


def _moved(pixels_nchw: torch.Tensor, seeds_n: torch.Tensor, mirror_n: torch.Tensor, config: AugmentConfig) -> torch.Tensor:
    """uint8 -> uint8: each picture through its own affine map, bilinear; beyond the border its edge is repeated."""
    draws = uniform(seeds_n, Draw.GEOMETRY, 5)
    side = 1.0 - config.crop * draws[:, 0]
    angle = (2 * draws[:, 1] - 1) * math.radians(config.rotate_deg)
    shift = (2 * draws[:, 2:4] - 1) * config.crop
    flip = torch.where((draws[:, 4] < config.mirror) & mirror_n, -1.0, 1.0)
    cos, sin = side * torch.cos(angle), side * torch.sin(angle)
    maps = torch.stack([torch.stack([cos * flip, -sin, shift[:, 0]], 1), torch.stack([sin * flip, cos, shift[:, 1]], 1)], 1)
    grid = torch.nn.functional.affine_grid(maps, list(pixels_nchw.shape), align_corners=False)
    moved = torch.nn.functional.grid_sample(pixels_nchw.float(), grid, mode="bilinear", padding_mode="border", align_corners=False)
    return moved.add_(0.5).clamp_(0, 255).to(torch.uint8)


def _coloured(pixels_nchw: torch.Tensor, seeds_n: torch.Tensor, config: AugmentConfig) -> torch.Tensor:
    """uint8 -> uint8: all changes of colour are one linear map of RGB and an offset, a picture."""
    if not config.colours:
        return pixels_nchw
    draws = uniform(seeds_n, Draw.COLOUR, 5)
    spread = torch.tensor([config.brightness, config.contrast, config.saturation], device=draws.device)
    brightness, contrast, saturation = (1 + (2 * draws[:, :3] - 1) * spread).unbind(1)
    saturation = torch.where(draws[:, 4] < config.grey, torch.zeros_like(saturation), saturation)
    turn = (2 * draws[:, 3] - 1) * math.radians(config.hue_deg)
    n, c, h, w = pixels_nchw.shape
    floats = pixels_nchw.reshape(n, c, h * w).float()
    luma = torch.tensor([0.299, 0.587, 0.114], device=draws.device)
    colour = saturation[:, None, None] * _hue(turn) + (1 - saturation)[:, None, None] * luma.expand(3, 3)
    grey = floats.mean(dim=2) @ luma
    scale = (brightness * contrast)[:, None, None]
    offset = (brightness * (1 - contrast) * grey)[:, None, None]
    changed = torch.baddbmm(offset + 0.5, scale * colour, floats)
    return changed.clamp_(0, 255).to(torch.uint8).view(n, c, h, w)


def _styled(pixels_nchw: torch.Tensor, seeds_n: torch.Tensor, config: AugmentConfig) -> torch.Tensor:
    """uint8 -> uint8: flat colours, then the random filter, then the gamma of each picture."""
    if max(config.flat, config.random_filter, config.gamma) == 0:
        return pixels_nchw
    changed = pixels_nchw.float()
    if config.flat > 0:
        changed = _flattened(changed, seeds_n, config.flat)
    if config.random_filter > 0:
        changed = _through_filters(changed, seeds_n, config.random_filter)
    if config.gamma > 0:
        powers = torch.exp((2 * uniform(seeds_n, Draw.GAMMA, 3) - 1) * config.gamma)
        changed = 255 * (changed.clamp(0, 255) / 255) ** powers[:, :, None, None]
    return changed.add_(0.5).clamp_(0, 255).to(torch.uint8)


def _flattened(pixels_nchw: torch.Tensor, seeds_n: torch.Tensor, probability: float) -> torch.Tensor:
    """float -> float: out = round(median(x) * k / 255) * 255 / k, k one of 3 to 7, the median over 5 pixels of a row, then of a column."""
    draws = uniform(seeds_n, Draw.FLAT, 2)
    chosen = torch.nonzero(draws[:, 0] < probability)[:, 0]
    if len(chosen) == 0:
        return pixels_nchw
    smooth = pixels_nchw[chosen]
    for dim, pad in ((3, (2, 2, 0, 0)), (2, (0, 0, 2, 2))):
        size, padded = smooth.shape[dim], torch.nn.functional.pad(smooth, pad, mode="replicate")
        smooth = median_of_five(*(padded.narrow(dim, start, size) for start in range(5)))
    steps = (3 + (5 * draws[chosen, 1]).floor()).view(-1, 1, 1, 1)
    return pixels_nchw.index_copy(0, chosen, (smooth * steps / 255).round() * 255 / steps)


def median_of_five(a: torch.Tensor, b: torch.Tensor, c: torch.Tensor, d: torch.Tensor, e: torch.Tensor) -> torch.Tensor:
    """Element by element, by comparisons alone, without sorting."""
    low = torch.maximum(torch.minimum(a, b), torch.minimum(c, d))  # without the least of a, b, c, d
    high = torch.minimum(torch.maximum(a, b), torch.maximum(c, d))  # without the greatest
    return torch.maximum(torch.minimum(e, low), torch.minimum(torch.maximum(e, low), high))


def _through_filters(pixels_nchw: torch.Tensor, seeds_n: torch.Tensor, probability: float) -> torch.Tensor:
    """float -> float (Xu et al.: Robust and Generalizable Visual Representation Learning via Random Convolutions, 2021):

    out = a x + (1 - a) (w * x),   x around the middle grey, w 3 x 3 x 3 to each colour, normal with variance 1 / 27, a in 0..1
    """
    draws = uniform(seeds_n, Draw.FILTER, 2 + 81)
    chosen = torch.nonzero(draws[:, 0] < probability)[:, 0]
    if len(chosen) == 0:
        return pixels_nchw
    height, width = pixels_nchw.shape[2:]
    own = pixels_nchw[chosen] - 128
    padded = torch.nn.functional.pad(own, (1, 1, 1, 1), mode="replicate").view(1, -1, height + 2, width + 2)
    weights = torch.special.ndtri(draws[chosen, 2:].clamp(1e-6, 1 - 1e-6)).view(-1, 3, 3, 3) / math.sqrt(27)
    seen = torch.nn.functional.conv2d(padded, weights, groups=len(chosen)).view(-1, 3, height, width)
    share = draws[chosen, 1].view(-1, 1, 1, 1)
    return pixels_nchw.index_copy(0, chosen, share * own + (1 - share) * seen + 128)


def _hue(turn_n: torch.Tensor) -> torch.Tensor:
    """n x 3 x 3: RGB turned about the axis of greys (Rodrigues' formula)."""
    third, cos, sin = 1 / 3, torch.cos(turn_n)[:, None, None], torch.sin(turn_n)[:, None, None]
    eye = torch.eye(3, device=turn_n.device)
    across = torch.tensor([[0.0, -1.0, 1.0], [1.0, 0.0, -1.0], [-1.0, 1.0, 0.0]], device=turn_n.device) / math.sqrt(3)
    return cos * eye + (1 - cos) * third + sin * across


def _louder(recordings: Recordings, seeds_b: torch.Tensor, config: AugmentConfig) -> Recordings:
    """int16 -> int16 with a gain each; what would be louder than full scale is clipped."""
    if config.gain_db == 0:
        return recordings
    draws = uniform(seeds_b[recordings.rows_n], Draw.GAIN, 1)
    gain = 10 ** ((2 * draws - 1) * config.gain_db / 20)
    wave = (recordings.wave_nt.float() * gain).round_().clamp_(-32_768, 32_767).to(torch.int16)
    return dataclasses.replace(recordings, wave_nt=wave)
