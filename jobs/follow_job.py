"""A job on a cluster followed to its end, through disconnects: its state is asked for, again and again, never inferred.

A log stream that breaks says nothing about the job, and Ray's own command line takes it for success. So the state is
polled; of the log what is new is printed. Only a state that the cluster tells ends the following.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from pipeline.errors import RequestError, StoppedError

ENDED = ("SUCCEEDED", "FAILED", "STOPPED")
POLL_S = 2.0
LONGEST_WAIT_S = 30.0
LONG_LOG = 1 << 20
"""Characters of a log above which it is asked for ten times less often: the server sends all of it."""


class Client(Protocol):
    """What is asked of the job server."""

    def get_job_info(self, job_id: str) -> Any:
        """Details with `status`, `message`, `driver_exit_code`. RuntimeError for an unknown job."""

    def get_job_logs(self, job_id: str) -> str:
        """All of the log so far."""


class Unreachable(Exception):
    """The server does not answer now; it may later."""


@dataclass(slots=True)
class Follower:
    """Follows one job."""

    client: Client
    job_id: str
    show: Callable[[str], None]
    """Takes new text of the log."""
    patience_s: float
    """Seconds without an answer after which following ends; the job goes on."""
    wait: Callable[[float], None] = time.sleep
    clock: Callable[[], float] = time.monotonic
    shown: int = 0
    """Characters of the log shown so far."""
    polls: int = 0

    def to_end(self) -> int:
        """The job's exit code. StoppedError where the cluster stays away, or knows the job no longer."""
        while True:
            info = self._asked(lambda: self.client.get_job_info(self.job_id))
            ended = str(_state(info)) in ENDED
            if ended or self.shown < LONG_LOG or self.polls % 10 == 0:
                self._show_log()
            if ended:
                return exit_code_of(info)
            self.polls += 1
            self.wait(POLL_S)

    def _show_log(self) -> None:
        text = self._asked(lambda: self.client.get_job_logs(self.job_id)) or ""
        if len(text) > self.shown:
            self.show(text[self.shown :])
            self.shown = len(text)

    def _asked(self, ask: Callable[[], Any]) -> Any:
        began, waited = self.clock(), 1.0
        while True:
            try:
                return ask()
            except Unreachable as exc:
                if self.clock() - began > self.patience_s:
                    raise StoppedError(
                        f"the cluster has not answered for {self.patience_s:,.0f} s ({exc}); job {self.job_id} may go on: "
                        "the same command follows it again"
                    ) from exc
            except RuntimeError as exc:
                raise lost(exc, self.job_id) from exc
            self.wait(waited)
            waited = min(2 * waited, LONGEST_WAIT_S)


def lost(exc: RuntimeError, job_id: str) -> StoppedError | RequestError:
    """What a refusal of the job server means, in one line."""
    text = str(exc).strip().split("\n", 1)[0]
    if "does not exist" in text or "404" in text:
        return StoppedError(
            f"the cluster knows no job {job_id}: its head node was lost; the same command submits it again, and it continues"
        )
    return RequestError(f"the job server refuses: {text[:300]}")


def _state(info: Any) -> str:
    return str(getattr(info.status, "value", info.status))


def exit_code_of(info: Any) -> int:
    """The driver's own exit code; 1 for a job that failed or was stopped before it had one."""
    state, code = _state(info), info.driver_exit_code
    if state == "SUCCEEDED":
        return int(code or 0)
    return int(code) if code is not None and code > 0 else 1
