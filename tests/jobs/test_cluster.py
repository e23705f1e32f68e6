"""What Ray's core writes while it starts: one line of it is of no use to anybody, the others go on.

- the line that its log level was set is dropped; every other line is printed, also when starting fails.
"""

import os

import pytest

from jobs.cluster import _without_log_level_line

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
