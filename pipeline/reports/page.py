"""`report.html`: one file that shows a run, opens without a network, and is bounded whatever the run's size.

Everything that came from data is escaped by Jinja2; a content policy in the page also forbids any script but its own, by
hash, and any request. The same files give the same page, byte for byte.
"""

import base64
import functools
import hashlib
import json
from collections import Counter
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from pipeline.reports.charts import histogram, rate_over_time
from pipeline.reports.facts import Facts, gather
from pipeline.reports.gallery import Shown, show
from pipeline.reports.training import table_of, view
from pipeline.storage import Folder

NAME = "report.html"
EXTREMES_WITH_MEDIA = 8
"""Best and worst samples that get their medium, each: every one may cost a pass over an archive's headers."""
HERE = Path(__file__).parent
PARTS = (
    ("curves", "Curves"),
    ("said", "What it said"),
    ("understanding", "Understanding"),
    ("scores", "Scores"),
    ("spread", "Distributions"),
    ("rejects", "Rejects"),
    ("worst", "Worst"),
    ("best", "Best"),
    ("gallery", "Samples"),
    ("run", "How it was run"),
)
"""Sections that the page may have, and their titles."""


def write_page(store: Folder, record_path: str) -> str:
    """Makes the page of the run whose run.json is given, beside it; returns its path below the output folder."""
    facts = gather(store, record_path)
    path = f"{record_path.rpartition('/')[0]}/{NAME}"
    store.put(path, render(facts).encode())
    return path


def render(facts: Facts) -> str:
    """The page as text."""
    record = facts.record
    root = record.get("recipe", {}).get("root")
    scores = facts.scores or {}
    ends = {name: list(scores.get(name, []))[:EXTREMES_WITH_MEDIA] for name in ("worst", "best")}
    rows = [*facts.rows_shown, *(_scored_row(row) for end in ends.values() for row in end)]
    shown = show(rows, output=facts.output, root=root, table=facts.table)
    gallery, rest = shown[: len(facts.rows_shown)], shown[len(facts.rows_shown) :]
    script = (HERE / "page.js").read_text()
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    content = {
        "training": _training(facts),
        "understanding": facts.understanding,
        "figures": _figures(scores),
        "by": scores.get("by"),
        "against": scores.get("against"),
        "score_spreads": _spreads(facts.score_values),
        "spreads": _spreads(facts.values),
        "rejects": [_reject(one) for one in facts.rejects],
        "worst": [_card(one, facts.table) for one in rest[: len(ends["worst"])]],
        "best": [_card(one, facts.table) for one in rest[len(ends["worst"]) :]],
        "gallery": [_card(one, facts.table) for one in gallery],
    }
    return (
        _environment()
        .get_template("page.html.j2")
        .render(
            facts=facts,
            record=record,
            style=Markup((HERE / "page.css").read_text()),
            script=Markup(script),
            script_hash=f"sha256-{digest}",
            throughput=Markup(rate_over_time(record.get("timeline", []))),
            throughput_small=Markup(rate_over_time(record.get("timeline", []), width=4.4)),
            work=_shares(record.get("work_s", {})),
            details={name: _pretty(record[name]) for name in ("recipe", "config", "versions", "machine") if name in record},
            command=" ".join(str(word) for word in record.get("command", [])),
            parts=[(name, title) for name, title in PARTS if _is_there(name, content)],
            **content,
        )
    )


def _is_there(name: str, content: dict[str, Any]) -> bool:
    training = content["training"] or {"charts": [], "captions": {"rows": []}}
    held = {"curves": training["charts"], "said": training["captions"]["rows"], "scores": content["figures"], "spread": content["spreads"]}
    return name == "run" or bool(held.get(name, content.get(name)))


