"""Spoken digits, learnt from nothing: `speech_digits.py [minutes] [samples] [folder that keeps the data]`. Wants espeak-ng (Debian: apt-get install espeak-ng).

One to five digits a recording, by espeak-ng in five accents, twelve voices, many speeds and pitches. Tested on an accent and a voice
that were never trained, on sequences that were never trained; and on new sequences by the trained voices. Digit error rate: substituted,
left out and added digits over digits of the reference.
"""

import random
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jiwer
from whole_way import kept, prepared, taught

DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
ACCENTS, NEW_ACCENT = ("en-us", "en-gb", "en-gb-scotland", "en-029", "en-gb-x-gbclan"), "en-gb-x-rp"
VOICES, NEW_VOICE = ("m1", "m2", "m3", "m5", "m7", "f1", "f2", "f3", "Andy", "Alex", "linda", "steph"), "f4"
TEST_SAMPLES = 200
PARTS = ("new-voice", "new-words")
TRAIN = (
    "--text-model", "tiny", "--max-tokens", "8", "--recording-layers", "3", "--recording-width", "192", "--n-mels", "40",
    "--max-recording-s", "4", "--recording-stride", "8", "--objectives", "causal", "ctc", "--ctc-weight", "1", "--learning-rate", "1e-3",
    "--epochs", "0", "--validations", "2", "--validation-samples", "96", "--batch-size", "32", "--media-dropout", "0.02", "--dropout", "0",
    "--label-smoothing", "0",
)  # fmt: skip


def write(folder: Path, samples: int, seed: int, accents: tuple[str, ...], voices: tuple[str, ...], apart_from: set[str]) -> set[str]:
    """Pairs of .wav and .txt; returns the texts. None of three digits or more is among `apart_from`; shorter ones are too few for that."""
    draw = random.Random(seed)
    folder.mkdir(parents=True)
    orders, texts = [], set()
    for number in range(samples):
        while True:
            text = " ".join(draw.choices(DIGITS, k=draw.randint(1, 5)))
            if text not in apart_from or len(text.split()) < 3:
                break
        texts.add(text)
        (folder / f"{number:05d}.txt").write_text(text)
        voice, speed, pitch = f"{draw.choice(accents)}+{draw.choice(voices)}", draw.randint(140, 220), draw.randint(25, 75)
        wave = str(folder / f"{number:05d}.wav")
        orders.append(["espeak-ng", "-v", voice, "-s", str(speed), "-p", str(pitch), "-w", wave, text])
    with ThreadPoolExecutor(2) as pool:
        for done in pool.map(lambda order: subprocess.run(order, check=True), orders):
            done.check_returncode()
    return texts


def error_rate(rows: list[dict[str, Any]]) -> float:
    """Word error rate; every word of a reference is a digit."""
    return float(jiwer.wer([row["text"] for row in rows], [row["caption"] or "" for row in rows]))


def material(folder: Path, samples: int) -> None:
    """Recordings as files and archives; those that are trained on, prepared."""
    known = write(folder / "train", samples, 0, ACCENTS, VOICES, set())
    write(folder / "new-voice", TEST_SAMPLES, 1, (NEW_ACCENT,), (NEW_VOICE,), known)
    write(folder / "new-words", TEST_SAMPLES, 2, ACCENTS, VOICES, known)
    prepared(folder, "audio", test=PARTS)


def main(minutes: float, samples: int, where: str) -> None:
    """Builds, teaches, prints."""
    with kept(where) as (folder, fresh):
        if fresh:
            material(folder, samples)
        found = taught(folder, "audio", *TRAIN, "--max-minutes", str(minutes), test=PARTS) if minutes else {}
    for part, rows in found.items():
        for row in rows[:5]:
            print(f"  {row['text']} -> {row['caption']}")
        print(f"{part}: digit error rate {error_rate(rows):.3f} of {sum(len(row['text'].split()) for row in rows)} digits")


if __name__ == "__main__":
    given = dict(enumerate(sys.argv))
    main(float(given.get(1, 3.0)), int(given.get(2, 3000)), given.get(3, ""))
