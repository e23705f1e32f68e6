"""Cost of `prepare` beside its codecs, by picture: ours and the loop's turn by turn, CPU time of one core, so that a busy machine weighs on both.

python infra/bench/fine.py TOKENIZER_FOLDER
"""

import os
import sys
import tarfile
import tempfile
import time
from collections import defaultdict
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import loops
from photographs import jpegs

from pipeline.attempts import Attempts
from pipeline.samples.careful import Careful
from pipeline.samples.chain import ChainConfig, Item
from pipeline.samples.chunks import ShardTask, describe, origin_of
from pipeline.samples.group import Field, Sample
from pipeline.samples.guard import Limits
from pipeline.samples.tokens import Tokenizer, TokenizerConfig


def main() -> None:
    """Prints milliseconds a picture."""
    loops.one_thread()
    folder = sys.argv[1]
    tokenizer = Tokenizer.load(folder)
    config = ChainConfig(tokens=TokenizerConfig(tokenizer=folder))
    careful = Careful("pipeline.samples.chain:ChainWork", (config, tokenizer), Limits(300.0, 4 << 30), Attempts(None, "bench", "bench"))
    theirs = loops._tokenizer(folder)
    spent: dict[str, float] = defaultdict(float)
    origin = origin_of(ShardTask("x", "x", "x"))
    pictures = jpegs(400, 3)
    text = b"a red cup of the old house near the river"
    for number, data in enumerate(pictures):
        fields = (Field("jpg", len(data), data), Field("txt", len(text), text))
        sample = Sample(number, f"{number}", 0, len(data), fields, None, False)
        began = time.process_time()
        row, medium = describe(sample, origin, config.media)
        described = time.process_time()
        assert medium is not None
        ((columns, _),) = careful.run(number, Item(fields, medium, row["modality"]))
        done = time.process_time()
        mine = loops.jpeg(data)
        alone = time.process_time()
        theirs.encode(text.decode())
        ended = time.process_time()
        assert len(columns["image"]) == len(mine)
        if number >= 20:
            spent["ours: describe, hash"] += described - began
            spent["ours: chain, guarded"] += done - described
            spent["loop: codecs"] += alone - done
            spent["loop: tokenise"] += ended - alone
    count = len(pictures) - 20
    for name, seconds in spent.items():
        print(f"{name:<24} {1000 * seconds / count:.3f} ms")
    _tar(pictures)


def _tar(pictures: list[bytes]) -> None:
    """Reading the archive: ours, and tarfile."""
    from corpus import write_tar

    from pipeline import storage
    from pipeline.samples.chunks import chunks

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "a.tar")
        write_tar(
            path, [(f"{at:06d}.{name}", data if name == "jpg" else b"text") for at, data in enumerate(pictures) for name in ("jpg", "txt")]
        )
        for _ in range(3):
            began = time.process_time()
            for _ in chunks(ShardTask(str(path), "a.tar", "f"), storage.open_reader(str(path)), 1 << 30):
                pass
            ours = time.process_time()
            with tarfile.open(path) as tar:
                for member in tar:
                    stream = tar.extractfile(member)
                    assert stream is not None
                    stream.read()
            ended = time.process_time()
        print(
            f"{'ours: read':<24} {1000 * (ours - began) / len(pictures):.3f} ms\n{'loop: read':<24} {1000 * (ended - ours) / len(pictures):.3f} ms"
        )


if __name__ == "__main__":
    main()
