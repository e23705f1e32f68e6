"""`nightcap plan JOB.yaml`: a night before it runs: what is wrong, what it will take, what holds it up.

look (as nightly does) -> lint -> some samples of a few archives through the real job, into a folder that is thrown away -> forecast
"""

import hashlib
import json
import math
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import psutil
from cyclopts import Parameter
from rich.table import Table

from jobs import caption
from jobs.cluster import gpus, session
from jobs.display import console
from jobs.nightly import NightlyConfig, Work, look
from jobs.run import Chosen, Run, execute, tasks_of
from pipeline import storage
from pipeline.errors import RequestError, StoppedError
from pipeline.nights.forecast import PATH, Estimate, Forecast, Machine, Trial, digest_of, forecast
from pipeline.samples.chunks import ShardTask
from pipeline.samples.group import Sample, read_samples
from pipeline.samples.unpack import has_gzip_magic

_BIG = 1 << 62


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True, slots=True)
class PlanConfig(NightlyConfig):
    """Options of `nightcap plan`: those of `nightcap nightly`, and these."""

    trial_archives: int = 3
    """Archives that are tried; more narrows the interval."""
    trial_samples: int = 192
    """Samples that are tried, in all."""
    price_per_hour: float = 0.0
    """Of all machines together, in any currency; 0 tells no cost."""
    on_cpus: int = 0
    """CPUs of the cluster that the night will have; 0 is what this Ray has."""
    on_engines: int = 0
    """Engine processes that it will have, one a GPU; 0 is what this Ray has."""

    def __post_init__(self) -> None:
        """Raises RequestError for a value that cannot be meant."""
        NightlyConfig.__post_init__(self)
        for name in ("trial_archives", "trial_samples"):
            if getattr(self, name) < 1:
                raise RequestError(f"--{name.replace('_', '-')} is {getattr(self, name)}; it must be 1 or more")


def run(config: PlanConfig) -> int:
    """Lints, tries, foretells. 1 where the night would not go well."""
    store = storage.Folder(config.output)
    denied = storage.writable(config.output)
    if denied is not None:
        raise RequestError(f"cannot write to --output {config.output}: {denied}")
    work = look(config, store)
    todo = {archive.stem: archive for archive in work.listed if archive.stem in set(work.comparison.todo)}
    console.print(f"{len(work.listed):,} archives · {len(todo):,} to do, {sum(one.size for one in todo.values()) / 1e9:,.2f} GB")
    if not todo:
        console.print("nothing is to be done")
        return 0
    tried = sorted(todo, key=lambda stem: hashlib.sha256(stem.encode(errors="surrogatepass")).digest())[: config.trial_archives]
    urls = {todo[stem].url for stem in tried}
    with tempfile.TemporaryDirectory(prefix="nightcap-plan-") as folder:
        chosen = Chosen(work.root, [blob for blob in work.blobs if blob.path in urls], frozenset())
        trial, machine, reasons = _try(config, chosen, folder)
    found = forecast(trial, [archive.size for archive in todo.values()], machine, config.price_per_hour)
    problems = lint(config, work, found, reasons)
    store.put(PATH, json.dumps({"version": work.version, "stems": digest_of(list(todo)), **found.to_dict()}, indent=1).encode())
    console.print(_table(found, machine))
    for problem in problems:
        console.print(f"[bold red]problem[/] {problem}", soft_wrap=True)
    if problems:
        raise StoppedError(f"the night would not go well: {len(problems)} problems, see above")
    return 0


