"""What two texts are compared by: words and characters after a normaliser that both sides go through.

`english` is Whisper's (numbers, contractions, British spellings, fillers); `neutral` is for every other language:
lower case, NFKC, brackets with what is in them, symbols and punctuation gone, combining marks kept, because in Indic
scripts they are vowels. In languages that are written without spaces each character counts as a word.
"""

import functools
import re
from collections.abc import Callable

from pipeline.errors import RequestError
from pipeline.evaluation import tokens

AUTO, ENGLISH, NEUTRAL = "auto", "english", "neutral"
NAMES = (AUTO, ENGLISH, NEUTRAL)
_FILLERS = ("hmm", "mm", "mhm", "mmm", "uh", "um")
_PLAIN = re.compile(r"""[a-z ,.!?;:"-]*""")
_SPACES = str.maketrans(',.!?;:"-', " " * 8)
WITHOUT_SPACES = frozenset({"zh", "ja", "th", "lo", "my", "km", "yue"})


def check(name: str) -> str:
    """The name, if there is such a normaliser. RequestError otherwise."""
    if name not in NAMES:
        raise RequestError(
            f"--normaliser {name} is unknown; choose {', '.join(NAMES)} (auto: english for captions marked en, else neutral)"
        )
    return name


@functools.cache
def _english() -> Callable[[str], str]:
    """Whisper's normaliser, asked only for texts that hold something it would change: it takes 200 us a text."""
    from whisper_normalizer.english import EnglishTextNormalizer

    full = EnglishTextNormalizer()
    changed = {*full.standardize_numbers.words, *full.standardize_spellings.mapping, "half", *_FILLERS} - {"and"}
    changed |= {word for pattern in full.replacers for word in re.findall(r"[a-z]+", pattern.replace(r"\b", " "))}

    def normaliser(text: str) -> str:
        plain = text.lower()
        if _PLAIN.fullmatch(plain) and ".." not in plain:
            words = plain.translate(_SPACES).split()
            if changed.isdisjoint(words) and "and and" not in (line := " ".join(words)):
                return line
        return str(full(text))

    return normaliser


@functools.cache
def _neutral(split_letters: bool) -> Callable[[str], str]:
    from whisper_normalizer.basic import BasicTextNormalizer

    normaliser: Callable[[str], str] = BasicTextNormalizer(preserve_marks=True, split_letters=split_letters)
    return normaliser


def spaceless(language: str | None) -> bool:
    """True for a language that is written without spaces between words. Tags such as zh-TW count by their first part."""
    return language is not None and language.lower().replace("_", "-").split("-")[0] in WITHOUT_SPACES


@functools.lru_cache(maxsize=65_536)
def normalised(text: str, language: str | None, name: str) -> str:
    """The text as it is compared; words are what stands between single spaces. `name` is one of NAMES."""
    english = name == ENGLISH or (name == AUTO and language is not None and language.lower().split("-")[0] == "en")
    return " ".join((_english() if english else _neutral(spaceless(language)))(text).split())


def words_of(text: str, language: str | None) -> tuple[str, ...]:
    """Penn Treebank tokens, or characters where words are not separated by spaces."""
    if spaceless(language):
        return tuple(_neutral(True)(text).split())
    return tokens.words(text)
