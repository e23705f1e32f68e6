"""Models of `nightcap train`: pictures, recordings and clips by one checkpoint folder.

What the model sees is what it saw in validation: pictures brought to its square, recordings at its rate in pieces that it hears at
once. Log-probabilities are the model's own by the chain rule, whatever the search was.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from pipeline import schema
from pipeline.captions.engine import Caption, EngineConfig, ask_of, threads_of
from pipeline.captions.weights import identity, locate
from pipeline.errors import Reason, RequestError, SampleError
from pipeline.model.batch import Batch, Clips, Pictures, Recordings
from pipeline.model.folder import CONFIG, TOKENIZER, WEIGHTS, Described, describe, load
from pipeline.model.generate import Generated, GenerationConfig, generate
from pipeline.model.inputs import fit_picture, stack_pictures
from pipeline.model.model import Precision
from pipeline.model.neighbours import check_neighbours, load_neighbours, recall
from pipeline.samples.medium import Ask, Medium, Needs
from pipeline.samples.mel import pad_waves


class Item(NamedTuple):
    """One medium as the model takes it."""

    ask: Ask
    kind: str
    """image, audio or video."""
    pixels: Any
    """uint8, side x side x 3; of a clip frames x side x side x 3; None for a recording."""
    wave: Any
    """int16; None without sound."""
    times_s: tuple[float, ...]
    """Of a clip's frames."""


class Checkpoint:
    """A checkpoint of `nightcap train`."""

    micro_batch = 32
    rows_per_call = 128
    samples = True

    def __init__(self, config: EngineConfig) -> None:
        import transformers

        transformers.logging.set_verbosity_error()
        torch.set_num_threads(threads_of(config))
        folder = locate(config.model, wanted=(CONFIG, TOKENIZER), download=True)
        loaded = load(folder)
        self._config, self._tokenizer = config, loaded.tokenizer
        device = ("cuda" if torch.cuda.is_available() else "cpu") if config.device == "auto" else config.device
        self._model: Any = loaded.model.to(device)
        rounded = config.dtype == "bfloat16" or (config.dtype == "auto" and device.startswith("cuda"))
        self._model.precision = Precision(encoder="bfloat16", text="bfloat16") if rounded else Precision()
        asked = not (config.temperature or config.named_prompts())
        self._neighbours = load_neighbours(folder, self._model) if asked else None

    @classmethod
    def check(cls, config: EngineConfig) -> None:
        """RequestError where the folder is no checkpoint, is damaged, or an option does not fit it."""
        folder = locate(config.model, wanted=(CONFIG, TOKENIZER))
        found = describe(folder)
        if not (folder / WEIGHTS).is_file() and folder.parent.name != "snapshots":  # of a hub's snapshot the driver fetches no weights
            raise RequestError(f"--model {config.model} is no checkpoint: it has no {WEIGHTS}")
        if config.dtype not in ("auto", "float32", "bfloat16"):
            raise RequestError(f"--dtype {config.dtype}: engine checkpoint takes float32, bfloat16 or auto")
        if config.language:
            raise RequestError(f"--language {config.language}: a checkpoint writes the language that it was trained on; leave it out")
        if config.max_tokens >= found.config.max_tokens:
            raise RequestError(f"--max-tokens {config.max_tokens}: this checkpoint's longest text is {found.config.max_tokens - 1} tokens")
        check_neighbours(folder)
        _search(config, (), config.temperature)

    @classmethod
    def prompts(cls, config: EngineConfig) -> str:
        """A caption's own beginning."""
        return "beginning"

    @classmethod
    def needs(cls, config: EngineConfig) -> Needs:
        """The media that it was trained on, at its size and rate."""
        found = _described(config).config
        return Needs(
            accepts=found.modalities,
            sample_rate_hz=found.sample_rate_hz,
            short_side_px=found.input_px,
            piece_s=found.max_recording_s,
            n_frames=found.max_frames if "video" in found.modalities else 1,
            sound="video" in found.modalities,
        )

    @classmethod
    def identity(cls, config: EngineConfig) -> dict[str, Any]:
        """Of the folder's files, and of how captions are drawn from it."""
        drawn = {"draws": 2} if config.temperature else {}  # until 2026-11-25 each row was drawn by a generator of its own, one at a time
        return {**identity(locate(config.model, wanted=(CONFIG, TOKENIZER))), **drawn}

    def close(self) -> None:
        """Releases the model; without it its memory stays until the process ends."""
        self._model = None
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def collate(self, media: Sequence[Medium]) -> list[Item]:
        """Pixels brought to the model's square; waves as they are."""
        found = self._model.config
        items = []
        for medium in media:
            if medium.modality not in self._model.kinds:
                raise ValueError(f"this model takes {', '.join(self._model.kinds)}, not {medium.modality}")
            times_s = (medium.times_s or (0.0,)) if medium.modality == "video" else ()
            pixels: Any = None
            if medium.pixels_hwc is not None:
                frames = np.split(medium.pixels_hwc, max(1, len(times_s)))
                fitted = [fit_picture(frame, found.input_px, found.fit) for frame in frames]
                pixels = np.stack(fitted) if times_s else fitted[0]
            items.append(Item(ask_of(medium, self._config), medium.modality, pixels, medium.wave_t, times_s))
        return items

    def __call__(self, batch: list[Item]) -> list[Caption]:
        """One caption a medium."""
        captions: list[Caption | None] = [None] * len(batch)
        size = self._config.micro(self.micro_batch)
        alike: dict[tuple[str, str, float], list[int]] = {}
        for at, item in enumerate(batch):
            alike.setdefault((item.kind, item.ask.prompt, item.ask.temperature), []).append(at)
        for places in alike.values():
            for start in range(0, len(places), size):
                group = places[start : start + size]
                for at, caption in zip(group, self._caption([batch[at] for at in group]), strict=True):
                    captions[at] = caption
        return [caption for caption in captions if caption is not None]

    def _caption(self, items: list[Item]) -> list[Caption]:
        """Of items of one kind, with one prompt and one temperature."""
        ask = items[0].ask
        seeds = [item.ask.seed for item in items] if ask.temperature else None
        search = _search(self._config, self._begun(ask.prompt), ask.temperature)
        batch = media_batch(items, self._model.device)
        if self._neighbours is not None and batch.pictures is not None and seeds is None and not search.prompt:
            found = recall(self._model, batch, self._neighbours, search)
        else:
            with torch.inference_mode():
                memory = self._model.encode(batch)
            found = generate(self._model, memory, search, seeds)
        return [self._said(one, search.prompt, None if seeds is None else seeds[at]) for at, one in enumerate(found)]

    def _begun(self, prompt: str) -> tuple[int, ...]:
        """Token ids of a caption's beginning. SampleError where it leaves no room for the rest."""
        longest = self._model.config.max_tokens
        ids = tuple(self._tokenizer.encode([prompt], 2 * longest)[0].token_ids[1:-1]) if prompt else ()
        if len(ids) >= longest - 1:
            raise SampleError(
                Reason.ENGINE_FAILED, f"its prompt has {len(ids)} tokens or more; a text of this checkpoint has at most {longest}"
            )
        return ids

    def _said(self, one: Generated, prompt: tuple[int, ...], seed: int | None) -> Caption:
        words = " ".join(self._tokenizer.decode([*prompt, *one.token_ids]).split())
        return Caption(
            words,
            status=schema.TRUNCATED if one.cut else schema.SUCCESS,
            finish_reason="length" if one.cut else "stop",
            n_prompt_tokens=len(prompt) or None,
            n_output_tokens=len(one.token_ids),
            mean_logprob=sum(one.logprobs) / len(one.logprobs),
            seed=seed,
        )


