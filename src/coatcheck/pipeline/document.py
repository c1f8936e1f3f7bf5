"""What a jsonb column keeps: a JSON text that PostgreSQL stores, and that everybody can read again.

jsonb stores `1e131071` in a few bytes and writes it out as 131,072 digits each time it is read: a message of 75 KB made
a table that neither SELECT nor pg_dump could read. So numbers are bounded as those of numeric columns are, and nesting
and size too. The text is searched for signs of such a number first; only a document that has some is walked through.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import msgspec

from coatcheck.pipeline.message import Reason

DIGITS = 1000
"""Most digits of a number, before or after the point. PostgreSQL's numeric goes further; no honest message does."""
DEPTH = 500
"""Most levels of a document: parsers that others read it with follow 1,000 at most (Python's, Jackson's)."""
SIZE = 32 * 2**20
"""Most characters of a document with its numbers written out (jsonb itself holds less than 256 MiB)."""

_FIRST_TOO_LARGE: int = 10**DIGITS
_STEP, _SAMPLES = 100, DIGITS // 100 - 1
_long_run = re.compile(rf"[0-9.]{{{_SAMPLES}}}").search
_long_exponent = re.compile("E[+-][0-9]{3}").search  # Decimal writes a capital E, and always the sign
_GROWS_MOST = 20  # times, of numbers with shorter exponents: 1E+99 is written out as 100 digits
_json = msgspec.json.Encoder(decimal_format="number").encode


def written(value: Any) -> str | Reason:
    """Return a JSON value as the text to store, or why it cannot be stored."""
    try:
        text = _json(value).decode()
    except RecursionError:
        return Reason.TOO_DEEP
    except (UnicodeEncodeError, ValueError, msgspec.MsgspecError, OverflowError):
        return Reason.OUT_OF_RANGE if _holds_huge(value) else Reason.INVALID_TEXT
    if len(text) > 2 * DEPTH and text.count("[") + text.count("{") > DEPTH and _deeper(value, DEPTH):
        return Reason.TOO_DEEP
    if "\\u0000" in text and any("\0" in inner for inner in _inner(value) if isinstance(inner, str)):
        return Reason.INVALID_TEXT
    return _bounded(text, value)


def in_range(number: float | Decimal) -> bool:
    """Tell whether a number is finite and has at most DIGITS digits, and as many before or after its point."""
    if isinstance(number, int):
        return abs(number) < _FIRST_TOO_LARGE
    if isinstance(number, float):
        return math.isfinite(number)
    return number.is_finite() and len(number.as_tuple().digits) <= DIGITS and abs(number.adjusted()) <= DIGITS


def _bounded(text: str, value: Any) -> str | Reason:
    """Return the text if its numbers are in range, and it is not too long with all of them written out."""
    size = len(text)
    if size > SIZE:
        return Reason.TOO_LONG
    usual = size < DIGITS or (size * _GROWS_MOST <= SIZE and not _long_run(text[::_STEP]))
    if usual and not ("E" in text and _long_exponent(text)):
        return text
    for number in _numbers(value):
        if not in_range(number):
            return Reason.OUT_OF_RANGE
        if isinstance(number, Decimal):
            size += abs(number.adjusted())
    return text if size <= SIZE else Reason.OUT_OF_RANGE


def _numbers(value: Any) -> Iterator[float | Decimal]:
    for inner in _inner(value):
        if isinstance(inner, (int, float, Decimal)) and not isinstance(inner, bool):
            yield inner


def _holds_huge(value: Any) -> bool:
    return not all(map(in_range, _numbers(value)))


def _inner(value: Any) -> Iterator[Any]:
    """Yield a JSON value, and all keys and values in it. A loop: the decoder follows deeper than Python calls go."""
    waiting = [value]
    while waiting:
        inner = waiting.pop()
        yield inner
        if isinstance(inner, dict):
            waiting += inner.keys()
            waiting += inner.values()
        elif isinstance(inner, list):
            waiting += inner


def _deeper(value: Any, depth: int) -> bool:
    """Tell whether arrays and objects nest deeper than `depth`."""
    level = [value]
    for _ in range(depth):
        level = [inner for outer in level for inner in _children(outer)]
        if not level:
            return False
    return True


def _children(value: Any) -> Iterator[Any]:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return (child for child in inner if isinstance(child, (dict, list)))
