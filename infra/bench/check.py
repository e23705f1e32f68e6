"""`check.py [ARCHIVES]`: `check` against `sha256sum` (bound 0.8), `check --no-hash` against `cat` (bound 0.5), two processes, warm cache."""

import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from corpus import interleaved, seconds, show, write_tar

from jobs import check
from jobs.cluster import session

SHARDS, SAMPLES, PAYLOAD_BYTES, ROUNDS, PROCESSES = 16, 4_000, 64 << 10, 2, 2


def main() -> None:
    """About 4 GB; the same archive several times, which neither side can profit from."""
    shards = int(sys.argv[1]) if len(sys.argv) > 1 else SHARDS
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        payload = np.random.default_rng(0).bytes(PAYLOAD_BYTES + SAMPLES)
        members = (
            (f"{at:06d}.{field}", data)
            for at in range(SAMPLES)
            for field, data in (("jpg", payload[at : at + PAYLOAD_BYTES]), ("txt", b"reference"))
        )
        write_tar(folder / "000000.tar", members)
        for at in range(1, shards):
            shutil.copy(folder / "000000.tar", folder / f"{at:06d}.tar")
        files = sorted(str(path) for path in folder.glob("*.tar"))
        size = sum(Path(path).stat().st_size for path in files) / 1e6

        def shell(tool: str) -> float:
            command = ["xargs", "-n", "1", "-P", str(PROCESSES), tool]
            return size / seconds(lambda: subprocess.run(command, input="\n".join(files), text=True, stdout=subprocess.DEVNULL, check=True))

        def ours(hashes: bool) -> float:
            config = check.CheckConfig((str(folder),), hash=hashes)
            return size / seconds(lambda: list(check._surveys(files, config)))

        began = time.monotonic()
        with session("", verbose=False):
            print(f"Ray start, apart: {time.monotonic() - began:.1f} s; {size:,.0f} MB", flush=True)
            ours(False)
            for tool, hashes in (("sha256sum", True), ("cat", False)):
                name = "check" if hashes else "check --no-hash"
                works = {name: lambda hashes=hashes: ours(hashes), tool: lambda tool=tool: shell(tool)}
                figures = interleaved(works, ROUNDS)
                show(figures, "MB/s")
                show({f"{name} / {tool}": [a / b for a, b in zip(*figures.values(), strict=True)]}, "")


if __name__ == "__main__":
    main()
