"""`nightcap shard`: pairs, manifests, corpora and other archives in, WebDataset archives out.

    pieces of the source -> scan (index) -> [scatter -> gather (shuffle)] -> assign -> pack (one archive a task) -> index files

Storage is the truth: a piece is scanned when its receipt exists, an archive is done when it exists, the output when sizes.json does.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Annotated

from cyclopts import Parameter

from jobs.cluster import session
from jobs.display import closing_table, console
from jobs.options import byte_count
from jobs.phases import Phases, execute, finished
from pipeline import storage
from pipeline.commit import recipe as recipes
from pipeline.commit.budget import Budget
from pipeline.commit.plan import expand
from pipeline.errors import RequestError, StoppedError
from pipeline.reports.record import new_run_id, write_record
from pipeline.reports.tally import Tally
from pipeline.shards.download import DownloadConfig
from pipeline.shards.item import Options, Piece
from pipeline.shards.layouts import AUTO, Look, by_name, detect, fingerprint, look_at
from pipeline.shards.listing import local_path
from pipeline.shards.scan import FOLDER as SCANNED

RECIPE_VERSION = 2
"""Raised by hand when the same options would give other archives than before."""


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True, slots=True)
class ShardConfig:
    """Options of `nightcap shard`."""

    source: Annotated[tuple[str, ...], Parameter(negative=())] = field(kw_only=False)
    """Folders, manifests (CSV, TSV, JSONL, Parquet), or archives (globs, brace patterns, @lists). Several are joined in this order."""
    output: Annotated[str, Parameter(alias="-o")]
    """Folder for the archives. Run again with the same folder to continue."""
    layout: str = AUTO
    """pairs, manifest, hf-folder, coco, librispeech, common-voice, kaldi, nemo, webdataset or img2dataset; auto finds out and says why."""
    prefix: str = "shard"
    """Archives are called PREFIX-00000.tar."""
    max_bytes: str = "1GB"
    """Most bytes of an archive; a sample that is larger alone gets one of its own. Where downloads are more, PREFIX-00000_001.tar and so on follow."""
    max_samples: int = 10_000
    """Most samples of an archive."""
    shuffle: Annotated[int, Parameter(allow_leading_hyphen=True)] = -1
    """Seed of a shuffle over all samples, 0 or above; -1 keeps the order of the source."""
    memory: str = "1GiB"
    """What one task may hold of the index while it shuffles; the corpus may be of any size."""
    max_rejects: str = "5%"
    """Rows and samples that cannot be used, above which the run stops: a share such as 5%, or a count."""
    path_column: str = ""
    """Column of a manifest with paths; found by its name if empty, as the others are."""
    url_column: str = ""
    """Column with URLs, which are downloaded."""
    bytes_column: str = ""
    """Column of Parquet with the media themselves."""
    text_column: str = ""
    """Column with the text, or a list of texts."""
    id_column: str = ""
    """Column with ids; a second row with the same id is refused."""
    media_root: str = ""
    """Folder that paths of a manifest start from; empty is the manifest's own."""
    allow_outside: bool = False
    """Take paths and links that lead out of the source folder or --media-root."""
    keep_empty_text: bool = False
    """Keep samples whose text is empty, without a text; otherwise they are rejects."""
    download_concurrency: int = 32
    """Downloads of one archive at a time; several archives are written at once."""
    download_timeout_s: float = 30.0
    """Seconds for one attempt."""
    download_retries: int = 2
    """Further attempts after a time-out, a lost connection or a busy server."""
    max_media_bytes: str = "512MiB"
    """A longer download is a reject."""
    retry_failed: bool = False
    """Write those archives again from which downloads are missing; all of their samples are downloaded again."""
    address: str = ""
    """Ray cluster; without it RAY_ADDRESS, else a Ray on this machine."""
    verbose: bool = False
    """Show Ray's own messages."""

    def __post_init__(self) -> None:
        if not self.source:
            raise RequestError("no source given; name a folder, a manifest or archives: nightcap shard photos --output shards")
        if self.max_samples < 1 or byte_count("--max-bytes", self.max_bytes) < 1:
            raise RequestError(f"--max-samples {self.max_samples} and --max-bytes {self.max_bytes} must be above 0")
        if not self.prefix or not all(c.isascii() and (c.isalnum() or c in "_-") for c in self.prefix):
            raise RequestError(f"--prefix {self.prefix!r} is no plain name; use letters, digits, _ and -")
        if self.shuffle < -1:
            raise RequestError(f"--shuffle {self.shuffle} is no seed; give 0 or above, or leave it out")
        byte_count("--memory", self.memory)
        Budget.parse(self.max_rejects)
        self.downloads()

    def options(self) -> Options:
        """How sources are read."""
        return Options(
            path_column=self.path_column,
            url_column=self.url_column,
            bytes_column=self.bytes_column,
            text_column=self.text_column,
            id_column=self.id_column,
            allow_outside=self.allow_outside,
            media_root=self.media_root,
            keep_empty_text=self.keep_empty_text,
        )

    def downloads(self) -> DownloadConfig:
        """How URLs are downloaded."""
        limit = byte_count("--max-media-bytes", self.max_media_bytes)
        return DownloadConfig(self.download_concurrency, self.download_timeout_s, self.download_retries, limit)


