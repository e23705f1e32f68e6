"""The vllm engine without vLLM: a stand-in that answers as its `LLM` does, at the seam where vLLM is imported.

- without vLLM, and for options that it would ignore, one line says so; options of vLLM are refused by other engines;
- what vLLM is constructed with follows from the options; requests hold media in the order of the message;
- captions of overlapping calls are handed in together and given back each to its own;
- what vLLM refuses costs its sample, what breaks it breaks the calls, and all after them;
- `auto` chooses by the model's folder, and vLLM only where it is installed, there is a GPU and it knows the model.
"""

import json
import sys
import threading
import types
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from pipeline.captions import choose
from pipeline.captions.choose import chosen
from pipeline.captions.engine import Caption, EngineConfig, create, describe
from pipeline.captions.vllm import options_of, request_of
from pipeline.errors import RequestError, SampleError
from pipeline.samples.medium import Ask, Medium


class Params(SimpleNamespace):
    """As vllm.SamplingParams."""


class StandIn:
    """As vllm.LLM: a request ends after as many steps as its seed says."""

    made: "list[StandIn]"

    def __init__(self, **options: Any) -> None:
        self.options, self.model_config = options, SimpleNamespace(is_multimodal_model=True)
        self.inside: dict[str, list[Any]] = {}
        self.most = self.count = 0
        self.broken = False
        self.llm_engine = SimpleNamespace(step=self.step, engine_core=SimpleNamespace(shutdown=lambda: None))
        self.gate = threading.Event()
        StandIn.made.append(self)

    def enqueue_chat(self, messages: list[Any], params: list[Any], use_tqdm: bool) -> list[str]:
        (message,), (wanted,) = messages, params
        words = message[0]["content"][-1]["text"]
        if "too long" in words:
            raise ValueError("The prompt is longer\nthan the maximum model length of 9")
        self.count += 1
        self.inside[str(self.count)] = [wanted.seed if hasattr(wanted, "seed") else 1, words]
        self.most = max(self.most, len(self.inside))
        return [f"{self.count}-abcdef"]

    def step(self) -> list[Any]:
        self.gate.wait(10)
        if self.broken:
            raise RuntimeError("out of luck")
        ended = []
        for number, state in list(self.inside.items()):
            state[0] -= 1
            if state[0] <= 0:
                del self.inside[number]
                said = SimpleNamespace(text=f" said {state[1]}\n", finish_reason="stop", token_ids=[1, 2], cumulative_logprob=-3.0)
                ended.append(SimpleNamespace(finished=True, request_id=number, outputs=[said], prompt_token_ids=[5, 6, 7]))
        return ended


@pytest.fixture
def vllm(monkeypatch: pytest.MonkeyPatch) -> type[StandIn]:
    StandIn.made = []
    module, platforms = types.ModuleType("vllm"), types.ModuleType("vllm.platforms")
    module.__dict__.update(LLM=StandIn, SamplingParams=Params, __spec__=SimpleNamespace())
    module.__dict__["ModelRegistry"] = SimpleNamespace(get_supported_archs=lambda: {"Qwen2VLForConditionalGeneration", "NewForAll"})
    platforms.__dict__["current_platform"] = SimpleNamespace(is_cpu=lambda: False)
    monkeypatch.setitem(sys.modules, "vllm", module)
    monkeypatch.setitem(sys.modules, "vllm.platforms", platforms)
    return StandIn


@pytest.fixture
def model(tmp_path: Path) -> str:
    write(tmp_path, {"model_type": "qwen2_vl", "architectures": ["Qwen2VLForConditionalGeneration"]})
    (tmp_path / "chat_template.jinja").write_text("x")
    return str(tmp_path)


def write(folder: Path, config: dict[str, Any]) -> None:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))


def picture(prompt: str = "what?", seed: int = 1) -> Medium:
    asked = Ask(prompt=prompt, seed=seed, temperature=1.0)
    return Medium("image", "png", 10, np.zeros((40, 40, 3), np.uint8), width=40, height=40, ask=asked)


def test_without_vllm_one_line_says_what_to_do(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(RequestError, match="needs the package vllm, here and on the workers"):
        describe(EngineConfig(engine="vllm", model=model))


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"beams": 2}, "leave it out"),
        ({"dtype": "int8"}, "a quantised model says so itself"),
        ({"device": "cuda:1"}, "the GPUs that Ray gives it"),
        ({"engine": "transformers", "max_model_len": 100}, "--max-model-len is for engine vllm"),
        ({"engine": "facts", "tensor_parallel": 2}, "--tensor-parallel is for engine vllm"),
        ({"engine": "endpoint", "gpu_memory": 0.5}, "--gpu-memory is for engine vllm"),
        ({"gpu_memory": 1.5}, "above 0 and at most 1"),
        ({"tensor_parallel": 0}, "1 or more"),
    ],
)
def test_what_would_be_ignored_is_refused(vllm: type[StandIn], model: str, more: dict[str, Any], says: str) -> None:
    with pytest.raises(RequestError, match=says):
        describe(EngineConfig(**{"engine": "vllm", "model": model, **more}))


def test_a_model_that_vllm_does_not_know_or_without_a_template_is_refused(vllm: type[StandIn], tmp_path: Path) -> None:
    write(tmp_path, {"architectures": ["NewForAl"]})
    with pytest.raises(RequestError, match="did you mean NewForAll"):
        describe(EngineConfig(engine="vllm", model=str(tmp_path)))
    write(tmp_path, {"architectures": ["NewForAll"]})
    with pytest.raises(RequestError, match="no chat template"):
        describe(EngineConfig(engine="vllm", model=str(tmp_path)))


