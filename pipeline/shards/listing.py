"""What stands in a source: entries of one folder at a time, and texts, so that memory is bounded by the widest folder."""

import os
from collections.abc import Iterator
from contextlib import closing
from typing import NamedTuple

import pyarrow.fs as pafs

from pipeline import storage
from pipeline.errors import Reason, SampleError

TEXT_BYTES = 16 << 20
"""Longest text or json that is read into memory."""
_SHORT_BYTES = 8 << 10
"""Nearly all texts: what one call reads of them."""


class Entry(NamedTuple):
    """A file or folder as its folder lists it."""

    name: str
    """Within the folder."""
    is_folder: bool
    is_link: bool = False
    """A symbolic link; it may lead out of the source."""
    size: int = -1
    """Bytes; -1 where it was not asked for."""


def entries(folder: str, *, sizes: bool = False, unsized: tuple[str, ...] = ()) -> Iterator[Entry]:
    """Visible entries of a folder in no order; folders of an object store are its prefixes. OSError as the storage gives it.

    `sizes`: those of files, which cost a call each; not of names that end as `unsized` says.
    """
    filesystem, path = storage.resolve(folder)
    if not isinstance(filesystem, pafs.LocalFileSystem):
        for info in filesystem.get_file_info(pafs.FileSelector(path.rstrip("/"))):
            if not info.base_name.startswith("."):
                yield Entry(info.base_name, info.type == pafs.FileType.Directory, size=-1 if info.size is None else info.size)
        return
    with os.scandir(path) as found:
        for entry in found:
            name = entry.name
            if name[0] == ".":
                continue
            link = entry.is_symlink()
            try:
                is_folder = entry.is_dir()
                wanted = sizes and not is_folder and not name.endswith(unsized)
                yield Entry(name, is_folder, link, entry.stat().st_size if wanted else -1)
            except OSError:  # deleted since, or a link to nowhere: opening it tells
                yield Entry(name, False, link)


def folders(root: str) -> Iterator[tuple[str, list[Entry]]]:
    """(path below the root, files) of every folder, in the order of paths, links to folders left out. Holds one folder at a time."""
    todo = [""]
    while todo:
        path = todo.pop()
        found = list(entries(join(root, path)))
        todo += sorted((f"{path}/{one.name}" if path else one.name for one in found if one.is_folder and not one.is_link), reverse=True)
        yield path, sorted((one for one in found if not one.is_folder), key=lambda one: one.name)


def join(folder: str, *names: str) -> str:
    """A path below a folder; empty parts are left out."""
    return "/".join([folder.rstrip("/") or "", *[name for name in names if name]])


def local_path(url: str) -> str:
    """A local URL as an absolute path without a scheme, any other as it is."""
    return storage.resolve(url)[1] if storage.is_local(url) else url.rstrip("/")


def version_of(blob: storage.Blob) -> str:
    """Changes when the file does."""
    return f"{blob.size}-{blob.mtime_s:.6f}"


def leaves(path: str, root: str) -> bool:
    """True where a local path, links followed, does not lie below the root."""
    real, base = os.path.realpath(path), os.path.realpath(root)
    return real != base and not real.startswith(base.rstrip("/") + "/")


def read_whole(url: str) -> bytes:
    """A small file. SampleError where it is missing, forbidden, or longer than TEXT_BYTES."""
    try:
        if "://" not in url:
            fd = os.open(url, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
            try:
                data = os.read(fd, _SHORT_BYTES)
                while len(data) >= _SHORT_BYTES and len(data) <= TEXT_BYTES and (more := os.read(fd, TEXT_BYTES)):
                    data += more
            finally:
                os.close(fd)
        else:
            with closing(storage.open_reader(url)) as reader:
                buffer = bytearray(min(reader.size, TEXT_BYTES + 1))
                data = bytes(buffer[: reader.read_into(0, memoryview(buffer))])
    except OSError as error:
        raise SampleError(Reason.MISSING_FILE, f"{url}: {error.strerror or error}") from error
    if len(data) > TEXT_BYTES:
        raise SampleError(Reason.TOO_LARGE, f"{url} is longer than {TEXT_BYTES >> 20} MiB, too long for a text")
    return data
