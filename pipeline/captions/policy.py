"""What becomes of a flagged caption: kept as it is, flagged, asked for again, or rejected.

A caption that is asked for again is asked otherwise: at another temperature, with another seed, or by another prompt, and
every attempt is counted. Of all attempts the one with the fewest faults is taken, the earliest of equals.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal, NamedTuple, get_args

from cyclopts import Parameter

from pipeline.captions.quality import Bounds, Flag
from pipeline.errors import Reason, RequestError

Policy = Literal["keep", "flag", "retry", "reject"]


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True, slots=True)
class QualityConfig:
    """What is done about captions with faults: keep says nothing, flag notes it in the row, retry asks again, reject quarantines."""

    on_repeats: Policy = "flag"
    """Loops: the same words again and again."""
    on_cut: Policy = "flag"
    """Cut at the token limit."""
    on_refusal: Policy = "flag"
    """Refusals and apologies in place of a caption."""
    on_boilerplate: Policy = "flag"
    """Openings such as "This image shows"."""
    on_echo: Policy = "flag"
    """The prompt's own words."""
    on_language: Policy = "flag"
    """Another language or script than --expect-language, or scripts mixed."""
    on_empty: Policy = "flag"
    """Nothing, or punctuation only."""
    on_short: Policy = "flag"
    """Fewer words than --min-words, where the text that came with it is more than a name; hardly any speech for a recording of 10 s and more."""
    on_long: Policy = "flag"
    """More words than --max-words; more speech than its time allows."""
    on_leak: Policy = "flag"
    """Markup, special tokens, coordinates, file names, garbled bytes."""
    retries: int = 2
    """Attempts after the first, where the policy is retry; what is still wrong after them is flagged."""
    retry_temperature: float = 0.7
    """Temperature of these attempts; a temperature that is higher anyway stays, with another seed."""
    retry_prompt: str = ""
    """Prompt of these attempts; empty is the same prompt as before."""
    expect_language: str = ""
    """Language that captions must be in (ISO 639-1: en, de, zh); empty expects that of --language, else none."""
    min_words: int = 2
    """Fewest words of a picture's or clip's caption; where the text that came with it has at most 5 words, a name, fewer are no fault."""
    max_words: int = 300
    """Most words of it."""
    max_chars_per_s: Annotated[float, Parameter(negative=())] = 30.0
    """Most letters a second of a transcript; people reach 20."""

    def __post_init__(self) -> None:
        """Raises RequestError for a value that cannot be meant."""
        for flag in Flag:
            if self.policy(flag) not in get_args(Policy):
                raise RequestError(f"--on-{flag.value} {self.policy(flag)!r}: give one of {', '.join(get_args(Policy))}")
        if not 0 <= self.retries <= 10:
            raise RequestError(f"--retries {self.retries}: give 0 to 10")
        if not 0 < self.retry_temperature <= 5:
            raise RequestError(
                f"--retry-temperature {self.retry_temperature}: give a value above 0, at most 5; at 0 a retry says the same again"
            )
        if not 0 <= self.min_words <= self.max_words:
            raise RequestError(
                f"--min-words {self.min_words} and --max-words {self.max_words}: give 0 or more, and not more words at least than at most"
            )
        if not self.max_chars_per_s > 0:
            raise RequestError(f"--max-chars-per-s {self.max_chars_per_s}: give a value above 0")

    def policy(self, flag: Flag) -> Policy:
        """What is done about a flag."""
        found: Policy = getattr(self, f"on_{flag.value}")
        return found

    @property
    def may_retry(self) -> bool:
        """True if any flag is answered by asking again."""
        return self.retries > 0 and any(self.policy(flag) == "retry" for flag in Flag)

    def bounds(self, language: str) -> Bounds:
        """What flags are measured by; `language` is that of the engine's options."""
        return Bounds(
            language=self.expect_language or language,
            min_words=self.min_words,
            max_words=self.max_words,
            max_chars_per_s=self.max_chars_per_s,
        )


class Verdict(NamedTuple):
    """What becomes of one caption."""

    flags: tuple[str, ...]
    """That stand in its row."""
    again: int
    """Faults for which it is asked for again; 0 is none."""
    reason: Reason | None
    """Why it is rejected, if it is."""


def judge(flags: Sequence[Flag], config: QualityConfig) -> Verdict:
    """Flags by their policies."""
    by_policy: dict[str, list[Flag]] = {name: [] for name in get_args(Policy)}
    for flag in flags:
        by_policy[config.policy(flag)].append(flag)
    rejected = by_policy["reject"]
    shown = tuple(flag.value for flag in flags if config.policy(flag) != "keep")
    return Verdict(shown, len(by_policy["retry"]) if config.retries else 0, reason_of(rejected[0]) if rejected else None)


def reason_of(flag: Flag) -> Reason:
    """The reason by which captions with this flag are rejected."""
    return Reason(f"flagged_{flag.value}")
