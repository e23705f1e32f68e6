"""What is wrong with a caption, judged from the caption alone: flags, each a pure function of one text.

What was measured: `infra/bench/flags.py` corrupts good captions in known ways and counts precision and recall of each.
Cost: 0.2 ms a caption; telling languages apart that share a script costs 0.2 ms more, and is done only where one is expected.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import regex

from pipeline.captions.phrases import BOILERPLATE, MACHINE, MARKUP, NUMBERS, REFUSAL


class Flag(StrEnum):
    """What may be wrong with a caption."""

    REPEATS = "repeats"  # a loop, or most of it said before
    CUT = "cut"  # ended at the token limit
    REFUSAL = "refusal"  # a refusal or apology in its place
    BOILERPLATE = "boilerplate"  # opens with "This image shows" and the like
    ECHO = "echo"  # says the prompt
    LANGUAGE = "language"  # not the language or script that was expected, or scripts mixed
    EMPTY = "empty"  # nothing, or no letter and no digit
    SHORT = "short"  # for its medium
    LONG = "long"
    LEAK = "leak"  # markup, special tokens, coordinates, file names, mojibake


@dataclass(frozen=True, slots=True)
class Said:
    """A caption and what it is judged by."""

    text: str
    modality: str = "image"
    duration_s: float | None = None
    """Of the recording or clip; None for pictures."""
    transcript: bool = False
    """Words that somebody spoke: apologies and numbers are then no fault, and its length goes by the time."""
    cut: bool = False
    """The engine says that it ended at the token limit."""
    instruction: str = ""
    """The fixed words of the prompt; empty where the prompt is the caption's own beginning."""
    reference: str = ""
    """The text that came with the medium: where that is a name, so may the caption be."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Bounds:
    """What counts as too short, too long, or another language."""

    language: str = ""
    """ISO 639-1; empty expects none."""
    min_words: int = 2
    max_words: int = 300
    min_chars_per_s: float = 0.5
    """Of transcripts of 10 s and more."""
    max_chars_per_s: float = 30.0
    """Of transcripts; people reach 20."""


SLOW_AFTER_S = 10.0
"""Recordings from this length on are too short for their time if hardly anything was said."""
SILENT_S = 1.0
"""Below this a transcript's rate means nothing."""
FOREIGN_SHARE = 0.35
"""Share of letters in unexpected scripts."""
MIXED_SHARE = 0.2
LETTERS_TO_TELL = 20
"""Fewest letters by which languages of one script are told apart."""
MARGIN_NATS = 8.0
"""By so much another language has to be more probable."""
NAME_WORDS = 5
"""A reference of at most so many words is a name, and what is said of its medium may be one word: of emoji 37 % have such names."""
GRAM = 5
"""Words in a row that an echo has in common with the prompt."""

_WORD_LETTERS = 15
"""Mean letters a word from which a text is taken to have no spaces."""
_STUTTER = regex.compile(r"(?i)(\S{1,8}?)\1{7,}")
_WORDS = regex.compile(r"[\p{L}\p{M}\p{N}']+")
_LETTERS = regex.compile(r"\p{L}")
_SCRIPTS = {
    "cjk": regex.compile(r"[\p{Han}\p{Hiragana}\p{Katakana}\p{Hangul}]"),
    **{
        name: regex.compile(rf"\p{{{name}}}")
        for name in ("Latin", "Cyrillic", "Arabic", "Hebrew", "Devanagari", "Thai", "Greek", "Bengali", "Tamil", "Georgian", "Armenian")
    },
}
_PLAIN = regex.compile(r"[\x00-\x7F]*")
_SCRIPT_OF = {
    **dict.fromkeys(("zh", "ja", "ko"), "cjk"),
    **dict.fromkeys(("ru", "uk", "bg", "sr", "mk", "be", "kk", "mn"), "Cyrillic"),
    **dict.fromkeys(("ar", "fa", "ur", "ps"), "Arabic"),
    **dict.fromkeys(("hi", "mr", "ne"), "Devanagari"),
    "he": "Hebrew",
    "th": "Thai",
    "el": "Greek",
    "bn": "Bengali",
    "ta": "Tamil",
    "ka": "Georgian",
    "hy": "Armenian",
}
_KANA, _HANGUL = regex.compile(r"[\p{Hiragana}\p{Katakana}]"), regex.compile(r"\p{Hangul}")


def flags_of(said: Said, bounds: Bounds = Bounds()) -> tuple[Flag, ...]:
    """What is wrong with a caption, in the order of `Flag`; nothing else is looked at in an empty one."""
    text = said.text.strip()
    words = units(text)
    if not words:
        return (Flag.CUT, Flag.EMPTY) if said.cut else (Flag.EMPTY,)
    found = {
        Flag.REPEATS: repeats(words, text, spoken=said.transcript),
        Flag.CUT: said.cut,
        Flag.REFUSAL: (MACHINE if said.transcript else REFUSAL).search(text) is not None,
        Flag.BOILERPLATE: not said.transcript and BOILERPLATE.search(text) is not None,
        Flag.ECHO: bool(said.instruction) and echoes(words, said.instruction),
        Flag.LANGUAGE: is_foreign(text, bounds.language),
        Flag.SHORT: _short(words, said, bounds),
        Flag.LONG: _long(words, said, bounds),
        Flag.LEAK: MARKUP.search(text) is not None or (not said.transcript and _numbers(text)),
    }
    return tuple(flag for flag in Flag if found.get(flag))


