"""`nightcap dedup`: archives in, decisions out: which samples an earlier one stands for. `prepare --drop` reads them.

pass 1   read + sign + write (one task a shard) -> receipts, counted by run.py
pass 2   signatures of the whole corpus -> buckets -> pairs -> decisions in order -> drop/<shard>.parquet
"""

from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

from cyclopts import Parameter
from rich.table import Table

from jobs.cluster import ONE_OPERATOR_CPUS, session
from jobs.display import console
from jobs.each import on_ray
from jobs.options import ShardOptions, byte_count
from jobs.run import Run, Steps, carry_out, plan_run
from pipeline.commit.parts import stem_of, table_path
from pipeline.dedup.corpus import Decided, already_decided, decide_corpus
from pipeline.dedup.likeness import LikenessConfig
from pipeline.dedup.signatures import FOLDER, GRAM_CHARACTERS, PERMUTATIONS, PICTURE_PX, SignatureConfig, picture_needs, sign_shard
from pipeline.samples.chunks import ShardTask
from pipeline.samples.drops import FOLDER as DROPS
from pipeline.samples.source import ReadConfig, ShardDatasource

RECIPE_VERSION = 2
"""Raised by hand when the same options would give other signatures than before."""


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True, slots=True)
class DedupConfig(ShardOptions):
    """Options of `nightcap dedup`."""

    likeness: LikenessConfig = field(default_factory=LikenessConfig)
    """Which samples count as the same."""
    max_rejects: str = "100%"
    """Samples that cannot be read, above which the run stops: a share such as 5%, checked after 200 samples, or a count."""


def run(config: DedupConfig) -> int:
    """Signs what is not signed yet, decides on the whole corpus, and shows the account. Returns the exit code."""
    likeness = config.likeness
    recipe = {
        "recipe_version": RECIPE_VERSION,
        "by": sorted(likeness.by),
        "picture_px": PICTURE_PX,
        "permutations": PERMUTATIONS,
        "gram_characters": GRAM_CHARACTERS,
    }
    planned = plan_run(config, job="dedup", tables=FOLDER, recipe=recipe)
    decided = None if planned.plan.open else already_decided(config.output, likeness)
    if decided is not None:
        carry_out(planned, _steps(planned, config))
    else:
        with session(config.address, verbose=config.verbose, cpus=ONE_OPERATOR_CPUS):
            carry_out(planned, _steps(planned, config))
            decided = decide_corpus(config.output, likeness, on_ray)
    console.print(_account(decided))
    console.print(f"drop       {config.output}/{DROPS}   use it: nightcap prepare ... --drop {config.output}")
    return 0


def _steps(planned: Run, config: DedupConfig) -> Steps:
    return Steps(
        dataset=lambda tasks: dataset(planned, config, tasks),
        sweep=list,
        note=f"duplicates by {', '.join(config.likeness.by)}",
        record={**asdict(config), **asdict(config.likeness)},
    )


def dataset(planned: Run, config: DedupConfig, tasks: tuple[ShardTask, ...]) -> Any:
    """The Ray Data plan of pass 1: one operator, from archive to table."""
    import ray

    read = partial(sign_shard, config=signature_config(planned, config))
    return ray.data.read_datasource(ShardDatasource(tasks, read, name="Sign"), override_num_blocks=len(tasks))


def signature_config(planned: Run, config: DedupConfig) -> SignatureConfig:
    """How this run signs."""
    decoder = "decode_pictures" if "picture" in config.likeness.by else "decode_nothing"
    read = ReadConfig(
        needs=picture_needs(),
        decoder=f"pipeline.dedup.signatures:{decoder}",
        max_sample_bytes=byte_count("--max-sample-bytes", config.max_sample_bytes),
        limits=config.limits(),
        output=config.output,
        run_id=planned.run_id,
    )
    return SignatureConfig(read=read, texts="text" in config.likeness.by, path_of=signatures_of)


def signatures_of(shard: str) -> str:
    """Where the signatures of a shard lie: their existence is the commit of pass 1."""
    return table_path(FOLDER, stem_of(shard))


def _account(decided: Decided) -> Table:
    table = Table(title="the whole corpus", title_justify="left", show_header=False, box=None, pad_edge=False)
    table.add_column(style="bold")
    table.add_column(justify="right")
    table.add_column()
    gone = sum(decided.dropped.values())
    table.add_row("samples", f"{decided.samples:,}", f"in {decided.shards:,} archives")
    table.add_row("duplicates", f"{gone:,}", f"{gone / decided.samples:.1%}" if decided.samples else "")
    for name, count in decided.dropped.items():
        table.add_row(f"  {name}", f"{count:,}", {"media": "the same bytes", "picture": "looks the same", "text": "reads the same"}[name])
    return table
