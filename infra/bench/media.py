"""Recordings and clips to measure on: real speech where a package holds some, photographs that move."""

import importlib.util
import io
import random
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import soxr
from photographs import photographs

SPEECH_S, RATE_HZ = 6.0, 44_100


def _speech() -> np.ndarray:
    """float32 mono at RATE_HZ: pyannote's sample of a telephone talk."""
    spec = importlib.util.find_spec("pyannote")
    folders = [] if spec is None or not spec.submodule_search_locations else list(spec.submodule_search_locations)
    for path in (path for folder in folders for path in sorted(Path(folder).rglob("*.wav"))):
        with av.open(str(path)) as container:
            pieces = [frame.to_ndarray().astype(np.float32).reshape(-1) / 32_768 for frame in container.decode(audio=0)]
            rate = container.streams.audio[0].rate
        return soxr.resample(np.concatenate(pieces), rate, RATE_HZ)
    raise SystemExit("package pyannote.audio is missing; make bench installs it")


def recordings(count: int, seed: int) -> list[tuple[str, bytes]]:
    """(field, bytes): FLAC and MP3 in turn, SPEECH_S long, stereo at RATE_HZ."""
    rng, speech = random.Random(seed), _speech()
    length, found = round(SPEECH_S * RATE_HZ), []
    for number in range(count):
        start = rng.randrange(len(speech) - length)
        wave = np.rint(speech[start : start + length] * 32_767).astype(np.int16)
        name = ("flac", "mp3")[number % 2]
        stream = io.BytesIO()
        with av.open(stream, "w", format=name) as container:
            track: Any = container.add_stream(name if name == "flac" else "libmp3lame", rate=RATE_HZ, layout="stereo")
            frame = av.AudioFrame.from_ndarray(np.repeat(wave, 2)[None], format="s16", layout="stereo")
            frame.sample_rate, frame.pts = RATE_HZ, 0
            resampler = av.AudioResampler(format=track.codec_context.format, layout="stereo", rate=RATE_HZ, frame_size=1_152)
            for piece in [*resampler.resample(frame), *resampler.resample(None)]:
                container.mux(track.encode(piece))
            container.mux(track.encode(None))
        found.append((name, stream.getvalue()))
    return found


def videos(count: int, seconds: float = 5.0) -> list[bytes]:
    """H.264 at 25 frames a second, 640 x 360, a window that wanders over a photograph."""
    sources, found = photographs(), []
    for number in range(count):
        source = sources[number % len(sources)].resize((960, 640))
        stream = io.BytesIO()
        with av.open(stream, "w", format="mp4") as container:
            track: Any = container.add_stream("libx264", rate=25, options={"crf": "23", "preset": "fast"})
            track.width, track.height, track.pix_fmt = 640, 360, "yuv420p"
            for at in range(round(seconds * 25)):
                left, top = 2 * at % 320, at % 280
                frame = av.VideoFrame.from_image(source.crop((left, top, left + 640, top + 360)))
                frame.pts, frame.time_base = at, Fraction(1, 25)
                container.mux(track.encode(frame))
            container.mux(track.encode(None))
        found.append(stream.getvalue())
    return found
