"""`nightcap prepare --explain N`: what the filters would remove of N samples, with examples. Writes nothing."""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing

from rich.markup import escape
from rich.table import Table

from jobs.display import console
from pipeline import storage
from pipeline.errors import RequestError, SampleError
from pipeline.samples.chain import Chain, Item
from pipeline.samples.chunks import ShardTask, chunks, describe, origin_of
from pipeline.samples.explain import Explanation, explain
from pipeline.samples.facts import Facts
from pipeline.samples.group import EndOfShard

SHARDS_AT_MOST = 16
"""Archives that are looked into, evenly spaced: a corpus is often sorted by where it came from."""


def explain_filters(urls: Sequence[str], chain: Chain, accepts: tuple[str, ...], count: int, max_sample_bytes: int) -> int:
    """Prints the table and returns 0. RequestError where no filter is on."""
    if not chain.filters:
        raise RequestError(
            "--explain shows what filters would remove, and none is on; give --profile light or a limit such as --min-side-px 200"
        )
    chosen = urls[:: max(1, -(-len(urls) // SHARDS_AT_MOST))]
    each = -(-count // len(chosen))
    unusable: Counter[str] = Counter()
    samples = (one for url in chosen for one in _facts(url, chain, each, accepts, max_sample_bytes, unusable))
    found = explain(chain.filters, samples)
    console.print(_table(found))
    console.print(f"{found.kept:,} of {found.seen:,} samples of {len(chosen):,} archives would be kept. Nothing was written")
    if unusable:
        console.print("not asked, since they cannot be used: " + ", ".join(f"{name} {count:,}" for name, count in unusable.most_common()))
    return 0


def _facts(
    url: str, chain: Chain, count: int, accepts: tuple[str, ...], max_sample_bytes: int, unusable: Counter[str]
) -> Iterator[tuple[str, Facts]]:
    task = ShardTask(url, url.rsplit("/", 1)[-1], "", stop_after=count)
    with closing(storage.open_reader(url)) as reader:
        for chunk in chunks(task, reader, max_sample_bytes):
            for sample in [] if isinstance(chunk, EndOfShard) else chunk:
                row, medium = describe(sample, origin_of(task), accepts)
                if medium is None:
                    unusable[row["reason"]] += 1
                    continue
                try:
                    yield f"{task.shard}:{sample.key}", chain.facts(Item(sample.fields, medium, row["modality"]))
                except SampleError as exc:
                    unusable[exc.reason.value] += 1


def _table(found: Explanation) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("filter", style="bold")
    table.add_column("alone", justify="right")
    table.add_column("as the first", justify="right")
    table.add_column("examples")
    for effect in found.effects:
        shares = [f"{count:,} ({count / max(1, found.seen):.1%})" for count in (effect.removes, effect.first)]
        lines = [escape(f"{one.origin}  {one.detail}  {one.text}"[:110]) for one in effect.examples]
        table.add_row(effect.reason.value.removeprefix("filtered_"), *shares, "\n".join(lines))
    return table