def _training(facts: Facts) -> dict[str, Any] | None:
    """Curves, and captions by step beside the media of the prepared rows that they are of."""
    if facts.training is None:
        return None
    found = view(facts.training)
    for chart in found["charts"]:
        chart["svg"] = Markup(chart["svg"])
    config = facts.record.get("config", {})
    rows = [row | {"table": table_of(row["shard"]), "key": None} for row in found["captions"]["rows"]]
    shown = show(rows, output=config.get("validation") or config.get("prepared") or "", root=None, table="prepared")
    found["captions"]["rows"] = [one.row | {"pictures": one.pictures, "sound": one.sound} for one in shown]
    found["captions"]["note"] = next((one.note for one in shown if one.note), "")
    return found


@functools.cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["count"] = lambda value: f"{value:,}"
    return environment


def _scored_row(row: dict[str, Any]) -> dict[str, Any]:
    """A row of schema.SCORES as one of a caption table."""
    known: dict[str, Any] = {"status": "success", "text": row["references"][0] if row.get("references") else None, "flags": [], "table": ""}
    return known | row


def _spreads(spreads: dict[str, Counter[float]]) -> list[dict[str, Any]]:
    """Histograms with their extent and quartiles in words, for those who do not see them."""
    out = []
    for title, values in spreads.items():
        if values:
            low, first, median, third, high = (_quantile(values, share) for share in (0.0, 0.25, 0.5, 0.75, 1.0))
            label = f"{title} of {sum(values.values()):,}: half are between {first:g} and {third:g}, median {median:g}, all from {low:g} to {high:g}"
            out.append({"title": title, "svg": Markup(histogram(values, "")), "median": median, "low": low, "high": high, "label": label})
    return out


def _quantile(values: Counter[float], share: float) -> float:
    reach, total = 0, sum(values.values())
    for value in sorted(values):
        reach += values[value]
        if reach >= share * total:
            return value
    raise ValueError("no values")


def _shares(seconds: dict[str, float]) -> list[dict[str, Any]]:
    total = sum(seconds.values())
    ordered = sorted(seconds.items(), key=lambda item: -item[1])
    return [{"name": name, "seconds": value, "share": value / total if total else 0.0} for name, value in ordered]


def _figures(scores: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"name": name, **figure} for name, figure in scores.get("scores", {}).items() if figure["value"] is not None]


def _card(one: Shown, table: str) -> dict[str, Any]:
    row = one.row
    return {
        "key": row.get("key") or "",
        "place": f"{row['shard']} · {row['index']}",
        "modality": row.get("modality") or "text",
        "status": row.get("status") or "prepared",
        "reason": row.get("reason"),
        "reference": row.get("text"),
        "caption": row.get("caption"),
        "has_caption": table == "captions",
        "flags": row.get("flags") or [],
        "facts": _facts_line(row),
        "pictures": one.pictures,
        "sound": one.sound,
        "cut": one.cut,
        "note": one.note,
    }


def _reject(one: Shown) -> dict[str, Any]:
    row, media = one.row, {"pictures": one.pictures, "sound": one.sound, "cut": one.cut, "note": one.note or "its bytes are not kept"}
    place = row["shard"] if row["index"] is None else f"{row['shard']} · {row['index']}"
    return (
        media | {name: row[name] for name in ("stage", "reason", "detail", "key", "offset", "size", "head", "members")} | {"place": place}
    )


def _facts_line(row: dict[str, Any]) -> str:
    parts = []
    if row.get("width") and row.get("height"):
        parts.append(f"{row['width']} × {row['height']} px")
    if row.get("duration_s"):
        parts.append(f"{row['duration_s']:.1f} s")
    for name in ("language", "n_tokens"):
        if row.get(name):
            parts.append(f"{row[name]} tokens" if name == "n_tokens" else str(row[name]))
    for name in ("cider_d", "wer", "chrf"):
        if row.get(name) is not None:
            parts.append(f"{name} {row[name]:.2f}")
    return " · ".join(parts)


def _pretty(value: Any) -> str:
    return json.dumps(value, indent=1, ensure_ascii=False, sort_keys=True, default=str)
