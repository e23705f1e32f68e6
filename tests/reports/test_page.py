"""The page of a run:

- what came from data is shown, never run: it stands escaped, and the page forbids foreign scripts and any request;
- pictures, sound and scores of the run's files are on it; a medium that cannot be read leaves its reason;
- rejects are shown with their media or first bytes, but what killed a process is not decoded again;
- the same files give the same bytes; its size does not grow with the run;
- the timeline of a run keeps a bounded number of points that end where the run does;
- a folder that holds no run is refused in one line.
"""

import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs.evaluate import EvaluateConfig
from jobs.evaluate import run as evaluate
from jobs.report import ReportConfig, page_of, run
from pipeline import schema
from pipeline.commit.archives import Archive
from pipeline.errors import RequestError
from pipeline.reports.facts import GALLERY_FILES, GALLERY_PER_FILE, PREPARED_FIRST
from pipeline.reports.gallery import FRAMES
from pipeline.reports.rejects import PER_REASON
from pipeline.reports.tally import POINTS, Tally
from pipeline.storage import Folder
from tests.reports.run_folder import EVIL, RUN, picture, recording, row, write_rows, write_run
from tests.training.small import write_prepared


@pytest.fixture
def output(tmp_path: Path) -> Path:
    return write_run(tmp_path)


def page(output: Path) -> str:
    assert run(ReportConfig(str(output))) == 0
    return (output / "runs" / RUN / "report.html").read_text()


def test_what_came_from_data_is_escaped(output: Path) -> None:
    text = page(output)
    assert text.count("<script") == 1 and "<img src=http" not in text
    assert text.count("&lt;script&gt;document.title") >= 4
    assert "default-src 'none'" in text and re.search(r"script-src 'sha256-[\w+/=]+'", text)


def test_media_of_the_archive_are_on_it(output: Path) -> None:
    text = page(output)
    assert text.count("data:image/jpeg;base64,") == 5
    assert text.count("data:image/png;base64,") == text.count("data:audio/mpeg;base64,") == 1
    assert "undecodable" in text and "10,240–11,264" in text


def test_it_names_no_other_place(output: Path) -> None:
    class Places(HTMLParser):
        found: ClassVar[list[str]] = []

        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            named = ("src", "href", "action", "srcset", "poster", "xlink:href")
            self.found += [value or "" for name, value in attrs if name in named]

    Places().feed(page(output))
    assert len(Places.found) > 7 and {place[:5] for place in Places.found if not place.startswith("#")} == {"data:"}


def quarantine(output: Path, rows: list[dict[str, Any]], group_rows: int = 2) -> None:
    full = [
        dict.fromkeys(schema.QUARANTINE.names) | {"shard": "a.tar", "stage": "engine", "transient": False, "detail": ""} | one
        for one in rows
    ]
    pq.write_table(pa.Table.from_pylist(full, schema.QUARANTINE), output / "quarantine/a.parquet", row_group_size=group_rows)


def test_rejects_are_shown_with_their_media_or_their_first_bytes(output: Path) -> None:
    def members(name: str, data: bytes) -> list[dict[str, Any]]:
        return [{"name": "k.txt", "bytes": b"a"}, {"name": name, "bytes": data}]

    rows: list[dict[str, Any]] = [
        {"key": f"r{at}", "index": at, "reason": "engine_failed", "members": members("r.JPG", picture(at))} for at in range(9)
    ]
    rows += [{"key": "bad", "index": 9, "reason": "undecodable", "members": members("bad.jpg", b"\x00\xffno picture at all")}]
    rows += [{"key": "k2", "index": 2, "reason": "filtered_size", "members": None}]
    quarantine(output, rows)
    (output / "captions/a.parquet").unlink()
    text = page(output)
    assert text.count("data:image/jpeg;base64,") == PER_REASON + 1  # of each reason only so many; one from its archive
    assert "<code>00 ff 6e 6f 20 70" in text and "bad.jpg 19 B" in text


def test_what_killed_a_process_is_not_decoded_for_the_page(output: Path) -> None:
    row_of = {"key": "k0", "index": 0, "members": [{"name": "k0.jpg", "bytes": picture(0)}]}
    quarantine(output, [row_of | {"reason": reason} for reason in ("crashed", "hung", "too_much_memory", "too_many_pixels")])
    write_rows(output, "a.tar", [row(0, "a.tar", status="rejected", reason="crashed", caption=None)])
    text = page(output)
    assert "data:image/jpeg" not in text and text.count("not decoded again") == 5


def test_refused_files_of_a_source_are_shown(output: Path) -> None:
    refused = dict.fromkeys(schema.REFUSED.names) | {
        "source": "list.csv",
        "row": 7,
        "name": EVIL,
        "reason": "missing_file",
        "detail": "gone",
    }
    (output / "rejects").mkdir()
    pq.write_table(pa.Table.from_pylist([refused], schema.REFUSED), output / "rejects/a.parquet")
    text = page(output)
    assert "missing_file" in text and "list.csv · 7" in text


def test_a_prepared_folder_shows_its_own_media(output: Path, tmp_path: Path) -> None:
    write_prepared(tmp_path / "more", shards=(PREPARED_FIRST + 8,), group_rows=500)
    (output / "captions/a.parquet").unlink()
    shutil.copytree(tmp_path / "more/prepared", output / "prepared")
    text = page(output)
    assert text.count("data:image/jpeg;base64,") == GALLERY_PER_FILE
    assert f"of {PREPARED_FIRST + 8:,} rows" in text and "tokens" in text and "Caption</dt>" not in text


