"""Daft at the work of `prepare`: JPEGs read, decoded, brought to 256 px, encoded, written as Parquet. Prints pictures a second.

    PYTHON_WITH_DAFT infra/bench/daft_pictures.py FOLDER_OF_TARS

Daft is no dependency here: make a virtual environment with `pip install daft`, and name its Python in DAFT_PYTHON for
`prepare.py others`. Daft's own operators do all the work, on files unpacked beforehand, without tokens: what favours Daft.
"""

import sys
import tarfile
import tempfile
import time
from pathlib import Path

import daft
from daft.functions import decode_image, download, encode_image, resize

WIDTH, HEIGHT = 341, 256


def unpack(archives: Path, target: Path) -> int:
    """Pictures of the archives as files; their number."""
    count = 0
    for path in sorted(archives.glob("*.tar")):
        with tarfile.open(path) as tar:
            for member in tar:
                stream = tar.extractfile(member)
                if member.name.endswith(".jpg") and stream is not None:
                    (target / member.name).write_bytes(stream.read())
                    count += 1
    return count


def prepare(pictures: Path, output: str) -> None:
    """One pass of Daft's native runner."""
    rows = daft.from_glob_path(f"{pictures}/*.jpg")
    image = encode_image(resize(decode_image(download(daft.col("path")), mode="RGB"), WIDTH, HEIGHT), "jpeg")
    rows.select("path", image.alias("image")).write_parquet(output)


def main() -> None:
    """The second of two passes counts."""
    with tempfile.TemporaryDirectory() as name:
        pictures = Path(name, "pictures")
        pictures.mkdir()
        count, spent = unpack(Path(sys.argv[1]), pictures), 0.0
        for turn in range(2):
            began = time.perf_counter()
            prepare(pictures, f"{name}/{turn}")
            spent = time.perf_counter() - began
        print(count / spent)


if __name__ == "__main__":
    main()
