"""The tables that `nightcap evaluate` prints: scores with intervals, buckets, and what changed against another run."""

from typing import Any

from rich.markup import escape
from rich.table import Table

from jobs.display import console

SHOWN = (
    *(f"bleu_{order}" for order in (1, 2, 3, 4)),
    *("chrf", "cider_d", "rouge_l", "wer", "cer", "exact_match", "token_f1"),
    *("distinct_1", "distinct_2", "mean_length", "reference_length"),
)


def show(result: dict[str, Any], *, changed: int) -> None:
    """Prints what scores.json holds; `changed` samples each way of a comparison."""
    coverage = result["coverage"]
    left = [
        (coverage["rows_without_reference"], "without a reference"),
        (coverage["rows_without_caption"], "without a caption"),
        (coverage["rows_only_here"], "not in the other run"),
    ]
    said = "".join(f" · {count:,} rows {why}, left out" for count, why in left if count)
    console.print(f"{coverage['samples_scored']:,} samples scored of {coverage['rows']:,} rows{said}", soft_wrap=True)
    against = result.get("against")
    console.print(_table(result["scores"], against))
    for dimension, buckets in result["buckets"].items():
        if len(buckets) > 1:
            console.print(_bucket_table(dimension, buckets, result["by"]))
    for name in ("improved", "declined"):
        if against is not None and against[name] and changed:
            console.print(_changes(against[name][:changed], name, result["by"]))


def _table(ours: dict[str, Any], against: dict[str, Any] | None) -> Table:
    """One line a score; with another run, the interval is that of the difference."""
    table = Table(box=None, pad_edge=False)
    names = ("score", "value", "against", "difference", "95 % interval", "p", "") if against else ("score", "value", "95 % interval")
    for name in names:
        table.add_column(name, justify="left" if name in ("score", "") else "right", style="bold" if name == "score" else "", no_wrap=True)
    for name in SHOWN:
        if against is None:
            table.add_row(name, _number(ours[name]["value"]), _range(ours[name]))
            continue
        change = against["difference"].get(name, {})
        cells = (ours[name]["value"], against["scores"][name]["value"], change.get("value"))
        table.add_row(name, *map(_number, cells), _range(change), _number(change.get("p")), change.get("verdict", ""))
    return table


def _bucket_table(dimension: str, buckets: dict[str, Any], by: str) -> Table:
    names = list(dict.fromkeys((by, "bleu_4", "chrf", "token_f1", "wer")))
    table = Table(title=f"by {dimension}", title_justify="left", box=None, pad_edge=False)
    table.add_column(dimension, style="bold", no_wrap=True)
    for name in ("samples", *names, f"{by}, 95 %"):
        table.add_column(name, justify="right", no_wrap=True)
    for bucket, held in sorted(buckets.items(), key=lambda item: -item[1]["samples"]):
        figures = held["scores"]
        table.add_row(escape(bucket), f"{held['samples']:,}", *(_number(figures[name]["value"]) for name in names), _range(figures[by]))
    return table


def _changes(rows: list[dict[str, Any]], name: str, by: str) -> Table:
    table = Table("sample", by, "against", "reference", "caption", "the other's", title=f"{name} most, by {by}", title_justify="left")
    for row in rows:
        texts = (row["references"][0], row["caption"], row["against"]["caption"])
        table.add_row(
            escape(f"{row['shard']}:{row['key']}"), _number(row[by]), _number(row["against"][by]), *(escape(text[:120]) for text in texts)
        )
    return table


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _range(figure: dict[str, float | None]) -> str:
    low, high = figure.get("low"), figure.get("high")
    return "" if low is None or high is None else f"{low:.3f} to {high:.3f}"
