"""Ray reached by address, and what its core writes while it starts: one line of it is of no use to anybody, the others go on.

- an address where nothing listens, and that of a job server, are one line at once;
- on a cluster an output on a disk is meant from here, not from where its workers stand;
- the line that its log level was set is dropped; every other line is printed, also when starting fails.
"""

import os
from pathlib import Path

import pytest

from jobs.cluster import _without_log_level_line, session
from jobs.options import ShardOptions
from pipeline.errors import RequestError

USELESS = b"[2026-11-24 20:09:23,818 I 8909 8909] logging.cc:303: Set ray log level from environment variable RAY_BACKEND_LOG_LEVEL to 3\n"


def test_the_line_on_the_log_level_is_dropped_and_others_are_printed(capfd: pytest.CaptureFixture[str]) -> None:
    with _without_log_level_line():
        os.write(2, b"first\n" + USELESS + b"last, without an end")
    os.write(2, b" and more\n")
    assert capfd.readouterr().err == "first\nlast, without an end and more\n"


def test_a_start_that_fails_prints_what_it_wrote(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(RuntimeError, match="no room"), _without_log_level_line():
        os.write(2, USELESS + b"why it failed\n")
        raise RuntimeError("no room")
    assert capfd.readouterr().err == "why it failed\n"


@pytest.mark.parametrize(
    ("address", "says"),
    [
        ("127.0.0.1:9", "no Ray cluster answers at 127.0.0.1:9 .*refused"),
        ("ray://127.0.0.1:9", "no Ray cluster answers at ray://127.0.0.1:9 "),
        ("no.such.host.invalid:6379", "no Ray cluster answers at no.such"),
        ("http://head:8265", "is a job server: give it to nightcap submit"),
    ],
)
def test_an_address_where_no_cluster_is_is_one_line(address: str, says: str) -> None:
    with pytest.raises(RequestError, match=says) as refused, session(address, verbose=False):
        pass
    assert "\n" not in str(refused.value)


def test_on_a_cluster_an_output_on_a_disk_is_meant_from_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert ShardOptions(("in",), output="out").output == "out"
    assert ShardOptions(("in",), output="out", address="head:6379").output == f"{tmp_path}/out"
    assert ShardOptions(("in",), output="s3://bucket/out", address="head:6379").output == "s3://bucket/out"
    monkeypatch.setenv("RAY_ADDRESS", "head:6379")
    assert ShardOptions(("in",), output="out").output == f"{tmp_path}/out"
