"""`nightcap shard` and `nightcap merge` on a disk that fills up, and with workers that are killed:

- a full disk ends either with exit code 1 and one line that says what to do; with more room the same command finishes;
- a worker that dies while it packs or merges costs its archive a second attempt, and nothing else;
- in the end the bytes are those of undisturbed runs, and nothing temporary is left.
"""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.faults.test_full_disk import ALONE, disk
from tests.faults.test_shard_kill import ROOT

__all__ = ["disk"]

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(300)]

RUNS = """
import os, pathlib, signal, subprocess, sys, threading, time
import pyarrow as pa, pyarrow.parquet as pq
from jobs.cli import main
from jobs.cluster import session
from pipeline import schema
from pipeline.samples.group import EndOfShard, hashes_of, read_samples
from pipeline.storage import Folder, open_reader

source, disk, plain = map(pathlib.Path, sys.argv[1:])

def run(name, *arguments):
    try:
        main([str(one) for one in arguments])
    except SystemExit as ended:
        print(f"{name} ended with {ended.code}", flush=True)

def title(pid):
    try:
        return pathlib.Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""

def kill(task, over):
    # A task takes some milliseconds: what the kernel shows is looked at without a pause. Other Rays' workers see another mount table.
    own = os.readlink("/proc/self/ns/mnt")
    while not over.is_set():
        for pid in filter(str.isdigit, os.listdir("/proc")):
            if title(pid).startswith(f"ray::{task}".encode()) and os.readlink(f"/proc/{pid}/ns/mnt") == own:
                os.kill(int(pid), signal.SIGKILL)
                print("killed", task, flush=True)
                return

def killing(task, *arguments):
    over = threading.Event()
    thread = threading.Thread(target=kill, args=(task, over))
    thread.start()
    run(f"killed {task}", *arguments)
    over.set()
    thread.join()

def shard(folder):
    return "shard", source, "-o", folder, "--max-samples", 800, "--shuffle", 1

def merge(folder):
    return "merge", plain / "shards", plain / "captions", "-o", folder

def caption(folder, to):
    # Tables as nightcap caption writes them, without an engine.
    store = Folder(str(to))
    for path in sorted(folder.glob("*.tar")):
        rows = []
        for item in read_samples(open_reader(str(path)), max_sample_bytes=1 << 30):
            if not isinstance(item, EndOfShard):
                hashes = hashes_of(item.fields)
                rows.append({"key": item.key, "shard": path.name, "index": item.index, "sample_sha256": hashes.sample,
                    "media_sha256": hashes.members["jpg"], "modality": "image", "prompt_id": "default", "caption_index": 0,
                    "caption": f"new {item.key}", "status": "success"})
        table = pa.Table.from_pylist([{name: row.get(name) for name in schema.CAPTIONS.names} for row in rows])
        (to / "captions").mkdir(parents=True, exist_ok=True)
        pq.write_table(table, to / "captions" / f"{path.stem}.parquet")
    store.put("recipe.json", ('{"root": "%s"}' % folder).encode())

def mount(options):
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", disk], check=True)

with session("local", verbose=False):
    run("plain shard", *shard(plain / "shards"))
    caption(plain / "shards", plain / "captions")
    run("plain merge", *merge(plain / "merged"))
    mount("size=1500k")
    run("full shard", *shard(disk / "shards"))
    subprocess.run(["mount", "-o", "remount,size=60m", disk], check=True)
    killing("_pack_counted", *shard(disk / "shards"))
    subprocess.run(["mount", "-o", "remount,size=10m", disk], check=True)
    run("full merge", *merge(disk / "merged"))
    subprocess.run(["mount", "-o", "remount,size=60m", disk], check=True)
    killing("merge", *merge(disk / "merged"))
for name in ("shards", "merged"):
    ours = {path.name: path.read_bytes() for path in (disk / name).iterdir() if path.is_file() and path.name != "recipe.json"}
    theirs = {path.name: path.read_bytes() for path in (plain / name).iterdir() if path.is_file() and path.name != "recipe.json"}
    print(name, len(ours), "equal" if ours == theirs else f"differ: {sorted(ours)} {sorted(theirs)}", flush=True)
print("left", [str(path) for path in disk.rglob(".tmp-*")], flush=True)
"""


def test_full_disks_and_dead_workers_cost_a_second_attempt_and_no_byte(tmp_path: Path, disk: Path) -> None:
    source = tmp_path / "in"
    source.mkdir()
    for number in range(2400):
        (source / f"{number}.jpg").write_bytes(b"\xff\xd8\xff" + number.to_bytes(4, "big") * 100)
        (source / f"{number}.txt").write_text(f"picture {number}")
    script = tmp_path / "runs.py"
    script.write_text(RUNS)
    plain = tmp_path / "plain"
    words = [*ALONE, sys.executable, str(script), str(source), str(disk), str(plain)]
    ran = subprocess.run(
        words,
        cwd=ROOT,
        env={"PATH": shutil.os.environ["PATH"], "PYTHONPATH": str(ROOT), "HOME": str(tmp_path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=280,
        check=False,
    )
    said = ran.stdout
    assert ran.returncode == 0 and "Traceback" not in said, said
    for line in ("plain shard ended with 0", "plain merge ended with 0", "full shard ended with 1", "full merge ended with 1"):
        assert line in said, said
    for line in ("killed _pack_counted\n", "killed _pack_counted ended with 0", "killed merge\n", "killed merge ended with 0"):
        assert line in said, said
    full = [line for line in said.splitlines() if line.startswith("nightcap: ")]
    assert len(full) == 2 and all("no room left while writing" in line and line.endswith("run the same command again") for line in full), (
        said
    )
    assert "shards 5 equal" in said and "merged 5 equal" in said and "left []" in said, said
