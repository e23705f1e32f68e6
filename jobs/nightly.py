"""`nightcap nightly JOB.yaml`: only what is new or changed since the last night, one page and one exit code.

list -> compare with the ledger -> run what is left (captions of unchanged samples are taken over) -> ledger -> account, drift -> page
"""

import re
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from datetime import UTC, date, datetime
from typing import Any, NamedTuple

from cyclopts import Parameter

from jobs import caption
from jobs.caption import CaptionConfig
from jobs.display import console
from jobs.run import Chosen, Run, Steps, carry_out
from pipeline import storage
from pipeline.captions.choose import chosen
from pipeline.captions.engine import describe
from pipeline.commit import recipe as recipes
from pipeline.commit.plan import ShardInput, expand, inputs
from pipeline.errors import NightcapError, RequestError, StoppedError
from pipeline.nights import ledger as ledgers
from pipeline.nights import record
from pipeline.nights.compare import Comparison, compare
from pipeline.nights.drift import DriftConfig, Figures, alarms
from pipeline.nights.figures import measure
from pipeline.nights.forecast import compared, foretold
from pipeline.nights.lease import held, held_by
from pipeline.nights.page import verdict, write_page
from pipeline.nights.record import NAMES_SHOWN, Night
from pipeline.nights.versions import differences, version_for, versions_in
from pipeline.reports.record import new_run_id
from pipeline.reports.tally import Tally
from pipeline.samples.earlier import TAKEN_OVER

DRIFTED = 3
"""Exit code of a night that is done, but looks unlike the ones before."""


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True, slots=True)
class NightlyConfig(CaptionConfig):
    """Options of `nightcap nightly`: those of `nightcap caption`, and these. OUTPUT holds one folder a recipe, and the nights."""

    date: str = ""
    """The night, YYYY-MM-DD; today (UTC) where it is not given. A night that is complete is not done again."""
    again: bool = False
    """Look once more, also if this night is complete."""
    since: str = ""
    """Only archives that changed since: a date, or an age such as 36h or 7d. Older ones are reported."""
    budget_hours: float = 0.0
    """Hours after which no new archive starts; those at work are finished, and the next night continues. 0 is no bound."""
    budget_samples: int = 0
    """Samples after which no new archive starts, likewise."""
    drift: DriftConfig = DriftConfig()
    """When a night counts as unlike the ones before."""

    def __post_init__(self) -> None:
        """Raises RequestError for a value that cannot be meant."""
        CaptionConfig.__post_init__(self)
        if self.budget_hours < 0 or self.budget_samples < 0:
            raise RequestError("--budget-hours and --budget-samples cannot be negative; 0 is no bound")
        if self.limit:
            raise RequestError("--limit is for trying out with nightcap caption; a night takes --budget-samples")
        since_s(self.since, 0.0)
        if self.date:
            try:
                date.fromisoformat(self.date)
            except ValueError as exc:
                raise RequestError(f"--date {self.date!r} is no date; write for example 2026-11-24") from exc

    def night(self) -> str:
        """The date of this night."""
        return self.date or f"{datetime.now(UTC):%Y-%m-%d}"

    def captions(self, output: str) -> CaptionConfig:
        """What `caption` is told, for a version's folder."""
        return CaptionConfig(**{one.name: getattr(self, one.name) for one in fields(CaptionConfig)} | {"output": output})


@dataclass(slots=True)
class Work:
    """A night that is looked at: what was found, before anything is done."""

    config: NightlyConfig
    store: storage.Folder
    version: str
    versions: list[str]
    recipe: dict[str, Any]
    root: str
    blobs: list[storage.Blob]
    listed: list[ShardInput]
    ledger: ledgers.Ledger
    comparison: Comparison

    @property
    def output(self) -> storage.Folder:
        """The folder of the recipe."""
        return storage.Folder(f"{self.store.url}/{self.version}")


def run(config: NightlyConfig) -> int:
    """Looks, works, accounts. Returns the exit code."""
    store = storage.Folder(config.output)
    problem = storage.writable(config.output)
    if problem is not None:
        raise RequestError(f"cannot write to --output {config.output}: {problem}")
    known = record.load(store, config.night())
    if known is not None and known.complete and not config.again and known.version == _version(config, store).name:
        console.print(f"the night of {known.date} is complete (exit code {known.exit_code}); --again looks once more")
        return known.exit_code
    other = held_by(store)
    if other is not None:
        raise StoppedError(
            f"the night of {other.night} is at work here (process {other.pid} on {other.host}); wait for it, or delete {config.output}/lease.json"
        )
    with held(store, new_run_id(), config.night()):
        return _night(look(config, store), known)


