"""The text model: BERT as a decoder with cross-attention to the memory, from a folder, a hub name, or from scratch.

A folder's embedding rows are kept token by token, so that it may serve another vocabulary: a tokenizer cut to its corpus, or
trained on it. What the folder lacks (cross-attention always, the head of a sentence encoder) is random, and listed.
Devlin et al.: BERT, 2018; sizes from scratch are those of Turc et al.: Well-Read Students Learn Better, 2019.
"""

import json
from pathlib import Path
from typing import Any, NamedTuple

import torch

from pipeline.errors import RequestError
from pipeline.model.config import ModelConfig
from pipeline.samples.tokens import Tokenizer

SIZES = {"tiny": (2, 128), "small": (4, 512), "base": (12, 768)}
"""Layers and width by name; a head has 64."""
_EMBEDDING = "bert.embeddings.word_embeddings.weight"
_BY_TOKEN = (_EMBEDDING, "cls.predictions.bias", "cls.predictions.decoder.weight", "cls.predictions.decoder.bias")


class Start(NamedTuple):
    """What a text model starts with."""

    kept: int
    """Tensors from the folder."""
    random: tuple[str, ...]
    """Names of tensors that the folder lacks."""
    rows: int
    """Tokens whose embedding is the folder's."""


def text_shape(config: ModelConfig, tokenizer: Tokenizer) -> dict[str, Any]:
    """BERT's configuration for this model, as JSON: of the folder or the size, with this vocabulary."""
    from transformers import BertConfig

    if config.text_model in SIZES:
        layers, width = SIZES[config.text_model]
        shape = BertConfig(
            num_hidden_layers=layers,
            hidden_size=width,
            num_attention_heads=width // 64,
            intermediate_size=4 * width,
            max_position_embeddings=max(128, config.max_tokens),
        )
    else:
        shape = _known(config.text_model)
    if config.max_tokens > shape.max_position_embeddings:
        raise RequestError(f"--max-tokens {config.max_tokens}: {config.text_model} has {shape.max_position_embeddings} positions")
    if config.text_layers > shape.num_hidden_layers:
        raise RequestError(f"--text-layers {config.text_layers}: {config.text_model} has {shape.num_hidden_layers}")
    shape.num_hidden_layers = config.text_layers or shape.num_hidden_layers
    shape.vocab_size, shape.pad_token_id = tokenizer.vocab_size, tokenizer.pad_id
    shape.bos_token_id, shape.eos_token_id = tokenizer.begin_id, tokenizer.end_id
    shape.hidden_dropout_prob = shape.attention_probs_dropout_prob = config.dropout
    shape.is_decoder = shape.add_cross_attention = True
    described: dict[str, Any] = json.loads(shape.to_json_string(use_diff=False))
    return {name: value for name, value in described.items() if name not in ("architectures", "transformers_version", "_name_or_path")}


def _known(model: str) -> Any:
    from transformers import BertConfig

    folder = Path(model).expanduser()
    if not folder.is_dir() and (folder.exists() or model.startswith((".", "/", "~")) or model.count("/") > 1):
        raise RequestError(f"--text-model {model}: no such folder; give a BERT folder, a hub name, or {', '.join(SIZES)}")
    try:
        shape = BertConfig.from_pretrained(str(folder) if folder.is_dir() else model)
    except (OSError, ValueError) as exc:
        reason = str(exc).splitlines()[0][:200]
        raise RequestError(f"--text-model {model}: {reason}; give a BERT folder, a hub name, or {', '.join(SIZES)}") from exc
    if shape.model_type != "bert":
        raise RequestError(f"--text-model {model} is of type {shape.model_type!r}; the text model is a BERT")
    return shape


def new_text_model(shape: dict[str, Any]) -> Any:
    """A `BertLMHeadModel` with random weights."""
    from transformers import BertConfig, BertLMHeadModel

    return BertLMHeadModel(BertConfig(**shape, attn_implementation="sdpa"))


def start_from(model: Any, name: str, tokenizer: Tokenizer) -> Start:
    """Copies a folder's weights into `model`; embedding rows by token. Safetensors only. RequestError where they do not fit."""
    from transformers import BertConfig, BertLMHeadModel

    theirs = BertConfig.from_pretrained(name, is_decoder=True, add_cross_attention=True, num_hidden_layers=model.config.num_hidden_layers)
    try:
        loaded, info = BertLMHeadModel.from_pretrained(
            name, config=theirs, use_safetensors=True, output_loading_info=True, dtype=torch.float32
        )
    except (OSError, ValueError, RuntimeError) as exc:
        raise RequestError(f"--text-model {name}: {str(exc).splitlines()[0][:200]}") from exc
    missing = set(info["missing_keys"])
    state, own, rows = loaded.state_dict(), model.state_dict(), shared_rows(name, tokenizer)
    for tensor in _BY_TOKEN:
        if tensor in state:
            values = own[tensor].clone()
            if tensor not in missing:
                values[rows[:, 0]] = state[tensor][rows[:, 1]]
            state[tensor] = values
    # A head that the folder lacks still is tied to the embedding, which it has.
    state["cls.predictions.decoder.weight"] = state[_EMBEDDING]
    model.load_state_dict(state)
    return Start(len(state) - len(missing), tuple(sorted(missing)), len(rows))


def shared_rows(name: str, tokenizer: Tokenizer) -> torch.Tensor:
    """Pairs of ids, k x 2: of a token here and of the same token in the folder's own vocabulary. RequestError where few are shared."""
    from transformers import AutoTokenizer

    theirs = AutoTokenizer.from_pretrained(name).get_vocab()
    pairs = [(at, theirs[token]) for token, at in tokenizer.vocabulary().items() if token in theirs]
    if len(pairs) < tokenizer.vocab_size // 2:
        raise RequestError(
            f"--text-model {name}: only {len(pairs)} of the tokenizer's {tokenizer.vocab_size} tokens are in its vocabulary; "
            f"make one with nightcap tokenizer --cut {name}, or train the text model from scratch"
        )
    return torch.tensor(pairs, dtype=torch.int64)
