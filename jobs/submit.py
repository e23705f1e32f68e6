"""`nightcap submit JOB.yaml --address URL`: a night on a Ray cluster, followed to its end; the exit code is the job's own."""

import hashlib
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from jobs.display import console
from jobs.follow_job import ENDED, Follower, Unreachable, exit_code_of, lost
from pipeline.errors import RequestError, StoppedError

TIMEOUT_S = 30.0
"""Seconds that one answer of the job server may take."""
EXCLUDED = (".git", ".venv", "__pycache__", "*.tar", "*.parquet", ".mypy_cache", ".ruff_cache", ".hypothesis", "runs")
REPEATS = 100


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True, slots=True)
class SubmitConfig:
    """Options of `nightcap submit`."""

    job: Annotated[str, Parameter(negative=())] = field(kw_only=False)
    """The job's file, as nightcap nightly takes it."""
    address: str
    """The cluster's job server: http://host:8265, or https://... A token comes from RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH, with RAY_AUTH_MODE=token."""
    date: str = ""
    """The night, YYYY-MM-DD; today (UTC) where it is not given. One night is submitted once."""
    working_dir: str = ""
    """Folder that goes along with the job, for engines and decoders of your own; without it only the job's file does."""
    detach: bool = False
    """Do not follow it."""
    status: bool = False
    """Only say how it stands; the exit code is the job's, 0 while it runs."""
    logs: bool = False
    """Only print its log so far."""
    stop: bool = False
    """Stop it; the next submission continues."""
    patience_s: float = 600.0
    """Seconds without an answer of the cluster after which following ends."""

    def __post_init__(self) -> None:
        if self.date:
            try:
                date.fromisoformat(self.date)
            except ValueError as exc:
                raise RequestError(f"--date {self.date!r} is no date; write for example 2026-11-24") from exc
        if not self.address.startswith(("http://", "https://")):
            raise RequestError(f"--address {self.address}: give the job server's URL, such as http://head:8265")
        if sum((self.detach, self.status, self.logs, self.stop)) > 1:
            raise RequestError("--detach, --status, --logs and --stop exclude each other")

    def night(self) -> str:
        """The date of the night."""
        return self.date or f"{datetime.now(UTC):%Y-%m-%d}"


def run(config: SubmitConfig) -> int:
    """Submits, follows, and returns the job's exit code."""
    output = _output_of(config.job)
    client = connect(config.address)
    base = submission_id(config.job, output, config.night())
    job_id, info = _latest(client, base)
    if config.status or config.logs or config.stop:
        return _only(config, client, job_id, info)
    if info is not None and _state(info) in ("FAILED", "STOPPED"):
        job_id, info = _next(base, job_id), None
    if info is None:
        with _package(config) as (folder, name):
            job_id = _submit(client, job_id, folder, name, config.night())
        console.print(f"submitted {job_id} to {config.address}", soft_wrap=True)
    else:
        console.print(f"{job_id} was submitted before; it is {_state(info).lower()}", soft_wrap=True)
    if config.detach:
        return 0
    code = Follower(client, job_id, _show, config.patience_s).to_end()
    console.print(f"{job_id} ended with exit code {code}", soft_wrap=True)
    return code


def submission_id(job: str, output: str, night: str) -> str:
    """The same for the same night of the same job, wherever it is submitted from."""
    stem = "".join(letter if letter.isalnum() or letter in "-_" else "-" for letter in Path(job).stem)
    return f"nightcap-{stem}-{hashlib.sha256(output.encode()).hexdigest()[:8]}-{night}"


def _next(base: str, job_id: str) -> str:
    number = int(job_id.removeprefix(base).removeprefix("-again-") or 1)
    return f"{base}-again-{number + 1}"


def _output_of(job: str) -> str:
    """The job's output. RequestError for a file that `nightly` would refuse."""
    import yaml

    from jobs.jobfile import job_file, names_of, read
    from jobs.nightly import NightlyConfig

    read(job_file(["submit", job]), names_of(NightlyConfig))
    output = yaml.safe_load(Path(job).read_text()).get("output")
    if not output:
        raise RequestError(f"{job} names no output; write a line such as 'output: s3://bucket/captions'")
    return str(output)


