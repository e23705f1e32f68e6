"""`nightcap merge`: captions from their tables back into archives; media are copied byte for byte."""

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Annotated, Literal

from cyclopts import Parameter
from rich.markup import escape
from rich.table import Table

from jobs.cluster import session
from jobs.display import console, meter
from jobs.each import on_ray
from jobs.options import byte_count
from pipeline import storage
from pipeline.commit import recipe as recipes
from pipeline.commit.parts import CAPTIONS, table_path
from pipeline.commit.plan import ShardInput, expand, inputs
from pipeline.commit.temporary import without_temporary
from pipeline.errors import RequestError, StoppedError
from pipeline.reports.record import new_run_id, write_record
from pipeline.reports.tally import Tally
from pipeline.shards import inventory
from pipeline.shards.listing import local_path
from pipeline.shards.merge import DROPPED, KEPT, MERGED, RECORDS, Form, Job, Merged, load_record, merge, verify_first

RECIPE_VERSION = 1
"""Raised by hand when the same options would give other archives than before."""


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True, slots=True)
class MergeConfig:
    """Options of `nightcap merge`."""

    shards: Annotated[str, Parameter(negative=())] = field(kw_only=False)
    """The archives that were captioned: a glob, a brace pattern, a folder, a list file (@shards.txt), or a URL; `::` joins several."""
    captions: Annotated[str, Parameter(negative=())] = field(kw_only=False)
    """The output folder of nightcap caption."""
    output: Annotated[str, Parameter(alias="-o")]
    """Folder for the archives with captions. Run again with the same folder to continue."""
    as_: Annotated[str, Parameter(name="--as")] = ""
    """Field name of the text member that is written: caption.txt unless --json-field is given; txt replaces the text that came with it."""
    json_field: str = ""
    """Write captions under this name into the sample's json; a list of all if there are several a sample."""
    rejected: Literal["keep", "drop"] = "keep"
    """Samples without a caption: copied as they are, or left out."""
    max_sample_bytes: str = "512MiB"
    """A larger sample stops the merge: each is held in memory once."""
    address: str = ""
    """Ray cluster; without it RAY_ADDRESS, else a Ray on this machine."""
    verbose: bool = False
    """Show Ray's own messages."""

    def __post_init__(self) -> None:
        try:
            self.form()
        except ValueError as exc:
            raise RequestError(f"--as {exc}") from exc

    def form(self) -> Form:
        """How captions are put into samples."""
        return Form(
            member=self.as_ or ("" if self.json_field else "caption.txt"),
            json_field=self.json_field,
            keep_rejected=self.rejected == "keep",
            max_sample_bytes=byte_count("--max-sample-bytes", self.max_sample_bytes),
        )


def run(config: MergeConfig) -> int:
    """Joins, verifies, copies, reports. Returns the exit code."""
    shards, root, captions_recipe = _inputs(config)
    store = storage.Folder(local_path(config.output))  # workers may stand in another folder
    jobs = _jobs(shards, config)
    form = config.form()
    verify_first(jobs[0], form.max_sample_bytes)
    problem = storage.writable(config.output)
    if problem is not None:
        raise RequestError(f"cannot write to --output {config.output}: {problem}")
    wanted = {"job": "merge", "recipe_version": RECIPE_VERSION, "root": root, "captions": captions_recipe}
    wanted |= {"as": form.member, "json_field": form.json_field, "rejected": config.rejected}
    recipe = recipes.guard(store, wanted, RECORDS)
    tally = Tally()
    stopped: StoppedError | None = None
    run_id = new_run_id()
    store.delete(inventory.SIZES)
    with session(config.address, verbose=config.verbose), meter(len(jobs)) as display:
        try:
            for merged in on_ray(merge, ((job, form, store, run_id) for job in jobs)):
                _count(tally, merged)
                display.show(tally)
        except StoppedError as exc:
            stopped = exc
    if stopped is None:
        without_temporary(store, store.list(""), run_id)  # what a dead worker left
        _write_index(store)
    outcome = {MERGED: tally.counts[MERGED], "shards": len(jobs), "stopped": str(stopped) if stopped else None}
    path = write_record(store, run_id, job="merge", results=MERGED, config=asdict(config), recipe=recipe, tally=tally, outcome=outcome)
    console.print(_table(tally, len(jobs)))
    console.print(f"archives   {escape(config.output)}   record {escape(config.output)}/{path}")
    if stopped is not None:
        raise stopped
    return 0


