"""Models that vLLM serves, inside the worker: chat models that see, and those that hear.

One thread owns vLLM: it hands in what calls have brought, steps, and gives answers back as they come, so that the captions of one
block fill the places that those of another leave. Every caption has a request, a seed and a failure of its own.
vLLM's core is a child process; if it dies, this one ends too: Ray starts it anew, and the block is tried sample by sample.
"""

import importlib.util
import os
import queue
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any, NamedTuple

import psutil
from PIL import Image

from pipeline import schema
from pipeline.captions.chat import check_template, presentable
from pipeline.captions.engine import Caption, EngineConfig, ask_of, threads_of
from pipeline.captions.loading import CHAT_TOKENS, side_px
from pipeline.captions.messages import INSTRUCTIONS, needs_of, openai_part, parts_of
from pipeline.captions.weights import identity, locate, nearest, read_json
from pipeline.errors import Reason, RequestError, SampleError, StoppedError
from pipeline.samples.medium import Ask, Medium, Needs

SHORT_SIDE_PX = 768
AT_A_TIME = 256
"""Captions in the making, where --batch-size does not say; vLLM takes fewer where its memory ends."""
ROWS = 128
"""Rows of a block; two blocks are at work at a time."""
TAKEN_AT_ONCE = 8
"""Requests handed in between two steps: making one of a picture takes 10 ms and more, and answers wait meanwhile."""
CACHE_GIB = 1
"""Of prepared pictures: for the several captions of one sample, which come one after the other."""
LOST = 70
"""Exit code of a worker whose vLLM died."""
LOOK_S = 2.0
"""So often a waiting call looks whether vLLM's processes live: its client waits for a killed one without end (0.32)."""


class Request(NamedTuple):
    """One caption, as vLLM is asked for it."""

    messages: list[dict[str, Any]]
    ask: Ask


