"""`nightcap check`: reads every byte of every shard, says what is there and what is damaged, and saves what can be saved."""

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass, field
from typing import Annotated, Any

from cyclopts import Parameter

from jobs.check_table import print_account, print_repairs
from jobs.cluster import session
from jobs.display import meter
from jobs.each import on_ray
from jobs.options import byte_count
from pipeline import storage
from pipeline.commit.plan import ShardInput, expand, inputs
from pipeline.errors import RequestError
from pipeline.reports.tally import Tally
from pipeline.samples.account import Survey
from pipeline.samples.group import Sample, read_samples
from pipeline.samples.prints import Gathered, Repeats
from pipeline.samples.survey import Found, Look, survey
from pipeline.shards.listing import local_path
from pipeline.shards.repair import Repaired, repair

IN_FLIGHT_PER_CPU = 2
SHARD_LIST = "shards.txt"


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True, slots=True)
class CheckConfig:
    """Options of `nightcap check`."""

    shards: Annotated[tuple[str, ...], Parameter(negative=())] = field(kw_only=False)
    """Archives: globs, brace patterns, folders, list files (@shards.txt), or URLs."""
    hash: bool = True
    """Hash every payload, which finds samples and media that occur twice; --no-hash reads five times faster."""
    media: bool = True
    """Read texts and the headers of media for lengths, sizes and durations; with --no-hash those of the first samples only."""
    repeats: bool = True
    """Compare samples and keys over all archives; off saves 24 to 72 bytes a sample, on the disk if there are many."""
    max_sample_bytes: str = "512MiB"
    """Samples above this size are reported and not hashed."""
    fix: str = ""
    """Folder for clean copies of the archives that have faults, with what could be saved; the others are left where they are."""
    json: Annotated[bool, Parameter(negative=())] = False
    """Print one JSON object instead of tables."""
    address: str = ""
    """Ray cluster; without it RAY_ADDRESS, else a Ray on this machine."""
    verbose: bool = False
    """Show Ray's own messages."""

    def __post_init__(self) -> None:
        if not self.shards:
            raise RequestError("no shards given; name a folder, a glob or a list file: nightcap check 'data/*.tar'")
        self.look()

    def look(self) -> Look:
        """How closely archives are looked at."""
        limit = byte_count("--max-sample-bytes", self.max_sample_bytes)
        return Look(hashes=self.hash, media=self.media, max_sample_bytes=limit)


@dataclass(slots=True)
class Account:
    """What was found in all archives."""

    survey: Survey = field(default_factory=Survey)
    repeats: dict[str, Repeats] = field(default_factory=dict)
    """By kind: content, media, keys."""
    named: dict[str, list[list[str]]] = field(default_factory=dict)
    """The examples of `repeats` as archive:key."""
    faulty: list[str] = field(default_factory=list)
    """URLs of archives that --fix would write anew."""
    without_media: list[str] = field(default_factory=list)
    """Archives whose media were not looked at, since that killed the process."""

    def to_dict(self) -> dict[str, Any]:
        """As JSON can hold it."""
        found = {name: {**asdict(repeats), "examples": self.named.get(name, [])} for name, repeats in self.repeats.items()}
        return {**self.survey.to_dict(), "repeats": found, "faulty": self.faulty, "without_media": self.without_media}


def run(config: CheckConfig) -> int:
    """Prints the account; 1 if anything is damaged."""
    root, blobs = expand(config.shards)
    shards = inputs(blobs, root)
    _refuse_target(config, root)
    with session(config.address, verbose=config.verbose):
        account = take_account([shard.url for shard in shards], config)
        repaired = _fix(shards, account.faulty, config.fix) if config.fix else None
    if config.json:
        values = account.to_dict()
        if repaired is not None:
            values["fixed"] = [asdict(one) for one in repaired]
        sys.stdout.write(json.dumps(values, ensure_ascii=False) + "\n")
    else:
        print_account(account)
        if repaired is not None:
            print_repairs(repaired, config.fix, len(shards))
    return 1 if account.survey.n_damage else 0


