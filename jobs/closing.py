"""What `caption` says at its end beside the counts: how busy the engine was and why not more, what captions cost, what they have in common."""

from typing import Any

from pipeline.captions.account import efficiency
from pipeline.captions.corpus import alarms, read_corpus
from pipeline.reports.tally import Tally
from pipeline.storage import Folder

Row = tuple[str, str, str]
"""Of the closing table: what, how much, remark."""


def findings(store: Folder, tally: Tally, prices: tuple[float, float]) -> tuple[dict[str, Any], list[Row]]:
    """For the record, and for the closing table. `prices`: of a million prompt and output tokens."""
    engine, corpus = efficiency(tally.actors.values()), read_corpus(store)
    cost = sum(tally.sums[name] * price / 1e6 for name, price in zip(("prompt_tokens", "output_tokens"), prices, strict=True))
    record = {
        "sums": dict(sorted(tally.sums.items())),
        "efficiency": engine,
        "corpus": corpus,
        "cost": round(cost, 6) if any(prices) else None,
    }
    rows: list[Row] = []
    if tally.sums["captions"] > tally.results:
        rows.append(("  in all", f"{tally.sums['captions']:,}", "captions, over all prompts and numbers"))
    flags = {name.partition(":")[2]: count for name, count in tally.sums.items() if name.startswith("flag:")}
    if flags:
        rows.append(("flagged", f"{sum(flags.values()):,}", " · ".join(f"{name} {count:,}" for name, count in sorted(flags.items()))))
    if tally.sums["retries"]:
        rows.append(("retries", f"{tally.sums['retries']:,}", "asked again because of a fault"))
    if tally.sums["output_tokens"]:
        money = f" · cost {cost:,.2f}" if any(prices) else ""
        rows.append(("tokens", f"{tally.sums['output_tokens']:,}", f"and {tally.sums['prompt_tokens']:,} of prompts{money}"))
    if engine is not None:
        rows += _engine_rows(engine)
    if corpus is not None and corpus["duplicates"]:
        rows.append(("said twice", f"{corpus['duplicates']:.1%}", f"of captions; {corpus['near_duplicates_at_least']:.1%} or more nearly"))
    return record, rows + [("look", "", line) for line in alarms(corpus)]


def _engine_rows(engine: dict[str, Any]) -> list[Row]:
    alone = f", {engine['alone_samples_per_s']:,.1f} samples/s in its first calls" if engine["alone_samples_per_s"] else ""
    tokens = f", {engine['tokens_per_s']:,.0f} tokens/s" if engine["tokens_per_s"] else ""
    rows = [("engine busy", f"{engine['busy']:.0%}", f"{engine['samples_per_s'] or 0.0:,.1f} samples/s{tokens}{alone}")]
    if engine["starved_by"]:
        rows.append(("  starved by", "", f"{engine['starved_by']}: {engine['advice']}"))
    return rows
