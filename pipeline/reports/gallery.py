"""Samples as a page shows them: a thumbnail, a clip of sound, frames of a video, with reference and caption.

Media come from the archives, by one pass over the headers of each archive that is shown, or from prepared rows, which
carry them. Whatever cannot be read or decoded is shown without its medium and says why: a page must not fail for it.
"""

import base64
import io
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from pipeline import storage
from pipeline.errors import Reason, SampleError
from pipeline.reports.archives import AT, media_at
from pipeline.samples.decode import codec_boundary
from pipeline.samples.frames import FramesConfig, sample_frames
from pipeline.samples.group import Sample, read_samples
from pipeline.samples.medium import Pixels, Wave, modality_of
from pipeline.samples.resize import PictureConfig, normalise_picture
from pipeline.samples.wave import WaveConfig, decode_wave

SIDE_PX, QUALITY, FRAMES = 200, 78, 4
CLIP_S, CLIP_RATE_HZ, CLIP_BITS_PER_S = 12.0, 16_000, 32_000
MEDIA_BYTES = 7 << 20
"""All media of a page, before base64 makes them a third larger."""
SAMPLE_BYTES = 64 << 20
"""A sample above this size is shown without its medium."""
DANGEROUS = frozenset({Reason.CRASHED, Reason.HUNG, Reason.OUT_OF_BOUNDS_MEMORY, Reason.TOO_MANY_PIXELS, Reason.TOO_LARGE})
"""Rejects that are not decoded here: what killed a guarded process would kill this one."""


@dataclass(slots=True)
class Shown:
    """One sample of the gallery."""

    row: dict[str, Any]
    """The row of its table."""
    pictures: list[str] = field(default_factory=list)
    """data: URLs of JPEGs."""
    sound: str | None = None
    """data: URL of an MP3."""
    cut: bool = False
    """The sound goes on beyond what is played."""
    note: str = ""
    """Why there is no medium."""


class Budget:
    """Bytes that media of a page may still take."""

    def __init__(self, size: int) -> None:
        self.left = size

    def url(self, kind: str, data: bytes) -> str | None:
        """The bytes as a data: URL, or None where the page is full."""
        if len(data) > self.left:
            return None
        self.left -= len(data)
        return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def show(rows: Sequence[dict[str, Any]], *, output: str, root: str | None, table: str, size_bytes: int = MEDIA_BYTES) -> list[Shown]:
    """The rows with their media, as far as the bound on bytes allows; in the order given."""
    shown = [Shown(row) for row in rows]
    groups: dict[str, list[Shown]] = defaultdict(list)
    for one in shown:
        groups[one.row["shard"] if table == "captions" else one.row["table"]].append(one)
    budget = Budget(size_bytes)
    for name, members in groups.items():
        try:
            if table == "prepared":
                _from_rows(f"{output}/{name}", members, budget)
            elif table == "archives":
                _from_prepared_archive(f"{output}/{name}", members, budget)
            else:
                _from_archive(f"{root}/{name}" if root else name, members, budget)
        except (OSError, pa.ArrowInvalid) as exc:
            gone = isinstance(exc, FileNotFoundError)  # pyarrow's has no strerror, and a long message
            problem = "No such file" if gone else exc.strerror if isinstance(exc, OSError) and exc.strerror else str(exc).splitlines()[0]
            for one in members:
                one.note = one.note or f"{'the table' if table == 'prepared' else 'the archive'} cannot be read: {problem}"
    return shown


def _from_archive(url: str, members: Sequence[Shown], budget: Budget) -> None:
    wanted = _by_index(members)
    reader = storage.open_reader(url)
    try:
        todo = tuple((index, index) for index in sorted(wanted))
        for sample in read_samples(reader, max_sample_bytes=SAMPLE_BYTES, todo=todo, stop_after=max(wanted) + 1):
            if isinstance(sample, Sample):
                for one in wanted[sample.index]:
                    _fill(one, sample, budget)
    finally:
        reader.close()


def _by_index(members: Sequence[Shown]) -> dict[int, list[Shown]]:
    """A sample may be shown twice: in the gallery, and as one of the best."""
    found: dict[int, list[Shown]] = defaultdict(list)
    for one in members:
        found[one.row["index"]].append(one)
    return dict(found)


def _fill(one: Shown, sample: Sample, budget: Budget) -> None:
    if sample.key != one.row["key"]:
        one.note = "the archive holds another sample there now"
        return
    if sample.problem is not None:
        one.note = str(sample.problem)
        return
    fill(one, [(member.name, member.data or b"") for member in sample.fields], budget)


def fill(one: Shown, members: Iterable[tuple[str, bytes]], budget: Budget) -> None:
    """Shows the first medium of members (field, bytes), unless it was rejected because decoding it is dangerous."""
    if one.row.get("reason") in DANGEROUS:
        one.note = f"{one.row['reason']}: not decoded again"
        return
    for field_name, data in members:
        modality = modality_of(field_name)
        if modality is not None and data:
            _medium(one, modality, data, field_name, budget)
            return
    one.note = "no medium"