def test_archives_that_were_prepared_show_their_own_media(output: Path) -> None:
    (output / "captions/a.parquet").unlink()
    archive = output / "archives/part/b.tar"
    archive.parent.mkdir(parents=True)
    given = {"modality": "image", "flags": [], "width": 60, "height": 40, "shard": "part/b.tar", "n_tokens": 5}
    rows = [given | {"key": f"k{at}", "index": 2 * at, "image": picture(at), "text": EVIL} for at in range(GALLERY_PER_FILE + 3)]
    rows[4] |= {"image": None, "audio": recording(), "modality": "audio"}
    rows[5] |= {"image": None, "frames": [picture(at) for at in range(FRAMES + 2)], "modality": "video"}
    with Folder(str(output)).create("archives/part/b.tar") as draft, Archive(draft) as written:
        written.add(pa.Table.from_pylist([dict.fromkeys(schema.PREPARED.names) | row for row in rows], schema.PREPARED))
    archive.with_name("b_stats.json").write_text(json.dumps({"counts": written.counts}))
    text = page(output)
    shown = text.count('<li class="card"')
    assert shown == GALLERY_PER_FILE and f"of {len(rows)} rows" in text and "Tokens of 15" in text
    pictures = text.count("data:image/jpeg;base64,") + text.count("data:audio/mpeg;base64,")
    assert pictures in (shown, shown + FRAMES - 1), "the clip may be among those that are shown"
    assert "cannot be read" not in text and "<script>document" not in text
    archive.write_bytes(archive.read_bytes()[: archive.stat().st_size // 2])
    archive.with_name("b_stats.json").unlink()
    found = re.search(r"(\d+) of (\d+) rows", page(output))
    assert found is not None and 1 < int(found[1]) == int(found[2]) < shown, "what is left of a damaged archive"


def test_values_that_are_not_finite_stand_in_no_histogram(output: Path) -> None:
    given = [float("nan"), -1.0, float("-inf"), -2.0, None]
    write_rows(output, "a.tar", [row(at, "a.tar", mean_logprob=value) for at, value in enumerate(given)])
    assert "Mean log-probability of 2: half are between" in page(output)


def test_an_archive_that_is_gone_leaves_its_reason(output: Path) -> None:
    (output.parent / "shards/a.tar").unlink()
    text = page(output)
    assert "the archive cannot be read: No such file" in text and "data:image/jpeg" not in text


def test_another_sample_in_its_place_is_not_shown(output: Path) -> None:
    write_rows(output, "a.tar", [row(at, "a.tar", key=f"other{at}") for at in range(5)])
    assert page(output).count("another sample there now") == 6  # the reject as well


def test_scores_are_on_it_after_evaluate(output: Path) -> None:
    assert "Worst by" not in page(output)
    evaluate(EvaluateConfig(str(output), replicates=10))
    text = page(output)
    assert "Worst by cider_d" in text and "token_f1" in text
    assert "By modality" in text and re.search(r'aria-label="chrf of 6: half are between [\d.]+ and', text)
    evaluate(EvaluateConfig(str(output), replicates=10, against=str(output)))
    assert "unclear" in page(output)


def test_the_same_files_give_the_same_bytes(output: Path) -> None:
    assert page(output) == page(output)


def test_its_size_does_not_grow_with_the_run(output: Path) -> None:
    for shard in range(GALLERY_FILES + 4):
        write_rows(output, f"s{shard}.tar", [row(at, f"s{shard}.tar") for at in range(60)])
    text = page(output)
    assert 0 < text.count('<li class="card"') <= GALLERY_FILES * GALLERY_PER_FILE
    assert f"of {60 * (GALLERY_FILES + 4) + 7:,} rows" in text
    assert len(text) < 400_000


def test_a_run_that_did_nothing_has_a_page(output: Path) -> None:
    path = output / "runs" / RUN / "run.json"
    record: dict[str, Any] = json.loads(path.read_text())
    path.write_text(json.dumps(record | {"counts": {}, "samples": 0, "timeline": [], "work_s": {}, "stopped": EVIL}))
    (output / "captions/a.parquet").unlink()
    text = page(output)
    assert "stopped before its end" in text and "<script>document" not in text


def test_the_latest_run_and_a_named_one(output: Path) -> None:
    later = output / "runs/20270101T000000-ffffff"
    later.mkdir()
    (later / "run.json").write_text((output / "runs" / RUN / "run.json").read_text())
    run(ReportConfig(str(output)))
    assert (later / "report.html").exists() and not (output / "runs" / RUN / "report.html").exists()
    run(ReportConfig(str(output / "runs" / RUN)))
    assert (output / "runs" / RUN / "report.html").exists()


def test_no_run_is_refused_in_one_line(tmp_path: Path, output: Path) -> None:
    with pytest.raises(RequestError, match="holds no run"):
        run(ReportConfig(str(tmp_path / "nowhere")))
    (output / "runs" / RUN / "run.json").write_text("[")
    with pytest.raises(RequestError, match="cannot be read"):
        run(ReportConfig(str(output)))


def test_a_page_that_cannot_be_made_does_not_fail_the_run(output: Path) -> None:
    (output / "captions/a.parquet").write_bytes(b"no parquet")
    assert "could not be made" in page_of(Folder(str(output)), f"runs/{RUN}/run.json")


def test_the_timeline_is_bounded_and_goes_to_the_end() -> None:
    tally = Tally()
    receipt = {"counts": '{"success": 1}', "seconds": "{}", "audio_s": 0.0, "committed": False, "damage": 0, "examples": "[]"}
    for _ in range(20 * POINTS):
        tally.add(receipt)
    assert POINTS // 4 <= len(tally.timeline) <= POINTS
    times, samples = [point[0] for point in tally.timeline], [point[1] for point in tally.timeline]
    assert times == sorted(times) and samples == sorted(samples)
    assert samples[-1] > 0.8 * 20 * POINTS
