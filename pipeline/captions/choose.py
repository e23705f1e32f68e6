"""Which engine `--engine auto` means: by what the model's folder says, and by what is there to run it.

vLLM where it is installed, there is a GPU and it knows the model; what it does not know, and all else, goes to the engine that
reads such folders. It looks at this machine: where the GPUs are those of a cluster, name the engine.
"""

import importlib.util
from dataclasses import replace
from pathlib import Path

from pipeline.captions.engine import AUTO, ENGINES, EngineConfig
from pipeline.captions.loading import family_of
from pipeline.captions.weights import locate, read_json
from pipeline.errors import RequestError


def chosen(config: EngineConfig) -> EngineConfig:
    """The options with an engine in them. RequestError where no engine takes the model."""
    return replace(config, engine=_by_model(config)) if config.engine == AUTO else config


def _by_model(config: EngineConfig) -> str:
    if config.endpoint:
        return "endpoint"
    if not config.model:
        raise RequestError(
            f"--engine auto goes by the model: give --model or --endpoint, or name one of {', '.join(ENGINES)}, or module:Class"
        )
    folder = locate(config.model)
    found = read_json(folder / "config.json")
    if found.get("model_type") == "nightcap":
        return "checkpoint"
    if "model_type" not in found and "suppress_ids" in found:
        return "faster-whisper"
    known_to_vllm = _vllm_can(config, folder)
    try:
        family = family_of(config, folder)
    except RequestError:
        if known_to_vllm:
            return "vllm"
        raise
    return "vllm" if family == "chat" and known_to_vllm else "transformers"


def _vllm_can(config: EngineConfig, folder: Path) -> bool:
    if config.device == "cpu" or importlib.util.find_spec("vllm") is None:
        return False
    import torch

    from pipeline.captions.vllm import architectures, supported  # it needs torch and transformers, which every start would pay for

    return bool(torch.cuda.is_available()) and bool(supported() & set(architectures(folder)))
