"""`prepare` in steady state against hand-written loops with the same codecs, and against what users would take instead.

    python infra/bench/prepare.py pictures|steady|cpu|audio|video|others|steps|audio_core|video_core|memory|large [tokenizer folder]

Workers of both sides are warm: the first round of each is not counted. Both write Parquet. Samples a second on all cores.
"""

import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from multiprocessing import get_context
from multiprocessing.pool import Pool
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import cputime
import loops
from corpus import interleaved, show, write_pictures, write_tar
from media import recordings, videos
from peaks import peaks
from photographs import write_photographs

from jobs import prepare
from jobs.cluster import ONE_OPERATOR_CPUS, session
from jobs.run import execute
from pipeline.samples.chain import ChainConfig
from pipeline.samples.frames import FramesConfig
from pipeline.samples.tokens import TokenizerConfig

CORES = os.cpu_count() or 1
ROUNDS = 3


def nightcap(folder: Path, chain: ChainConfig) -> Callable[[], float]:
    """Samples a second of one whole execution into a fresh output, Ray's start apart."""

    def once() -> float:
        output = tempfile.mkdtemp(dir=folder, prefix="output-")
        job = prepare.plan(prepare.PrepareConfig((str(folder / "shards"),), output=output, chain=chain))
        began = time.perf_counter()
        execute(job.run, prepare.steps_of(job))
        spent = time.perf_counter() - began
        assert job.run.tally.rejected == 0, job.run.tally.counts
        once.seconds = job.run.tally.seconds  # type: ignore[attr-defined]
        shutil.rmtree(output)
        return job.run.tally.samples / spent

    return once


@contextmanager
def pool() -> Iterator[Pool]:
    """As many processes as cores, one thread each."""
    with get_context("spawn").Pool(CORES, initializer=loops.one_thread) as made:
        yield made


def by_hand(folder: Path, made: Pool, work: Callable[[tuple[str, str, str]], int], tokenizer: str) -> Callable[[], float]:
    """Samples a second of the loop, one shard a call."""

    def once() -> float:
        output = Path(tempfile.mkdtemp(dir=folder, prefix="loop-"))
        jobs = [(str(path), str(output / f"{path.stem}.parquet"), tokenizer) for path in sorted((folder / "shards").glob("*.tar"))]
        began = time.perf_counter()
        samples = sum(made.imap_unordered(work, jobs))
        spent = time.perf_counter() - began
        shutil.rmtree(output)
        return samples / spent

    return once


def compared(folder: Path, chain: ChainConfig, work: Any, tokenizer: str = "") -> None:
    """Both, A B A B, after a round that is not counted."""
    with session("", verbose=False, cpus=ONE_OPERATOR_CPUS), pool() as made:
        ours = nightcap(folder, chain)
        works = {"prepare": ours, "loop by hand": by_hand(folder, made, work, tokenizer)}
        interleaved(works, 1)
        figures = interleaved(works, ROUNDS)
    show(figures, "samples/s")
    ratios = sorted(a / b for a, b in zip(figures["prepare"], figures["loop by hand"], strict=True))
    print(f"prepare by loop: {' '.join(f'{ratio:.3f}' for ratio in ratios)}; per core {max(figures['prepare']) / CORES:.0f}/s")
    work_s = sum(ours.seconds.values())  # type: ignore[attr-defined]
    print("share of work: " + " · ".join(f"{name} {value / work_s:.1%}" for name, value in ours.seconds.most_common()))  # type: ignore[attr-defined]


def pictures(folder: Path, tokenizer: str) -> None:
    """Decode, shorter side to 256, JPEG, tokens, Parquet."""
    write_photographs(folder / "shards", 6, 500)
    compared(folder, ChainConfig(tokens=TokenizerConfig(tokenizer=tokenizer)), loops.pictures, tokenizer)


