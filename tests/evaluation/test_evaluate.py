"""`nightcap evaluate` on whole folders:

- its figures are the libraries' on the same pairs, whether one process works or two;
- rows without reference or caption are said and left out; a sample's captions and references all count;
- comparing a run with itself shows no difference, with a worse one shows where;
- scores.json and samples.parquet hold what was printed; the same command gives the same files;
- each wrong request is one line that says what to do.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from jiwer import wer
from sacrebleu.metrics import BLEU

from jobs.evaluate import EvaluateConfig, run
from pipeline import schema
from pipeline.errors import RequestError
from pipeline.evaluation.tables import PIECE_ROWS

ROWS = [
    ("a cat on a mat", "a cat on a mat"),
    ("two dogs in the park", "two dogs in a park"),
    ("a red bus", "the green car over there"),
    ("the old town hall of the city", "the old hall in the city"),
]


def write(folder: Path, rows: Sequence[dict[str, Any]], shard: str = "a") -> Path:
    """A caption table; rows give what differs from a plain success."""
    full = []
    for at, row in enumerate(rows):
        line: dict[str, Any] = dict.fromkeys(schema.CAPTIONS.names)
        line |= {"key": f"k{at}", "shard": f"{shard}.tar", "index": at, "caption_index": 0, "status": "success", "flags": []}
        full.append(line | {"modality": "image", "language": "en"} | row)
    path = folder / "captions" / f"{shard}.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(full, schema.CAPTIONS), path)
    return folder


def pairs(folder: Path, rows: Sequence[tuple[str | None, str | None]] = ROWS, shard: str = "a") -> Path:
    return write(folder, [{"text": text, "caption": caption} for text, caption in rows], shard)


def evaluated(folder: Path, **options: Any) -> dict[str, Any]:
    assert run(EvaluateConfig(str(folder), **{"replicates": 50, **options})) == 0
    found: dict[str, Any] = json.loads((folder / "evaluation/scores.json").read_text())
    return found


def test_figures_are_those_of_the_libraries(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = evaluated(pairs(tmp_path))
    references, captions = zip(*ROWS, strict=True)
    assert found["scores"]["bleu_4"]["value"] == pytest.approx(BLEU(lowercase=True).corpus_score(captions, [references]).score)
    assert found["scores"]["wer"]["value"] == pytest.approx(wer(list(references), list(captions)))
    assert found["scores"]["exact_match"]["value"] == 0.25
    assert found["scores"]["wer"]["low"] < found["scores"]["wer"]["value"] < found["scores"]["wer"]["high"]
    words = " ".join(captions).split()
    assert found["scores"]["distinct_1"]["value"] == pytest.approx(len(set(words)) / len(words))
    printed = capsys.readouterr().out
    assert "4 samples scored of 4 rows" in printed and "cider_d" in printed


def test_samples_parquet_holds_one_row_a_caption(tmp_path: Path) -> None:
    found = evaluated(pairs(tmp_path))
    table = pq.read_table(tmp_path / "evaluation/samples.parquet")
    assert table.schema.equals(schema.SCORES)
    assert table.column("exact_match").to_pylist() == [1, 0, 0, 0]
    assert table.column("cider_d").to_numpy().mean() == pytest.approx(found["scores"]["cider_d"]["value"])
    assert [row["key"] for row in found["best"]][0] == "k0" and found["worst"][0]["key"] == "k2"


def test_more_pieces_and_processes_give_the_same_files(tmp_path: Path) -> None:
    for name in ("one", "two"):
        for shard in "abc":
            pairs(tmp_path / name, [(f"{text} {at}", caption) for at in range(PIECE_ROWS // 8) for text, caption in ROWS], shard)
    one = evaluated(tmp_path / "one", workers=1)
    two = evaluated(tmp_path / "two", workers=2)
    assert one | {"captions": ""} == two | {"captions": ""}
    assert one["coverage"]["samples_scored"] == 3 * PIECE_ROWS // 2
    first, second = (pq.read_table(tmp_path / name / "evaluation/samples.parquet") for name in ("one", "two"))
    assert first.equals(second)


def test_rows_without_reference_or_caption_are_said_and_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"text": text, "caption": caption} for text, caption in ROWS]
    rows += [{"text": None, "caption": "more"}, {"text": "  ", "caption": "more"}]
    rows += [{"text": "gone", "caption": None, "status": "rejected", "reason": "undecodable"}]
    found = evaluated(write(tmp_path, rows))
    assert found["scores"]["wer"]["value"] == pytest.approx(wer([text for text, _ in ROWS], [caption for _, caption in ROWS]))
    assert found["coverage"]["rows_without_reference"] == 2 and found["coverage"]["rows_without_caption"] == 1
    assert "2 rows without a reference, left out · 1 rows without a caption" in capsys.readouterr().out


def test_all_captions_of_a_sample_count_and_are_drawn_together(tmp_path: Path) -> None:
    rows = [
        {"text": "a cat", "caption": caption, "index": at // 2, "caption_index": at % 2}
        for at, caption in enumerate(["a cat", "a dog"] * 6)
    ]
    found = evaluated(write(tmp_path, rows))
    assert found["coverage"]["samples_scored"] == 6
    exact = found["scores"]["exact_match"]
    assert (exact["value"], exact["low"], exact["high"]) == (0.5, 0.5, 0.5)


@pytest.mark.parametrize("form", ["json", "jsonl", "csv", "parquet", "coco", "place"])
def test_references_come_from_a_file(tmp_path: Path, form: str) -> None:
    folder = pairs(tmp_path, [(None, "a cat"), (None, "a dog"), ("as it came", "as it came")])
    texts = {"k0": ["a bird", "a cat"], "k1": ["a dog"]}
    rows = [{"key": key, "text": text} for key, several in texts.items() for text in several]
    path = tmp_path / f"references.{form if form in ('json', 'jsonl', 'csv', 'parquet') else 'json'}"
    if form == "json":
        path.write_text(json.dumps(texts))
    elif form == "coco":
        images = [{"id": at, "file_name": f"{key}.jpg"} for at, key in enumerate(texts)]
        notes = [{"image_id": at, "caption": text} for at, several in enumerate(texts.values()) for text in several]
        path.write_text(json.dumps({"images": images, "annotations": notes}))
    elif form == "place":
        path.write_text(json.dumps([{"shard": "a.tar", "index": at, "references": several} for at, several in enumerate(texts.values())]))
    elif form == "jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif form == "csv":
        path.write_text("key,text\n" + "".join(f"{row['key']},{row['text']}\n" for row in rows))
    else:
        pq.write_table(pa.Table.from_pylist(rows), path)
    found = evaluated(folder, references=str(path))
    assert found["scores"]["exact_match"]["value"] == 1
    assert {name: held["samples"] for name, held in found["buckets"]["reference source"].items()} == {path.name: 2, "text": 1}


def test_buckets_hold_their_own_figures(tmp_path: Path) -> None:
    rows = [
        {"text": "a cat", "caption": "a cat"},
        {"text": "one two three four five", "caption": "no", "modality": "audio", "language": "de"},
    ]
    found = evaluated(write(tmp_path, rows))["buckets"]
    assert found["modality"]["image"]["scores"]["exact_match"]["value"] == 1
    assert found["language"]["de"]["scores"]["exact_match"]["value"] == 0
    assert set(found["reference words"]) == {"1-4", "5-9"}


def test_a_run_does_not_differ_from_itself(tmp_path: Path) -> None:
    folder = pairs(tmp_path)
    against = evaluated(folder, against=str(folder))["against"]
    assert {change["verdict"] for change in against["difference"].values()} == {"unclear"}
    assert against["improved"] == against["declined"] == []


def test_a_worse_run_is_told_and_where(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = pairs(tmp_path / "good", [(text, text) for text, _ in ROWS] * 10)
    bad = pairs(tmp_path / "bad", [(text, "nothing of it" if at % 4 == 3 else text) for at, (text, _) in enumerate(ROWS * 10)])
    against = evaluated(good, against=str(bad), by="rouge_l")["against"]
    assert against["difference"]["rouge_l"]["verdict"] == against["difference"]["wer"]["verdict"] == "better"
    assert {row["caption"] for row in against["improved"]} == {ROWS[3][0]} and against["declined"] == []
    assert "improved most, by rouge_l" in capsys.readouterr().out


def test_samples_of_only_one_run_are_left_out_and_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one, other = pairs(tmp_path / "one"), pairs(tmp_path / "other", ROWS[:3])
    found = evaluated(one, against=str(other))
    assert found["coverage"]["samples_scored"] == 3 and "1 rows not in the other run" in capsys.readouterr().out


def test_a_recording_is_ranked_by_its_error_rate(tmp_path: Path) -> None:
    found = evaluated(write(tmp_path, [{"text": text, "caption": caption, "modality": "audio"} for text, caption in ROWS]))
    assert found["by"] == "wer" and found["worst"][0]["key"] == "k2"


def refused(folder: Path, **options: Any) -> str:
    with pytest.raises(RequestError) as caught:
        run(EvaluateConfig(str(folder), replicates=5, **options))
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_wrong_requests_say_what_to_do(tmp_path: Path) -> None:
    assert "holds no caption tables" in refused(tmp_path)
    assert "holds no rows" in refused(write(tmp_path / "empty", []))
    assert "give one with --references" in refused(pairs(tmp_path / "none", [(None, "a cat")]))
    gone = write(tmp_path / "gone", [{"text": "a cat", "status": "rejected"}])
    assert "none of the 1 rows with a reference has a caption (rejected 1)" in refused(gone)
    assert not (tmp_path / "gone/evaluation/samples.parquet").exists()
    good = pairs(tmp_path / "good")
    assert "different corpora" in refused(
        write(tmp_path / "x", [{"text": "a", "caption": "b", "sample_sha256": "1"}]),
        against=str(write(tmp_path / "y", [{"text": "a", "caption": "b", "sample_sha256": "2"}])),
    )
    pairs(tmp_path / "far", shard="b")
    pairs(tmp_path / "far", shard="c")
    assert "no archive in common" in refused(good, against=str(tmp_path / "far"))
    other = tmp_path / "other.parquet"
    pq.write_table(pa.table({"x": [1]}), other)
    assert "has no column key" in refused(other)
    other.write_bytes(b"no parquet")
    assert "cannot be read as Parquet" in refused(other)


def test_wrong_references_say_what_to_do(tmp_path: Path) -> None:
    bare = pairs(tmp_path / "bare", [(None, "a cat")])
    file = tmp_path / "r.json"
    assert "cannot be read" in refused(bare, references=str(file))
    for text in ("[1", "3", '{"k0": 3}', '[{"key": "k0"}]', '[{"text": "a"}]'):
        file.write_text(text)
        assert "holds no references" in refused(bare, references=str(file))
    file.write_text("{}")
    assert "names no sample" in refused(bare, references=str(file))
    file.write_text('{"z": "a"}')
    assert "names none of the 1 samples ('z' there, 'k0' here)" in refused(bare, references=str(file))


@pytest.mark.parametrize(
    ("options", "says"),
    [({"by": "bleu"}, "--by bleu"), ({"normaliser": "french"}, "--normaliser french"), ({"replicates": -1}, "--replicates -1")],
)
def test_wrong_options_name_themselves(options: dict[str, Any], says: str) -> None:
    with pytest.raises(RequestError, match=says):
        EvaluateConfig("x", **options)
