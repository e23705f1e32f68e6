"""Speech models of `transformers`, on windows of at most 30 s: Whisper, and CTC (Wav2Vec2, HuBERT, WavLM).

A CTC model without layer norm in its first layers hears the padding behind a shorter recording: its windows then go one length
at a time. The others get a mask, and padding changes nothing.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from pipeline.captions.captioner import search
from pipeline.captions.engine import EngineConfig, ask_of
from pipeline.captions.loading import CTC, LISTENER_TOKENS, LISTENERS, Generated, load, model_type, read, stops_of
from pipeline.captions.prompts import next_seed
from pipeline.captions.weights import read_json
from pipeline.captions.windows import SAMPLE_RATE_HZ, window_bounds
from pipeline.errors import RequestError
from pipeline.model.draws import Way
from pipeline.samples.medium import Ask, Medium, Wave


class Item(NamedTuple):
    """One window of a recording."""

    medium: int
    ask: Ask
    start_s: float
    duration_s: float
    values: Any
    """Tensor: log-mel features (bands x frames), or a normalised wave."""


class _Windows:
    def __init__(self, config: EngineConfig, folder: Path) -> None:
        import transformers

        self._config = config
        self._extractor = transformers.AutoFeatureExtractor.from_pretrained(folder, local_files_only=True)
        self._tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)

    def collate(self, media: Sequence[Medium]) -> list[Item]:
        """Waves -> windows as the model's own extractor makes them."""
        items = []
        for at, medium in enumerate(media):
            if medium.wave_t is None:
                raise ValueError(f"this model takes recordings, not {medium.modality}")
            ask, begin_s = ask_of(medium, self._config), medium.start_s or 0.0
            for number, (start, stop) in enumerate(window_bounds(medium.wave_t)):
                own = ask if number == 0 else replace(ask, seed=next_seed(ask, -number))
                values = self._values(medium.wave_t[start:stop])
                items.append(Item(at, own, begin_s + start / SAMPLE_RATE_HZ, (stop - start) / SAMPLE_RATE_HZ, values))
        return items

    def _values(self, wave_t: Wave) -> Any:
        raise NotImplementedError


class Whisper(_Windows):
    """A loaded Whisper."""

    def __init__(self, config: EngineConfig, folder: Path) -> None:
        super().__init__(config, folder)
        self._model = load(config, folder, LISTENERS[model_type(folder)])

    def _values(self, wave_t: Wave) -> Any:
        wave = wave_t.astype(np.float32) / 32768.0
        return self._extractor(wave, sampling_rate=SAMPLE_RATE_HZ, return_tensors="pt")["input_features"][0]

    def together(self, first: Item, second: Item) -> bool:
        """True: all windows are 30 s to it."""
        return True

    def generate(self, items: Sequence[Item]) -> list[Generated]:
        """One text a window."""
        import torch

        config, model = self._config, self._model
        inputs: dict[str, Any] = {"input_features": torch.stack([item.values for item in items]).to(model.device, model.dtype)}
        if getattr(model.generation_config, "is_multilingual", False):
            inputs |= {"task": "transcribe", **({"language": config.language} if config.language else {})}
        limit = config.max_tokens or LISTENER_TOKENS
        if config.beams > 1 and not any(
            item.ask.temperature for item in items
        ):  # Whisper's generate keeps the best beam's scores under indices of all beams
            with torch.inference_mode():
                options = {"max_new_tokens": limit, "num_beams": config.beams, "return_dict_in_generate": True, "output_scores": True}
                out = model.generate(**inputs, **options)
            stops, steps = stops_of(model.generation_config.eos_token_id), len(out.scores)
            return [read(self._tokenizer, sequence[-steps:].tolist(), None, stops, limit) for sequence in out.sequences]
        return search(model, self._tokenizer, inputs, [Way(item.ask.seed, item.ask.temperature) for item in items], config, limit)


class Ctc(_Windows):
    """A loaded CTC model."""

    def __init__(self, config: EngineConfig, folder: Path) -> None:
        super().__init__(config, folder)
        self._model = load(config, folder, CTC[model_type(folder)])
        self._least = _field(self._model.config.conv_kernel, self._model.config.conv_stride)
        self._masked = getattr(self._model.config, "feat_extract_norm", "layer") == "layer"

    def _values(self, wave_t: Wave) -> Any:
        wave = np.pad(wave_t, (0, max(0, self._least - len(wave_t)))).astype(np.float32) / 32768.0
        return self._extractor(wave, sampling_rate=SAMPLE_RATE_HZ, return_tensors="pt")["input_values"][0]

    def together(self, first: Item, second: Item) -> bool:
        """True where padding is no sound to the model, or not needed."""
        return self._masked or len(first.values) == len(second.values)

    def generate(self, items: Sequence[Item]) -> list[Generated]:
        """One text a window: the most probable label of each frame, repeats and blanks left out."""
        import torch

        model = self._model
        lengths = [len(item.values) for item in items]
        waves = torch.nn.utils.rnn.pad_sequence([item.values for item in items], batch_first=True).to(model.device, model.dtype)
        mask = (torch.arange(waves.shape[1])[None] < torch.tensor(lengths)[:, None]).to(model.device) if self._masked else None
        with torch.inference_mode():
            logits = model(waves, attention_mask=None if mask is None else mask.long()).logits.float()
        best, blank = torch.log_softmax(logits, dim=-1).max(dim=-1), self._tokenizer.pad_token_id
        frames = model._get_feat_extract_output_lengths(torch.tensor(lengths)).tolist()
        found = []
        for row, n_frames in enumerate(frames):
            ids, logprobs = best.indices[row, :n_frames], best.values[row, :n_frames]
            starts = torch.cat([ids.new_ones(1, dtype=torch.bool), ids[1:] != ids[:-1]]) & (ids != blank)
            text = self._tokenizer.decode(ids, skip_special_tokens=True)
            found.append(Generated(" ".join(text.split()), int(starts.sum()), float(logprobs[starts].clamp(max=0).sum()), False))
        return found


def _field(kernels: Sequence[int], strides: Sequence[int]) -> int:
    """Samples that convolutions need to make one frame; shorter windows get silence behind them."""
    field = 1
    for kernel, stride in zip(reversed(kernels), reversed(strides), strict=True):
        field = (field - 1) * stride + kernel
    return field


def check_listener(config: EngineConfig, folder: Path) -> None:
    """RequestError for a language that the model does not know."""
    path = folder / "generation_config.json"
    known = read_json(path) if path.is_file() else {}
    if not known.get("is_multilingual"):
        if config.language not in ("", "en"):
            raise RequestError(
                f"--language {config.language}: {config.model} is an English model; leave it empty, or use a multilingual model"
            )
    elif config.language and f"<|{config.language}|>" not in known.get("lang_to_id", {}):
        raise RequestError(
            f"--language {config.language!r} is unknown to {config.model}; write a code such as en, de or zh, or leave it empty"
        )


def check_ctc(config: EngineConfig) -> None:
    """RequestError for what would be ignored: a CTC model hears each frame by itself."""
    if config.temperature or config.beams > 1 or config.max_tokens:
        raise RequestError(f"--temperature, --beams, --max-tokens: {config.model} is a CTC model, which searches nothing; leave them out")