def look(config: NightlyConfig, store: storage.Folder) -> Work:
    """Lists the corpus and compares it with what is done. No archive is opened."""
    root, blobs = expand(config.shards)
    config = replace(config, engine=chosen(config.engine))
    version = _version(config, store)
    output = storage.Folder(f"{store.url}/{version.name}")
    root = recipes.root_of(output) or root
    listed = inputs(blobs, root)
    ledger = ledgers.refresh(output, ledgers.load(output), config.night())
    comparison = compare(listed, ledger.made(), since_s(config.since, time.time()))
    return Work(config, store, version.name, version.known, version.recipe, root, blobs, listed, ledger, comparison)


class _Version(NamedTuple):
    name: str
    known: list[str]
    recipe: dict[str, Any]


def _version(config: NightlyConfig, store: storage.Folder) -> _Version:
    """The folder of the job's recipe, those there are, and the recipe."""
    recipe = caption.recipe_of(config, describe(chosen(config.engine)))
    known = versions_in(storage.folders_in(store.url))
    return _Version(version_for(recipe, known), known, recipe)


def _night(work: Work, known: Night | None) -> int:
    began = time.monotonic()
    job = caption.prepare(work.config.captions(work.output.url), chosen=_chosen(work))  # what it refuses leaves the night's record alone
    night = _begin(work, known)
    night.runs.append(job.run.run_id)
    _announce(work, night)
    predicted = foretold(work.store, work.version, work.comparison.todo)
    problem: NightcapError | None = None
    try:
        steps = replace(caption.steps_of(job), enough=_enough(work.config, began))
        carry_out(job.run, steps if predicted is None else _against(steps, predicted, began, len(work.comparison.todo)))
        night.why = job.run.ended
    except StoppedError as exc:
        problem, night.why = exc, str(exc)
    spent_s = time.monotonic() - began
    night.elapsed_s += spent_s
    if predicted is not None and problem is None and not night.why:
        night.predicted = compared(predicted, spent_s, len(work.comparison.todo))
    code = _account(work, night, job.run, failed=problem is not None)
    nights = record.before(work.store, night.date)
    record.save(work.store, night)
    page = write_page(work.store, night, nights)
    for alarm in night.alarms:
        console.print(f"[bold red]unlike the nights before[/]: {alarm['sentence']}")
    console.print(f"night {night.date}: {verdict(night)}", soft_wrap=True, markup=False)
    console.print(f"page   {work.store.url}/{page}", soft_wrap=True)
    if problem is not None:
        raise problem
    return code


def _against(steps: Steps, predicted: dict[str, Any], began: float, archives: int) -> Steps:
    """The steps of a run whose record and closing table also say how the forecast did, if it did all that was foretold."""

    def findings(tally: Tally) -> tuple[dict[str, Any], list[tuple[str, str, str]]]:
        more, rows = steps.findings(tally) if steps.findings is not None else ({}, [])
        found = compared(predicted, time.monotonic() - began, archives) if tally.shards == archives else None
        if found is None:
            return more, rows
        return {**more, "predicted": found}, [*rows, ("against the plan", f"{found['factor']:.2f}", found["sentence"])]

    return replace(steps, findings=findings)


def _begin(work: Work, known: Night | None) -> Night:
    """The night's record, begun or taken up again, and saved: what stood before it is lost once work begins."""
    began = f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"
    night = known if known is not None and known.version == work.version else None
    if night is None:
        earlier = [stem for stem, entry in work.ledger.entries.items() if entry.night != work.config.night()]
        changes = _recipe_changes(work) if work.versions and work.version not in work.versions else []
        before = work.ledger.counts(earlier)
        night = Night(date=work.config.night(), version=work.version, begun=began, before=before, recipe_changed=changes)
    night.complete, night.ended, night.alarms, night.why = False, "", [], ""
    record.save(work.store, night)
    return night


def _recipe_changes(work: Work) -> list[str]:
    last = storage.Folder(f"{work.store.url}/{work.versions[-1]}")
    return differences(recipes.known(last) or {}, work.recipe)


def _announce(work: Work, night: Night) -> None:
    found = work.comparison
    console.print(
        f"night {night.date} · version {work.version} · {len(work.listed):,} archives: {len(found.unchanged):,} unchanged, "
        f"{len(found.new):,} new, {len(found.changed):,} rewritten, {len(found.removed):,} removed, {len(found.older):,} older than asked for"
    )
    for line in night.recipe_changed:
        console.print(f"the recipe changed: {line}", markup=False)