def steady(folder: Path, tokenizer: str) -> None:
    """Pictures for so long that start and end weigh little: 16,000 in archives of 128 MB, after 2,000 that are not counted."""
    chain = ChainConfig(tokens=TokenizerConfig(tokenizer=tokenizer))
    write_photographs(folder / "warm" / "shards", 4, 500)
    write_photographs(folder / "shards", 8, 2_000)
    with session("", verbose=False, cpus=ONE_OPERATOR_CPUS), pool() as made:
        for place, rounds in ((folder / "warm", 1), (folder, ROUNDS)):
            works = {"prepare": nightcap(place, chain), "loop by hand": by_hand(place, made, loops.pictures, tokenizer)}
            figures = interleaved(works, rounds)
    show(figures, "samples/s")
    print("prepare by loop: " + " ".join(f"{a / b:.3f}" for a, b in zip(figures["prepare"], figures["loop by hand"], strict=True)))


def cpu(folder: Path, tokenizer: str) -> None:
    """Pictures: processor time of all processes of either side, for a machine that others use as well."""
    write_photographs(folder / "shards", 3, 1_000)
    compared_cpu(folder, ChainConfig(tokens=TokenizerConfig(tokenizer=tokenizer)), loops.pictures, tokenizer)


def compared_cpu(folder: Path, chain: ChainConfig, work: Any, tokenizer: str = "") -> None:
    """Milliseconds a sample of the workers, and of everything beside them; turn by turn, after a round that is not counted."""
    with session("", verbose=False, cpus=ONE_OPERATOR_CPUS), pool() as made:
        works = {"prepare": nightcap(folder, chain), "loop by hand": by_hand(folder, made, work, tokenizer)}
        for number in range(ROUNDS + 1):
            found = {}
            for name, once in works.items():
                before, began = cputime.spent(), time.perf_counter()
                rate = once()
                samples = rate * (time.perf_counter() - began)
                seconds = cputime.between(before, cputime.spent())
                found[name] = {kind: 1000 * value / samples for kind, value in seconds.items()}
            if number:
                ours, loop = found["prepare"], found["loop by hand"]
                print(
                    f"prepare {ours['work']:.3f} ms and {ours['beside']:.3f} beside, loop {loop['work']:.3f} ms: workers "
                    f"{loop['work'] / ours['work']:.3f}, all {loop['work'] / sum(ours.values()):.3f}",
                    flush=True,
                )


def audio(folder: Path, tokenizer: str) -> None:
    """FLAC and MP3 speech at 44.1 kHz -> mono FLAC at 16 kHz."""
    for shard in range(8):
        members = [(f"{at:04d}.{name}", data) for at, (name, data) in enumerate(recordings(30, shard))]
        write_tar(folder / "shards" / f"{shard}.tar", members)
    compared(folder, ChainConfig(), loops.audio)


def video(folder: Path, tokenizer: str) -> None:
    """H.264 clips of 5 s at 640 x 360 -> 8 JPEGs."""
    clips = videos(8)
    for shard in range(8):
        write_tar(folder / "shards" / f"{shard}.tar", [(f"{at:04d}.mp4", clips[at % len(clips)]) for at in range(8)])
    compared(folder, ChainConfig(frames=FramesConfig(n_frames=8)), loops.video)


def others(folder: Path, tokenizer: str) -> None:
    """Ray's own reader with a row-wise PIL map, webdataset's loader with the same codec, and Daft where DAFT_PYTHON names one."""
    chain = ChainConfig(tokens=TokenizerConfig(tokenizer=tokenizer))
    write_photographs(folder / "warm" / "shards", 4, 125)
    write_photographs(folder / "shards", 8, 500)
    with session("", verbose=False, cpus=ONE_OPERATOR_CPUS):
        for place, rounds in ((folder / "warm", 1), (folder, 2)):
            works = {
                "prepare": nightcap(place, chain),
                "ray.data.read_webdataset": partial(loops.naive_ray, place, tokenizer),
                "webdataset loader": partial(loops.webdataset_loader, place, tokenizer, CORES),
            }
            if python := os.environ.get("DAFT_PYTHON"):
                works["Daft"] = partial(loops.daft, place, python)
            figures = interleaved(works, rounds)
    show(figures, "samples/s")
    for name in list(works)[1:]:
        print(f"prepare by {name}: {' '.join(f'{a / b:.2f}' for a, b in zip(figures['prepare'], figures[name], strict=True))}")