def _inputs(config: MergeConfig) -> tuple[list[ShardInput], str, str]:
    """The archives, the root of their names, and what the captions were made with."""
    source = storage.Folder(local_path(config.captions))
    found_root, blobs = expand((config.shards,))
    root = recipes.root_of(source)
    if root is None:
        raise RequestError(f"{config.captions} holds no recipe.json: name the --output folder of nightcap caption")
    if storage.resolve(config.output) in (storage.resolve(root), storage.resolve(found_root), storage.resolve(config.captions)):
        raise RequestError(f"--output {config.output} is the folder of the archives or of their captions; name another")
    if not all(blob.path.startswith(root.rstrip("/") + "/") for blob in blobs):
        root = found_root  # the archives were moved; names below their folder still have to agree
    return inputs(blobs, root), root, hashlib.sha256(source.get(recipes.PATH)).hexdigest()[:16]


def _jobs(shards: Sequence[ShardInput], config: MergeConfig) -> list[Job]:
    """Archives with their tables. RequestError where one has none."""
    source = storage.Folder(local_path(config.captions))
    tables = {blob.path: blob for blob in source.list(CAPTIONS)}
    missing = [shard.shard for shard in shards if table_path(CAPTIONS, shard.stem) not in tables]
    if len(missing) == len(shards):
        held = ", ".join(sorted(tables)[:3]) or "nothing"
        raise RequestError(f"{config.captions} holds no captions of {missing[0]}, it holds {held}: a caption table of other shards")
    if missing:
        raise RequestError(
            f"{len(missing):,} of {len(shards):,} archives have no caption table ({', '.join(missing[:3])}); finish nightcap caption first"
        )
    jobs = []
    for shard in shards:
        blob = tables[table_path(CAPTIONS, shard.stem)]
        version = hashlib.sha256(f"{shard.fingerprint}\0{blob.size}\0{blob.mtime_s:.6f}".encode()).hexdigest()[:16]
        jobs.append(Job(shard.url, shard.shard, shard.stem, version, f"{source.url}/{blob.path}"))
    return jobs


def _write_index(store: storage.Folder) -> None:
    """Index files of all archives that are there, also of those that earlier runs merged from other shards."""
    there = {blob.path: blob.size for blob in store.list("")}
    records = [load_record(store, path) for path in there if path.startswith(f"{RECORDS}/")]
    merged = sorted((one for one in records if one is not None and one.path in there), key=lambda one: one.path)
    inventory.write_inventory(store, "merged", [inventory.Archive(one.path, one.samples, there[one.path]) for one in merged])


def _count(tally: Tally, merged: Merged) -> None:
    tally.shards += 1
    tally.counts.update(merged.counts)
    for what, keys in merged.examples.items():
        named = tally.examples.setdefault(what, [])
        named.extend([merged.shard, key, ""] for key in keys[: 3 - len(named)])


def _table(tally: Tally, shards: int) -> Table:
    """Every sample of every archive that is done, by what became of it."""
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(style="bold")
    table.add_column(justify="right")
    table.add_column()
    table.add_row("archives", f"{tally.shards:,}", f"of {shards:,}")
    table.add_row("samples", f"{sum(tally.counts.values()):,}", "")
    by_kind: Counter[str] = Counter()
    for name, count in tally.counts.items():
        by_kind[name.split(":")[0]] += count
    table.add_row(MERGED, f"{by_kind[MERGED]:,}", "with their caption")
    for kind, meaning in ((KEPT, "without a caption"), (DROPPED, "left out")):
        table.add_row(kind, f"{by_kind[kind]:,}", meaning)
        for name, count in sorted(tally.counts.items()):
            if name.startswith(f"{kind}:"):
                shard, key, _ = (tally.examples.get(name) or [["", "", ""]])[0]
                table.add_row(f"  {name.split(':', 1)[1]}", f"{count:,}", escape(f"{shard}:{key}"))
    return table