def run(config: ShardConfig) -> int:
    """Looks, scans, orders, writes, reports. Returns the exit code."""
    phases, recipe = prepare(config)
    if finished(phases, retry_failed=config.retry_failed):
        console.print(f"every archive of {config.output} is there; nothing to do")
        return 0
    with session(config.address, verbose=config.verbose):
        problem: StoppedError | None = None
        archives = 0
        try:
            archives = execute(phases)
        except StoppedError as exc:
            problem = exc
    run_id = phases.run_id
    outcome = {"archives": archives, "stopped": str(problem) if problem else None}
    path = write_record(
        phases.store, run_id, job="shard", results="written", config=asdict(config), recipe=recipe, tally=phases.tally, outcome=outcome
    )
    console.print(closing_table(phases.tally, f"run {run_id}", "written"))
    console.print(f"archives   {config.output}   rejects {config.output}/rejects   record {config.output}/{path}")
    if problem is not None:
        raise problem
    return 0


def prepare(config: ShardConfig) -> tuple[Phases, dict[str, object]]:
    """What is to be done, and its recipe. Everything that can be refused is refused here, before Ray starts."""
    options = config.options()
    output = local_path(config.output)
    pieces: list[Piece] = []
    layouts: list[str] = []
    for look in _looks(config):
        _apart(look, output)
        layout, reason = detect(look, options, config.layout)
        console.print(f"{look.root}   layout {layout.name}: {reason}")
        found = list(layout.pieces(look, options))
        if not found:
            raise RequestError(f"{look.root} holds nothing of the layout {layout.name}, which looks for {layout.looks_for}")
        pieces += found
        layouts.append(layout.name)
    problem = storage.writable(output)
    if problem is not None:
        raise RequestError(f"cannot write to --output {config.output}: {problem}")
    store = storage.Folder(output)
    recipe = {
        "job": "shard",
        "recipe_version": RECIPE_VERSION,
        "layouts": layouts,
        "source": fingerprint(pieces),
        "options": asdict(options),
        "prefix": config.prefix,
        "max_bytes": byte_count("--max-bytes", config.max_bytes),
        "max_samples": config.max_samples,
        "shuffle": config.shuffle,
    }
    phases = Phases(
        store=store,
        pieces=pieces,
        options=options,
        downloads=config.downloads(),
        prefix=config.prefix,
        max_bytes=byte_count("--max-bytes", config.max_bytes),
        max_samples=config.max_samples,
        shuffle=config.shuffle,
        memory_bytes=byte_count("--memory", config.memory),
        max_rejects=config.max_rejects,
        tally=Tally(),
        run_id=new_run_id(),
    )
    return phases, recipes.guard(store, recipe, SCANNED)


def _looks(config: ShardConfig) -> Iterator[Look]:
    """Each source at a glance; patterns and lists are archives."""
    by_name(config.layout) if config.layout != AUTO else None
    for given in config.source:
        if given.startswith("@") or any(mark in given for mark in "*?{") or "::" in given:
            root, blobs = expand([given])
            yield Look(root, archives=tuple(blobs))
        else:
            yield look_at(given)


def _apart(look: Look, output: str) -> None:
    """Refuses an output that would be read as a part of its source."""
    if not look.archives and not look.single and (output + "/").startswith(look.root.rstrip("/") + "/"):
        raise RequestError(f"--output {output} lies inside the source {look.root}; put it elsewhere")
