"""Processor time of this process and all below it, by kind: what a busy machine does not change much, and where wall time cannot tell."""

from collections import Counter

import psutil


def spent() -> dict[int, tuple[str, float]]:
    """(kind, seconds of user and system) by process: `work` for Ray's workers and those of a pool, else `beside`."""
    found = {}
    for process in [psutil.Process(), *psutil.Process().children(recursive=True)]:
        try:
            times, command = process.cpu_times(), " ".join(process.cmdline())
        except psutil.Error:
            continue
        works = command.startswith(("ray::IDLE", "ray::Read")) or "spawn_main" in command
        found[process.pid] = ("work" if works else "beside", times.user + times.system)
    return found


def between(before: dict[int, tuple[str, float]], after: dict[int, tuple[str, float]]) -> Counter[str]:
    """Seconds by kind. A process that ended meanwhile is not counted."""
    seconds: Counter[str] = Counter()
    for pid, (kind, total) in after.items():
        seconds[kind] += total - before.get(pid, (kind, 0.0))[1]
    return seconds
