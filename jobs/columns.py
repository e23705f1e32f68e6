"""Refuses a prompt over a value that no sample has, from the first samples of the first archive, before anything starts."""

import difflib
import json
from collections.abc import Sequence
from contextlib import closing

from pipeline import storage
from pipeline.captions.prompts import JSON, Template
from pipeline.errors import RequestError
from pipeline.samples.group import Sample, read_samples
from pipeline.samples.rows import json_columns, reference_text
from pipeline.storage import Blob

LOOK_AT = 16
"""Samples: if all of them lack a value, the name is wrong; if only some do, those are rejects."""
MOST_BYTES = 64 << 20


def check_columns(templates: Sequence[Template], blobs: Sequence[Blob]) -> None:
    """RequestError names the column, and what there is."""
    wanted = sorted({column for template in templates for column in template.columns if column == "text" or column.startswith(JSON)})
    if not wanted or not blobs:
        return
    with closing(storage.open_reader(blobs[0].path)) as reader:
        found = read_samples(reader, max_sample_bytes=MOST_BYTES, stop_after=LOOK_AT)
        samples = [sample for sample in found if isinstance(sample, Sample) and sample.problem is None]
    for column in wanted if samples else ():
        if not any(_has(sample, column) for sample in samples):
            known = sorted({name for sample in samples for name in _names(sample)})
            near = difflib.get_close_matches(column, known, 1, 0.5)
            hint = f"did you mean {{{near[0]}}}? " if near else ""
            raise RequestError(
                f"prompt column {{{column}}}: none of the first {len(samples)} samples of {blobs[0].path} has it; "
                f"{hint}they have {', '.join(known[:12]) or 'neither text nor json'}"
            )


def _has(sample: Sample, column: str) -> bool:
    if column == "text":
        return reference_text(sample.fields)[0] is not None
    return json_columns(sample.fields, [column[len(JSON) :]]) != "{}"


def _names(sample: Sample) -> list[str]:
    """Columns of a sample; of its `json` those at the top."""
    data = next((field.data for field in sample.fields if field.name == "json" and field.data is not None), b"{}")
    try:
        parsed = json.loads(data)
    except (ValueError, RecursionError):
        parsed = {}
    names = [JSON + name for name in parsed] if isinstance(parsed, dict) else []
    return ["text", *names] if reference_text(sample.fields)[0] is not None else names