def _chosen(work: Work) -> Chosen:
    """What this night takes on. Archives that are left out for their age stay out of the plan."""
    urls = {archive.url: archive.stem for archive in work.listed}
    older = set(work.comparison.older)
    todo = set(work.comparison.todo)
    blobs = [blob for blob in work.blobs if urls[blob.path] not in older]
    return Chosen(work.root, blobs, frozenset(work.comparison.changed), [blob for blob in blobs if urls[blob.path] in todo])


def _enough(config: NightlyConfig, began: float) -> Callable[[Tally], str]:
    def enough(tally: Tally) -> str:
        if config.budget_samples and tally.samples >= config.budget_samples:
            return f"the budget of {config.budget_samples:,} samples is used up"
        if config.budget_hours and time.monotonic() - began >= 3600 * config.budget_hours:
            return f"the budget of {config.budget_hours:g} hours is used up"
        return ""

    return enough


def _account(work: Work, night: Night, run: Run, *, failed: bool) -> int:
    """What the night came to: asked of storage, not remembered. Returns the exit code."""
    after = ledgers.refresh(work.output, work.ledger, night.date)
    ledgers.save(work.output, after)
    made, found = after.made(), work.comparison
    fingerprints = {archive.stem: archive.fingerprint for archive in work.listed}
    done = [stem for stem in found.todo if stem in made and made[stem].fingerprint == fingerprints[stem]]
    waiting = sorted(set(found.todo) - set(done))
    earlier = [stem for stem in found.unchanged if after.entries[stem].night == night.date]  # of a run of this night that died
    tonight = [*done, *earlier]
    night.archives = {
        "listed": len(work.listed),
        "unchanged": len(found.unchanged) - len(earlier),
        "done": len(tonight),
        "waiting": len(waiting),
        "older": len(found.older),
        "new": len(found.new),
        "changed": len(found.changed),
        "removed": len(found.removed),
    }
    shards = {archive.stem: archive.shard for archive in work.listed}
    kinds: tuple[tuple[str, Sequence[str]], ...] = (
        ("new", found.new),
        ("changed", found.changed),
        ("removed", found.removed),
        ("waiting", waiting),
    )
    night.names = {kind: [shards.get(stem, stem) for stem in stems[:NAMES_SHOWN]] for kind, stems in kinds}
    night.after, night.tonight = after.counts(), after.counts(tonight)
    figures = _figures(work, night, run, tonight)
    night.figures = asdict(figures)
    before = record.figures_of(record.before(work.store, night.date), work.version)
    night.alarms = [asdict(alarm) for alarm in alarms(figures, before, work.config.drift)]
    night.complete = not waiting and not failed
    night.ended = f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"
    unfinished = failed or (waiting and not night.why)
    night.exit_code = 1 if unfinished else DRIFTED if night.alarms else 0
    return night.exit_code


def _figures(work: Work, night: Night, run: Run, tonight: list[str]) -> Figures:
    samples = sum(night.tonight.values())
    captions = measure(work.output, tonight)
    speed = None
    if run.tally.first_s is not None:
        taken = sum(count for name, count in run.tally.counts.items() if name.endswith(f":{TAKEN_OVER}"))
        night.taken_over += taken
        spent_s = run.tally.elapsed_s - run.tally.first_s
        if run.tally.samples - taken >= work.config.drift.min_samples and spent_s > 0:
            speed = (run.tally.samples - taken) / spent_s
    known = len(work.ledger.entries)
    return Figures(
        samples=samples,
        rejected=night.tonight.get("rejected", 0) / samples if samples else None,
        length=captions.length,
        length_error=captions.length_error,
        captions=captions.captions,
        duplicates=captions.duplicates,
        samples_per_s=speed,
        removed=len(work.comparison.removed) / known if known else None,
    )


def since_s(text: str, now_s: float) -> float:
    """Seconds since the epoch of `2026-11-20`, `36h`, `7d`; 0 for no bound. RequestError for anything else."""
    if not text:
        return 0.0
    age = re.fullmatch(r"(\d+(?:\.\d+)?)([hd])", text.strip())
    if age is not None:
        return now_s - float(age[1]) * (3600 if age[2] == "h" else 86_400)
    try:
        moment = datetime.fromisoformat(text.strip())
    except ValueError as exc:
        raise RequestError(f"--since {text!r} is neither a date such as 2026-11-20 nor an age such as 36h or 7d") from exc
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
