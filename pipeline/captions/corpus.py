"""What captions have in common over a whole corpus, in bounded memory: sketches of single tables, added up.

The sketch of a table is made when the table is written and stands in its Parquet footer, so that adding up reads no captions.
Captions said of many media are found by Misra-Gries (any that are more than 1 in HEAVY of all are); duplicates by counting exactly
those whose hash is among the smallest; near duplicates the same way by MinHash, so that texts which are alike fall together.
A shift is told by references: captions that fit the next sample's better than their own, over a whole table.
"""

import base64
import hashlib
import heapq
import json
import math
import zlib
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline import storage
from pipeline.captions.quality import units

METADATA = "nightcap.corpus"
HEAVY, SMALLEST, TEXT = 256, 512, 80
"""Captions that are counted, hashes that duplicates are told by, characters that are kept of a text."""
ROWS, GRAM_CHARACTERS, ROUNDS = 8, 5, 6
"""Of a MinHash key, characters in a row that texts are compared by. Texts that share nine tenths of them fall together 4 times in 10,
and in one of so many rounds 97 times in 100; those that share half, 2 in 100."""
LEAST_PAIRS, SURE, LEAST_GAIN = 20, 4.0, 2.0
"""From so many pairs on a table is judged; standard errors, and points of 100, by which the shifted fit has to be better."""
FILES = 2_000
_FACTORS = np.random.default_rng(5).integers(1, 1 << 62, (ROUNDS * ROWS, 2), dtype=np.uint64) | np.uint64(1)
_POWERS = np.random.default_rng(6).integers(1, 1 << 62, GRAM_CHARACTERS, dtype=np.uint64) | np.uint64(1)


@dataclass(slots=True)
class Fit:
    """How much better captions fit the reference beside than their own: paired differences of a similarity from 0 to 100."""

    n: int = 0
    total: float = 0.0
    squares: float = 0.0

    def add(self, differences: Any) -> None:
        """An array of differences."""
        self.n += len(differences)
        self.total += float(differences.sum())
        self.squares += float(np.square(differences).sum())

    @property
    def mean(self) -> float:
        """Points by which the shifted fit is better; below 0 where captions stand in their place."""
        return self.total / self.n if self.n else 0.0

    @property
    def shifted(self) -> bool:
        """True if captions surely belong to the sample beside."""
        if self.n < LEAST_PAIRS or self.mean < LEAST_GAIN:
            return False
        error = math.sqrt(max(self.squares / self.n - self.mean**2, 1e-9) / self.n)
        return self.mean > SURE * error


@dataclass(slots=True)
class Sketch:
    """What is known of some tables."""

    captions: int = 0
    heavy: dict[int, tuple[int, str]] = field(default_factory=dict)
    """Hash of a text to (how often at least, its beginning)."""
    alike: dict[int, tuple[int, str]] = field(default_factory=dict)
    """The same by MinHash key."""
    exact: dict[int, int] = field(default_factory=dict)
    """The smallest hashes and how often each occurred."""
    near: dict[int, int] = field(default_factory=dict)
    after: Fit = field(default_factory=Fit)
    """Against the next sample's reference."""
    before: Fit = field(default_factory=Fit)
    shifted: list[str] = field(default_factory=list)
    """Tables whose captions belong to the sample beside."""

    def add(self, other: "Sketch") -> None:
        """Adds what is known of other tables."""
        self.captions += other.captions
        self.heavy, self.alike = _heaviest(self.heavy, other.heavy), _heaviest(self.alike, other.alike)
        self.exact, self.near = _smallest(self.exact, other.exact), _smallest(self.near, other.near)
        for own, theirs in ((self.after, other.after), (self.before, other.before)):
            own.n, own.total, own.squares = own.n + theirs.n, own.total + theirs.total, own.squares + theirs.squares
        self.shifted = [*self.shifted, *other.shifted]

    def encode(self) -> str:
        """For a Parquet footer."""
        values = [self.captions, *([[key, *value] for key, value in one.items()] for one in (self.heavy, self.alike))]
        values += [list(self.exact.items()), list(self.near.items())]
        values += [[fit.n, round(fit.total, 6), round(fit.squares, 6)] for fit in (self.after, self.before)]
        text = json.dumps([*values, self.shifted], ensure_ascii=False, separators=(",", ":"))
        return base64.b64encode(zlib.compress(text.encode(errors="replace"), 6)).decode()


