"""Models of the `transformers` library, the class picked from the model's config.

Pictures: BLIP, GIT, and encoder-decoders such as ViT-GPT2 (VisionEncoderDecoder). Speech: Whisper, in windows of 30 s.
Weights are loaded as safetensors unless a pickle is allowed.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from pipeline import schema
from pipeline.captions.engine import Caption, EngineConfig, Segment, threads_of
from pipeline.captions.weights import identity, locate, read_json, sample_seed
from pipeline.captions.windows import SAMPLE_RATE_HZ, window_bounds
from pipeline.errors import RequestError
from pipeline.samples.medium import Medium, Needs

PICTURE_MODELS = {"blip": "BlipForConditionalGeneration", "git": "GitForCausalLM", "vision-encoder-decoder": "VisionEncoderDecoderModel"}
SPEECH_MODELS = {"whisper": "WhisperForConditionalGeneration"}
PICTURE_TOKENS = 64
SPEECH_TOKENS = 400


class Item(NamedTuple):
    """One forward unit: a picture, or a window of a recording."""

    medium: int
    start_s: float
    duration_s: float
    values: Any
    """Tensor: pixel values (channels x height x width) or log-mel features (bands x frames)."""


class Generated(NamedTuple):
    """What was generated for one item."""

    text: str
    n_tokens: int
    logprob: float | None
    """Sum over tokens; None where the library does not tell."""
    cut: bool


class Transformers:
    """A picture or speech model of `transformers`."""

    micro_batch = 16

    def __init__(self, config: EngineConfig) -> None:
        import torch
        import transformers

        transformers.logging.set_verbosity_error()
        transformers.logging.disable_progress_bar()
        self._config = config
        folder = locate(config.model, download=True)
        kind = _model_type(folder)
        self._speech = kind in SPEECH_MODELS
        self._device = _device(config)
        self._dtype = _dtype(config, self._device)
        torch.set_num_threads(threads_of(config))
        model_class = getattr(transformers, {**PICTURE_MODELS, **SPEECH_MODELS}[kind])
        model = model_class.from_pretrained(folder, dtype=self._dtype, use_safetensors=not config.allow_pickle, local_files_only=True)
        self._model = model.to(self._device).eval()
        self._processor = _processor(folder, self._speech)
        self._tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)

    rows_per_call = 64

    @classmethod
    def check(cls, config: EngineConfig) -> None:
        """RequestError where the model cannot be found, is of an unknown kind, or holds pickles only."""
        folder = locate(config.model)
        kind = _model_type(folder)
        if kind not in PICTURE_MODELS and kind not in SPEECH_MODELS:
            known = ", ".join([*PICTURE_MODELS, *SPEECH_MODELS])
            raise RequestError(f"--model {config.model} is of type {kind!r}; engine transformers takes {known}")
        if config.dtype == "int8":
            raise RequestError("--dtype int8: engine transformers takes float32, bfloat16 or float16; for int8 speech use faster-whisper")
        if kind in SPEECH_MODELS:
            _check_speech(config, folder)
        weights = [path.name for path in folder.iterdir() if path.suffix in (".bin", ".safetensors", ".pt")]
        if not weights and folder.parent.name != "snapshots":  # of a hub's snapshot the driver fetches no weights
            raise RequestError(f"--model {config.model}: no weights in that folder; it needs model.safetensors beside its config.json")
        if weights and not any(name.endswith(".safetensors") for name in weights) and not config.allow_pickle:
            raise RequestError(
                f"--model {config.model} has no safetensors, only {weights[0]}; convert it, or add --allow-pickle if you trust it"
            )

    @classmethod
    def needs(cls, config: EngineConfig) -> Needs:
        """Pictures shrunk to what the model's processor makes of them; speech at 16 kHz."""
        folder = locate(config.model)
        if _model_type(folder) in SPEECH_MODELS:
            return Needs(accepts=("audio", "video"), sample_rate_hz=SAMPLE_RATE_HZ, video_as="audio")
        return Needs(accepts=("image",), short_side_px=_side_px(folder))

    @classmethod
    def identity(cls, config: EngineConfig) -> dict[str, Any]:
        """Of the folder's files, or the hub commit."""
        return identity(locate(config.model))

    def close(self) -> None:
        """Releases the model; without it its memory stays until the process ends."""
        import torch

        self._model = None
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def collate(self, media: Sequence[Medium]) -> list[Item]:
        """Pixels or waves -> what the model's own processor makes of them."""
        return [
            item for at, medium in enumerate(media) for item in (self._windows(at, medium) if self._speech else [self._picture(at, medium)])
        ]

    def _picture(self, at: int, medium: Medium) -> Item:
        if medium.pixels_hwc is None:
            raise ValueError(f"this model takes pictures, not {medium.modality}")
        values = self._processor(images=np.array(medium.pixels_hwc), return_tensors="pt", input_data_format="channels_last")[
            "pixel_values"
        ][0]
        return Item(at, 0.0, 0.0, values)

    def _windows(self, at: int, medium: Medium) -> list[Item]:
        if medium.wave_t is None:
            raise ValueError(f"this model takes recordings, not {medium.modality}")
        items = []
        for start, stop in window_bounds(medium.wave_t):
            wave_t = medium.wave_t[start:stop].astype(np.float32) / 32768.0
            values = self._processor(wave_t, sampling_rate=SAMPLE_RATE_HZ, return_tensors="pt")["input_features"][0]
            items.append(Item(at, (medium.start_s or 0.0) + start / SAMPLE_RATE_HZ, (stop - start) / SAMPLE_RATE_HZ, values))
        return items

    def __call__(self, batch: list[Item]) -> list[Caption]:
        """One caption a medium."""
        if not batch:
            return []
        seeds: list[int | None] = [None] * len(batch)
        size = self._config.batch_size or self.micro_batch
        if self._config.temperature:  # one at a time: its random draws are then its own
            size = 1
            seeds = [sample_seed(self._config.seed, item.values.numpy().tobytes()) for item in batch]
        generated: list[Generated] = []
        for start in range(0, len(batch), size):
            generated += self._generate(batch[start : start + size], seeds[start])
        captions = []
        for medium in range(batch[-1].medium + 1):
            own = [(item, found, seed) for item, found, seed in zip(batch, generated, seeds, strict=True) if item.medium == medium]
            captions.append(self._caption([item for item, _, _ in own], [found for _, found, _ in own], own[0][2]))
        return captions

    def _generate(self, items: list[Item], seed: int | None) -> list[Generated]:
        import torch

        if seed is not None:
            torch.manual_seed(seed)
        values = torch.stack([item.values for item in items]).to(self._device, self._dtype)
        limit = self._config.max_tokens or (SPEECH_TOKENS if self._speech else PICTURE_TOKENS)
        options: dict[str, Any] = {
            "max_new_tokens": limit,
            "num_beams": self._config.beams,
            "return_dict_in_generate": True,
            "output_scores": True,
            "do_sample": self._config.temperature > 0,
        }
        if self._config.temperature:
            options |= {"temperature": self._config.temperature, "top_p": self._config.top_p, "top_k": self._config.top_k}
        inputs = self._inputs(values)
        with torch.inference_mode():
            out = self._model.generate(**inputs, **options)
            if self._speech and self._config.beams > 1:  # Whisper's generate keeps the best beam's scores under indices of all beams
                return [self._read(sequence, None, len(out.scores), limit) for sequence in out.sequences]
            beams = getattr(out, "beam_indices", None)
            scores = self._model.compute_transition_scores(out.sequences, out.scores, beams, normalize_logits=True)
        return [self._read(out.sequences[row], scores[row], scores.shape[1], limit) for row in range(len(items))]

    def _inputs(self, values: Any) -> dict[str, Any]:
        if self._speech:
            options: dict[str, Any] = {"input_features": values}
            if getattr(self._model.generation_config, "is_multilingual", False):
                options |= {"task": "transcribe", **({"language": self._config.language} if self._config.language else {})}
            return options
        inputs = {"pixel_values": values}
        if self._config.prompt:
            whole = self._model.config.model_type == "blip"  # it takes the text with both its special tokens
            ids = self._tokenizer(self._config.prompt, add_special_tokens=whole, return_tensors="pt").input_ids.to(self._device)
            first = self._tokenizer.bos_token_id if self._tokenizer.bos_token_id is not None else self._tokenizer.cls_token_id
            if first is not None and not whole:
                ids = _cat_first(ids, first)
            name = "decoder_input_ids" if self._model.config.is_encoder_decoder else "input_ids"
            inputs[name] = ids.repeat(len(values), 1)
        return inputs

    def _read(self, sequence: Any, scores: Any | None, steps: int, limit: int) -> Generated:
        new = sequence[-steps:] if steps else sequence[:0]
        stops = _stops(self._model.generation_config.eos_token_id)
        ids = new.tolist()
        length = next((at + 1 for at, token in enumerate(ids) if token in stops), len(ids))
        cut = length >= limit and (not ids or ids[length - 1] not in stops)
        text = self._tokenizer.decode(ids[:length], skip_special_tokens=True).strip()
        logprob = None if scores is None else float(scores[:length].clamp(max=0).sum())
        return Generated(" ".join(text.split()), length, logprob, cut)

    def _caption(self, items: list[Item], found: list[Generated], seed: int | None) -> Caption:
        cut, tokens = any(one.cut for one in found), sum(one.n_tokens for one in found)
        known = [one.logprob for one in found if one.logprob is not None]
        segments = tuple(
            Segment(round(item.start_s, 3), round(item.start_s + item.duration_s, 3), one.text)
            for item, one in zip(items, found, strict=True)
            if one.text
        )
        return Caption(
            " ".join(one.text for one in found if one.text),
            status=schema.TRUNCATED if cut else schema.SUCCESS,
            finish_reason="length" if cut else "stop",
            n_output_tokens=tokens,
            mean_logprob=sum(known) / tokens if tokens and len(known) == len(found) else None,
            language=self._config.language or None,
            segments=segments if self._speech else (),
            seed=seed,
        )


