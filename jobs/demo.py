"""`nightcap demo`: the whole way on real data, on this machine, in minutes; each step by the command that a user would type.

    pairs and manifests -> shard -> check -> caption (Whisper; facts) and prepare -> train -> caption -> scores

Recordings, pictures and weights are files of packages that `make demo` installs; nothing is downloaded here.
"""

import shutil
import time
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from cyclopts import Parameter
from rich.markup import escape
from rich.table import Table

from jobs import material
from jobs.cluster import session
from jobs.display import console
from jobs.installed import package
from jobs.lesson import FAMILIARITY, Exact, Lesson, matches, teach
from pipeline.captions.engine import EngineConfig
from pipeline.errors import RequestError

SHOWN = 8
"""Examples of each kind."""


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True, slots=True)
class DemoConfig:
    """Options of `nightcap demo`."""

    output: str = "demo-output"
    """Folder for everything the demo makes; emptied first if an earlier demo made it."""
    train_minutes: float = 3.0
    """Minutes of training; 0 leaves the training out."""
    verbose: bool = False
    """Show Ray's own messages."""

    def __post_init__(self) -> None:
        if not 0 <= self.train_minutes < 600:
            raise RequestError(f"--train-minutes {self.train_minutes}: give minutes, 0 to below 600")


def run(config: DemoConfig) -> int:
    """Makes archives, checks them, transcribes, describes, trains a captioner and lets it caption; shows all beside references."""
    started_s = time.monotonic()
    output = _fresh(Path(config.output))
    with session("", verbose=config.verbose):
        _say("1 · Make archives of folders (nightcap shard)")
        _archives(output, verbose=config.verbose)
        _say("2 · Check them: every byte is read, damage is named (one is damaged on purpose) (nightcap check)")
        _check(output)
        _say("3 · Transcribe real telephone speech with the real Whisper tiny.en weights (nightcap caption)")
        _caption(output, "speech", EngineConfig(engine="faster-whisper", model=str(package(material.WHISPER) / "model"), language="en"))
        _show_transcripts(_tables(output / "captions/speech/captions"))
        _say("4 · Describe photographs with `facts`, which measures and is no model; see what became of the damaged archive")
        _caption(output, "photos", EngineConfig(engine="facts"))
        _show_quarantine(_tables(output / "captions/photos/captions"), _tables(output / "captions/photos/quarantine"))
        if config.train_minutes:
            _say(
                f"5 · Train a captioner of emoji for {config.train_minutes:g} minutes (nightcap prepare, nightcap train), and let it caption"
            )
            _show_lesson(teach(output, config.train_minutes, verbose=config.verbose))
    _explain(output, time.monotonic() - started_s, trained=config.train_minutes > 0)
    return 0


def _say(text: str) -> None:
    console.rule(f"[bold]{text}", align="left")


def _fresh(output: Path) -> Path:
    marker = output / ".nightcap-demo"
    if output.exists() and any(output.iterdir()) and not marker.exists():
        raise RequestError(f"--output {output} holds other files; name an empty folder for the demo")
    shutil.rmtree(output, ignore_errors=True)
    output.mkdir(parents=True)
    marker.touch()
    return output


def _archives(output: Path, *, verbose: bool) -> None:
    from jobs import shard

    for name, write in (("speech", material.write_speech), ("photos", material.write_photographs)):
        source = output / "sources" / name
        write(source)
        target = str(output / "shards" / name)
        shard.run(shard.ShardConfig(source=(str(source),), output=target, prefix=name, max_samples=13, verbose=verbose))
    good = output / "shards/photos/photos-00000.tar"
    (output / "damaged").mkdir()
    bad = output / "damaged/photos-00001.tar"
    shutil.copyfile(good, bad)
    material.damage(bad)


def _check(output: Path) -> None:
    from jobs import check

    check.run(check.CheckConfig((str(output / "shards/speech/*.tar"), str(output / "shards/photos/*.tar"), str(output / "damaged"))))


def _caption(output: Path, name: str, engine: EngineConfig) -> None:
    from jobs import caption

    archives = [str(output / "shards" / name / "*.tar"), *([str(output / "damaged/*.tar")] if name == "photos" else [])]
    caption.run(caption.CaptionConfig(tuple(archives), output=str(output / "captions" / name), engine=engine, max_rejects="50%"))


def _tables(folder: Path) -> pa.Table:
    return pa.concat_tables([pq.read_table(path) for path in sorted(folder.rglob("*.parquet"))])


