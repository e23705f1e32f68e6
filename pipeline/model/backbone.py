"""A picture network by name, cut to its feature grid: a list of layers whose output is n x channels x h x w.

Families of torchvision whose layers stand in a row (ResNet, RegNet, EfficientNet, MobileNet, ConvNeXt, DenseNet, VGG, ...), and
EfficientNet-lite0 of the package efficientnet-lite-pytorch. Weights come from a file or by torchvision, never from a pickle.
"""

import difflib
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from pipeline.errors import RequestError
from pipeline.model.config import ModelConfig, Norm

LITE0 = "efficientnet-lite0"
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
LITE_MEAN, LITE_STD = (127 / 255,) * 3, (128 / 255,) * 3
"""EfficientNet-lite was trained on (value - 127) / 128."""


class Backbone(NamedTuple):
    """Layers and what they want and give."""

    layers: nn.ModuleList
    """From pixels to the grid, in order."""
    channels: int
    stride: int
    """Pixels from cell to cell of the grid."""
    grid_px: int
    """Cells of one side of the grid."""
    mean: tuple[float, float, float]
    """Of pixels in 0..1, by colour; what the weights were trained with."""
    std: tuple[float, float, float]


def build_backbone(config: ModelConfig, *, pretrained: bool) -> Backbone:
    """The network that the configuration names, cut; with its weights, or random. RequestError says what does not fit."""
    lite = config.backbone == LITE0
    weights = config.backbone_weights if pretrained else ""
    whole = _lite0(config.input_px) if lite else _torchvision(config.backbone, download=weights == "torchvision")
    if weights and (lite or weights != "torchvision"):
        load_weights(whole, weights)
    layers = _lite0_layers(whole) if lite else _layers(whole, config.backbone)
    kept, channels, stride = _cut(layers, config)
    if norm_of(config) == "group":
        for layer in kept:
            _group_norms(layer)
    mean, std = (LITE_MEAN, LITE_STD) if lite else (IMAGENET_MEAN, IMAGENET_STD)
    return Backbone(nn.ModuleList(kept), channels, stride, config.input_px // stride, mean, std)


def norm_of(config: ModelConfig) -> Norm:
    """`auto` resolved: statistics that came with weights stay; without weights groups replace batches."""
    if config.norm != "auto":
        return config.norm
    return "frozen" if config.backbone_weights else "group"


def _torchvision(name: str, *, download: bool) -> nn.Module:
    from torchvision import models

    known = models.list_models(module=models)
    if name not in known:
        near = ", ".join(difflib.get_close_matches(name, known, 3)) or "resnet50, efficientnet_b0"
        raise RequestError(f"--backbone {name!r} is neither a torchvision model nor {LITE0}; near it: {near}")
    try:
        return models.get_model(name, weights="DEFAULT" if download else None)
    except OSError as exc:
        raise RequestError(
            f"--backbone-weights torchvision: the download failed ({exc}); give a local .pth file, or leave it empty for random weights"
        ) from exc


def _lite0(input_px: int) -> nn.Module:
    try:
        from efficientnet_lite_pytorch import EfficientNet
    except ImportError as exc:
        raise RequestError(f"--backbone {LITE0} needs a package: pip install --no-deps efficientnet-lite-pytorch==0.1.0") from exc
    return EfficientNet.from_name(LITE0, image_size=input_px)


def _lite0_layers(whole: Any) -> list[nn.Module]:
    stem = nn.Sequential(whole._conv_stem, whole._bn0, nn.ReLU6())
    return [stem, *whole._blocks]


def _layers(whole: Any, name: str) -> list[nn.Module]:
    """The layers before pooling, as they stand in torchvision's families."""
    if hasattr(whole, "layer4") and hasattr(whole, "maxpool"):  # ResNet, ResNeXt, Wide ResNet
        return [nn.Sequential(whole.conv1, whole.bn1, whole.relu, whole.maxpool), whole.layer1, whole.layer2, whole.layer3, whole.layer4]
    if hasattr(whole, "stem") and hasattr(whole, "trunk_output"):  # RegNet
        return [whole.stem, *whole.trunk_output.children()]
    if isinstance(getattr(whole, "features", None), nn.Sequential):
        return list(whole.features.children())
    raise RequestError(f"--backbone {name}: its layers do not stand in a row; take a ResNet, RegNet, EfficientNet, MobileNet or ConvNeXt")


def _cut(layers: list[nn.Module], config: ModelConfig) -> tuple[list[nn.Module], int, int]:
    """The layers up to the last one of the wanted stride, its channels and its stride, found by a run on a black picture."""
    if config.backbone_stride and config.input_px % config.backbone_stride:
        raise RequestError(f"--input-px {config.input_px}: give a multiple of --backbone-stride {config.backbone_stride}")
    strides: list[int] = []
    channels: list[int] = []
    grid = torch.zeros(1, 3, config.input_px, config.input_px)
    with torch.no_grad():
        for layer in layers:
            grid = layer.eval()(grid)
            if grid.ndim != 4 or grid.shape[2] != grid.shape[3]:
                raise RequestError(f"--backbone {config.backbone}: its features are no grid of channels x height x width")
            strides.append(round(config.input_px / grid.shape[2]))
            channels.append(grid.shape[1])
    wanted = config.backbone_stride or strides[-1]
    if wanted not in strides:
        raise RequestError(f"--backbone-stride {wanted}: {config.backbone} has layers with {', '.join(map(str, sorted(set(strides))))}")
    if config.input_px % wanted:
        raise RequestError(f"--input-px {config.input_px}: give a multiple of {wanted}, the stride of {config.backbone}")
    last = max(at for at, stride in enumerate(strides) if stride == wanted)
    return layers[: last + 1], channels[last], wanted


def load_weights(module: nn.Module, path: str) -> None:
    """Weights of a whole classifier from a .safetensors or .pth file; the latter without running any code of it."""
    file = Path(path).expanduser()
    if not file.is_file():
        raise RequestError(f"--backbone-weights {path}: no such file")
    try:
        if file.suffix == ".safetensors":
            from safetensors.torch import load_file

            state = load_file(file)
        else:
            state = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as exc:
        raise RequestError(f"--backbone-weights {path} cannot be read as plain weights: {str(exc).splitlines()[0][:200]}") from exc
    state = state.get("state_dict", state)
    missing, _ = module.load_state_dict({name.removeprefix("module."): value for name, value in state.items()}, strict=False)
    wanted = [name for name in missing if not name.endswith("num_batches_tracked")]
    if len(wanted) > 2:  # the classifier, which is cut off anyway, may be missing
        raise RequestError(f"--backbone-weights {path} are of another network: it lacks {len(wanted)} tensors, first {wanted[0]}")


def _group_norms(module: nn.Module) -> None:
    """BatchNorm -> GroupNorm of up to 32 groups, in place: it needs no batch (Wu and He: Group Normalization, 2018)."""
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm2d):
            groups = next(size for size in (32, 16, 8, 4, 2, 1) if child.num_features % size == 0)
            setattr(module, name, nn.GroupNorm(groups, child.num_features, eps=child.eps))
        else:
            _group_norms(child)
