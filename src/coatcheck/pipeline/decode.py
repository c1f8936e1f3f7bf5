"""Stage 1: any bytes become a JSON object or a reject; never an exception.

msgspec decodes nearly everything (0.5 us for a login). What it refuses goes to the standard library's slower decoder
once more, for two reasons: a lone surrogate or a number out of range in a field that no column reads must not cost
the message, and the reject should name the true reason. A byte order mark before the text is not part of it (RFC 8259,
section 8.1, lets a reader ignore it), so it is looked for there too.
"""

from __future__ import annotations

import codecs
import json
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import msgspec

from coatcheck.pipeline.message import Reason, Reject

JsonObject = dict[str, Any]
_REFUSALS = (msgspec.MsgspecError, UnicodeError, RecursionError, ArithmeticError)


_MARK, _MARK_UTF8 = "\ufeff", codecs.BOM_UTF8
_MARKS_UTF16 = ("\ufffe", "\u00ff\u00fe", "\u00fe\u00ff")  # the mark backwards, and as Latin-1 shows it
_MARKS_UTF16_BYTES = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def _unmarked(body: str | bytes) -> str | bytes | None:
    """Return the body without its byte order mark, None if it has none."""
    if isinstance(body, str):
        return body[1:] if body.startswith(_MARK) else None
    return body[len(_MARK_UTF8) :] if body.startswith(_MARK_UTF8) else None


def _is_utf16(body: str | bytes) -> bool:
    if isinstance(body, str):
        return body.startswith(_MARKS_UTF16)
    return body.startswith(_MARKS_UTF16_BYTES) and not body.startswith(codecs.BOM_UTF32_LE)


def _not_a_number(name: str) -> float:
    raise ValueError(name)  # NaN and Infinity are no JSON (RFC 8259, section 6); the caller drops this text


def decoder(*, exact: bool) -> Callable[[str | bytes], JsonObject | Reject]:
    """Build the decode stage; with `exact` numbers with a fraction become Decimal (numeric and jsonb columns)."""
    number: Callable[[str], Any] = Decimal if exact else float
    fast = msgspec.json.Decoder(float_hook=number if exact else None).decode

    def explain(body: str | bytes) -> JsonObject | Reject:
        try:
            text = body if isinstance(body, str) else body.decode()
            value = json.loads(text, parse_constant=_not_a_number, parse_float=number)
        except RecursionError:
            return Reject(Reason.TOO_DEEP)
        except (json.JSONDecodeError, UnicodeDecodeError):
            return Reject(Reason.NOT_JSON, "UTF-16" if _is_utf16(body) else "")
        except ValueError as error:  # NaN, or an int of more digits than Python converts
            return Reject(Reason.OUT_OF_RANGE if "digits" in str(error) else Reason.NOT_JSON)
        except ArithmeticError:
            return Reject(Reason.OUT_OF_RANGE)
        return value if isinstance(value, dict) else Reject(Reason.NOT_AN_OBJECT)

    def decode(body: str | bytes) -> JsonObject | Reject:
        try:
            value = fast(body)
        except _REFUSALS:
            rest = _unmarked(body)
            if rest is None:
                return explain(body)
            try:
                value = fast(rest)
            except _REFUSALS:
                return explain(rest)
        return value if type(value) is dict else Reject(Reason.NOT_AN_OBJECT)

    return decode
