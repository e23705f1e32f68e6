"""One archive's plan -> the archive, its rejects before it. Runs in one task; memory is the writer's buffer and a batch of the index.

An archive appears whole or not at all, and once it exists it is done. A sample that cannot be read or downloaded now is a
reject and leaves its key unused, so that no other key depends on it.

Downloads, whose sizes no plan knows, may be more than an archive is to hold: then further ones follow, `shard-00003_001.tar`,
which appear before the first. They depend on what was downloaded alone.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from operator import itemgetter

from pipeline.errors import SampleError
from pipeline.shards import rejects as tables
from pipeline.shards.download import DownloadConfig, Downloads
from pipeline.shards.index import ItemRow, read_rows
from pipeline.shards.item import Bad, Place
from pipeline.shards.order import ShardPlan
from pipeline.shards.parts import open_parts, part_path
from pipeline.shards.rejects import Rejects
from pipeline.storage import Folder, open_reader

KEY_DIGITS = 9


@dataclass(frozen=True, slots=True)
class PackConfig:
    """How archives are written, the same for all of a run."""

    output: str
    prefix: str
    downloads: DownloadConfig
    max_bytes: int
    """Most bytes of an archive."""
    tag: str = ""
    """In the names of temporary files: what a dead worker left can be told."""


@dataclass(frozen=True, slots=True)
class Packed:
    """The receipt of an archive."""

    path: str
    """Below the output."""
    samples: int
    size_bytes: int
    rejects: dict[str, int]
    """Samples by the reason why they are not in it."""
    examples: list[list[str]]
    """Up to three a reason: [reason, source, name, detail]."""
    seconds: float


def shard_path(prefix: str, number: int) -> str:
    """Of an archive, below the output."""
    return f"{prefix}-{number:05d}.tar"


def samples_of(store: Folder, plan: ShardPlan, path: str, lost: Sequence[int]) -> list[tuple[str, int]]:
    """The archives of a plan that is done, with their samples; `lost`: positions of its rejects."""
    paths, firsts = [path], [plan.first]
    while store.exists(part_path(path, len(paths))):
        paths.append(part_path(path, len(paths)))
        with closing(open_reader(f"{store.url}/{paths[-1]}")) as reader:
            key = bytearray(KEY_DIGITS)
            reader.read_into(0, memoryview(key))
        firsts.append(int(key))
    ends = [*firsts[1:], plan.first + plan.samples]
    return [
        (one, end - first - sum(first <= position < end for position in lost)) for one, first, end in zip(paths, firsts, ends, strict=True)
    ]


def rejects_path(path: str) -> str:
    """Of an archive's rejects, below the output."""
    return f"{tables.FOLDER}/{path.removesuffix('.tar')}.parquet"


def pack_shard(plan: ShardPlan, config: PackConfig) -> Packed:
    """Writes an archive and, before it appears, the table of its rejects."""
    started = time.perf_counter()
    store = Folder(config.output)
    path = shard_path(config.prefix, plan.number)
    with ExitStack() as stack:
        source = stack.enter_context(closing(_Source(plan, config)))
        parts = stack.enter_context(open_parts(store, path, config.max_bytes, config.tag))
        rejects = stack.enter_context(Rejects(store, rejects_path(path)))  # after the archive, so that its table appears before
        for key, row, problem in source.rows():
            if problem is None:
                try:
                    parts.add(key, sorted(row.members, key=itemgetter(0)))
                    continue
                except SampleError as error:
                    problem = error
            rejects.add(Bad(row.name, row.source, row.row, problem.reason, problem.detail, _url(row)), key)
    return Packed(path, parts.samples, parts.size_bytes, dict(rejects.counts), rejects.examples, time.perf_counter() - started)


class _Source:
    """The samples of a plan in order, with their keys; downloads run ahead of what is asked for."""

    def __init__(self, plan: ShardPlan, config: PackConfig) -> None:
        self._plan = plan
        self._config = config
        self._downloads: Downloads | None = None

    def close(self) -> None:
        """Gives up downloads under way, and deletes what was downloaded."""
        if self._downloads is not None:
            self._downloads.close()

    def rows(self) -> Iterator[tuple[str, ItemRow, SampleError | None]]:
        """(key, sample, why its download failed)."""
        rows = self._indexed()
        first = next(rows, None)
        if first is None:
            return
        position = self._plan.first
        if not any(_is_download(place) for _, place in first.members):  # a source is one or the other, but for odd rows
            yield self._key(position), first, None
            for row in rows:
                position += 1
                if any(_is_download(place) for _, place in row.members):
                    first = row
                    break
                yield self._key(position), row, None
            else:
                return
        self._downloads = Downloads(self._config.downloads)
        for row, problem in self._downloads.of(first, rows):
            yield self._key(position), row, problem
            position += 1

    def _key(self, position: int) -> str:
        return f"{position:0{KEY_DIGITS}d}"

    def _indexed(self) -> Iterator[ItemRow]:
        for span in self._plan.spans:
            yield from read_rows(f"{self._config.output}/{span.path}", span.start, span.stop)


def _is_download(place: bytes | Place) -> bool:
    return isinstance(place, Place) and place.size < 0 and place.url.startswith(("http://", "https://"))


def _url(row: ItemRow) -> str | None:
    return next((place.url for _, place in row.members if isinstance(place, Place) and _is_download(place)), None)