def test_vllm_is_constructed_as_the_options_say(tmp_path: Path) -> None:
    plain = options_of(EngineConfig(engine="vllm", model="m"), tmp_path, on_cpu=False)
    assert plain["load_format"] == "safetensors" and plain["dtype"] == "auto" and "max_model_len" not in plain
    assert plain["limit_mm_per_prompt"] == {"image": 8, "audio": 0} and plain["mm_processor_cache_gb"] == 0
    config = EngineConfig(
        engine="vllm",
        tensor_parallel=4,
        max_model_len=4096,
        gpu_memory=0.5,
        media=("image", "audio"),
        num_captions=2,
        temperature=1.0,
        allow_pickle=True,
    )
    more = options_of(config, tmp_path, on_cpu=False)
    assert (more["tensor_parallel_size"], more["max_model_len"], more["gpu_memory_utilization"]) == (4, 4096, 0.5)
    assert more["distributed_executor_backend"] == "mp" and more["load_format"] == "auto" and more["mm_processor_cache_gb"] > 0
    assert more["limit_mm_per_prompt"] == {"image": 1, "audio": 1}
    alone = options_of(EngineConfig(engine="vllm", batch_invariant=True), tmp_path, on_cpu=True)
    assert (alone["max_num_seqs"], alone["enable_prefix_caching"], alone["dtype"]) == (1, False, "float32")


def test_a_request_holds_frames_with_their_times_and_sound(tmp_path: Path) -> None:
    frames = np.zeros((80, 40, 3), np.uint8)
    clip = Medium("video", "mp4", 10, frames, np.zeros(160, np.int16), 16_000, 40, 40, 2.0, 30.0, times_s=(0.5, 1.5))
    (message,) = request_of(clip, Ask(prompt="what happens?")).messages
    assert [part["type"] for part in message["content"]] == ["text", "image_pil", "text", "image_pil", "input_audio", "text"]
    assert message["content"][2]["text"] == "Frame at 31.5 s:" and message["content"][1]["image_pil"].size == (40, 40)
    assert message["content"][-1]["text"] == "what happens?"


def test_overlapping_calls_are_at_work_together_and_each_gets_its_own(vllm: type[StandIn], model: str) -> None:
    engine = create(EngineConfig(engine="vllm", model=model))
    asked = [[picture(f"{call}.{at}", seed=at + 1) for at in range(5)] for call in range(3)]
    found: dict[int, Any] = {}
    threads = [threading.Thread(target=lambda at=at: found.update({at: engine.run(engine.collate(asked[at]))})) for at in range(3)]
    for thread in threads:
        thread.start()
    vllm.made[0].gate.set()
    for thread in threads:
        thread.join(30)
    assert [[one.text for one in found[call]] for call in range(3)] == [[f"said {call}.{at}" for at in range(5)] for call in range(3)]
    assert vllm.made[0].most > 5 and found[1][2] == Caption(
        "said 1.2", finish_reason="stop", n_prompt_tokens=3, n_output_tokens=2, mean_logprob=-1.5, seed=3
    )
    assert engine.use is not None and 0 < engine.use() <= 1
    engine.close()
    engine.close()


def test_what_is_refused_costs_its_sample_and_what_breaks_is_told_to_all(vllm: type[StandIn], model: str) -> None:
    engine = create(EngineConfig(engine="vllm", model=model))
    stand_in = vllm.made[0]
    stand_in.gate.set()
    first, second, third = engine.run(engine.collate([picture(), picture("too long"), picture()]))
    assert isinstance(first, Caption) and isinstance(third, Caption) and isinstance(second, SampleError)
    assert second.detail == "vLLM refuses it: The prompt is longer than the maximum model length of 9"
    stand_in.broken = True
    for _ in range(2):
        with pytest.raises(RuntimeError, match="out of luck"):
            engine.run(engine.collate([picture()]))
    engine.close()


def test_auto_goes_by_the_folder_and_takes_vllm_only_where_it_can(
    vllm: type[StandIn], model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    for name, config, expected in (
        ("a", {"model_type": "nightcap"}, "checkpoint"),
        ("b", {"suppress_ids": []}, "faster-whisper"),
        ("c", {"model_type": "blip"}, "transformers"),
        ("d", {"model_type": "qwen2_vl", "architectures": ["Qwen2VLForConditionalGeneration"]}, "transformers"),
    ):
        write(tmp_path / name, config)
        assert chosen(EngineConfig(model=str(tmp_path / name))).engine == expected
    assert chosen(EngineConfig(endpoint="http://x/v1", model="m")).engine == "endpoint"
    named = EngineConfig(engine="facts")
    assert chosen(named) is named
    with pytest.raises(RequestError, match="give --model or --endpoint, or name one of facts"):
        chosen(EngineConfig())
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    assert chosen(EngineConfig(model=model)).engine == "vllm"
    assert chosen(EngineConfig(model=model, device="cpu")).engine == "transformers"
    assert chosen(EngineConfig(model=str(tmp_path / "c"))).engine == "transformers"
    write(tmp_path / "e", {"model_type": "of-tomorrow", "architectures": ["NewForAll"]})
    assert chosen(EngineConfig(model=str(tmp_path / "e"))).engine == "vllm"
    monkeypatch.setattr(choose.importlib.util, "find_spec", lambda name: None)
    assert chosen(EngineConfig(model=model)).engine == "transformers"
    with pytest.raises(RequestError, match="of-tomorrow"):
        chosen(EngineConfig(model=str(tmp_path / "e")))
