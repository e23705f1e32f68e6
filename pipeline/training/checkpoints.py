"""Checkpoints: written beside the training, whole or not at all, the last few and the best kept.

    OUT/checkpoints/step-00001200-<hex>/   the model's own folder, optimizer.safetensors, state.json, and complete.json last
    OUT/model/                             the model's folder of the best checkpoint, or of the last without validation

`complete.json` names every file with its size and SHA-256: a checkpoint without it, or whose files differ, is no checkpoint, and the
one before it is used. Names are not used twice, so that two writers never mix. Weights are copied to the CPU at once; writing
happens on one thread, and its failure stops the training at the next step.
"""

import contextlib
import errno
import hashlib
import json
import os
import re
import secrets
import tempfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.errors import StoppedError
from pipeline.storage import TEMPORARY, Folder, is_local, open_reader, resolve

FOLDER, MODEL = "checkpoints", "model"
COMPLETE, STATE, OPTIMISER = "complete.json", "state.json", "optimizer.safetensors"
_NAME = re.compile(r"step-(\d{8,})-[0-9a-f]{6}")
PIECE_BYTES = 8 << 20


@dataclass(frozen=True, slots=True)
class Found:
    """A checkpoint that is whole."""

    name: str
    state: dict[str, Any]


class Checkpoints:
    """The checkpoints of one output folder."""

    def __init__(self, store: Folder, keep: int) -> None:
        self._store, self._keep = store, keep
        self._thread: threading.Thread | None = None
        self._failure: BaseException | None = None

    def names(self) -> list[str]:
        """Folders that claim to be checkpoints, the newest first."""
        found = {blob.path.split("/")[1] for blob in self._store.list(FOLDER) if blob.path.count("/") >= 2}
        steps = [(int(match[1]), name) for name in found if (match := _NAME.fullmatch(name))]
        return [name for _, name in sorted(steps, reverse=True)]

    def latest(self, say: Callable[[str], None]) -> Found | None:
        """The newest whole checkpoint; `say` is told of each that had to be passed over, and why."""
        names = self.names()
        for name, others in zip(names, range(len(names) - 1, -1, -1), strict=True):
            problem, state = self._examine(name)
            if problem is None:
                return Found(name, state)
            instead = "the one before it is used" if others else "there is none before it: training begins anew"
            say(f"{self._store.url}/{FOLDER}/{name} is not whole ({problem}); {instead}")
        return None

    def _examine(self, name: str, *, by_hash: bool = True) -> tuple[str | None, dict[str, Any]]:
        """What is wrong with a checkpoint, or its state."""
        try:
            listed: dict[str, Any] = json.loads(self._store.get(f"{FOLDER}/{name}/{COMPLETE}"))
            sizes = {blob.path: blob.size for blob in self._store.list(f"{FOLDER}/{name}")}
            for file, known in listed.items():
                size = sizes.get(f"{FOLDER}/{name}/{file}")
                if size is None:
                    return f"{file} is missing", {}
                if size != known["size"]:
                    return f"{file} has {size:,} of {known['size']:,} bytes", {}
                if by_hash and self._digest(f"{FOLDER}/{name}/{file}") != known["sha256"]:
                    return f"{file} has other bytes than were written", {}
            state: dict[str, Any] = json.loads(self._store.get(f"{FOLDER}/{name}/{STATE}"))
            return None, state
        except FileNotFoundError as exc:
            return f"{Path(str(exc.filename or COMPLETE)).name} is missing", {}
        except (ValueError, TypeError, KeyError) as exc:
            return f"{COMPLETE} cannot be read: {exc}", {}

    def _digest(self, path: str) -> str:
        reader, digest, buffer = open_reader(f"{self._store.url}/{path}"), hashlib.sha256(), bytearray(PIECE_BYTES)
        at = 0
        try:
            while size := reader.read_into(at, memoryview(buffer)):
                digest.update(memoryview(buffer)[:size])
                at += size
        finally:
            reader.close()
        return digest.hexdigest()

    def fetch(self, name: str, target: Path) -> Path:
        """A local folder with the checkpoint's files; `target` is used where they lie elsewhere."""
        if is_local(self._store.url):
            return Path(resolve(self._store.url)[1]) / FOLDER / name
        for blob in self._store.list(f"{FOLDER}/{name}"):
            file = target / blob.path.split("/", 2)[2]
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(self._store.get(blob.path))
        return target

    def state(self, name: str) -> dict[str, Any]:
        """What a checkpoint keeps beside weights and optimiser."""
        state: dict[str, Any] = json.loads(self._store.get(f"{FOLDER}/{name}/{STATE}"))
        return state

    @staticmethod
    def new_name(steps: int) -> str:
        """A name that sorts by steps and is not used twice."""
        return f"step-{steps:08d}-{secrets.token_hex(3)}"

    def save(self, name: str, write: Callable[[Path], None], state: dict[str, Any], *, export: bool, best: str | None) -> None:
        """Starts writing a checkpoint. `write` fills a local folder, on the writer's thread.

        With `export` the model's files are put into `OUT/model` too. `best` is not deleted, however old.
        Waits for the one before. StoppedError where that one failed.
        """
        self.wait()
        self.check()
        self._thread = threading.Thread(target=self._run, args=(name, write, state, export, best or name), name="checkpoint", daemon=True)
        self._thread.start()

    def wait(self) -> bool:
        """Until the checkpoint in flight is written; False where that failed, which `check` tells."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        return self._failure is None

    @property
    def failed(self) -> bool:
        """True once a checkpoint could not be written, until `check` tells why."""
        return self._failure is not None

    def check(self) -> None:
        """StoppedError where a checkpoint could not be written; other failures as they are."""
        failure, self._failure = self._failure, None
        if failure is None:
            return
        if _full(failure):
            last = next(iter(self.names()), None)
            kept = f"the last good one is {last}" if last else "there is none yet"
            raise StoppedError(
                f"no room left while writing a checkpoint below {self._store.url}/{FOLDER}; {kept}. Free some space and run the same command again"
            ) from failure
        raise failure

    def _run(self, name: str, write: Callable[[Path], None], state: dict[str, Any], export: bool, best: str) -> None:
        published = False
        try:
            with self._workshop() as folder:
                write(folder)
                (folder / STATE).write_text(json.dumps(state))
                listed = {path: _described(folder / path) for path in _files(folder)}
                complete = json.dumps(listed, indent=1).encode()
                if export:
                    self._export(folder)
                self._publish(folder, name, complete)
            published = True
            self._tidy({name, best})
        except BaseException as exc:
            self._failure = exc
            if not published:
                self._drop(name)

    @contextlib.contextmanager
    def _workshop(self) -> Iterator[Path]:
        """A folder to write in: beside the checkpoints on a disk, so that publishing is a rename; a temporary one for a store."""
        beside = None
        if is_local(self._store.url):
            beside = Path(resolve(self._store.url)[1]) / FOLDER
            beside.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=TEMPORARY, dir=beside, ignore_cleanup_errors=True) as folder:
            (Path(folder) / "new").mkdir()
            yield Path(folder) / "new"

    def _publish(self, folder: Path, name: str, complete: bytes) -> None:
        if not is_local(self._store.url):
            for path in _files(folder):
                self._put(folder / path, f"{FOLDER}/{name}/{path}")
            self._store.put(f"{FOLDER}/{name}/{COMPLETE}", complete)
            return
        (folder / COMPLETE).write_bytes(complete)
        for path in _files(folder):
            with (folder / path).open("rb") as file:
                os.fsync(file.fileno())
        os.replace(folder, folder.parent.parent / name)

    def _put(self, file: Path, path: str) -> None:
        with file.open("rb") as source, self._store.create(path) as draft:
            while piece := source.read(PIECE_BYTES):
                draft.write(piece)

    def _export(self, folder: Path) -> None:
        """Each file replaced whole, weights last: within one output only they differ from export to export."""
        files = [path for path in _files(folder) if path not in (OPTIMISER, STATE, COMPLETE)]
        for path in sorted(files, key=lambda path: (path.endswith(".safetensors"), path)):
            self._put(folder / path, f"{MODEL}/{path}")

    def _tidy(self, safe: set[str]) -> None:
        """Deletes checkpoints beyond the last few, `complete.json` first: a half deleted one is none.

        Those that are not whole go too: one of more steps than the training went on from would hold a whole one's place.
        """
        whole = 0
        for name in self.names():
            if name in safe:
                whole += 1
            elif whole >= self._keep or self._examine(name, by_hash=False)[0] is not None:
                self._drop(name)
            else:
                whole += 1

    def sweep(self) -> None:
        """Deletes what writers left that were killed. Only while nobody trains into this folder."""
        for blob in self._store.list(FOLDER):
            if blob.path.split("/")[1].startswith(TEMPORARY):
                self._store.delete(blob.path)
        self._store.prune(FOLDER)

    def _drop(self, name: str) -> None:
        try:
            self._store.delete(f"{FOLDER}/{name}/{COMPLETE}")
            for blob in self._store.list(f"{FOLDER}/{name}"):
                self._store.delete(blob.path)
            self._store.prune(f"{FOLDER}/{name}")
        except OSError:
            return  # what is left is no checkpoint, and the next run tidies it


def _full(failure: BaseException) -> bool:
    """The disk is full: said by the system, by `storage`, or by safetensors in words of its own."""
    if isinstance(failure, OSError) and failure.errno in (errno.ENOSPC, errno.EDQUOT):
        return True
    text = str(failure)
    return "No space left on device" in text or "no room left" in text


def _files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def _described(file: Path) -> dict[str, Any]:
    with file.open("rb") as opened:
        return {"size": file.stat().st_size, "sha256": hashlib.file_digest(opened, "sha256").hexdigest()}
