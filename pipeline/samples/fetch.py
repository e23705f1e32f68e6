"""Original members of single samples, by where they stand: for the quarantine table and `replay`."""

from collections.abc import Sequence

from pipeline.samples.spans import Member
from pipeline.samples.tar import scan
from pipeline.samples.unpack import Unpacked, has_gzip_magic
from pipeline.samples.window import Window
from pipeline.storage import Reader


def fetch_members(
    reader: Reader, *, packed: bool | None = None, spans: Sequence[tuple[int, int]], max_bytes: int
) -> list[list[tuple[str, bytes]] | None]:
    """Names and payloads of the members in each span (offset and size in the tar, bytes), in the order of `spans`.

    Ranged reads where the tar is plain, one pass forward where it is gzip. None where a span is larger than `max_bytes`
    or no member can be read in it. OSError of the storage travels.
    """
    unpacked = Unpacked(reader) if (has_gzip_magic(reader) if packed is None else packed) else None
    source: Reader = reader if unpacked is None else unpacked
    found: list[list[tuple[str, bytes]] | None] = [None] * len(spans)
    for at in sorted(range(len(spans)), key=lambda at: spans[at]):
        offset, size = spans[at]
        if 0 < size <= max_bytes:
            found[at] = _members(source, offset, size)
    if unpacked is not None:
        unpacked.close()
    return found


def _members(source: Reader, offset: int, size: int) -> list[tuple[str, bytes]] | None:
    window = Window(_Slice(source, offset, size))
    members = [
        (span.name, window.read(span.data, span.size))
        for span in scan(window)
        if isinstance(span, Member) and span.kind in ("file", "sparse")
    ]
    return members or None


class _Slice:
    """One span of a file, in memory, as a file."""

    def __init__(self, source: Reader, offset: int, size: int) -> None:
        self._data = memoryview(bytearray(size))
        self.size = source.read_into(offset, self._data)

    def read_into(self, offset: int, view: memoryview) -> int:
        """As `storage.Reader` does."""
        piece = self._data[offset : min(self.size, offset + len(view))]
        view[: len(piece)] = piece
        return len(piece)

    def close(self) -> None:
        """Nothing is held open."""
