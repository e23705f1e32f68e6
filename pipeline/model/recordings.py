"""Recordings -> memory tokens: log-mel, a convolutional stem that shortens time, transformer layers (Whisper's encoder).

    n  recordings     t  samples     f  frames of 10 ms     m  tokens of `stride` frames     e  width of this encoder     d  of the text model

Its layers are `transformers`' own Whisper layers, so that a Whisper folder's encoder fits in. Unlike Whisper's, it takes recordings of
any length: what pads a batch is masked, so that a recording sounds the same whatever stands beside it.
Radford et al.: Robust Speech Recognition via Large-Scale Weak Supervision, 2022.
"""

import math
from typing import Any

import torch
from torch import nn

from pipeline.errors import RequestError
from pipeline.model.config import ModelConfig
from pipeline.samples.mel import WHISPER_RATE_HZ, log_mel, whisper_log_mel

MEAN, STD = -6.0, 5.0
"""Centre and spread of the natural log of mel power of speech at usual loudness: what the stem wants is near 0 and 1."""
WHISPER_STRIDE = 2
"""Frames a token of Whisper's stem; further convolutions of the stem halve time again."""


class RecordingEncoder(nn.Module):
    """int16 waves, n x t -> tokens, n x m x d, and which of them are sound."""

    def __init__(self, config: ModelConfig, width: int, shape_json: dict[str, Any]) -> None:
        super().__init__()
        from transformers import WhisperConfig
        from transformers.models.whisper.modeling_whisper import WhisperEncoderLayer

        shape = WhisperConfig(**shape_json, attn_implementation="sdpa")
        size = shape.d_model
        self.mel, self._whisper = config.mel, bool(config.recording_model)
        self.max_samples = round(config.max_recording_s * config.sample_rate_hz)
        self.conv1 = nn.Conv1d(config.n_mels, size, 3, padding=1)
        self.conv2 = nn.Conv1d(size, size, 3, stride=WHISPER_STRIDE, padding=1)
        self.stride = config.recording_stride
        self.shorten = nn.ModuleList(
            nn.Conv1d(size, size, 3, stride=2, padding=1) for _ in range((self.stride // WHISPER_STRIDE).bit_length() - 1)
        )
        self.layers = nn.ModuleList(WhisperEncoderLayer(shape) for _ in range(shape.encoder_layers))
        self.layer_norm = nn.LayerNorm(size)
        self.project = nn.Linear(size, width)
        self.norm = nn.LayerNorm(width)

    def features(self, wave_nt: torch.Tensor, length_n: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Log-mel, n x bands x f, around 0 with spread 1; and which frames are sound, n x f. Padding is exactly 0."""
        wave_nt = wave_nt[:, : self.max_samples]
        # A window of silence after the longest: its end then looks like that of the others, which are followed by padding.
        wave_nt = nn.functional.pad(wave_nt, (0, self.mel.window + self.mel.hop))
        if self._whisper:
            mel = whisper_log_mel(wave_nt, self.mel.n_mels, pad=False)
        else:
            mel = (log_mel(wave_nt, self.mel) - MEAN) / STD
        frames_n = self.tokens_of(length_n) * self.stride
        mel = mel[:, :, : int(frames_n.max())]
        heard = torch.arange(mel.shape[2], device=mel.device)[None] < frames_n[:, None]
        return mel * heard[:, None], heard

    def tokens_of(self, length_n: torch.Tensor) -> torch.Tensor:
        """How many tokens recordings of so many samples have."""
        return (length_n.clamp(max=self.max_samples) // self.mel.hop // self.stride).clamp(min=1)

    def encode(self, mel_nmf: torch.Tensor, heard_nf: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Log-mel -> tokens, n x m x d, and which of them are sound, n x m."""
        stem = nn.functional.gelu(self.conv1(mel_nmf)) * heard_nf[:, None]
        stem = nn.functional.gelu(self.conv2(stem))
        for halvings, shorten in enumerate(self.shorten):
            stem = nn.functional.gelu(shorten(stem * heard_nf[:, None, :: WHISPER_STRIDE << halvings]))
        stem, heard_nm = stem.transpose(1, 2), heard_nf[:, :: self.stride]
        states = stem + sinusoids(stem.shape[1], stem.shape[2], stem.device)
        mask = heard_nm[:, None, None, :].expand(-1, 1, heard_nm.shape[1], -1)
        for layer in self.layers:
            states = layer(states, mask)
        return self.norm(self.project(self.layer_norm(states))), heard_nm

    def forward(self, wave_nt: torch.Tensor, length_n: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Waves -> tokens and their mask."""
        return self.encode(*self.features(wave_nt, length_n))


def sinusoids(length: int, width: int, device: torch.device) -> torch.Tensor:
    """Positions, length x width: sines, then cosines, of wavelengths from 2 pi to 10,000 * 2 pi, as Whisper's encoder has them."""
    rates = torch.exp(torch.arange(width // 2, device=device) * (-math.log(10_000.0) / (width // 2 - 1)))
    angles = torch.arange(length, device=device)[:, None] * rates[None]
    return torch.cat([angles.sin(), angles.cos()], dim=1)


def recording_shape(config: ModelConfig) -> dict[str, Any]:
    """Whisper's configuration of the layers, as JSON: of the folder to start from, or with the configured size."""
    from transformers import WhisperConfig

    if config.recording_model:
        try:
            shape = WhisperConfig.from_pretrained(config.recording_model)
        except (OSError, ValueError) as exc:
            raise RequestError(f"--recording-model {config.recording_model}: {str(exc).splitlines()[0][:200]}") from exc
        if shape.num_mel_bins != config.n_mels or config.sample_rate_hz != WHISPER_RATE_HZ:
            raise RequestError(
                f"--recording-model {config.recording_model} hears {shape.num_mel_bins} bands at {WHISPER_RATE_HZ} Hz; "
                f"the model has {config.n_mels} at {config.sample_rate_hz}"
            )
    else:
        width = config.recording_width
        shape = WhisperConfig(
            d_model=width,
            encoder_layers=config.recording_layers,
            encoder_attention_heads=width // 64,
            encoder_ffn_dim=4 * width,
            num_mel_bins=config.n_mels,
        )
    sizes = ("d_model", "encoder_layers", "encoder_attention_heads", "encoder_ffn_dim", "num_mel_bins", "activation_function")
    return {**{name: getattr(shape, name) for name in sizes}, "dropout": config.dropout}


def start_from_whisper(encoder: RecordingEncoder, model: str) -> None:
    """The encoder's weights of a Whisper model, the sinusoids apart, which are computed."""
    from transformers import WhisperModel

    state = WhisperModel.from_pretrained(model).encoder.state_dict()
    state.pop("embed_positions.weight")
    missing, unexpected = encoder.load_state_dict(state, strict=False)
    if unexpected or any(not name.startswith(("project.", "norm.")) for name in missing):
        raise RequestError(f"--recording-model {model}: its encoder is of another shape ({', '.join([*missing, *unexpected][:3])})")