class Vllm:
    """A model in vLLM."""

    samples = True
    concurrent = True
    rows_per_call = ROWS
    micro_batch = ROWS

    def __init__(self, config: EngineConfig) -> None:
        os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
        os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
        import vllm

        self._config = config
        before = set(psutil.Process().children(recursive=True))
        self._llm: Any = _loaded(config, vllm)
        self._processes = set(psutil.Process().children(recursive=True)) - before
        self._sampling = vllm.SamplingParams
        self._limit = config.max_tokens or CHAT_TOKENS
        self._asked: queue.SimpleQueue[tuple[Request, Future[Any]] | None] = queue.SimpleQueue()
        self._clock = _Clock()
        self._thread = threading.Thread(target=self._pump, daemon=True, name="vllm")
        self._thread.start()

    @classmethod
    def check(cls, config: EngineConfig) -> None:
        """RequestError where vLLM is missing, does not know the model, or an option does not fit it."""
        if importlib.util.find_spec("vllm") is None:
            raise RequestError(
                "engine vllm needs the package vllm, here and on the workers, in an environment of its own: it pins torch and transformers; "
                "without it take --engine transformers, or --engine endpoint and a vLLM server"
            )
        _check_options(config)
        folder = locate(config.model)
        known, names = supported(), architectures(folder)
        if not any(name in known for name in names):
            near = nearest((names or [""])[0], sorted(known))
            raise RequestError(f"--model {config.model} is of class {', '.join(names) or 'unknown'}, which vLLM does not know{near}")
        check_template(config, folder)

    @classmethod
    def needs(cls, config: EngineConfig) -> Needs:
        """Pictures shrunk to what the model's processor makes of them; clips as frames with times; recordings at 16 kHz."""
        side = side_px(locate(config.model)) or SHORT_SIDE_PX
        return needs_of(config, min(side, SHORT_SIDE_PX))

    @classmethod
    def identity(cls, config: EngineConfig) -> dict[str, Any]:
        """Of the model's files, and what is asked where no prompt is given."""
        return {**identity(locate(config.model)), "instructions": INSTRUCTIONS}

    @classmethod
    def prompts(cls, config: EngineConfig) -> str:
        """What a user would say."""
        return "instruction"

    @staticmethod
    def devices(config: EngineConfig) -> int:
        """GPUs of one worker."""
        return config.tensor_parallel

    def collate(self, media: Sequence[Medium]) -> list[Request]:
        """Media -> messages; vLLM's own preparation happens in its thread."""
        return [request_of(medium, ask_of(medium, self._config)) for medium in media]

    def __call__(self, batch: list[Request]) -> list[Caption | SampleError]:
        """One caption a medium, or why there is none. May be called from several threads at a time."""
        waiting: list[Future[Any]] = [Future() for _ in batch]
        for request, future in zip(batch, waiting, strict=True):
            self._asked.put((request, future))
        return [self._answer(future) for future in waiting]

    def _answer(self, future: "Future[Any]") -> Caption | SampleError:
        while True:
            try:
                found: Caption | SampleError = future.result(LOOK_S)
                return found
            except TimeoutError:
                if future.done():
                    raise
                if not all(process.is_running() and process.status() != psutil.STATUS_ZOMBIE for process in self._processes):
                    _end()

    def use(self) -> float:
        """Share of the time since the first call with captions in the making."""
        return self._clock.use()

    def close(self) -> None:
        """Ends vLLM's processes; without it they and their memory stay until this process ends."""
        if self._llm is None:
            return
        self._asked.put(None)
        self._thread.join()
        self._llm.llm_engine.engine_core.shutdown()
        self._llm = None

    def params_of(self, ask: Ask) -> Any:
        """How one caption is drawn. vLLM's draws of a request with a seed are that request's own."""
        drawn = {"seed": ask.seed, "top_p": self._config.top_p, "top_k": self._config.top_k} if ask.temperature else {}
        return self._sampling(temperature=ask.temperature, max_tokens=self._limit, logprobs=0, **drawn)

    def _pump(self) -> None:
        open_futures: dict[str, tuple[Request, Future[Any]]] = {}
        try:
            while self._take(open_futures):
                if open_futures:
                    self._step(open_futures)
        except BaseException as exc:
            if type(exc).__name__ == "EngineDeadError":
                _end()
            for _, future in open_futures.values():
                future.set_exception(exc)
            while True:  # whoever asks from here on is told the same
                asked = self._asked.get()
                if asked is None:
                    return
                asked[1].set_exception(exc)

    def _take(self, found: dict[str, tuple[Request, Future[Any]]]) -> bool:
        """Hands in what was asked for; waits where there is nothing to do. False at the end."""
        for _ in range(TAKEN_AT_ONCE):
            try:
                asked = self._asked.get(block=not found)
            except queue.Empty:
                return True
            if asked is None:
                return False
            request, future = asked
            self._clock.works()
            try:
                (number,) = self._llm.enqueue_chat([request.messages], [self.params_of(request.ask)], use_tqdm=False)
            except Exception as exc:
                if not _is_its_own(exc):
                    future.set_exception(exc)
                    raise
                future.set_result(SampleError(Reason.ENGINE_FAILED, f"vLLM refuses it: {' '.join(str(exc).split())[:400]}"))
                self._clock.rests() if not found else None
            else:
                found[number.partition("-")[0]] = asked  # vLLM's own suffix keeps numbers of several clients apart
        return True

    def _step(self, found: dict[str, tuple[Request, Future[Any]]]) -> None:
        for output in self._llm.llm_engine.step():
            if output.finished:
                request, future = found.pop(output.request_id)
                future.set_result(caption_of(output, request.ask, self._config.language))
        if not found:
            self._clock.rests()


def request_of(medium: Medium, ask: Ask) -> Request:
    """A medium as one message: pictures as they are, recordings encoded, as vLLM's chat takes them."""
    content: list[dict[str, Any]] = []
    for kind, value in parts_of(medium, ask.prompt):
        if kind == "image":
            content.append({"type": "image_pil", "image_pil": Image.fromarray(presentable(value))})
        else:
            content.append(openai_part(kind, value))
    return Request([{"role": "user", "content": content}], ask)


def caption_of(output: Any, ask: Ask, language: str) -> Caption | SampleError:
    """What vLLM made of one request."""
    said = output.outputs[0]
    if said.finish_reason not in ("stop", "length"):
        return SampleError(Reason.ENGINE_FAILED, f"vLLM ended it with {said.finish_reason!r}")
    cut, count = said.finish_reason == "length", len(said.token_ids)
    return Caption(
        " ".join(said.text.split()),
        status=schema.TRUNCATED if cut else schema.SUCCESS,
        finish_reason=said.finish_reason,
        n_prompt_tokens=len(output.prompt_token_ids or ()) or None,
        n_output_tokens=count,
        mean_logprob=min(0.0, said.cumulative_logprob / count) if count and said.cumulative_logprob is not None else None,
        language=language or None,
        seed=ask.seed if ask.temperature else None,
    )