def _check_speech(config: EngineConfig, folder: Path) -> None:
    """RequestError for a language that the model does not know, and for a prompt, which would be ignored."""
    if config.prompt:
        raise RequestError("--prompt: engine transformers takes one for pictures only; for speech use --engine faster-whisper")
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


def _cat_first(ids: Any, token: int) -> Any:
    import torch

    return torch.cat([torch.full((ids.shape[0], 1), token, dtype=ids.dtype, device=ids.device), ids], dim=1)


def _stops(eos: Any) -> set[int]:
    if eos is None:
        return set()
    return set(eos) if isinstance(eos, list | tuple) else {int(eos)}


def _model_type(folder: Path) -> str:
    return str(read_json(folder / "config.json").get("model_type"))


def _processor(folder: Path, speech: bool) -> Any:
    import transformers

    kind = transformers.AutoFeatureExtractor if speech else transformers.AutoImageProcessor
    return kind.from_pretrained(folder, local_files_only=True)


def _device(config: EngineConfig) -> str:
    import torch

    return ("cuda" if torch.cuda.is_available() else "cpu") if config.device == "auto" else config.device


def _dtype(config: EngineConfig, device: str) -> Any:
    import torch

    if config.dtype == "auto":
        return (
            torch.bfloat16
            if device.startswith("cuda") and torch.cuda.is_bf16_supported()
            else torch.float16
            if device.startswith("cuda")
            else torch.float32
        )
    known = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
    if config.dtype not in known:
        raise RequestError(f"--dtype {config.dtype}: engine transformers takes {', '.join(known)}, or auto")
    return known[config.dtype]


def _side_px(folder: Path) -> int | None:
    """The longer side of what the picture processor makes, so that shrinking before never costs it detail."""
    path = folder / "preprocessor_config.json"
    if not path.is_file():
        return None
    known = read_json(path)
    size = known.get("size")
    values = [size] if isinstance(size, int) else [value for value in (size or {}).values() if isinstance(value, int)]
    return max(values, default=None)
