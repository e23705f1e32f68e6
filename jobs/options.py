"""Values that several jobs take in the same form."""

import re

from pipeline.errors import RequestError

_UNITS = {"": 1, "B": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "KI": 1 << 10, "MI": 1 << 20, "GI": 1 << 30, "TI": 1 << 40}


def byte_count(flag: str, text: str) -> int:
    """Bytes of `512MiB`, `4GB`, `1000`. RequestError names the flag."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?I?)B?\s*", text.upper())
    if match is None:
        raise RequestError(f"{flag} {text!r} is no size; write for example 512MiB, 4GB or 1000000")
    return int(float(match[1]) * _UNITS[match[2]])
