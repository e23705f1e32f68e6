"""What a model is made of. Stored in every checkpoint as JSON; whoever has it and the weights has the model."""

import dataclasses
import typing
from dataclasses import dataclass
from typing import Any, Literal, get_args

from cyclopts import Parameter

from pipeline.errors import RequestError
from pipeline.samples.mel import WHISPER_MELS, MelConfig

Norm = Literal["auto", "frozen", "batch", "group"]
Fit = Literal["crop", "stretch"]
Objective = Literal["causal", "masked_text", "masked_medium", "contrastive", "ctc"]
Modality = Literal["image", "audio", "video"]


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True, slots=True)
class ModelConfig:
    """What a model is made of: encoders, text model, the objectives that it has heads for."""

    modalities: tuple[Modality, ...] = ("image",)
    """Media that it takes, of image, audio, video."""
    objectives: tuple[Objective, ...] = ("causal",)
    """Objectives that it has heads for, of causal, masked_text, masked_medium, contrastive, ctc; causal always belongs to it."""

    backbone: str = "resnet50"
    """Picture encoder: a torchvision model by name (resnet50, efficientnet_b0, convnext_tiny, ...), or efficientnet-lite0."""
    backbone_weights: str = ""
    """Its weights: a local .pth or .safetensors file, `torchvision` (downloads its own), or empty: random."""
    backbone_stride: int = 0
    """Cut after the last layer with this stride: 16 gives 4 times the tokens of 32, each of lower level; 0 keeps all layers."""
    input_px: int = 224
    """Side of the square that pictures and frames are brought to; larger shows more detail and costs by its square."""
    fit: Fit = "crop"
    """`crop` scales the shorter side and cuts the middle; `stretch` scales both sides and cuts nothing."""
    frozen_share: float = 0.0
    """Share of the backbone's layers, from the picture on, that keep their weights: 0 trains all, 1 none."""
    norm: Norm = "auto"
    """BatchNorm of trained layers: `frozen` keeps statistics, `batch` learns them (wants 32 or more pictures a worker), `group`
    replaces it by GroupNorm; auto is frozen with weights and group without."""
    whole_grid: bool = False
    """One more memory token: a linear map of the whole feature grid. Costs grid x channels x width weights."""
    position_std: float = 0.3
    """Spread of the positions at the start; the features beside them have 1, so that 0.02 would be lost."""
    style_mix: float = 0.0
    """Probability that a picture's colour statistics inside the backbone are mixed with another's while training (MixStyle)."""
    feature_dropout: float = 0.0
    """Share of feature channels dropped while training."""

    recording_model: str = ""
    """Whisper folder or hub name whose encoder the recording encoder starts from; empty: random, with the size below."""
    recording_layers: int = 4
    """Transformer layers of the recording encoder."""
    recording_width: int = 256
    """Width of the recording encoder; a multiple of 64."""
    recording_stride: int = 2
    """Frames of 10 ms a token of a recording: 2, as Whisper, 4, 8 or 16. Longer tokens cost less and are easier to learn to listen to from
    scratch; a syllable takes 100 to 200 ms."""
    n_mels: int = 80
    """Bands of the log-mel spectrogram."""
    sample_rate_hz: int = 16_000
    """Rate of recordings and sound tracks."""
    max_recording_s: float = 30.0
    """Longest recording that is heard at once; the rest of a longer one is not heard in training."""
    max_frames: int = 8
    """Most frames of a clip; captions take as many, evenly. As many as nightcap prepare stores, or fewer."""

    text_model: str = "small"
    """BERT folder or hub name to start from, or a size from scratch: tiny (2 layers of 128), small (4 of 512), base (12 of 768)."""
    text_layers: int = 0
    """Keep only the first layers of the text model; 0 keeps all."""
    max_tokens: int = 64
    """Longest text in tokens, [CLS] and [SEP] included."""
    dropout: float = 0.1
    """Dropout of text model, recording encoder and heads."""
    encoder_lr_share: float = 0.1
    """Learning rate of encoder layers that start from weights, as a share of the others'."""
    media_dropout: float = 0.1
    """Share of samples whose medium is hidden while training, which teaches the text-only probability."""

    def __post_init__(self) -> None:
        """Raises RequestError for values that fit no model."""
        _check_names("modalities", self.modalities, get_args(Modality))
        _check_names("objectives", self.objectives, get_args(Objective))
        for name, allowed in (("norm", Norm), ("fit", Fit)):
            if getattr(self, name) not in get_args(allowed):
                raise RequestError(f"{name} {getattr(self, name)!r}: give one of {', '.join(get_args(allowed))}")
        for name in ("frozen_share", "style_mix", "feature_dropout", "dropout", "media_dropout", "encoder_lr_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise RequestError(f"{name} {getattr(self, name)}: give 0 to 1")
        for name, low in (("input_px", 32), ("recording_layers", 1), ("recording_width", 64), ("n_mels", 8), ("max_tokens", 3)):
            if getattr(self, name) < low:
                raise RequestError(f"{name} {getattr(self, name)}: give {low} or more")
        if self.max_frames < 1 or self.text_layers < 0 or self.backbone_stride < 0:
            raise RequestError("max_frames must be 1 or more; text_layers and backbone_stride 0 or more")
        if self.recording_width % 64:
            raise RequestError(f"recording_width {self.recording_width}: give a multiple of 64, the width of an attention head")
        if "ctc" in self.objectives and "audio" not in self.modalities:
            raise RequestError(f"objectives ctc wants recordings, and modalities are {', '.join(self.modalities)}; add audio")
        if self.recording_stride not in (2, 4, 8, 16):
            raise RequestError(f"recording_stride {self.recording_stride}: give 2, 4, 8 or 16")
        if self.recording_model and self.n_mels not in WHISPER_MELS:
            raise RequestError(f"n_mels {self.n_mels}: Whisper's encoders take {' or '.join(map(str, WHISPER_MELS))}")
        if self.max_recording_s <= 0 or self.position_std <= 0:
            raise RequestError("max_recording_s and position_std must be above 0")

    @property
    def mel(self) -> MelConfig:
        """Spectrogram of recordings: 25 ms windows every 10 ms."""
        rate = self.sample_rate_hz
        return MelConfig(n_mels=self.n_mels, sample_rate_hz=rate, window=rate // 40, hop=rate // 100, high_hz=min(8_000.0, rate / 2))


def _check_names(field: str, names: tuple[str, ...], known: tuple[str, ...]) -> None:
    wrong = [name for name in names if name not in known]
    if wrong or not names:
        raise RequestError(f"{field} {wrong[0] if wrong else '(empty)'}: give one or more of {', '.join(known)}")


def to_json(config: ModelConfig) -> dict[str, Any]:
    """Plain values, for `config_from_json`."""
    return {name: list(value) if isinstance(value, tuple) else value for name, value in dataclasses.asdict(config).items()}


def config_from_json(values: dict[str, Any]) -> ModelConfig:
    """The configuration again. RequestError for a field that is unknown or has another type."""
    hints = typing.get_type_hints(ModelConfig)
    known = {field.name: hints[field.name] for field in dataclasses.fields(ModelConfig)}
    found: dict[str, Any] = {}
    for name, value in values.items():
        if name not in known:
            raise RequestError(f"model configuration: unknown field {name!r}; the checkpoint is of another version")
        kind = typing.get_origin(known[name]) or known[name]
        plain = {tuple: list, Literal: str}.get(kind, kind)
        if not isinstance(value, (int, float) if plain is float else plain) or (plain is not bool and isinstance(value, bool)):
            raise RequestError(f"model configuration: {name} is {value!r}; expected {plain.__name__}")
        found[name] = tuple(value) if isinstance(value, list) else value
    return ModelConfig(**found)