def steps(folder: Path, tokenizer: str) -> None:
    """Pictures of one shard, without Ray: the codecs alone as well."""
    write_photographs(folder / "shards", 1, 500)
    path = str(folder / "shards/00000.tar")
    more = {"codecs alone, CPU time": lambda: loops.codecs(path)}
    one_core(folder, path, 500, ChainConfig(tokens=TokenizerConfig(tokenizer=tokenizer)), loops.pictures, tokenizer, more)


def audio_core(folder: Path, tokenizer: str) -> None:
    """FLAC and MP3 speech, without Ray."""
    path = folder / "0.tar"
    write_tar(path, [(f"{at:04d}.{name}", data) for at, (name, data) in enumerate(recordings(30, 0))])
    one_core(folder, str(path), 30, ChainConfig(), loops.audio)


def video_core(folder: Path, tokenizer: str) -> None:
    """H.264 clips, without Ray."""
    path, clips = folder / "0.tar", videos(4)
    write_tar(path, [(f"{at:04d}.mp4", clips[at % len(clips)]) for at in range(8)])
    one_core(folder, str(path), 8, ChainConfig(frames=FramesConfig(n_frames=8)), loops.video)


def one_core(
    folder: Path,
    path: str,
    samples: int,
    chain: ChainConfig,
    work: Any,
    tokenizer: str = "",
    more: dict[str, Callable[[], float]] | None = None,
) -> None:
    """CPU time of one core, ours and the loop's, on one archive without Ray."""
    from pipeline.commit.prepared import WriteConfig, write_shard
    from pipeline.samples.chunks import ShardTask
    from pipeline.samples.guard import Limits
    from pipeline.samples.prepare import Preparation
    from pipeline.samples.tokens import Tokenizer

    loops.one_thread()
    output, held = str(folder / "out"), Tokenizer.load(tokenizer) if tokenizer else None
    preparation = Preparation(chain=chain, tokenizer=held, limits=Limits(300.0, 4 << 30), output=output, run_id="bench")
    config = WriteConfig(prepare=preparation, output=output, fetch=lambda *_: [], metadata={})

    def ours() -> float:
        began = time.process_time()
        list(write_shard(ShardTask(path, f"{time.time_ns()}.tar", "f"), config))
        return samples / (time.process_time() - began)

    def bare() -> float:
        began = time.process_time()
        work((path, str(folder / "bare.parquet"), tokenizer))
        return samples / (time.process_time() - began)

    works = {"prepare, CPU time": ours, "loop, CPU time": bare, **(more or {})}
    interleaved(works, 1)
    figures = interleaved(works, 7)
    show(figures, "samples/s")
    ratios = sorted(a / b for a, b in zip(*list(figures.values())[:2], strict=True))
    print("prepare by loop: " + " ".join(f"{ratio:.3f}" for ratio in ratios))


def memory(folder: Path, tokenizer: str) -> None:
    """Peak memory of the largest worker and of the driver, with some and with ten times the archives."""
    grown(folder, tokenizer, {"4 archives of 1,000": (4, 1_000), "40 archives of 1,000": (40, 1_000)})


def large(folder: Path, tokenizer: str) -> None:
    """The same with one archive and with one four times as large; the first one is read in parts and joined already."""
    grown(folder, tokenizer, {"1 archive of 40,000": (1, 40_000), "1 archive of 160,000": (1, 160_000)})


def grown(folder: Path, tokenizer: str, sizes: dict[str, tuple[int, int]]) -> None:
    """Peaks in MiB for both (archives, samples an archive), and their ratio. Small pictures, which keep their bytes."""
    found = []
    for name, (shards, samples) in sizes.items():
        job = folder / str(shards * samples)
        write_pictures(job / "shards", shards, samples, 128)
        command = ["prepare", str(job / "shards"), "-o", str(job / "out"), *(["--tokenizer", tokenizer] if tokenizer else [])]
        found.append(peaks(command))
        print(f"{name}: " + ", ".join(f"{what} {value:.0f}" for what, value in found[-1].items()), flush=True)
    print("ratio: " + ", ".join(f"{what} {found[1][what] / found[0][what]:.3f}" for what in found[0]))


def main() -> None:
    """Runs the one that is named."""
    name, *rest = sys.argv[1:]
    with tempfile.TemporaryDirectory() as folder:
        globals()[name](Path(folder), rest[0] if rest else "")


if __name__ == "__main__":
    main()
