"""What an engine is, and how one is chosen by name or import path.

An engine is a class: `Class(config)` loads the model on the worker, `collate(media)` does host work (and may run while
the engine is busy), the call does device work. A user's own class may be as small as `accepts`, `__init__(config)` and
`__call__(media) -> list[str]`. What is asked of a medium (its prompt, its seed) stands in `medium.ask`.
"""

import difflib
import importlib
import os
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Annotated, Any, Literal, Protocol

from cyclopts import Parameter

from pipeline import schema
from pipeline.captions.prompts import DEFAULT, Questions, Template, parse
from pipeline.captions.weights import sample_seed
from pipeline.errors import RequestError, SampleError
from pipeline.samples.medium import Ask, Medium, Needs

ENGINES = {
    "facts": "pipeline.captions.facts:Facts",
    "faster-whisper": "pipeline.captions.whisper:FasterWhisper",
    "transformers": "pipeline.captions.transformers:Transformers",
    "checkpoint": "pipeline.captions.checkpoint:Checkpoint",
    "endpoint": "pipeline.captions.endpoint:Endpoint",
    "vllm": "pipeline.captions.vllm:Vllm",
}
AUTO = "auto"
Prompts = Literal["none", "beginning", "instruction", "free"]
"""What a prompt is to an engine: refused, the caption's own beginning, an instruction, or its own affair."""
DTYPES = ("auto", "float32", "bfloat16", "float16", "int8")
MODALITIES = ("image", "audio", "video")


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True, slots=True)
class EngineConfig:
    """Options of the engine. Device, dtype, batch size and threads change speed, the others change captions."""

    engine: str = AUTO
    """auto (by the model), facts (no model, measures the medium), faster-whisper, transformers, vllm, checkpoint (of `nightcap train`), endpoint, or module:Class."""
    model: str = ""
    """Folder of the model, its hub name, or the name by which a server knows it."""
    endpoint: str = ""
    """URL of an OpenAI-compatible server, such as http://localhost:8000/v1; its key is read from the environment of the workers."""
    key_env: str = "OPENAI_API_KEY"
    """Environment variable that holds the server's key; it is sent to the server and written nowhere."""
    max_in_flight: int = 64
    """Most requests to the server at a time, each worker; it takes fewer where the server is busy."""
    request_timeout_s: float = 120.0
    """Seconds after which a request is tried again."""
    patience_s: float = 300.0
    """Seconds that a server which went away, or is too busy, is waited for; then the run stops, and can be continued."""
    media: Annotated[tuple[Literal["image", "audio", "video"], ...], Parameter(negative=())] = ("image", "video")
    """Media that a chat model or server takes; others are skipped."""
    frames: int = 8
    """Frames of a clip, or of a segment of it, that a chat model or server is shown."""
    segment_s: float = 0.0
    """Seconds: clips above this length are captioned in segments of equal length, at most so long, with their times; 0 captions them whole."""
    whole_clips: bool = False
    """Clips in segments are captioned as a whole too: that is then their caption, and the segments' stand beside it."""
    language: str = ""
    """Language of the speech (ISO 639-1: en, de, zh); empty detects it."""
    prompt: str = ""
    """What is asked of a model that takes instructions; the caption's beginning for others. {text} and {json.NAME} stand for values of the sample."""
    prompts: dict[str, str] = field(default_factory=dict)
    """Several prompts by name, in place of --prompt: --prompts.short '...' --prompts.long '...'; each makes its captions."""
    num_captions: int = 1
    """Captions a sample and prompt; more than one needs a temperature."""
    max_tokens: int = 0
    """Longest caption (of a 30 s window of speech) in tokens; a longer one is cut and has status truncated. 0 is automatic."""
    beams: int = 1
    """Beams of the search; more costs speed and memory, and may improve captions."""
    temperature: float = 0.0
    """0 is deterministic; above it tokens are sampled."""
    top_p: float = 1.0
    """Share of probability that is sampled from, 0 to 1."""
    top_k: int = 0
    """Number of tokens that are sampled from; 0 is all."""
    seed: int = 0
    """Seed of sampling; each caption has its own, from this, its medium, its prompt and its number."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N; auto takes a GPU where there is one."""
    dtype: str = "auto"
    """auto, float32, bfloat16, float16 or int8; smaller is faster and less exact."""
    batch_size: int = 0
    """Media in one call of the model; 0 is automatic. More is faster until memory ends."""
    price_in: float = 0.0
    """Price of a million prompt tokens, in any currency; the closing table then says what the run cost."""
    price_out: float = 0.0
    """Price of a million output tokens."""
    tensor_parallel: int = 1
    """GPUs that one model is spread over (vllm)."""
    max_model_len: int = 0
    """Longest prompt and caption together in tokens (vllm); 0 is the model's own. A shorter one leaves memory for more captions at a time."""
    gpu_memory: float = 0.9
    """Share of each GPU's memory that is taken (vllm), above 0 to 1; what the weights leave of it holds captions in the making."""
    batch_invariant: bool = False
    """One medium at a time: the same caption whatever the batch, on GPUs and in bfloat16 too, at the price of speed."""
    threads: int = 0
    """CPU threads of the model; 0 is all cores."""
    allow_pickle: bool = False
    """Load weights that are not safetensors; a pickle can run any code, so only from who you trust."""

    def __post_init__(self) -> None:
        if not self.engine:
            raise RequestError(f"--engine is empty; known engines are {', '.join(ENGINES)}, or module:Class")
        for name, low in (
            ("max_tokens", 0),
            ("beams", 1),
            ("batch_size", 0),
            ("threads", 0),
            ("top_k", 0),
            ("num_captions", 1),
            ("frames", 1),
            ("max_in_flight", 1),
            ("tensor_parallel", 1),
            ("max_model_len", 0),
        ):
            if getattr(self, name) < low:
                raise RequestError(f"--{name.replace('_', '-')} is {getattr(self, name)}; it must be {low} or more")
        if not 0 < self.top_p <= 1:
            raise RequestError(f"--top-p is {self.top_p}; it must be above 0 and at most 1")
        if not 0 < self.gpu_memory <= 1:
            raise RequestError(f"--gpu-memory is {self.gpu_memory}; it is a share, above 0 and at most 1")
        if not 0 <= self.temperature <= 5:
            raise RequestError(f"--temperature is {self.temperature}; it must be between 0 and 5")
        if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", self.device):
            raise RequestError(f"--device {self.device!r} is unknown; write auto, cpu, cuda or cuda:N")
        if self.dtype not in DTYPES:
            raise RequestError(f"--dtype {self.dtype!r} is unknown; known are {', '.join(DTYPES)}")
        for name in ("request_timeout_s", "patience_s", "segment_s"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise RequestError(f"--{name.replace('_', '-')} is {getattr(self, name)}; give seconds")
        if self.whole_clips and not self.segment_s:
            raise RequestError("--whole-clips is for clips in segments: give --segment-s, or leave it out")
        if not self.media:
            raise RequestError("--media names nothing; give image, audio, video, or several")
        if self.beams > 1 and self.temperature > 0:
            raise RequestError("--beams and --temperature exclude each other; leave one at its default")
        if self.prompt and self.prompts:
            raise RequestError("--prompt and --prompts exclude each other; give the prompt a name among --prompts")
        if self.num_captions > 1 and not self.temperature:
            raise RequestError(f"--num-captions {self.num_captions} needs --temperature above 0; without it all would be the same")
        if self.batch_invariant and self.batch_size > 1:
            raise RequestError(f"--batch-invariant asks for one medium at a time, --batch-size for {self.batch_size}; leave one out")
        for name, text in self.named_prompts().items():
            if not re.fullmatch(r"[\w.-]{1,64}", name):
                raise RequestError(f"--prompts.{name}: a prompt's name has letters, digits, -, . and _, at most 64")
            parse(name, text)

    def named_prompts(self) -> dict[str, str]:
        """Templates by name; empty without a prompt."""
        return dict(self.prompts) if self.prompts else ({DEFAULT: self.prompt} if self.prompt else {})

    def micro(self, default: int) -> int:
        """Media in one call of the model, where `default` is what suits it."""
        return 1 if self.batch_invariant else self.batch_size or default


@dataclass(frozen=True, slots=True)
class Segment:
    """A stretch of a transcript."""

    start_s: float
    """Seconds from the start of the recording."""
    end_s: float
    text: str


@dataclass(frozen=True, slots=True)
class Caption:
    """What an engine says of one medium."""

    text: str
    status: str = schema.SUCCESS
    """success, or truncated at the token limit, or error."""
    finish_reason: str | None = None
    """stop or length."""
    n_prompt_tokens: int | None = None
    n_output_tokens: int | None = None
    mean_logprob: float | None = None
    """Natural log, mean over output tokens."""
    language: str | None = None
    segments: tuple[Segment, ...] = ()
    flags: tuple[str, ...] = ()
    seed: int | None = None
    transcript: bool = False
    """What somebody said, word by word."""


class Engine(Protocol):
    """What every engine offers once it is constructed with an `EngineConfig`. `close()` is optional."""

    def collate(self, media: Sequence[Medium]) -> Any:
        """Host work: media -> whatever the call takes. Changes no state; may run while the engine is called."""

    def __call__(self, batch: Any) -> "list[Caption | SampleError]":
        """Device work: one caption a medium, in order, or why there is none. Never called twice at a time."""


@dataclass(frozen=True, slots=True)
class EngineInfo:
    """What the driver knows of an engine before any weights are loaded."""

    name: str
    needs: Needs
    rows_per_call: int
    """Rows of one Ray batch."""
    micro_batch: int
    """Media in one call of the engine, unless asked otherwise."""
    identity: dict[str, Any]
    """Identity of the weights."""
    prompts: "Prompts" = "free"
    samples: bool = False
    """It takes a temperature and a seed with every medium."""
    devices: int = 1
    """GPUs of one engine process, where there are any."""


@dataclass(frozen=True, slots=True)
class LoadedEngine:
    """A constructed engine with everything optional filled in."""

    collate: Callable[[Sequence[Medium]], Any]
    run: Callable[[Any], list[Caption | SampleError]]
    close: Callable[[], None]
    use: Callable[[], float] | None = None
    """Share of a server's slots, or of the time, in use: of an engine whose calls may overlap; None for all others."""
    remote: bool = False
    """The model is elsewhere: closing the engine frees nothing here."""


def engine_class(name: str) -> type[Any]:
    """The class by engine name or `module:Class`. RequestError names the nearest known one."""
    path = ENGINES.get(name, name)
    if ":" not in path:
        near = difflib.get_close_matches(name, ENGINES, 1, 0.3)
        hint = f"did you mean {near[0]}? " if near else ""
        raise RequestError(f"unknown engine {name!r}; {hint}known are {', '.join(ENGINES)}, or your own class as module:Class")
    module, _, attribute = path.partition(":")
    try:
        if name not in ENGINES and os.getcwd() not in sys.path:
            sys.path.insert(0, os.getcwd())
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as exc:
        raise RequestError(f"engine {name!r} cannot be imported: {exc}") from exc
    if not isinstance(found, type) or not callable(found) or not (hasattr(found, "accepts") or hasattr(found, "needs")):
        raise RequestError(f"engine {name!r} is no engine class: it needs `accepts`, `__init__(config)` and `__call__(media)`")
    return found


def describe(config: EngineConfig) -> EngineInfo:
    """Checks a configuration and tells what the engine needs, without loading weights. RequestError names what is wrong."""
    found = engine_class(config.engine)
    _check_only_vllm(config)
    if hasattr(found, "check"):
        found.check(config)
    needs = found.needs(config) if hasattr(found, "needs") else Needs(accepts=_accepted(config.engine, found.accepts))
    identity = found.identity(config) if hasattr(found, "identity") else {"class": config.engine, "model": config.model}
    if not getattr(found, "asks_apart", True) and (
        config.num_captions > 1 or len(questions_of(config)) > 1 or any(one.columns for one in questions_of(config))
    ):
        raise RequestError(f"engine {config.engine} takes one prompt for all samples, without columns, and makes one caption of each")
    prompts: Prompts = found.prompts(config) if hasattr(found, "prompts") else "free"
    if prompts == "none" and config.named_prompts():
        raise RequestError(f"--prompt: engine {config.engine} {f'with {config.model} ' if config.model else ''}takes none; leave it out")
    rows, micro = (_number(getattr(found, name, default), config) for name, default in (("rows_per_call", 256), ("micro_batch", 16)))
    samples = bool(_number(getattr(found, "samples", False), config))
    return EngineInfo(config.engine, needs, rows, micro, identity, prompts, samples, _number(getattr(found, "devices", 1), config))


def _check_only_vllm(config: EngineConfig) -> None:
    """RequestError for an option that this engine would ignore; a class of the user may read any."""
    defaults = EngineConfig(engine=config.engine)
    for name in ("tensor_parallel", "max_model_len", "gpu_memory") if config.engine in ENGINES and config.engine != "vllm" else ():
        if getattr(config, name) != getattr(defaults, name):
            raise RequestError(f"--{name.replace('_', '-')} is for engine vllm; engine {config.engine} has no use for it: leave it out")


def questions_of(config: EngineConfig) -> list[Template]:
    """The prompts, or the one that asks nothing."""
    return [parse(name, text) for name, text in config.named_prompts().items()] or [parse(None, "")]


def _number(value: Any, config: EngineConfig) -> int:
    """A class's number, or what it makes of the options."""
    return int(value(config) if callable(value) else value)


def questions(config: EngineConfig, info: EngineInfo) -> Questions:
    """What is asked of every sample."""
    return Questions(tuple(questions_of(config)), config.num_captions, info.prompts == "instruction", config.temperature, config.seed)


def ask_of(medium: Medium, config: EngineConfig) -> Ask:
    """What is asked of a medium; where it does not say, what the options say, with a seed from its content."""
    if medium.ask is not None:
        return medium.ask
    payload = b"".join(part.tobytes() for part in (medium.pixels_hwc, medium.wave_t) if part is not None)
    return Ask(prompt=config.prompt, seed=sample_seed(config.seed, payload) if config.temperature else 0, temperature=config.temperature)


def _accepted(name: str, accepts: Any) -> tuple[str, ...]:
    """Modalities of a user's class; one alone may be a plain string."""
    found = (accepts,) if isinstance(accepts, str) else tuple(accepts)
    wrong = [modality for modality in found if modality not in MODALITIES]
    if wrong or not found:
        raise RequestError(f"engine {name!r} has accepts = {accepts!r}; name one or more of {', '.join(MODALITIES)}")
    return found


def recipe(config: EngineConfig, info: EngineInfo) -> dict[str, Any]:
    """What decides the captions: engine, weights, decoding, preprocessing. Not device, batch size or threads."""
    sampling = {"top_p": config.top_p, "top_k": config.top_k, "seed": config.seed} if config.temperature else {}
    if config.max_model_len:
        sampling["max_model_len"] = config.max_model_len
    return {
        "engine": config.engine,
        "weights": info.identity,
        "language": config.language,
        "prompts": config.named_prompts(),
        "num_captions": config.num_captions,
        "max_tokens": config.max_tokens,
        "beams": config.beams,
        "temperature": config.temperature,
        "dtype": config.dtype,
        "batch_invariant": config.batch_invariant,
        **sampling,
        "preprocessing": {
            name: value for name, value in asdict(info.needs).items() if name != "whole" or value
        },  # recipes older than it hold
    }


def threads_of(config: EngineConfig) -> int:
    """CPU threads of a model: as asked for, or one a core of this process. Ray's OMP_NUM_THREADS=1 is meant for many small tasks."""
    if config.threads:
        return config.threads
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def create(config: EngineConfig) -> LoadedEngine:
    """Loads the engine here. For workers, never for the driver."""
    engine = engine_class(config.engine)(config)

    def run(batch: Any) -> list[Caption | SampleError]:
        return [caption if isinstance(caption, Caption | SampleError) else Caption(str(caption)) for caption in engine(batch)]

    use = engine.use if getattr(engine, "concurrent", False) else None
    close, remote = getattr(engine, "close", lambda: None), bool(getattr(engine, "remote", False))
    return LoadedEngine(getattr(engine, "collate", list), run, close, use, remote)
