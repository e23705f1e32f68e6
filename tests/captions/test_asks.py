"""What is asked of a sample and what becomes of the answers, in the engine stage without Ray:

- every prompt makes its captions, each with its own values, number and seed; seeds depend on content, prompt and number alone;
- a sample that lacks what its prompt is made of is a reject, and the others are captioned;
- a caption with a fault is asked for again at another temperature and with another seed, as often as allowed, and counted;
- the attempt with the fewest faults is taken; a fault that stays is flagged; what is to be rejected is;
- one lost caption of several costs that caption, and a shard's account counts the sample by those that are there.
"""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from pipeline import schema
from pipeline.captions.engine import Caption, EngineConfig, describe, questions
from pipeline.captions.policy import QualityConfig
from pipeline.captions.stage import CaptionStage, StageConfig
from pipeline.commit.merge import captions_of
from pipeline.commit.stage import CommitConfig, commit_block
from pipeline.errors import Reason, RequestError, SampleError
from pipeline.samples.guard import Limits
from pipeline.samples.medium import Medium


class Echo:
    """Says what it was asked, badly at first where the reference asks for it: `bad N` is bad for N attempts."""

    accepts = ("image",)
    samples = True

    def __init__(self, config: EngineConfig) -> None:
        del config

    def __call__(self, media: list[Medium]) -> list[Caption | SampleError]:
        return [self._say(medium) for medium in media]

    def _say(self, medium: Medium) -> Caption | SampleError:
        ask, text = medium.ask, medium.text or ""
        assert ask is not None
        if text.startswith("bad") and ask.attempt < int(text.split()[1]):
            return Caption("so so so so so", seed=ask.seed)
        if text.startswith("lost") and ask.number == int(text.split()[1]):
            return SampleError(Reason.ENDPOINT_REFUSED, "too long")
        return Caption(f"asked {ask.prompt} at {ask.temperature}", seed=ask.seed if ask.temperature else None)


def stage(folder: Path, quality: QualityConfig = QualityConfig(), **more: Any) -> CaptionStage:
    engine = EngineConfig(engine=f"{__name__}:Echo", **more)
    asked = questions(engine, describe(engine))
    limits = Limits(60, 0)
    return CaptionStage(
        StageConfig(
            engine=engine, questions=asked, quality=quality, micro_batch=4, output=str(folder), run_id="run", limits=limits, stall_s=60
        )
    )


def table(*texts: str | None, columns: dict[int, dict[str, Any]] | None = None) -> pa.Table:
    common = {"kind": "sample", "shard": "a.tar", "fingerprint": "f", "piece": 0, "last": True, "flags": [], "status": "ok", "guard": False}
    picture = {"modality": "image", "media_field": "png", "media_bytes": 9, "pixels_hwc": bytes(12), "pixels_height": 2, "pixels_width": 2}
    rows = [
        {
            **common,
            **picture,
            "index": at,
            "text": text,
            "media_sha256": f"hash of {at}",
            "columns": json.dumps((columns or {}).get(at, {})),
        }
        for at, text in enumerate(texts)
    ]
    return pa.Table.from_pylist(rows, schema=schema.SAMPLES)


def test_every_prompt_makes_its_captions_with_the_samples_own_values(tmp_path: Path) -> None:
    made = stage(tmp_path, prompts={"short": "say {text}", "title": "of {json.title}"}, num_captions=2, temperature=1.0, seed=3)
    rows = made(table("x", "y", columns={0: {"title": "T"}, 1: {"title": 5}})).to_pylist()
    assert [(row["index"], row["caption_index"], row["prompt_id"], row["caption"]) for row in rows] == [
        (0, 0, "short", "asked say x at 1.0"),
        (0, 1, "short", "asked say x at 1.0"),
        (0, 2, "title", "asked of T at 1.0"),
        (0, 3, "title", "asked of T at 1.0"),
        (1, 0, "short", "asked say y at 1.0"),
        (1, 1, "short", "asked say y at 1.0"),
        (1, 2, "title", "asked of 5 at 1.0"),
        (1, 3, "title", "asked of 5 at 1.0"),
    ]
    seeds = [row["seed"] for row in rows]
    assert len(set(seeds)) == 8
    alone = stage(tmp_path, prompts={"title": "of {json.title}"}, num_captions=2, temperature=1.0, seed=3)
    again = alone(table("x", "other text", columns={0: {"title": "T"}, 1: {"title": 5}})).to_pylist()
    assert [row["seed"] for row in again] == [seeds[2], seeds[3], seeds[6], seeds[7]]


def test_a_sample_without_what_its_prompt_is_made_of_is_a_reject(tmp_path: Path) -> None:
    rows = stage(tmp_path, prompt="say {text}")(table("x", None, "z")).to_pylist()
    assert [row["caption"] for row in rows] == ["asked say x at 0.0", None, "asked say z at 0.0"]
    assert (rows[1]["status"], rows[1]["reason"]) == ("rejected", "no_column") and "no text" in rows[1]["detail"]


