"""A clean plain tar in half the time: for `check` without hashes, whose work is little more than reading.

Headers are collected while the file passes through a small buffer, and judged some thousand at a time. Anything but a plain
ustar or GNU archive with whole headers, zero padding, one run a key and a proper end makes it give up: `scan` then starts over
and says what there is. So it never has to explain anything. The last member is left to `scan`, which also knows losses that
only the end of an archive shows.
"""

from collections import defaultdict
from collections.abc import Sequence
from itertools import groupby
from operator import gt, methodcaller
from typing import Any, Protocol
from zlib import adler32

import numpy as np
from numpy.typing import NDArray

from pipeline.samples.group import EndOfShard, Field
from pipeline.samples.header import BLOCK
from pipeline.samples.spans import Member, Padding
from pipeline.samples.tar import scan
from pipeline.samples.window import Window
from pipeline.storage import Reader

CHUNK_BYTES = 512 << 10
"""Half of a core's L2 cache: what was read is still there when headers are taken from it."""
_BATCH = 2048
_PADS = tuple(bytes(n) for n in range(BLOCK))
_OCTAL = 8 ** np.arange(5, -1, -1)
_ADLER = 65_521
_STARTS_META = methodcaller("startswith", "__")


class Counts(Protocol):
    """Who is told what was found: `survey.Observer`."""

    looked_at: int
    """Samples from the start whose fields it wants to see."""
    max_sample_bytes: int

    def add_sizes(self, name: str, sizes: Sequence[int]) -> None: ...
    def add_keys(self, keys: Sequence[str], out_of_order: int) -> None: ...
    def measure(self, fields: Sequence[Field]) -> None: ...
    def end(self, end: EndOfShard) -> None: ...
    def keys_differ(self) -> bool: ...


class _Unusual(Exception):
    """Not for the short way."""


class _Headers:
    """Headers in order, a column a fact."""

    __slots__ = ("adlers", "blocks", "offsets", "sizes")

    def __init__(self) -> None:
        self.offsets: list[int] = []
        """Bytes: where each stands."""
        self.blocks: list[bytearray] = []
        self.adlers: list[int] = []
        self.sizes: list[int] = []

    def keep_last(self) -> None:
        """Drops all but the last."""
        for column in (self.offsets, self.blocks, self.adlers, self.sizes):
            del column[:-1]


def skim(reader: Reader, counts: Counts) -> bool:
    """Reads every byte of a plain tar; False where it gave up, and what `counts` was told is void. OSError travels."""
    batches = _Batches(counts)
    try:
        end = _walk(reader, batches)
        members: list[Member] = []
        pads = 0
        for span in scan(Window(_Rest(reader, end), CHUNK_BYTES)):
            if isinstance(span, Padding):
                pads = span.end - span.start
            elif isinstance(span, Member) and span.kind == "file":
                members.append(span)
            else:
                return False
        batches.take([span.name for span in members], [span.size for span in members], [end + span.data for span in members])
        batches.close()
    except _Unusual:
        return False
    if not counts.keys_differ():
        return False
    account = EndOfShard(batches.samples, (), 0, reader.size - pads, pads, 0, reader.size)
    counts.end(account)
    return True


def _walk(reader: Reader, batches: "_Batches") -> int:
    """From header to header through the whole file; returns where the last one stands, which `batches` was not given."""
    buffer = bytearray(CHUNK_BYTES)
    view = memoryview(buffer)
    headers = _Headers()
    add_offset, add_block, add_adler, add_size = headers.offsets.append, headers.blocks.append, headers.adlers.append, headers.sizes.append
    base, held, here, pad = 0, reader.read_into(0, view), 0, 0
    while True:
        if here + BLOCK > held:
            if held < CHUNK_BYTES:
                raise _Unusual
            here -= held
            base += held
            held = reader.read_into(base, view)
            if len(headers.sizes) > _BATCH:
                batches.add(headers)
                headers.keep_last()
            continue
        if pad:  # the last block of a payload
            if not buffer.startswith(_PADS[pad], here + BLOCK - pad):
                raise _Unusual
            here += BLOCK
            pad = 0
            continue
        block = buffer[here : here + BLOCK]
        try:
            size = int(block[124:135], 8)
        except ValueError:  # zeros, if all is well
            break
        if size < 0:
            raise _Unusual
        add_offset(base + here)
        add_block(block)
        add_adler(adler32(block))
        add_size(size)
        here += BLOCK + size
        pad = -size & 511
        if pad:
            if here + pad <= held:
                if not buffer.startswith(_PADS[pad], here):
                    raise _Unusual
                here += pad
                pad = 0
            else:
                here += pad - BLOCK
    if not headers.sizes:
        raise _Unusual
    batches.add(headers)
    return headers.offsets[-1]


