"""Chat models of `transformers` that see: LLaVA, Qwen-VL, SmolVLM and their like. A prompt is an instruction; clips are frames with times."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from pipeline.captions.captioner import search
from pipeline.captions.engine import EngineConfig, ask_of
from pipeline.captions.loading import CHAT_TOKENS, Generated, load
from pipeline.captions.messages import parts_of
from pipeline.errors import RequestError
from pipeline.model.draws import Way
from pipeline.samples.medium import Ask, Medium, Pixels

LEAST_PX, MOST_ASPECT = 32, 50
"""Smaller pictures are enlarged, longer ones get borders: models of this kind refuse both."""


class Item(NamedTuple):
    """One medium as a message."""

    medium: int
    ask: Ask
    text: str
    """With the model's marks for pictures, up to where the answer begins."""
    images: tuple[Any, ...]


class Chat:
    """A loaded chat model."""

    def __init__(self, config: EngineConfig, folder: Path) -> None:
        import transformers

        self._config = config
        self._model = load(config, folder, "AutoModelForImageTextToText")
        self._processor = transformers.AutoProcessor.from_pretrained(folder, local_files_only=True)
        self._processor.tokenizer.padding_side = "left"
        if self._processor.tokenizer.pad_token_id is None:
            self._processor.tokenizer.pad_token = self._processor.tokenizer.eos_token

    def collate(self, media: Sequence[Medium]) -> list[Item]:
        """Media -> messages by the model's own template."""
        return [self._item(at, medium) for at, medium in enumerate(media)]

    def _item(self, at: int, medium: Medium) -> Item:
        if medium.pixels_hwc is None:
            raise ValueError(f"this model takes pictures and clips, not {medium.modality}")
        ask = ask_of(medium, self._config)
        content: list[dict[str, Any]] = []
        images = []
        for kind, value in parts_of(medium, ask.prompt):
            if kind == "image":
                images.append(Image.fromarray(presentable(value)))
                content.append({"type": "image"})
            elif kind == "text":
                content.append({"type": "text", "text": value})
        text = self._processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False)
        return Item(at, ask, text, tuple(images))

    def together(self, first: Item, second: Item) -> bool:
        """True: shorter messages are padded before their begin."""
        return True

    def generate(self, items: Sequence[Item]) -> list[Generated]:
        """One answer an item."""
        inputs = self._processor(
            text=[item.text for item in items],
            images=[list(item.images) for item in items],
            padding=True,
            return_tensors="pt",
            add_special_tokens=False,  # the template has them
        ).to(self._model.device, self._model.dtype)
        ways = [Way(item.ask.seed, item.ask.temperature) for item in items]
        return search(self._model, self._processor.tokenizer, dict(inputs), ways, self._config, self._config.max_tokens or CHAT_TOKENS)


def presentable(pixels_hwc: Pixels) -> Pixels:
    """The picture with a shorter side of at least LEAST_PX, and a longer one of at most MOST_ASPECT times that."""
    height, width = pixels_hwc.shape[:2]
    grown = -(-LEAST_PX // min(height, width)) if max(height, width) < LEAST_PX * MOST_ASPECT else 1
    if grown > 1 and min(height, width) < LEAST_PX:
        pixels_hwc = pixels_hwc.repeat(grown, axis=0).repeat(grown, axis=1)
        height, width = pixels_hwc.shape[:2]
    least = max(LEAST_PX, -(-max(height, width) // MOST_ASPECT))
    border = [(0, max(0, least - height)), (0, max(0, least - width)), (0, 0)]
    found: Pixels = np.pad(pixels_hwc, border) if border[0][1] or border[1][1] else np.ascontiguousarray(pixels_hwc)
    return found


def check_chat(config: EngineConfig, folder: Path) -> None:
    """RequestError for media that chat models do not take here, and for a folder without a template."""
    if "audio" in config.media:
        raise RequestError("--media audio: engine transformers hears by Whisper and CTC models; chat models take image and video")
    check_template(config, folder)


def check_template(config: EngineConfig, folder: Path) -> None:
    """RequestError where the folder has no template to put media and words into."""
    from pipeline.captions.weights import read_json

    files = ("chat_template.jinja", "chat_template.json")
    inside = any(
        "chat_template" in read_json(folder / name)
        for name in ("processor_config.json", "tokenizer_config.json")
        if (folder / name).is_file()
    )
    if not inside and not any((folder / name).is_file() for name in files):
        raise RequestError(
            f"--model {config.model}: no chat template in that folder ({', '.join(files)}); take the instruction-tuned version of the model"
        )
