"""The stages of `nightcap caption` with their metrics: what was done, and what the engine waited for."""

import json
import threading
from collections.abc import Mapping
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from jobs.metrics import record, record_receipt
from pipeline.captions.stage import CaptionStage, StageConfig
from pipeline.commit.stage import CommitConfig, commit_block

JOB = "caption"


def counted_commit(block: pa.Table, config: CommitConfig, fetch: Any) -> pa.Table:
    """`commit.stage.commit_block`, counted."""
    receipts = commit_block(block, config, fetch)
    for receipt in receipts.to_pylist():
        record_receipt(receipt, JOB)
    if block.num_rows:
        whole = block.filter(pc.and_(pc.equal(block.column("caption_index"), 0), block.column("last")))
        record("nightcap_bytes", pc.sum(whole.column("size")).as_py() or 0, JOB)
    return receipts


class CountedStage:
    """`captions.stage.CaptionStage`, and what its engine waited for."""

    def __init__(self, config: StageConfig) -> None:
        self._stage = CaptionStage(config)
        self._lock = threading.Lock()
        self._known: dict[str, Any] = {"calls": 0, "busy_s": 0.0, "waited_input_s": 0.0, "waited_host_s": 0.0}

    def __call__(self, table: pa.Table) -> pa.Table:
        """As the stage's."""
        parts = self._stage(table)
        accounts = parts.column("account").drop_null()
        if len(accounts):
            self._count(json.loads(accounts[-1].as_py()))
        return parts

    def _count(self, account: Mapping[str, Any]) -> None:
        """Accounts add up from the actor's start, and two calls end in any order."""
        with self._lock:
            if account["calls"] <= self._known["calls"]:
                return
            before, self._known = self._known, dict(account)
        record("nightcap_engine_busy_seconds", account["busy_s"] - before["busy_s"], JOB)
        for queue, name in (("read and decode", "waited_input_s"), ("collate", "waited_host_s")):
            waited = account[name] - before[name]
            record("nightcap_wait_seconds", waited, JOB, queue)
            record("nightcap_queue_wait_seconds", waited, JOB, queue)
