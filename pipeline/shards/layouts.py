"""How a source is laid out: found by what stands in it, with the reason, or named. Each layout gives pieces, and items of a piece.

A piece is what one task reads; an item is a sample by the place of its bytes, or a row that is none.
"""

import json
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field

from pipeline import storage
from pipeline.errors import RequestError
from pipeline.shards import archives, corpora, manifest, pairs
from pipeline.shards.columns import choose, looks_like_manifest
from pipeline.shards.item import Bad, Item, Options, Piece
from pipeline.shards.listing import entries, folders, join, local_path
from pipeline.shards.tables import EXTENSIONS as TABLES
from pipeline.shards.tables import columns_of, kind_of

AUTO = "auto"
_LEVELS = 6
_MOST_FOLDERS = 200
"""Looked at on each level; a corpus of a hundred thousand folders is told by a few of them."""
_MOST_NAMES = 20_000
_PEEK_BYTES = 1 << 16
_OF_FOLDERS = ("pairs", "librispeech", "kaldi")


@dataclass(slots=True)
class Look:
    """What a glance at one source finds."""

    root: str
    """Folder, absolute or a URL."""
    names: list[str] = field(default_factory=list)
    """Files that may say what the layout is, paths below the root, sorted: tables, archives, json, transcripts."""
    media: int = 0
    """Pictures, recordings and clips seen."""
    archives: tuple[storage.Blob, ...] = ()
    """Given by a pattern, a list or one by one, instead of a folder."""
    single: bool = False
    """`names` holds the one file that was given."""

    def tables(self, *kinds: str) -> list[str]:
        """Names of tables of some kinds."""
        return [name for name in self.names if kind_of(name) in kinds]

    def every(self, wanted: Callable[[str], bool]) -> list[str]:
        """All files whose path is wanted, in the order of folders, also where the glance did not reach."""
        if self.single:
            return self.names
        paths = (f"{folder}/{entry.name}" if folder else entry.name for folder, files in folders(self.root) for entry in files)
        return [path for path in paths if wanted(path)]


@dataclass(frozen=True, slots=True)
class Layout:
    """One way to lay out a corpus."""

    name: str
    looks_for: str
    """One clause for the message about an unknown layout."""
    found: Callable[[Look, Options], str | None]
    """Why a source is of this layout; None if it is not."""
    pieces: Callable[[Look, Options], Iterator[Piece]]
    items: Callable[[Piece, Options], Iterator[Item | Bad]]


def items_of(piece: Piece, options: Options) -> Iterator[Item | Bad]:
    """The samples and rejects of a piece, in order."""
    return by_name(piece.layout).items(piece, options)


def by_name(name: str) -> Layout:
    """RequestError names the layouts that there are."""
    for layout in LAYOUTS:
        if layout.name == name:
            return layout
    raise RequestError(f"no layout {name!r}; there are {AUTO}, {', '.join(layout.name for layout in LAYOUTS)}")


def detect(look: Look, options: Options, wanted: str = AUTO) -> tuple[Layout, str]:
    """The layout and why. RequestError lists what was looked for."""
    given = join(look.root, look.names[0]) if look.single else look.root
    if wanted != AUTO:
        if look.single and wanted in _OF_FOLDERS:
            raise RequestError(f"{given} is a file, and --layout {wanted} reads a folder")
        return by_name(wanted), "as asked"
    for layout in LAYOUTS:
        reason = layout.found(look, options)
        if reason is not None:
            return layout, reason
    looked = "; ".join(f"{layout.name}: {layout.looks_for}" for layout in LAYOUTS)
    held = ", ".join(look.names[:5]) or "no file that says anything"
    raise RequestError(f"{given} is of no known layout. Looked for {looked}. Found {held}. Name one with --layout")


def look_at(url: str) -> Look:
    """A glance at a folder or a single file. RequestError where there is neither."""
    url = local_path(url)
    try:
        if storage.is_folder(url):
            return _glance(url)
        blob = storage.stat(url)
    except OSError as error:
        raise RequestError(f"{url} cannot be read: {error}") from error
    if blob is None:
        raise RequestError(f"{url}: no such file or folder")
    if url.endswith(archives.EXTENSIONS):
        return Look(url.rpartition("/")[0] or "/", archives=(storage.Blob(url, blob.size, blob.mtime_s),))
    folder, _, name = url.rpartition("/")
    return Look(folder or "/", [name], single=True)


