"""Ray, started here or reached by address, quiet unless asked."""

import logging
import os
import socket
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

from pipeline.errors import RequestError
from pipeline.pace import set_pace

CORES = os.cpu_count() or 1
CPUS = max(4, CORES)
"""Logical CPUs of a local Ray: reads, engine and commit each need a slot, also on a machine with one or two cores."""
ONE_OPERATOR_CPUS = CORES + 1
"""Where there is one operator alone: Ray hears of a task's end up to 0.12 s late, and one task more than cores fills that. Each further
one costs: four on two cores take 9 % more processor time for the same pictures than two do, three take 3 % (2026-11)."""
BLOCK_BYTES = 32 << 20
NO_TOKEN = b"InvalidAuthToken"
CONNECT_S = 10.0
"""Seconds that a cluster has to accept a connection."""


@contextmanager
def session(address: str, *, verbose: bool, cpus: int = CPUS) -> Iterator[None]:
    """A connection to Ray for the body; what was started here is shut down after it.

    Without an address (and without RAY_ADDRESS) a local Ray is started without a dashboard, with as many logical `cpus`.
    """
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("RAY_TRAIN_ENABLE_V2", "1")
    if not verbose:  # Ray's C++ core would warn, on every run, of what the plan here does not depend on
        os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    import ray

    already = ray.is_initialized()
    if not already:
        _start(address or os.environ.get("RAY_ADDRESS", ""), verbose, cpus)
    _quiet(verbose)
    try:
        yield
    finally:
        if not already:
            ray.shutdown()


def _start(address: str, verbose: bool, cpus: int) -> None:
    import ray

    level = logging.INFO if verbose else logging.ERROR
    if address and address != "local":
        _check_answers(address)
        said: list[bytes] = []
        try:
            with _without_log_level_line(said):
                ray.init(address=address, logging_level=level, log_to_driver=verbose)
        except (ConnectionError, ValueError, RuntimeError) as exc:
            if any(NO_TOKEN in line for line in said):
                raise RequestError(
                    f"--address {address}: the cluster wants a token; set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN, or RAY_AUTH_TOKEN_PATH"
                ) from exc
            raise RequestError(f"no Ray cluster answers at {address} ({str(exc).splitlines()[0]}); check --address or RAY_ADDRESS") from exc
        return
    with _without_log_level_line():
        ray.init(address="local", num_cpus=cpus, include_dashboard=False, logging_level=level, log_to_driver=verbose)


def _check_answers(address: str) -> None:
    """RequestError where nothing listens: Ray itself tries for more than a minute."""
    if address.startswith(("http://", "https://")):
        raise RequestError(
            f"--address {address} is a job server: give it to nightcap submit, or the cluster's own address here, such as head:6379"
        )
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit():  # auto, or another form that Ray knows
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_S).close()
    except (OSError, OverflowError) as exc:
        raise RequestError(f"no Ray cluster answers at {address} ({exc}); check --address or RAY_ADDRESS") from exc


@contextmanager
def _without_log_level_line(said: list[bytes] | None = None) -> Iterator[None]:
    """Holds back what is written to file descriptor 2 meanwhile, and lets it go on but for what nobody needs; `said` gets all lines.

    RAY_BACKEND_LOG_LEVEL, which silences Ray's core, makes it say that it was set, whatever the level. A missing token it reports once a second.
    """
    sys.stderr.flush()
    with tempfile.TemporaryFile() as held:
        real = os.dup(2)
        os.dup2(held.fileno(), 2)
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(real, 2)
            os.close(real)
            held.seek(0)
            for line in held:
                if said is not None:
                    said.append(line)
                if b"Set ray log level from environment variable" not in line and NO_TOKEN not in line:
                    os.write(2, line)


def _quiet(verbose: bool) -> None:
    import ray.data

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = verbose
    context.print_on_execution_start = verbose
    context.target_max_block_size = BLOCK_BYTES
    set_pace(context)
    context.memory_usage_poll_interval_s = None  # every task's worker would go through its memory map each second
    context.raise_original_map_exception = True  # else it arrives without its class: a full disk would look like a bug
    context.execution_options.verbose_progress = verbose
    if not verbose:
        for name in ("ray.data", "ray"):
            logging.getLogger(name).setLevel(logging.CRITICAL)  # what it logs as an error is raised here as well


def gpus() -> int:
    """GPUs of the cluster."""
    import ray

    return int(ray.cluster_resources().get("GPU", 0))
