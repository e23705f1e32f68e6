"""The engine as a Ray stage: rows of `schema.SAMPLES` in, rows of `schema.PARTS` out, none dropped.

One actor, one engine. While a micro-batch is on the device, the next one of its block is collated on a thread, and the
first of the next block by a second call that runs beside: host work hides behind device work, across blocks as well.
An engine's exception is retried by halves down to one sample, so that it costs that sample alone.
"""

import contextlib
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from pipeline import schema, storage
from pipeline.attempts import Attempts, Unit
from pipeline.captions.engine import Caption, EngineConfig, create
from pipeline.errors import Reason, SampleError, StoppedError
from pipeline.samples.guard import Guard, Limits
from pipeline.samples.medium import Medium

HOPELESS = 4
"""A block of at least this many samples, each of which fails alone, stops the run: the engine is at fault."""
COLLATORS = 2
"""Threads that collate ahead: one a call that runs beside another."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StageConfig:
    """What an engine actor gets."""

    engine: EngineConfig
    micro_batch: int
    """Media in one call of the engine."""
    output: str
    run_id: str
    limits: Limits
    """Time and memory of one sample in the child process of a guarded block."""
    stall_s: float
    """Seconds of one engine call after which the process is taken for hung and ended."""


class _Collated(NamedTuple):
    batch: Any
    seconds: float


@dataclass(slots=True)
class _Result:
    captions: list[Caption]
    error: SampleError | None = None
    collate_s: float = 0.0
    engine_s: float = 0.0


class CaptionStage:
    """`map_batches` class: loads the engine once, captions tables."""

    def __init__(self, config: StageConfig) -> None:
        self._config = config
        self._engine = create(config.engine)
        self._device = threading.Lock()
        self._ahead = ThreadPoolExecutor(COLLATORS, "collate")
        self._collating = threading.Semaphore(COLLATORS)
        self._attempts = Attempts(storage.Folder(config.output), config.run_id, "engine")
        self._progress = _Progress(config.stall_s)

    def __call__(self, table: pa.Table) -> pa.Table:
        """schema.SAMPLES -> schema.PARTS, rows in the order they came, one a caption."""
        rows = table.drop_columns(["pixels_hwc", "wave_t"]).to_pylist()
        todo = [at for at, row in enumerate(rows) if row["kind"] == schema.KIND_SAMPLE and row["status"] == schema.OK]
        results: dict[int, _Result] = {}
        if todo:
            units = _units([rows[at] for at in todo])
            guarded = self._attempts.died(units) or any(rows[at]["guard"] for at in todo)
            media = dict(zip(todo, media_of(table, todo), strict=True))
            with self._attempts.marked(units):
                results = self._guarded(media) if guarded else self._batched(media)
            failures = [result.error for result in results.values() if result.error is not None]
            if len(failures) == len(results) >= HOPELESS and not guarded:
                raise StoppedError(
                    f"the engine failed on each of {len(failures)} samples of a block alone; the last error: {failures[-1].detail}"
                )
        return _parts(rows, results)

    def _batched(self, media: dict[int, Medium]) -> dict[int, _Result]:
        """Micro-batches of similar length: padding is the work of an encoder that nobody asked for."""
        order = sorted(media, key=lambda at: (-_length(media[at]), at))
        size = self._config.micro_batch
        groups = [order[start : start + size] for start in range(0, len(order), size)]
        batches = [[media[at] for at in group] for group in groups]
        results: dict[int, _Result] = {}
        ahead = self._ahead.submit(self._collate, batches[0])
        for number, (group, batch) in enumerate(zip(groups, batches, strict=True)):
            collated = ahead
            if number + 1 < len(batches):
                ahead = self._ahead.submit(self._collate, batches[number + 1])
            results.update(zip(group, self._attempt(batch, collated), strict=True))
        return results

    def _collate(self, media: Sequence[Medium]) -> _Collated:
        with self._collating:
            started = time.perf_counter()
            batch = self._engine.collate(media)
            return _Collated(batch, time.perf_counter() - started)

    def _attempt(self, media: Sequence[Medium], ahead: "Future[_Collated] | None" = None) -> list[_Result]:
        """One result a medium; halves on any exception of the engine."""
        try:
            return self._run(media, self._collate(media) if ahead is None else ahead.result())
        except (KeyboardInterrupt, SystemExit, ImportError, StoppedError):
            raise
        except Exception as exc:
            if len(media) == 1:
                return [_Result([], _engine_error(exc))]
            del exc
        middle = len(media) // 2
        return self._attempt(media[:middle]) + self._attempt(media[middle:])

    def _run(self, media: Sequence[Medium], collated: _Collated) -> list[_Result]:
        with self._device:
            entered = time.perf_counter()
            with self._progress.watched():
                captions = self._engine.run(collated.batch)
            left = time.perf_counter()
        if len(captions) != len(media):
            raise RuntimeError(f"the engine gave {len(captions)} captions for {len(media)} media")
        share = len(media)
        return [_Result([caption], None, collated.seconds / share, (left - entered) / share) for caption in captions]

    def _guarded(self, media: dict[int, Medium]) -> dict[int, _Result]:
        """Sample by sample in a child process. The engine here is unloaded meanwhile, with nobody inside: both may not fit."""
        results: dict[int, _Result] = {}
        with self._device, contextlib.ExitStack() as alone:
            for _ in range(COLLATORS):
                alone.enter_context(self._collating)
            self._engine.close()
            guard = Guard("pipeline.captions.stage:runner_for_child", (self._config.engine,), self._config.limits)
            try:
                for at, medium in media.items():
                    started = time.perf_counter()
                    try:
                        found = _Result(list(guard.run(medium)))
                    except (SampleError, RuntimeError, MemoryError, ValueError, TypeError) as exc:
                        found = _Result([], exc if isinstance(exc, SampleError) else _engine_error(exc))
                    results[at] = replace_time(found, time.perf_counter() - started)
            finally:
                guard.close()
                self._engine = create(self._config.engine)
        return results


def replace_time(result: _Result, seconds: float) -> _Result:
    """The result with its time on the device."""
    return replace(result, engine_s=seconds)


def runner_for_child(config: EngineConfig) -> Any:
    """Loads the engine in a guarded child process; returns medium -> captions."""
    engine = create(config)
    return lambda medium: engine.run(engine.collate([medium]))


class _Progress:
    """Ends this process when one engine call takes too long, so that Ray starts it anew and the block is guarded."""

    def __init__(self, stall_s: float) -> None:
        self._stall_s = stall_s

    def watched(self) -> Any:
        from pipeline.samples.guard import watchdog

        return watchdog(self._stall_s)


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


def _parts(rows: list[dict[str, Any]], results: dict[int, _Result]) -> pa.Table:
    found: list[dict[str, Any]] = []
    for at, row in enumerate(rows):
        result = results.get(at)
        if result is None:
            found.append({**row, "caption_index": 0})
        elif result.error is not None:
            error = {"status": schema.REJECTED, "stage": "engine", "reason": result.error.reason.value, "detail": result.error.detail}
            found.append({**row, **error, "caption_index": 0, "collate_s": result.collate_s, "engine_s": result.engine_s})
        else:
            found.extend(_captioned(row, result))
    columns = [pa.array([row.get(field.name) for row in found], field.type) for field in schema.PARTS]
    return pa.Table.from_arrays(columns, schema=schema.PARTS)


def _captioned(row: dict[str, Any], result: _Result) -> list[dict[str, Any]]:
    return [
        {
            **row,
            "status": caption.status,
            "flags": [*row["flags"], *caption.flags],
            "caption_index": number,
            "caption": caption.text,
            "finish_reason": caption.finish_reason,
            "n_prompt_tokens": caption.n_prompt_tokens,
            "n_output_tokens": caption.n_output_tokens,
            "mean_logprob": caption.mean_logprob,
            "language": caption.language,
            "seed": caption.seed,
            "segments": [{"start_s": s.start_s, "end_s": s.end_s, "text": s.text} for s in caption.segments] if caption.segments else None,
            "collate_s": result.collate_s,
            "engine_s": result.engine_s,
        }
        for number, caption in enumerate(result.captions)
    ]
