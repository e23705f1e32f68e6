"""Every layout from a small corpus: found by itself, and its bytes and texts come out as they went in.

Bad rows and files are rejects with their reason, and cost nothing else: missing files, paths and links that lead out of the
source, repeated names, empty texts, texts in other encodings, names that differ only in case. A source of no known layout is
refused with what was looked for, a column that is not there with those that are.
"""

import csv
import json
import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.errors import RequestError
from pipeline.shards.item import Options
from pipeline.shards.layouts import LAYOUTS, detect, look_at
from pipeline.shards.pairs import PIECE_FILES, items, pieces
from tests.shards.kit import FLAC, JPG, make, tar_of


def put(root: Path, files: dict[str, bytes | str]) -> Path:
    for name, data in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data.encode() if isinstance(data, str) else data)
    return root


def facts(sample: dict[str, bytes]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(sample["json"])
    return found


def plain(samples: list[dict[str, bytes]], *fields: str) -> list[tuple[bytes, ...]]:
    return [tuple(sample[field] for field in fields) for sample in samples]


def test_folder_pairs_at_any_depth_in_the_order_of_paths(tmp_path: Path) -> None:
    source = put(
        tmp_path / "in",
        {
            "b.jpg": JPG + b"b",
            "b.txt": "a bee\r\n",
            "a/x.v1.JPG": JPG + b"x",
            "a/x.v1.txt": "dots",
            "a/x.v1.json": '{"author": "me"}',
            "a/y.png": b"png",
            "a/y.json": '{"captions": ["one", "two"]}',
            "a/z/w.flac": FLAC,
            "a/z/w.npy": b"numbers",
            ".hidden.jpg": b"",
            "README": "no sample",
        },
    )
    made = make(source, tmp_path / "out")
    assert made.layout == "pairs" and made.refused == []
    assert [(facts(one)["original_name"], one["__key__"]) for one in made.samples] == [
        ("b.jpg", b"000000000"),
        ("a/x.v1.JPG", b"000000001"),
        ("a/y.png", b"000000002"),
        ("a/z/w.flac", b"000000003"),
    ]
    assert plain(made.samples[:2], "jpg", "txt") == [(JPG + b"b", b"a bee\r\n"), (JPG + b"x", b"dots")]
    assert facts(made.samples[1])["author"] == "me"
    assert made.samples[2]["txt"] == b"one" and facts(made.samples[2])["captions"] == ["one", "two"]
    assert plain(made.samples[3:], "flac", "npy") == [(FLAC, b"numbers")]


def test_bad_files_of_pairs_cost_their_sample(tmp_path: Path) -> None:
    source = put(
        tmp_path / "in",
        {
            "bom.jpg": JPG,
            "bom.txt": b"\xef\xbb\xbfmarked",
            "case.JPG": JPG,
            "case.jpg": JPG,
            "empty.jpg": JPG,
            "empty.txt": " \n",
            "latin.jpg": JPG,
            "latin.txt": b"caf\xe9",
            "lone.txt": "no picture",
            "nojson.jpg": JPG,
            "nojson.json": "{",
            "utf16.jpg": JPG,
            "utf16.txt": "two bytes".encode("utf-16"),
            "../secret.jpg": JPG,
        },
    )
    os.symlink("../secret.jpg", source / "link.jpg")
    os.symlink("nowhere.jpg", source / "broken.jpg")
    os.symlink("..", source / "loop")
    made = make(source, tmp_path / "out")
    assert [one["txt"] for one in made.samples] == [b"marked", b"two bytes"]
    assert made.reasons() == [
        (str(source / "loop"), "outside_source"),
        ("broken.jpg", "missing_file"),
        ("case.JPG", "duplicate_name"),
        ("empty.jpg", "empty_text"),
        ("latin.jpg", "bad_row"),
        ("link.jpg", "outside_source"),
        ("lone", "no_medium"),
        ("nojson.jpg", "bad_row"),
    ]
    kept = make(source, tmp_path / "kept", keep_empty_text=True, allow_outside=True)
    assert {"empty.jpg", "link.jpg", "loop/secret.jpg"} <= {facts(one)["original_name"] for one in kept.samples}


def test_a_wide_folder_is_cut_into_ranges_that_hold_every_name_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    count = 130
    monkeypatch.setattr("pipeline.shards.pairs.PIECE_FILES", 20)
    assert PIECE_FILES > 20
    source = put(
        tmp_path / "in", {f"{number:03d}.jpg": JPG for number in range(count)} | {f"below/{number}.jpg": JPG for number in range(3)}
    )
    found = list(pieces(str(source), Options()))
    assert len(found) > 4
    names = [item.name for piece in found for item in items(piece, Options())]
    assert names == [f"{number:03d}.jpg" for number in range(count)] + [f"below/{number}.jpg" for number in range(3)]


ROWS = [("a.jpg", 'one, "two"\nthree'), ("b/c.jpg", "Übung 猫")]


def manifest(folder: Path, kind: str, rows: list[dict[str, Any]]) -> Path:
    path = folder / f"m.{kind}"
    if kind == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif kind == "jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]), delimiter="\t" if kind == "tsv" else ",")
            writer.writeheader()
            writer.writerows(rows)
    return path


@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl", "parquet"])
def test_manifests_of_every_kind(tmp_path: Path, kind: str) -> None:
    put(tmp_path / "in", {"a.jpg": JPG + b"a", "b/c.jpg": JPG + b"c"})
    rows = [
        {"image_path": path, "caption": text.replace("\n", " ") if kind == "tsv" else text, "n": at} for at, (path, text) in enumerate(ROWS)
    ]
    made = make(manifest(tmp_path / "in", kind, rows), tmp_path / "out")
    assert made.layout == "manifest" and made.refused == []
    assert plain(made.samples, "jpg", "txt") == [
        (JPG + b"a", rows[0]["caption"].encode()),
        (JPG + b"c", rows[1]["caption"].encode()),
    ]
    assert [(facts(one)["original_name"], str(facts(one)["n"])) for one in made.samples] == [("a.jpg", "0"), ("b/c.jpg", "1")]


def test_bad_rows_of_a_manifest(tmp_path: Path) -> None:
    put(tmp_path, {"in/a.jpg": JPG, "secret.jpg": JPG, "in/x.bin": b""})
    paths = ["a.jpg", "gone.jpg", "../secret.jpg", str(tmp_path / "secret.jpg"), "", "a.jpg", "x.bin", "in\0x.jpg"]
    rows = [{"path": path, "text": "" if at == 5 else "t", "id": str(at)} for at, path in enumerate(paths)]
    made = make(manifest(tmp_path / "in", "jsonl", rows), tmp_path / "out")
    assert len(made.samples) == 1 and facts(made.samples[0])["id"] == "0"
    assert made.reasons() == [
        ("1", "missing_file"),
        ("2", "outside_source"),
        ("3", "outside_source"),
        ("4", "bad_row"),
        ("5", "empty_text"),
        ("6", "no_medium"),
        ("7", "bad_row"),
    ]
    assert [row["row"] for row in made.refused] == [2, 3, 4, 5, 6, 7, 8]
    allowed = make(tmp_path / "in" / "m.jsonl", tmp_path / "allowed", allow_outside=True, keep_empty_text=True)
    assert len(allowed.samples) == 4


def test_a_column_that_is_not_there_is_refused_with_those_that_are(tmp_path: Path) -> None:
    path = manifest(tmp_path, "csv", [{"where": "a.jpg", "what": "t"}])
    with pytest.raises(RequestError, match="no column caption .--text-column.; it has where, what"):
        make(path, tmp_path / "out", path_column="where", text_column="caption")
    with pytest.raises(RequestError, match="no column looks like a path.*where, what"):
        make(path, tmp_path / "out")


def test_a_source_of_no_known_layout_is_told_what_was_looked_for(tmp_path: Path) -> None:
    put(tmp_path / "in", {"notes.md": "nothing"})
    with pytest.raises(RequestError) as told:
        detect(look_at(str(tmp_path / "in")), Options())
    assert all(layout.name in str(told.value) for layout in LAYOUTS) and "notes.md" in str(told.value)


def test_coco_keeps_all_captions_of_a_picture(tmp_path: Path) -> None:
    document = {
        "images": [{"id": 7, "file_name": "7.jpg", "width": 4}, {"id": 8, "file_name": "8.jpg"}, {"id": 9, "file_name": "9.jpg"}],
        "annotations": [
            {"id": at, "image_id": image, "caption": text} for at, (image, text) in enumerate([(8, "x"), (7, "a"), (7, "b"), (5, "?")])
        ],
    }
    source = put(
        tmp_path / "in",
        {"annotations/captions_val2017.json": json.dumps(document), "val2017/7.jpg": JPG + b"7", "val2017/8.jpg": JPG + b"8"},
    )
    made = make(source, tmp_path / "out")
    assert made.layout == "coco"
    assert plain(made.samples, "jpg", "txt") == [(JPG + b"7", b"a"), (JPG + b"8", b"x")]
    assert facts(made.samples[0])["captions"] == ["a", "b"] and facts(made.samples[0])["image_id"] == 7
    assert made.reasons() == [("5", "missing_file"), ("9.jpg", "empty_text")]


def test_librispeech(tmp_path: Path) -> None:
    files: dict[str, bytes | str] = {f"LS/84/121/84-121-000{number}.flac": FLAC + bytes([number]) for number in (0, 1, 3)}
    source = put(tmp_path / "in", {**files, "LS/84/121/84-121.trans.txt": "84-121-0000 GO ON\n84-121-0001 DO\n84-121-0002 GONE\n"})
    made = make(source, tmp_path / "out")
    assert made.layout == "librispeech"
    assert plain(made.samples, "flac", "txt") == [(FLAC + b"\0", b"GO ON"), (FLAC + b"\1", b"DO")]
    assert facts(made.samples[0])["speaker"] == "84"
    assert made.reasons() == [("84-121-0002", "missing_file"), ("LS/84/121/84-121-0003.flac", "empty_text")]


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_hub_folders(tmp_path: Path, kind: str) -> None:
    put(tmp_path / "in", {"train/a.jpg": JPG, "train/m.png": b"mask"})
    path = manifest(tmp_path / "in" / "train", kind, [{"image_file_name": "a.jpg", "mask_file_name": "m.png", "text": "t"}])
    path.rename(path.with_name(f"metadata.{kind}"))
    made = make(tmp_path / "in", tmp_path / "out")
    assert made.layout == "hf-folder" and plain(made.samples, "jpg", "mask.png", "txt") == [(JPG, b"mask", b"t")]


def test_hub_parquet_with_bytes_of_any_size(tmp_path: Path) -> None:
    big = JPG + bytes(9000)
    rows = [
        {"image": {"bytes": data, "path": name}, "caption": ["one", "two"]}
        for data, name in ((big, "a.jpg"), (JPG, None), (b"", None), (b"what", "x"))
    ]
    (tmp_path / "in" / "data").mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "in" / "data" / "train-00000-of-00001.parquet", row_group_size=2)
    made = make(tmp_path / "in", tmp_path / "out")
    assert made.layout == "manifest" and plain(made.samples, "jpg", "txt") == [(big, b"one"), (JPG, b"one")]
    assert facts(made.samples[0])["captions"] == ["one", "two"] and facts(made.samples[1])["original_name"] == "row 1"
    assert made.reasons() == [("row 2", "empty_medium"), ("row 3", "no_medium")]


