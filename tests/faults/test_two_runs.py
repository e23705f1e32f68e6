"""The same command twice at the same time, as a scheduler that is too eager starts it.

Both plan before either has a result, so that each does the whole work and they meet in every part and every merge.
Both exit 0; the tables are those of one undisturbed run; neither leaves parts, markers or temporary files.
"""

import json
from typing import Any

import pytest

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(300)]


def test_two_runs_at_the_same_time_end_like_one(corpus: Any, undisturbed: dict[str, Any]) -> None:
    (corpus.path / "meet").mkdir()
    processes = [corpus.start("output") for _ in range(2)]
    printed = [process.communicate(timeout=240)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], "\n".join(printed)
    assert len(list((corpus.path / "meet").iterdir())) == 2, "the runs did not overlap"
    assert corpus.tables("output") == undisturbed
    assert corpus.leftovers("output") == []
    records = [json.loads(path.read_text()) for path in (corpus.path / "output/runs").glob("*/run.json")]
    assert [(record["samples"], record["shards_left"], record["stopped"]) for record in records] == [(144, 0, None)] * 2
    assert sum(record["shards_committed"] + record["shards_repaired"] for record in records) >= 5
