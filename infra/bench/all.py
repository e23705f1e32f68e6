"""Runs every measurement in turn, each in its own process; 1 if one of them failed."""

import subprocess
import sys
from pathlib import Path

BENCHES = ("reader", "decode", "planning", "engine", "check", "memory", "shard", "large", "whisper", "train")


def main() -> int:
    """One after the other: they would disturb each other."""
    failed = []
    for name in BENCHES:
        print(f"== {name}", flush=True)
        if subprocess.run([sys.executable, str(Path(__file__).with_name(f"{name}.py"))], check=False).returncode:
            failed.append(name)
    if failed:
        print(f"failed: {', '.join(failed)}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