@pytest.mark.parametrize("packed", [False, True])
def test_archives_are_joined_and_cut_anew(tmp_path: Path, packed: bool) -> None:
    import gzip

    (tmp_path / "in").mkdir()
    for shard in range(2):
        members = {f"a/{key}.{name}": f"{shard}{key}{name}".encode() * 3000 for key in range(3) for name in ("jpg", "txt")}
        members |= {"z.JPG": JPG, "z.json": b'{"k": 1}', "z.seg.png": b"s"}
        data = tar_of(members)
        (tmp_path / "in" / (f"{shard}.tar" + ".gz" * packed)).write_bytes(gzip.compress(data) if packed else data)
    made = make(tmp_path / "in", tmp_path / "out", max_samples=3)
    assert made.layout == "webdataset" and len(made.tars) == 3 and made.refused == []
    assert [facts(one)["original_name"] for one in made.samples] == ["a/0", "a/1", "a/2", "z"] * 2
    assert made.samples[5]["jpg"] == b"11jpg" * 3000 and made.samples[5]["txt"] == b"11txt" * 3000
    assert facts(made.samples[7])["k"] == 1 and plain(made.samples[7:], "jpg", "seg.png") == [(JPG, b"s")]
    assert len({one["__key__"] for one in made.samples}) == 8


