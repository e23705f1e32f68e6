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


WORDS = {"right": "its own", "shuffled": "another's", "absent": "none"}
READINGS = ("probe", "raw", "normalised", "calibrated", "contrastive")


def show_understanding(result: dict[str, Any]) -> None:
    """Prints what understanding.json holds."""
    found = result["figures"]
    less = result["samples"] - result["shuffled_samples"]
    left = f" · {less:,} had no medium of another text beside them, and are left out of the comparison with another's" if less else ""
    console.print(f"{result['samples']:,} samples{left}", soft_wrap=True)
    table = _grid(("medium", "perplexity", "95 %", "bits a byte", "unknown tokens", "own is likelier", "95 %"))
    for name, words in WORDS.items():
        pair = found.get(f"pair_accuracy.{name}", {})
        perplexity, bits = found[f"perplexity.{name}"], found[f"bits_per_byte.{name}"]
        unknown = f"{found[f'unknown_share.{name}']['value'] or 0:.2%}"
        table.add_row(
            words, _number(perplexity["value"]), _range(perplexity), _number(bits["value"]), unknown, _share(pair), _share_range(pair)
        )
    console.print(table)
    if "classification" in result:
        _show_classes(result)
    if "retrieval" in result:
        table = _grid(("search", "R@1", "R@5", "R@10", "R@1, 95 %", "median rank"))
        for way, rank in (("medium_to_text", "rank_of_text"), ("text_to_medium", "rank_of_medium")):
            recalls = [found[f"{way}.recall_{k}"] for k in (1, 5, 10)]
            table.add_row(
                way.replace("_", " "), *map(_share, recalls), _share_range(recalls[0]), f"{result['retrieval'][f'median_{rank}']:g}"
            )
        console.print(f"Retrieval among {result['retrieval']['pool']:,} samples", soft_wrap=True)
        console.print(table)
    else:
        console.print(
            "no retrieval: the model has no common space of media and texts (train it with --objectives contrastive)", soft_wrap=True
        )
    if "painted.psnr" in found:
        said = " · ".join(f"{words} {found[f'painted.{name}']['value'] or 0:.2f} dB" for name, words in PAINTED.items())
        console.print(f"Pictures from text (a first form, soft by nature): {said}", soft_wrap=True)
        named, real = _share(found["painted.named"]), _share(found["painted.real_named"])
        console.print(f"the captioner names {named} of them, and {real} of the real pictures", soft_wrap=True)


PAINTED = {"psnr": "PSNR", "psnr_shuffled": "of another's text", "psnr_flat": "of the picture's mean colour"}


def _show_classes(result: dict[str, Any]) -> None:
    known, found = result["classification"], result["figures"]
    less = f", {known['without_label']:,} samples without a label left out" if known["without_label"] else ""
    alone = f"; classes with one sample take no part in the probe: {', '.join(known['alone'][:5])}" if known["alone"] else ""
    most = f"always {known['majority']!r} would be right for {_share(found['majority'])}"
    console.print(
        f"Classification of {known['samples']:,} samples into {known['classes']} classes{less}{alone}; {most}", markup=False, soft_wrap=True
    )
    table = _grid(("accuracy", "medium", "95 %", "text", "95 %"))
    for name in READINGS:
        sides = [found[f"{side}.{name}"] for side in ("medium", "text")]
        if any(one["value"] is not None for one in sides):
            title = "linear probe" if name == "probe" else f"zero-shot, {name}"
            table.add_row(title, *(cell for one in sides for cell in (_share(one), _share_range(one))))
    console.print(table)


def _grid(names: tuple[str, ...]) -> Table:
    """A table whose headings may take several lines: figures have no spaces to break at."""
    table = Table(box=None, pad_edge=False, collapse_padding=True)
    for number, name in enumerate(names):
        table.add_column(name, justify="right" if number else "left", style="" if number else "bold")
    return table


def _share(figure: dict[str, float | None]) -> str:
    value = figure.get("value")
    return "" if value is None else f"{value:.1%}"


def _share_range(figure: dict[str, float | None]) -> str:
    low, high = figure.get("low"), figure.get("high")
    return "" if low is None or high is None else f"{low:.1%}–{high:.1%}"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _range(figure: dict[str, float | None]) -> str:
    low, high = figure.get("low"), figure.get("high")
    if low is None or high is None:
        return ""
    digits = 3 if high < 10 else 1
    return f"{low:.{digits}f}–{high:.{digits}f}"