class _Rest:
    """A file from some byte on, as a file."""

    def __init__(self, reader: Reader, start: int) -> None:
        self._reader = reader
        self._start = start
        self.size = reader.size - start

    def read_into(self, offset: int, view: memoryview) -> int:
        return self._reader.read_into(self._start + offset, view)

    def close(self) -> None:
        """Nothing: the reader is another's."""


class _Batches:
    """Headers into samples, many at a time."""

    def __init__(self, counts: Counts) -> None:
        self._counts = counts
        self._key = ""
        self._open: set[tuple[str, str]] = set()  # key and fields of the sample that may go on in the next batch
        self._looked: list[Field] = []
        self.samples = 0

    def add(self, headers: _Headers) -> None:
        """Judges all headers but the last, and counts their members."""
        if len(headers.sizes) > 1:
            names = _names(b"".join(headers.blocks[:-1]), np.array(headers.adlers[:-1], np.int64))
            self.take(names, headers.sizes[:-1], [at + BLOCK for at in headers.offsets[:-1]])

    def take(self, names: Sequence[str], sizes: Sequence[int], offsets: Sequence[int]) -> None:
        """Counts members in order."""
        if not names:
            return
        counts = self._counts
        if max(sizes) > counts.max_sample_bytes // 8:
            raise _Unusual
        keys, fields = _split(names)
        pairs = set(zip(keys, fields, strict=True)) | self._open
        if len(pairs) < len(names) + len(self._open):
            raise _Unusual
        runs = [key for key, _ in groupby(keys)]
        order = sum(map(gt, [self._key, *runs], runs))
        if runs[0] == self._key and self.samples:
            del runs[0]
        if self.samples <= counts.looked_at:
            self._look(keys, fields, sizes, offsets)
        last = keys[-1]
        self._open = {pair for pair in pairs if pair[0] == last}
        self._key = last
        self.samples += len(runs)
        by_field: defaultdict[str, list[int]] = defaultdict(list)
        for name, size in zip(fields, sizes, strict=True):
            by_field[name].append(size)
        counts.add_keys(runs, order)
        for name, found in by_field.items():
            counts.add_sizes(name, found)

    def _look(self, keys: Sequence[str], fields: Sequence[str], sizes: Sequence[int], offsets: Sequence[int]) -> None:
        """Shows the fields of the first samples, each whole."""
        key, seen = self._key, self.samples
        for own, name, size, offset in zip(keys, fields, sizes, offsets, strict=True):
            if own != key:
                self._show()
                key, seen = own, seen + 1
            if seen > self._counts.looked_at:
                return
            self._looked.append(Field(name, size, None, offset))

    def _show(self) -> None:
        if self._looked:
            self._counts.measure(self._looked)
        self._looked = []

    def close(self) -> None:
        """Shows the last sample, if it was among the first."""
        self._show()


def _split(names: Sequence[str]) -> tuple[Sequence[str], Sequence[str]]:
    """Keys and fields; the plain cases of `group.split_name`."""
    if any(map(_STARTS_META, names)):
        raise _Unusual
    if any("/" in name for name in names):
        cut = [name.rpartition("/") for name in names]
        parts = [base.partition(".") for _, _, base in cut]
        keys: Sequence[str] = [folder + slash + stem for (folder, slash, _), (stem, _, _) in zip(cut, parts, strict=True)]
        stems, dots, fields = zip(*parts, strict=True)
    else:
        stems, dots, fields = zip(*[name.partition(".") for name in names], strict=True)
        keys = stems
    if "" in dots or "" in stems:
        raise _Unusual
    return keys, [name.lower() for name in fields]


def _names(blocks: bytes, adlers: NDArray[np.int64]) -> list[str]:
    """The names in headers whose checksums hold and that say nothing unusual."""
    table: NDArray[np.uint8] = np.frombuffer(blocks, np.uint8).reshape(-1, BLOCK)
    stored = table[:, 148:154].astype(np.int64) - 48
    sizes = table[:, 124:135]
    plain = bool(
        ((stored >= 0) & (stored < 8)).all()
        and ((sizes >= 48) & (sizes < 56)).all()
        and np.isin(table[:, 135], (0, 32)).all()
        and (table[:, 156] == 48).all()
        and (table[:, 345] == 0).all()
        and (table[:, 257:262] == np.frombuffer(b"ustar", np.uint8)).all()
    )
    # The low half of Adler-32 is one plus the sum of all bytes; the checksum counts its own field as blanks.
    total: Any = stored @ _OCTAL + table[:, 148:156].sum(axis=1, dtype=np.int64) - 8 * 32
    if not plain or ((total + 1) % _ADLER != (adlers & 0xFFFF)).any():
        raise _Unusual
    names = np.ascontiguousarray(table[:, :100]).view("S100").ravel().tolist()
    joined = b"\n".join(names)
    if b"\0" in joined or joined.count(b"\n") != len(names) - 1:
        raise _Unusual
    try:
        return joined.decode().split("\n")
    except UnicodeDecodeError:
        raise _Unusual from None
