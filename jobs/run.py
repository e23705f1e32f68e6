"""What every job over shards does, whatever it makes of them: plan, run in waves, count, stop above the budget, account.

    plan (storage says what is left) -> tasks -> waves of Ray execution -> receipts -> tally -> sweep, record, table

A job gives the Ray Data plan that turns tasks into receipts, and the sweep that repairs what a crash left. Storage is
the truth: the plan asks it what is left, and the end asks it again what is done.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from typing import Any

from jobs.cluster import CPUS, session
from jobs.display import closing_table, console, meter
from jobs.options import ShardOptions
from jobs.report import page_of
from pipeline import attempts, storage
from pipeline.commit import recipe as recipes
from pipeline.commit.budget import Budget
from pipeline.commit.parts import table_path
from pipeline.commit.plan import OpenShard, Plan, expand, inputs, make_plan
from pipeline.errors import Reason, RequestError, StoppedError
from pipeline.reports.archive_log import ArchiveLog
from pipeline.reports.record import new_run_id, versions, write_record
from pipeline.reports.tally import Tally
from pipeline.samples.chunks import ShardTask, stop_flag
from pipeline.samples.earlier import EarlierTable
from pipeline.samples.group import count_samples

WAVE = 5_000
"""Open shards in one Ray execution, so that its start and the driver's memory stay bounded."""

Receipt = dict[str, Any]


@dataclass(slots=True)
class Run:
    """What a run knows once it is planned."""

    job: str
    """Name of the command."""
    tables: str
    """Folder below the output whose tables are the commit: `captions`, `prepared`."""
    config: ShardOptions
    root: str
    recipe: dict[str, Any]
    run_id: str
    store: storage.Folder
    plan: Plan
    tally: Tally
    ended: str = ""
    """Why it ended before its end, as it was asked to."""

    def metadata(self) -> dict[str, str]:
        """For the Parquet files: run id and versions, the only place for what differs between two identical runs."""
        return {"nightcap.run_id": self.run_id, **{f"nightcap.version.{name}": value for name, value in versions().items()}}


@dataclass(frozen=True, kw_only=True, slots=True)
class Steps:
    """What a job gives the skeleton."""

    dataset: Callable[[tuple[ShardTask, ...]], Any]
    """Tasks -> a Ray dataset of schema.RECEIPTS."""
    sweep: Callable[[], Sequence[str]]
    """Completes and tidies what crashes left in the output; gives the shards that it completed."""
    note: str
    """For the first line: what makes the results."""
    record: dict[str, Any]
    """The configuration as it goes into the run's record."""
    tasks: Callable[[], list[ShardTask]] | None = None
    """The tasks, where they are not one an open shard."""
    watch: Callable[[Receipt], None] | None = None
    """Sees every receipt."""
    cpus: int = CPUS
    """Logical CPUs of a Ray that is started here."""
    findings: Callable[[Tally], tuple[dict[str, Any], list[tuple[str, str, str]]]] | None = None
    """More for the record, and rows of the closing table."""
    takes_over: tuple[str, ...] = ()
    """Columns that have to be equal for captions of a former version of an archive to be taken over; none: nothing is taken over."""
    enough: Callable[[Tally], str] | None = None
    """Why the run is to end here (a budget), or an empty text: no new shard starts then, those in flight finish, and all is well."""


@dataclass(frozen=True, slots=True)
class Chosen:
    """Archives that were looked for and judged before the run is planned."""

    root: str
    blobs: list[storage.Blob]
    stale: frozenset[str]
    """Stems whose tables are of former versions of their archives."""
    opens: list[storage.Blob] | None = None
    """Those that the run will open, where that is known: the others are not opened to look at their columns either."""


def plan_run(
    config: ShardOptions, *, job: str, tables: str, recipe: dict[str, Any], plan: bool = True, chosen: Chosen | None = None
) -> Run:
    """Everything that can be refused is refused here, before Ray starts. Without `plan` no archive is looked for."""
    found_root, blobs = (chosen.root, chosen.blobs) if chosen is not None else expand(config.shards) if plan else ("", [])
    problem = storage.writable(config.output)
    if problem is not None:
        raise RequestError(f"cannot write to --output {config.output}: {problem}")
    store = storage.Folder(config.output)
    root = recipes.root_of(store) or found_root
    guarded = recipes.guard(store, {"root": root, **recipe}, tables)
    stale = None if chosen is None else chosen.stale
    planned = make_plan(inputs(blobs, root, tables), store, changed=config.changed, tables=tables, stale=stale)
    return Run(job, tables, config, root, guarded, new_run_id(), store, planned, Tally())


def carry_out(run: Run, steps: Steps) -> int:
    """Runs what the plan left open, reports, and returns the exit code. StoppedError where the run could not end well."""
    _announce(run, steps.note)
    if not run.plan.open:
        return _finish(run, steps, None)
    with session(run.config.address, verbose=run.config.verbose, cpus=steps.cpus):
        problem = None
        try:
            execute(run, steps)
        except StoppedError as exc:
            problem = exc
        return _finish(run, steps, problem)


def _announce(run: Run, note: str) -> None:
    plan = run.plan
    console.print(f"{plan.done + len(plan.open):,} shards · {plan.done:,} done · {len(plan.open):,} to do · {note}")
    if plan.newer:
        console.print(f"{len(plan.newer):,} archives are newer than their results, {plan.newer[0]} first; --changed redoes them")


