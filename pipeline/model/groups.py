"""Parameters by how an optimiser should treat them: decay on matrices only, a smaller rate for layers that start from weights."""

from typing import Any

import torch
from torch import nn

_PICTURES, _RECORDINGS = "pictures.layers.", ("recordings.conv", "recordings.layers.", "recordings.layer_norm.")
_VECTORS = ("positions", "orders", "null")


def param_groups(model: nn.Module, lr: float, weight_decay: float, *, pretrained: dict[str, float]) -> list[dict[str, Any]]:
    """Groups of trained parameters, each once, with `lr` and `weight_decay`.

    Biases, norms, embeddings, positions and single vectors are scales and offsets: pulled to 0 they distort. `pretrained` gives
    the share of `lr` that layers of `pictures` and `recordings` get; absent, all of it.
    """
    embeddings = {id(value) for module in model.modules() if isinstance(module, nn.Embedding) for value in module.parameters()}
    groups: dict[tuple[float, float], list[torch.Tensor]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            flat = parameter.ndim < 2 or id(parameter) in embeddings or name.split(".")[-1] in _VECTORS
            rate = lr * (pretrained.get("pictures", 1.0) if name.startswith(_PICTURES) else 1.0)
            rate *= pretrained.get("recordings", 1.0) if name.startswith(_RECORDINGS) else 1.0
            groups.setdefault((rate, 0.0 if flat else weight_decay), []).append(parameter)
    return [{"params": parameters, "lr": rate, "weight_decay": decay} for (rate, decay), parameters in groups.items()]
