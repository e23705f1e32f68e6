"""A configuration and a tokenizer -> a model with whatever weights it starts from, and what of it is random."""

import dataclasses
from pathlib import Path
from typing import Any

import torch

from pipeline.errors import RequestError
from pipeline.model.backbone import build_backbone, norm_of
from pipeline.model.config import ModelConfig
from pipeline.model.model import MultimodalLM, Shapes
from pipeline.model.recordings import recording_shape, start_from_whisper
from pipeline.model.text import SIZES, shared_rows, start_from, text_shape
from pipeline.samples.tokens import Tokenizer


def build(config: ModelConfig, tokenizer_folder: str | Path) -> MultimodalLM:
    """The model on the CPU, in training mode. RequestError for weights or sizes that do not fit.

    Random weights come from torch's global generator: seed it before.
    """
    tokenizer = Tokenizer.load(str(tokenizer_folder))
    config = dataclasses.replace(config, norm=norm_of(config))
    sound = {"audio", "video"} & set(config.modalities)
    shapes = Shapes(
        text=text_shape(config, tokenizer),
        recording=recording_shape(config) if sound else None,
        special=special_ids(tokenizer, config),
    )
    model = MultimodalLM(config, shapes, pretrained=True)
    origins = []
    if hasattr(model, "pictures"):
        origins.append(_of_pictures(config, model.pictures))
    if hasattr(model, "recordings"):
        if config.recording_model:
            start_from_whisper(model.recordings, config.recording_model)
        origins.append(f"recording encoder: {f'from {config.recording_model}' if config.recording_model else 'random'}")
    origins += _of_text(config, model, tokenizer)
    model.origins = (*origins, "random: projections, positions, null memory, heads")
    model.train()
    return model


def check_start(config: ModelConfig, tokenizer: Tokenizer) -> None:
    """RequestError for names, sizes and vocabularies that `build` would refuse; no weights are read, of a hub's models only small files."""
    if {"image", "video"} & set(config.modalities):
        with torch.device("meta"):
            build_backbone(config, pretrained=False)
    if {"audio", "video"} & set(config.modalities):
        recording_shape(config)
    text_shape(config, tokenizer)
    if config.text_model not in SIZES:
        shared_rows(config.text_model, tokenizer)
    special_ids(tokenizer, config)


def special_ids(tokenizer: Tokenizer, config: ModelConfig) -> dict[str, int]:
    """Ids of the tokens that the model treats apart. RequestError where masked_text has no mask to put."""
    if tokenizer.mask_id is None and "masked_text" in config.objectives:
        raise RequestError("--objectives masked_text: the tokenizer has no [MASK] token; train one with it, or leave masked_text out")
    mask = tokenizer.pad_id if tokenizer.mask_id is None else tokenizer.mask_id
    return {"pad": tokenizer.pad_id, "start": tokenizer.begin_id, "stop": tokenizer.end_id, "mask": mask}


def describe_initialisation(model: MultimodalLM) -> list[str]:
    """What was pretrained and what was random before training, a line each; the same after saving and loading."""
    return list(model.origins)


def _of_pictures(config: ModelConfig, encoder: Any) -> str:
    start = f"weights of {Path(config.backbone_weights).name}" if config.backbone_weights else "random"
    kept = f"{encoder.n_frozen} of {len(encoder.layers)} layers frozen"
    return f"picture encoder: {config.backbone} to stride {encoder.stride}, {start}, {kept}, norm {norm_of(config)}"


def _of_text(config: ModelConfig, model: MultimodalLM, tokenizer: Tokenizer) -> list[str]:
    layers = model.shapes.text["num_hidden_layers"]
    if config.text_model in SIZES:
        return [f"text model: BERT of {layers} layers of {model.width}, random"]
    start = start_from(model.text, config.text_model, tokenizer)
    groups = sorted({_group(name) for name in start.random})
    return [
        f"text model: first {layers} layers of {Path(config.text_model).name}, {start.kept} tensors and {start.rows} of {tokenizer.vocab_size} word vectors",
        f"random in the text model: {', '.join(groups) or 'nothing'}",
    ]


def _group(name: str) -> str:
    if "crossattention" in name:
        return "cross-attention of every layer"
    return "head before the vocabulary" if name.startswith("cls.") else name