def units(text: str) -> list[str]:
    """Words in lower case without punctuation; characters where a text has no spaces."""
    words: list[str] = _WORDS.findall(text.lower())
    if words and sum(map(len, words)) > _WORD_LETTERS * len(words) or (words and _SCRIPTS["cjk"].search(text)):
        return [unit for word in words for unit in (word if _SCRIPTS["cjk"].search(word) or len(word) > 40 else (word,))]
    return words


def repeats(words: Sequence[str], text: str, *, spoken: bool = False) -> bool:
    """True for a loop: the same words three times in a row (one word more often), a long stretch twice, or half of all trigrams repeated."""
    if _STUTTER.search(text):
        return True
    grams = set(zip(words, words[1:], words[2:], strict=False))
    total = len(words) - 2
    if total < 2 or len(grams) == total:
        return False
    if total >= 10 and len(grams) <= total / 2:
        return True
    for period in range(1, min(40, len(words) // 2) + 1):
        run = best = 0
        for first, second in zip(words, words[period:], strict=False):
            run = run + 1 if first == second else 0
            best = max(best, run)
        if _is_loop(period, best, spoken):
            return True
    return False


def _is_loop(period: int, run: int, spoken: bool) -> bool:
    """`run` units in a row equal the one `period` before: run / period further rounds."""
    if period == 1:
        return run >= (5 if spoken else 3)
    if period == 2:
        return run >= (6 if spoken else 4)
    return run >= 2 * period or (run >= period >= 6)


def echoes(words: Sequence[str], instruction: str) -> bool:
    """True if five words in a row of the prompt are in the caption; of a shorter one, of three words or more, all."""
    length, grams = _grams(instruction)
    return bool(grams) and any(tuple(words[at : at + length]) in grams for at in range(len(words) - length + 1))


@functools.lru_cache(maxsize=256)
def _grams(instruction: str) -> tuple[int, frozenset[tuple[str, ...]]]:
    words = units(instruction)
    length = min(GRAM, len(words))
    if length < 3:
        return 0, frozenset()
    return length, frozenset(tuple(words[at : at + length]) for at in range(len(words) - length + 1))


def is_foreign(text: str, language: str) -> bool:
    """True for letters of another script than the language has, for another language of its script, and for scripts mixed."""
    if not language and _PLAIN.fullmatch(text):
        return False
    letters = len(_LETTERS.findall(text))
    if not letters:
        return False
    counts = {name: len(pattern.findall(text)) for name, pattern in _SCRIPTS.items()}
    if not language:
        return sum(count > MIXED_SHARE * letters for count in counts.values()) > 1
    script = _SCRIPT_OF.get(language, "Latin")
    if counts[script] < (1 - FOREIGN_SHARE) * letters or _wrong_cjk(text, language, letters):
        return True
    if script == "cjk" or letters < LETTERS_TO_TELL:
        return False
    return _margin(text, language) > MARGIN_NATS


def _wrong_cjk(text: str, language: str, letters: int) -> bool:
    if language not in ("zh", "ja", "ko"):
        return False
    kana, hangul = len(_KANA.findall(text)), len(_HANGUL.findall(text))
    if language == "zh":
        return kana + hangul > MIXED_SHARE * letters
    if language == "ko":
        return hangul < MIXED_SHARE * letters
    return hangul > MIXED_SHARE * letters or (kana == 0 and letters >= LETTERS_TO_TELL)


def _margin(text: str, language: str) -> float:
    """By how many nats the most probable language is more so than this one; 0 for one that the library does not know."""
    import py3langid

    ranked = dict(py3langid.rank(text))
    return max(ranked.values()) - ranked[language] if language in ranked else 0.0


def _short(words: Sequence[str], said: Said, bounds: Bounds) -> bool:
    if said.transcript:
        spoken = sum(map(len, words))
        return (said.duration_s or 0.0) >= SLOW_AFTER_S and spoken < bounds.min_chars_per_s * (said.duration_s or 0.0)
    return _count(words) < bounds.min_words and not 0 < _count(units(said.reference)) <= NAME_WORDS


def _long(words: Sequence[str], said: Said, bounds: Bounds) -> bool:
    if said.transcript:
        return sum(map(len, words)) > bounds.max_chars_per_s * max(SILENT_S, said.duration_s or 0.0)
    return _count(words) > bounds.max_words


def _count(words: Sequence[str]) -> float:
    """Words; of scripts without spaces two characters count as one."""
    single = sum(len(word) == 1 and not word.isascii() for word in words)
    return len(words) - single / 2


def _numbers(text: str) -> bool:
    digits = sum(character.isdigit() for character in text)
    return digits > 2 and (NUMBERS.search(text) is not None or (digits >= 6 and digits > len(text.replace(" ", "")) / 2))
