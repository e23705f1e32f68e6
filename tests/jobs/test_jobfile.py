"""A job's file: what is wrong in it is told with its line.

- unknown keys, also below others, name the nearest one; repeated keys name both lines; hyphens are underscores;
- a value of the wrong kind, and one that the job refuses, name the line that gave them;
- free mappings take any key; a file that is no YAML names the line.
"""

from pathlib import Path

import pytest

from jobs.jobfile import names_of, placed, read
from jobs.nightly import NightlyConfig
from pipeline.errors import RequestError
from tests.jobs.test_requests import refused

GOOD = "shards: [in]\noutput: out\nengine: facts\n"


def test_every_option_is_a_key_and_nested_ones_stand_below_theirs() -> None:
    names = names_of(NightlyConfig)
    assert {"shards", "model", "budget_hours", "max_rejects", "drift"} <= set(names)
    assert "rejects" in (names["drift"] or {}) and names["prompts"] is None


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (GOOD + "bugdet_hours: 2\n", "job.yaml, line 4: unknown key bugdet_hours; did you mean budget_hours?"),
        (GOOD + "drift:\n  rejcts: 1\n", "job.yaml, line 5: unknown key drift.rejcts; did you mean rejects?"),
        (GOOD + "beams: 1\noutput: b\n", "job.yaml, line 5: output is given twice, first in line 2; keep one"),
        (GOOD + "budget-hours: many\n", "job.yaml, line 4: Invalid value"),
        (GOOD + "budget-hours: -1\n", "job.yaml, line 4: --budget-hours"),
        (GOOD + "drift: {rejects: high}\n", "job.yaml, line 4: Invalid value for [drift][rejects]"),
        (GOOD + "drift: 5\n", "job.yaml, line 4: drift takes keys below it: after, "),
        (GOOD + "drift: [rejects]\n", "job.yaml, line 4: drift takes keys below it: after, "),
        (GOOD + "since: once\n", "job.yaml, line 4: --since 'once' is neither a date"),
        ("shards: [in\n", "job.yaml, line 2 is no YAML"),
        ("- a\n", "holds no mapping"),
    ],
)
def test_a_mistake_is_told_with_its_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], text: str, says: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "job.yaml").write_text(text)
    assert says in refused(capsys, "nightly", "job.yaml")


def test_a_night_without_its_file_and_a_corpus_that_vanished_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert "needs a job file" in refused(capsys, "nightly")
    assert "no job file" in refused(capsys, "nightly", "job.txt")
    assert "No such file" in refused(capsys, "nightly", "job.yaml")
    (tmp_path / "job.yaml").write_text(GOOD)
    assert "no shard matches in" in refused(capsys, "nightly", "job.yaml")


def test_hyphens_are_underscores_and_free_mappings_take_any_key(tmp_path: Path) -> None:
    file = tmp_path / "job.yaml"
    file.write_text("budget-hours: 2\nprompts:\n  a-b: x\n")
    assert read(str(file), names_of(NightlyConfig)) == {"budget_hours": 1, "prompts": 2, "prompts.a_b": 3}


def test_a_complaint_about_a_flag_of_the_command_line_names_no_file() -> None:
    assert placed("--beams is 0", {"job.yaml": {"model": 3}}) == "--beams is 0"
    with pytest.raises(RequestError, match="Is a directory"):
        read("/")
