"""`nightcap submit` against a job server that drops connections:

- the same night is submitted once; the same command follows it again, and a failed one is submitted anew under the next name;
- the log comes out whole and once, whatever connections break; the exit code is the driver's own, also of a job that was stopped;
- a cluster that stays away, that lost the job with its head node, that wants a token, or does not answer, is one line each.
"""

import http.server
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs.follow_job import Follower, Unreachable, exit_code_of
from jobs.submit import SubmitConfig, run, submission_id
from pipeline.errors import RequestError, StoppedError
from tests.stores import serving


@dataclass
class Cluster:
    """Jobs by id: details, log; each request of a job moves it on by one state of its life."""

    life: list[tuple[str, int | None, str]]
    """(state, exit code, log so far), one a poll; the last one stays."""
    jobs: dict[str, int] = field(default_factory=dict)
    submitted: list[dict[str, Any]] = field(default_factory=list)
    drop: list[int] = field(default_factory=list)
    """Numbers of requests that are hung up on."""
    requests: int = 0
    refuse: int = 0
    """Answer everything with this code."""


class _Handler(http.server.BaseHTTPRequestHandler):
    def log_message(self, *arguments: Any) -> None:
        pass

    def _answer(self, code: int, value: Any) -> None:
        data = json.dumps(value).encode() if not isinstance(value, str) else value.encode()
        self.send_response(code)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _any(self) -> None:
        cluster: Cluster = self.server.owner  # type: ignore[attr-defined]
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        cluster.requests += 1
        if cluster.requests in cluster.drop:
            self.close_connection = True
            self.connection.close()
            return None
        if cluster.refuse:
            return self._answer(cluster.refuse, "Unauthorized: Missing authentication token" if cluster.refuse == 401 else "no")
        parts = self.path.strip("/").split("/")
        if parts[:2] == ["api", "version"]:
            return self._answer(200, {"version": "4", "ray_version": "2.60.0", "ray_commit": "x", "session_name": "s"})
        if parts[1] == "packages":
            return self._answer(200, {})
        if self.command == "POST" and parts == ["api", "jobs"]:
            given = json.loads(body)
            if given["submission_id"] in cluster.jobs:
                return self._answer(500, f"Job with submission_id {given['submission_id']} already exists.")
            cluster.jobs[given["submission_id"]] = 0
            cluster.submitted.append(given)
            return self._answer(200, {"job_id": given["submission_id"], "submission_id": given["submission_id"]})
        if parts[2] not in cluster.jobs:
            return self._answer(404, f"Job {parts[2]} does not exist")
        state, code, log = cluster.life[min(cluster.jobs[parts[2]], len(cluster.life) - 1)]
        if parts[-1] == "logs":
            return self._answer(200, {"logs": log})
        cluster.jobs[parts[2]] += 1
        return self._answer(
            200,
            {"type": "SUBMISSION", "submission_id": parts[2], "entrypoint": "x", "status": state, "message": "m", "driver_exit_code": code},
        )

    do_GET = do_POST = do_PUT = _any


LIFE = [("PENDING", None, ""), ("RUNNING", None, "one\n"), ("RUNNING", None, "one\ntwo\n"), ("SUCCEEDED", 0, "one\ntwo\nthree\n")]


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr("jobs.follow_job.POLL_S", 0.01)
    monkeypatch.setattr("jobs.follow_job.LONGEST_WAIT_S", 0.01)
    file = tmp_path / "corpus.yaml"
    file.write_text("shards: [in]\noutput: out\nengine: facts\n")
    return str(file)


@pytest.fixture
def cluster() -> Iterator[tuple[Cluster, str]]:
    made = Cluster(list(LIFE))
    with serving(_Handler, made) as url:
        yield made, url


