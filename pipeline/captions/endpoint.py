"""Any OpenAI-compatible server: vLLM, SGLang, TGI, llama.cpp, hosted ones. Many requests at a time, as many as it bears.

A server that is not there, refuses the key or does not know the model stops the run before any archive is read. One that goes
away later is waited for, up to --patience-s; then the run stops, and the same command continues. What fails for one sample alone
is that sample's: for good where the server refuses it, else after some attempts as passing, and the next run redoes it.
The key comes from the environment of the workers, and goes nowhere but to the server.
"""

import asyncio
import json
import os
import random
import sys
import threading
import time
from collections.abc import Sequence
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from pipeline import schema
from pipeline.captions.engine import Caption, EngineConfig, ask_of
from pipeline.captions.failures import Failed, Kind, caption_text, failure_of
from pipeline.captions.messages import INSTRUCTIONS, needs_of, openai_content
from pipeline.captions.slots import Slots
from pipeline.captions.weights import nearest
from pipeline.errors import Reason, RequestError, SampleError, StoppedError
from pipeline.samples.medium import Medium, Needs

ATTEMPTS = 5
"""At one sample, where the server fails at it; a busy or absent server is waited for instead."""
ENCODED_AHEAD = 8
SWITCH_S = 0.0005
"""Python's 5 ms would let a thread that encodes pictures hold up the one that sends the next request into a free slot."""
FIRST_WAIT_S, LONGEST_WAIT_S = 0.5, 30.0
CHECK_TIMEOUT_S = 15.0
SHORT_SIDE_PX = 768
"""What hosted models look at at most; larger pictures cost time on the way and no captions."""


JSON: Any = {"headers": {"content-type": "application/json"}}


class Request(NamedTuple):
    """One caption as the server is asked for it."""

    body: bytes
    """JSON; made on a thread, where the package would make it on the one that fills free slots, and copy every part on the way."""
    seed: int | None