def tasks_of(run: Run, takes_over: tuple[str, ...] = ()) -> list[ShardTask]:
    """One task an open shard; with --limit, as many samples as it allows, in the order of the shards."""
    suspects = attempts.suspects(run.store, run.run_id)
    left = run.config.limit
    tasks = []
    for shard in run.plan.open:
        stop_after = None
        if run.config.limit:
            if left <= 0:
                break
            count = _count(shard, left)
            stop_after, left = left if count >= left else None, left - count
        given = shard.input
        earlier = EarlierTable(table_path(run.tables, given.stem), takes_over) if shard.replaces and takes_over else None
        suspected = suspects.get(given.shard, ())
        tasks.append(ShardTask(given.url, given.shard, given.fingerprint, shard.todo, suspected, stop_after, earlier=earlier))
    return tasks


def _count(shard: OpenShard, limit: int) -> int:
    reader = storage.open_reader(shard.input.url)
    try:
        return count_samples(reader, limit=limit)
    finally:
        reader.close()


def execute(run: Run, steps: Steps) -> None:
    """All tasks in waves, counted as they are done. StoppedError above the reject budget, and where storage or Ray fail."""
    budget = Budget.parse(run.config.max_rejects)
    tasks = steps.tasks() if steps.tasks is not None else tasks_of(run, steps.takes_over)
    log = ArchiveLog(run.store, run.run_id, run.job)
    with meter(len({task.shard for task in tasks})) as display, closing(log):
        for start in range(0, len(tasks), WAVE):
            for receipt in _receipts(run, steps.dataset, tuple(tasks[start : start + WAVE])):
                run.tally.add(receipt)
                log.add(receipt)
                display.show(run.tally)
                if steps.watch is not None:
                    steps.watch(receipt)
                if steps.enough is not None and not run.ended and (why := steps.enough(run.tally)):
                    run.ended = why
                    run.store.put(stop_flag(run.run_id), why.encode())
                if budget.exceeded(run.tally.samples, run.tally.rejected):
                    with suppress(OSError):
                        run.store.put(stop_flag(run.run_id), b"")
            if budget.exceeded(run.tally.samples, run.tally.rejected, final=start + WAVE >= len(tasks)):
                raise StoppedError(_over_budget(run))
            if steps.enough is not None and not run.ended:
                run.ended = steps.enough(run.tally) if start + WAVE < len(tasks) else ""
            if run.ended:
                return


def _over_budget(run: Run) -> str:
    tally = run.tally
    reasons = "; ".join(
        f"{reason} {count:,} ({', '.join(f'{shard}:{key}' for shard, key, _ in tally.examples.get(reason, []))})"
        for reason, count in tally.reasons()[:3]
    )
    return (
        f"{tally.rejected:,} of {tally.samples:,} samples were rejected, more than --max-rejects {run.config.max_rejects} allows: {reasons}. "
        + (f"See {run.config.output}/quarantine; raise" if storage.is_folder(f"{run.config.output}/quarantine") else "Raise")
        + " --max-rejects to go on"
    )


def _receipts(run: Run, dataset: Callable[[tuple[ShardTask, ...]], Any], tasks: tuple[ShardTask, ...]) -> Iterator[Receipt]:
    from ray.exceptions import RayError, RayTaskError

    try:
        for batch in dataset(tasks).iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
            yield from batch.to_pylist()
    except RayTaskError as exc:
        cause = exc.cause if isinstance(exc.cause, BaseException) else exc
        if isinstance(cause, StoppedError | RequestError):
            raise StoppedError(_first_line(cause)) from exc
        if run.config.verbose or not isinstance(cause, OSError):
            raise
        raise StoppedError(f"storage failed: {_first_line(cause)}; run the same command again to continue") from exc
    except RayError as exc:
        raise StoppedError(f"Ray stopped the run: {str(exc).strip().splitlines()[-1]}; run the same command again to continue") from exc


def _first_line(exc: BaseException) -> str:
    """Without the lines that Ray puts below it, on how it may be made to try again."""
    return str(exc).strip().split("\n", 1)[0]


def _finish(run: Run, steps: Steps, problem: StoppedError | None) -> int:
    """Sweeps, asks storage what is done, writes the record, prints the account."""
    repaired: Sequence[str] = [] if problem is not None else steps.sweep()
    left = make_plan([shard.input for shard in run.plan.open], run.store, tables=run.tables).open
    attempts.sweep(run.store, run.run_id, all_done=not left)
    run.store.delete(stop_flag(run.run_id))
    outcome = {"shards_left": len(left), "shards_repaired": len(repaired), "stopped": str(problem) if problem else None}
    more, rows = steps.findings(run.tally) if steps.findings is not None else ({}, [])
    path = write_record(
        run.store,
        run.run_id,
        job=run.job,
        results=run.tables,
        config=steps.record,
        recipe=run.recipe,
        tally=run.tally,
        outcome={**outcome, **more},
    )
    output = run.config.output
    console.print(closing_table(run.tally, f"run {run.run_id}", run.tables, rows))
    quarantine = f"   quarantine {output}/quarantine" if storage.is_folder(f"{output}/quarantine") else ""
    console.print(f"{run.tables}   {output}/{run.tables}{quarantine}   record {output}/{path}")
    console.print(f"report {page_of(run.store, path)}", soft_wrap=True)
    if problem is not None:
        raise problem
    passing = sum(count for reason, count in run.tally.reasons() if Reason(reason).transient)
    if left and run.config.limit and passing:
        raise StoppedError(f"{passing:,} samples failed for a passing reason; the same command without --limit redoes them")
    if left and not run.config.limit and not run.ended:
        names = ", ".join(shard.input.shard for shard in left[:3])
        raise StoppedError(f"{len(left):,} shards are not committed ({names}); transient failures are redone by the same command")
    return 0
