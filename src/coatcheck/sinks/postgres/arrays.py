"""Lists of Python values as PostgreSQL's binary arrays, the fastest parameters there are.

Format: `array_recv` in PostgreSQL's src/backend/utils/adt/arrayfuncs.c - int32 dimensions, int32 has-nulls, uint32
element type, then (int32 length, int32 lower bound) for each dimension, then each element as int32 length + bytes, with
length -1 for NULL. psycopg's own list dumper costs 0.16 to 0.20 us an element, these 0.01 (fixed width) to 0.13
(docs/decisions/0002).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, date, datetime
from functools import lru_cache
from struct import Struct
from typing import Any

from psycopg.adapt import Buffer, Dumper
from psycopg.pq import Format

from coatcheck.pipeline.columns import Column, Kind

_HEAD = Struct(">iiIii")
_INT4, _INT8, _LENGTH = Struct(">i"), Struct(">q"), Struct(">i")
_NULL = _LENGTH.pack(-1)
_TABLE = 1024
_SHORT = tuple(_LENGTH.pack(n) for n in range(_TABLE))
_EPOCH_DAY = date(2000, 1, 1).toordinal()
_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)
_BOOL = {True: b"\x01", False: b"\x00"}

BOOL, BYTEA, INT8, INT4, TEXT, DATE, TIMESTAMPTZ, UUID = 16, 17, 20, 23, 25, 1082, 1184, 2950
"""Type oids (pg_type.dat), fixed for ever."""


class BinaryArray(bytes):
    """An array in PostgreSQL's binary format; the SQL casts the parameter to its array type."""

    __slots__ = ()


class BinaryArrayDumper(Dumper):
    """Sends a BinaryArray as it is."""

    format = Format.BINARY

    def dump(self, obj: Any) -> Buffer | None:
        """Return the bytes themselves."""
        return bytes(obj)


def _array(oid: int, count: int, elements: bytes, *, nulls: bool) -> BinaryArray:
    if count == 0:
        return BinaryArray(_HEAD.pack(0, 0, oid, 0, 0)[:12])
    return BinaryArray(_HEAD.pack(1, int(nulls), oid, count, 1) + elements)


def fixed(oid: int, width: int, values: Sequence[bytes]) -> BinaryArray:
    """Encode values of one width in bytes, none of them None (uuid, int4, ...)."""
    head = _LENGTH.pack(width)
    return _array(oid, len(values), head + head.join(values), nulls=False)


def varying(oid: int, values: Sequence[bytes | None]) -> BinaryArray:
    """Encode byte strings of any length; None is NULL."""
    if None not in values and len(widths := set(map(len, values))) == 1:  # type: ignore[arg-type]  # none is None
        return fixed(oid, widths.pop(), values)  # type: ignore[arg-type]  # as above; tokens and nonces come here
    parts: list[bytes] = []
    add = parts.append
    nulls = False
    for value in values:
        if value is None:
            nulls = True
            add(_NULL)
        else:
            size = len(value)
            add(_SHORT[size] if size < _TABLE else _LENGTH.pack(size))
            add(value)
    return _array(oid, len(values), b"".join(parts), nulls=nulls)


def uuids(values: Sequence[bytes]) -> BinaryArray:
    """Encode 16-byte keys as uuid[]."""
    return fixed(UUID, 16, values)


def int4s(values: Sequence[int]) -> BinaryArray:
    """Encode integers as int4[]."""
    return fixed(INT4, 4, list(map(_INT4.pack, values)))


def int8s(values: Sequence[int]) -> BinaryArray:
    """Encode integers as int8[]."""
    return fixed(INT8, 8, list(map(_INT8.pack, values)))


def texts(values: Sequence[str | None]) -> BinaryArray:
    """Encode text as text[]; None is NULL."""
    return varying(TEXT, [None if value is None else value.encode() for value in values])


def byteas(values: Sequence[bytes]) -> BinaryArray:
    """Encode byte strings as bytea[]."""
    return varying(BYTEA, values)


def _each(oid: int, width: int, pack: Callable[[Any], bytes]) -> Callable[[Sequence[Any]], BinaryArray]:
    def encode(values: Sequence[Any]) -> BinaryArray:
        if None in values:
            return varying(oid, [None if value is None else pack(value) for value in values])
        return fixed(oid, width, list(map(pack, values)))

    return encode


@lru_cache(maxsize=64)
def _days(value: date) -> bytes:
    return _INT4.pack(value.toordinal() - _EPOCH_DAY)


def _microseconds(value: datetime) -> bytes:
    delta = value - _EPOCH
    return _INT8.pack((delta.days * 86_400 + delta.seconds) * 1_000_000 + delta.microseconds)


_BY_KIND: dict[Kind, tuple[str, Callable[[Sequence[Any]], BinaryArray]]] = {
    Kind.VARCHAR: ("text", texts),
    Kind.TEXT: ("text", texts),
    Kind.INTEGER: ("int4", _each(INT4, 4, _INT4.pack)),
    Kind.BIGINT: ("int8", _each(INT8, 8, _INT8.pack)),
    Kind.NUMERIC: ("text", texts),
    Kind.BOOLEAN: ("bool", _each(BOOL, 1, _BOOL.__getitem__)),
    Kind.DATE: ("date", _each(DATE, 4, _days)),
    Kind.TIMESTAMPTZ: ("timestamptz", _each(TIMESTAMPTZ, 8, _microseconds)),
    Kind.JSONB: ("text", texts),
}


def encoding(column: Column) -> tuple[str, Callable[[Sequence[Any]], BinaryArray]]:
    """Return the array's element type in SQL and the encoder for the values of `column`.

    numeric and jsonb travel as text and are cast by the statement: their binary forms gain nothing here.
    """
    return _BY_KIND[column.type.kind]