def test_a_night_is_submitted_once_and_followed_through_dropped_connections(
    job: str, cluster: tuple[Cluster, str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    made, url = cluster
    monkeypatch.setattr("time.sleep", lambda s: None)
    made.drop = [6, 8, 9, 12]
    config = SubmitConfig(job, address=url, date="2026-01-01")
    assert run(config) == 0
    printed = capsys.readouterr().out
    assert "one\ntwo\nthree\n" in printed and printed.count("one\n") == 1
    assert [given["submission_id"] for given in made.submitted] == [submission_id(job, "out", "2026-01-01")]
    assert made.submitted[0]["entrypoint"] == "python -m jobs.cli nightly corpus.yaml --date 2026-01-01"
    assert made.submitted[0]["runtime_env"]["working_dir"].startswith("gcs://")
    assert run(config) == 0 and len(made.submitted) == 1, "the same night was submitted twice"


def test_a_failed_night_is_submitted_anew_and_the_exit_code_is_its_own(job: str, cluster: tuple[Cluster, str]) -> None:
    made, url = cluster
    made.life = [("FAILED", 3, "")]
    config = SubmitConfig(job, address=url, date="2026-01-01")
    assert run(config) == 3 and run(config) == 3
    first = submission_id(job, "out", "2026-01-01")
    assert list(made.jobs) == [first, f"{first}-again-2"]
    assert run(SubmitConfig(job, address=url, date="2026-01-01", status=True)) == 3
    assert run(SubmitConfig(job, address=url, date="2026-01-02", detach=True)) == 0
    with pytest.raises(RequestError, match="was not submitted"):
        run(SubmitConfig(job, address=url, date="2026-01-03", logs=True))


@pytest.mark.parametrize(("code", "says"), [(401, "wants a token; set RAY_AUTH_MODE=token"), (404, "404")])
def test_a_cluster_that_refuses_is_one_line(job: str, cluster: tuple[Cluster, str], code: int, says: str) -> None:
    made, url = cluster
    made.refuse = code
    with pytest.raises(RequestError, match=says) as refused:
        run(SubmitConfig(job, address=url))
    assert "\n" not in str(refused.value)


def test_an_address_that_does_not_answer_is_one_line(job: str) -> None:
    with pytest.raises(RequestError, match="http://127.0.0.1:9: nobody answers"):
        run(SubmitConfig(job, address="http://127.0.0.1:9"))
    with pytest.raises(RequestError, match="give the job server's URL"):
        SubmitConfig(job, address="ray://head:10001")


def test_a_cluster_that_stays_away_or_lost_the_job_ends_the_following() -> None:
    now = [0.0]

    class Away:
        def get_job_info(self, job_id: str) -> Any:
            raise Unreachable("gone")

        get_job_logs = get_job_info

    follower = Follower(Away(), "j", print, 600.0, wait=lambda s: now.__setitem__(0, now[0] + s), clock=lambda: now[0])
    with pytest.raises(StoppedError, match="has not answered for 600 s"):
        follower.to_end()

    class Lost(Away):
        def get_job_info(self, job_id: str) -> Any:
            raise RuntimeError("Request failed with status code 404: Job j does not exist.")

    with pytest.raises(StoppedError, match="its head node was lost; the same command submits it again"):
        Follower(Lost(), "j", print, 600.0).to_end()


@settings(max_examples=60)
@given(
    st.lists(st.text("ab\n", min_size=1, max_size=4), max_size=6), st.lists(st.booleans(), max_size=40), st.sampled_from([0, 1, 2, 3, None])
)
def test_whatever_breaks_the_log_comes_out_whole_and_once(pieces: list[str], breaks: list[bool], code: int | None) -> None:
    states, faults, at = ["RUNNING"] * len(pieces) + ["FAILED" if code else "SUCCEEDED"], list(breaks), [0]

    class Flaky:
        def _maybe(self) -> None:
            if faults and faults.pop():
                raise Unreachable("broken")

        def get_job_info(self, job_id: str) -> Any:
            self._maybe()
            at[0] = min(at[0] + 1, len(states))
            return SimpleNamespace(status=states[at[0] - 1], driver_exit_code=code)

        def get_job_logs(self, job_id: str) -> str:
            self._maybe()
            return "".join(pieces[: at[0]])

    shown: list[str] = []
    assert Follower(Flaky(), "j", shown.append, 1e9, wait=lambda s: None).to_end() == (code or 0)
    assert "".join(shown) == "".join(pieces)


def test_a_job_that_ended_without_an_exit_code_of_its_own_is_no_success() -> None:
    for state, code, expected in (("STOPPED", None, 1), ("STOPPED", -15, 1), ("FAILED", None, 1), ("FAILED", 2, 2), ("SUCCEEDED", None, 0)):
        assert exit_code_of(SimpleNamespace(status=state, driver_exit_code=code)) == expected
