"""Markers of tables that are to be replaced, because their archive changed and a run was asked to redo it.

    _redo/<stem>/<fingerprint>

The old table stays until the new one is put over it, so that a crash in between leaves the old one and the wish. A shard
is done for one version of its archive if its table exists and no marker of that version does.
"""

from pipeline.commit.parts import table_path
from pipeline.storage import Store

FOLDER = "_redo"


def ask(store: Store, stem: str, fingerprint: str) -> None:
    """The table of a shard is to be made anew from this version of the archive; a wish for a former version is taken back."""
    for blob in store.list(f"{FOLDER}/{stem}"):
        if blob.path != _path(stem, fingerprint) and blob.path.rpartition("/")[0] == f"{FOLDER}/{stem}":
            store.delete(blob.path)
    store.put(_path(stem, fingerprint), b"")


def asked(store: Store, tables: dict[str, float], folder: str) -> set[tuple[str, str]]:
    """(stem, fingerprint) of all wishes that are still open. `tables`: the paths in `folder`, and when each was written.

    A table that is younger than the wish fulfils it: its writer died before it could take the marker away.
    """
    found = set()
    for blob in store.list(FOLDER):
        stem, _, fingerprint = blob.path[len(FOLDER) + 1 :].rpartition("/")
        if tables.get(table_path(folder, stem), 0.0) > blob.mtime_s:
            store.delete(blob.path)
        else:
            found.add((stem, fingerprint))
    return found


def is_done(store: Store, folder: str, stem: str, fingerprint: str) -> bool:
    """True if the final table stands, and is not the one to be replaced by this version's."""
    return store.exists(table_path(folder, stem)) and not store.exists(_path(stem, fingerprint))


def fulfilled(store: Store, stem: str, fingerprint: str) -> None:
    """The new table stands: takes the marker away."""
    store.delete(_path(stem, fingerprint))


def _path(stem: str, fingerprint: str) -> str:
    return f"{FOLDER}/{stem}/{fingerprint}"
