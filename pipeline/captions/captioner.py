"""Picture captioners of `transformers`: BLIP, GIT, and encoder-decoders such as ViT-GPT2. A prompt is the caption's beginning."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from pipeline.captions.engine import EngineConfig, ask_of
from pipeline.captions.loading import CAPTIONER_TOKENS, CAPTIONERS, Generated, load, model_type, read, stops_of
from pipeline.model.draws import Draw, Way
from pipeline.samples.medium import Ask, Medium


class Item(NamedTuple):
    """One picture."""

    medium: int
    ask: Ask
    pixels_chw: Any


class Captioner:
    """A loaded captioner."""

    def __init__(self, config: EngineConfig, folder: Path) -> None:
        import transformers

        self._config = config
        self._model = load(config, folder, CAPTIONERS[model_type(folder)])
        self._processor = transformers.AutoImageProcessor.from_pretrained(folder, local_files_only=True)
        self._tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)

    def collate(self, media: Sequence[Medium]) -> list[Item]:
        """Pixels -> what the model's own processor makes of them; those with the same prompt side by side."""
        items = [Item(at, ask_of(medium, self._config), self._pixels(medium)) for at, medium in enumerate(media)]
        return sorted(items, key=lambda item: (item.ask.prompt, item.medium))

    def _pixels(self, medium: Medium) -> Any:
        if medium.pixels_hwc is None or medium.modality != "image":
            raise ValueError(f"this model takes pictures, not {medium.modality}")
        found = self._processor(images=np.array(medium.pixels_hwc), return_tensors="pt", input_data_format="channels_last")
        return found["pixel_values"][0]

    def together(self, first: Item, second: Item) -> bool:
        """True if they may stand in one batch."""
        return first.ask.prompt == second.ask.prompt

    def generate(self, items: Sequence[Item]) -> list[Generated]:
        """One text an item; all with the same prompt."""
        import torch

        config, model = self._config, self._model
        pixels = torch.stack([item.pixels_chw for item in items]).to(model.device, model.dtype)
        inputs = {"pixel_values": pixels, **self._prompt(items[0].ask.prompt, len(items))}
        limit = config.max_tokens or CAPTIONER_TOKENS
        return search(model, self._tokenizer, inputs, [Way(item.ask.seed, item.ask.temperature) for item in items], config, limit)

    def _prompt(self, prompt: str, count: int) -> dict[str, Any]:
        if not prompt:
            return {}
        whole = self._model.config.model_type == "blip"  # it takes the text with both its special tokens
        ids = self._tokenizer(prompt, add_special_tokens=whole, return_tensors="pt").input_ids.to(self._model.device)
        first = self._tokenizer.bos_token_id if self._tokenizer.bos_token_id is not None else self._tokenizer.cls_token_id
        if first is not None and not whole:
            ids = _cat_first(ids, first)
        return {"decoder_input_ids" if self._model.config.is_encoder_decoder else "input_ids": ids.repeat(count, 1)}


def search(
    model: Any, tokenizer: Any, inputs: dict[str, Any], ways: Sequence[Way], config: EngineConfig, limit: int, **more: Any
) -> list[Generated]:
    """Texts of a batch: greedy, by beams, or drawn, each row in its own way."""
    import torch

    draw = Draw(ways, config.top_k, config.top_p, model.device)
    beams = config.beams if all(way.temperature == 0 for way in ways) else 1  # another attempt at a fault is drawn, or it would be the same
    options: dict[str, Any] = {"max_new_tokens": limit, "num_beams": beams, "do_sample": False, "return_dict_in_generate": True}
    # what a generation_config.json asks for holds for its own sampling, which is switched off
    options |= {"temperature": None, "top_p": None, "top_k": None} if beams == 1 else {"output_scores": True}
    with torch.inference_mode():
        if beams > 1:
            out = model.generate(**inputs, **options, **more)
            scores = model.compute_transition_scores(out.sequences, out.scores, getattr(out, "beam_indices", None), normalize_logits=True)
        else:
            out = model.generate(**inputs, **options, logits_processor=_list(draw), **more)
            scores = draw.logprobs(out.sequences)
    steps, stops = scores.shape[1], stops_of(model.generation_config.eos_token_id)
    return [read(tokenizer, out.sequences[row][-steps:].tolist(), scores[row], stops, limit) for row in range(len(ways))]


def _list(draw: Draw) -> Any:
    from transformers import LogitsProcessorList

    return LogitsProcessorList([draw])


def _cat_first(ids: Any, token: int) -> Any:
    import torch

    return torch.cat([torch.full((ids.shape[0], 1), token, dtype=ids.dtype, device=ids.device), ids], dim=1)