def options_of(config: EngineConfig, folder: Path, *, on_cpu: bool) -> dict[str, Any]:
    """What `vllm.LLM` is constructed with."""
    several = config.num_captions * max(1, len(config.prompts)) > 1
    frames = config.frames if "video" in config.media else 1
    given = {
        "model": str(folder),
        "dtype": "float32" if on_cpu and config.dtype == "auto" else config.dtype,
        "load_format": "auto" if config.allow_pickle else "safetensors",
        "tensor_parallel_size": config.tensor_parallel,
        "gpu_memory_utilization": config.gpu_memory,
        "max_num_seqs": config.micro(AT_A_TIME),
        "limit_mm_per_prompt": {"image": frames if {"image", "video"} & set(config.media) else 0, "audio": int("audio" in config.media)},
        "mm_processor_cache_gb": CACHE_GIB if several else 0,
        "seed": 0,  # of what has no seed of its own: nothing here
    }
    if config.max_model_len:
        given["max_model_len"] = config.max_model_len
    if config.tensor_parallel > 1:
        given["distributed_executor_backend"] = "mp"  # in this worker, on the GPUs that Ray gave it: vLLM's Ray executor would ask for more
    if config.batch_invariant:
        given["enable_prefix_caching"] = False  # a hit computes a prompt in other pieces
    if on_cpu:
        given["enforce_eager"] = True  # compiling takes minutes and gains nothing there
    return given


def supported() -> frozenset[str]:
    """Classes of models that the installed vLLM knows."""
    from vllm import ModelRegistry

    return frozenset(ModelRegistry.get_supported_archs())


def architectures(folder: Path) -> list[str]:
    """As the model's config.json says."""
    found = read_json(folder / "config.json").get("architectures")
    return [str(name) for name in found] if isinstance(found, list) else []


class _Clock:
    """How much of the time there was work."""

    def __init__(self) -> None:
        self._began_s: float | None = None
        self._since_s: float | None = None
        self._worked_s = 0.0

    def works(self) -> None:
        now_s = time.monotonic()
        self._began_s = now_s if self._began_s is None else self._began_s
        self._since_s = now_s if self._since_s is None else self._since_s

    def rests(self) -> None:
        if self._since_s is not None:
            self._worked_s, self._since_s = self._worked_s + time.monotonic() - self._since_s, None

    def use(self) -> float:
        now_s, since_s = time.monotonic(), self._since_s
        if self._began_s is None or now_s <= self._began_s:
            return 0.0
        return min(1.0, (self._worked_s + (now_s - since_s if since_s is not None else 0.0)) / (now_s - self._began_s))


def _loaded(config: EngineConfig, vllm: Any) -> Any:
    from vllm.platforms import current_platform

    on_cpu = bool(current_platform.is_cpu())
    if on_cpu:
        os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
        os.environ["OMP_NUM_THREADS"] = str(threads_of(config))
    elif config.device == "cpu":
        raise StoppedError("--device cpu: the vLLM that is installed is for GPUs; take --engine transformers")
    folder = locate(config.model, download=True)
    try:
        llm = vllm.LLM(**options_of(config, folder, on_cpu=on_cpu))
    except Exception as exc:
        first = next((line for line in str(exc).splitlines() if line.strip()), "")
        raise StoppedError(f"vLLM cannot load --model {config.model}: {type(exc).__name__}: {first[:300]}") from exc
    if not llm.model_config.is_multimodal_model:
        raise StoppedError(f"--model {config.model} takes text alone, as vLLM knows it; take a model that sees or hears")
    return llm


def _check_options(config: EngineConfig) -> None:
    if config.beams > 1:
        raise RequestError(f"--beams {config.beams}: engine vllm draws or takes the most probable; leave it out")
    if config.dtype == "int8":
        raise RequestError("--dtype int8: engine vllm takes float32, bfloat16, float16 or auto; a quantised model says so itself")
    if config.device.startswith("cuda:"):
        raise RequestError(
            f"--device {config.device}: engine vllm takes the GPUs that Ray gives it; write cuda, or set CUDA_VISIBLE_DEVICES"
        )


def _end() -> None:
    """Ends this process, as what killed vLLM's would have, had it run in here."""
    os.write(2, b"vLLM's process died; this worker ends with it\n")
    os._exit(LOST)


def _is_its_own(exc: Exception) -> bool:
    """True for what vLLM says of a request, not of itself."""
    errors = sys.modules.get("vllm.exceptions")
    refusals = (ValueError, *([errors.VLLMClientError] if errors is not None and hasattr(errors, "VLLMClientError") else []))
    return isinstance(exc, refusals)