def _glance(root: str) -> Look:
    """Some folders of each level."""
    look = Look(root)
    level = [""]
    for depth in range(_LEVELS):
        below: list[str] = []
        for folder in level[:_MOST_FOLDERS]:
            for entry in entries(join(root, folder)):
                path = f"{folder}/{entry.name}" if folder else entry.name
                if entry.is_folder:
                    if not entry.is_link and depth + 1 < _LEVELS:
                        below.append(path)
                elif corpora.is_medium(entry.name):
                    look.media += 1
                elif len(look.names) < _MOST_NAMES or _says_much(entry.name):
                    look.names.append(path)
        level = sorted(below)
    look.names.sort(key=lambda name: (name.count("/"), name))
    return look


def _says_much(name: str) -> bool:
    return kind_of(name) != "" or name.endswith((".tar", ".trans.txt", "_stats.json")) or name == "wav.scp"


def _peek(url: str) -> bytes:
    """The first and last bytes of a file."""
    with closing(storage.open_reader(url)) as reader:
        head, tail = bytearray(min(reader.size, _PEEK_BYTES)), bytearray(min(reader.size, _PEEK_BYTES))
        reader.read_into(0, memoryview(head))
        reader.read_into(reader.size - len(tail), memoryview(tail))
    return bytes(head + tail)


def _img2dataset(look: Look, options: Options) -> str | None:
    stats = [name for name in look.names if re.fullmatch(r"(.*/)?\d+_stats\.json", name)]
    if stats and _webdataset(look, options):
        return f"{stats[0]} stands beside its archive"
    return None


def _webdataset(look: Look, options: Options) -> str | None:
    if look.archives:
        return f"{len(look.archives):,} archives were named"
    names = [name for name in look.names if name.lower().endswith(archives.EXTENSIONS)]
    return f"{names[0]} is an archive" if names else None


def _archive_pieces(look: Look, options: Options) -> Iterator[Piece]:
    blobs: Sequence[storage.Blob] = look.archives or [
        blob for blob in storage.walk(look.root) if blob.path.lower().endswith(archives.EXTENSIONS) and storage.TEMPORARY not in blob.path
    ]
    if not blobs:
        raise RequestError(f"{look.root} holds no archive")
    return archives.pieces(blobs)


def _hub_folder(look: Look, options: Options) -> str | None:
    found = [name for name in look.names if corpora.is_metadata(name)]
    return f"{found[0]} names its files" if found else None


def _hub_folder_pieces(look: Look, options: Options) -> Iterator[Piece]:
    for name in look.every(corpora.is_metadata):
        yield from manifest.pieces(join(look.root, name), options, layout="hf-folder")


def _coco_files(look: Look) -> list[str]:
    found = []
    for name in [name for name in look.names if name.endswith(".json")][:200]:
        peek = _peek(join(look.root, name))
        lists = b'"annotations"' in peek or b'"images"' in peek
        if peek.lstrip()[:1] == b"{" and b'"caption"' in peek and lists and (b'"image_id"' in peek or b'"file_name"' in peek):
            found.append(name)
    return found


def _coco(look: Look, options: Options) -> str | None:
    found = _coco_files(look)
    return f"{found[0]} holds images and annotations with captions" if found else None


def _coco_pieces(look: Look, options: Options) -> Iterator[Piece]:
    names = look.names if look.single else _coco_files(look)
    if not names:
        raise RequestError(f"{look.root} holds no annotation file; name it: captions_train2017.json")
    for name in names:
        yield from corpora.coco_pieces(look.root, name, options)


def _librispeech(look: Look, options: Options) -> str | None:
    found = [name for name in look.names if name.endswith(".trans.txt")]
    return f"{found[0]} holds transcripts" if found else None


def _common_voice(look: Look, options: Options) -> str | None:
    for name in look.tables("tsv"):
        if name.rpartition("/")[2] in corpora.COMMON_VOICE_TABLES and {"client_id", "path"} <= set(columns_of(join(look.root, name))[0]):
            return f"{name} has the columns client_id and path"
    return None


def _common_voice_pieces(look: Look, options: Options) -> Iterator[Piece]:
    names = look.every(lambda path: path.rpartition("/")[2] in corpora.COMMON_VOICE_TABLES)
    return corpora.common_voice_pieces(look.root, names, options)


