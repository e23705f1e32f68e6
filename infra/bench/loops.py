"""What one would write by hand: tar to Parquet with the same codecs, without accounts, guards, hashes or resume."""

import io
import subprocess
import tarfile
import tempfile
import time
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import simplejpeg
import soxr
import torch
from PIL import Image
from tokenizers import Tokenizer
from torch.nn.functional import interpolate

SIDE_PX, QUALITY, RATE_HZ, FRAMES = 256, 90, 16_000, 8


def one_thread() -> None:
    """A process for a core."""
    torch.set_num_threads(1)


def _tokenizer(folder: str) -> Tokenizer:
    found = Tokenizer.from_file(f"{folder}/tokenizer.json")
    found.no_padding()
    found.enable_truncation(64)
    return found


def jpeg(data: bytes) -> bytes:
    """Shorter side to SIDE_PX."""
    return _stored(simplejpeg.decode_jpeg(data, "RGB"))


def _stored(pixels_hwc: np.ndarray) -> bytes:
    height, width = pixels_hwc.shape[:2]
    scale = SIDE_PX / min(height, width)
    # Strides of a batch of one that leave no doubt about the layout, or torch takes it apart by channels.
    pixels = torch.from_numpy(pixels_hwc).as_strided((1, 3, height, width), (pixels_hwc.size, 1, width * 3, 3))
    small = interpolate(pixels, size=[int(height * scale), int(width * scale)], mode="bicubic", antialias=True)
    return simplejpeg.encode_jpeg(np.ascontiguousarray(small[0].permute(1, 2, 0).numpy()), QUALITY, "RGB", "420")


def _members(path: str) -> Any:
    with tarfile.open(path) as tar:
        for member in tar:
            stream = tar.extractfile(member)
            assert stream is not None
            yield member.name.split(".", 1), stream.read()
            tar.members = []  # type: ignore[assignment]  # or it keeps all of them


def pictures(job: tuple[str, str, str]) -> int:
    """(tar, table, tokenizer folder) -> samples."""
    path, target, tokenizer = job
    keys, images, texts = [], [], []
    for (key, name), data in _members(path):
        if name == "jpg":
            keys.append(key)
            images.append(jpeg(data))
        else:
            texts.append(data.decode())
    ids = [encoding.ids for encoding in _tokenizer(tokenizer).encode_batch(texts)]
    columns = {"key": keys, "text": texts, "token_ids": pa.array(ids, pa.list_(pa.int32())), "image": pa.array(images, pa.large_binary())}
    pq.write_table(pa.table(columns), target, compression="NONE", use_dictionary=False)
    return len(keys)


def codecs(path: str) -> float:
    """Samples a second of decoding, resizing and encoding alone, from memory, by CPU time."""
    held = [data for (_, name), data in _members(path) if name == "jpg"]
    began = time.process_time()
    for data in held:
        jpeg(data)
    return len(held) / (time.process_time() - began)


def audio(job: tuple[str, str, str]) -> int:
    """Any container -> mono FLAC."""
    path, target, _ = job
    keys, stored = [], []
    for (key, _), data in _members(path):
        keys.append(key)
        stored.append(_flac(_wave(data)))
    pq.write_table(pa.table({"key": keys, "audio": pa.array(stored, pa.large_binary())}), target, compression="NONE", use_dictionary=False)
    return len(keys)


def _wave(data: bytes) -> np.ndarray:
    pieces = []
    with av.open(io.BytesIO(data)) as container:
        for frame in container.decode(audio=0):
            values, rate = frame.to_ndarray(), frame.sample_rate
            if not frame.format.is_planar:
                values = values.reshape(-1, len(frame.layout.channels)).T
            mono = values.astype(np.float32).mean(axis=0)
            pieces.append(mono if values.dtype.kind == "f" else mono / 2.0 ** (8 * values.dtype.itemsize - 1))
    wave = soxr.resample(np.concatenate(pieces), rate, RATE_HZ, quality="HQ")
    return np.rint(wave * 32_768).clip(-32_768, 32_767).astype(np.int16)


