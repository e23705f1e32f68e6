"""`check.py [ARCHIVES]`: `check` against `sha256sum` (bound 0.8), `check --no-hash` against `cat` (bound 0.5), all else at its default.

Fair: as many Ray slots as processes, archives a multiple of both, page cache warm for both sides, the workers started.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import ray
from corpus import interleaved, picture, seconds, show, write_tar

from jobs import check

SHARDS, SAMPLES, PICTURE_BYTES, PROCESSES = 12, 4_000, 64 << 10, 2
ROUNDS = {"sha256sum": 3, "cat": 8}


def main() -> None:
    """About 3 GB; the same archive several times, which neither side can profit from."""
    shards = int(sys.argv[1]) if len(sys.argv) > 1 else SHARDS
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _write(folder, shards)
        files = sorted(str(path) for path in folder.glob("*.tar"))
        size = sum(Path(path).stat().st_size for path in files) / 1e6

        def shell(tool: str) -> float:
            command = ["xargs", "-n", "1", "-P", str(PROCESSES), tool]
            return size / seconds(lambda: subprocess.run(command, input="\n".join(files), text=True, stdout=subprocess.DEVNULL, check=True))

        def ours(hashes: bool) -> float:
            return size / seconds(lambda: check.take_account(files, check.CheckConfig((str(folder),), hash=hashes, json=True)))

        began = time.monotonic()
        os.environ["RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"] = "0"
        ray.init(address="local", num_cpus=PROCESSES, include_dashboard=False, log_to_driver=False)
        print(f"Ray start, apart: {time.monotonic() - began:.1f} s; {shards} archives, {size:,.0f} MB, {PROCESSES} processes", flush=True)
        ours(False)
        for tool, hashes in (("sha256sum", True), ("cat", False)):
            shell(tool)
            name = "check" if hashes else "check --no-hash"
            works = {name: lambda hashes=hashes: ours(hashes), tool: lambda tool=tool: shell(tool)}
            figures = interleaved(works, ROUNDS[tool])
            show(figures, "MB/s")
            show({f"{name} / {tool}": [a / b for a, b in zip(*figures.values(), strict=True)]}, "")
        ray.shutdown()


def _write(folder: Path, shards: int) -> None:
    """Pictures of 64 KiB with real headers, a text beside each."""
    rng = np.random.default_rng(0)
    head = picture(256, 0)[:1024]
    noise = rng.bytes(PICTURE_BYTES + SAMPLES)
    members = (
        (f"{at:06d}.{field}", data)
        for at in range(SAMPLES)
        for field, data in (("jpg", head + noise[at : at + PICTURE_BYTES - len(head)]), ("txt", b"a reference text of one line"))
    )
    write_tar(folder / "000000.tar", members)
    for at in range(1, shards):
        shutil.copy(folder / "000000.tar", folder / f"{at:06d}.tar")


if __name__ == "__main__":
    main()
