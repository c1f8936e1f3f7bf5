"""Stage 1: any bytes become a JSON object or a reject; never an exception.

msgspec decodes nearly everything (0.5 us for a login). What it refuses goes to the standard library's slower decoder
once more, for two reasons: a lone surrogate or a number out of range in a field that no column reads must not cost
the message, and the reject should name the true reason.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import msgspec

from coatcheck.pipeline.message import Reason, Reject

JsonObject = dict[str, Any]


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
        except json.JSONDecodeError:
            return Reject(Reason.NOT_JSON)
        except UnicodeDecodeError:
            return Reject(Reason.NOT_JSON)
        except ValueError as error:  # NaN, or an int of more digits than Python converts
            return Reject(Reason.OUT_OF_RANGE if "digits" in str(error) else Reason.NOT_JSON)
        except ArithmeticError:
            return Reject(Reason.OUT_OF_RANGE)
        return value if isinstance(value, dict) else Reject(Reason.NOT_AN_OBJECT)

    def decode(body: str | bytes) -> JsonObject | Reject:
        try:
            value = fast(body)
        except (msgspec.MsgspecError, UnicodeError, RecursionError, ArithmeticError):
            return explain(body)
        return value if type(value) is dict else Reject(Reason.NOT_AN_OBJECT)

    return decode
