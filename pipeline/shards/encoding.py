"""Text as bytes -> text, without guessing: UTF-8, or what a byte order mark says. Anything else is a reject.

A guessed encoding turns a caption into another one without a trace; a reject names its file, and can be repaired.
"""

import codecs

from pipeline.errors import Reason, SampleError

_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),  # before UTF-16, whose mark it begins with
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_FIRST = frozenset(mark[:1] for mark, _ in _MARKS)


def encoding_of(start: bytes) -> tuple[str, int]:
    """Encoding of a file by its first four bytes, and the bytes of its mark; UTF-8 where it has none."""
    for mark, name in _MARKS if start[:1] in _FIRST else ():
        if start.startswith(mark):
            return name, len(mark)
    return "utf-8", 0


def decode_text(data: bytes) -> str:
    """The text without its mark. SampleError BAD_ROW where the bytes are not of their encoding."""
    name, skip = encoding_of(data[:4])
    try:
        return data[skip:].decode(name)
    except UnicodeDecodeError as error:
        raise SampleError(Reason.BAD_ROW, f"not {name.upper()} at byte {skip + error.start}; save it as UTF-8") from error
