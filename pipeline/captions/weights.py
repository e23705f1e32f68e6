"""Where a model lies, and who it is: the identity that goes into the recipe."""

import difflib
import hashlib
import json
import os
import struct
from pathlib import Path
from typing import Any

from pipeline.errors import RequestError

EDGE_BYTES = 1 << 20
PIECES, PIECE_BYTES = 64, 64 << 10
"""Places between the edges of a weight file that are read, evenly spread, and bytes at each."""
_WHOLE = {".json", ".txt", ".model", ".jinja"}
_WEIGHTS = {".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".onnx", ".msgpack"}


def locate(model: str, *, wanted: tuple[str, ...] = ("config.json",), patterns: list[str] | None = None, download: bool = False) -> Path:
    """The folder of a model: a local one, or a hub's snapshot. RequestError with the nearest names where there is none.

    On the driver (`download=False`) only the small files named by `wanted` are fetched from a hub, on a worker all of it.
    """
    if not model:
        raise RequestError("this engine needs --model: a folder, or a hub name such as owner/name")
    folder = Path(model).expanduser()
    if folder.is_dir():
        missing = [name for name in wanted if not (folder / name).is_file()]
        if missing:
            raise RequestError(
                f"--model {model}: no {missing[0]} in that folder; it holds {', '.join(sorted(os.listdir(folder))[:6]) or 'nothing'}"
            )
        return folder
    if folder.exists() or model.startswith((".", "/", "~")) or model.count("/") > 1:
        raise RequestError(f"--model {model}: no such folder{_nearest(folder)}")
    return _from_hub(model, None if download else [*wanted, *(patterns or []), "*.json"], folder)


def nearest(name: str, known: list[str]) -> str:
    """`; did you mean x?` or what there is, for a message."""
    near = difflib.get_close_matches(name, known, 3, 0.3)
    return f"; did you mean {', '.join(near)}?" if near else f"; it has {', '.join(known[:5])}"


def _nearest(folder: Path) -> str:
    parent = folder.parent
    while not parent.is_dir():
        parent = parent.parent
    names = [path.name for path in parent.iterdir() if path.is_dir()] if os.access(parent, os.R_OK) else []
    near = difflib.get_close_matches(folder.name, names, 3, 0.3)
    return f"; near it: {', '.join(str(parent / name) for name in near)}" if near else f"; {parent} exists"


def _from_hub(model: str, patterns: list[str] | None, folder: Path) -> Path:
    import huggingface_hub

    try:
        return Path(huggingface_hub.snapshot_download(model, allow_patterns=patterns, etag_timeout=5))
    except Exception as exc:
        first = (str(exc).strip() or type(exc).__name__).splitlines()[0]
        raise RequestError(f"--model {model}: no such folder{_nearest(folder)}; and no hub gives it ({first[:160]})") from exc


def identity(folder: Path) -> dict[str, Any]:
    """Hub commit of a snapshot, else a SHA-256 over names, sizes, configurations, and samples of the weights."""
    if folder.parent.name == "snapshots":
        return {"name": folder.parent.parent.name, "commit": folder.name}
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.suffix not in _WHOLE | _WEIGHTS or not path.is_file() or path.name.startswith("."):
            continue
        size = path.stat().st_size
        digest.update(f"{path.relative_to(folder).as_posix()}\0{size}\0".encode())
        digest.update(path.read_bytes() if path.suffix in _WHOLE else _samples(path, size))
    return {"name": folder.name, "sha256": digest.hexdigest()}


def _samples(path: Path, size: int) -> bytes:
    """What tells one weight file from another without reading it all: safetensors header, first and last MiB, and pieces between.

    Reading 10 GB would take half a minute at every start. A fine-tuned model may keep the layers at both ends, but then
    its pieces differ; a file changed in a single place between them is taken for the same.
    """
    with path.open("rb") as file:
        found = []
        if path.suffix == ".safetensors" and size > 8:
            (length,) = struct.unpack("<Q", file.read(8))
            found.append(file.read(min(length, 64 * EDGE_BYTES)))
        found.append(file.read(EDGE_BYTES))
        for number in range(1, PIECES):
            file.seek(number * size // PIECES)
            found.append(file.read(PIECE_BYTES))
        file.seek(max(0, size - EDGE_BYTES))
        return b"".join([*found, file.read(EDGE_BYTES)])


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object. RequestError where it is none."""
    try:
        parsed = json.loads(path.read_text())
    except (OSError, ValueError) as exc:
        raise RequestError(f"{path} cannot be read: {exc}") from exc
    if not isinstance(parsed, dict):
        raise RequestError(f"{path} holds no JSON object")
    return parsed


def sample_seed(seed: int, payload: bytes) -> int:
    """Seed of one sample, from the run's seed and its medium: the same whatever stands beside it. 0..2**31 - 1."""
    return int.from_bytes(hashlib.sha256(struct.pack("<q", seed) + payload).digest()[:4], "little") & 0x7FFFFFFF
