"""Prompts made of a sample's own values, and the captions that are asked of one sample: prompts times captions a prompt.

A template names columns in braces: {text}, {json.title}; {{ and }} are braces. A name that no sample can have is refused
before anything is read; a sample that lacks a value which others have is a reject.
"""

import difflib
import hashlib
import json
import string
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.errors import Reason, RequestError, SampleError
from pipeline.samples.medium import Ask

COLUMNS = ("text", "key", "shard", "index", "modality", "width", "height", "duration_s")
"""What a template may name beside values of `json`."""
JSON = "json."
DEFAULT = "default"
"""Name of the only prompt where --prompt gives one."""


@dataclass(frozen=True, slots=True)
class Template:
    """A prompt with places for values."""

    name: str | None
    """None without a prompt."""
    pieces: tuple[tuple[str, str], ...]
    """(fixed words, name of the column behind them; empty at the end)."""

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of columns, in order."""
        return tuple(column for _, column in self.pieces if column)

    @property
    def fixed(self) -> str:
        """Its words without the values."""
        return " ".join(words.strip() for words, _ in self.pieces).strip()

    def render(self, values: Mapping[str, Any]) -> str:
        """The prompt of one sample. SampleError where it lacks a value."""
        missing = [column for column in self.columns if values.get(column) is None]
        if missing:
            raise SampleError(Reason.NO_COLUMN, f"it has no {missing[0]}, which prompt {self.name!r} is made of")
        return "".join(words + (str(values[column]) if column else "") for words, column in self.pieces)


def parse(name: str | None, text: str) -> Template:
    """RequestError for braces that do not match, and for a column that no sample has."""
    flag = "--prompt" if name in (None, DEFAULT) else f"--prompts.{name}"
    try:
        parsed = list(string.Formatter().parse(text))
    except ValueError as exc:
        raise RequestError(f"{flag}: {exc} in {text!r}; write {{{{ and }}}} for braces that are meant") from exc
    pieces = []
    for words, column, form, conversion in parsed:
        if column is None:
            pieces.append((words, ""))
            continue
        if form or conversion or not column:
            raise RequestError(f"{flag}: {{{column}{':' + form if form else ''}}} in {text!r}; name a column only, such as {{text}}")
        if column not in COLUMNS and not (column.startswith(JSON) and all(column[len(JSON) :].split("."))):
            near = difflib.get_close_matches(column, COLUMNS, 1, 0.5)
            hint = f"did you mean {{{near[0]}}}? " if near else ""
            raise RequestError(f"{flag}: no column {{{column}}}; {hint}known are {', '.join(COLUMNS)}, and json.NAME")
        pieces.append((words, column))
    return Template(name, tuple(pieces))


@dataclass(frozen=True, slots=True)
class Questions:
    """What is asked of every sample."""

    templates: tuple[Template, ...]
    per_prompt: int
    """Captions a prompt."""
    instructs: bool
    """Prompts are instructions; else the caption's own beginning."""
    temperature: float
    seed: int

    @property
    def captions(self) -> int:
        """Captions a sample."""
        return len(self.templates) * self.per_prompt

    @property
    def json_columns(self) -> tuple[str, ...]:
        """Values of `json` that the reader has to bring along, without the prefix."""
        names = {column for template in self.templates for column in template.columns if column.startswith(JSON)}
        return tuple(sorted(name[len(JSON) :] for name in names))

    def asks(self, row: Mapping[str, Any]) -> list[Ask]:
        """The captions wanted of a row of schema.SAMPLES, in order. SampleError where it lacks a value of a prompt."""
        values = values_of(row)
        found: list[Ask] = []
        for template in self.templates:
            prompt = template.render(values)
            fixed = template.fixed if self.instructs else ""
            for k in range(self.per_prompt):
                seed = ask_seed(self.seed, row, template.name, k)
                found.append(Ask(prompt, template.name, fixed, len(found), seed, self.temperature))
        return found


def values_of(row: Mapping[str, Any]) -> dict[str, Any]:
    """Columns of a row by the names that templates use."""
    known = {name: row.get(name) for name in COLUMNS}
    for name, value in json.loads(row.get("columns") or "{}").items():
        known[JSON + name] = value
    return known


def ask_seed(seed: int, row: Mapping[str, Any], prompt_id: str | None, k: int, attempt: int = 0) -> int:
    """Seed of one caption: of the run's seed, the medium's content and piece, the prompt's name, k, and the attempt. 0..2**31 - 1."""
    words = "\0".join((row.get("media_sha256") or "", str(row.get("piece") or 0), prompt_id or "", str(k), str(attempt)))
    return int.from_bytes(hashlib.sha256(struct.pack("<q", seed) + words.encode()).digest()[:4], "little") & 0x7FFFFFFF


def next_seed(ask: Ask, attempt: int) -> int:
    """Seed of another attempt at the same caption."""
    return int.from_bytes(hashlib.sha256(struct.pack("<qq", ask.seed, attempt)).digest()[:4], "little") & 0x7FFFFFFF
