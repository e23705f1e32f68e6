"""What every engine promises, of vLLM itself: a tiny Qwen2-VL with random weights, real pictures, vLLM's build for the CPU.

`make test-vllm` runs it in an environment of its own; where vLLM is not installed it is skipped.

- one caption a medium, pictures and clips, the same whatever stands beside it, also where calls overlap;
- each caption is drawn by its own seed, in any order and company; greedy ones stand among drawn ones;
- a prompt above the model's length costs its own sample, for good; a caption cut at the limit says so;
- what cannot work is told before weights are loaded; `close` ends vLLM's processes;
- if vLLM's process dies, so does the worker.
"""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("vllm")

from PIL import Image

from jobs.installed import package
from pipeline.captions.engine import Caption, EngineConfig, LoadedEngine, create, describe
from pipeline.errors import Reason, RequestError, SampleError, StoppedError
from pipeline.samples.medium import Ask, Medium
from tests.contract.conftest import SPECIAL, WORDS, chat_tokenizer, template

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]
PHOTOGRAPHS = ("coffee.png", "astronaut.png", "chelsea.png", "motorcycle_left.png", "rocket.jpg")


def save_qwen(folder: Path) -> None:
    """As vLLM's kernels want it: heads of 32, and sections of the position that add up to half of that."""
    import torch
    from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration, Qwen2VLImageProcessor, Qwen2VLProcessor, Qwen2VLVideoProcessor

    torch.manual_seed(7)
    tokenizer: Any = chat_tokenizer("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")
    names = ("vision_start_token_id", "vision_end_token_id", "image_token_id", "video_token_id")
    ids = {name: len(WORDS) + at for at, name in enumerate(names)}
    text = {"hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 2, "intermediate_size": 64}
    rope = {"rope_type": "default", "rope_theta": 10_000.0, "mrope_section": [4, 6, 6]}
    text |= {"vocab_size": len(tokenizer), "max_position_embeddings": 2048, "rope_parameters": rope, **SPECIAL}
    vision = {"depth": 1, "embed_dim": 64, "hidden_size": 64, "num_heads": 2, "mlp_ratio": 2, "patch_size": 14}
    model = Qwen2VLForConditionalGeneration(Qwen2VLConfig(text_config=text, vision_config=vision, **ids))
    model.generation_config.update(**SPECIAL)
    model.save_pretrained(folder)
    sizes = {"min_pixels": 28 * 28, "max_pixels": 56 * 56}
    shown = template("<|vision_start|><|image_pad|><|vision_end|>")
    Qwen2VLProcessor(Qwen2VLImageProcessor(**sizes), tokenizer, Qwen2VLVideoProcessor(**sizes), chat_template=shown).save_pretrained(folder)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("qwen")
    save_qwen(folder)
    return str(folder)


def config(model: str, **more: Any) -> EngineConfig:
    return EngineConfig(engine="vllm", model=model, **{"max_tokens": 8, "threads": 1, **more})


@pytest.fixture(scope="module")
def engine(model: str) -> Iterator[LoadedEngine]:
    found = create(config(model))
    yield found
    found.close()


def photograph(name: str) -> Medium:
    pixels = np.asarray(Image.open(package("skimage") / "data" / name).convert("RGB"))
    return Medium("image", "jpg", 10, pixels_hwc=pixels, width=pixels.shape[1], height=pixels.shape[0])


def media() -> list[Medium]:
    """Photographs, a clip of three frames, a picture of one pixel."""
    frames = np.concatenate([photograph("coffee.png").pixels_hwc[:64, at : at + 64] for at in (0, 20, 40)])  # type: ignore[index]
    clip = Medium("video", "mp4", 10, frames, None, None, 64, 64, 3.0, 0.0, times_s=(0.5, 1.5, 2.5))
    dot = Medium("image", "png", 10, np.zeros((1, 1, 3), np.uint8), width=1, height=1)
    return [*map(photograph, PHOTOGRAPHS), clip, dot]


def ask(engine: LoadedEngine, asked: list[Medium]) -> list[Any]:
    return engine.run(engine.collate(asked))


def test_there_is_one_caption_a_medium_whatever_stands_beside_it(engine: LoadedEngine) -> None:
    said = ask(engine, media())
    assert [isinstance(one, Caption) for one in said] == [True] * len(media())
    assert all(one.n_output_tokens and one.n_prompt_tokens and one.mean_logprob < 0 and one.text for one in said)
    assert said[5].n_prompt_tokens > said[0].n_prompt_tokens + 8  # three frames with their times
    assert [one.text for one in ask(engine, media()[::-1])[::-1]] == [one.text for one in said]
    assert [ask(engine, [medium])[0].text for medium in media()] == [one.text for one in said]
    assert len({one.text for one in said}) > 3 and ask(engine, []) == []


def test_each_caption_is_drawn_by_its_own_seed_in_any_order_and_company(engine: LoadedEngine) -> None:
    ways = [(11, 1.0), (12, 0.7), (13, 0.0), (14, 2.0), (15, 1.0), (16, 1.0), (17, 1.0), (11, 1.0)]
    one = media()
    asked = [replace(one[at % len(one)], ask=Ask(seed=seed, temperature=heat)) for at, (seed, heat) in enumerate(ways)]
    said = ask(engine, asked)
    assert ask(engine, asked[::-1])[::-1] == said == ask(engine, asked)
    assert [ask(engine, [medium])[0] for medium in asked] == said
    assert said[7] == said[0] and [caption.seed for caption in said] == [11, 12, None, 14, 15, 16, 17, 11]
    assert said[2].text == ask(engine, [one[2]])[0].text
    assert ask(engine, [replace(one[0], ask=Ask(seed=18, temperature=1.0))])[0].text != said[0].text


def test_calls_may_overlap(engine: LoadedEngine) -> None:
    asked = [replace(medium, ask=Ask(seed=at, temperature=1.0)) for at, medium in enumerate(media())]
    expected = [ask(engine, [medium])[0] for medium in asked]
    found: list[list[Any]] = [[], [], []]
    threads = [threading.Thread(target=lambda at=at: found[at].extend(ask(engine, asked))) for at in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert found == [expected] * 3 and engine.use is not None and 0 < engine.use() <= 1


def test_a_prompt_above_the_models_length_costs_its_own_sample_for_good(engine: LoadedEngine) -> None:
    one = media()[0]
    said = ask(engine, [one, replace(one, ask=Ask(prompt="w7 " * 3000)), one])
    assert said[0] == said[2] and isinstance(said[0], Caption)
    assert isinstance(said[1], SampleError) and said[1].reason is Reason.ENGINE_FAILED and not said[1].reason.transient
    assert "2048" in said[1].detail and "\n" not in said[1].detail


def test_a_caption_cut_at_the_limit_says_so_and_one_that_ends_does_not(engine: LoadedEngine) -> None:
    drawn = [replace(media()[0], ask=Ask(seed=seed, temperature=2.0)) for seed in range(64)]
    ends = {(one.status, one.finish_reason, one.n_output_tokens == 8) for one in ask(engine, drawn)}
    assert ("truncated", "length", True) in ends and ("success", "stop", False) in ends
    assert all((status == "truncated") == (finish == "length") for status, finish, _ in ends)


def test_what_cannot_work_is_told_before_weights_are_loaded(model: str, tmp_path: Path) -> None:
    assert describe(config(model, tensor_parallel=2)).devices == 2
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "x", "architectures": ["Qwen2VLForConditionalGeneratoin"]}))
    with pytest.raises(RequestError, match=r"vLLM does not know; did you mean Qwen2VLForConditionalGeneration"):
        describe(config(str(tmp_path)))


