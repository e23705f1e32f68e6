"""A function called with many arguments on Ray, a bounded number at a time, results in order."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import islice
from typing import Any

from pipeline.errors import NightcapError, StoppedError

GIVE_UP_S = 10.0
"""Seconds that interrupted tasks have to end."""
AHEAD_PER_CPU = 2
"""Tasks in flight a CPU: enough that none waits, few enough that results waiting for their turn stay small."""


def on_ray(function: Callable[..., Any], arguments: Iterable[tuple[Any, ...]]) -> Iterator[Any]:
    """What `function` gives for each tuple of arguments, in order. Arguments are drawn as tasks are started.

    A dead worker's task is done again, twice at most. An error of the function travels as itself; storage's and Ray's as StoppedError.
    """
    import ray
    from ray.exceptions import RayError, RayTaskError

    task = ray.remote(num_cpus=1, max_retries=2)(function)
    ahead = AHEAD_PER_CPU * max(1, int(ray.cluster_resources().get("CPU", 1)))
    source = iter(arguments)
    waiting = deque(task.remote(*given) for given in islice(source, ahead))
    try:
        while waiting:
            yield ray.get(waiting.popleft())
            waiting.extend(task.remote(*given) for given in islice(source, 1))
    except (RayTaskError, RayError) as exc:
        raise _told(exc) from exc
    finally:
        _give_up(list(waiting))


def _give_up(tasks: list[Any]) -> None:
    """Interrupts what is under way and lets it clean up: a worker that is killed later leaves its temporary files."""
    import ray
    from ray.exceptions import RayError

    with suppress(RayError):
        for task in tasks:
            ray.cancel(task)
        if tasks:
            ray.wait(tasks, num_returns=len(tasks), timeout=GIVE_UP_S)


def over_actors(kind: type, given: tuple[Any, ...], method: str, items: Sequence[Any], *, workers: int, gpus: int) -> Iterator[Any]:
    """What a method gives for each item, by `workers` actors of a class, each made with `given`; in the order in which they end.

    A dead actor is made anew and its item done again, twice at most. Errors as of `on_ray`.
    """
    import ray
    from ray.exceptions import RayError, RayTaskError

    actor = ray.remote(num_cpus=1, num_gpus=gpus, max_restarts=2, max_task_retries=2)(kind)
    source = iter(items)
    idle = [actor.remote(*given) for _ in range(workers)]
    busy: dict[Any, Any] = {}
    try:
        while True:
            for item in islice(source, len(idle)):
                one = idle.pop()
                busy[getattr(one, method).remote(item)] = one
            if not busy:
                return
            (ready, *_), _ = ray.wait(list(busy))
            idle.append(busy.pop(ready))
            yield ray.get(ready)
    except (RayTaskError, RayError) as exc:
        raise _told(exc) from exc


def _told(exc: Exception) -> Exception:
    """What a person is told of an error on Ray: the function's own as itself."""
    from ray.exceptions import RayTaskError

    if isinstance(exc, RayTaskError):
        if isinstance(exc.cause, NightcapError):
            cause: Exception = exc.cause
            return cause
        if isinstance(exc.cause, OSError):
            return StoppedError(f"storage failed: {exc.cause}; run the same command again to continue")
        known: Exception = exc
        return known
    return StoppedError(f"Ray stopped the run: {str(exc).strip().splitlines()[-1]}; run the same command again to continue")
