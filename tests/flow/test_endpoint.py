"""A whole `caption` run over a server, as a user starts it:

- pictures, and a clip by segments, come back with prompts, seeds, tokens and flags in their rows; a column that no sample has is refused;
- a server that goes away in the middle stops the run with one line and exit code 1, and the same command ends it, nothing lost or twice.
"""

import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow.parquet as pq
import pytest
from webdataset import TarWriter

from tests.captions.server import MODEL, Bad, Server, completion
from tests.reports.run_folder import picture

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(600)]
KEY = "sk-key-of-the-flow"


def nightcap(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "jobs.cli", "caption", *arguments]
    environment = {**os.environ, "OPENAI_API_KEY": KEY}
    return subprocess.run(command, capture_output=True, text=True, timeout=500, env=environment)


def clip(path: Path) -> bytes:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width = stream.height = 64
        for at in range(50):  # 5 s
            frame = av.VideoFrame.from_ndarray(np.full((64, 64, 3), at * 5, np.uint8))
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path.read_bytes()


def rows_of(folder: Path) -> list[dict[str, Any]]:
    return [row for path in sorted(folder.glob("captions/*.parquet")) for row in pq.read_table(path).to_pylist()]


def test_a_run_over_a_server_that_goes_away_ends_with_the_same_command(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    data = clip(tmp_path / "clip.mp4")
    for shard in range(2):
        with TarWriter(str(tmp_path / f"in/{shard}.tar"), encoder=False) as tar:
            for at in range(40):
                tar.write({"__key__": f"{at:03d}", "jpg": picture(at), "txt": b"x", "json": b'{"title": "T%d"}' % at})
            tar.write({"__key__": "999", "mp4": data, "json": b'{"title": "the clip"}'})
    server = Server(key=KEY)
    out = tmp_path / "out"
    common = (str(tmp_path / "in"), "-o", str(out), "--engine", "endpoint", "--endpoint", server.url, "--model", MODEL)
    common += (
        "--prompts.short",
        "of {json.title}",
        "--prompts.long",
        "all of {json.title}",
        "--segment-s",
        "2",
        "--frames",
        "2",
        "--patience-s",
        "1",
    )
    wrong = nightcap(*common, "--prompts.bad", "{json.titel}")
    assert wrong.returncode == 2 and "json.titel" in wrong.stderr and server.bodies == []

    server.behave = lambda number, body: threading.Thread(target=server.stop).start() if number == 30 else None  # type: ignore[func-returns-value]
    first = nightcap(*common)
    assert first.returncode == 1 and "run the same command again to continue" in first.stderr and "Traceback" not in first.stderr

    again = Server(server.port, key=KEY)
    again.behave = lambda number, body: Bad(200, completion("I'm sorry, I can't help")) if "all of T7'" in str(body) else None
    second = nightcap(*common)
    assert second.returncode == 0, second.stderr
    again.stop()
    rows = rows_of(out)
    assert [(row["shard"], row["index"], row["caption_index"]) for row in rows] == [
        (f"{shard}.tar", index, number) for shard in range(2) for index in range(41) for number in range(2)
    ]
    assert {row["prompt_id"] for row in rows} == {"short", "long"} and all(row["n_prompt_tokens"] for row in rows)
    assert "said of T3 with" in rows[6]["caption"] and "said all of T3 with" in rows[7]["caption"]
    (moving,) = [row for row in rows if row["modality"] == "video" and row["shard"] == "0.tar" and row["prompt_id"] == "short"]
    assert [(round(one["start_s"], 1), round(one["end_s"], 1)) for one in moving["segments"]] == [(0.0, 1.7), (1.7, 3.3), (3.3, 5.0)]
    assert "Frame at 0.4 s" in moving["segments"][0]["text"] and "Frame at 4.5 s" in moving["segments"][2]["text"]
    assert {flag for row in rows for flag in row["flags"]} >= {"refusal"}
    written = "".join(path.read_text(errors="ignore") for path in out.rglob("*") if path.suffix in (".json", ".html"))
    assert KEY not in written + first.stdout + first.stderr + second.stdout + second.stderr
    assert "could not be made" not in first.stdout + second.stdout
    assert "engine busy" in second.stdout and "tokens" in second.stdout
