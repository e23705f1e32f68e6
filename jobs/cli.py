"""The command line: one sub-command a job; exit codes 0 done, 1 unfinished, 2 the request was wrong."""

import sys
from collections.abc import Sequence
from dataclasses import is_dataclass
from importlib.metadata import version
from typing import get_args, get_type_hints

from cyclopts import App, CycloptsError, Parameter
from cyclopts.config import Yaml
from rich.console import Console

from jobs.caption import CaptionConfig
from jobs.check import CheckConfig
from jobs.dedup import DedupConfig
from jobs.demo import DemoConfig
from jobs.evaluate import EvaluateConfig
from jobs.jobfile import Lines, Names, job_file, names_of, placed, read
from jobs.merge import MergeConfig
from jobs.nightly import NightlyConfig
from jobs.plan import PlanConfig
from jobs.prepare import PrepareConfig
from jobs.remember import RememberConfig
from jobs.replay import ReplayConfig
from jobs.report import ReportConfig
from jobs.shard import ShardConfig
from jobs.submit import SubmitConfig
from jobs.tokenizer import TokenizerJobConfig
from jobs.train import TrainConfig
from pipeline.errors import NightcapError, RequestError

JOB_FILES = ("nightly", "plan")
"""Commands whose first argument is a job's file."""
DONE, UNFINISHED, WRONG, INTERRUPTED = 0, 1, 2, 130

app = App(
    name="nightcap",
    version=version("nightcap"),
    version_flags=["--version"],
    default_parameter=Parameter(consume_multiple=True),  # --take image text
    help="Captions and transcripts for archives of image, audio and video, on Ray. Every sample comes out exactly once: "
    "as a result, or in quarantine with its reason. Kill it anywhere and run the same command again.",
    help_epilogue="Every job takes --config FILE.yaml with the same names as its flags; flags win. Exit codes: 0 done, "
    "1 something is unfinished or damaged, 2 the request was wrong.",
)


@app.command
def caption(config: CaptionConfig) -> int:
    """Caption or transcribe every sample of SHARDS into Parquet.

    SHARDS is a glob, a brace pattern {00000..00099}.tar, a folder, a list file (@shards.txt), or a URL. The same command
    run again continues where the last one ended, however it ended.
    """
    from jobs.caption import run

    return run(config)


@app.command
def shard(config: ShardConfig) -> int:
    """Make WebDataset archives of SOURCE: folder pairs, manifests, known corpora, other archives.

    Media bytes are copied, never encoded anew; the same source gives the same bytes. Rows and files that are no sample are
    rejects, with their reason in OUTPUT/rejects.
    """
    from jobs.shard import run

    return run(config)


@app.command
def prepare(config: PrepareConfig) -> int:
    """Decode, filter, normalise and tokenise SHARDS into Parquet that a trainer reads at full speed, or into WebDataset archives.

    Pictures become JPEGs of one size, recordings mono FLAC at one rate, clips some frames, texts token ids. One table or archive
    a shard; the same command run again continues.
    """
    from jobs.prepare import run

    return run(config)


@app.command
def check(config: CheckConfig) -> int:
    """Read every byte of SHARDS; show fields, sizes, texts, media, duplicates, order and damage. Exit code 1 on any damage.

    --fix DIR writes clean copies of those that have faults, with every sample that could be saved, and DIR/shards.txt, which
    names them and the others: nightcap caption @DIR/shards.txt.
    """
    from jobs.check import run

    return run(config)


@app.command
def dedup(config: DedupConfig) -> int:
    """Find duplicates over all of SHARDS: same bytes, pictures that look the same, texts that read the same.

    Of samples that are alike the first in the order of archives is kept. Give OUTPUT to `nightcap prepare --drop`. Archives that
    are added later change no decision, as long as their names sort behind; run it again with all of them.
    """
    from jobs.dedup import run

    return run(config)


@app.command
def merge(config: MergeConfig) -> int:
    """Put captions back into archives: SHARDS with a new text member, every media byte as it was.

    CAPTIONS is the output folder of nightcap caption. Samples are joined by archive and position, and verified by the hashes
    in the table. Samples without a caption are copied as they are, or left out (--rejected drop). The same command run again continues.
    """
    from jobs.merge import run

    return run(config)


@app.command
def train(config: TrainConfig) -> int:
    """Train a multimodal language model on PREPARED, a folder that nightcap prepare wrote.

    The same command run again continues inside the epoch, however the last one ended, also with another number of workers.
    The model lies in OUTPUT/model: nightcap caption --engine checkpoint --model OUTPUT/model.
    """
    from jobs.train import run

    return run(config)


@app.command
def nightly(config: NightlyConfig) -> int:
    """Caption what is new or changed since the last night: nightcap nightly JOB.yaml.

    JOB.yaml holds the options of nightcap caption and of this command, by their names. OUTPUT holds a folder for each recipe, and
    one page a night in OUTPUT/nights. Exit code 0 done, 1 unfinished, 3 done but unlike the nights before.
    """
    from jobs.nightly import run

    return run(config)


