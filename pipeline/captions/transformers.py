"""Models of the `transformers` library, the family picked from the model's config.

Pictures: BLIP, GIT, and encoder-decoders such as ViT-GPT2. Pictures and clips by instruction: chat models that see. Speech: Whisper
and CTC models, in windows of 30 s. Weights are loaded as safetensors unless a pickle is allowed.
"""

from collections.abc import Sequence
from typing import Any

from pipeline import schema
from pipeline.captions.engine import Caption, EngineConfig, Segment, threads_of
from pipeline.captions.loading import Generated, family_of, side_px
from pipeline.captions.messages import needs_of
from pipeline.captions.weights import identity, locate
from pipeline.captions.windows import SAMPLE_RATE_HZ
from pipeline.errors import RequestError
from pipeline.samples.medium import Medium, Needs

SPEECH = ("listener", "ctc")
CHAT_SHORT_SIDE_PX = 768


class Transformers:
    """A model of `transformers`, behind its family."""

    micro_batch = 16
    rows_per_call = 64

    def __init__(self, config: EngineConfig) -> None:
        import torch
        import transformers

        transformers.logging.set_verbosity_error()
        transformers.logging.disable_progress_bar()
        torch.set_num_threads(threads_of(config))
        self._config = config
        folder = locate(config.model, download=True)
        self._kind = family_of(config, folder)
        self._family: Any = _family(self._kind)(config, folder)

    @classmethod
    def check(cls, config: EngineConfig) -> None:
        """RequestError where the model cannot be found, is of an unknown kind, or holds pickles only."""
        from pipeline.captions.chat import check_chat
        from pipeline.captions.listener import check_ctc, check_listener

        folder = locate(config.model)
        kind = family_of(config, folder)
        if config.dtype == "int8":
            raise RequestError("--dtype int8: engine transformers takes float32, bfloat16 or float16; for int8 speech use faster-whisper")
        if kind == "listener":
            check_listener(config, folder)
        elif kind == "ctc":
            check_ctc(config)
        elif kind == "chat":
            check_chat(config, folder)
        if kind in SPEECH and config.named_prompts():
            raise RequestError("--prompt: engine transformers takes one for pictures only; for speech use --engine faster-whisper")
        weights = [path.name for path in folder.iterdir() if path.suffix in (".bin", ".safetensors", ".pt")]
        if not weights and folder.parent.name != "snapshots":  # of a hub's snapshot the driver fetches no weights
            raise RequestError(f"--model {config.model}: no weights in that folder; it needs model.safetensors beside its config.json")
        if weights and not any(name.endswith(".safetensors") for name in weights) and not config.allow_pickle:
            raise RequestError(
                f"--model {config.model} has no safetensors, only {weights[0]}; convert it, or add --allow-pickle if you trust it"
            )

    @classmethod
    def needs(cls, config: EngineConfig) -> Needs:
        """Pictures shrunk to what the model's processor makes of them; speech at 16 kHz; clips as frames with times."""
        folder = locate(config.model)
        kind = family_of(config, folder)
        if kind in SPEECH:
            return Needs(accepts=("audio", "video"), sample_rate_hz=SAMPLE_RATE_HZ, video_as="audio")
        if kind == "chat":
            side = side_px(folder) or CHAT_SHORT_SIDE_PX
            return needs_of(config, min(side, CHAT_SHORT_SIDE_PX))
        return Needs(accepts=("image",), short_side_px=side_px(folder))

    @classmethod
    def prompts(cls, config: EngineConfig) -> str:
        """Chat models are instructed; captioners continue."""
        kind = family_of(config, locate(config.model))
        return {"chat": "instruction", "captioner": "beginning"}.get(kind, "none")

    @classmethod
    def samples(cls, config: EngineConfig) -> bool:
        """All but CTC models, which search nothing."""
        return family_of(config, locate(config.model)) != "ctc"

    @classmethod
    def identity(cls, config: EngineConfig) -> dict[str, Any]:
        """Of the folder's files, or the hub commit."""
        return identity(locate(config.model))

    def close(self) -> None:
        """Releases the model; without it its memory stays until the process ends."""
        import torch

        self._family = None
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def collate(self, media: Sequence[Medium]) -> list[Any]:
        """Media -> items: pictures, windows of recordings, messages."""
        items: list[Any] = self._family.collate(media)
        return items

    def __call__(self, batch: list[Any]) -> list[Caption]:
        """One caption a medium."""
        if not batch:
            return []
        size = self._config.micro(self.micro_batch)
        groups: list[list[int]] = []
        for at, item in enumerate(batch):
            first = batch[groups[-1][0]] if groups else item
            drawn_alike = self._config.beams == 1 or (first.ask.temperature > 0) == (item.ask.temperature > 0)
            fits = groups and len(groups[-1]) < size and drawn_alike and self._family.together(first, item)
            groups[-1].append(at) if fits else groups.append([at])
        generated: dict[int, Generated] = {}
        for group in groups:
            generated.update(zip(group, self._family.generate([batch[at] for at in group]), strict=True))
        by_medium: dict[int, list[int]] = {}
        for at, item in enumerate(batch):
            by_medium.setdefault(item.medium, []).append(at)
        return [self._caption([batch[at] for at in own], [generated[at] for at in own]) for _, own in sorted(by_medium.items())]

    def _caption(self, items: list[Any], found: list[Generated]) -> Caption:
        cut, tokens = any(one.cut for one in found), sum(one.n_tokens for one in found)
        known = [one.logprob for one in found if one.logprob is not None]
        spoken, ask = self._kind in SPEECH, items[0].ask
        segments = tuple(
            Segment(round(item.start_s, 3), round(item.start_s + item.duration_s, 3), one.text)
            for item, one in zip(items, found, strict=True)
            if spoken and one.text
        )
        return Caption(
            " ".join(one.text for one in found if one.text),
            status=schema.TRUNCATED if cut else schema.SUCCESS,
            finish_reason="length" if cut else "stop",
            n_output_tokens=tokens,
            mean_logprob=sum(known) / tokens if tokens and len(known) == len(found) else None,
            language=self._config.language or None,
            segments=segments,
            seed=ask.seed if ask.temperature else None,
            transcript=spoken,
        )


def _family(kind: str) -> Any:
    """The class of a family; imported when it is needed: torch takes seconds."""
    if kind == "captioner":
        from pipeline.captions.captioner import Captioner

        return Captioner
    if kind == "chat":
        from pipeline.captions.chat import Chat

        return Chat
    from pipeline.captions.listener import Ctc, Whisper

    return Whisper if kind == "listener" else Ctc
