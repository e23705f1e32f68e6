"""`nightcap check`: reads every byte of every shard and says what is there and what is damaged."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Annotated

from cyclopts import Parameter
from rich.markup import escape
from rich.table import Table

from jobs.cluster import session
from jobs.display import console
from jobs.options import byte_count
from pipeline.commit.plan import expand
from pipeline.errors import RequestError
from pipeline.samples.survey import Survey, survey

IN_FLIGHT_PER_CPU = 4
DAMAGE_LINES = 20


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True, slots=True)
class CheckConfig:
    """Options of `nightcap check`."""

    shards: Annotated[tuple[str, ...], Parameter(negative=())] = field(kw_only=False)
    """Archives: globs, brace patterns, folders, list files (@shards.txt), or URLs."""
    hash: bool = True
    """Hash every sample, which finds duplicates within a shard; --no-hash reads faster."""
    max_sample_bytes: str = "512MiB"
    """Samples above this size are reported and not hashed."""
    address: str = ""
    """Ray cluster; without it RAY_ADDRESS, else a Ray on this machine."""
    verbose: bool = False
    """Show Ray's own messages."""

    def __post_init__(self) -> None:
        if not self.shards:
            raise RequestError("no shards given; name a folder, a glob or a list file: nightcap check 'data/*.tar'")
        byte_count("--max-sample-bytes", self.max_sample_bytes)


def run(config: CheckConfig) -> int:
    """Prints the account; 1 if anything is damaged."""
    _, blobs = expand(config.shards)
    with session(config.address, verbose=config.verbose):
        surveys = list(_surveys([blob.path for blob in blobs], config))
    console.print(_summary(surveys))
    damaged = [found for found in surveys if found.damage]
    lines = [(found.url, damage) for found in damaged for damage in found.damage]
    for url, damage in lines[:DAMAGE_LINES]:
        where = f"bytes {damage.start:,}-{damage.end:,}" + (" of the packed file" if damage.space != "tar" else "")
        console.print(f"[red]damage[/] {escape(url)} {where} {damage.kind.value} {escape(damage.name or '')} {escape(damage.detail)}")
    if len(lines) > DAMAGE_LINES:
        console.print(f"... and {len(lines) - DAMAGE_LINES:,} more damaged ranges")
    unsorted = [found for found in surveys if found.repeated_keys]
    if unsorted:
        total = sum(found.repeated_keys for found in unsorted)
        console.print(
            f"{total:,} samples in {len(unsorted):,} archives have a key that came before, {escape(unsorted[0].url)} first: "
            "the archive is not sorted by name (all pictures, then all texts?), or keys are used twice. Partners that are apart are not joined"
        )
    return 1 if damaged else 0


def _surveys(urls: Sequence[str], config: CheckConfig) -> Iterator[Survey]:
    """One task a shard, a bounded number in flight."""
    import ray
    from ray.exceptions import RayTaskError

    task = ray.remote(num_cpus=1, max_retries=3)(survey)
    limit = IN_FLIGHT_PER_CPU * int(ray.cluster_resources().get("CPU", 1))
    options = {"hashes": config.hash, "max_sample_bytes": byte_count("--max-sample-bytes", config.max_sample_bytes)}
    waiting: list[ray.ObjectRef] = []
    left = list(reversed(urls))
    while left or waiting:
        while left and len(waiting) < limit:
            waiting.append(task.remote(left.pop(), **options))
        done, waiting = ray.wait(waiting, num_returns=1)
        try:
            yield from ray.get(done)
        except RayTaskError as exc:
            if isinstance(exc.cause, OSError):
                raise RequestError(f"an archive cannot be read: {exc.cause}") from exc
            raise


def _summary(surveys: Sequence[Survey]) -> Table:
    samples = sum(found.samples for found in surveys)
    fields, ignored, problems = Counter[str](), Counter[str](), Counter[str]()
    for found in surveys:
        fields.update(found.fields)
        ignored.update(found.ignored)
        problems.update(found.problems)
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(style="bold")
    table.add_column(justify="right")
    table.add_column()
    table.add_row("archives", f"{len(surveys):,}", f"{sum(found.size_bytes for found in surveys):,} bytes")
    table.add_row("samples", f"{samples:,}", "")
    for name, count in fields.most_common(20):
        table.add_row(f"  .{escape(name)}", f"{count:,}", f"{count / samples:.1%}")
    for name, count in problems.most_common():
        table.add_row(name, f"{count:,}", "samples that cannot be used as they stand")
    for name, count in ignored.most_common():
        table.add_row(name.replace("_", " "), f"{count:,}", "members that belong to no sample")
    duplicates = sum(found.duplicates for found in surveys)
    if duplicates:
        table.add_row("duplicates", f"{duplicates:,}", "samples with the content of another one of their archive")
    table.add_row("damage", f"{sum(len(found.damage) for found in surveys):,}", "damaged byte ranges")
    return table
