"""Known corpora, one small function each: where their texts stand and how these name their media.

None of them cuts media: rows that are segments of a longer recording are rejects, since what would be written is not what
their text says.
"""

import json
import re
from collections.abc import Iterator
from contextlib import closing
from typing import Any

from pipeline import storage
from pipeline.errors import Reason, RequestError, SampleError
from pipeline.samples.medium import FIELDS
from pipeline.shards import manifest
from pipeline.shards.columns import Columns, extension_of_path, place_of
from pipeline.shards.encoding import decode_text
from pipeline.shards.item import Bad, Item, Member, Options, Piece
from pipeline.shards.listing import entries, folders, join, read_whole, version_of
from pipeline.shards.tables import rows_of

_TRANSCRIPTS_PER_PIECE = 500
_AUDIO = ("flac", "wav", "opus", "ogg", "mp3", "m4a")
COMMON_VOICE_TABLES = ("validated.tsv", "train.tsv", "dev.tsv", "test.tsv")
"""Of which validated.tsv holds the others."""


def coco_pieces(root: str, file: str, options: Options) -> Iterator[Piece]:
    """One piece an annotation file."""
    url = join(root, file)
    blob = storage.stat(url)
    if blob is None:
        raise RequestError(f"{url}: no such file")
    yield Piece("coco", url, extra=(("root", options.media_root), ("version", version_of(blob))))


def coco_items(piece: Piece, options: Options) -> Iterator[Item | Bad]:
    """Pictures in the order of the file, all captions of each. The document is held in memory, as its form demands."""
    source = piece.url.rpartition("/")[2]
    document = _document(piece.url)
    captions: dict[Any, list[str]] = {}
    for at, annotation in enumerate(document["annotations"]):
        image_id = annotation.get("image_id") if isinstance(annotation, dict) else None
        if isinstance(image_id, int | str) and isinstance(annotation.get("caption"), str):
            captions.setdefault(image_id, []).append(annotation["caption"])
        else:
            yield Bad("", source, at, Reason.BAD_ROW, f"annotation {at} has no caption, or no image_id that is a number or a text")
    root = dict(piece.extra)["root"] or _coco_root(piece.url, document["images"])
    seen: set[int | str] = set()
    for at, image in enumerate(document["images"]):
        yield _coco_item(source, at, image, captions, seen, root, options)
    for image_id, left in captions.items():
        if image_id not in seen:
            detail = f"{len(left)} captions of image {image_id}, which the file does not list"
            yield Bad(str(image_id), source, None, Reason.MISSING_FILE, detail)


def _coco_item(
    source: str, at: int, image: Any, captions: dict[Any, list[str]], seen: set[int | str], root: str, options: Options
) -> Item | Bad:
    """One picture; its id joins those that were seen."""
    name = ""
    try:
        if not isinstance(image, dict) or not isinstance(image.get("file_name"), str) or not isinstance(image.get("id"), int | str):
            raise SampleError(Reason.BAD_ROW, f"image {at} has no file_name, or no id that is a number or a text")
        name = image["file_name"]
        if image["id"] in seen:
            raise SampleError(Reason.DUPLICATE_NAME, f"image {image['id']} occurred before; the first one is kept")
        seen.add(image["id"])
        texts = tuple(text for text in captions.get(image["id"], ()) if text.strip())
        if not texts and not options.keep_empty_text:
            raise SampleError(Reason.EMPTY_TEXT, "no caption; --keep-empty-text takes the picture without one")
        place = place_of(name, root, allow_outside=options.allow_outside)
        meta = {"image_id": image["id"], **{key: image[key] for key in ("width", "height", "coco_url", "license") if key in image}}
        return Item(name, (Member(extension_of_path(name), place=place),), meta, texts, source, at, str(image["id"]))
    except SampleError as error:
        return Bad(name, source, at, error.reason, error.detail)


def _document(url: str) -> dict[str, Any]:
    with closing(storage.open_reader(url)) as reader:
        data = bytearray(reader.size)
        reader.read_into(0, memoryview(data))
    try:
        document = json.loads(data)
        if isinstance(document["images"], list) and isinstance(document["annotations"], list):
            return dict(document)
    except (ValueError, KeyError, TypeError):
        pass
    raise RequestError(f"{url} is no COCO file: it wants an object with the lists images and annotations")