def _refuse_target(config: CheckConfig, root: str) -> None:
    if not config.fix:
        return
    problem = storage.writable(config.fix)
    if problem is not None:
        raise RequestError(f"cannot write to --fix {config.fix}: {problem}")
    if storage.resolve(config.fix) == storage.resolve(root):
        raise RequestError(f"--fix {config.fix} is the folder of the archives, which would be overwritten; name another")


def take_account(urls: Sequence[str], config: CheckConfig) -> Account:
    """Surveys all archives and adds up, in whatever order they come."""
    account, tally = Account(), Tally()
    numbers = {url: number for number, url in enumerate(urls)}
    kinds = (("content", "media", "keys") if config.hash else ("keys",)) if config.repeats else ()
    with ExitStack() as stack:
        gathered = {kind: stack.enter_context(Gathered()) for kind in kinds}
        display = None if config.json else stack.enter_context(meter(len(urls)))
        for found in _surveys(urls, config, account.without_media):
            account.survey.merge(found.survey)
            if found.faulty:
                account.faulty.append(found.url)
            prints, number = found.prints, numbers[found.url]
            for kind, all_of_kind in gathered.items():
                all_of_kind.add(number, getattr(prints, kind), None if kind == "keys" else getattr(prints, f"{kind}_at"))
            tally.shards += 1
            tally.counts["read"] += found.survey.samples
            if display is not None:
                display.show(tally)
        account.repeats = {kind: all_of_kind.repeats(across=kind == "keys") for kind, all_of_kind in gathered.items()}
    account.faulty.sort()
    for kind, repeats in account.repeats.items():
        account.named[kind] = [[_name(urls[place.shard], place.position) for place in group] for group in repeats.examples]
    return account


def _name(url: str, position: int) -> str:
    """archive:key of a sample."""
    with closing(storage.open_reader(url)) as reader:
        for item in read_samples(reader, max_sample_bytes=1 << 62, todo=((position, position),), stop_after=position + 1, load=False):
            if isinstance(item, Sample):
                return f"{url}:{item.key}"
    return f"{url}:{position}"


def _surveys(urls: Sequence[str], config: CheckConfig, without_media: list[str]) -> Iterator[Found]:
    """One task a shard, a bounded number in flight. An archive whose media kill the process is read again without looking at them."""
    import ray
    from ray.exceptions import RayTaskError, WorkerCrashedError

    task = ray.remote(num_cpus=1, max_retries=0)(survey)
    limit = IN_FLIGHT_PER_CPU * max(1, int(ray.cluster_resources().get("CPU", 1)))
    look = config.look()
    bare = Look(hashes=look.hashes, media=False, max_sample_bytes=look.max_sample_bytes)
    waiting: dict[Any, str] = {}
    left = list(reversed(urls))
    while left or waiting:
        while left and len(waiting) < limit:
            url = left.pop()
            waiting[task.remote(url, look)] = url
        done, _ = ray.wait(list(waiting), num_returns=1)
        url = waiting.pop(done[0])
        try:
            yield ray.get(done[0])
        except WorkerCrashedError:
            if not look.media or url in without_media:
                raise
            without_media.append(url)
            waiting[task.options(max_retries=2).remote(url, bare)] = url
        except RayTaskError as exc:
            if isinstance(exc.cause, OSError):
                raise RequestError(f"an archive cannot be read: {exc.cause}") from exc
            raise


def _fix(shards: Sequence[ShardInput], faulty: Sequence[str], target: str) -> list[Repaired]:
    """Writes clean copies of the faulty archives, and a list of archives that together are the clean corpus."""
    store = storage.Folder(local_path(target))  # workers may stand in another folder
    wanted = set(faulty)
    repaired = list(on_ray(repair, ((shard.url, shard.stem, shard.fingerprint, store) for shard in shards if shard.url in wanted)))
    clean = {one.url: f"{store.url}/{one.path}" for one in repaired}
    names = [local_path(clean.get(shard.url, shard.url)) for shard in shards]
    store.put(SHARD_LIST, "".join(f"{name}\n" for name in names).encode())
    return repaired
