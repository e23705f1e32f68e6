"""Moving emoji: clips whose texts say which way something moves: `moving_emoji.py [minutes] [samples] [folder that keeps the data]`. Wants the demo's packages.

An emoji drifts over a plain ground and comes back in on the other side, so that every place is as likely in every frame, whatever
the direction: no single frame shows it. Trained on one artist's pictures, tested on another's of the same names. Printed: how many
directions are right, how many names; and the directions again for the same clips shown backwards, which a model that sees motion turns round.
"""

import random
import sys
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from whole_way import kept, prepared, taught

from jobs import emoji
from jobs.lesson import backbone_weights

STEPS = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}
SIDE_PX, EMOJI_PX, FRAMES = 96, 48, 6
SPEEDS_PX = (8, 20)
"""A frame: below half the side, above which a movement looks like one the other way."""
NAMES = 60
TEST_SAMPLES = 240
PARTS = ("new-artist", "backwards")
TRAIN = (
    "--backbone", "efficientnet-lite0", "--backbone-stride", "16", "--input-px", str(SIDE_PX), "--frozen-share", "1",
    "--text-model", "tiny", "--max-tokens", "12", "--max-frames", str(FRAMES), "--learning-rate", "1e-3", "--epochs", "0",
    "--validations", "2", "--validation-samples", "96", "--batch-size", "24", "--media-dropout", "0.02", "--dropout", "0.05",
)  # fmt: skip


def clip(picture: Path, direction: str, draw: random.Random, *, backwards: bool) -> list[NDArray[np.uint8]]:
    """Frames, SIDE_PX square."""
    ground = np.array([draw.randint(140, 255) for _ in range(3)], np.uint8)
    with Image.open(picture) as opened:
        drawn = opened.convert("RGBA").resize((EMOJI_PX, EMOJI_PX))
    sheet = Image.fromarray(np.broadcast_to(ground, (SIDE_PX, SIDE_PX, 3)).copy())
    sheet.paste(drawn, (0, 0), drawn)
    start, speed = (draw.randrange(SIDE_PX), draw.randrange(SIDE_PX)), draw.randint(*SPEEDS_PX)
    x, y = STEPS[direction]
    frames = [np.roll(np.asarray(sheet), (start[1] + y * speed * k, start[0] + x * speed * k), (0, 1)) for k in range(FRAMES)]
    return frames[::-1] if backwards else frames


def encode(path: Path, frames: list[NDArray[np.uint8]]) -> None:
    """H.264 at 6 frames a second."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=Fraction(6), options={"crf": "18", "preset": "veryfast"})
        stream.width = stream.height = SIDE_PX
        stream.pix_fmt, stream.codec_context.thread_count = "yuv420p", 1
        for pixels in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())


def write(folder: Path, pictures: list[emoji.Picture], samples: int, seed: int, *, backwards: bool = False) -> None:
    """Pairs of .mp4 and .txt. Backwards the texts stay, and so are wrong of the direction."""
    draw = random.Random(seed)
    folder.mkdir(parents=True)
    for number in range(samples):
        picture, direction = draw.choice(pictures), draw.choice(list(STEPS))
        (folder / f"{number:05d}.txt").write_text(f"{direction} moves the {picture.name}")
        encode(folder / f"{number:05d}.mp4", clip(picture.path, direction, draw, backwards=backwards))


def shares(rows: list[dict[str, Any]]) -> tuple[float, float]:
    """Of captions with the right direction, and with the right name."""
    pairs = [(row["text"].split(" moves the "), (row["caption"] or "").split(" moves the ")) for row in rows]
    directions = [said[0] == meant[0] for meant, said in pairs]
    names = [len(said) == 2 and emoji.plain(said[1]) == emoji.plain(meant[1]) for meant, said in pairs]
    return sum(directions) / len(rows), sum(names) / len(rows)


def main(minutes: float, samples: int, where: str) -> None:
    """Builds, teaches, prints."""
    parts = emoji.parts()
    other = {picture.name: picture for picture in parts.new_artist_validation}
    names = sorted(name for name in other if len(name.split()) == 1)[:NAMES]
    trained = [picture for picture in parts.train if picture.name in names]
    with kept(where) as (folder, fresh):
        if fresh:
            write(folder / "train", trained, samples, 0)
            write(folder / "new-artist", [other[name] for name in names], TEST_SAMPLES, 1)
            write(folder / "backwards", [other[name] for name in names], TEST_SAMPLES, 1, backwards=True)
            prepared(folder, "video", "--frames.n-frames", str(FRAMES), "--picture.short-side-px", str(SIDE_PX), test=PARTS)
        if not minutes:
            return
        train = (*TRAIN, "--backbone-weights", backbone_weights(), "--max-minutes", str(minutes))
        found = taught(folder, "video", *train, test=PARTS)
    for row in found["new-artist"][:8]:
        print(f"  {row['text']} -> {row['caption']}")
    right, named = shares(found["new-artist"])
    print(f"another artist: direction {right:.3f}, name {named:.3f} of {TEST_SAMPLES}; guessing gets {1 / len(STEPS):.3f}, {1 / NAMES:.3f}")
    turned = [row | {"text": row["text"].replace(*_turned(row["text"]), 1)} for row in found["backwards"]]
    print(f"backwards: the other direction {shares(turned)[0]:.3f}")


def _turned(text: str) -> tuple[str, str]:
    said = text.split(" ", 1)[0]
    return said, {"left": "right", "right": "left", "up": "down", "down": "up"}[said]


if __name__ == "__main__":
    given = dict(enumerate(sys.argv))
    main(float(given.get(1, 3.0)), int(given.get(2, 3000)), given.get(3, ""))
