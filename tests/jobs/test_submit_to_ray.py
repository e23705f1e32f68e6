"""`nightcap submit` to a Ray head of its own, with its job server and a token.

- without the token the job server refuses; with it a job runs from its working directory, and its module is found there;
- the same night is submitted once, and is shown as running; what stops it is told, and its exit code is then 1;
- the exit code of a followed job is its own, here that of a wrong request, with the line that said why.

Ray runs in processes of its own, so that this needs not share one with the tests that start Ray.
"""

import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import requests

from jobs.cli import main
from tests.stores import environment

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]
Submit = Callable[..., tuple[int, str]]
SLEEPY = "import time\nprint('imported from the working directory', flush=True)\ntime.sleep(600)\n"


def free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


@pytest.fixture(scope="module")
def head() -> Iterator[str]:
    """The URL of a job server that wants the token in the environment."""
    port, dashboard, agent, grpc, client = free_ports(5)
    names = {"port": port, "dashboard-port": dashboard, "dashboard-agent-listen-port": agent, "dashboard-agent-grpc-port": grpc}
    options = [f"--{name}={value}" for name, value in (names | {"ray-client-server-port": client, "num-cpus": 2}).items()]
    with tempfile.TemporaryDirectory(prefix="nc-") as folder:  # short: sockets lie in it
        options += ["--head", "--block", "--node-ip-address=127.0.0.1", f"--temp-dir={folder}", "--disable-usage-stats"]
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        with environment(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=secrets.token_hex(24), PATH=path):
            process = subprocess.Popen(["ray", "start", *options], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
            try:
                yield wait_for(f"http://127.0.0.1:{dashboard}", process)
            finally:
                process.send_signal(signal.SIGTERM)
                try:
                    process.communicate(timeout=30)
                finally:
                    process.kill()


def wait_for(url: str, process: subprocess.Popen[bytes]) -> str:
    for _ in range(600):
        assert process.poll() is None, process.communicate()[0].decode()
        try:
            if requests.get(f"{url}/api/version", timeout=5).status_code == 401:
                return url
        except requests.ConnectionError:
            pass
        time.sleep(0.2)
    raise AssertionError("no job server that wants a token")


@pytest.fixture
def submit(head: str, capfd: pytest.CaptureFixture[str]) -> Iterator[Submit]:
    """`nightcap submit` in this process: exit code, and what was printed."""
    from ray._private.authentication_test_utils import reset_auth_token_state

    def called(job: str, *words: str) -> tuple[int, str]:
        with pytest.raises(SystemExit) as ended:
            main(["submit", job, "--address", head, "--date", "2026-01-01", *words])
        said = capfd.readouterr()
        return int(ended.value.code or 0), said.out + said.err

    reset_auth_token_state()  # Ray keeps what the environment said when it first looked
    yield called
    reset_auth_token_state()


def test_jobs_on_a_real_head(submit: Submit, tmp_path: Path) -> None:
    (tmp_path / "wd").mkdir()
    (tmp_path / "wd/sleepy.py").write_text(SLEEPY)
    job = tmp_path / "wd/job.yaml"
    job.write_text(f"shards: [{tmp_path}/in]\noutput: {tmp_path}/out\nengine: sleepy:Engine\n")
    night = (str(job), "--working-dir", str(tmp_path / "wd"))
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.tar").write_bytes(bytes(10240))
    bad = tmp_path / "bad.yaml"
    bad.write_text(f"shards: [{tmp_path}/none]\noutput: {tmp_path}/bad\nengine: facts\n")

    code, said = until("submitted nightcap-job-", lambda: submit(*night, "--detach"))  # the job server answers before its agent takes jobs
    assert code == 0, said
    code, said = submit(str(bad))
    assert code == 2 and f"nightcap: no shard matches {tmp_path}/none" in said and "ended with exit code 2" in said, said
    code, said = until("imported from the working directory", lambda: submit(*night, "--logs"))
    assert code == 0, said
    code, said = submit(*night, "--detach")
    assert code == 0 and "was submitted before; it is running" in said, said
    code, said = submit(*night, "--stop")
    assert code == 0 and "is being stopped" in said, said
    code, said = until("stopped", lambda: submit(*night, "--status"))
    assert code == 1, said


def until(words: str, work: Callable[[], tuple[int, str]]) -> tuple[int, str]:
    """What it came to when it said so; a machine with other work takes its time."""
    for _ in range(120):
        code, said = work()
        if words in said:
            return code, said
        time.sleep(0.5)
    raise AssertionError(said)
