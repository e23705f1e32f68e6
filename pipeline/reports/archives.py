"""Archives that `prepare --format webdataset` made, for a page: how many rows they hold, their first rows, media of a few of them.

What a Parquet file tells by its columns stands here in a `json` beside each medium, so that only the first rows of the archives that
are shown are read, media jumped over; counts of all archives stand in a file beside each.
"""

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing
from typing import Any

import pyarrow as pa

from pipeline import schema, storage
from pipeline.samples.group import Sample, read_samples

SUFFIX, STATS = ".tar", "_stats.json"
AT = "at"
"""Column of a row's place in its archive, which `index` is not: refused samples are left out."""
_DESCRIBED = frozenset(("json", "txt"))


def counts_of(store: storage.Folder, name: str) -> Counter[str]:
    """Rows (`rows`) and rows by modality of an archive; none where nothing stands beside it."""
    try:
        counts = json.loads(store.get(name.removesuffix(SUFFIX) + STATS))["counts"]
        return Counter({key: int(counts[key]) for key in ("rows", *schema.MODALITIES, "text") if counts.get(key)})
    except (FileNotFoundError, ValueError, TypeError, KeyError):
        return Counter()


def first_rows(url: str, count: int, columns: Sequence[str]) -> pa.Table:
    """Columns of schema.PREPARED, none of media, of the first `count` rows, and `AT`. Samples that no `prepare` wrote are passed over."""
    fields = [schema.PREPARED.field(name) for name in columns if name in schema.PREPARED.names]
    rows = []
    for sample in _samples(url, only=_DESCRIBED, stop_after=count):
        data = {field.name: field.data or b"" for field in sample.fields if field.name in _DESCRIBED}
        try:
            described = json.loads(data.get("json", b""))
        except ValueError:
            continue
        if isinstance(described, dict) and isinstance(described.get("index"), int):
            text = data["txt"].decode("utf-8", "replace") if "txt" in data else None
            rows.append(described | {"text": text, AT: sample.index})
    return pa.Table.from_pylist(rows, pa.schema([*fields, pa.field(AT, pa.int64())]))


def media_at(url: str, places: Sequence[int]) -> Iterator[tuple[int, dict[str, Any]]]:
    """Place, and the columns image, audio and frames, of the rows at these places."""
    todo = tuple((place, place) for place in sorted(set(places)))
    for sample in _samples(url, todo=todo, stop_after=max(places) + 1):
        data = {field.name: field.data for field in sample.fields}
        frames = [data[name] for name in sorted(data) if name.startswith("frame")]
        yield sample.index, {"image": data.get("jpg"), "audio": data.get("flac"), "frames": frames}


def _samples(url: str, **options: Any) -> Iterator[Sample]:
    with closing(storage.open_reader(url)) as reader:
        for sample in read_samples(reader, packed=False, max_sample_bytes=1 << 30, **options):
            if isinstance(sample, Sample) and sample.problem is None:
                yield sample
