"""Speech to text with CTranslate2's Whisper: windows of many recordings share one batch.

A recording is cut at quiet places into windows of at most 30 s, what Whisper hears at once; the windows of all
recordings of a micro-batch are encoded and decoded together. Recordings never see each other: what they share is time.
Temperature is 0 without fall-back, so that a transcript is the same whatever stood beside it. Sampling is refused:
CTranslate2's samples differ from call to call even where its seed is set before each.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline import schema
from pipeline.captions.engine import Caption, EngineConfig, Segment, threads_of
from pipeline.captions.weights import identity, locate, read_json
from pipeline.captions.windows import SAMPLE_RATE_HZ, window_bounds
from pipeline.errors import RequestError
from pipeline.samples.medium import Medium, Needs

TIMESTAMP_S = 0.02
"""Step of Whisper's time tokens, in seconds."""
NO_SPEECH_PROBABILITY = 0.6
NO_SPEECH_LOGPROB = -1.0
"""A window is silent if both say so: the thresholds of Whisper's reference implementation."""
MULTILINGUAL_TOKENS = 51865
"""Fewest tokens of a multilingual vocabulary; English models have fewer."""


class Window(NamedTuple):
    """At most 30 s of one recording."""

    medium: int
    """Position of its recording in the micro-batch."""
    start_s: float
    """Seconds from the start of the whole recording."""
    duration_s: float
    features: NDArray[np.float32]
    """Log-mel, bands x 3000 frames."""


class Decoded(NamedTuple):
    """What was heard in one window."""

    segments: list[Segment]
    n_tokens: int
    logprob: float
    """Sum over tokens."""
    cut: bool
    """It ended at the token limit."""


class FasterWhisper:
    """Whisper models in CTranslate2's format: int8 on a CPU, float16 on a GPU."""

    asks_apart = False
    rows_per_call = 64
    micro_batch = 16

    def __init__(self, config: EngineConfig) -> None:
        import ctranslate2
        from faster_whisper import WhisperModel

        on_gpu = config.device.startswith("cuda") or (config.device == "auto" and ctranslate2.get_cuda_device_count() > 0)
        dtype = {"auto": "float16" if on_gpu else "int8"}.get(config.dtype, config.dtype)
        index = int(config.device.partition(":")[2] or 0)
        folder = locate(config.model, wanted=("config.json", "model.bin"), download=True)
        self._model: Any = WhisperModel(
            str(folder), "cuda" if on_gpu else "cpu", index, dtype, cpu_threads=threads_of(config), local_files_only=True
        )
        self._config = config

    @classmethod
    def check(cls, config: EngineConfig) -> None:
        """RequestError where the folder holds no such model, or the language is not one of the model's."""
        folder = locate(config.model, wanted=("config.json", "model.bin"))
        known = read_json(folder / "config.json")
        if "suppress_ids" not in known and "alignment_heads" not in known:
            raise RequestError(
                f"--model {config.model} is no Whisper model in CTranslate2's format; convert it with ct2-transformers-converter"
            )
        if config.temperature:
            raise RequestError(
                f"--temperature {config.temperature}: faster-whisper cannot sample reproducibly; leave it at 0, or use --engine transformers"
            )
        _check_language(config, folder)

    @classmethod
    def needs(cls, config: EngineConfig) -> Needs:
        """16 kHz mono; clips by their sound track."""
        return Needs(accepts=("audio", "video"), sample_rate_hz=SAMPLE_RATE_HZ, video_as="audio")

    @classmethod
    def identity(cls, config: EngineConfig) -> dict[str, Any]:
        """Of the folder's files."""
        return identity(locate(config.model, wanted=("config.json", "model.bin")))

    @classmethod
    def prompts(cls, config: EngineConfig) -> str:
        """Words that went before: they set spelling and style."""
        return "beginning"

    def close(self) -> None:
        """Releases the model; without it its memory stays until the process ends."""
        self._model = None

    def collate(self, media: Sequence[Medium]) -> list[Window]:
        """Recordings -> windows with their log-mel features."""
        windows = []
        for at, medium in enumerate(media):
            if medium.wave_t is None:
                raise ValueError(f"faster-whisper takes recordings, not {medium.modality}")
            for start, stop in window_bounds(medium.wave_t):
                wave_t = medium.wave_t[start:stop].astype(np.float32) / 32768.0
                windows.append(
                    Window(at, (medium.start_s or 0.0) + start / SAMPLE_RATE_HZ, (stop - start) / SAMPLE_RATE_HZ, self._features(wave_t))
                )
        return windows

    def _features(self, wave_t: NDArray[np.float32]) -> NDArray[np.float32]:
        from faster_whisper.audio import pad_or_trim

        features: NDArray[np.float32] = pad_or_trim(self._model.feature_extractor(wave_t)[..., :-1]).astype(np.float32)
        return features

    def __call__(self, batch: list[Window]) -> list[Caption]:
        """One transcript a recording."""
        if not batch:
            return []
        size = self._config.batch_size or self.micro_batch
        languages: dict[int, str] = {}
        heard: list[Decoded] = []
        for start in range(0, len(batch), size):
            heard += self._hear(batch[start : start + size], languages)
        captions = []
        for medium in range(batch[-1].medium + 1):
            own = [decoded for window, decoded in zip(batch, heard, strict=True) if window.medium == medium]
            captions.append(self._caption(own, languages[medium]))
        return captions

    def _hear(self, windows: list[Window], languages: dict[int, str]) -> list[Decoded]:
        """Encodes and decodes windows together; the language of a recording is that of its first window."""
        encoded = self._model.encode(np.stack([window.features for window in windows]))
        self._detect(windows, encoded, languages)
        prompts = [self._prompt(languages[window.medium]) for window in windows]
        limit = self._model.max_length if not self._config.max_tokens else len(prompts[0]) + self._config.max_tokens
        limit = min(limit, self._model.max_length)
        results = self._model.model.generate(
            encoded,
            prompts,
            beam_size=self._config.beams,
            max_length=limit,
            return_scores=True,
            return_no_speech_prob=True,
        )
        room = limit - len(prompts[0])
        return [self._decode(window, result, languages[window.medium], room) for window, result in zip(windows, results, strict=True)]

    def _detect(self, windows: list[Window], encoded: Any, languages: dict[int, str]) -> None:
        unknown = [window.medium for window in windows if window.medium not in languages]
        if not unknown:
            return
        if self._config.language or not self._model.model.is_multilingual:
            languages.update(dict.fromkeys(unknown, self._config.language or "en"))
            return
        for window, found in zip(windows, self._model.model.detect_language(encoded), strict=True):
            languages.setdefault(window.medium, found[0][0].strip("<|>"))

    def _tokenizer(self, language: str) -> Any:
        from faster_whisper.tokenizer import Tokenizer

        return Tokenizer(self._model.hf_tokenizer, self._model.model.is_multilingual, task="transcribe", language=language)

    def _prompt(self, language: str) -> list[int]:
        tokenizer = self._tokenizer(language)
        previous = tokenizer.encode(" " + self._config.prompt) if self._config.prompt else []
        prompt: list[int] = self._model.get_prompt(tokenizer, previous, without_timestamps=False)
        return prompt

    def _decode(self, window: Window, result: Any, language: str, room: int) -> Decoded:
        tokens = result.sequences_ids[0]
        logprob = float(result.scores[0]) * len(tokens)
        mean = logprob / (len(tokens) + 1)
        if result.no_speech_prob > NO_SPEECH_PROBABILITY and mean < NO_SPEECH_LOGPROB:
            return Decoded([], 0, 0.0, False)
        return Decoded(_segments(tokens, self._tokenizer(language), window), len(tokens), logprob, len(tokens) >= room)

    def _caption(self, heard: list[Decoded], language: str) -> Caption:
        segments = tuple(segment for decoded in heard for segment in decoded.segments)
        tokens = sum(decoded.n_tokens for decoded in heard)
        cut = any(decoded.cut for decoded in heard)
        return Caption(
            " ".join(segment.text for segment in segments),
            status=schema.TRUNCATED if cut else schema.SUCCESS,
            finish_reason="length" if cut else "stop",
            n_output_tokens=tokens,
            mean_logprob=min(0.0, sum(decoded.logprob for decoded in heard) / tokens) if tokens else None,
            language=language,
            segments=segments,
            transcript=True,
        )


