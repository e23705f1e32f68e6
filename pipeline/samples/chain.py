"""The chain that makes a row of `schema.PREPARED` from the members of one sample, or says why not. Pure, no Ray.

    fields -> texts -> tokens -> first filters -> medium (decode, bring to size, encode) -> second filters -> row

The cheap comes first: a sample whose text is not wanted is never decoded. What each step needs and adds is declared beside
it and checked when the chain is built, before anything runs.
"""

import dataclasses
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, NamedTuple

from cyclopts import Parameter

from pipeline import schema
from pipeline.errors import Reason, RequestError, SampleError
from pipeline.samples.decode import codec_boundary
from pipeline.samples.facts import Facts
from pipeline.samples.filters import Filter, FilterConfig, build_filters, judge, needs_tokens
from pipeline.samples.frames import FramesConfig
from pipeline.samples.group import Field
from pipeline.samples.media import prepare_medium
from pipeline.samples.resize import PictureConfig
from pipeline.samples.rows import reference_texts
from pipeline.samples.text import TextConfig, normalise_text, shows_something
from pipeline.samples.tokens import Encoded, Tokenizer, TokenizerConfig
from pipeline.samples.wave import WaveConfig

TEXT = "text"
"""In `ChainConfig.take`: samples without a medium."""


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True, slots=True)
class ChainConfig:
    """What becomes of a sample. Part of the recipe: it decides what the model sees."""

    take: Annotated[tuple[str, ...], Parameter(negative=())] = schema.MODALITIES
    """What is prepared: image, audio, video, and text for samples without a medium. Other media are skipped."""
    require_text: bool = False
    """Reject samples without a text; without it they are kept, with a null."""
    picture: Annotated[PictureConfig, Parameter(name="picture")] = PictureConfig()
    """Pictures, and the frames of clips."""
    frames: Annotated[FramesConfig, Parameter(name="frames")] = FramesConfig()
    """Clips."""
    wave: Annotated[WaveConfig, Parameter(name="wave")] = WaveConfig()
    """Recordings, and sound tracks of clips."""
    text: Annotated[TextConfig, Parameter(name="text")] = TextConfig()
    """Texts."""
    tokens: TokenizerConfig = TokenizerConfig()
    """Tokens."""
    filters: Annotated[FilterConfig, Parameter(name="*")] = FilterConfig()
    """Which samples are removed."""

    def __post_init__(self) -> None:
        """Raises RequestError for a modality that is none, and for filters on tokens without a tokenizer."""
        known = (*schema.MODALITIES, TEXT)
        wrong = [name for name in self.take if name not in known]
        if wrong or not self.take:
            raise RequestError(f"--take {' '.join(wrong) or 'nothing'}: give some of {', '.join(known)}")
        if needs_tokens(self.filters) and not self.tokens.tokenizer:
            raise RequestError("--min-text-tokens and --max-text-tokens count tokens; name a --tokenizer")

    @property
    def media(self) -> tuple[str, ...]:
        """The modalities of `take`."""
        return tuple(name for name in self.take if name != TEXT)


class Item(NamedTuple):
    """One sample as the chain takes it."""

    fields: tuple[Field, ...]
    medium: Field | None
    """The one of `fields` that is its medium."""
    modality: str | None


class _Texts(NamedTuple):
    """Texts of a sample's fields: as they came, and as they are kept."""

    fields: tuple[Field, ...]
    found: list[str]
    texts: list[str]
    flags: list[str]


TEXT_FIELDS = ("txt", "json")
AHEAD_BYTES = 1 << 16
"""Of a sample's text fields, up to which they are read ahead."""
Row = dict[str, Any]
"""A row as it grows. Columns of schema.PREPARED, and `item`, `facts` while they are needed."""


class Step(NamedTuple):
    """One link of the chain: takes a row, adds columns to it, or raises SampleError."""

    name: str
    run: Callable[[Row], None]
    needs: tuple[str, ...]
    adds: tuple[str, ...]


GIVEN = ("item", "key", "shard", "index", "sample_sha256", "media_sha256", "modality", "flags")
"""Columns that a row has before the chain."""


def check(steps: Sequence[Step], given: Iterable[str] = GIVEN, table: Iterable[str] = schema.PREPARED.names) -> None:
    """Raises ValueError that names the step and the column, where a step needs what none before it adds, or a column is never added."""
    known = dict.fromkeys(given, "what is given")
    for step in steps:
        for column in step.needs:
            if column not in known:
                later = [other.name for other in steps if column in other.adds]
                where = f"; {later[0]} adds it, but later" if later else ", which no step adds"
                raise ValueError(f"step {step.name} needs {column}{where}")
        known |= dict.fromkeys(step.adds, step.name)
    missing = [column for column in table if column not in known]
    if missing:
        raise ValueError(f"no step adds {', '.join(missing)}")


