"""What an engine answered, judged, and written as rows of `schema.PARTS`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import pyarrow as pa

from pipeline import schema
from pipeline.captions.engine import Caption, Segment
from pipeline.captions.policy import QualityConfig, Verdict, judge
from pipeline.captions.prompts import next_seed
from pipeline.captions.quality import Bounds, Said, flags_of
from pipeline.errors import SampleError
from pipeline.samples.medium import Ask, Medium


class Place(NamedTuple):
    """Where an answer belongs."""

    row: int
    """Of the block."""
    number: int
    """Of the sample's captions."""


@dataclass(frozen=True, slots=True)
class Answer:
    """One caption, or why there is none."""

    caption: Caption | None
    error: SampleError | None = None
    collate_s: float = 0.0
    engine_s: float = 0.0
    """Of all attempts."""
    ask: Ask = Ask()
    """The attempt that it came from."""
    verdict: Verdict = Verdict((), 0, None)
    n_retries: int = 0


def judged(answer: Answer, medium: Medium, config: QualityConfig, bounds: Bounds) -> Answer:
    """The answer with what is to become of it."""
    ask = medium.ask or Ask()
    if answer.caption is None:
        return replace(answer, ask=ask)
    if _is_segment(medium) and not answer.caption.segments:
        end_s = (medium.start_s or 0.0) + (medium.duration_s or 0.0)
        segment = Segment(round(medium.start_s or 0.0, 3), round(end_s, 3), answer.caption.text)
        answer = replace(answer, caption=replace(answer.caption, segments=(segment,)))
    assert answer.caption is not None
    said = Said(
        answer.caption.text,
        medium.modality,
        medium.duration_s,
        transcript=answer.caption.transcript,
        cut=answer.caption.status == schema.TRUNCATED or answer.caption.finish_reason == "length",
        instruction=ask.instruction,
        reference=medium.text or "",
    )
    return replace(answer, ask=ask, verdict=judge(flags_of(said, bounds), config))


def _is_segment(medium: Medium) -> bool:
    """True for a part of a longer clip."""
    return medium.modality == "video" and (not medium.last or (medium.start_s or 0.0) > 0)


def again(medium: Medium, config: QualityConfig, attempt: int) -> Medium:
    """The medium asked for otherwise: another seed always, and a temperature that lets it matter."""
    ask = medium.ask or Ask()
    return replace(
        medium,
        ask=replace(
            ask,
            prompt=config.retry_prompt or ask.prompt,
            instruction=config.retry_prompt if config.retry_prompt and ask.instruction else ask.instruction,
            temperature=max(ask.temperature, config.retry_temperature),
            seed=next_seed(ask, attempt),
            attempt=attempt,
        ),
    )


def better(first: Answer, second: Answer) -> Answer:
    """Of an answer and another attempt the one with fewer faults, the first of equals, with the time and attempts of both."""
    use = second if second.error is None and _faults(second) < _faults(first) else first
    return replace(
        use,
        collate_s=first.collate_s + second.collate_s,
        engine_s=first.engine_s + second.engine_s,
        n_retries=first.n_retries + 1,
    )


def _faults(answer: Answer) -> tuple[int, bool]:
    return answer.verdict.again, answer.verdict.reason is not None


def parts_table(rows: Sequence[dict[str, Any]], answers: Mapping[int, Sequence[Answer]], account: str | None) -> pa.Table:
    """One row a caption, in the order of the rows; rows without answers pass untouched."""
    found: list[dict[str, Any]] = []
    for at, row in enumerate(rows):
        if at not in answers:
            found.append({**row, "caption_index": 0})
        else:
            found.extend(_row(row, number, answer) for number, answer in enumerate(answers[at]))
    if found:
        found[0]["account"] = account
    columns = [pa.array([row.get(field.name) for row in found], field.type) for field in schema.PARTS]
    return pa.Table.from_arrays(columns, schema=schema.PARTS)


def _row(row: dict[str, Any], number: int, answer: Answer) -> dict[str, Any]:
    common = {
        **row,
        "prompt_id": answer.ask.prompt_id,
        "caption_index": number,
        "collate_s": answer.collate_s,
        "engine_s": answer.engine_s,
        "n_retries": answer.n_retries,
    }
    caption = answer.caption
    if caption is None:
        assert answer.error is not None
        return {**common, **_rejected("engine", answer.error.reason.value, answer.error.detail)}
    told = {
        "n_prompt_tokens": caption.n_prompt_tokens,
        "n_output_tokens": caption.n_output_tokens,
        "flags": [*row["flags"], *caption.flags, *answer.verdict.flags],
    }
    if answer.verdict.reason is not None:
        return {**common, **told, **_rejected("quality", answer.verdict.reason.value, caption.text[:300])}
    return {
        **common,
        **told,
        "status": caption.status,
        "caption": caption.text,
        "finish_reason": caption.finish_reason,
        "mean_logprob": caption.mean_logprob,
        "language": caption.language,
        "seed": caption.seed,
        "segments": [{"start_s": s.start_s, "end_s": s.end_s, "text": s.text} for s in caption.segments] if caption.segments else None,
    }


def _rejected(stage: str, reason: str, detail: str) -> dict[str, Any]:
    return {"status": schema.REJECTED, "stage": stage, "reason": reason, "detail": detail}
