"""Keep, or a reason: filters over the facts of a sample, all off unless asked for.

Each is a pure function of one sample, so that a decision never depends on what else is in the corpus. They run from the
cheapest to the dearest, and a fact that is None (not there, or not decoded yet) keeps the sample: asking before decoding and
again after it finds the same samples as asking once. Thresholds of `light` and `strict` are explained in the README.
"""

import functools
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields, replace
from typing import Annotated, Literal, NamedTuple, TypeAlias, get_args

import regex
from cyclopts import Parameter

from pipeline.errors import Reason, RequestError
from pipeline.samples.facts import Facts
from pipeline.samples.qualities import clipping, contrast, repetition, silence

Profile = Literal["none", "light", "strict"]

WINDOW_S = 0.025
"""Window in which silence is judged."""
PATTERN_TIMEOUT_S = 5.0
"""For one pattern on one text. Longer means a pattern that backtracks without end."""


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True, slots=True)
class FilterConfig:
    """Which samples are removed. Part of the recipe. 0 is off; what is not given is as the profile says."""

    profile: Profile = "none"
    """Ready limits: `none`, `light` (what no model learns from) or `strict` (only what is good); limits given beside it win."""
    min_media_bytes: int | None = None
    """Bytes of the encoded medium."""
    max_media_bytes: int | None = None
    """Bytes of the encoded medium."""
    min_side_px: int | None = None
    """Pixels of the shorter side of the original."""
    max_side_px: int | None = None
    """Pixels of the longer side of the original."""
    max_aspect: float | None = None
    """Longer side by shorter side; 3 keeps 3:1 and 1:3."""
    min_contrast: float | None = None
    """Standard deviation of the most varied colour, in grey levels of 255; below is a blank picture. One colour is 0, a photograph 30 to 80."""
    min_duration_s: float | None = None
    """Seconds of a recording or clip."""
    max_duration_s: float | None = None
    """Seconds of a recording or clip."""
    min_source_rate_hz: int | None = None
    """Sampling rate of the original; telephone speech has 8000."""
    max_silence: float | None = None
    """Share of a recording that may be silent, 0 to 1: windows of 25 ms below -50 dBFS."""
    max_clipping: float | None = None
    """Share of a recording's samples that may stand at full scale, 0 to 1."""
    min_chars: int | None = None
    """Characters of the normalised text."""
    max_chars: int | None = None
    """Characters of the normalised text."""
    min_text_tokens: int | None = None
    """Tokens of the text before truncation, begin and end included; needs a tokenizer."""
    max_text_tokens: int | None = None
    """Tokens of the text before truncation; longer texts are removed instead of cut. Needs a tokenizer."""
    max_repetition: float | None = None
    """Share of a text's character sequences that occurred in it before, 0 to 1; `ha ha ha ha ha ha` has 0.7."""
    scripts: Annotated[tuple[str, ...], Parameter(negative=())] = ()
    """Unicode scripts that most letters of a text must have: Latin, Han, Arabic, ...; Japanese is Han, Hiragana and Katakana."""
    forbid: Annotated[tuple[str, ...], Parameter(negative=())] = ()
    """Regular expressions; a text in which one is found is removed. (?i) ignores case."""

    def __post_init__(self) -> None:
        """Raises RequestError for limits that contradict each other or are out of range, and bad scripts and patterns."""
        if self.profile not in get_args(Profile):
            raise RequestError(f"--profile {self.profile!r}: give one of {', '.join(get_args(Profile))}")
        for name in _NUMBERS:
            value = getattr(self, name)
            if value is not None and not (0 <= value < math.inf):
                raise RequestError(f"{_flag(name)} {value}: give a number from 0 (off) upwards")
        for name in _SHARES:
            value = getattr(self, name)
            if value is not None and value > 1:
                raise RequestError(f"{_flag(name)} {value}: give a share from 0 (off) to 1")
        limits = _limits(self)
        if 0 < limits["max_aspect"] < 1:
            raise RequestError(
                f"--max-aspect {limits['max_aspect']:g}: longer by shorter side is never below 1; give 1 or more, or 0 for off"
            )
        for low, high in _PAIRS:
            _ordered(self, limits, low, high)
        _script_pattern(self.scripts)
        _forbidden_patterns(self.forbid)


_PAIRS = (
    ("min_media_bytes", "max_media_bytes"),
    ("min_side_px", "max_side_px"),
    ("min_duration_s", "max_duration_s"),
    ("min_chars", "max_chars"),
    ("min_text_tokens", "max_text_tokens"),
)
_SHARES = ("max_silence", "max_clipping", "max_repetition")
_NUMBERS = tuple(field.name for field in fields(FilterConfig) if field.name not in ("profile", "scripts", "forbid"))

