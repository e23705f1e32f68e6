"""A cluster of several nodes on one machine: raylets of their own, CPU nodes that feed "GPU" nodes, one killed and one added on the way.

    nodes.py [samples an archive]

Every node is a `ray start` of its own with its own ports; GPUs are logical, so that the way of a real cluster is taken. Prints
whether the tables of the disturbed run are those of a run that nothing disturbs, and what each took.
"""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pyarrow.parquet as pq
from corpus import write_pictures

HERE = Path(__file__).parent
SHARDS = 8
RAY = str(Path(sys.executable).parent / "ray")
TOKEN = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "only-for-this-bench-only-for-this-bench"}


def free_port() -> int:
    """A port that nobody has now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Nodes:
    """Nodes of one cluster; each is a process group, stopped by its own id."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._port = free_port()
        self._next_worker_port = 30_000
        self.address = f"127.0.0.1:{self._port}"
        self.running: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, name: str, *, cpus: int, gpus: int = 0, head: bool = False) -> None:
        """Starts a node and waits until it has joined."""
        low = self._next_worker_port
        self._next_worker_port += 300
        where = [
            "--head",
            f"--port={self._port}",
            "--include-dashboard=false",
            f"--temp-dir={self._folder}/ray",
            f"--ray-client-server-port={free_port()}",
        ]
        command = [RAY, "start", "--block", "--disable-usage-stats", f"--num-cpus={cpus}", f"--num-gpus={gpus}", f"--node-name={name}"]
        command += ["--object-store-memory=150000000", f"--min-worker-port={low}", f"--max-worker-port={low + 299}"]
        command += [f"--dashboard-agent-listen-port={free_port()}", f"--metrics-export-port={free_port()}"]
        command += where if head else [f"--address={self.address}"]
        log = self._folder / f"{name}.log"
        with log.open("wb") as out:
            self.running[name] = subprocess.Popen(command, stdout=out, stderr=out, start_new_session=True)
        for _ in range(600):
            if b"Ray runtime started" in log.read_bytes():
                return
            if self.running[name].poll() is not None:
                break
            time.sleep(0.2)
        raise SystemExit(f"node {name} did not start:\n{log.read_text()[-2000:]}")

    def kill(self, name: str) -> None:
        """As a machine that loses its power."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.running.pop(name).pid, signal.SIGKILL)

    def stop(self) -> None:
        """All that are left."""
        for name in list(self.running):
            self.kill(name)


def caption(folder: Path, output: str, address: str) -> subprocess.Popen[str]:
    """A run on the cluster, as a process of its own."""
    command = [sys.executable, "-m", "jobs.cli", "caption", str(folder / "shards"), "-o", str(folder / output)]
    command += ["--engine", "engines:Sleeping", "--model", "0,300", "--address", address]
    return subprocess.Popen(command, cwd=HERE.parents[1], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def tables(folder: Path, output: str) -> dict[str, object]:
    """All caption tables."""
    return {
        path.name: pq.read_table(path).replace_schema_metadata(None) for path in sorted((folder / output / "captions").glob("*.parquet"))
    }


def main() -> None:
    """Undisturbed, then disturbed."""
    samples = int(sys.argv[1]) if len(sys.argv) > 1 else 200
    with tempfile.TemporaryDirectory(prefix="nc-") as name:
        folder = Path(name)
        os.environ.update(TOKEN | {"PYTHONPATH": f"{HERE}{os.pathsep}{HERE.parents[1]}", "NIGHTCAP_BENCH_LOG": str(folder / "calls.log")})
        write_pictures(folder / "shards", SHARDS, samples)
        nodes = Nodes(folder)
        try:
            nodes.start("head", cpus=0, head=True)
            for number in (1, 2):
                nodes.start(f"cpu-{number}", cpus=2)
                nodes.start(f"gpu-{number}", cpus=1, gpus=1)
            began = time.monotonic()
            calm = caption(folder, "calm", nodes.address)
            printed = calm.communicate(timeout=300)[0]
            print(f"undisturbed: exit {calm.returncode}, {time.monotonic() - began:.0f} s", flush=True)
            assert calm.returncode == 0, printed[-3000:]
            began = time.monotonic()
            rough = caption(folder, "rough", nodes.address)
            while rough.poll() is None and not list((folder / "rough").glob("captions/*.parquet")):
                time.sleep(0.1)
            done = len(list((folder / "rough").glob("captions/*.parquet")))
            nodes.kill("gpu-1")
            nodes.kill("cpu-2")
            print(f"killed gpu-1 and cpu-2 with {done} of {SHARDS} archives done", flush=True)
            nodes.start("gpu-3", cpus=1, gpus=1)
            nodes.start("cpu-3", cpus=2)
            print("added gpu-3 and cpu-3", flush=True)
            printed = rough.communicate(timeout=400)[0]
            print(f"disturbed: exit {rough.returncode}, {time.monotonic() - began:.0f} s", flush=True)
            assert rough.returncode == 0, printed[-3000:]
            expected, found = tables(folder, "calm"), tables(folder, "rough")
            assert len(expected) == SHARDS and sum(table.num_rows for table in expected.values()) == SHARDS * samples  # type: ignore[attr-defined]
            print("tables are identical" if found == expected else "TABLES DIFFER", flush=True)
            left = [path for name in ("_parts", "_attempts", "_redo") for path in (folder / "rough" / name).rglob("*") if path.is_file()]
            print(f"left over: {len(left)} files", flush=True)
            sys.exit(found != expected or bool(left))
        finally:
            nodes.stop()


if __name__ == "__main__":
    main()
