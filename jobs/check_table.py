"""What `nightcap check` prints: fields and media as one table, faults as lines that say what to do."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.markup import escape
from rich.table import Table

from jobs.display import console
from pipeline.samples.account import Survey
from pipeline.samples.spread import Spread
from pipeline.shards.repair import Repaired

if TYPE_CHECKING:
    from jobs.check import Account

DAMAGE_LINES = 20
FIELD_LINES = 20
_UNITS = ("B", "kB", "MB", "GB", "TB", "PB", "EB")
_KINDS = {
    "content": "samples with the content of another one before them",
    "media": "samples with the medium of another one before them, whatever else they hold",
    "keys": "samples whose key also occurs in an earlier archive: no fault, but only archive and position name them",
}
_ORDER_LINE = (
    "partners are apart (all pictures, then all texts?), or keys are used twice; readers that stream take each run for a sample "
    "of its own. --fix puts them together"
)


def print_account(account: Account) -> None:
    """The whole account."""
    survey = account.survey
    console.print(f"[bold]{survey.archives:,}[/] archives · [bold]{survey.samples:,}[/] samples · {_size(survey.size_bytes)}")
    if survey.fields:
        console.print(_fields(survey))
    media = _media(survey)
    if media.row_count:
        console.print(media)
    if account.repeats or survey.problems or survey.ignored or survey.repeated_keys or survey.out_of_order:
        console.print(_findings(account))
    _print_damage(survey)
    for url in account.without_media[:DAMAGE_LINES]:
        console.print(f"[red]media not looked at[/] {escape(url)}: reading a header killed the process")
    if account.faulty:
        console.print(f"{len(account.faulty):,} archives have faults, {escape(account.faulty[0])} first; --fix DIR writes clean ones")


def print_repairs(repaired: Sequence[Repaired], target: str, archives: int) -> None:
    """What --fix did."""
    lost: Counter[str] = Counter()
    for one in repaired:
        lost.update(one.lost)
    table = _plain_table()
    table.add_row(
        "fixed",
        f"{len(repaired):,}",
        f"archives of {archives:,}, written to {escape(target)}; their list with the others: @{escape(target)}/shards.txt",
    )
    table.add_row("saved", f"{sum(one.samples for one in repaired):,}", "samples in them")
    table.add_row("joined", f"{sum(one.joined for one in repaired):,}", "runs of members put back to their sample")
    table.add_row("renamed", f"{sum(one.renamed for one in repaired):,}", "samples whose key was taken")
    for reason, count in sorted(lost.items()):
        table.add_row("lost", f"{count:,}", reason.replace("_", " "))
    console.print(table)


def _plain_table() -> Table:
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(style="bold")
    table.add_column(justify="right")
    table.add_column(overflow="fold")
    return table


def _fields(survey: Survey) -> Table:
    table = Table(box=None, pad_edge=False)
    for name in ("field", "samples", "share", "total", "smallest", "median", "95 %", "largest"):
        table.add_column(name, justify="left" if name == "field" else "right")
    ordered = sorted(survey.fields.items(), key=lambda pair: (-pair[1].count, pair[0]))
    for name, spread in ordered[:FIELD_LINES]:
        sizes = (spread.total, spread.low, spread.quantile(0.5), spread.quantile(0.95), spread.high)
        share = f"{spread.count / max(1, survey.samples):.1%}"
        table.add_row(f".{escape(name)}", f"{spread.count:,}", share, *map(_size, sizes))
    hidden = sum(spread.count for _, spread in ordered[FIELD_LINES:]) + survey.other_fields
    if hidden:
        table.add_row("others", f"{hidden:,}", "", "", "", "", "", "")
    return table


def _media(survey: Survey) -> Table:
    table = Table(box=None, pad_edge=False)
    for name in ("measured", "of", "smallest", "median", "95 %", "largest"):
        table.add_column(name, justify="left" if name == "measured" else "right")
    for name, unit, spread in (
        ("text", "characters", survey.text_chars),
        ("width", "px", survey.width_px),
        ("height", "px", survey.height_px),
    ):
        if spread.count:
            table.add_row(f"{name}, {unit}", f"{spread.count:,}", *(f"{value:,}" for value in _four(spread)))
    if survey.duration_ms.count:
        table.add_row("duration, s", f"{survey.duration_ms.count:,}", *(f"{value / 1000:,.1f}" for value in _four(survey.duration_ms)))
    return table


def _four(spread: Spread) -> tuple[int, int, int, int]:
    return spread.low, spread.quantile(0.5), spread.quantile(0.95), spread.high


def _findings(account: Account) -> Table:
    survey = account.survey
    table = _plain_table()
    if survey.duration_ms.total:
        table.add_row("recordings", f"{survey.duration_ms.total / 3.6e6:,.1f} h", "of those measured")
    for name, count in survey.problems.most_common():
        table.add_row(name.replace("_", " "), f"{count:,}", "samples that cannot be used as they stand")
    for name, count in survey.remarks.most_common():
        if count:
            table.add_row(name.replace("_", " "), f"{count:,}", "")
    for name, count in survey.ignored.most_common():
        table.add_row(name.replace("_", " "), f"{count:,}", "members that belong to no sample")
    for kind, repeats in account.repeats.items():
        if repeats.repeats:
            name = f"same {kind}" if kind != "keys" else "same key"
            table.add_row(
                name, f"{repeats.repeats:,}", _KINDS[kind] + (f"; {repeats.within:,} in the same archive" if repeats.within else "")
            )
            for group in account.named.get(kind, [])[:1]:
                table.add_row("", "", escape("  " + "  =  ".join(group)))
    if survey.repeated_keys:
        where = f"samples in {survey.n_repeating:,} archives, {escape(survey.repeating[0])} first"
        table.add_row("key again", f"{survey.repeated_keys:,}", f"{where}: {_ORDER_LINE}")
    if survey.out_of_order:
        where = f"{survey.n_unsorted:,} archives, {escape(survey.unsorted[0])} first"
        table.add_row(
            "out of order",
            f"{survey.out_of_order:,}",
            f"samples whose key sorts before the one in front, in {where}: shuffled, or not sorted",
        )
    return table


def _print_damage(survey: Survey) -> None:
    if not survey.n_damage:
        console.print("damage  0")
        return
    console.print(f"[bold red]damage[/]  {survey.n_damage:,} byte ranges in {survey.n_damaged:,} archives")
    for url, damage in survey.damage[:DAMAGE_LINES]:
        where = f"bytes {damage.start:,}-{damage.end:,}" + (" of the packed file" if damage.space != "tar" else "")
        console.print(f"[red]damage[/] {escape(url)} {where} {damage.kind.value} {escape(damage.name or '')} {escape(damage.detail)}")
    if survey.n_damage > DAMAGE_LINES:
        console.print(f"... and {survey.n_damage - DAMAGE_LINES:,} more damaged ranges")


def _size(count: int) -> str:
    value, unit = float(count), 0
    while value >= 999.5 and unit < len(_UNITS) - 1:
        value, unit = value / 1000, unit + 1
    return f"{count:,} B" if unit == 0 else f"{value:.3g} {_UNITS[unit]}"
