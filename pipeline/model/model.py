"""The model: encoders of pictures, recordings and clips, one memory, one text model; and its losses on a batch.

    b  samples     t  tokens     m  memory tokens     d  width of the text model     v  words of the vocabulary

One set of weights serves all media and all objectives: a mask makes BERT causal or not, the memory says what is seen or heard. An
absent medium is a learned null token; hiding media now and then teaches it, and with it the text-only probability.
"""

import functools
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn

from pipeline.model.batch import Batch, Pictures, Recordings
from pipeline.model.chance import Stream, uniform
from pipeline.model.clips import ClipEncoder
from pipeline.model.config import ModelConfig
from pipeline.model.groups import param_groups
from pipeline.model.heads import CommonSpace, PatchHead, gathered, own_rows
from pipeline.model.hide import both_ways, drop_words, hide_words
from pipeline.model.memory import Memory, assemble
from pipeline.model.mix import ObjectiveMix
from pipeline.model.objectives import Loss, causal_targets, contrastive_loss, ctc_loss, token_loss
from pipeline.model.patches import reconstruct_pictures, reconstruct_recordings
from pipeline.model.pictures import PictureEncoder
from pipeline.model.recordings import RecordingEncoder
from pipeline.model.text import new_text_model

Number = Literal["float32", "bfloat16"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Precision:
    """Numbers that are computed with; weights are float32 always."""

    encoder: Number = "float32"
    """Of encoders. Depthwise convolutions are slower in bfloat16 on CPUs, ResNets faster."""
    text: Number = "float32"
    """Of the text model and the heads."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Shapes:
    """What is needed beside the configuration to build the model without any other folder. JSON values."""

    text: dict[str, Any]
    """BERT's configuration."""
    recording: dict[str, Any] | None
    """Whisper's configuration of the recording encoder; None without one."""
    special: dict[str, int]
    """Ids of pad, start, stop, mask."""


class MultimodalLM(nn.Module):
    """P(w_i | w_1..w_i-1, x)."""

    def __init__(self, config: ModelConfig, shapes: Shapes, *, pretrained: bool = False) -> None:
        """Random weights; with `pretrained` the backbone's are read from where the configuration says."""
        super().__init__()
        self.config, self.shapes, self.precision = config, shapes, Precision()
        self.origins: tuple[str, ...] = ()
        """What was pretrained and what was not, a line each."""
        width = int(shapes.text["hidden_size"])
        self.width = width
        self.text = new_text_model(shapes.text)
        self.null = nn.Parameter(torch.randn(width))
        kinds = [kind for kind in ("image", "audio", "video") if kind in config.modalities]
        self.kinds = nn.ParameterDict({kind: nn.Parameter(torch.randn(width) * config.position_std) for kind in kinds})
        if "image" in kinds or "video" in kinds:
            self.pictures = PictureEncoder(config, width, pretrained=pretrained)
        if "video" in kinds:
            self.clips = ClipEncoder(config, width)
        if shapes.recording is not None:
            self.recordings = RecordingEncoder(config, width, shapes.recording)
        if "masked_medium" in config.objectives:
            if hasattr(self, "pictures"):
                self.picture_head = PatchHead(width, 3 * self.pictures.stride**2, config.dropout)
            if hasattr(self, "recordings"):
                self.recording_head = PatchHead(width, config.recording_stride * config.n_mels, config.dropout)
        if "contrastive" in config.objectives:
            self.common = CommonSpace(width)
        if "ctc" in config.objectives:
            self.heard_words = nn.Linear(width, int(shapes.text["vocab_size"]))
        words = torch.tensor([at for at in range(shapes.text["vocab_size"]) if at not in set(shapes.special.values())])
        self.register_buffer("words", words, persistent=False)

    @property
    def tied(self) -> frozenset[str]:
        """Names that share their weights with another, and are stored once."""
        return frozenset({f"text.cls.predictions.{name}" for name in ("decoder.weight", "decoder.bias", "bias")})

    @property
    def device(self) -> torch.device:
        """Where its weights are."""
        return self.null.device

    def encode(self, batch: Batch, *, train: bool = False) -> Memory:
        """The media of a batch as memory. With `train` styles are mixed and media hidden, by each sample's seed."""
        seeds_b = batch.seeds_b if train else None
        hidden = torch.zeros_like(batch.weight_b, dtype=torch.bool)
        if seeds_b is not None:
            hidden = uniform(seeds_b, Stream.HIDE_MEDIUM, 1)[:, 0] < self.config.media_dropout
        with self._numbers(self.precision.encoder):
            blocks = self._blocks(batch, seeds_b)
        return assemble(self.null, blocks, hidden)

    def grids(self, pictures: Pictures) -> torch.Tensor:
        """n x channels x cells x cells: what the backbone gives, nothing mixed or dropped."""
        encoder = self._part("pictures", "image")
        with self._numbers(self.precision.encoder):
            found: torch.Tensor = encoder.features(encoder.normalised(pictures.pixels_nchw))
        return found

    def _blocks(self, batch: Batch, seeds_b: torch.Tensor | None) -> list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
        blocks = []
        if batch.pictures is not None:
            rows = batch.pictures.rows_n
            seeds_n = None if seeds_b is None else seeds_b[rows]
            tokens = self._part("pictures", "image")(batch.pictures.pixels_nchw, seeds_n, batch.pictures.grid_ncgg)
            blocks.append((rows, tokens + self.kinds["image"], torch.ones(tokens.shape[:2], dtype=torch.bool, device=tokens.device)))
        if batch.clips is not None:
            rows = batch.clips.rows_n
            tokens, mask = self._part("clips", "video")(batch.clips, self.pictures, None if seeds_b is None else seeds_b[rows])
            blocks.append((rows, tokens + self.kinds["video"], mask))
            if batch.clips.sound is not None and hasattr(self, "recordings"):
                blocks.append(self._sound(batch.clips.sound, "video"))
        if batch.recordings is not None:
            self._part("recordings", "audio")
            blocks.append(self._sound(batch.recordings, "audio"))
        return blocks

    def _sound(self, recordings: Recordings, kind: str) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        tokens, mask = self.recordings(recordings.wave_nt, recordings.length_n)
        return recordings.rows_n, tokens + self.kinds[kind], mask

    def _part(self, name: str, kind: str) -> Any:
        if kind not in self.kinds:
            raise ValueError(f"a batch with {kind} for a model that takes {', '.join(self.kinds)}")
        return getattr(self, name)

    def logits(self, memory: Memory, token_ids_bt: torch.Tensor) -> torch.Tensor:
        """b x t x v: at place i, of the word after w_1..w_i. Padding after a text changes nothing before it."""
        with self.text_numbers():
            return self._text(token_ids_bt, memory, None)

    def score(self, memory: Memory, token_ids_bt: torch.Tensor, token_mask_bt: torch.Tensor) -> torch.Tensor:
        """log P(w_i+1 | w_1..w_i, x), natural, b x (t - 1), 0 on padding; its sum over a row is the log-probability of the text.

        The chain rule: P(w_1..w_t | x) = prod_i P(w_i | w_1..w_i-1, x). `memory.absent()` gives the text-only probability.
        """
        logits = self.logits(memory, token_ids_bt[:, :-1]).float()
        each = logits.log_softmax(dim=-1).gather(2, token_ids_bt[:, 1:, None])[..., 0]
        return each * token_mask_bt[:, 1:]

    def word_states(self, token_ids_bt: torch.Tensor, token_mask_bt: torch.Tensor) -> torch.Tensor:
        """b x t x d: the words read both ways, without any medium."""
        return self.text.bert(token_ids_bt, attention_mask=both_ways(token_mask_bt), use_cache=False).last_hidden_state

    def _text(self, token_ids_bt: torch.Tensor, memory: Memory, mask_b1tt: torch.Tensor | None) -> torch.Tensor:
        out = self.text(
            token_ids_bt,
            attention_mask=mask_b1tt,
            encoder_hidden_states=memory.states_bmd,
            encoder_attention_mask=memory.mask_bm,
            use_cache=False,
        )
        return out.logits

    def forward(self, batch: Batch, mix: ObjectiveMix, *, train: bool, memory: Memory | None = None) -> dict[str, Loss]:
        """Loss by objective, unweighted, of those that the mix wants. Under DDP this is what is called.

        All randomness but dropout comes from `batch.seeds_b`. Without `train` nothing is hidden but what an objective asks for.
        `memory` is the batch's, where it is known already.
        """
        memory = self.encode(batch, train=train) if memory is None else memory
        wanted, losses = mix.wanted(), {}
        with self.text_numbers():
            if "causal" in wanted:
                targets, weight = causal_targets(batch.token_ids_bt, batch.token_mask_bt, batch.weight_b)
                before = batch.token_ids_bt[:, :-1]
                if train and mix.word_dropout > 0:
                    before = drop_words(before, batch.seeds_b, mix.word_dropout, self.shapes.special["mask"], self.shapes.special["start"])
                logits = self._text(before, memory, None)
                losses["causal"] = token_loss(logits, targets, weight, mix.label_smoothing if train else 0.0)
            if "masked_text" in wanted:
                losses["masked_text"] = self._masked_text(batch, memory, mix)
            states = self.word_states(batch.token_ids_bt, batch.token_mask_bt) if {"masked_medium", "contrastive"} & set(wanted) else None
            if "contrastive" in wanted:
                losses["contrastive"] = self._contrastive(batch, memory, states)
            if "ctc" in wanted:
                losses["ctc"] = self._ctc(batch, memory)
            if "masked_medium" in wanted:
                losses["masked_medium"] = self._masked_medium(batch, states, mix)
        return losses

    def param_groups(self, lr: float, weight_decay: float) -> list[dict[str, Any]]:
        """Groups for an optimiser, with `lr` and `weight_decay`: see groups.py."""
        config, share = self.config, self.config.encoder_lr_share
        pretrained = {"pictures": share} if config.backbone_weights else {}
        return param_groups(self, lr, weight_decay, pretrained=pretrained | ({"recordings": share} if config.recording_model else {}))

    def text_numbers(self) -> AbstractContextManager[None]:
        """The text model's precision, as a context."""
        return self._numbers(self.precision.text)

    def losses(self, batch: Batch, mix: ObjectiveMix, *, train: bool) -> dict[str, Loss]:
        """`forward` by the name of what it gives."""
        found: dict[str, Loss] = self(batch, mix, train=train)
        return found

    def _masked_text(self, batch: Batch, memory: Memory, mix: ObjectiveMix) -> Loss:
        ids, special = batch.token_ids_bt, self.shapes.special
        words = batch.token_mask_bt & (ids != special["start"]) & (ids != special["stop"])
        hidden = hide_words(ids, words, batch.seeds_b, mix.masked_text_share, special["mask"], self.words)
        logits = self._text(hidden.token_ids_bt, memory, both_ways(batch.token_mask_bt))
        return token_loss(logits, ids, hidden.asked_bt.float() * batch.weight_b[:, None])

    def _contrastive(self, batch: Batch, memory: Memory, states: Any) -> Loss:
        shown = memory.mask_bm.clone()
        shown[:, 0] = False  # the null token is no medium
        weight_b = batch.weight_b * shown.any(dim=1)
        media = gathered(self.common.of_media(memory.states_bmd, shown))
        texts = gathered(self.common.of_texts(states, batch.token_mask_bt))
        names = gathered(text_names(batch.token_ids_bt, batch.token_mask_bt))
        with torch.autocast(self.device.type, enabled=False):
            return contrastive_loss(
                media.float(), texts.float(), names, gathered(weight_b), self.common.scale(), own_rows(len(batch.weight_b))
            )

    def _ctc(self, batch: Batch, memory: Memory) -> Loss:
        """The blank is the padding's id, which no text has. Recordings stand last in the memory."""
        if batch.recordings is None:
            zero = batch.weight_b.sum() * 0.0
            return Loss(zero, zero)
        rows, length_n = batch.recordings.rows_n, self.recordings.tokens_of(batch.recordings.length_n)
        logits = self.heard_words(memory.states_bmd[rows, -int(length_n.max()) :])
        words, count_n = only_words(batch.token_ids_bt[rows], batch.token_mask_bt[rows], self.shapes.special)
        return ctc_loss(logits, length_n, words, count_n, batch.weight_b[rows], self.shapes.special["pad"])

    def _masked_medium(self, batch: Batch, states: Any, mix: ObjectiveMix) -> Loss:
        found = []
        share, numbers = mix.masked_medium_share, functools.partial(self._numbers, self.precision.encoder)
        if batch.pictures is not None or batch.clips is not None:
            found.append(reconstruct_pictures(self.pictures, self.picture_head, batch, states, share, numbers).loss())
        if batch.recordings is not None:
            found.append(reconstruct_recordings(self.recordings, self.recording_head, batch, states, share, numbers).loss())
        if not found:
            zero = batch.weight_b.sum() * 0.0
            return Loss(zero, zero)
        return Loss(sum(loss.total for loss in found), sum(loss.count for loss in found))

    def _numbers(self, number: Number) -> AbstractContextManager[None]:
        context: AbstractContextManager[None] = torch.autocast(self.device.type, torch.bfloat16, enabled=number == "bfloat16")
        return context


def only_words(ids_nt: torch.Tensor, mask_nt: torch.Tensor, special: dict[str, int]) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids without what begins and ends a text, moved to the front, n x t; and how many they are, n."""
    words = mask_nt & (ids_nt != special["start"]) & (ids_nt != special["stop"])
    order = (~words).to(torch.uint8).argsort(dim=1, stable=True)
    return ids_nt.gather(1, order), words.sum(dim=1)


def text_names(token_ids_bt: torch.Tensor, token_mask_bt: torch.Tensor) -> torch.Tensor:
    """int64, b: equal for equal texts, whatever padding follows; different for others but for one in 2**64."""
    factors = torch.arange(1, token_ids_bt.shape[1] + 1, device=token_ids_bt.device) * 0x9E3779B97F4A7C1
    mixed = (token_ids_bt + 1 + factors) * 0x2545F4914F6CDD1D
    mixed = (mixed ^ ((mixed >> 29) & 0x7FFFFFFFF)) * 0x3C6EF372FE94F82B
    return (mixed * token_mask_bt).sum(dim=1)
