"""Words as the captioning literature counts them: the Penn Treebank's tokens, lower-cased, without punctuation.

The published scores of COCO captions go through Stanford's PTBTokenizer, a Java program, and then drop a list of marks.
This is that tokenizer for the text of captions, in one regular expression; a golden file holds it to the original.
Brackets stay as -lrb- and the like, as they do there: the list names them in capitals and the words are lower case.
"""

import functools
import hashlib
import re

import numpy as np

_DROPPED = frozenset({"''", "'", "``", "`", ".", "?", "!", ",", ":", "-", "--", "---", "----", "...", ";"})
_BRACKETS = {"(": "-lrb-", ")": "-rrb-", "[": "-lsb-", "]": "-rsb-", "{": "-lcb-", "}": "-rcb-", "€": "$", "£": "#"}
_STRAIGHT = str.maketrans({"’": "'", "‘": "'", "“": '"', "”": '"', "–": " -- ", "—": " -- ", "…": "..."})
_ENTITIES = (("&amp;", "&"), ("&lt;", "<"), ("&gt;", ">"), ("&quot;", '"'), ("&apos;", "'"))

_TITLES = "mr|mrs|ms|dr|prof|st|jr|sr|vs|etc|gen|col|sgt|lt|capt|rev|gov|sen|rep|inc|ltd|co|corp|ave|blvd"
_MONTHS = "jan|feb|mar|apr|jun|jul|aug|sep|sept|oct|nov|dec"
_CUT = r"can(?=not\b)|gon(?=na\b(?!-))|wan(?=na\b(?!-))|got(?=ta\b(?!-))|lem(?=me\b)|gim(?=me\b)|'t(?=is\b|was\b)|y'(?=all\b)"
_TOKEN = re.compile(
    rf"""
      (?:https?://|www\.)\S+?(?=[.,;:!?'"]*(?:\s|$))
    | [\w.+-]+@[\w-]+(?:\.[\w-]+)+
    | </?[a-z]+/?>
    | [:;=]-?[()]                                       # a smile; its bracket is written out below
    | (?<!\w)[a-z](?:\.[a-z])+(?![\w.])
    | (?:[a-z]\.){{2,}}(?![a-z])                            # u.s., p.m.
    | (?:{_TITLES}|{_MONTHS})\.(?=\s|$|,)
    | (?:no|fig)\.(?=\s?\d)
    | (?<!\w)[a-hj-z]\.(?=\s|$)                         # an initial, or the letter of a list
    | (?<!\w)(?:{_CUT})
    | us\$
    | '(?:s|m|d|ll|re|ve)(?!\w)                         # it 's, they 'd
    | n't(?!\w|-)
    | (?<!\w)'(?:n'|em|\d0s)(?!\w)
    | \d+(?:[.,:/]\d+)+(?:-\w+(?:-\w+)*)?
    | [#@](?!\d)\w+
    | at&t | (?<!\w)[a-z]&[a-z](?!\w)
    | c\+\+ | c\#
    | (?:(?!n't(?!\w))[^\W])+(?:(?:(?<=\bo)'|(?<=\bd)'|[-/]|\.(?=[^\W\d]{{2}}|[a-z]\.))(?:(?!n't(?!\w))[^\W])+)*
    | ``|''|\.\.\.|--+|[?!]{{2,}}|\S
    """,
    re.VERBOSE,
)


@functools.lru_cache(maxsize=65_536)
def words(text: str) -> tuple[str, ...]:
    """The tokens of one line of text, without punctuation."""
    line = text.lower().translate(_STRAIGHT)
    for entity, plain in _ENTITIES:
        line = line.replace(entity, plain)
    return tuple(_spelled(token) for token in _TOKEN.findall(line) if token not in _DROPPED and token != '"')


def _spelled(token: str) -> str:
    if token.isalnum():
        return token
    if token[0] in ":;=" and len(token) > 1:
        return token[:-1] + _BRACKETS[token[-1]]
    return _BRACKETS.get(token, token)


@functools.lru_cache(maxsize=1 << 20)
def word_hash(word: str) -> int:
    """64 bits that stand for a word, the same in every process."""
    return int.from_bytes(hashlib.blake2b(word.encode(errors="surrogatepass"), digest_size=8).digest(), "little")


def hashed(sentence: tuple[str, ...]) -> np.ndarray:
    """The words of a sentence as uint64."""
    return np.fromiter((word_hash(word) for word in sentence), np.uint64, len(sentence))
