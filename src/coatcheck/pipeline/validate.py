"""Stage 2: a JSON object becomes a record, the values of all columns in order; or a reject.

Everything PostgreSQL would refuse is refused here first: lengths, ranges, NUL, lone surrogates. A masked column's
value only has its presence checked; its canonical form decides in the mask stage.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from functools import lru_cache
from ipaddress import IPv6Address
from typing import Any

from coatcheck.errors import ConfigError
from coatcheck.keys.forms import FormError, ip_v1
from coatcheck.pipeline import document
from coatcheck.pipeline.columns import Column, Kind, Mask, Parse
from coatcheck.pipeline.decode import JsonObject
from coatcheck.pipeline.message import UNKNOWN_MS, Reason, Reject, Value

Record = list[Value]
Convert = Callable[[Any], Value]

_INTEGER = {Kind.INTEGER: 2**31, Kind.BIGINT: 2**63}
_READ = (Kind.NUMERIC, Kind.DATE, Kind.TIMESTAMPTZ, Kind.JSONB)
_VERSION = re.compile(r"([0-9]{1,4})\.([0-9]{1,3})(?:\.([0-9]{1,3}))?", re.ASCII)
_EPOCH = date(1970, 1, 1)
_YEAR_10000_S = 253_402_300_800


class Refused(Exception):  # noqa: N818 - not an error
    """The way a reject leaves a conversion: its reason, and nothing of the value."""

    def __init__(self, reason: Reason) -> None:
        self.reason = reason


@lru_cache(maxsize=64)
def sent_date(day: int) -> date:
    """Return the UTC date of the `day`-th day since 1970. Raises Refused: it is the day of UNKNOWN_MS."""
    if day < 0:
        raise Refused(Reason.MISSING_FIELD)
    return _EPOCH + timedelta(days=day)


@lru_cache(maxsize=4096)
def version_code(text: str) -> int:
    """Return major*10^6 + minor*10^3 + patch: no two versions share a code, order is kept, int4 holds it.

    Two or three parts; minor and patch up to 999, major up to 2147. Raises ValueError otherwise.
    """
    match = _VERSION.fullmatch(text)
    if match is None:
        raise ValueError
    major, minor, patch = match.groups(default="0")
    code = int(major) * 1_000_000 + int(minor) * 1_000 + int(patch)
    if code >= _INTEGER[Kind.INTEGER]:
        raise ValueError
    return code


def _version(value: Any) -> int:
    if type(value) is not str:
        raise Refused(Reason.WRONG_TYPE)
    try:
        return version_code(value)
    except ValueError:
        raise Refused(Reason.NOT_A_VERSION) from None


def storable(text: str) -> bool:
    """Whether PostgreSQL can store the text: no NUL, no lone surrogate."""
    if "\0" in text:
        return False
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _text(limit: int | None, *, numbers: bool) -> Convert:
    def convert(value: Any) -> str:
        if type(value) is int and numbers:
            value = _decimal_text(value)
        elif type(value) is not str:
            raise Refused(Reason.WRONG_TYPE)
        if limit is not None and len(value) > limit:
            raise Refused(Reason.TOO_LONG)
        if not storable(value):
            raise Refused(Reason.INVALID_TEXT)
        return str(value)

    return convert


def _decimal_text(value: int) -> str:
    if not document.in_range(value):
        raise Refused(Reason.OUT_OF_RANGE)
    return str(value)


def _ip(limit: int | None) -> Convert:
    def convert(value: Any) -> str:
        if type(value) is not str:
            raise Refused(Reason.WRONG_TYPE)
        try:
            address = IPv6Address(ip_v1(value))
        except FormError as error:
            raise Refused(error.reason) from None
        text = str(address.ipv4_mapped or address)
        if limit is not None and len(text) > limit:
            raise Refused(Reason.TOO_LONG)
        return text

    return convert


def _integer(kind: Kind) -> Convert:
    bound = _INTEGER[kind]

    def convert(value: Any) -> int:
        if type(value) is not int:  # bool is an int to Python, not to us
            raise Refused(Reason.WRONG_TYPE)
        if not -bound <= value < bound:
            raise Refused(Reason.OUT_OF_RANGE)
        return value

    return convert


def _numeric(value: Any) -> str:
    if type(value) is int:
        return _decimal_text(value)
    if type(value) is float and math.isfinite(value):
        value = Decimal(repr(value))
    if type(value) is not Decimal:
        raise Refused(Reason.OUT_OF_RANGE if type(value) is float else Reason.WRONG_TYPE)
    if not document.in_range(value):
        raise Refused(Reason.OUT_OF_RANGE)
    return str(value)


def _boolean(value: Any) -> bool:
    if type(value) is not bool:
        raise Refused(Reason.WRONG_TYPE)
    return value


def _moment(value: Any) -> datetime:
    if type(value) is not str:
        raise Refused(Reason.WRONG_TYPE)
    try:
        moment = datetime.fromisoformat(value)
    except ValueError:
        raise Refused(Reason.NOT_A_TIMESTAMP) from None
    if moment.tzinfo is None:  # a wall clock without a zone is no moment
        raise Refused(Reason.NOT_A_TIMESTAMP)
    return _utc(moment)


def _utc(moment: datetime) -> datetime:
    try:
        return moment.astimezone(UTC)
    except OverflowError:  # within hours of year 1 or 9999
        raise Refused(Reason.NOT_A_TIMESTAMP) from None


def _timestamp(value: Any) -> datetime:
    """Take RFC 3339 text, or seconds or milliseconds since 1970 (told apart by the year 10000)."""
    if type(value) is str:
        return _moment(value)
    if type(value) not in (int, float, Decimal):
        raise Refused(Reason.WRONG_TYPE)
    if not 0 <= value < _YEAR_10000_S * 1000:  # NaN fails here too
        raise Refused(Reason.NOT_A_TIMESTAMP)
    seconds = value if value < _YEAR_10000_S else value / 1000
    try:
        return datetime.fromtimestamp(0, UTC) + timedelta(seconds=float(seconds))
    except OverflowError:  # rounded up to the year 10000
        raise Refused(Reason.NOT_A_TIMESTAMP) from None


def _date(value: Any) -> date:
    if type(value) is not str:
        raise Refused(Reason.WRONG_TYPE)
    try:
        return date.fromisoformat(value)
    except ValueError:
        raise Refused(Reason.NOT_A_TIMESTAMP) from None


def _jsonb(value: Any) -> str:
    text = document.written(value)
    if isinstance(text, Reason):
        raise Refused(text)
    return text


def _unchanged(value: Any) -> Value:
    return value


def conversion(column: Column) -> Convert:
    """Return the function field -> value of a column; it raises Refused. A masked column's value stays as it is."""
    kind = column.type.kind
    if column.mask is not Mask.KEEP:
        return _unchanged
    by_parse: dict[Parse, Convert] = {
        Parse.VERSION: _version,
        Parse.IP: _ip(column.type.length),
        Parse.TEXT: _text(column.type.length, numbers=True),
        Parse.TIMESTAMP: (lambda value: _timestamp(value).date()) if kind is Kind.DATE else _timestamp,
    }
    if column.parse is not None:
        return by_parse[column.parse]
    by_kind: dict[Kind, Convert] = {
        Kind.INTEGER: _integer(Kind.INTEGER),
        Kind.BIGINT: _integer(Kind.BIGINT),
        Kind.NUMERIC: _numeric,
        Kind.BOOLEAN: _boolean,
        Kind.DATE: _date,
        Kind.TIMESTAMPTZ: _moment,
        Kind.JSONB: _jsonb,
    }
    return by_kind.get(kind) or _text(column.type.length, numbers=False)


