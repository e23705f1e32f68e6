"""Recordings and clips, from prepared rows to captions, without Ray:

- a few steps on tones and on moving squares are enough to tell them apart, by which way they move;
- the engine `checkpoint` says of the decoded media what the training's validation said.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from pipeline import schema
from pipeline.captions.checkpoint import Checkpoint
from pipeline.captions.engine import EngineConfig
from pipeline.model.config import ModelConfig
from pipeline.samples.medium import Medium
from pipeline.samples.resize import to_jpeg
from pipeline.samples.vocabulary import train
from pipeline.samples.wave import encode_flac
from pipeline.training.feed import feed_spec
from pipeline.training.loop import Training
from pipeline.training.schedule import ScheduleConfig
from pipeline.training.setup import LoopConfig
from pipeline.training.step import OptimiserConfig
from pipeline.training.world import World
from tests.training.small import PX, STILL, bare_feed, make_setup

RATE_HZ, FRAMES, TIMES_S = 16_000, 4, (0.0, 0.25, 0.5, 0.75)
TONES_HZ = {"low": 300, "middle": 800, "high": 2_000}
SMALL = {"text_model": "tiny", "max_tokens": 8, "dropout": 0.0, "media_dropout": 0.0, "max_frames": FRAMES, "max_recording_s": 1.0}


def recording(number: int) -> tuple[np.ndarray, str]:
    """A tone of its own phase, loudness and length."""
    draw, name = np.random.default_rng(number), list(TONES_HZ)[number % 3]
    times = np.arange(draw.integers(4_000, 8_000)) / RATE_HZ
    wave = draw.uniform(3_000, 15_000) * np.sin(2 * np.pi * (TONES_HZ[name] * times + draw.random()))
    return wave.astype(np.int16), f"a {name} tone"


def clip(number: int) -> tuple[np.ndarray, str]:
    """Frames of a bar that moves by a quarter and comes in again: its place in any one frame says nothing."""
    name, start = ("left", "right")[number % 2], 8 * (number // 2 % 4)
    frame = np.full((PX, PX, 3), 250, np.uint8)
    frame[:, 0:8] = (200, 30, 30)
    step = -8 if name == "left" else 8
    return np.stack([np.roll(frame, start + step * k, 1) for k in range(FRAMES)]), f"it goes {name}"


def write_prepared(folder: Path, modality: str, samples: int) -> Path:
    """Rows as `nightcap prepare` writes them."""
    made = [recording(number) if modality == "audio" else clip(number) for number in range(samples)]
    words = train(lambda: [text for _, text in made], "wordpiece", 128, lowercase=True)
    words.save(folder / "tokenizer")
    rows: list[dict[str, Any]] = []
    for number, (media, text) in enumerate(made):
        row = {"key": f"{number}", "shard": "0.tar", "index": number, "modality": modality, "text": text, "flags": []}
        encoded = words.encode([text], 8)[0]
        row |= {"token_ids": encoded.token_ids, "n_tokens": encoded.n_tokens}
        if modality == "audio":
            row |= {"audio": encode_flac(media, RATE_HZ), "sample_rate_hz": RATE_HZ}
        else:
            row |= {"frames": [to_jpeg(frame, 95) for frame in media], "timestamps_s": list(TIMES_S)}
        rows.append(row)
    (folder / "prepared").mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(rows, schema=schema.PREPARED), folder / "prepared/0.parquet", row_group_size=16)
    (folder / "dataset.json").write_text(json.dumps({"format": 1}))
    return folder


def medium(modality: str, number: int) -> tuple[Medium, str]:
    """The same sample as an engine gets it, decoded."""
    media, text = recording(number) if modality == "audio" else clip(number)
    if modality == "audio":
        return Medium("audio", "flac", media.nbytes, wave_t=media, sample_rate_hz=RATE_HZ, duration_s=len(media) / RATE_HZ), text
    return Medium("video", "mp4", media.nbytes, pixels_hwc=media.reshape(-1, PX, 3), times_s=TIMES_S, width=PX, height=PX), text


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "epochs", "learning_rate"),
    [
        (ModelConfig(modalities=("audio",), recording_layers=1, recording_width=64, n_mels=32, **SMALL), 8, 3e-3),  # type: ignore[arg-type]
        (ModelConfig(modalities=("video",), backbone="mobilenet_v3_small", backbone_stride=8, input_px=PX, **SMALL), 24, 2e-3),  # type: ignore[arg-type]
    ],
    ids=["recordings", "clips"],
)
def test_what_is_heard_and_which_way_things_move_is_learnt_and_captioned(
    model: ModelConfig, epochs: int, learning_rate: float, tmp_path: Path
) -> None:
    torch.set_num_threads(1)
    modality = model.modalities[0]
    setup = make_setup(
        write_prepared(tmp_path / "data", modality, 48),
        tmp_path / "out",
        model=model,
        spec=feed_spec(model),
        augmentation=STILL,
        schedule=ScheduleConfig(epochs=epochs),
        optimiser=OptimiserConfig(learning_rate=learning_rate),
        loop=LoopConfig(batch_size=16, precision="float32", validations=0),
    )
    training = Training(setup, World(0, 1, torch.device("cpu")), None)
    training.run(bare_feed(training, setup))
    config = EngineConfig(engine="checkpoint", model=str(tmp_path / "out/model"), threads=1)
    Checkpoint.check(config)
    assert Checkpoint.needs(config).accepts == (modality,)
    engine = Checkpoint(config)
    media, texts = zip(*(medium(modality, number) for number in range(100, 112)), strict=True)
    said = [caption.text for caption in engine(engine.collate(media))]
    assert said == list(texts)
    engine.close()
