"""`runs/<id>/metrics.jsonl`: what happened when, a JSON object a line by `kind`, for plots, pages and the driver's display.

    start       step, precision {encoder, text}, trial_s {encoder, text: {float32, bfloat16}}, origins [lines]; once a worker group
    step        step, samples, epoch, done 0..1, seconds (of training so far), loss {objective}, learning_rate, gradient (longest
                before clipping), samples_per_s, steps_per_s, waiting 0..1 (for data), eta_s or null; every few seconds, of these seconds
    validation  step, done, samples, loss {objective}, perplexity {right, shuffled, absent}, best (so far), seconds,
                captions [{shard, index, reference, caption}]

After a crash `step` may go back to the checkpoint. On a disk lines are appended; an object store gets the whole file again, at
most every `STORE_EVERY_S`.
"""

import json
import math
import time
from pathlib import Path
from typing import Any

from pipeline.storage import Folder, is_local, resolve

STORE_EVERY_S = 20.0


def metrics_path(run_id: str) -> str:
    """Below the output folder."""
    return f"runs/{run_id}/metrics.jsonl"


class MetricsLog:
    """Where the first worker writes. With `tensorboard` also event files beside it."""

    def __init__(self, store: Folder, run_id: str, *, tensorboard: bool) -> None:
        self._store, self._path = store, metrics_path(run_id)
        self._local = Path(resolve(store.url)[1]) / self._path if is_local(store.url) else None
        self._lines: list[str] = []
        self._sent_s = 0.0
        self._board = _board(self._local.parent / "tensorboard") if tensorboard and self._local is not None else None
        if self._local is not None:
            self._local.parent.mkdir(parents=True, exist_ok=True)

    def write(self, record: dict[str, Any]) -> None:
        """One line. Numbers that are not finite become null: JSON has none."""
        line = json.dumps(_finite(record), ensure_ascii=False) + "\n"
        if self._local is not None:
            with self._local.open("a", encoding="utf-8") as file:
                file.write(line)
        else:
            self._lines.append(line)
            if time.monotonic() - self._sent_s > STORE_EVERY_S:
                self._send()
        if self._board is not None:
            _plot(self._board, record)

    def _send(self) -> None:
        self._store.put(self._path, "".join(self._lines).encode())
        self._sent_s = time.monotonic()

    def close(self) -> None:
        """Sends what is left; without it the last seconds are missing from an object store."""
        if self._local is None and self._lines:
            self._send()
        if self._board is not None:
            self._board.close()


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _finite(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    if isinstance(value, float):
        return round(value, 6) if math.isfinite(value) else None
    return value


def _board(folder: Path) -> Any:
    from tensorboardX import SummaryWriter

    return SummaryWriter(str(folder))


def _plot(board: Any, record: dict[str, Any]) -> None:
    for name, value in record.items():
        values = value if isinstance(value, dict) else {"": value}
        for inner, number in values.items():
            if isinstance(number, int | float) and name != "step":
                board.add_scalar(f"{record['kind']}/{name}{'/' if inner else ''}{inner}", number, record["step"])


def read_metrics(store: Folder, run_id: str) -> list[dict[str, Any]]:
    """All whole lines so far; none where there is no file yet."""
    try:
        text = store.get(metrics_path(run_id)).decode()
    except FileNotFoundError:
        return []
    return [json.loads(line) for line in text.split("\n")[:-1]]
