"""Temporary files that a crash left: who may delete them."""

import time
from collections.abc import Iterable

from pipeline.storage import TEMPORARY, Blob, Store

STALE_S = 86_400.0
"""Seconds after which a temporary file belongs to no live run."""


def without_temporary(store: Store, blobs: Iterable[Blob], tag: str = "") -> list[Blob]:
    """The other files of a listing. Temporary ones that no live run can be writing are deleted: old ones, and those with `tag`.

    Pass a tag only when whoever used it has ended.
    """
    kept, now = [], time.time()
    for blob in blobs:
        name = blob.path.rsplit("/", 1)[-1]
        if not name.startswith(TEMPORARY):
            kept.append(blob)
        elif now - blob.mtime_s > STALE_S or (tag and name.startswith(TEMPORARY + tag)):
            store.delete(blob.path)
    return kept