def _flac(wave: np.ndarray) -> bytes:
    stream = io.BytesIO()
    with av.open(stream, "w", format="flac") as container:
        track: Any = container.add_stream("flac", rate=RATE_HZ, layout="mono")
        track.codec_context.format = "s16"
        frame = av.AudioFrame.from_ndarray(wave[None], format="s16", layout="mono")
        frame.sample_rate = RATE_HZ
        container.mux(track.encode(frame))
        container.mux(track.encode(None))
    return stream.getvalue()


def video(job: tuple[str, str, str]) -> int:
    """PyAV alone: all frames decoded in order, every so many of them stored."""
    path, target, _ = job
    keys, stored = [], []
    for (key, _), data in _members(path):
        keys.append(key)
        stored.append(_frames(data))
    pq.write_table(
        pa.table({"key": keys, "frames": pa.array(stored, pa.list_(pa.large_binary()))}), target, compression="NONE", use_dictionary=False
    )
    return len(keys)


def _frames(data: bytes) -> list[bytes]:
    with av.open(io.BytesIO(data)) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        wanted = {int((at + 0.5) * stream.frames / FRAMES) for at in range(FRAMES)}
        found = []
        for number, frame in enumerate(container.decode(stream)):
            if number in wanted:
                found.append(_stored(frame.to_ndarray(format="rgb24")))
        return found


def naive_ray(folder: Path, tokenizer: str) -> float:
    """What the documentation suggests: Ray's reader, a row-wise map with PIL, Ray's writer."""
    import ray

    output = tempfile.mkdtemp(dir=folder)
    state: dict[str, Tokenizer] = {}

    def row(sample: dict[str, Any]) -> dict[str, Any]:
        if "it" not in state:
            state["it"] = _tokenizer(tokenizer)
        picture = Image.open(io.BytesIO(sample["jpg"])).convert("RGB")
        scale = SIDE_PX / min(picture.size)
        picture = picture.resize([int(side * scale) for side in picture.size], Image.Resampling.BICUBIC)
        stream = io.BytesIO()
        picture.save(stream, "JPEG", quality=QUALITY)
        text = sample["txt"].decode() if isinstance(sample["txt"], bytes) else sample["txt"]
        return {"key": sample["__key__"], "text": text, "token_ids": state["it"].encode(text).ids, "image": stream.getvalue()}

    began = time.perf_counter()
    rows = ray.data.read_webdataset(str(folder / "shards"), decoder=None).map(row)
    rows.write_parquet(output)
    spent = time.perf_counter() - began
    count = sum(pq.read_metadata(path).num_rows for path in Path(output).glob("*.parquet"))
    return count / spent


def webdataset_loader(folder: Path, tokenizer: str, workers: int) -> float:
    """webdataset's reader and its loader with a worker a core, the same codec; this process writes what they make, as a trainer would take it."""
    import webdataset

    output = Path(tempfile.mkdtemp(dir=folder))
    state: dict[str, Tokenizer] = {}

    def row(sample: dict[str, Any]) -> dict[str, Any]:
        if "it" not in state:
            one_thread()
            state["it"] = _tokenizer(tokenizer)
        text = sample["txt"].decode()
        return {"key": sample["__key__"], "text": text, "token_ids": state["it"].encode(text).ids, "image": jpeg(sample["jpg"])}

    urls = [str(path) for path in sorted((folder / "shards").glob("*.tar"))]
    source = webdataset.WebDataset(urls, shardshuffle=False).map(row).batched(250, collation_fn=pa.Table.from_pylist)
    began, count = time.perf_counter(), 0
    writer = None
    for table in webdataset.WebLoader(source, batch_size=None, num_workers=workers):
        if writer is None:
            writer = pq.ParquetWriter(output / "0.parquet", table.schema, compression="NONE", use_dictionary=False)
        writer.write_table(table)
        count += table.num_rows
    if writer is not None:
        writer.close()
    return count / (time.perf_counter() - began)


def daft(folder: Path, python: str) -> float:
    """Daft in an interpreter of its own, which stays no dependency of ours."""
    script = str(Path(__file__).with_name("daft_pictures.py"))
    done = subprocess.run([python, script, str(folder / "shards")], check=True, capture_output=True, text=True)
    return float(done.stdout.split()[-1])