@app.command
def remember(config: RememberConfig) -> int:
    """Give CHECKPOINT a memory of the pictures in PREPARED: its captions also weigh what those that look alike are called.

    Nothing is trained, and texts of a picture that was never trained on become possible. For checkpoints with a frozen, pretrained
    encoder; greedy and beam captions use it, prompts and sampling do not.
    """
    from jobs.remember import run

    return run(config)


@app.command
def plan(config: PlanConfig) -> int:
    """Foretell a night: nightcap plan JOB.yaml. Lints, tries some samples, says time, GPU hours, output, cost, and what holds it up.

    Nothing but OUTPUT/plan.json is written; the night that follows is compared with it. Exit code 1 where it would not go well.
    """
    from jobs.plan import run

    return run(config)


@app.command
def submit(config: SubmitConfig) -> int:
    """Run a night on a Ray cluster: nightcap submit JOB.yaml --address http://head:8265.

    The same night is submitted once; the same command follows it again, and submits it again only after it failed. The exit code is
    the night's own. --status, --logs and --stop speak of the night's latest submission.
    """
    from jobs.submit import run

    return run(config)


@app.command
def replay(config: ReplayConfig) -> int:
    """Run the quarantined samples of an output folder again, after a fix."""
    from jobs.replay import run

    return run(config)


@app.command
def evaluate(config: EvaluateConfig) -> int:
    """Score captions against their references: BLEU, chrF, CIDEr-D, ROUGE-L, WER, CER, each with an interval.

    CAPTIONS is the output folder of nightcap caption. Several captions or references a sample are taken as they are; rows
    without a reference are counted and left out. --against compares two runs sample by sample.

    Or a checkpoint of nightcap train, with --prepared: its captions are scored; perplexity with the right, another's and no
    medium, retrieval, and with --labels classification by probe and zero-shot. A crash costs the bundles in flight.
    """
    from jobs.evaluate import run

    return run(config)


@app.command
def tokenizer(config: TokenizerJobConfig) -> int:
    """Learn a tokenizer from the texts of SHARDS, which are archives or an output folder of nightcap prepare.

    The same texts give the same file. Special tokens are BERT's: [PAD] [UNK] [CLS] [SEP] [MASK].
    """
    from jobs.tokenizer import run

    return run(config)


@app.command
def report(config: ReportConfig) -> int:
    """Make the page of a run from its files: counts, throughput, rejects, distributions, samples with their media.

    One file without anything around it, written beside run.json. Run nightcap evaluate first to have scores on it.
    """
    from jobs.report import run

    return run(config)


@app.command
def demo(config: DemoConfig | None = None) -> int:
    """The whole way on real speech, photographs and emoji that pip installed, training included, on this machine, in minutes."""
    from jobs.demo import run

    return run(config or DemoConfig())


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of the `nightcap` command."""
    tokens = list(sys.argv[1:] if arguments is None else arguments)
    errors = Console(stderr=True, highlight=False, soft_wrap=True)
    files: dict[str, Lines] = {}
    try:
        app.config = _config_files(tokens, files)
        code = app(tokens, exit_on_error=False, print_error=False, result_action="return_value")
    except RequestError as exc:
        errors.print(f"[bold red]nightcap:[/] {_escaped(placed(str(exc), files) if str(exc).startswith('--') else exc)}")
        code = WRONG
    except NightcapError as exc:
        errors.print(f"[bold red]nightcap:[/] {_escaped(exc)}")
        code = UNFINISHED
    except CycloptsError as exc:
        errors.print(f"[bold red]nightcap:[/] {_escaped(placed(str(exc), files))} See nightcap --help.")
        code = WRONG
    except KeyboardInterrupt:
        errors.print("nightcap: interrupted; what was committed stays, and the same command continues from there")
        code = INTERRUPTED
    sys.exit(code or DONE)


def _escaped(exc: Exception | str) -> str:
    from rich.markup import escape

    return escape(str(exc))


def _config_files(tokens: list[str], lines: dict[str, Lines]) -> tuple[Yaml, ...]:
    """Takes `--config FILE` out of the arguments; several may be given, the last wins. Fills `lines` with their keys' lines.

    For the commands that are given a job as a file, that file is one more, and the first.
    """
    files = [tokens.pop(1)] if tokens and tokens[0] in JOB_FILES and not {"--help", "-h"} & set(tokens) and job_file(tokens) else []
    while "--config" in tokens:
        at = tokens.index("--config")
        if at + 1 >= len(tokens):
            raise RequestError("--config needs a file: --config job.yaml")
        files.append(tokens[at + 1])
        del tokens[at : at + 2]
    names = _names(tokens[0]) if files and tokens else None
    for file in files:
        lines[file] = read(file, names)
    return tuple(Yaml(file, must_exist=True, use_commands_as_keys=False) for file in reversed(files))


def _names(command: str) -> Names | None:
    """The keys that the configuration of a command knows; None for what is no command."""
    try:
        function = app[command].default_command
    except KeyError:
        return None
    hint = next(iter(get_type_hints(function).values()), None)
    config = next((one for one in (hint, *get_args(hint)) if isinstance(one, type) and is_dataclass(one)), None)
    return None if config is None else names_of(config)


if __name__ == "__main__":
    main()