def _coco_root(url: str, images: list[Any]) -> str:
    """The folder in which the first picture lies: beside the file, beside its folder, or named after it (captions_train2017)."""
    folder, _, file = url.rpartition("/")
    above = folder.rpartition("/")[0]
    split = file.rpartition(".")[0].rpartition("_")[2]
    first = next((image["file_name"] for image in images if isinstance(image, dict) and isinstance(image.get("file_name"), str)), None)
    candidates = [f"{base}/{below}".rstrip("/") for base in (folder, above) for below in ("", split, "images", f"images/{split}")]
    for candidate in candidates if first is not None else []:
        if storage.stat(join(candidate, str(first))) is not None:
            return candidate
    if first is None:
        return folder
    raise RequestError(f"{first} of {url} lies in none of {', '.join(dict.fromkeys(candidates))}; name its folder with --media-root")


def librispeech_pieces(root: str, options: Options) -> Iterator[Piece]:
    """Runs of chapters. Reads names only."""
    chapters: list[tuple[str, str]] = []
    for folder, files in folders(root):
        if any(entry.name.endswith(".trans.txt") for entry in files):
            chapters.append(("folder", folder))
        if len(chapters) >= _TRANSCRIPTS_PER_PIECE:
            yield Piece("librispeech", root, extra=tuple(chapters))
            chapters = []
    if chapters:
        yield Piece("librispeech", root, extra=tuple(chapters))


def librispeech_items(piece: Piece, options: Options) -> Iterator[Item | Bad]:
    """Utterances in the order of their transcripts; recordings without a line are rejects."""
    for _, folder in piece.extra:
        base = join(piece.url, folder)
        recordings = {}
        transcripts = []
        for entry in sorted(entries(base, sizes=True), key=lambda entry: entry.name):
            stem, _, extension = entry.name.rpartition(".")
            if entry.name.endswith(".trans.txt"):
                transcripts.append(entry.name)
            elif extension.lower() in _AUDIO:
                recordings[stem] = entry.name
        for transcript in transcripts:
            yield from _utterances(piece.url, folder, transcript, recordings, options)
        for name in recordings.values():
            yield Bad(join(folder, name), join(folder, name), None, Reason.EMPTY_TEXT, "no line of a transcript names it")


def _utterances(root: str, folder: str, transcript: str, recordings: dict[str, str], options: Options) -> Iterator[Item | Bad]:
    source = f"{folder}/{transcript}".lstrip("/")
    for number, line in enumerate(read_whole(join(root, folder, transcript)).split(b"\n"), 1):
        if not line.strip():
            continue
        name = ""
        try:
            name, _, text = decode_text(line).strip().partition(" ")
            if not text.strip() and not options.keep_empty_text:
                raise SampleError(Reason.EMPTY_TEXT, "the line has no text")
            file = recordings.pop(name, None)
            if file is None:
                raise SampleError(Reason.MISSING_FILE, f"no recording {name} beside the transcript")
            place = place_of(f"{folder}/{file}".lstrip("/"), root, allow_outside=options.allow_outside)
            parts = name.split("-")
            meta = {"speaker": parts[0], "chapter": parts[1]} if len(parts) == 3 else {}
            members = (Member(extension_of_path(file), place=place),)
            yield Item(f"{folder}/{file}".lstrip("/"), members, meta, (text,) if text.strip() else (), source, number, name)
        except SampleError as error:
            yield Bad(name, source, number, error.reason, error.detail)


def common_voice_pieces(root: str, names: list[str], options: Options) -> Iterator[Piece]:
    """The table of validated clips, else those of the splits."""
    tables = [name for name in names if name.rpartition("/")[2] in COMMON_VOICE_TABLES]
    validated = [name for name in tables if name.rpartition("/")[2] == "validated.tsv"]
    for name in validated or tables:
        url = join(root, name)
        clips = join(url.rpartition("/")[0], "clips")
        yield from manifest.pieces(url, options, layout="common-voice", media_root=clips)