def decode(text: str) -> Sketch:
    """What `encode` gave."""
    captions, heavy, alike, exact, near, after, before, shifted = json.loads(zlib.decompress(base64.b64decode(text)))
    often, nearly = ({key: (count, shown) for key, count, shown in one} for one in (heavy, alike))
    return Sketch(captions, often, nearly, dict(map(tuple, exact)), dict(map(tuple, near)), Fit(*after), Fit(*before), shifted)


def _heaviest(first: dict[int, tuple[int, str]], second: dict[int, tuple[int, str]]) -> dict[int, tuple[int, str]]:
    """Misra-Gries: of more than HEAVY the count of the next is taken off all (Agarwal et al., Mergeable Summaries, 2012)."""
    joined = dict(first)
    for key, (count, text) in second.items():
        joined[key] = (joined[key][0] + count, joined[key][1]) if key in joined else (count, text)
    if len(joined) <= HEAVY:
        return joined
    off = heapq.nlargest(HEAVY + 1, (count for count, _ in joined.values()))[-1]
    return {key: (count - off, text) for key, (count, text) in joined.items() if count > off}


def _smallest(first: dict[int, int], second: dict[int, int]) -> dict[int, int]:
    joined = Counter(first)
    joined.update(second)
    return {key: joined[key] for key in heapq.nsmallest(SMALLEST, joined)}


def sketch_of(table: pa.Table, name: str = "") -> Sketch:
    """The sketch of a table of schema.CAPTIONS in the order of its archive. `name` is what it is called where it is shifted."""
    table = table.filter(pc.equal(table.column("caption_index"), 0)).select(["caption", "text"])
    captions, references = table.column("caption").to_pylist(), table.column("text").to_pylist()
    found = Sketch()
    exact: Counter[int] = Counter()
    near: Counter[int] = Counter()
    alike: Counter[int] = Counter()
    shown: dict[int, str] = {}
    for caption in captions:
        if caption is None:
            continue
        found.captions += 1
        text = " ".join(units(caption))
        key, keys = _hash(text), near_keys(text)
        exact[key] += 1
        near[keys[0]] += 1
        alike.update(set(keys))
        for one in (key, *keys):
            shown.setdefault(one, caption[:TEXT])
    found.heavy = _heaviest({}, {key: (count, shown[key]) for key, count in exact.items()})
    found.alike = _heaviest({}, {key: (count, shown[key]) for key, count in alike.items()})
    found.exact, found.near = _smallest({}, exact), _smallest({}, near)
    _align(found, captions, references)
    if found.after.shifted or found.before.shifted:
        found.shifted.append(name)
    return found


def about(table: pa.Table) -> dict[str, str]:
    """What goes into the footer of a table of schema.CAPTIONS."""
    name = table.column("shard")[0].as_py() if table.num_rows else ""
    return {METADATA: sketch_of(table, name).encode()}


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(errors="replace"), digest_size=8).digest(), "little") >> 1


def near_keys(text: str) -> list[int]:
    """A key a round: texts that are alike have the same, with the probability of their likeness to the power of ROWS."""
    codes = np.frombuffer(text[:4_000].encode("utf-32-le", errors="replace"), np.uint32).astype(np.uint64)
    length = min(GRAM_CHARACTERS, max(1, len(codes)))
    if not len(codes):
        return [0] * ROUNDS
    with np.errstate(over="ignore"):
        grams = sum(codes[at : len(codes) - length + 1 + at] * _POWERS[at] for at in range(length))
        mixed = (grams ^ (grams >> np.uint64(29))) * _FACTORS[:, :1] + _FACTORS[:, 1:]
        mixed ^= mixed >> np.uint64(32)
        smallest = (mixed * _FACTORS[:, :1]).min(axis=1).reshape(ROUNDS, ROWS)
    return [_hash(f"{number}:{row.tobytes().hex()}") for number, row in enumerate(smallest)]