class Endpoint:
    """A model behind a server."""

    samples = True
    concurrent = True
    """Calls may overlap: the requests of the next block fill the slots that those of this one leave."""
    remote = True

    def __init__(self, config: EngineConfig) -> None:
        from openai import AsyncOpenAI

        sys.setswitchinterval(SWITCH_S)
        self._config = config
        self._key = key_of(config)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True, name="endpoint")
        self._thread.start()
        self._client = AsyncOpenAI(base_url=config.endpoint, api_key=self._key or "none", max_retries=0, timeout=config.request_timeout_s)
        self._slots, self._ready = self._wait(_bounds(config.max_in_flight))
        self._failing_since_s: float | None = None
        self._noise = random.Random()

    @staticmethod
    def rows_per_call(config: EngineConfig) -> int:
        """Rows of a block: several times the slots, so that they stay full between blocks."""
        return max(64, 2 * config.max_in_flight)

    @staticmethod
    def micro_batch(config: EngineConfig) -> int:
        """The whole block: how many are asked for at a time is decided here, not by the stage."""
        return Endpoint.rows_per_call(config)

    @classmethod
    def prompts(cls, config: EngineConfig) -> str:
        """What a user would say."""
        return "instruction"

    @classmethod
    def needs(cls, config: EngineConfig) -> Needs:
        """The media that the model takes; clips as frames with times."""
        return needs_of(config, SHORT_SIDE_PX)

    @classmethod
    def identity(cls, config: EngineConfig) -> dict[str, Any]:
        """The name that the server knows: what stands behind it, the server alone knows."""
        return {"served": config.model, "instructions": INSTRUCTIONS}

    @classmethod
    def check(cls, config: EngineConfig) -> None:
        """RequestError where there is no server, it refuses the key, or does not know the model."""
        import openai

        _check_options(config)
        try:
            with openai.OpenAI(
                base_url=config.endpoint, api_key=key_of(config) or "none", max_retries=1, timeout=CHECK_TIMEOUT_S
            ) as client:
                known = [model.id for model in client.models.list()]
        except openai.NotFoundError:
            return  # a server without a list of models: the first request will tell
        except Exception as exc:
            failed = failure_of(exc, key_of(config))
            if failed.kind is Kind.KEY:
                raise RequestError(_key_message(config, failed)) from None
            if failed.kind in (Kind.ABSENT, Kind.SLOW):
                raise RequestError(
                    f"no server answers at --endpoint {config.endpoint} ({failed.detail}); start it, or correct the URL"
                ) from None
            raise RequestError(f"the server at --endpoint {config.endpoint} does not list its models: {failed.detail}") from None
        if known and config.model not in known:
            raise RequestError(f"the server at {config.endpoint} has no model {config.model!r}{nearest(config.model, known)}")

    def collate(self, media: Sequence[Medium]) -> list[Medium]:
        """Nothing: media are encoded when their turn comes, on threads."""
        return list(media)

    def __call__(self, batch: list[Medium]) -> list[Caption | SampleError]:
        """One caption a medium, or why there is none. May be called from several threads at a time."""
        if not batch:
            return []
        found: list[Caption | SampleError] = self._wait(self._all(batch))
        return found

    def use(self) -> float:
        """Share of the server's slots in use so far."""
        share: float = self._slots.use()
        return share

    def close(self) -> None:
        """Ends the connections and the thread; without it they stay until the process ends."""
        if self._loop.is_running():
            self._wait(self._client.close())
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(10)
            self._loop.close()

    def _wait(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    async def _all(self, batch: list[Medium]) -> list[Caption | SampleError]:
        tasks = [asyncio.ensure_future(self._one(medium)) for medium in batch]
        try:
            return list(await asyncio.gather(*tasks))
        finally:
            for task in tasks:
                task.cancel()

    async def _one(self, medium: Medium) -> Caption | SampleError:
        async with self._ready:
            return await self._ask(await asyncio.to_thread(self._request, medium))

    async def _ask(self, request: Request) -> Caption | SampleError:
        attempts, waited_s = 0, FIRST_WAIT_S
        while True:
            failed = None
            async with self._slots.slot() as sent_with:
                try:
                    answer = await self._client.post("/chat/completions", cast_to=str, content=request.body, options=JSON)
                    caption = self._caption(json.loads(answer), request)
                    self._failing_since_s = None
                    self._slots.answered()
                    return caption
                except Exception as exc:
                    failed = failure_of(exc, self._key)
                    if failed.kind is Kind.BUSY:
                        self._slots.refused(sent_with, failed.retry_after_s or waited_s)
            if failed.kind is Kind.REFUSED:
                self._failing_since_s = None
                return SampleError(Reason.ENDPOINT_REFUSED, failed.detail)
            self._stop_if_hopeless(failed)
            attempts += failed.kind in (Kind.BROKEN, Kind.SLOW)
            if attempts >= ATTEMPTS:
                return SampleError(Reason.ENGINE_TIMEOUT if failed.kind is Kind.SLOW else Reason.ENDPOINT, failed.detail)
            await asyncio.sleep(max(failed.retry_after_s or 0.0, waited_s * self._noise.uniform(0.5, 1.5)))
            waited_s = min(2 * waited_s, LONGEST_WAIT_S)

    def _stop_if_hopeless(self, failed: Failed) -> None:
        config = self._config
        if failed.kind is Kind.KEY:
            raise StoppedError(_key_message(config, failed))
        if failed.kind is Kind.MODEL:
            raise StoppedError(f"the server at {config.endpoint} does not know model {config.model!r}: {failed.detail}")
        if failed.kind not in (Kind.ABSENT, Kind.BUSY):
            return
        if self._failing_since_s is None:
            self._failing_since_s = time.monotonic()
        silent_s = time.monotonic() - self._failing_since_s
        if silent_s > config.patience_s:
            what = "is too busy" if failed.kind is Kind.BUSY else "does not answer"
            raise StoppedError(
                f"the server at {config.endpoint} {what} since {silent_s:,.0f} s, --patience-s is {config.patience_s:g} "
                f"({failed.detail}); run the same command again to continue"
            )

    def _request(self, medium: Medium) -> Request:
        config, ask = self._config, ask_of(medium, self._config)
        request: dict[str, Any] = {
            "model": config.model,
            "messages": [{"role": "user", "content": openai_content(medium, ask.prompt)}],
            "temperature": ask.temperature,
        }
        if config.max_tokens:
            request["max_tokens"] = config.max_tokens
        if ask.temperature:
            request |= {"seed": ask.seed, "top_p": config.top_p}
            if config.top_k:
                request["top_k"] = config.top_k
        return Request(json.dumps(request).encode(), request.get("seed"))

    def _caption(self, answer: Any, request: Request) -> Caption:
        text, finish = caption_text(answer)
        usage = answer.get("usage") if isinstance(answer.get("usage"), dict) else {}
        return Caption(
            text,
            status=schema.TRUNCATED if finish == "length" else schema.SUCCESS,
            finish_reason="length" if finish == "length" else "stop",
            n_prompt_tokens=_whole(usage.get("prompt_tokens")),
            n_output_tokens=_whole(usage.get("completion_tokens")),
            language=self._config.language or None,
            seed=request.seed,
        )


def _whole(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


async def _bounds(most: int) -> tuple[Slots, asyncio.Semaphore]:
    """Requests at the server, and encoded ones: some wait for a slot, so that none stands empty while a picture is encoded."""
    return Slots(most), asyncio.Semaphore(most + ENCODED_AHEAD)


def key_of(config: EngineConfig) -> str:
    """The key, from the environment; empty where there is none."""
    return os.environ.get(config.key_env, "")


def _check_options(config: EngineConfig) -> None:
    if not config.endpoint:
        raise RequestError("engine endpoint needs --endpoint: the server's URL, such as http://localhost:8000/v1")
    parts = urlsplit(config.endpoint)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise RequestError("--endpoint is no URL of a server; write for example http://localhost:8000/v1")
    if parts.username or parts.password or parts.query:
        raise RequestError(f"--endpoint holds a name, key or query, which would stand in records; put the key into ${config.key_env}")
    if not config.model:
        raise RequestError("engine endpoint needs --model: the name by which the server knows it")
    if config.batch_size or config.batch_invariant:
        raise RequestError(
            "--batch-size and --batch-invariant are the server's affair: leave them out; --max-in-flight bounds the requests"
        )
    if config.beams > 1:
        raise RequestError(f"--beams {config.beams}: engine endpoint has no beams; leave it out")


def _key_message(config: EngineConfig, failed: Failed) -> str:
    held = f"refuses the key in ${config.key_env}" if key_of(config) else f"wants a key, and ${config.key_env} is not set"
    return f"the server at {config.endpoint} {held} ({failed.detail})"
