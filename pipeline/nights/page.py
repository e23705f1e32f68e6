"""`nights/<date>.html`: one page a night, one file, no network."""

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from pipeline.nights.record import FOLDER, Night
from pipeline.storage import Store

NIGHTS_SHOWN = 30
HERE = Path(__file__).parent
_FIGURES = (
    ("samples", "samples", "{:,}"),
    ("samples_per_s", "samples a second", "{:,.1f}"),
    ("rejected", "rejected", "{:.2%}"),
    ("length", "characters a caption", "{:.1f}"),
    ("duplicates", "duplicates", "{:.2%}"),
)


def write_page(store: Store, night: Night, nights: Sequence[Night]) -> str:
    """Writes the page beside the record; `nights`: those before, oldest first. Returns its path below the output."""
    path = f"{FOLDER}/{night.date}.html"
    store.put(path, render(night, nights).encode())
    return path


def render(night: Night, nights: Sequence[Night]) -> str:
    """The page as text."""
    shown = [*nights[-NIGHTS_SHOWN + 1 :], night]
    return (
        _environment()
        .get_template("night.html.j2")
        .render(
            night=night, verdict=verdict(night), rows=[_row(one) for one in reversed(shown)], titles=[title for _, title, _ in _FIGURES]
        )
    )


def verdict(night: Night) -> str:
    """The night in one line."""
    waiting = night.archives.get("waiting", 0)
    if night.exit_code == 0:
        left = f"; {waiting:,} archives wait for the next night" if waiting else ""
        return f"well{f' ({night.why})' if night.why else ''}{left}"
    if night.exit_code == 3:
        return f"done, but it looks unlike the nights before: {'; '.join(alarm['sentence'] for alarm in night.alarms)}"
    return f"unfinished: {night.why or 'it did not end'}; {waiting:,} archives wait"


def _row(night: Night) -> dict[str, Any]:
    alarmed = {alarm["name"] for alarm in night.alarms}
    cells = []
    for name, _, form in _FIGURES:
        value = night.figures.get(name)
        key = "speed" if name == "samples_per_s" else name
        cells.append({"text": form.format(value) if value is not None else "", "alarm": key in alarmed})
    return {"night": night, "cells": cells}


@functools.cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["count"] = lambda value: f"{value:,}"
    return environment
