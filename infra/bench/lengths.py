"""`lengths.py [ROUNDS]`: micro-batches of similar length against the order of arrival, `transformers` with a CTC model: bound 1.3x.

The speech corpus is one real conversation cut into recordings of 1 to 29 s in a mixed order. The model is a Wav2Vec2 of the real class with
random weights, smaller than a published one; transcripts must be identical.
"""

import json
import random
import sys
import tempfile
import time
import wave
from pathlib import Path

import numpy as np
import torch
from corpus import interleaved, show
from whisper import package

from pipeline.captions.answers import Place
from pipeline.captions.engine import EngineConfig, describe, questions
from pipeline.captions.stage import CaptionStage, StageConfig
from pipeline.samples.guard import Limits
from pipeline.samples.medium import Ask, Medium

RATE_HZ, RECORDINGS, ROUNDS = 16_000, 48, 3


def save_model(folder: Path) -> None:
    """A Wav2Vec2 whose transformer is as wide as the published base model's third."""
    from transformers import Wav2Vec2Config, Wav2Vec2CTCTokenizer, Wav2Vec2FeatureExtractor, Wav2Vec2ForCTC

    torch.manual_seed(3)
    shape = {"hidden_size": 256, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 1024}
    Wav2Vec2ForCTC(Wav2Vec2Config(vocab_size=32, feat_extract_norm="layer", conv_dim=(64,) * 7, **shape)).save_pretrained(folder)
    Wav2Vec2FeatureExtractor(return_attention_mask=True).save_pretrained(folder)
    letters = ["<pad>", "<s>", "</s>", "<unk>", "|", *"ETAONIHSRDLUMWCFGYPBVKXJQZ'"]
    (folder / "vocab.json").write_text(json.dumps({letter: at for at, letter in enumerate(letters)}))
    Wav2Vec2CTCTokenizer(str(folder / "vocab.json")).save_pretrained(folder)


def recordings() -> list[Medium]:
    """In the order of arrival."""
    with wave.open(str(package("pyannote") / "audio/sample/sample.wav")) as source:
        whole = np.frombuffer(source.readframes(source.getnframes()), np.int16)
        assert source.getframerate() == RATE_HZ
    noise = random.Random(5)
    found = []
    for _ in range(RECORDINGS):
        n = int(noise.uniform(1, 29) * RATE_HZ)
        start = noise.randrange(len(whole) - n)
        piece = whole[start : start + n]
        found.append(Medium("audio", "wav", 2 * n, wave_t=piece, sample_rate_hz=RATE_HZ, duration_s=n / RATE_HZ, start_s=0.0, ask=Ask()))
    return found


def main() -> None:
    """CPU seconds for the same recordings in both orders, one thread, so that other work on the machine does not count."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        save_model(folder)
        engine = EngineConfig(engine="transformers", model=str(folder), device="cpu", threads=1)
        asked = {Place(at, 0): medium for at, medium in enumerate(recordings())}
        common = {"engine": engine, "questions": questions(engine, describe(engine)), "micro_batch": 8, "output": name, "run_id": "r"}
        stages = {
            way: CaptionStage(StageConfig(**common, limits=Limits(60, 0), stall_s=0, by_length=way == "by length"))
            for way in ("by length", "order of arrival")
        }
        texts: dict[str, list[str]] = {}

        def work(way: str) -> float:
            began = time.process_time()
            answers = stages[way]._batched(asked, time.perf_counter())
            spent_s = time.process_time() - began
            texts[way] = [answers[place].caption.text for place in sorted(answers)]
            return spent_s

        figures = interleaved({way: lambda way=way: work(way) for way in stages}, int(sys.argv[1]) if len(sys.argv) > 1 else ROUNDS)
        show(figures, "s CPU")
        show({"by length is faster by": [b / a for a, b in zip(*figures.values(), strict=True)]}, "x")
        first, second = texts.values()
        print(f"identical transcripts: {sum(a == b for a, b in zip(first, second, strict=True))} of {len(first)}")


if __name__ == "__main__":
    main()