def _kaldi(look: Look, options: Options) -> str | None:
    found = [name for name in look.names if name.rpartition("/")[2] == "wav.scp"]
    return f"{found[0]} lists recordings" if found else None


def _kaldi_pieces(look: Look, options: Options) -> Iterator[Piece]:
    for name in look.every(lambda path: path.rpartition("/")[2] == "wav.scp"):
        yield from corpora.kaldi_pieces(look.root, name.rpartition("/")[0], options)


def _nemo_files(look: Look) -> list[str]:
    names = [*look.tables("jsonl", "ndjson"), *[name for name in look.names if name.endswith("manifest.json")]]
    return [name for name in names[:200] if b'"audio_filepath"' in _peek(join(look.root, name))[:4096]]


def _nemo(look: Look, options: Options) -> str | None:
    found = _nemo_files(look)
    return f"{found[0]} has audio_filepath" if found else None


def _nemo_pieces(look: Look, options: Options) -> Iterator[Piece]:
    for name in look.names if look.single else _nemo_files(look):
        yield from manifest.pieces(join(look.root, name), options, layout="nemo")


def _named(options: Options) -> bool:
    return bool(options.path_column or options.url_column or options.bytes_column)


def _manifest(look: Look, options: Options) -> str | None:
    tables = look.tables(*TABLES)[:50]
    for name in tables:
        url = join(look.root, name)
        names, inline = columns_of(url)
        if inline or looks_like_manifest(names) or _named(options):
            return f"{name}: {choose(names, inline, options, url)}"
    if tables and not look.media:
        names, _ = columns_of(join(look.root, tables[0]))
        choose(names, [], options, join(look.root, tables[0]))  # says which columns there are
    return None


def _manifest_pieces(look: Look, options: Options) -> Iterator[Piece]:
    found = False
    for name in look.every(lambda path: kind_of(path) != ""):
        names, inline = columns_of(join(look.root, name))
        if inline or looks_like_manifest(names) or _named(options) or look.single:  # other tables may lie beside
            found = True
            yield from manifest.pieces(join(look.root, name), options)
    if not found:
        raise RequestError(f"{look.root} holds no table that leads to media; a manifest ends in {', '.join(TABLES)}")


def _pairs(look: Look, options: Options) -> str | None:
    return f"{look.media:,} pictures, recordings or clips were seen in its folders" if look.media else None


def _pair_pieces(look: Look, options: Options) -> Iterator[Piece]:
    return pairs.pieces(look.root, options)


LAYOUTS = (
    Layout("img2dataset", "00000.tar with 00000_stats.json", _img2dataset, _archive_pieces, archives.items),
    Layout("webdataset", "archives, *.tar or *.tar.gz", _webdataset, _archive_pieces, archives.items),
    Layout("hf-folder", "metadata.csv, .jsonl or .parquet with file_name", _hub_folder, _hub_folder_pieces, manifest.items),
    Layout("coco", "a json with images and annotations that have a caption", _coco, _coco_pieces, corpora.coco_items),
    Layout(
        "librispeech",
        "*.trans.txt",
        _librispeech,
        lambda look, options: corpora.librispeech_pieces(look.root, options),
        corpora.librispeech_items,
    ),
    Layout("common-voice", "validated.tsv beside clips", _common_voice, _common_voice_pieces, corpora.common_voice_items),
    Layout("kaldi", "wav.scp", _kaldi, _kaldi_pieces, corpora.kaldi_items),
    Layout("nemo", "jsonl with audio_filepath", _nemo, _nemo_pieces, corpora.nemo_items),
    Layout("manifest", f"{', '.join(TABLES)} with a path, url or bytes column", _manifest, _manifest_pieces, manifest.items),
    Layout("pairs", "pictures, recordings or clips, with texts beside", _pairs, _pair_pieces, pairs.items),
)
"""In the order in which they are looked for: the particular before the general."""


def fingerprint(pieces: Sequence[Piece]) -> str:
    """Hex; changes when a file or folder of the source does, as far as the planner looked at it."""
    import hashlib

    digest = hashlib.sha256()
    for piece in pieces:
        digest.update(json.dumps([piece.layout, piece.url, piece.start, piece.stop, piece.extra]).encode("utf-8", "backslashreplace"))
    return digest.hexdigest()[:32]
