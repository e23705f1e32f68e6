"""The archives of one plan: nearly always one, more where downloads turn out larger than an archive is to be.

The first one, whose existence says that the plan is done, appears last; what an earlier attempt left of others is gone by then.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress

from pipeline import storage
from pipeline.samples.ustar import BLOCK, END
from pipeline.shards.write import Member, TarWriter


class _Empty(Exception):
    """Nothing is in the archive."""


@contextmanager
def open_parts(store: storage.Folder, path: str, max_bytes: int, tag: str = "") -> Iterator["Parts"]:
    """The archives whose first is `path`: all appear until the block ends, the first one last; if it raises, that one never does."""
    with store.create(path, tag, direct=True) as draft:
        parts = Parts(store, path, max_bytes, tag, draft)
        with parts.further:
            yield parts
            parts.finish()
        stale = parts.number + 1
        while store.exists(part_path(path, stale)):
            stale += 1
        for number in reversed(range(parts.number + 1, stale)):
            store.delete(part_path(path, number))


class Parts:
    """Appends samples to archives of bounded size."""

    def __init__(self, store: storage.Folder, path: str, max_bytes: int, tag: str, first: storage.Draft) -> None:
        self.samples = 0
        """In all archives."""
        self.size_bytes = 0
        """Of all archives that are ended."""
        self.number = 0
        """Of archives beside the first."""
        self.further = ExitStack()
        """The archive that is being written, if it is not the first."""
        self._store = store
        self._path = path
        self._max_bytes = max_bytes
        self._tag = tag
        self._tar = TarWriter(first)
        self._size = len(END)

    def add(self, key: str, members: Sequence[Member]) -> None:
        """Appends a sample. Raises as `TarWriter.add` does."""
        size = stored_bytes(members)
        if self._tar.samples and self._size + size > self._max_bytes:
            self._next()
        self._tar.add(key, members)
        self._size += size
        self.samples += 1

    def _next(self) -> None:
        self.size_bytes += self._tar.finish()
        self.further.close()
        self.number += 1
        self._tar = TarWriter(self.further.enter_context(self._store.create(part_path(self._path, self.number), self._tag, direct=True)))
        self._size = len(END)

    def finish(self) -> None:
        """Ends the last archive."""
        if self._tar.samples or not self.number:
            self.size_bytes += self._tar.finish()
            return
        self.number -= 1
        with suppress(_Empty), self.further:
            raise _Empty


def stored_bytes(members: Sequence[Member]) -> int:
    """What a sample takes in an archive, as long as its names are short."""
    sizes = [len(data) if isinstance(data, bytes) else max(0, data.size) for _, data in members]
    return sum(BLOCK + size + -size % BLOCK for size in sizes)


def part_path(path: str, number: int) -> str:
    """Of a further archive: sorts behind the first, before the next plan's."""
    return f"{path.removesuffix('.tar')}_{number:03d}.tar"