def _from_rows(url: str, members: Sequence[Shown], budget: Budget) -> None:
    """Of a prepared table only the row groups are read that hold a wanted row."""
    filesystem, path = storage.resolve(url)
    wanted = _by_index(members)
    with filesystem.open_input_file(path) as file:
        parquet = pq.ParquetFile(file)
        for group in range(parquet.num_row_groups):
            here = wanted.keys() & set(parquet.read_row_group(group, columns=["index"]).column("index").to_pylist())
            for batch in parquet.iter_batches(64, row_groups=[group], columns=["index", "image", "audio", "frames"]) if here else ():
                for at, index in enumerate(batch.column("index").to_pylist()):
                    for one in wanted[index] if index in here else ():
                        _prepared(one, batch.slice(at, 1).to_pylist()[0], budget)
                    here.discard(index)
                if not here:
                    break


def _from_prepared_archive(url: str, members: Sequence[Shown], budget: Budget) -> None:
    shown = {one.row[AT]: one for one in members}
    for place, row in media_at(url, list(shown)):
        _prepared(shown[place], row, budget)


def _prepared(one: Shown, row: dict[str, Any], budget: Budget) -> None:
    if row["image"] is not None:
        _medium(one, "image", row["image"], "jpg", budget)
    for frame in (row["frames"] or [])[:FRAMES]:
        _medium(one, "image", frame, "jpg", budget)
    if row["audio"] is not None:
        _medium(one, "audio", row["audio"], "flac", budget)


def _medium(one: Shown, modality: str, data: bytes, name: str, budget: Budget) -> None:
    try:
        with codec_boundary():
            if modality == "image":
                _add_pictures(one, [_thumbnail(data, name)], budget)
            elif modality == "video":
                clip = sample_frames(data, name, FramesConfig(n_frames=FRAMES), _PICTURE)
                _add_pictures(one, clip.jpegs or (), budget)
            else:
                wave_t = decode_wave(data, name, WaveConfig(sample_rate_hz=CLIP_RATE_HZ))
                one.cut = len(wave_t) > CLIP_S * CLIP_RATE_HZ
                one.sound = budget.url("audio/mpeg", _mp3(wave_t[: int(CLIP_S * CLIP_RATE_HZ)]))
                _add_pictures(one, [_drawn(wave_t)], budget)
    except (SampleError, MemoryError) as exc:
        one.note = str(exc)


_PICTURE = PictureConfig(short_side_px=SIDE_PX, quality=QUALITY, keep_within=False)


def _add_pictures(one: Shown, jpegs: Iterable[bytes], budget: Budget) -> None:
    for jpeg in jpegs:
        url = budget.url("image/jpeg" if jpeg[:2] == b"\xff\xd8" else "image/png", jpeg)
        if url is None:
            one.note = "left out: the page holds as many media as it may"
            return
        one.pictures.append(url)


def _thumbnail(data: bytes, name: str) -> bytes:
    picture = normalise_picture(data, name, _PICTURE)
    if max(picture.width, picture.height) <= 4 * SIDE_PX or picture.pixels_hwc is None:
        return picture.jpeg
    image = Image.fromarray(picture.pixels_hwc)  # a panorama: the longer side decides
    image.thumbnail((4 * SIDE_PX, 4 * SIDE_PX))
    return _encoded(image, "JPEG", quality=QUALITY)


def _encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def _drawn(wave_t: Wave) -> bytes:
    """The loudness over time as a small PNG, transparent where there is none: works on light and dark."""
    width, height = 320, 64
    edges = np.linspace(0, len(wave_t), width + 1).astype(int)
    peaks = np.array(
        [np.abs(wave_t[lo : max(hi, lo + 1)].astype(np.int32)).max(initial=0) for lo, hi in zip(edges, edges[1:], strict=False)]
    )
    half = np.maximum(1, peaks / max(int(peaks.max(initial=0)), 1) * (height / 2 - 1))
    rows = np.abs(np.arange(height) - (height - 1) / 2)[:, None]
    pixels: Pixels = np.zeros((height, width, 4), np.uint8)
    pixels[rows <= half[None, :]] = (99, 118, 232, 255)
    return _encoded(Image.fromarray(pixels), "PNG", optimize=True)


def _mp3(wave_t: Wave) -> bytes:
    """int16 mono at CLIP_RATE_HZ -> MP3, which every browser plays."""
    stream = io.BytesIO()
    with av.open(stream, "w", format="mp3", options={"write_xing": "0", "id3v2_version": "0"}) as container:
        track: Any = container.add_stream("libmp3lame", rate=CLIP_RATE_HZ, layout="mono")
        track.bit_rate = CLIP_BITS_PER_S
        for start in range(0, len(wave_t), 1152):
            frame: Any = av.AudioFrame.from_ndarray(np.ascontiguousarray(wave_t[None, start : start + 1152]), format="s16p", layout="mono")
            frame.sample_rate = CLIP_RATE_HZ
            frame.pts = start
            container.mux(track.encode(frame))
        container.mux(track.encode(None))
    return stream.getvalue()