_PROFILES: dict[str, dict[str, float]] = {
    "none": {},
    "light": {
        "min_side_px": 32,
        "max_aspect": 10.0,
        "min_contrast": 2.0,
        "min_duration_s": 0.1,
        "max_silence": 0.98,
        "min_chars": 1,
        "max_repetition": 0.8,
    },
    "strict": {
        "min_side_px": 200,
        "max_aspect": 3.0,
        "min_contrast": 8.0,
        "min_duration_s": 0.5,
        "min_source_rate_hz": 16_000,
        "max_silence": 0.8,
        "max_clipping": 0.01,
        "min_chars": 6,
        "max_repetition": 0.5,
    },
}


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _limits(config: FilterConfig) -> dict[str, float]:
    """Every limit by name, 0 where it is off."""
    known = _PROFILES[config.profile]
    return {name: known.get(name, 0) if getattr(config, name) is None else getattr(config, name) for name in _NUMBERS}


def _ordered(config: FilterConfig, limits: dict[str, float], low: str, high: str) -> None:
    least, most = limits[low], limits[high]
    if least and most and least > most:
        implied = [name for name in (low, high) if getattr(config, name) is None]
        hint = f" ({_flag(implied[0])} is from --profile {config.profile}; 0 switches it off)" if implied else ""
        raise RequestError(f"{_flag(low)} {least:g} is above {_flag(high)} {most:g}, which no sample can meet{hint}")


def resolved(config: FilterConfig) -> FilterConfig:
    """The same filters without a profile: every limit has its value, 0 where it is off. This goes into the recipe."""
    return replace(config, profile="none", **_limits(config))  # type: ignore[arg-type]  # names and types are the fields' own


@functools.lru_cache(maxsize=16)
def _script_pattern(scripts: tuple[str, ...]) -> "regex.Pattern[str] | None":
    """Finds letters of these scripts. RequestError for a name that Unicode does not know."""
    for name in scripts:
        try:
            if not name.replace("_", "").isalpha():
                raise regex.error("no name")
            regex.compile(rf"\p{{Script={name}}}")
        except regex.error as exc:
            raise RequestError(
                f"--scripts {name!r} is no Unicode script; write for example Latin, Cyrillic, Han, Arabic, Devanagari"
            ) from exc
    return regex.compile("(?=[" + "".join(rf"\p{{Script={name}}}" for name in scripts) + r"])\p{L}") if scripts else None


@functools.lru_cache(maxsize=16)
def _forbidden_patterns(patterns: tuple[str, ...]) -> "tuple[regex.Pattern[str], ...]":
    """The patterns, compiled. RequestError for one that is none."""
    compiled = []
    for pattern in patterns:
        try:
            compiled.append(regex.compile(pattern))
        except regex.error as exc:
            raise RequestError(f"--forbid {pattern!r} is no regular expression: {exc}") from exc
    return tuple(compiled)


class Removed(NamedTuple):
    """Why a filter removes a sample."""

    reason: Reason
    detail: str
    """The value and the limit, for a person."""


class Filter(NamedTuple):
    """One filter that is on."""

    reason: Reason
    check: Callable[[Facts], str | None]
    """None keeps the sample; else the detail."""


def build_filters(config: FilterConfig) -> tuple[Filter, ...]:
    """The filters that are on, cheapest first. Empty where nothing was asked for."""
    limits = _limits(config)
    return tuple(
        Filter(reason, functools.partial(check, config, limits)) for reason, check, names in _CHECKS if _is_on(config, limits, names)
    )


def _is_on(config: FilterConfig, limits: dict[str, float], names: tuple[str, ...]) -> bool:
    return any(limits.get(name) or (name not in limits and getattr(config, name)) for name in names)


def judge(facts: Facts, filters: Iterable[Filter]) -> Removed | None:
    """The first filter that removes the sample, or None. RequestError for a forbidden pattern that does not end."""
    for reason, check in filters:
        detail = check(facts)
        if detail is not None:
            return Removed(reason, detail)
    return None


def needs_tokens(config: FilterConfig) -> bool:
    """A filter looks at the number of tokens: without a tokenizer the request makes no sense."""
    limits = _limits(config)
    return bool(limits["min_text_tokens"] or limits["max_text_tokens"])


Limits: TypeAlias = dict[str, float]


def _outside(value: float | None, low: float, high: float, what: str) -> str | None:
    if value is None:
        return None
    if low and value < low:
        return f"{what} {value:,.6g}, below {low:,g}"
    if high and value > high:
        return f"{what} {value:,.6g}, above {high:,g}"
    return None


def _size(_: FilterConfig, limits: Limits, facts: Facts) -> str | None:
    return _outside(facts.size_bytes, limits["min_media_bytes"], limits["max_media_bytes"], "bytes")


def _text_length(_: FilterConfig, limits: Limits, facts: Facts) -> str | None:
    length = None if facts.text is None else len(facts.text)
    return _outside(length, limits["min_chars"], limits["max_chars"], "characters")