def _show_transcripts(captions: pa.Table) -> None:
    from jiwer import wer
    from transformers.models.whisper.english_normalizer import EnglishTextNormalizer

    normal = EnglishTextNormalizer({})
    table = Table("reference", "transcript", title="Speech", title_justify="left")
    pairs = [(row["text"], row["caption"] or "") for row in captions.to_pylist()]
    for reference, caption in pairs[:SHOWN]:
        table.add_row(escape(reference), escape(caption))
    console.print(table)
    scored = [(normal(reference), normal(caption)) for reference, caption in pairs if normal(reference)]
    rate = wer([reference for reference, _ in scored], [caption for _, caption in scored])
    console.print(f"word error rate {rate:.3f} over {len(scored)} utterances (Whisper's English normaliser on both sides)")


def _show_quarantine(captions: pa.Table, quarantine: pa.Table) -> None:
    table = Table("name", "description", title="Photographs", title_justify="left")
    for row in captions.to_pylist()[:SHOWN]:
        table.add_row(escape(row["text"] or row["key"]), escape(row["caption"] or f"{row['status']}: {row['reason']}"))
    console.print(table)
    rejects = Table("shard", "key", "reason", "bytes", "detail", title="Quarantine: what was damaged, and where", title_justify="left")
    for row in quarantine.to_pylist():
        span = f"{row['offset']:,}-{row['offset'] + row['size']:,}"
        rejects.add_row(row["shard"], escape(row["key"] or ""), row["reason"], span, escape(row["detail"] or ""))
    console.print(rejects)


def _show_lesson(lesson: Lesson) -> None:
    table = Table("picture by another artist", "caption", "", title="Captions by the model that was just trained", title_justify="left")
    right = [row for row in lesson.examples if matches(row)][:SHOWN]
    wrong = [row for row in lesson.examples if not matches(row)][:SHOWN]
    for row in right + wrong:
        table.add_row(escape(row["text"]), escape(row["caption"] or ""), "right" if matches(row) else "wrong")
    console.print(table)
    scores = Table("exact names", "share", "95 % interval", "samples", title="Scores on pictures that it never saw", title_justify="left")
    scores.add_row("another artist, names that were trained", *_cells(lesson.new_artist))
    scores.add_row("the trained artist, names never trained", *_cells(lesson.new_name))
    scores.add_row("another artist, the model with a memory of what it was trained on", *_cells(lesson.remembered))
    copied = lesson.copied
    for what, share in (("pooled, 96 px", copied.pooled_96), ("pooled, 224 px", copied.pooled_224), ("grid, 96 px", copied.grid_96)):
        scores.add_row(f"for comparison: copy the nearest neighbour ({what})", f"{share:.1%}", "", f"{lesson.new_artist.samples:,}")
    console.print(scores)
    with_right, shuffled, absent = (lesson.perplexity[name] for name in ("right", "shuffled", "absent"))
    console.print(
        f"Perplexity on the other artist: {with_right:.2f} with the right picture, {shuffled:.1f} with another one, {absent:.1f} with none: "
        f"{shuffled / with_right:.0f} times as much. A copier gets no name that was never trained; nor would the model say many, had not "
        f"each of its 6 beams that is a trained name to pay {FAMILIARITY:g} of its log-probability (nightcap remember --familiarity).",
        soft_wrap=True,
    )
    console.print(
        f"Trained here on {lesson.trained:,} pictures: the decoder's cross-attention, positions, projections and head start random. Not "
        "trained here: the picture features (EfficientNet-lite0, ImageNet), frozen. Started from weights: the first layers and word vectors "
        "of MiniLM (a BERT). Split by hash before any experiment; the recipe was chosen on other pictures than these.",
        soft_wrap=True,
    )


def _cells(exact: Exact) -> tuple[str, str, str]:
    return f"{exact.share:.1%}", f"{exact.low:.1%} to {exact.high:.1%}", f"{exact.samples:,}"


def _explain(output: Path, seconds: float, *, trained: bool) -> None:
    _say(f"Done in {seconds / 60:.1f} minutes. Where it lies")
    lines = [
        f"Archives {output}/shards/*, captions and transcripts {output}/captions/*/captions, one Parquet file an archive. A page about each",
        f"run: {output}/captions/*/runs/*/report.html. Read the captions with",
        f"  python -c \"import pandas; print(pandas.read_parquet('{output}/captions/speech/captions')[['key', 'text', 'caption']])\"",
        f"  duckdb -c \"select key, text, caption from '{output}/captions/*/captions/*.parquet'\"",
    ]
    if trained:
        lines.append(
            f"The model is {output}/model/model, beside it are open (to new names) and remembering: "
            f"nightcap caption YOUR.tar --engine checkpoint --model {output}/model/model -o captions"
        )
    for line in lines:
        console.print(line, soft_wrap=True)