def _described(config: EngineConfig) -> Described:
    return describe(locate(config.model, wanted=(CONFIG, TOKENIZER)))


def _search(config: EngineConfig, prompt: tuple[int, ...], temperature: float) -> GenerationConfig:
    return GenerationConfig(
        max_tokens=config.max_tokens,
        beams=1 if temperature else config.beams,  # another attempt at a fault is drawn, or it would be the same
        temperature=temperature,
        top_k=config.top_k,
        top_p=config.top_p,
        prompt=prompt,
    )


def media_batch(items: Sequence[Item], device: torch.device) -> Batch:
    """Items of one kind as a batch without texts."""
    count = len(items)
    rows = torch.arange(count, device=device)
    nothing = torch.zeros(count, 0, dtype=torch.int64, device=device)
    kind = items[0].kind
    return Batch(
        origins=tuple(("", at) for at in range(count)),
        token_ids_bt=nothing,
        token_mask_bt=nothing.bool(),
        weight_b=torch.ones(count, device=device),
        seeds_b=torch.zeros(count, dtype=torch.int64, device=device),
        pictures=Pictures(rows_n=rows, pixels_nchw=stack_pictures([item.pixels for item in items]).to(device)) if kind == "image" else None,
        recordings=_recordings(items, device) if kind == "audio" else None,
        clips=_clips(items, device) if kind == "video" else None,
    )


def _recordings(items: Sequence[Item], device: torch.device) -> Recordings | None:
    """Sound of those that have it."""
    rows = [at for at, item in enumerate(items) if item.wave is not None and len(item.wave)]
    if not rows:
        return None
    waves = [items[at].wave for at in rows]
    lengths = torch.tensor([len(wave) for wave in waves], device=device)
    return Recordings(rows_n=torch.tensor(rows, device=device), wave_nt=pad_waves(waves).to(device), length_n=lengths)


def _clips(items: Sequence[Item], device: torch.device) -> Clips:
    """Padded with black frames to the longest."""
    longest, side = max(len(item.times_s) for item in items), items[0].pixels.shape[1]
    frames = torch.zeros(len(items), longest, 3, side, side, dtype=torch.uint8)
    times = torch.zeros(len(items), longest)
    for row, item in enumerate(items):
        frames[row, : len(item.times_s)] = stack_pictures(list(item.pixels))
        times[row, : len(item.times_s)] = torch.tensor(item.times_s)
    return Clips(
        rows_n=torch.arange(len(items), device=device),
        frames_nkchw=frames.to(device),
        n_frames_n=torch.tensor([len(item.times_s) for item in items], device=device),
        times_nk=times.to(device),
        sound=_recordings(items, device),
    )