def walk(value: JsonObject, path: tuple[str, ...]) -> Any:
    """Return the field at a path of names, or None where there is none."""
    inner: Any = value
    for name in path:
        if type(inner) is not dict:
            return None
        inner = inner.get(name)
    return inner


def foreign(columns: Sequence[Column]) -> Callable[[JsonObject], bool] | None:
    """Build the function that tells whether an object has no field of any stored column; None if it is not needed.

    Such a message is of another type, and its row would hold nothing but NULLs and defaults. A field that is there but
    null counts as found: its producer knows the field, and a login in which every field is null is still a login. A
    required column that is stored rejects foreign messages by itself, at no further cost.
    """
    stored = [column for column in columns if column.stored]
    if not stored or any(column.required for column in stored):
        return None
    names = {column.path[0] for column in stored if len(column.path) == 1}
    deep = tuple({column.path: None for column in stored if len(column.path) > 1})
    if not deep:
        return names.isdisjoint

    def is_foreign(value: JsonObject) -> bool:
        return names.isdisjoint(value) and not any(_reaches(value, path) for path in deep)

    return is_foreign


def _reaches(value: JsonObject, path: tuple[str, ...]) -> bool:
    inner = walk(value, path[:-1])
    return type(inner) is dict and path[-1] in inner


def _constant(column: Column) -> Value:
    """Return the configured default as the stage would give it. Raises ConfigError."""
    if column.default is None or column.type.kind not in _READ:
        return column.default
    try:
        return conversion(replace(column, parse=None))(column.default)
    except Refused as refused:
        what = f"the default of column {column.name} is rejected: {refused.reason}"
        raise ConfigError(what, hint="write it as a message would have it") from None


def default_of(column: Column) -> Callable[[int], Value]:
    """Return the function send time -> value of a column whose field is null. Raises ConfigError: a bad default."""
    if not column.default_sent_at:
        constant = _constant(column)
        return lambda _: constant
    if column.type.kind is Kind.DATE:
        return lambda sent_ms: sent_date(sent_ms // 86_400_000)
    return _sent_moment


def _sent_moment(sent_ms: int) -> datetime:
    if sent_ms == UNKNOWN_MS:  # a reject can be retried; a time that we invent cannot be told from a true one
        raise Refused(Reason.MISSING_FIELD)
    return datetime.fromtimestamp(sent_ms / 1000, UTC)


def validator(columns: Sequence[Column]) -> Callable[[JsonObject, int], Record | Reject]:
    """Build the validate stage for `columns`.

    It takes the decoded object and the message's send time (ms since 1970) and returns the values in column order
    (null and absent fields as None or the default), or the reject with the column's name in its detail.
    """
    is_foreign = foreign(columns)
    steps = tuple(
        (c.name, c.path[0], c.path if len(c.path) > 1 else None, conversion(c), c.required, default_of(c))
        for c in columns
    )

    def validate(value: JsonObject, sent_ms: int) -> Record | Reject:
        record: Record = []
        add, get = record.append, value.get
        name = ""
        try:
            for name, key, path, convert, required, default in steps:
                field = get(key) if path is None else walk(value, path)
                if field is not None:
                    add(convert(field))
                elif required:
                    return Reject(Reason.MISSING_FIELD, name)
                else:
                    add(default(sent_ms))
        except Refused as refused:
            return Reject(refused.reason, name)
        if is_foreign is not None and is_foreign(value):
            return Reject(Reason.NO_FIELD_FOUND)
        return record

    return validate
