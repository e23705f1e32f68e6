"""Text -> the same text in one form: Unicode, HTML entities, characters without a meaning, white space.

Every function of it is idempotent: normalised text comes out as it went in, so that a second run changes nothing.
What people see is left alone: ZWJ and ZWNJ (emoji, Persian, Hindi), variation selectors, flags, marks of direction.
What nobody sees goes: control characters, byte order marks, soft hyphens, and tag characters outside flags, which can
hide whole sentences. Entities are resolved however deeply they are escaped, in one pass: looping until nothing changes would
take minutes on a megabyte of `&amp;amp;amp;`. Standard library only; mojibake is not mended.
"""

import functools
import html
import re
import unicodedata
from dataclasses import dataclass
from html.entities import html5
from typing import Literal, get_args

from pipeline.errors import RequestError

Form = Literal["none", "NFC", "NFKC"]
WhiteSpace = Literal["keep", "lines", "single"]


@dataclass(frozen=True, kw_only=True, slots=True)
class TextConfig:
    """What texts are brought to. Part of the recipe."""

    form: Form = "NFC"
    """`NFC` composes letters and marks; `NFKC` also folds full-width, Arabic presentation and other compatibility forms, emoji excepted."""
    entities: bool = True
    """Resolve HTML entities that end in a semicolon: `&eacute;`, `&#233;`, `&amp;amp;`. Tags stay."""
    invisible: bool = True
    """Remove control characters and other characters without a meaning; white space is not among them."""
    white_space: WhiteSpace = "single"
    """`single`: one line, one space between words; `lines`: the same within lines, at most one empty line; `keep`: as it is."""

    def __post_init__(self) -> None:
        """Raises RequestError for an unknown form or white space."""
        if self.form not in get_args(Form):
            raise RequestError(f"form {self.form!r}: give one of {', '.join(get_args(Form))}")
        if self.white_space not in get_args(WhiteSpace):
            raise RequestError(f"white_space {self.white_space!r}: give one of {', '.join(get_args(WhiteSpace))}")


_INVISIBLE = re.compile(
    "[\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f"  # control characters without those of white space
    "\xad"  # soft hyphen
    "\u206a-\u206f\ufeff\ufff9-\ufffc"  # deprecated format characters, byte order mark, annotations, object replacement
    "\ufdd0-\ufdef" + "".join(f"{chr(plane + 0xFFFE)}{chr(plane + 0xFFFF)}" for plane in range(0, 0x110000, 0x10000)) + "]"  # noncharacters
)
_SILENT = frozenset({"Cc", "Cf", "Mn", "Me"})
_SURROGATE = re.compile("[\ud800-\udfff]")
_FLAG_OR_TAGS = re.compile("(\U0001f3f4[\U000e0020-\U000e007e]+\U000e007f)|[\U000e0000-\U000e007f]+")
"""A flag of a region (black flag, tags, end), or tags without one."""

_EMOJI_STYLE = "\u203c\u2049\u2122\u2139\u24c2\u3297\u3299\U0001f202\U0001f237"
"""Characters of emoji-variation-sequences.txt (Unicode 16) that NFKC takes apart; emoji if U+FE0F follows."""
_EMOJI = "\U0001f201\U0001f21a\U0001f22f\U0001f232-\U0001f236\U0001f238-\U0001f23a\U0001f250\U0001f251"
"""Characters with Emoji_Presentation (emoji-data.txt, Unicode 16) that NFKC takes apart."""
_PROTECTED = re.compile(f"([{_EMOJI_STYLE}]\ufe0f|[{_EMOJI}])")

_NUMERIC = re.compile("#(?:[0-9]{1,10}|[xX][0-9a-fA-F]{1,8})")
_LONGEST_ENTITY = max(map(len, html5)) + 1
_LINE_END = re.compile("\r\n|[\n\r\x0b\x0c\x85\u2028\u2029]")


def normalise_text(text: str, config: TextConfig) -> str:
    """The text as `config` says; maybe empty. Lone surrogates, which no file can hold, become U+FFFD in every case.

    normalise_text(normalise_text(text, c), c) == normalise_text(text, c), for every text and c.
    """
    text = _SURROGATE.sub("\ufffd", text)
    if config.invisible:
        text = _INVISIBLE.sub("", _without_stray_tags(text))
    text = _to_form(text, config.form)
    if config.entities and "&" in text:
        text = _resolve_entities(text, config)
        if config.invisible:
            text = _without_stray_tags(text)
        text = _to_form(text, config.form)
    return _space(text, config.white_space)


def shows_something(text: str) -> bool:
    """False for a text of white space and characters that only act on their neighbours: joiners, marks of direction, selectors."""
    return any(not character.isspace() and unicodedata.category(character) not in _SILENT for character in text)


def _without_stray_tags(text: str) -> str:
    return _FLAG_OR_TAGS.sub(lambda found: found[1] or "", text)


def _to_form(text: str, form: Form) -> str:
    """In NFC or NFKC; emoji that NFKC would turn into letters stay."""
    if form == "none" or unicodedata.is_normalized(form, text):
        return text
    if form == "NFKC":
        # Protected characters neither combine with what follows nor with what precedes.
        return "".join(part if at % 2 else unicodedata.normalize(form, part) for at, part in enumerate(_PROTECTED.split(text)))
    return unicodedata.normalize(form, text)


def _resolve_entities(text: str, config: TextConfig) -> str:
    """The text without entities: what an entity stands for may complete another one before it.

    Left to right on a stack: at each semicolon its top is looked at, as the later steps would show it. So no entity is left,
    and none comes into being when those steps fold `ｌｔ` or remove what is invisible.
    """
    stack: list[str] = []
    for character in text:
        stack.append(character)
        while stack and _shown(stack[-1], config) == ";":
            found = _entity_on(stack, config)
            if found is None:
                break
            start, meaning = found
            del stack[start:]
            stack.extend(_INVISIBLE.sub("", meaning) if config.invisible else meaning)
    return "".join(stack)


@functools.lru_cache(maxsize=4096)
def _shown(character: str, config: TextConfig) -> str:
    if config.invisible and "\U000e0000" <= character <= "\U000e007f":
        return ""
    return character if config.form == "none" else unicodedata.normalize(config.form, character)


def _entity_on(stack: list[str], config: TextConfig) -> tuple[int, str] | None:
    """Where an entity starts that ends with the top of the stack, and what it stands for; None if there is none."""
    name = ""
    for start in range(len(stack) - 2, -1, -1):
        shown = _shown(stack[start], config)
        if shown == "&":
            meaning = _meaning(name)
            return None if meaning is None else (start, meaning)
        name = shown + name
        if len(name) > _LONGEST_ENTITY or not (name.isascii() and (name == "" or name.lstrip("#").isalnum())):
            return None
    return None


def _meaning(name: str) -> str | None:
    """What `&name;` stands for in HTML; None where it is no entity, or a number of no character."""
    if _NUMERIC.fullmatch(name):
        return html.unescape(f"&{name};")
    return html5.get(f"{name};")


def _space(text: str, white_space: WhiteSpace) -> str:
    if white_space == "single":
        return " ".join(text.split())
    if white_space == "lines":
        lines = [" ".join(line.split()) for line in _LINE_END.split(text)]
        return re.sub("\n{3,}", "\n\n", "\n".join(lines)).strip("\n")
    return text
