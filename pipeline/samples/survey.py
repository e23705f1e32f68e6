"""What a shard holds, read to its last byte: samples, fields, damage. Pure, no Ray.

With hashes every sample's `sample_sha256` is computed, which finds samples that occur twice in a shard.
"""

from collections import Counter
from contextlib import closing
from dataclasses import dataclass

from pipeline import storage
from pipeline.samples.group import EndOfShard, read_samples, sample_sha256
from pipeline.samples.spans import Damage

UNBOUNDED = 1 << 62


@dataclass(frozen=True, slots=True)
class Survey:
    """One shard's account."""

    url: str
    samples: int
    size_bytes: int
    """Bytes of the archive; of the unpacked archive where it is packed."""
    fields: dict[str, int]
    """Samples that have a field, by field name."""
    ignored: dict[str, int]
    """Members that belong to no sample, by kind."""
    problems: dict[str, int]
    """Samples that cannot be used as they stand, by reason."""
    damage: tuple[Damage, ...]
    repeated_keys: int
    """Samples whose key occurred before in the shard: a tar that is not sorted, or keys used twice."""
    duplicates: int
    """Samples with the same content as an earlier one of the shard; 0 without hashes."""


def survey(url: str, *, hashes: bool, max_sample_bytes: int) -> Survey:
    """Reads every byte of a shard. OSError where the file cannot be read."""
    fields: Counter[str] = Counter()
    problems: Counter[str] = Counter()
    seen: set[str] = set()
    duplicates = 0
    with closing(storage.open_reader(url)) as reader:
        for item in read_samples(reader, max_sample_bytes=max_sample_bytes if hashes else UNBOUNDED, load=hashes):
            if isinstance(item, EndOfShard):
                end = item
                break
            fields.update({field.name for field in item.fields})
            if item.problem is not None:
                problems[item.problem.reason.value] += 1
            elif hashes:
                digest = sample_sha256(item.fields)
                duplicates += digest in seen
                seen.add(digest)
    return Survey(
        url, end.n_samples, end.size_bytes, dict(fields), dict(end.ignored), dict(problems), end.damage, end.repeated_keys, duplicates
    )
