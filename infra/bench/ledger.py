"""What a night costs before anything is done: the ledger loaded, compared with a listing, and saved, without opening a table.

ledger.py [archives]
"""

import sys
import tempfile
import time

import psutil

from pipeline import storage
from pipeline.commit.plan import inputs
from pipeline.nights import ledger as ledgers
from pipeline.nights.compare import compare
from pipeline.storage import Blob


def main() -> None:
    """CPU seconds by step, and memory."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 100_000
    before = psutil.Process().memory_full_info().uss
    with tempfile.TemporaryDirectory() as name:
        store = storage.Folder(name)
        blobs = [Blob(f"s3://bucket/corpus/{at // 1000:04d}/{at:07d}.tar", 10**9 + at, 1.7e9 + at) for at in range(count)]
        began = time.process_time()
        listed = inputs(blobs, "s3://bucket/corpus")
        print(f"{count:,} archives: inputs {time.process_time() - began:.2f} s")
        entries = {one.stem: ledgers.Entry(one.stem, 10**6, 1.8e9, one.fingerprint, {"success": 10_000}, "2026-01-01") for one in listed}
        began = time.process_time()
        ledgers.save(store, ledgers.Ledger(entries))
        print(f"save {time.process_time() - began:.2f} s, {storage.stat(name + '/' + ledgers.PATH).size / 2**20:.1f} MiB")  # type: ignore[union-attr]
        began = time.process_time()
        known = ledgers.load(store)
        print(f"load {time.process_time() - began:.2f} s")
        began = time.process_time()
        found = compare(listed, known.made())
        assert len(found.unchanged) == count
        print(f"compare {time.process_time() - began:.2f} s; memory +{(psutil.Process().memory_full_info().uss - before) / 2**20:.0f} MiB")


if __name__ == "__main__":
    main()
