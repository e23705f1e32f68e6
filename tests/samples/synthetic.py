"""Media with known content, made as they are needed."""

import io
import json
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import av
import numpy as np
from PIL import Image

from pipeline.samples.tokens import Tokenizer
from pipeline.samples.wave import encode_flac


def photograph(width: int, height: int, seed: int = 0) -> np.ndarray:
    """Smooth colours with some texture: uint8, height x width x 3."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)).resize((width, height), Image.Resampling.BICUBIC)
    return np.clip(np.asarray(small).astype(int) + rng.integers(-8, 9, (height, width, 1)), 0, 255).astype(np.uint8)


def jpeg(width: int, height: int, seed: int = 0, quality: int = 95) -> bytes:
    data = io.BytesIO()
    Image.fromarray(photograph(width, height, seed)).save(data, "JPEG", quality=quality)
    return data.getvalue()


def tone(seconds: float, rate_hz: int, hz: float = 440.0, level: float = 0.5) -> np.ndarray:
    """int16."""
    at = np.arange(round(seconds * rate_hz)) / rate_hz
    return np.rint(32_767 * level * np.sin(2 * np.pi * hz * at)).astype(np.int16)


def flac(seconds: float, rate_hz: int, hz: float = 440.0) -> bytes:
    return encode_flac(tone(seconds, rate_hz, hz), rate_hz)


def grey(value: int, width: int = 64, height: int = 48) -> np.ndarray:
    return np.full((height, width, 3), value, np.uint8)


def clip(
    frames: int = 10,
    *,
    times: Sequence[int] | None = None,
    b_frames: int = 0,
    rotate: int = 0,
    width: int = 64,
    height: int = 48,
    container: str = "mp4",
) -> bytes:
    """H.264 whose n-th frame is grey of 20 + 8 n, shown from times[n] tenths of a second on (n by itself)."""
    data = io.BytesIO()
    with av.open(data, "w", format=container) as out:
        options = {"bf": str(b_frames), "crf": "8", "g": "6", "preset": "fast"}
        stream: Any = out.add_stream("libx264", rate=10, options=options)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 10)
        shown = list(range(frames)) if times is None else list(times)
        for number, at in enumerate(shown):
            pixels = grey(20 + 8 * number, width, height)
            pixels[: height // 4, : width // 4] = 235  # a mark in the upper left corner
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = at, Fraction(1, 10)
            if rotate:
                frame.rotation = rotate
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    return data.getvalue()


def sound_only_mp4() -> bytes:
    data = io.BytesIO()
    with av.open(data, "w", format="mp4") as out:
        stream: Any = out.add_stream("aac", rate=16_000, layout="mono")
        frame = av.AudioFrame.from_ndarray(tone(0.5, 16_000)[None], format="s16", layout="mono")
        frame.sample_rate, frame.pts = 16_000, 0
        resampler = av.AudioResampler(format="fltp", layout="mono", rate=16_000, frame_size=1024)
        for piece in [*resampler.resample(frame), *resampler.resample(None)]:
            out.mux(stream.encode(piece))
        out.mux(stream.encode(None))
    return data.getvalue()


def words_tokenizer(text: str) -> Tokenizer:
    """One token a word; none for `~`."""
    words = dict.fromkeys(text.split())
    vocabulary = {word: at for at, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words])}
    parsed = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {"id": at, "content": word, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
            for word, at in list(vocabulary.items())[:5]
        ],
        "normalizer": {"type": "Replace", "pattern": {"String": "~"}, "content": ""},
        "pre_tokenizer": {"type": "Whitespace"},
        "post_processor": None,
        "decoder": None,
        "model": {"type": "WordLevel", "vocab": vocabulary, "unk_token": "[UNK]"},
    }
    roles = {"begin": "[CLS]", "end": "[SEP]", "pad": "[PAD]", "unk": "[UNK]", "mask": "[MASK]"}
    return Tokenizer(json.dumps(parsed).encode(), roles)
