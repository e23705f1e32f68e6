"""The endpoint engine against a real server on this machine that misbehaves on command:

- a server that is not there, refuses the key or does not know the model is told in one line before anything is read;
- pictures, recordings and frames with their times arrive as content parts, with seed, temperature and the sample's own prompt;
- what passes (busy, broken, cut off, slow, not JSON, an error with status 200) is tried again; what stays costs its sample, as passing;
- what the server refuses for one sample costs that sample for good; a refused key or an unknown model stops the run, as does a
  server that stays away longer than it is waited for; one that comes back goes on;
- never more requests at a time than allowed, fewer where the server is busy, and its slots stay full;
- the key is in no message, record or recipe.
"""

import json
import threading
import time
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import pytest

from pipeline.captions.endpoint import Endpoint
from pipeline.captions.engine import Caption, EngineConfig, describe, recipe
from pipeline.errors import Reason, RequestError, SampleError, StoppedError
from pipeline.samples.medium import Ask, Medium
from tests.captions.server import MODEL, Bad, Server, completion, error

KEY = "sk-very-secret-123"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr("pipeline.captions.endpoint.FIRST_WAIT_S", 0.02)
    found = Server(key=KEY)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    yield found
    found.stop()


def config(server: Server, **more: Any) -> EngineConfig:
    return EngineConfig(engine="endpoint", endpoint=server.url, model=MODEL, **{"patience_s": 20.0, "request_timeout_s": 10.0, **more})


def picture(seed: int = 0, ask: Ask | None = None) -> Medium:
    pixels = np.random.default_rng(seed).integers(0, 255, (8, 8, 3), dtype=np.uint8)
    return Medium("image", "png", 10, pixels_hwc=pixels, width=8, height=8, ask=ask)


def ask(server: Server, media: list[Medium], **more: Any) -> list[Caption | SampleError]:
    engine = Endpoint(config(server, **more))
    try:
        return engine(engine.collate(media))
    finally:
        engine.close()


def texts(found: list[Caption | SampleError]) -> list[str]:
    return [one.text if isinstance(one, Caption) else f"{one.reason.value}: {one.detail}" for one in found]


def test_media_arrive_as_parts_with_their_prompt_and_seed(server: Server) -> None:
    wave = Medium("audio", "wav", 10, wave_t=np.zeros(1600, np.int16), sample_rate_hz=16_000, duration_s=0.1, start_s=0.0)
    clip = Medium(
        "video", "mp4", 10, np.zeros((24, 8, 3), np.uint8), width=8, height=8, duration_s=3.0, start_s=30.0, times_s=(0.5, 1.5, 2.5)
    )
    asked = Ask(prompt="what is it?", seed=77, temperature=0.5)
    said = ask(server, [picture(1, asked), wave, clip])
    first, second, third = texts(said)
    assert first.startswith("parts it of") and first.endswith("said what is it? with seed 77")
    assert "parts it of" in second and "recording" in second and second.endswith("with seed None")
    assert "parts tititit of" in third and "Frame at 30.5 s: Frame at 31.5 s: Frame at 32.5 s:" in third
    caption = said[0]
    assert isinstance(caption, Caption) and (caption.n_prompt_tokens, caption.n_output_tokens, caption.seed) == (11, 7, 77)
    kinds = {part["type"] for body in server.bodies for part in body["messages"][0]["content"]}
    assert kinds == {"text", "image_url", "input_audio"}
    assert {(body["temperature"], body.get("top_p")) for body in server.bodies} == {(0.5, 1.0), (0.0, None)}


@pytest.mark.parametrize(
    "bad",
    [
        error(429, "slow down", retry_after="0.05"),
        error(503, "starting"),
        error(500, "oops"),
        error(502, "gateway"),
        error(408, "late"),
        Bad(200, b"this is no JSON"),
        Bad(200, b"Internal Server Error", content_type="text/plain"),
        Bad(200, b""),
        Bad(200, completion("hello there"), cut=True),
        Bad(200, json.dumps({"error": {"message": "upstream died", "code": 500}}).encode()),
        Bad(200, completion("Internal Server Error")),
        Bad(200, completion(None)),
        Bad(200, b'{"choices": []}'),
        Bad(200, b"[1, 2]"),
    ],
    ids=str,
)
def test_what_passes_is_tried_again(server: Server, bad: Bad) -> None:
    server.behave = lambda number, body: bad if number < 2 else None
    (text,) = texts(ask(server, [picture()]))
    assert text.startswith("parts it") and len(server.bodies) == 3


def test_what_stays_broken_costs_its_sample_as_passing(server: Server) -> None:
    first = json.dumps(json.loads(Endpoint(config(server))._request(picture(3)).body)["messages"])
    server.behave = lambda number, body: error(500, "cannot") if json.dumps(body["messages"]) == first else None
    said = ask(server, [picture(at) for at in range(6)])
    (lost,) = [one for one in said if isinstance(one, SampleError)]
    assert said[3] is lost and lost.reason is Reason.ENDPOINT and lost.reason.transient and "status 500: " in lost.detail


