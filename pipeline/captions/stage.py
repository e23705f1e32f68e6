"""The engine as a Ray stage: rows of `schema.SAMPLES` in, rows of `schema.PARTS` out, none dropped.

One actor, one engine. While a micro-batch is on the device, the next one of its block is collated on a thread, and the
first of the next block by a second call that runs beside: host work hides behind device work, across blocks as well.
An engine's exception is retried by halves down to one sample, so that it costs that sample alone.
"""

import contextlib
import json
import secrets
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from pipeline import schema, storage
from pipeline.attempts import Attempts, Unit
from pipeline.captions.account import Meter
from pipeline.captions.answers import Answer, Place, again, better, judged, parts_table
from pipeline.captions.engine import Caption, EngineConfig, create
from pipeline.captions.policy import QualityConfig
from pipeline.captions.prompts import Questions
from pipeline.errors import Reason, SampleError, StoppedError
from pipeline.samples.guard import Guard, Limits, Watchdog
from pipeline.samples.medium import Medium

HOPELESS = 4
"""A block of at least this many samples, each of which fails alone, stops the run: the engine is at fault."""
CALLS = 2
"""Calls of this stage that Ray runs beside each other; each has a thread that collates ahead."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StageConfig:
    """What an engine actor gets."""

    engine: EngineConfig
    questions: Questions
    """What is asked of every sample."""
    quality: QualityConfig = QualityConfig()
    micro_batch: int
    """Media in one call of the engine."""
    output: str
    run_id: str
    limits: Limits
    """Time and memory of one sample in the child process of a guarded block."""
    stall_s: float
    """Seconds of one engine call after which the process is taken for hung and ended."""
    by_length: bool = True
    """Micro-batches of similar length; without it in the order of arrival."""


class _Collated(NamedTuple):
    batch: Any
    seconds: float


class CaptionStage:
    """`map_batches` class: loads the engine once, captions tables."""

    def __init__(self, config: StageConfig) -> None:
        self._config = config
        self._engine = create(config.engine)
        self._inside = 1 if self._engine.use is None else CALLS
        self._device = threading.Semaphore(self._inside)
        self._guarding = threading.Lock()
        self._ahead = ThreadPoolExecutor(CALLS, "collate")
        self._collating = threading.Semaphore(CALLS)
        self._attempts = Attempts(storage.Folder(config.output), config.run_id, "engine")
        self._progress = _Progress(config.stall_s)
        self._meter = Meter(secrets.token_hex(4))

    def __call__(self, table: pa.Table) -> pa.Table:
        """schema.SAMPLES -> schema.PARTS, rows in the order they came, one a caption."""
        arrived_s = time.perf_counter()
        rows = table.drop_columns(["pixels_hwc", "wave_t"]).to_pylist()
        todo = [at for at, row in enumerate(rows) if row["kind"] == schema.KIND_SAMPLE and row["status"] == schema.OK]
        if not todo:
            return parts_table(rows, {}, None)
        units = _units([rows[at] for at in todo])
        guarded = self._attempts.died(units) or any(rows[at]["guard"] for at in todo)
        asked, answers = self._asked(rows, dict(zip(todo, media_of(table, todo), strict=True)))
        with self._attempts.marked(units):
            answers |= self._answers(asked, arrived_s, guarded)
        _check_hope([(place.row, answers[place]) for place in asked], guarded)
        return parts_table(rows, _by_row(answers), json.dumps(asdict(self._meter.read())))

    def _asked(self, rows: Sequence[dict[str, Any]], media: dict[int, Medium]) -> tuple[dict[Place, Medium], dict[Place, Answer]]:
        """Each caption that is wanted, by its place; and the rejects among them, which lack what their prompt is made of."""
        asked: dict[Place, Medium] = {}
        refused: dict[Place, Answer] = {}
        for at, medium in media.items():
            try:
                asked.update((Place(at, ask.number), replace(medium, ask=ask)) for ask in self._config.questions.asks(rows[at]))
            except SampleError as exc:
                refused[Place(at, 0)] = Answer(None, exc)
        return asked, refused

    def _answers(self, asked: dict[Place, Medium], arrived_s: float, guarded: bool) -> dict[Place, Answer]:
        """One answer a place; those with faults that are to be asked for again, are."""
        config, work = self._config.quality, self._guarded if guarded else self._batched
        answers = self._judged(asked, work(asked, arrived_s))
        for attempt in range(1, config.retries + 1):
            wrong = {place: again(asked[place], config, attempt) for place, answer in answers.items() if answer.verdict.again}
            if not wrong:
                break
            found = self._judged(wrong, work(wrong, arrived_s))
            answers |= {place: better(answers[place], answer) for place, answer in found.items()}
        return answers

    def _judged(self, asked: dict[Place, Medium], answers: dict[Place, Answer]) -> dict[Place, Answer]:
        bounds = self._config.quality.bounds(self._config.engine.language)
        return {place: judged(answer, asked[place], self._config.quality, bounds) for place, answer in answers.items()}

    def _batched(self, asked: dict[Place, Medium], arrived_s: float) -> dict[Place, Answer]:
        """Micro-batches of similar length: padding is the work of an encoder that nobody asked for."""
        order = sorted(asked, key=lambda place: (-_length(asked[place]), place)) if self._config.by_length else sorted(asked)
        size = self._config.micro_batch
        groups = [order[start : start + size] for start in range(0, len(order), size)]
        batches = [[asked[place] for place in group] for group in groups]
        answers: dict[Place, Answer] = {}
        if not batches:
            return answers
        ahead = self._ahead.submit(self._collate, batches[0])
        for number, (group, batch) in enumerate(zip(groups, batches, strict=True)):
            collated = ahead
            if number + 1 < len(batches):
                ahead = self._ahead.submit(self._collate, batches[number + 1])
            answers.update(zip(group, self._attempt(batch, arrived_s, collated), strict=True))
        return answers

    def _collate(self, media: Sequence[Medium]) -> _Collated:
        with self._collating:
            started = time.perf_counter()
            batch = self._engine.collate(media)
            return _Collated(batch, time.perf_counter() - started)

    def _attempt(self, media: Sequence[Medium], arrived_s: float, ahead: "Future[_Collated] | None" = None) -> list[Answer]:
        """One answer a medium; halves on any exception of the engine."""
        try:
            return self._run(media, self._collate(media) if ahead is None else ahead.result(), arrived_s)
        except (KeyboardInterrupt, SystemExit, ImportError, StoppedError):
            raise
        except Exception as exc:
            if len(media) == 1:
                return [Answer(None, _engine_error(exc))]
            del exc
        middle = len(media) // 2
        return self._attempt(media[:middle], arrived_s) + self._attempt(media[middle:], arrived_s)

    def _run(self, media: Sequence[Medium], collated: _Collated, arrived_s: float) -> list[Answer]:
        with self._device:
            entered = time.perf_counter()
            with (
                contextlib.nullcontext() if self._engine.remote else self._progress.watched()
            ):  # requests to a server time out by themselves
                captions = self._engine.run(collated.batch)
            left = time.perf_counter()
            tokens = sum(caption.n_output_tokens or 0 for caption in captions if isinstance(caption, Caption))
            self._meter.call(arrived_s, entered, len(media), tokens, None if self._engine.use is None else self._engine.use())
        if len(captions) != len(media):
            raise RuntimeError(f"the engine gave {len(captions)} captions for {len(media)} media")
        collate_s, engine_s = collated.seconds / len(media), (left - entered) / len(media)
        return [
            Answer(None, caption, collate_s, engine_s) if isinstance(caption, SampleError) else Answer(caption, None, collate_s, engine_s)
            for caption in captions
        ]

    def _guarded(self, asked: dict[Place, Medium], arrived_s: float) -> dict[Place, Answer]:
        """Sample by sample in a child process. The engine here is unloaded meanwhile, with nobody inside: both may not fit.

        One that talks to a server stays: others may be inside, and it holds no model.
        """
        answers: dict[Place, Answer] = {}
        with self._guarding, contextlib.ExitStack() as alone:
            if not self._engine.remote:
                for gate in [self._device] * self._inside + [self._collating] * CALLS:
                    alone.enter_context(gate)
                self._engine.close()
            guard = Guard("pipeline.captions.stage:runner_for_child", (self._config.engine,), self._config.limits)
            try:
                for place, medium in asked.items():
                    started = time.perf_counter()
                    try:
                        (caption,) = guard.run(medium)
                        found = Answer(None, caption) if isinstance(caption, SampleError) else Answer(caption)
                    except (SampleError, RuntimeError, MemoryError, ValueError, TypeError) as exc:
                        found = Answer(None, exc if isinstance(exc, SampleError) else _engine_error(exc))
                    answers[place] = replace(found, engine_s=time.perf_counter() - started)
            finally:
                guard.close()
                if not self._engine.remote:
                    self._engine = create(self._config.engine)
        return answers


def _check_hope(answers: Sequence[tuple[int, Answer]], guarded: bool) -> None:
    """StoppedError where each of several samples failed alone: the engine is at fault."""
    failures = [answer.error for _, answer in answers if answer.error is not None]
    if len(failures) == len(answers) and len({row for row, _ in answers}) >= HOPELESS and not guarded:
        raise StoppedError(f"the engine failed on each of {len(failures)} samples of a block alone; the last error: {failures[-1].detail}")


def _by_row(answers: dict[Place, Answer]) -> dict[int, list[Answer]]:
    found: dict[int, list[Answer]] = {}
    for place in sorted(answers):
        found.setdefault(place.row, []).append(answers[place])
    return found


def runner_for_child(config: EngineConfig) -> Any:
    """Loads the engine in a guarded child process; returns medium -> captions."""
    engine = create(config)
    return lambda medium: engine.run(engine.collate([medium]))


class _Progress:
    """Ends this process when engine calls take too long, so that Ray starts it anew and the block is guarded."""

    def __init__(self, stall_s: float) -> None:
        self._stall_s, self._inside, self._lock = stall_s, 0, threading.Lock()
        self._watchdog = Watchdog(stall_s)

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        """For one call. Where several run beside each other, the time is counted from the latest begin or end of one."""
        self._move(1)
        try:
            yield
        finally:
            self._move(-1)

    def _move(self, change: int) -> None:
        with self._lock:
            self._inside += change
            self._watchdog.rest()
            if self._inside:
                self._watchdog.watch()


def _engine_error(exc: Exception) -> SampleError:
    text = str(exc).strip().splitlines()
    detail = f"{type(exc).__name__}: {text[0] if text else ''}"[:500]
    if isinstance(exc, SampleError):
        return exc
    if isinstance(exc, MemoryError) or "out of memory" in detail.lower():
        return SampleError(Reason.ENGINE_OUT_OF_MEMORY, detail)
    if isinstance(exc, TimeoutError):
        return SampleError(Reason.ENGINE_TIMEOUT, detail)
    return SampleError(Reason.ENGINE_FAILED, detail)


def _length(medium: Medium) -> float:
    return medium.duration_s or 0.0


def media_of(table: pa.Table, at: Sequence[int]) -> list[Medium]:
    """Media of the given rows of a `schema.SAMPLES` table; arrays are views of the table's memory where it allows."""
    rows = table.take(list(at)) if len(at) != table.num_rows else table
    pixels, waves = rows.column("pixels_hwc"), rows.column("wave_t")
    media = []
    for number, row in enumerate(rows.drop_columns(["pixels_hwc", "wave_t"]).to_pylist()):
        picture = wave = None
        if row["pixels_height"] is not None:
            shape = (row["pixels_height"], row["pixels_width"], 3)
            picture = np.frombuffer(pixels[number].as_buffer(), np.uint8).reshape(shape)
        if row["sample_rate_hz"] is not None and waves[number].is_valid:
            wave = np.frombuffer(waves[number].as_buffer(), np.int16)
        media.append(
            Medium(
                modality=row["modality"],
                field=row["media_field"],
                size_bytes=row["media_bytes"],
                pixels_hwc=picture,
                wave_t=wave,
                sample_rate_hz=row["sample_rate_hz"],
                width=row["width"],
                height=row["height"],
                duration_s=row["duration_s"],
                start_s=row["start_s"],
                last=row["last"],
                times_s=None if row["frame_times_s"] is None else tuple(row["frame_times_s"]),
                text=row["text"],
            )
        )
    return media


def _units(rows: Sequence[dict[str, Any]]) -> list[Unit]:
    """The samples of a block as runs, in a stable order."""
    units: list[Unit] = []
    for shard, index in sorted({(row["shard"], row["index"]) for row in rows}):
        if units and units[-1].shard == shard and units[-1].hi == index - 1:
            units[-1] = units[-1]._replace(hi=index)
        else:
            units.append(Unit(shard, index, index))
    return units
