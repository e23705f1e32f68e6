"""Which columns of a table are media and texts: by the names in use, or as asked. A column that is not there is refused by name."""

import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from pipeline import storage
from pipeline.errors import Reason, RequestError, SampleError
from pipeline.samples.medium import modality_of
from pipeline.shards.item import Options, Place
from pipeline.shards.listing import join

PATHS = (
    *("file_name", "filename", "file", "path", "filepath", "file_path"),
    *("image_path", "img_path", "image_file", "audio_filepath", "audio_path", "audio_file", "wav_path", "wav", "video_path", "video_file"),
    *("image", "img", "audio", "video"),
)
"""Names of columns that hold paths, in the order in which one is chosen."""
URLS = ("url", "image_url", "img_url", "audio_url", "video_url", "image_link", "link")
TEXTS = ("caption", "captions", "text", "sentence", "transcript", "transcription", "title", "description", "prompt", "alt_text", "alt")
IDS = ("id", "uid", "uuid", "key", "utt_id", "utterance_id", "sample_id")
_SUFFIX = "_file_name"


@dataclass(frozen=True, slots=True)
class Columns:
    """The columns that make samples of rows."""

    paths: tuple[str, ...] = ()
    urls: tuple[str, ...] = ()
    inline: tuple[str, ...] = ()
    """Bytes, or structures of bytes and path."""
    text: str = ""
    id: str = ""

    @property
    def media(self) -> tuple[str, ...]:
        """All that hold media; the first gives its member its plain extension."""
        return self.inline + self.paths + self.urls

    def __str__(self) -> str:
        named = (("bytes", self.inline), ("path", self.paths), ("url", self.urls))
        parts = [f"{kind} in {', '.join(names)}" for kind, names in named if names]
        parts += [f"text in {self.text}" if self.text else "no text column"]
        return "; ".join([*parts, *([f"ids in {self.id}"] if self.id else [])])


def choose(names: Sequence[str], inline: Sequence[str], options: Options, source: str) -> Columns:
    """Columns by the options, else by known names. RequestError names the columns that there are.

    `inline`: columns that hold bytes, as the table's types say.
    """
    for flag, wanted in (
        ("--path-column", options.path_column),
        ("--url-column", options.url_column),
        ("--bytes-column", options.bytes_column),
        ("--text-column", options.text_column),
        ("--id-column", options.id_column),
    ):
        if wanted and wanted not in names:
            raise RequestError(f"{source} has no column {wanted} ({flag}); it has {', '.join(names) or 'none'}")
    named = bool(options.path_column or options.url_column or options.bytes_column)
    if named:
        paths, urls = _given(options.path_column), _given(options.url_column)
        chosen_inline = _given(options.bytes_column)
    else:
        chosen_inline = tuple(inline)
        paths = () if chosen_inline else _files(names)
        urls = () if chosen_inline or paths else _first(names, URLS)
    if not (paths or urls or chosen_inline):
        raise RequestError(
            f"{source}: no column looks like a path, a URL or bytes; it has {', '.join(names) or 'none'}; "
            "name one with --path-column, --url-column or --bytes-column"
        )
    taken = {*paths, *urls, *chosen_inline}
    text = options.text_column or "".join(_first([name for name in names if name not in taken], TEXTS))
    found_id = options.id_column or "".join(_first([name for name in names if name not in taken], IDS))
    return Columns(paths, urls, chosen_inline, text, found_id)


def _given(name: str) -> tuple[str, ...]:
    return (name,) if name else ()


def _files(names: Sequence[str]) -> tuple[str, ...]:
    """`file_name` and all `*_file_name`, as metadata files of the Hub have them; else the first path column."""
    several = tuple(name for name in names if name == _SUFFIX[1:] or name.endswith(_SUFFIX))
    return several or _first(names, PATHS)


def _first(names: Sequence[str], known: Sequence[str]) -> tuple[str, ...]:
    by_name = {name.lower(): name for name in reversed(names)}
    return next(((by_name[name],) for name in known if name in by_name), ())


def looks_like_manifest(names: Sequence[str]) -> bool:
    """True where a path or URL column would be found."""
    return bool(_files(names) or _first(names, URLS))


def field_of(column: str, extension: str, columns: Columns) -> str:
    """The member that a medium becomes: `jpg` for the first column, `mask.png` for `mask_file_name` and further ones."""
    if column == columns.media[0]:
        return extension
    name = column.removesuffix(_SUFFIX).lower()
    return "".join(c if c.isascii() and (c.isalnum() or c == "_") else "_" for c in name) + (f".{extension}" if extension else "")


def place_of(path: str, root: str, *, allow_outside: bool) -> Place:
    """Where a path of a manifest leads, relative ones from `root`, with its size. SampleError where it is refused or missing."""
    if not path or "\0" in path:
        raise SampleError(Reason.BAD_ROW, "the path is empty, or has a zero byte in it")
    if "://" in path:
        url = path
    elif storage.is_local(root):
        url = os.path.normpath(os.path.join(root, path))
    else:
        url = _remote(root, path)
    if not allow_outside and not url.startswith(root.rstrip("/") + "/"):
        raise SampleError(Reason.OUTSIDE_SOURCE, f"{path} leads out of {root}; --allow-outside takes it, --media-root names another folder")
    if not storage.is_local(url):
        return Place(url)
    try:
        found = os.lstat(url)
        if stat.S_ISLNK(found.st_mode) or _has_links(os.path.dirname(url), root):
            if not allow_outside and not (os.path.realpath(url) + "/").startswith(os.path.realpath(root).rstrip("/") + "/"):
                raise SampleError(Reason.OUTSIDE_SOURCE, f"{path} leads out of {root} by a link; --allow-outside takes it")
            found = os.stat(url)
    except OSError as error:
        raise SampleError(Reason.MISSING_FILE, f"{url}: {error.strerror}") from error
    except ValueError as error:
        raise SampleError(Reason.BAD_ROW, f"{path!r} is no path") from error
    if not stat.S_ISREG(found.st_mode):
        raise SampleError(Reason.MISSING_FILE, f"{url} is no file")
    return Place(url, 0, found.st_size)


@lru_cache(maxsize=4096)
def _has_links(folder: str, root: str) -> bool:
    """True where a link leads to the folder from the root."""
    return os.path.realpath(folder) != os.path.join(os.path.realpath(root), os.path.relpath(folder, root)).removesuffix("/.")


def _remote(root: str, path: str) -> str:
    parts: list[str] = []
    for part in path.split("/"):
        if part == ".." and not parts:
            raise SampleError(Reason.OUTSIDE_SOURCE, f"{path} leads out of {root}")
        if part == "..":
            parts.pop()
        elif part not in ("", "."):
            parts.append(part)
    return join(root, *parts)


def extension_of_path(path: str) -> str:
    """Extension of a medium's path, lower case. SampleError where it is of no known medium."""
    extension = os.path.basename(path).rpartition(".")[2].lower()
    if modality_of(extension) is None:
        raise SampleError(Reason.NO_MEDIUM, f"{path} is no picture, recording or clip by its name")
    return extension