def _check_language(config: EngineConfig, folder: Path) -> None:
    """RequestError where Whisper does not know the language, or the model knows English alone."""
    from faster_whisper.tokenizer import _LANGUAGE_CODES

    if not config.language:
        return
    if config.language not in _LANGUAGE_CODES:
        raise RequestError(f"--language {config.language!r} is unknown to Whisper; write a code such as en, de or zh, or leave it empty")
    size = _vocabulary_size(folder)
    if config.language != "en" and size is not None and size < MULTILINGUAL_TOKENS:
        raise RequestError(f"--language {config.language}: {config.model} is an English model; leave it empty, or use a multilingual model")


def _vocabulary_size(folder: Path) -> int | None:
    """Tokens of the model's vocabulary file; None where there is none."""
    listed, lines = folder / "vocabulary.json", folder / "vocabulary.txt"
    if listed.is_file():
        return len(json.loads(listed.read_text()))
    return len(lines.read_bytes().rstrip(b"\n").split(b"\n")) if lines.is_file() else None


def _segments(tokens: list[int], tokenizer: Any, window: Window) -> list[Segment]:
    """Stretches between time tokens, in seconds of the whole recording; one stretch where there are none."""
    segments, text, begin_s = [], [], 0.0
    for token in [*tokens, tokenizer.timestamp_begin + round(window.duration_s / TIMESTAMP_S)]:
        if token < tokenizer.timestamp_begin:
            text.append(token)
            continue
        at_s = min((token - tokenizer.timestamp_begin) * TIMESTAMP_S, window.duration_s)
        words = tokenizer.decode(text).strip() if text else ""
        if words:
            segments.append(Segment(round(window.start_s + begin_s, 3), round(window.start_s + max(at_s, begin_s), 3), words))
        text, begin_s = [], at_s
    return segments