@pytest.mark.parametrize(
    "bad",
    [
        error(400, "This model's maximum context length is 4096 tokens"),
        error(413, "too large"),
        Bad(200, json.dumps({"object": "error", "message": "context too long", "code": 400}).encode()),
        Bad(200, completion(None, finish="content_filter")),
    ],
    ids=str,
)
def test_what_the_server_refuses_costs_its_sample_for_good(server: Server, bad: Bad) -> None:
    server.behave = lambda number, body: bad if "long" in json.dumps(body["messages"]) else None
    said = ask(server, [picture(1), picture(2, Ask(prompt="long")), picture(3)])
    assert [isinstance(one, Caption) for one in said] == [True, False, True]
    lost = said[1]
    assert isinstance(lost, SampleError) and lost.reason is Reason.ENDPOINT_REFUSED and not lost.reason.transient
    assert len(server.bodies) == 3


def test_a_request_that_takes_too_long_is_tried_again_and_then_lost_as_passing(server: Server) -> None:
    server.latency_s = 0.4
    (lost,) = ask(server, [picture()], request_timeout_s=0.1)
    assert isinstance(lost, SampleError) and lost.reason is Reason.ENGINE_TIMEOUT


def test_a_caption_cut_at_the_limit_says_so(server: Server) -> None:
    server.behave = lambda number, body: Bad(200, completion("a cat on a", finish="length"))
    (caption,) = ask(server, [picture()], max_tokens=4)
    assert isinstance(caption, Caption) and (caption.status, caption.finish_reason) == ("truncated", "length")
    assert server.bodies[0]["max_tokens"] == 4


def test_a_server_that_goes_away_and_comes_back_is_waited_for(server: Server) -> None:
    port, captions = server.port, []
    server.stop()
    engine = Endpoint(config(server))
    thread = threading.Thread(target=lambda: captions.extend(engine([picture(at) for at in range(4)])))
    thread.start()
    time.sleep(0.3)
    again = Server(port, key=KEY)
    thread.join(60)
    engine.close()
    again.stop()
    server.stop = lambda: None  # type: ignore[method-assign]
    assert [isinstance(one, Caption) for one in captions] == [True] * 4


@pytest.mark.parametrize("how", ["absent", "busy"])
def test_one_that_stays_away_stops_the_run_which_can_be_continued(server: Server, how: str) -> None:
    server.behave = lambda number, body: error(503, "busy", retry_after="0.1")
    if how == "absent":
        server.stop()
        server.stop = lambda: None  # type: ignore[method-assign]
    with pytest.raises(StoppedError, match="run the same command again to continue"):
        ask(server, [picture()], patience_s=0.3)


def test_a_key_that_is_refused_on_the_way_stops_the_run_without_showing_it(server: Server) -> None:
    server.key = "another"
    with pytest.raises(StoppedError, match="refuses the key in") as caught:
        ask(server, [picture()])
    assert KEY not in str(caught.value) and "***" in str(caught.value)


@pytest.mark.parametrize(
    ("more", "key", "says"),
    [
        ({"model": "tiny-visoin"}, KEY, "did you mean tiny-vision"),
        ({"endpoint": "http://127.0.0.1:9/v1"}, KEY, "no server answers at --endpoint http://127.0.0.1:9/v1"),
        ({}, "sk-wrong-999", r"refuses the key in \$OPENAI_API_KEY"),
        ({}, "", r"wants a key, and \$OPENAI_API_KEY is not set"),
        ({"endpoint": ""}, KEY, "needs --endpoint"),
        ({"endpoint": "localhost:8000"}, KEY, "no URL"),
        ({"endpoint": f"http://me:{KEY}@127.0.0.1/v1"}, KEY, "name, key or query"),
        ({"model": ""}, KEY, "needs --model"),
        ({"beams": 3}, KEY, "no beams"),
        ({"batch_size": 3}, KEY, "--max-in-flight"),
    ],
)
def test_what_cannot_work_is_told_before_anything_is_read(
    server: Server, monkeypatch: pytest.MonkeyPatch, more: dict[str, Any], key: str, says: str
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", key)
    options = {"endpoint": server.url, "model": MODEL, **more}
    with pytest.raises(RequestError, match=says) as caught:
        describe(EngineConfig(engine="endpoint", **options))
    assert KEY not in str(caught.value) and "sk-wrong-999" not in str(caught.value)
    assert server.bodies == []


def test_the_key_is_in_no_configuration_or_recipe(server: Server) -> None:
    given = config(server)
    assert KEY not in json.dumps(recipe(given, describe(given))) + str(given)


def _once_inside(server: Server, many: int, _number: int, _body: dict[str, Any]) -> None:
    """Nobody is answered before so many are inside at once, however slow the machine; then after 0.02 s."""
    until = time.monotonic() + 30
    while server.most_inside < many and time.monotonic() < until:
        time.sleep(0.005)
    time.sleep(0.02)


def test_a_server_with_few_slots_is_kept_full_and_not_overrun(server: Server) -> None:
    server.slots = 5
    server.behave = partial(_once_inside, server, 5)
    engine = Endpoint(config(server, max_in_flight=32))
    said = engine([picture(at % 3) for at in range(150)])
    assert all(isinstance(one, Caption) for one in said)
    assert server.most_inside == 5 and server.refused < 40
    assert 4 <= engine._slots.limit <= 6 and 0 < engine.use() <= 1
    engine.close()


def test_never_more_requests_at_a_time_than_allowed(server: Server) -> None:
    server.behave = partial(_once_inside, server, 6)
    ask(server, [picture(0)] * 60, max_in_flight=6)
    assert server.most_inside == 6