def _try(config: PlanConfig, chosen: Chosen, folder: str) -> tuple[Trial, Machine, list[tuple[str, int, str]]]:
    """The real job on some samples of each archive, into `folder`."""
    settings = replace(config.captions(folder), max_rejects="100%")
    job = caption.prepare(settings, chosen=chosen)
    each = math.ceil(config.trial_samples / max(1, len(job.run.plan.open)))
    tasks, archives = _limited(job.run, each)
    steps = replace(caption.steps_of(job), tasks=lambda: tasks)
    arrivals: list[tuple[float, int]] = []
    job.run.tally.started_s = time.monotonic()  # the start of Ray is part of a night's start
    with session(config.address, verbose=config.verbose), _peak_memory() as peak:
        execute(job.run, replace(steps, watch=lambda receipt: arrivals.append((job.run.tally.elapsed_s, job.run.tally.samples))))
        devices = gpus()
        import ray

        cpus = int(ray.cluster_resources().get("CPU", 1))
    tally = job.run.tally
    engines = config.workers or max(1, devices // job.info.devices)
    if not arrivals:
        raise StoppedError("the trial gave nothing: its archives hold no samples; raise --trial-archives")
    (first_s, first), (last_s, last) = arrivals[0], arrivals[-1]
    trial = Trial(
        archives=tuple(archives),
        samples=tally.samples,
        startup_s=first_s,
        steady_s=last_s - first_s,
        steady_samples=last - first,
        decode_s=tally.seconds["read and decode"],
        collate_s=tally.seconds["collate"],
        engine_s=tally.seconds["engine"],
        output_bytes=sum(
            path.stat().st_size for name in ("captions", "quarantine", "_parts") for path in Path(folder, name).rglob("*.parquet")
        ),
        memory_bytes=peak[0],
        rejected=tally.rejected,
        engines=engines,
    )
    physical = min(cpus, os.cpu_count() or 1) if not config.address else cpus
    machine = Machine(
        cpus=config.on_cpus or physical, engines=config.on_engines or engines, gpus=config.on_engines if config.on_engines else devices
    )
    return trial, machine, [(reason, count, _example(job.run, reason)) for reason, count in tally.reasons()]


def _limited(run: Run, each: int) -> tuple[list[ShardTask], list[tuple[int, int]]]:
    """Tasks that stop after some samples, and how many bytes each of them reads for how many."""
    tasks, archives = [], []
    for task in tasks_of(run):
        with closing(_Counting(storage.open_reader(task.url))) as reader:
            packed, count, end = has_gzip_magic(reader), 0, 0
            for sample in read_samples(reader, packed=packed, max_sample_bytes=_BIG, only=frozenset(), stop_after=each):
                if isinstance(sample, Sample):
                    count, end = count + 1, sample.offset + sample.size
            archives.append((reader.reached if packed else end, count))
        tasks.append(replace(task, stop_after=each if count >= each else None))
    return tasks, archives


class _Counting:
    """A reader that remembers how far it was read: of a packed archive, how many of its bytes hold the samples seen."""

    def __init__(self, reader: storage.Reader) -> None:
        self._reader = reader
        self.size = reader.size
        self.reached = 0

    def read_into(self, offset: int, view: memoryview) -> int:
        """As `storage.Reader` does."""
        count = self._reader.read_into(offset, view)
        self.reached = max(self.reached, offset + count)
        return count

    def close(self) -> None:
        """Releases the handle."""
        self._reader.close()


def _example(run: Run, reason: str) -> str:
    shard, key, detail = (run.tally.examples.get(reason) or [["", "", ""]])[0]
    return f"{shard}:{key} {detail}"


@contextmanager
def _peak_memory() -> Iterator[list[int]]:
    """Fills in the largest sum of memory of this process and those below it, in bytes, while the body runs."""
    peak, done = [0], threading.Event()

    def look_on() -> None:
        me = psutil.Process()
        while not done.wait(0.5):
            total = 0
            for process in [me, *me.children(recursive=True)]:
                try:
                    total += process.memory_info().rss - process.memory_info().shared
                except (psutil.Error, AttributeError):
                    continue
            peak[0] = max(peak[0], total)

    watcher = threading.Thread(target=look_on, daemon=True)
    watcher.start()
    try:
        yield peak
    finally:
        done.set()
        watcher.join()


def lint(config: PlanConfig, work: Work, found: Forecast, reasons: Sequence[tuple[str, int, str]]) -> list[str]:
    """What would keep the night from going well, one line each."""
    problems = []
    allowed = config.max_rejects.strip()
    if allowed.endswith("%") and found.rejected > float(allowed[:-1]) / 100:
        shown = "; ".join(f"{reason} {count:,} ({example.strip()})" for reason, count, example in reasons[:3])
        problems.append(f"{found.rejected:.1%} of the trial's samples were rejected, more than --max-rejects {allowed} allows: {shown}")
    if storage.is_local(work.store.url):
        free = shutil.disk_usage(work.store.url).free
        if found.output_bytes.high > free:
            problems.append(
                f"{work.store.url} has {free / 1e9:,.1f} GB free, the night writes up to {found.output_bytes.high / 1e9:,.1f} GB"
            )
    if not config.address and found.memory_bytes > 0.9 * psutil.virtual_memory().total:
        problems.append(f"the trial took {found.memory_bytes / 1e9:,.1f} GB of memory, nearly all there is; fewer --workers take less")
    if config.budget_hours and found.seconds.low > 3600 * config.budget_hours:
        problems.append(
            f"it takes {found.seconds.low / 3600:,.1f} hours or more, --budget-hours gives {config.budget_hours:g}: it goes on the next night"
        )
    return problems


def _table(found: Forecast, machine: Machine) -> Table:
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(style="bold")
    table.add_column(justify="right")
    table.add_column()

    def row(name: str, estimate: Estimate, form: str, unit: str) -> None:
        table.add_row(name, form.format(estimate.value), f"{unit} ({form.format(estimate.low)} to {form.format(estimate.high)})")

    row("samples", found.samples, "{:,.0f}", "")
    row(
        "time",
        found.seconds.times(1 / 3600) if found.seconds.value > 5400 else found.seconds,
        "{:,.1f}",
        "h" if found.seconds.value > 5400 else "s",
    )
    if machine.gpus:
        row("GPU hours", found.gpu_hours, "{:,.2f}", "")
    row("output", found.output_bytes.times(1e-6), "{:,.2f}", "MB")
    if found.cost is not None:
        row("cost", found.cost, "{:,.2f}", "")
    table.add_row("memory", f"{found.memory_bytes / 1e9:,.2f}", "GB in the trial, all processes of this machine")
    table.add_row("rejected", f"{found.rejected:.1%}", "of the trial's samples")
    needed = "a GPU" if machine.gpus else "an engine"
    table.add_row(
        "held up by",
        found.bottleneck,
        f"{found.cpus_per_engine:,.2f} CPU workers keep {needed} busy; there are {machine.cpus / machine.engines:,.1f}",
    )
    return table