def test_damage_of_an_archive_costs_the_damaged_samples(tmp_path: Path) -> None:
    data = bytearray(tar_of({f"{key}.jpg": b"x" * 900 for key in range(5)}))
    data[2 * 1536 + 100] ^= 0xFF  # in the header of the third member
    put(tmp_path / "in", {"0.tar": bytes(data)})
    made = make(tmp_path / "in", tmp_path / "out")
    assert [facts(one)["original_name"] for one in made.samples] == ["0", "1", "3", "4"]
    assert [row["reason"] for row in made.refused] == ["damaged"]


def test_what_img2dataset_leaves_is_read_as_archives(tmp_path: Path) -> None:
    archive = tar_of({"000000000.jpg": JPG, "000000000.json": b'{"url": "u"}', "000000000.txt": b"t"})
    source = put(tmp_path / "in", {"00000.tar": archive, "00000_stats.json": "{}", "00000.parquet": b"not looked at"})
    made = make(source, tmp_path / "out")
    assert made.layout == "img2dataset" and plain(made.samples, "jpg", "txt") == [(JPG, b"t")] and facts(made.samples[0])["url"] == "u"


def test_common_voice_kaldi_and_nemo(tmp_path: Path) -> None:
    voice = put(
        tmp_path / "cv", {"de/clips/a.mp3": b"ID3a", "de/validated.tsv": "client_id\tpath\tsentence\nc\ta.mp3\tHallo\nc\tb.mp3\tWeg\n"}
    )
    voice = put(voice, {"de/train.tsv": "client_id\tpath\tsentence\nc\ta.mp3\tHallo\n"})
    made = make(voice, tmp_path / "out1")
    assert made.layout == "common-voice" and plain(made.samples, "mp3", "txt") == [(b"ID3a", b"Hallo")]
    assert made.reasons() == [("row 3", "missing_file")] or made.reasons() == [("b.mp3", "missing_file")]

    scp = "u1 a.wav\nu2 sph2pipe x.sph |\nu3 a.wav\n"
    made = make(
        put(tmp_path / "k", {"wav.scp": scp, "text": "u1 hello there\n", "utt2spk": "u1 s1\n", "a.wav": b"RIFF"}), tmp_path / "out2"
    )
    assert made.layout == "kaldi" and plain(made.samples, "wav", "txt") == [(b"RIFF", b"hello there")]
    assert facts(made.samples[0])["speaker"] == "s1" and made.reasons() == [("u2", "bad_row"), ("u3", "empty_text")]

    lines = [{"audio_filepath": "a.wav", "duration": 1.0, "text": "t"}, {"audio_filepath": "a.wav", "offset": 2.0, "text": "cut"}]
    made = make(put(tmp_path / "n", {"train.jsonl": "\n".join(map(json.dumps, lines)), "a.wav": b"RIFF"}), tmp_path / "out3")
    assert (
        made.layout == "nemo"
        and plain(made.samples, "wav", "txt") == [(b"RIFF", b"t")]
        and [row["reason"] for row in made.refused] == ["bad_row"]
    )