def _align(found: Sketch, captions: Sequence[str | None], references: Sequence[str | None]) -> None:
    """Compares each caption with the references of its own sample and of those beside, where all three are there and differ."""
    from rapidfuzz import fuzz, process

    middles = [
        at
        for at in range(1, len(captions) - 1)
        if captions[at] and references[at] and references[at - 1] and references[at + 1] and len(set(references[at - 1 : at + 2])) == 3
    ]
    if not middles:
        return
    said = [captions[at] for at in middles]
    fits = [
        process.cpdist(said, [references[at + step] for at in middles], scorer=fuzz.token_sort_ratio, processor=str.lower)
        for step in (0, 1, -1)
    ]
    found.after.add((fits[1] - fits[0]).astype(np.float64))
    found.before.add((fits[2] - fits[0]).astype(np.float64))


def _share(counts: dict[int, int]) -> float | None:
    """Of captions, how many have a text that occurs more than once; from those whose hash is small."""
    total = sum(counts.values())
    return round(sum(count for count in counts.values() if count > 1) / total, 4) if total else None


def summary(found: Sketch) -> dict[str, Any]:
    """What a record says of a corpus."""
    heavy = heapq.nlargest(10, found.heavy.values())
    alike = heapq.nlargest(10, found.alike.values())
    return {
        "captions": found.captions,
        "said_often": [{"caption": text, "at_least": count} for count, text in heavy if count > 1],
        "said_often_alike": [{"caption": text, "at_least": count} for count, text in alike if count > 1],
        "duplicates": _share(found.exact),
        "near_duplicates_at_least": _share(found.near),
        "fits_next_better_by": round(found.after.mean, 3) if found.after.n else None,
        "fits_previous_better_by": round(found.before.mean, 3) if found.before.n else None,
        "pairs": found.after.n,
        "shifted": found.after.shifted or found.before.shifted or bool(found.shifted),
        "shifted_shards": found.shifted[:20],
        "n_shifted_shards": len(found.shifted),
    }


def read_corpus(store: storage.Folder, tables: str = "captions") -> dict[str, Any] | None:
    """The summary over the tables below an output folder, from their footers; of more than FILES, those with the smallest hash of their name."""
    names = sorted((blob.path for blob in store.list(tables) if blob.path.endswith(".parquet")), key=_hash)
    whole = Sketch()
    with ThreadPoolExecutor(16) as pool:
        for one in pool.map(lambda name: _footer(store, name), names[:FILES]):
            if one is not None:
                whole.add(one)
    return {"tables": len(names), "tables_read": min(FILES, len(names)), **summary(whole)} if whole.captions else None


def _footer(store: storage.Folder, name: str) -> Sketch | None:
    filesystem, path = storage.resolve(f"{store.url}/{name}")
    try:
        with filesystem.open_input_file(path) as file:
            text = (pq.ParquetFile(file).schema_arrow.metadata or {}).get(METADATA.encode())
    except (OSError, pa.ArrowInvalid):
        return None
    return None if text is None else decode(text.decode())


def alarms(found: dict[str, Any] | None) -> Iterable[str]:
    """Lines for a person, most serious first."""
    if found is None:
        return
    if found["shifted"]:
        where = (
            f" in {found['n_shifted_shards']:,} archives, {', '.join(found['shifted_shards'][:3])} first" if found["shifted_shards"] else ""
        )
        yield f"captions fit the reference of the sample beside better than their own{where}: were they shifted by one?"
    for one in found["said_often"][:3]:
        if one["at_least"] >= 20 and one["at_least"] > found["captions"] / HEAVY:
            yield f"{one['at_least']:,} of {found['captions']:,} captions are {one['caption']!r}"