def _resolution(_: FilterConfig, limits: Limits, facts: Facts) -> str | None:
    if not facts.width or not facts.height:
        return None
    short, long = sorted((facts.width, facts.height))
    return _outside(short, limits["min_side_px"], 0, "shorter side") or _outside(long, 0, limits["max_side_px"], "longer side")


def _aspect(_: FilterConfig, limits: Limits, facts: Facts) -> str | None:
    if not facts.width or not facts.height:
        return None
    return _outside(max(facts.width, facts.height) / min(facts.width, facts.height), 0, limits["max_aspect"], "longer by shorter side")


def _duration(_: FilterConfig, limits: Limits, facts: Facts) -> str | None:
    return _outside(facts.duration_s, limits["min_duration_s"], limits["max_duration_s"], "seconds")


def _sample_rate(_: FilterConfig, limits: Limits, facts: Facts) -> str | None:
    return _outside(facts.source_rate_hz, limits["min_source_rate_hz"], 0, "Hz")


def _tokens(_: FilterConfig, limits: Limits, facts: Facts) -> str | None:
    return _outside(facts.n_tokens, limits["min_text_tokens"], limits["max_text_tokens"], "tokens")


def _script(config: FilterConfig, _: Limits, facts: Facts) -> str | None:
    pattern = _script_pattern(config.scripts)
    if not facts.text or pattern is None:
        return None
    letters = sum(map(str.isalpha, facts.text))
    wanted = sum(1 for _ in pattern.finditer(facts.text))
    return f"{wanted} of {letters} letters are {', '.join(config.scripts)}" if 2 * wanted <= letters and letters else None


def _repetition(_: FilterConfig, limits: Limits, facts: Facts) -> str | None:
    return None if facts.text is None else _outside(repetition(facts.text), 0, limits["max_repetition"], "share of repeated sequences")


def _forbidden(config: FilterConfig, _: Limits, facts: Facts) -> str | None:
    if facts.text is None:
        return None
    for pattern in _forbidden_patterns(config.forbid):
        try:
            found = pattern.search(facts.text, timeout=PATTERN_TIMEOUT_S)
        except TimeoutError as exc:
            raise RequestError(
                f"--forbid {pattern.pattern!r} did not end within {PATTERN_TIMEOUT_S:g} s on a text of {len(facts.text):,} characters; "
                "rewrite it without nested repetition"
            ) from exc
        if found:
            return f"{pattern.pattern!r} found: {found[0][:40]!r}"
    return None


def _blank(_: FilterConfig, limits: Limits, facts: Facts) -> str | None:
    return None if facts.pixels_hwc is None else _outside(contrast(facts.pixels_hwc), limits["min_contrast"], 0, "contrast")


def _silence(_: FilterConfig, limits: Limits, facts: Facts) -> str | None:
    if facts.wave_t is None or not facts.duration_s or not len(facts.wave_t):
        return None
    rate_hz = len(facts.wave_t) / facts.duration_s
    return _outside(silence(facts.wave_t, round(rate_hz * WINDOW_S)), 0, limits["max_silence"], "silent share")


def _clipping(_: FilterConfig, limits: Limits, facts: Facts) -> str | None:
    if facts.wave_t is None or not len(facts.wave_t):
        return None
    return _outside(clipping(facts.wave_t), 0, limits["max_clipping"], "share at full scale")


_CHECKS: tuple[tuple[Reason, Callable[[FilterConfig, Limits, Facts], str | None], tuple[str, ...]], ...] = (
    (Reason.FILTERED_SIZE, _size, ("min_media_bytes", "max_media_bytes")),
    (Reason.FILTERED_TEXT_LENGTH, _text_length, ("min_chars", "max_chars")),
    (Reason.FILTERED_RESOLUTION, _resolution, ("min_side_px", "max_side_px")),
    (Reason.FILTERED_ASPECT, _aspect, ("max_aspect",)),
    (Reason.FILTERED_DURATION, _duration, ("min_duration_s", "max_duration_s")),
    (Reason.FILTERED_SAMPLE_RATE, _sample_rate, ("min_source_rate_hz",)),
    (Reason.FILTERED_TOKENS, _tokens, ("min_text_tokens", "max_text_tokens")),
    (Reason.FILTERED_SCRIPT, _script, ("scripts",)),
    (Reason.FILTERED_REPETITION, _repetition, ("max_repetition",)),
    (Reason.FILTERED_PATTERN, _forbidden, ("forbid",)),
    (Reason.FILTERED_BLANK, _blank, ("min_contrast",)),
    (Reason.FILTERED_SILENCE, _silence, ("max_silence",)),
    (Reason.FILTERED_CLIPPING, _clipping, ("max_clipping",)),
)
