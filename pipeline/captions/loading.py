"""What every model of `transformers` needs to be loaded: its kind, device, number type, and how its tokens are read."""

from pathlib import Path
from typing import Any, NamedTuple

from pipeline.captions.engine import EngineConfig
from pipeline.captions.weights import read_json
from pipeline.errors import RequestError

CAPTIONERS = {"blip": "BlipForConditionalGeneration", "git": "GitForCausalLM", "vision-encoder-decoder": "VisionEncoderDecoderModel"}
LISTENERS = {"whisper": "WhisperForConditionalGeneration"}
CTC = {"wav2vec2": "Wav2Vec2ForCTC", "hubert": "HubertForCTC", "wavlm": "WavLMForCTC"}
CAPTIONER_TOKENS, LISTENER_TOKENS, CHAT_TOKENS = 64, 400, 256


class Generated(NamedTuple):
    """What was generated for one item."""

    text: str
    n_tokens: int
    logprob: float | None
    """Sum over tokens; None where the library does not tell."""
    cut: bool


def family_of(config: EngineConfig, folder: Path) -> str:
    """`captioner`, `listener`, `ctc` or `chat`, by the model's type. RequestError where it is none of them."""
    kind = model_type(folder)
    for family, kinds in (("captioner", CAPTIONERS), ("listener", LISTENERS), ("ctc", CTC)):
        if kind in kinds:
            return family
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

    if kind in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES:
        return "chat"
    known = ", ".join([*CAPTIONERS, *LISTENERS, *CTC])
    raise RequestError(
        f"--model {config.model} is of type {kind!r}; engine transformers takes {known}, and chat models that see (LLaVA, Qwen-VL, SmolVLM, ...)"
    )


def model_type(folder: Path) -> str:
    """As its config.json says."""
    return str(read_json(folder / "config.json").get("model_type"))


def load(config: EngineConfig, folder: Path, name: str) -> Any:
    """The model of a class of `transformers`, in evaluation mode on its device."""
    import transformers

    device = device_of(config)
    kind = getattr(transformers, name)
    model = kind.from_pretrained(folder, dtype=dtype_of(config, device), use_safetensors=not config.allow_pickle, local_files_only=True)
    return model.to(device).eval()


def device_of(config: EngineConfig) -> str:
    """cpu, cuda, or cuda:N."""
    import torch

    return ("cuda" if torch.cuda.is_available() else "cpu") if config.device == "auto" else config.device


def dtype_of(config: EngineConfig, device: str) -> Any:
    """torch's number type. RequestError for one that is not taken."""
    import torch

    if config.dtype == "auto":
        if not device.startswith("cuda"):
            return torch.float32
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    known = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
    if config.dtype not in known:
        raise RequestError(f"--dtype {config.dtype}: engine transformers takes {', '.join(known)}, or auto")
    return known[config.dtype]


def stops_of(eos: Any) -> set[int]:
    """Ids that end a text."""
    if eos is None:
        return set()
    return set(eos) if isinstance(eos, list | tuple) else {int(eos)}


def read(tokenizer: Any, ids: list[int], logprobs: Any | None, stops: set[int], limit: int) -> Generated:
    """New ids up to the first that ends the text, as words. `logprobs`: one an id, or None."""
    length = next((at + 1 for at, token in enumerate(ids) if token in stops), len(ids))
    cut = length >= limit and (not ids or ids[length - 1] not in stops)
    text = tokenizer.decode(ids[:length], skip_special_tokens=True).strip()
    logprob = None if logprobs is None else float(logprobs[:length].clamp(max=0).sum())
    return Generated(" ".join(text.split()), length, logprob, cut)


def side_px(folder: Path) -> int | None:
    """The longer side of what the picture processor makes, so that shrinking before never costs it detail."""
    paths = [folder / name for name in ("preprocessor_config.json", "processor_config.json")]
    known = next((read_json(path) for path in paths if path.is_file()), {})
    size = known.get("image_processor", known).get("size")
    values = [size] if isinstance(size, int) else [value for value in (size or {}).values() if isinstance(value, int)]
    return max(values, default=None)
