"""The checkpoint folder: one model, self-describing, without code and without pickles.

    config.json            format, configuration, shapes, what was pretrained
    model.safetensors      weights, float32
    tokenizer.json, tokenizer_config.json

Nothing else is read to load it: neither the backbone's file nor the BERT folder that training started from.
"""

import json
import struct
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.errors import RequestError
from pipeline.model.config import ModelConfig, config_from_json, to_json
from pipeline.model.model import MultimodalLM, Shapes
from pipeline.samples.tokens import Tokenizer

MODEL_TYPE, FORMAT = "nightcap", 1
CONFIG, WEIGHTS, TOKENIZER = "config.json", "model.safetensors", "tokenizer.json"


class Loaded(NamedTuple):
    """A model and its tokenizer."""

    model: MultimodalLM
    tokenizer: Tokenizer


class Described(NamedTuple):
    """What a folder says of its model, before any weights are read."""

    config: ModelConfig
    shapes: Shapes
    origins: tuple[str, ...]


def save_checkpoint_folder(model: MultimodalLM, tokenizer: Tokenizer | str | Path, folder: str | Path) -> None:
    """Writes the files into `folder`, which exists afterwards; config.json last. To be atomic, write aside and rename."""
    from safetensors.torch import save_file

    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    (tokenizer if isinstance(tokenizer, Tokenizer) else Tokenizer.load(str(tokenizer))).save(target)
    save_file(weights_of(model), target / WEIGHTS)
    (target / CONFIG).write_text(config_json(model))


def weights_of(model: MultimodalLM) -> dict[str, Any]:
    """Weights by name on the CPU, tied ones once; a copy only of what is not there yet."""
    state, seen = {}, set()
    for name, value in model.state_dict().items():
        if value.data_ptr() in seen and value.numel():
            continue
        seen.add(value.data_ptr())
        state[name] = value.detach().cpu().contiguous()
    return state


def config_json(model: MultimodalLM) -> str:
    """What stands in config.json."""
    described = {
        "model_type": MODEL_TYPE,
        "format": FORMAT,
        "model": to_json(model.config),
        "text": model.shapes.text,
        "recording": model.shapes.recording,
        "special": model.shapes.special,
        "origins": list(model.origins),
    }
    return json.dumps(described, indent=1, sort_keys=True) + "\n"


def describe(folder: str | Path) -> Described:
    """Reads config.json. RequestError where the folder is no checkpoint, a cut one, or one of another format.

    Weights may be missing, as they are where only a hub's small files were fetched.
    """
    path = Path(folder)
    missing = [name for name in (CONFIG, TOKENIZER) if not (path / name).is_file()]
    if missing:
        raise RequestError(f"{folder} is no checkpoint: it has no {missing[0]}")
    _check_whole(path / WEIGHTS)
    try:
        known = json.loads((path / CONFIG).read_text())
        kind, version = known.get("model_type"), known.get("format")
        if kind != MODEL_TYPE:
            raise RequestError(f"{folder} holds a model of type {kind!r}, not a checkpoint of `nightcap train`")
        if version != FORMAT:
            raise RequestError(f"{folder} has checkpoint format {version}; this version reads {FORMAT}")
        if not isinstance(known["text"], dict) or not isinstance(known["special"], dict):
            raise TypeError("text and special must be objects")
        shapes = Shapes(text=known["text"], recording=known["recording"], special=known["special"])
        return Described(config_from_json(known["model"]), shapes, tuple(known["origins"]))
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as exc:
        raise RequestError(f"{path / CONFIG} cannot be read ({type(exc).__name__}: {exc}); take another checkpoint") from exc


def _check_whole(path: Path) -> None:
    """RequestError where the weights, if they are there, do not have the length that their own header says."""
    if not path.is_file():
        return
    size = path.stat().st_size
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8).ljust(8, b"\0"))
        header = file.read(length) if 0 < length <= size - 8 else b""
    try:
        ends = [int(tensor["data_offsets"][1]) for name, tensor in json.loads(header).items() if name != "__metadata__"]
    except (ValueError, KeyError, TypeError, AttributeError) as exc:
        raise RequestError(f"{path} is damaged or cut: its header cannot be read; take another checkpoint") from exc
    if size != 8 + length + max(ends, default=0):
        raise RequestError(f"{path} is damaged or cut: {size:,} of {8 + length + max(ends, default=0):,} bytes; take another checkpoint")


def load(folder: str | Path) -> Loaded:
    """The model in evaluation mode, on the CPU, with its tokenizer. RequestError for a damaged or truncated file."""
    from safetensors.torch import load_file

    config, shapes, origins = describe(folder)
    tokenizer = Tokenizer.load(str(folder))
    if tokenizer.vocab_size != shapes.text["vocab_size"]:
        raise RequestError(
            f"{folder}: tokenizer of {tokenizer.vocab_size} tokens, model of {shapes.text['vocab_size']}; the files do not belong together"
        )
    path = Path(folder) / WEIGHTS
    if not path.is_file():
        raise RequestError(f"{folder} is no checkpoint: it has no {WEIGHTS}")
    try:
        state = load_file(path)
    except Exception as exc:  # safetensors raises a class of its own
        raise RequestError(f"{path} is damaged or cut ({str(exc).splitlines()[0][:160]}); take another checkpoint") from exc
    model = MultimodalLM(config, shapes)
    restore(model, state, str(path))
    model.origins = origins
    return Loaded(model.eval(), tokenizer)


def restore(model: MultimodalLM, state: dict[str, Any], where: str) -> None:
    """Puts weights into a model of the same shapes. RequestError names what does not fit."""
    try:
        missing, unexpected = model.load_state_dict(state, strict=False)
    except RuntimeError as exc:
        raise RequestError(f"{where} is of another model: {str(exc).splitlines()[1].strip()[:200]}") from exc
    missing = [name for name in missing if name not in model.tied]
    if missing or unexpected:
        raise RequestError(f"{where} is of another model: {[*missing, *unexpected][0]} is {'missing' if missing else 'unknown'}")