class Chain:
    """Callable on one `Item`: its row without the given columns. Raises SampleError; `seconds` adds up time by step."""

    def __init__(self, config: ChainConfig, tokenizer: Tokenizer | None) -> None:
        self._config = config
        self._tokenizer = tokenizer
        self._filters = build_filters(config.filters)
        self._read_ahead: dict[int, _Texts] = {}
        self._encoded_ahead: dict[str, Encoded] = {}
        self.seconds: dict[str, float] = {}
        filters = [self._filter_step("filter before decoding"), self._filter_step("filter")] if self._filters else [None, None]
        steps = (
            Step("text", self._text, ("item", "flags"), ("text", "references", "facts")),
            Step("tokenise", self._tokenise, ("text", "facts", "flags"), ("token_ids", "n_tokens")),
            filters[0],
            Step("medium", self._medium, ("item", "facts"), MEDIUM_COLUMNS),
            filters[1],
        )
        self.steps = tuple(step for step in steps if step is not None)
        check(self.steps)

    def __call__(self, item: Item) -> Row:
        """The columns that the chain adds. Raises SampleError, and MemoryError and ImportError, which are nobody's fault."""
        row: Row = {"item": item, "flags": []}
        began = time.perf_counter()
        for step in self.steps:
            step.run(row)
            ended = time.perf_counter()
            self.seconds[step.name] = self.seconds.get(step.name, 0.0) + ended - began
            began = ended
        del row["item"], row["facts"]
        return row

    def ahead(self, samples: Sequence[tuple[Field, ...]]) -> None:
        """Reads and encodes the texts of the samples that come next, by their fields, at once: between pictures the vocabulary has left
        the caches each time, which costs 0.05 ms a text. Long texts wait for their turn, where time and memory are bounded."""
        short = [fields for fields in samples if sum(field.size for field in fields if field.name in TEXT_FIELDS) <= AHEAD_BYTES]
        self._read_ahead = {id(fields): self._texts_of(fields) for fields in short}
        texts = [found.texts[0] for found in self._read_ahead.values() if found.texts]
        encoded = [] if self._tokenizer is None else self._tokenizer.encode(texts, self._config.tokens.max_tokens)
        self._encoded_ahead = dict(zip(texts, encoded, strict=False))

    def facts(self, item: Item) -> Facts:
        """All that filters may ask of a sample, whatever they would say to it. Raises SampleError."""
        row: Row = {"item": item, "flags": []}
        self._text(row)
        self._tokenise(row)
        before: Facts = row["facts"]
        self._decode(row, frozenset(Reason))
        known = {name: getattr(before, name) for name in ("size_bytes", "text", "n_tokens")}
        after: Facts = row["facts"]
        return dataclasses.replace(after, **known)

    @property
    def filters(self) -> tuple[Filter, ...]:
        """The filters that are on."""
        return self._filters

    def _text(self, row: Row) -> None:
        item: Item = row["item"]
        read = self._read_ahead.pop(id(item.fields), None)
        _, found, texts, row["flags"] = read if read is not None and read.fields is item.fields else self._texts_of(item.fields)
        row["text"] = texts[0] if texts else None
        row["references"] = texts if len(texts) > 1 else None
        if not texts and (found or self._config.require_text or item.modality is None):
            raise SampleError(Reason.EMPTY_TEXT, "its text is empty" if found else "there is no text")
        size = None if item.medium is None else item.medium.size
        row["facts"] = Facts(modality=item.modality, size_bytes=size, text=row["text"])

    def _texts_of(self, fields: tuple[Field, ...]) -> "_Texts":
        found, flags = reference_texts(fields)
        texts = [text for text in (normalise_text(text, self._config.text) for text in found) if shows_something(text)]
        return _Texts(fields, found, list(dict.fromkeys(texts)), flags)

    def _tokenise(self, row: Row) -> None:
        row["token_ids"] = row["n_tokens"] = None
        if self._tokenizer is None or row["text"] is None:
            return
        encoded = self._encoded_ahead.get(row["text"]) or self._tokenizer.encode([row["text"]], self._config.tokens.max_tokens)[0]
        if encoded.n_tokens <= 2:
            raise SampleError(Reason.EMPTY_TEXT, "its text has no tokens")
        row["token_ids"], row["n_tokens"] = encoded
        if encoded.n_tokens > len(encoded.token_ids):
            row["flags"] = [*row["flags"], "truncated"]
        row["facts"] = dataclasses.replace(row["facts"], n_tokens=encoded.n_tokens)

    def _filter_step(self, name: str) -> Step:
        return Step(name, self._filter, ("facts",), ())

    def _filter(self, row: Row) -> None:
        removed = judge(row["facts"], self._filters)
        if removed is not None:
            raise SampleError(removed.reason, removed.detail)

    def _medium(self, row: Row) -> None:
        self._decode(row, self._measures)

    def _decode(self, row: Row, asked: frozenset[Reason]) -> None:
        item: Item = row["item"]
        if item.medium is None or item.modality is None:
            row |= dict.fromkeys(MEDIUM_COLUMNS)
            row["facts"] = Facts(modality=None)
            return
        assert item.medium.data is not None
        config = self._config
        with codec_boundary():
            found = prepare_medium(item.medium.data, item.medium.name, item.modality, config.picture, config.frames, config.wave, asked)
        row |= found.columns
        row["facts"] = found.facts

    @property
    def _measures(self) -> frozenset[Reason]:
        """What costs something to find out, and is asked for."""
        return frozenset(one.reason for one in self._filters)


MEDIUM_COLUMNS = ("image", "audio", "frames", "timestamps_s", "width", "height", "sample_rate_hz", "duration_s")


class ChainWork:
    """For `Careful`: called with one item it gives its row, and the time it took by step."""

    def __init__(self, config: ChainConfig, tokenizer: Tokenizer | None) -> None:
        self._chain = Chain(config, tokenizer)
        self.ahead = self._chain.ahead

    def __call__(self, item: Item) -> list[tuple[Row, dict[str, float]]]:
        self._chain.seconds = {}
        return [(self._chain(item), self._chain.seconds)]
