"""A function called with many arguments on Ray, a bounded number at a time, results in order."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any

from pipeline.errors import NightcapError, StoppedError

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
    except RayTaskError as exc:
        if isinstance(exc.cause, NightcapError):
            raise exc.cause from exc
        if isinstance(exc.cause, OSError):
            raise StoppedError(f"storage failed: {exc.cause}; run the same command again to continue") from exc
        raise
    except RayError as exc:
        raise StoppedError(f"Ray stopped the run: {str(exc).strip().splitlines()[-1]}; run the same command again to continue") from exc