def connect(address: str) -> Any:
    """A client whose requests end in time. RequestError in one line where nobody answers, or a token is wanted."""
    import requests
    from ray.exceptions import AuthenticationError
    from ray.job_submission import JobSubmissionClient

    class Client(JobSubmissionClient):  # type: ignore[misc]  # Ray ships no types
        def _do_request(self, method: str, endpoint: str, **more: Any) -> Any:
            try:
                return super()._do_request(method, endpoint, **{"timeout": TIMEOUT_S, **more})
            except (requests.ConnectionError, requests.Timeout) as exc:
                raise Unreachable(f"{address} does not answer") from exc
            except AuthenticationError as exc:
                first = str(exc).strip().split("\n", 1)[0]
                raise RequestError(
                    f"--address {address}: the cluster wants a token; set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN, or RAY_AUTH_TOKEN_PATH ({first})"
                ) from exc

        def _raise_error(self, r: Any) -> None:
            if r.status_code in (500, 502, 503, 504) and "already exists" not in r.text:
                raise Unreachable(f"{address} answers {r.status_code}: {(r.text.strip() or 'nothing').splitlines()[0][:200]}")
            super()._raise_error(r)

    try:
        return Client(address)
    except (Unreachable, ConnectionError) as exc:
        raise RequestError(
            f"--address {address}: nobody answers; name the job server, usually port 8265, and check that it can be reached"
        ) from exc
    except (RuntimeError, ValueError, OSError) as exc:
        raise RequestError(f"--address {address}: {str(exc).strip().splitlines()[0][:300]}") from exc


def _latest(client: Any, base: str) -> tuple[str, Any]:
    """The latest submission of the night and its details; the first id and None where there is none yet."""
    known, details = base, None
    for number in range(1, REPEATS):
        job_id = base if number == 1 else f"{base}-again-{number}"
        try:
            found = client.get_job_info(job_id)
        except Unreachable as exc:
            raise StoppedError(f"{exc}; try again") from exc
        except RuntimeError as exc:
            if "does not exist" in str(exc) or "404" in str(exc):
                break
            raise lost(exc, job_id) from exc
        known, details = job_id, found
    return known, details


def _state(info: Any) -> str:
    return str(getattr(info.status, "value", info.status))


def _only(config: SubmitConfig, client: Any, job_id: str, info: Any) -> int:
    if info is None:
        raise RequestError(f"the night of {config.night()} was not submitted to {config.address}")
    if config.logs:
        _show(client.get_job_logs(job_id))
        return 0
    if config.stop:
        stopped = client.stop_job(job_id)
        console.print(f"{job_id} {'is being stopped' if stopped else 'had ended already'}", soft_wrap=True)
        return 0
    state = _state(info)
    message = (info.message or "").split(", last available logs", 1)[0].strip().split("\n", 1)[0]
    console.print(f"{job_id} {state.lower()}{f': {message}' if message else ''}", soft_wrap=True, markup=False)
    return exit_code_of(info) if state in ENDED else 0


@contextmanager
def _package(config: SubmitConfig) -> Iterator[tuple[str, str]]:
    """The folder that goes to the cluster, and the job's file in it."""
    job = Path(config.job).resolve()
    if config.working_dir:
        folder = Path(config.working_dir).resolve()
        if not folder.is_dir():
            raise RequestError(f"--working-dir {config.working_dir}: no such folder")
        if not job.is_relative_to(folder):
            raise RequestError(f"{config.job} lies outside of --working-dir {config.working_dir}; move it there")
        yield str(folder), job.relative_to(folder).as_posix()
        return
    with tempfile.TemporaryDirectory(prefix="nightcap-job-") as name:
        (Path(name) / job.name).write_bytes(job.read_bytes())
        yield name, job.name


def _submit(client: Any, job_id: str, folder: str, name: str, night: str) -> str:
    import shlex

    entrypoint = f"python -m jobs.cli nightly {shlex.quote(name)} --date {night}"
    try:
        client.submit_job(
            entrypoint=entrypoint,
            submission_id=job_id,
            runtime_env={"working_dir": folder, "excludes": list(EXCLUDED)},
            metadata={"nightcap_night": night},
        )
    except Unreachable as exc:
        raise StoppedError(f"{exc}; the same command submits the job, or follows it if it arrived") from exc
    except (RuntimeError, ValueError) as exc:
        if "already exists" in str(exc):  # somebody else was faster
            return job_id
        raise RequestError(f"the cluster does not take the job: {str(exc).strip().splitlines()[-1][:300]}") from exc
    return job_id


def _show(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()