def test_a_worker_that_cannot_load_says_so_in_one_line(model: str) -> None:
    with pytest.raises(StoppedError, match="vLLM cannot load --model") as caught:
        create(config(model, max_model_len=1_000_000))
    assert "\n" not in str(caught.value)


PROGRAM = """
import sys, numpy, psutil
from pipeline.captions.engine import EngineConfig, create
from pipeline.samples.medium import Medium
if __name__ == "__main__":
    engine = create(EngineConfig(engine="vllm", model=sys.argv[1], max_tokens=8, threads=1))
    medium = Medium("image", "png", 10, numpy.zeros((40, 40, 3), numpy.uint8), width=40, height=40)
    print(len(engine.run(engine.collate([medium]))), flush=True)
    mine = [one for one in psutil.Process().children(recursive=True) if "resource_tracker" not in "".join(one.cmdline())]
    if sys.argv[2] == "kill":
        for process in mine:
            process.kill()
        engine.run(engine.collate([medium]))
    engine.close()
    engine.close()
    print(len(mine) > 0, len(psutil.wait_procs(mine, 20)[1]), flush=True)
"""


@pytest.mark.parametrize(("how", "code", "says"), [("close", 0, "1\nTrue 0\n"), ("kill", 70, "1\n")])
def test_closing_ends_vllms_processes_and_their_death_ends_the_worker(model: str, tmp_path: Path, how: str, code: int, says: str) -> None:
    (tmp_path / "worker.py").write_text(PROGRAM)
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(
        [sys.executable, str(tmp_path / "worker.py"), model, how], capture_output=True, text=True, timeout=100, env=environment
    )
    assert (done.returncode, done.stdout) == (code, says), done.stderr[-2000:]
