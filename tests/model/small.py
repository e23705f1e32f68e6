"""A model that is built in a second, and batches for it."""

from pathlib import Path
from typing import Any

import torch

from pipeline.model.batch import Batch, Clips, Pictures, Recordings
from pipeline.model.build import build
from pipeline.model.config import ModelConfig
from pipeline.model.model import MultimodalLM

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"w{number}" for number in range(35))]
SIDE = 32
OF_PICTURES = ("causal", "masked_text", "masked_medium", "contrastive")
ALL = (*OF_PICTURES, "ctc")


def save_tokenizer(folder: Path) -> str:
    """A folder with a tokenizer of whole words; ids 5..39 are w0..w34."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = Tokenizer(models.WordLevel({word: at for at, word in enumerate(WORDS)}, "[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.add_special_tokens(WORDS[:5])
    folder.mkdir(parents=True, exist_ok=True)
    words.save(str(folder / "tokenizer.json"))
    return str(folder)


def small_config(**more: Any) -> ModelConfig:
    shape = {"backbone": "mobilenet_v3_small", "backbone_stride": 8, "input_px": SIDE, "text_model": "tiny", "max_tokens": 12}
    sound = {"recording_layers": 1, "recording_width": 64, "n_mels": 16, "max_recording_s": 2.0, "max_frames": 4}
    return ModelConfig(**{**shape, **sound, "dropout": 0.0, "media_dropout": 0.0, **more})


def small_model(folder: Path, **more: Any) -> MultimodalLM:
    torch.manual_seed(3)
    return build(small_config(**more), save_tokenizer(folder))


def texts(count: int, length: int = 5, seed: int = 0) -> torch.Tensor:
    """int64, count x length: [CLS] words [SEP], no two alike."""
    ids = torch.randint(5, 40, (count, length), generator=torch.Generator().manual_seed(seed))
    ids[:, 0], ids[:, -1], ids[:, 1] = 2, 3, 5 + torch.arange(count) % 35
    return ids


def batch_of(ids_bt: torch.Tensor, **media: Any) -> Batch:
    count = len(ids_bt)
    return Batch(
        origins=tuple(("a.tar", at) for at in range(count)),
        token_ids_bt=ids_bt,
        token_mask_bt=ids_bt != 0,
        weight_b=torch.ones(count),
        seeds_b=torch.arange(count) * 7919 + 11,
        **media,
    )


def pictures(count: int, seed: int = 1, rows: list[int] | None = None) -> Pictures:
    pixels = torch.randint(0, 256, (count, 3, SIDE, SIDE), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))
    return Pictures(rows_n=torch.tensor(range(count) if rows is None else rows), pixels_nchw=pixels)


def recordings(lengths: list[int], rows: list[int] | None = None) -> Recordings:
    wave = torch.randint(-3000, 3000, (len(lengths), max(lengths)), dtype=torch.int16, generator=torch.Generator().manual_seed(2))
    for row, length in enumerate(lengths):
        wave[row, length:] = 0
    return Recordings(rows_n=torch.tensor(range(len(lengths)) if rows is None else rows), wave_nt=wave, length_n=torch.tensor(lengths))


def clips(count: int, frames: int, rows: list[int] | None = None) -> Clips:
    pixels = torch.randint(0, 256, (count, frames, 3, SIDE, SIDE), dtype=torch.uint8, generator=torch.Generator().manual_seed(4))
    times = torch.arange(frames).float().expand(count, -1) * 0.5
    which = torch.tensor(range(count) if rows is None else rows)
    return Clips(rows_n=which, frames_nkchw=pixels, n_frames_n=torch.full((count,), frames), times_nk=times)
