"""Progress and closing tables: a live line on a terminal, a plain line every few seconds elsewhere."""

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from pipeline import schema
from pipeline.reports.tally import Tally

LINE_EVERY_S = 10.0

LOG_WIDTH = 140  # characters of a table where no terminal tells a width


class _Lines(Console):
    """Text is never cut into lines of the terminal's width: a path that is broken in two can neither be copied nor searched for."""

    def print(self, *objects: Any, **options: Any) -> None:
        if all(isinstance(each, str) for each in objects):
            options.setdefault("soft_wrap", True)
        super().print(*objects, **options)


console = _Lines(highlight=False)
if not console.is_terminal and "COLUMNS" not in os.environ:
    console.width = LOG_WIDTH


class Meter:
    """Shows a tally while it grows."""

    def __init__(self, total_shards: int, progress: Progress | None, what: str) -> None:
        self._progress = progress
        self._total = total_shards
        self._what = what
        self._task = progress.add_task(what, total=total_shards, note="starting") if progress else None
        self._last_s = time.monotonic()

    def show(self, tally: Tally) -> None:
        """Draws the state; off a terminal at most a line every ten seconds."""
        note = f"{tally.samples:,} samples · {tally.rate():,.1f}/s · {tally.rejected:,} rejected"
        if self._progress is not None and self._task is not None:
            self._progress.update(self._task, completed=tally.shards, note=note)
        elif time.monotonic() - self._last_s >= LINE_EVERY_S:
            self._last_s = time.monotonic()
            left = (self._total - tally.shards) * tally.elapsed_s / tally.shards if tally.shards else None
            eta = f" · about {left:,.0f} s left" if left is not None else ""
            console.print(f"{tally.shards:,}/{self._total:,} {self._what} · {note}{eta}")


@contextmanager
def meter(total_shards: int, what: str = "shards") -> Iterator[Meter]:
    """A meter for the body; `what` is counted."""
    if not console.is_terminal:
        yield Meter(total_shards, None, what)
        return
    columns = (
        SpinnerColumn(),
        BarColumn(24),
        MofNCompleteColumn(),
        TextColumn("{task.description} · {task.fields[note]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        yield Meter(total_shards, progress, what)


def closing_table(tally: Tally, title: str, results: str, more: Sequence[tuple[str, str, str]] = ()) -> Table:
    """What a run did: samples by outcome, rates, where the time went, and more. `results` names what came out."""
    table = Table(title=title, title_justify="left", show_header=False, box=None, pad_edge=False)
    table.add_column(style="bold")
    table.add_column(justify="right")
    table.add_column()
    table.add_row("samples", f"{tally.samples:,}", f"{tally.rate():,.1f}/s over {tally.elapsed_s:,.1f} s, start-up included")
    table.add_row(
        results, f"{tally.results:,}", f"{tally.of(schema.TRUNCATED):,} cut at the token limit" if tally.of(schema.TRUNCATED) else ""
    )
    if tally.audio_s:
        table.add_row("audio", f"{tally.audio_s:,.0f} s", f"{tally.audio_s / tally.elapsed_s:,.1f} s of recording a second")
    if tally.of(schema.SKIPPED):
        table.add_row("skipped", f"{tally.of(schema.SKIPPED):,}", "media that are not taken")
    table.add_row("rejected", f"{tally.rejected:,}", "")
    for reason, count in tally.reasons():
        shard, key, detail = (tally.examples.get(reason) or [["", "", ""]])[0]
        table.add_row(f"  {reason}", f"{count:,}", escape(f"{shard}:{key} {detail}"[:110]) if shard else "")
    if tally.damage:
        table.add_row("damage", f"{tally.damage:,}", "damaged byte ranges, each with its place in quarantine")
    work = sum(tally.seconds.values())
    if work > 0:
        shares = " · ".join(f"{name} {value:,.1f} s ({value / work:.0%})" for name, value in tally.seconds.most_common())
        table.add_row("work", "", shares)
    for name, value, remark in more:
        table.add_row(name, value, escape(remark))
    return table