@pytest.mark.parametrize(
    ("prompt", "says"),
    [
        ("say {txet}", r"did you mean \{text\}"),
        ("say {text", "braces"),
        ("say {text!r}", "name a column only"),
        ("say {json.}", "no column"),
        ("say {}", "name a column only"),
    ],
)
def test_a_template_that_no_sample_can_fill_is_refused(prompt: str, says: str) -> None:
    with pytest.raises(RequestError, match=says):
        EngineConfig(engine="facts", prompt=prompt)


@pytest.mark.parametrize(
    "more", [{"num_captions": 2}, {"num_captions": 0}, {"prompt": "a", "prompts": {"b": "c"}}, {"prompts": {"a b": "c"}}]
)
def test_impossible_questions_are_refused(more: dict[str, Any]) -> None:
    with pytest.raises(RequestError, match="--"):
        EngineConfig(engine="facts", **more)


def test_a_caption_with_a_fault_is_asked_for_again_otherwise_and_counted(tmp_path: Path) -> None:
    rows = stage(tmp_path, QualityConfig(on_repeats="retry", retry_temperature=0.5))(table("fine", "bad 1", "bad 2", "bad 9")).to_pylist()
    assert [(row["caption"], row["n_retries"], row["flags"]) for row in rows] == [
        ("asked  at 0.0", 0, []),
        ("asked  at 0.5", 1, []),
        ("asked  at 0.5", 2, []),
        ("so so so so so", 2, ["repeats"]),
    ]
    assert rows[1]["seed"] != rows[2]["seed"]


def test_another_prompt_is_taken_for_the_other_attempts_if_one_is_given(tmp_path: Path) -> None:
    quality = QualityConfig(on_repeats="retry", retry_prompt="once more")
    (row,) = stage(tmp_path, quality, prompt="first")(table("bad 1")).to_pylist()
    assert (row["caption"], row["prompt_id"]) == ("asked once more at 0.7", "default")


def test_a_fault_that_is_to_be_rejected_quarantines_its_sample(tmp_path: Path) -> None:
    rows = stage(tmp_path, QualityConfig(on_repeats="reject"))(table("fine", "bad 1")).to_pylist()
    assert (rows[1]["status"], rows[1]["stage"], rows[1]["reason"]) == ("rejected", "quality", "flagged_repeats")
    assert rows[1]["caption"] is None and rows[1]["detail"] == "so so so so so" and rows[1]["flags"] == ["repeats"]


def test_one_lost_caption_of_several_costs_that_caption(tmp_path: Path) -> None:
    parts = stage(tmp_path, prompts={"a": "1 2 3", "b": "4 5 6"})(table("fine", "lost 0"))
    captions = captions_of(parts).to_pylist()
    assert [(row["index"], row["caption_index"], row["status"], row["reason"]) for row in captions] == [
        (0, 0, "success", None),
        (0, 1, "success", None),
        (1, 0, "rejected", "endpoint_refused"),
        (1, 1, "success", None),
    ]
    config = CommitConfig(output=str(tmp_path / "out"), root=str(tmp_path), captions_per_sample=2, metadata={})
    (receipt,) = commit_block(parts, config, None).to_pylist()
    assert json.loads(receipt["counts"]) == {"success": 2}
    assert json.loads(receipt["sums"])["captions"] == 3


def test_a_block_that_was_divided_between_captions_of_a_sample_stops_the_run(tmp_path: Path) -> None:
    parts = stage(tmp_path, prompts={"a": "1 2 3", "b": "4 5 6"})(table("fine", "fine"))
    config = CommitConfig(output=str(tmp_path / "out"), root=str(tmp_path), captions_per_sample=2, metadata={})
    with pytest.raises(RuntimeError, match="1 of 2 captions of sample 1"):
        commit_block(parts.slice(0, 3), config, None)


def test_receipts_carry_flags_retries_and_the_actors_account(tmp_path: Path) -> None:
    parts = stage(tmp_path, QualityConfig(on_repeats="retry"))(table("fine", "bad 9", "x", "y", "z"))
    config = CommitConfig(output=str(tmp_path / "out"), root=str(tmp_path), captions_per_sample=1, metadata={})
    (receipt,) = commit_block(parts, config, None).to_pylist()
    sums = json.loads(receipt["sums"])
    assert (sums["captions"], sums["retries"], sums["flag:repeats"]) == (5, 2, 1)
    (account,) = json.loads(receipt["actors"])
    assert account["calls"] == 4 and account["samples"] == 7 and 0 < account["busy_s"] <= account["span_s"]