def common_voice_items(piece: Piece, options: Options) -> Iterator[Item | Bad]:
    """Clips with their sentences; the other columns go to the json."""
    yield from _table_items(piece, Columns(paths=("path",), text=options.text_column or "sentence"), options)


def nemo_items(piece: Piece, options: Options) -> Iterator[Item | Bad]:
    """Recordings of a NeMo manifest; segments of longer ones are rejects."""
    columns = Columns(paths=("audio_filepath",), text=options.text_column or "text")
    for found in _table_items(piece, columns, options):
        offset = found.meta.get("offset") if isinstance(found, Item) else None
        if offset and isinstance(found, Item):
            yield Bad(
                found.name, found.source, found.row, Reason.BAD_ROW, f"a segment from {offset} s of a longer recording: media are not cut"
            )
        else:
            yield found


def _table_items(piece: Piece, columns: Columns, options: Options) -> Iterator[Item | Bad]:
    root, source = dict(piece.extra)["root"], piece.url.rpartition("/")[2]
    for row in rows_of(piece.url, piece.start, piece.stop):
        yield manifest.sample(row, source, root, columns, options)


def kaldi_pieces(root: str, folder: str, options: Options) -> Iterator[Piece]:
    """One piece a data folder."""
    base = join(root, folder)
    if storage.stat(join(base, "wav.scp")) is None:
        raise RequestError(f"{base} holds no wav.scp: it is no Kaldi folder")
    if storage.stat(join(base, "segments")) is not None:
        raise RequestError(f"{base}/segments cuts recordings, and media are not cut here; write one file an utterance first")
    version = "".join(version_of(blob) for name in ("wav.scp", "text") if (blob := storage.stat(join(base, name))) is not None)
    yield Piece("kaldi", base, extra=(("root", options.media_root or base), ("version", version)))


def kaldi_items(piece: Piece, options: Options) -> Iterator[Item | Bad]:
    """Utterances in the order of wav.scp. Texts of the folder are held in memory. Commands (`... |`) are not run."""
    texts = {name: text for _, name, text in _pairs_of(join(piece.url, "text"))} if storage.stat(join(piece.url, "text")) else None
    speakers = {name: text for _, name, text in _pairs_of(join(piece.url, "utt2spk"))} if storage.stat(join(piece.url, "utt2spk")) else {}
    for number, name, path in _pairs_of(join(piece.url, "wav.scp")):
        try:
            if not name:
                raise SampleError(Reason.BAD_ROW, path)
            if path.endswith("|"):
                raise SampleError(Reason.BAD_ROW, f"a command, and commands are not run: {path[:100]}")
            text = texts.get(name, "") if texts is not None else ""
            if texts is not None and not text.strip() and not options.keep_empty_text:
                raise SampleError(Reason.EMPTY_TEXT, "no line of text names it; --keep-empty-text takes it without one")
            place = place_of(path, dict(piece.extra)["root"], allow_outside=options.allow_outside)
            meta = {"speaker": speakers[name]} if name in speakers else {}
            members = (Member(extension_of_path(path), place=place),)
            yield Item(name, members, meta, (text,) if text.strip() else (), "wav.scp", number, name)
        except SampleError as error:
            yield Bad(name, "wav.scp", number, error.reason, error.detail)


def _pairs_of(url: str) -> Iterator[tuple[int, str, str]]:
    """(1-based line, first word, rest) of a Kaldi table; without a word, the rest says why the line is none."""
    with closing(storage.open_reader(url)) as reader:
        data = bytearray(reader.size)
        reader.read_into(0, memoryview(data))
    for number, line in enumerate(data.split(b"\n"), 1):
        if line.strip():
            try:
                name, _, rest = decode_text(bytes(line)).strip().partition(" ")
            except SampleError as error:
                name, rest = "", error.detail
            yield number, name, rest.strip()


def is_metadata(name: str) -> bool:
    """True for the metadata files of Hub folders."""
    return re.search(r"(^|/)metadata\.(csv|jsonl|parquet)$", name) is not None


def is_medium(name: str) -> bool:
    """True for a picture, recording or clip by its name."""
    return name.rpartition(".")[2].lower() in FIELDS
