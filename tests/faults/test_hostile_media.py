"""Samples that their decoder does not survive, in a whole run with limits for one sample.

One that hangs, and some that swallow memory (in Python, in torch, and in the block that is already guarded because of the
hang), are rejected with their reason and their bytes. Every other sample has the caption of an undisturbed run, the
rejects are within the budget, and the exit code is 0.
"""

import hashlib
import io
import json
import tarfile
from typing import Any

import pytest

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(300)]

DECODER = """
import hashlib, json, pathlib, time
import torch
from pipeline.samples.decode import decode as default

HOSTILE = json.loads((pathlib.Path(__file__).parent / "hostile.json").read_text())

def decode(data, field, needs):
    kind = HOSTILE.get(hashlib.sha256(data).hexdigest())
    held = []
    while kind == "hangs":
        time.sleep(1)
    while kind == "swallows":
        held.append(bytearray(16 << 20))
    while kind == "swallows in torch":
        held.append(torch.zeros(16 << 20, dtype=torch.uint8))
    yield from default(data, field, needs)
"""
HOSTILE = {"b-003": "hangs", "b-021": "swallows", "c-011": "swallows", "d-000": "swallows in torch"}


def test_samples_that_hang_or_swallow_memory_cost_themselves_alone(corpus: Any, undisturbed: dict[str, Any]) -> None:
    media = {}
    for key in HOSTILE:
        with tarfile.open(corpus.path / f"shards/{key[0]}.tar") as tar:
            media[key] = (tar.extractfile(f"{key}.png") or io.BytesIO()).read()
    (corpus.path / "hostile.json").write_text(json.dumps({hashlib.sha256(media[key]).hexdigest(): kind for key, kind in HOSTILE.items()}))
    (corpus.path / "hostile.py").write_text(DECODER)
    printed = corpus.caption("output", "--decoder", "hostile:decode", "--sample-timeout-s", "4", "--sample-memory", "256MiB")
    found = corpus.by_key("output")
    reasons = {key: row["reason"] for key, row in found.items() if row["status"] != "success"}
    assert reasons == {key: "hung" if kind == "hangs" else "too_much_memory" for key, kind in HOSTILE.items()}
    expected = {row["key"]: row for table in undisturbed.values() for row in table.to_pylist()}
    assert {key: row for key, row in found.items() if key not in HOSTILE} == {k: row for k, row in expected.items() if k not in HOSTILE}
    assert {key: (found[key]["index"], found[key]["sample_sha256"]) for key in HOSTILE} == {
        key: (expected[key]["index"], expected[key]["sample_sha256"]) for key in HOSTILE
    }
    kept = {row["key"]: row for name in "bcd" for row in corpus.quarantine("output", name)}
    assert {key: {member["name"]: member["bytes"] for member in row["members"]}[f"{key}.png"] for key, row in kept.items()} == media
    assert kept["b-003"]["detail"] == "did not end within 4 s" and kept["c-011"]["detail"] == "asked for more than 256 MiB"
    assert "too_much_memory" in printed and "hung" in printed
    assert corpus.leftovers("output") == []