def test_rows_of_coco_and_kaldi_that_cannot_be_used_are_rejects(tmp_path: Path) -> None:
    coco, kaldi = tmp_path / "coco", tmp_path / "kaldi"
    coco.mkdir()
    kaldi.mkdir()
    (coco / "a.jpg").write_bytes(JPG)
    images = [{"id": 1, "file_name": "a.jpg"}, {"id": 1, "file_name": "a.jpg"}, {"id": [2], "file_name": "a.jpg"}]
    annotations = [{"image_id": 1, "caption": "x"}, {"image_id": {"a": 1}, "caption": "y"}]
    (coco / "captions.json").write_text(json.dumps({"images": images, "annotations": annotations}))
    made = make(coco, tmp_path / "out")
    assert [sample["txt"] for sample in made.samples] == [b"x"]
    assert made.reasons() == [("", "bad_row"), ("", "bad_row"), ("a.jpg", "duplicate_name")]
    (kaldi / "a.wav").write_bytes(b"RIFF")
    (kaldi / "wav.scp").write_bytes(b"u1 a.wav\nu2 caf\xe9.wav\n")
    (kaldi / "text").write_bytes(b"u1 hello\nu2 caf\xe9\n")
    made = make(kaldi, tmp_path / "kaldi-out")
    assert [sample["txt"] for sample in made.samples] == [b"hello"] and made.reasons() == [("", "bad_row")]


def test_a_file_is_refused_where_a_folder_is_wanted(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("path\na.jpg\n")
    with pytest.raises(RequestError, match="a.csv is a file, and --layout pairs reads a folder"):
        make(tmp_path / "a.csv", tmp_path / "out", layout="pairs")
