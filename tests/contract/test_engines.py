"""What every engine promises, whatever is behind it:

- one caption a medium, in order; none for none;
- the same caption whatever stands beside a medium, and however often it is asked;
- extreme media are captioned or refused with an exception, never the process;
- `collate` changes nothing and may run beside the call; `close` may be called once the work is done;
- the driver's `describe` loads no weights.
"""

import threading
from typing import Any

import pytest

from pipeline import schema
from pipeline.captions.engine import Caption, LoadedEngine, create, describe
from tests.contract.engines import ENGINES, SPEECH, ask, config_of, media_for

pytestmark = pytest.mark.filterwarnings("ignore:Support for mismatched key_padding_mask:UserWarning")
"""Which transformers' WavLM (5.23) gives torch."""


@pytest.fixture(params=ENGINES, scope="module")
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def engine(kind: str, models: dict[str, str]) -> LoadedEngine:
    return create(config_of(kind, models))


@pytest.fixture(scope="module")
def said(engine: LoadedEngine, kind: str) -> list[Caption]:
    """What the engine says of `media_for(kind)`, asked together."""
    return ask(engine, media_for(kind))


def test_there_is_one_caption_a_medium(said: list[Caption]) -> None:
    captions = said
    assert len(captions) == 4
    assert all(isinstance(caption, Caption) and caption.status in (schema.SUCCESS, schema.TRUNCATED) for caption in captions)
    assert all(caption.mean_logprob is None or caption.mean_logprob <= 0 for caption in captions)


def test_nothing_in_nothing_out(engine: LoadedEngine) -> None:
    assert ask(engine, []) == []


def test_a_caption_does_not_depend_on_what_stands_beside_it(engine: LoadedEngine, kind: str, said: list[Caption]) -> None:
    media = media_for(kind)
    alone = [ask(engine, [medium])[0].text for medium in media]
    assert [caption.text for caption in said] == alone
    assert [caption.text for caption in ask(engine, media[::-1])] == alone[::-1]


def test_a_caption_does_not_depend_on_the_batch_size(kind: str, models: dict[str, str], said: list[Caption]) -> None:
    engine = create(config_of(kind, models, batch_size=2))
    captions = ask(engine, media_for(kind))
    assert [(one.text, one.n_output_tokens) for one in captions] == [(one.text, one.n_output_tokens) for one in said]
    assert [one.mean_logprob for one in captions] == pytest.approx([one.mean_logprob for one in said], abs=1e-4)
    engine.close()


def test_asked_again_it_says_the_same(engine: LoadedEngine, kind: str, said: list[Caption]) -> None:
    assert ask(engine, media_for(kind)) == said


def test_collate_runs_beside_the_call(engine: LoadedEngine, kind: str, said: list[Caption]) -> None:
    media, expected = media_for(kind), said
    stop = threading.Event()
    failures: list[BaseException] = []

    def collate_all_the_time() -> None:
        try:
            while not stop.is_set():
                engine.collate(media)
        except BaseException as exc:
            failures.append(exc)

    thread = threading.Thread(target=collate_all_the_time)
    thread.start()
    try:
        assert [caption.text for caption in ask(engine, media)] == [caption.text for caption in expected]
    finally:
        stop.set()
        thread.join()
    assert failures == []


def test_segments_of_a_transcript_lie_in_order_within_the_recording(kind: str, said: list[Caption]) -> None:
    if kind not in SPEECH:
        pytest.skip("no transcripts")
    for medium, caption in zip(media_for(kind), said, strict=True):
        edges = [edge for segment in caption.segments for edge in (segment.start_s, segment.end_s)]
        assert edges == sorted(edges) and all(0 <= edge <= (medium.duration_s or 0) + 0.02 for edge in edges)


def test_describe_loads_no_weights(kind: str, models: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    import safetensors.torch

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("weights were loaded")

    monkeypatch.setattr(safetensors.torch, "load_file", refuse)
    found = describe(config_of(kind, models))
    assert found.needs.accepts and found.micro_batch > 0 and found.rows_per_call >= found.micro_batch


def test_an_engine_closes_twice_without_complaint(kind: str, models: dict[str, str]) -> None:
    loaded = create(config_of(kind, models))
    loaded.close()
    loaded.close()
    again = create(config_of(kind, models))  # what the first held is free
    assert len(ask(again, media_for(kind))) == len(media_for(kind))
    again.close()
