"""Rows of quarantine -> samples as they were read, for a replay."""

from typing import Any

from pipeline.errors import Reason, SampleError
from pipeline.samples.group import Field, Sample, split_name

_FINAL = frozenset({Reason.DAMAGED, Reason.UNSUPPORTED_MEMBER})
"""What quarantine kept of such a sample is not all of it."""


def sample_of(row: dict[str, Any]) -> Sample:
    """The sample of a row of schema.QUARANTINE. One of which not all bytes are there keeps its reason as its `problem`."""
    members, reason = row["members"] or [], Reason(row["reason"])
    fields = tuple(Field(_field(member["name"]), len(member["bytes"]), member["bytes"]) for member in members)
    problem = None
    if not members or reason in _FINAL:
        problem = SampleError(reason, row["detail"] or "its bytes are not in quarantine")
    return Sample(
        index=row["index"],
        key=row["key"],
        offset=row["offset"],
        size=row["size"],
        fields=fields,
        problem=problem,
        repeated="key_repeated" in (row.get("flags") or ()),
    )


def _field(name: str) -> str:
    split = split_name(name)
    return name if split is None else split[1]
