"""The stages for many messages at once, column by column: a usual message costs no calls of its own.

A column is looked at as a whole (is all of it short ASCII text?) by a few calls in C, which halves the cost of a
message. What is not usual in any column goes through the stages by itself: they alone say what is wrong with it. So
this may refuse whatever it likes, but must never take what they refuse, and give the same row as they.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import compress, count, repeat
from operator import contains
from typing import Any

from coatcheck.keys.tokens import Tokenizer
from coatcheck.pipeline.columns import Column, Kind, Mask, Parse
from coatcheck.pipeline.decode import JsonObject
from coatcheck.pipeline.keying import Keyer, NoLedgerKey
from coatcheck.pipeline.mask import masking
from coatcheck.pipeline.message import Message, Reject, Row, Value
from coatcheck.pipeline.validate import Refused, conversion, default_of, foreign, version_code, walk

Whole = Callable[[list[Any]], list[Value]]
"""Takes the values of one column (None: null) and returns what they become; raises if any is not usual."""

_UNUSUAL = (Refused, ValueError, TypeError)


def columnwise(
    columns: Sequence[Column],
    *,
    decode: Callable[[str], JsonObject | Reject],
    key: Keyer,
    tokenizer: Tokenizer,
    vaulted: Iterable[Column],
) -> Callable[[Sequence[Message]], list[Row | None]]:
    """Build the function messages -> rows, in order; None for those that have to go through the stages themselves."""
    validations = tuple((column.path, _validation(column), _filling(column)) for column in columns)
    maskings = tuple(
        (place, _each(masking(column, tokenizer)))
        for place, column in enumerate(columns)
        if column.mask not in (Mask.KEEP, Mask.DROP)
    )
    stored = tuple(place for place, column in enumerate(columns) if column.stored)
    kept = set(vaulted)
    raw = tuple(place for place, column in enumerate(columns) if column in kept)
    is_foreign = foreign(columns)

    def rows(messages: Sequence[Message]) -> list[Row | None]:
        if not messages:
            return []
        odd: set[int] = set()
        objects = _objects([decode(message.body) for message in messages], odd)
        if is_foreign is not None:
            odd.update(compress(count(), map(is_foreign, objects)))
        sent_ms = [message.sent_ms for message in messages]
        record = []
        for path, whole, fill in validations:
            record.append(fill(_taken(_fields(objects, path), whole, odd), sent_ms, odd))
        originals = zip(*[record[place] for place in raw], strict=True) if raw else repeat(())
        for place, whole in maskings:
            record[place] = _taken(record[place], whole, odd)
        values = zip(*[record[place] for place in stored], strict=True) if stored else repeat(())
        keys, slots = zip(*_keyed(messages, objects, key, odd), strict=True)
        made: list[Row | None] = list(map(Row, messages, keys, slots, values, originals))
        for place in odd:
            made[place] = None
        return made

    return rows


def _objects(decoded: list[JsonObject | Reject], odd: set[int]) -> list[JsonObject]:
    """Put an empty object in the place of each reject, and note the place."""
    if Reject not in map(type, decoded):
        return decoded  # type: ignore[return-value]  # narrowed by the line above
    objects: list[JsonObject] = []
    for place, value in enumerate(decoded):
        if isinstance(value, Reject):
            odd.add(place)
            objects.append({})
        else:
            objects.append(value)
    return objects


def _keyed(
    messages: Sequence[Message], objects: list[JsonObject], key: Keyer, odd: set[int]
) -> list[tuple[bytes, int]]:
    """Return key and slot of each message; note the places of those that have none."""
    try:
        return list(map(key, messages, objects))
    except NoLedgerKey:
        pass
    keyed: list[tuple[bytes, int]] = []
    for place, (message, value) in enumerate(zip(messages, objects, strict=True)):
        try:
            keyed.append(key(message, value))
        except NoLedgerKey:
            odd.add(place)
            keyed.append((b"", 0))
    return keyed


def _fields(objects: list[JsonObject], path: tuple[str, ...]) -> list[Any]:
    if len(path) > 1:
        return [walk(value, path) for value in objects]
    name = path[0]
    return [value.get(name) for value in objects]


def _taken(values: list[Any], whole: Whole, odd: set[int]) -> list[Value]:
    """Take a column as a whole, or if that cannot be, value by value; note the places of those that are not usual."""
    try:
        return whole(values)
    except _UNUSUAL:
        pass
    taken: list[Value] = []
    for place, value in enumerate(values):
        try:
            taken += whole([value])
        except _UNUSUAL:
            odd.add(place)
            taken.append(None)
    return taken


def _validation(column: Column) -> Whole:
    if column.mask is Mask.KEEP and column.parse is Parse.VERSION:
        return _versions
    if column.mask is Mask.KEEP and column.parse is None and column.type.kind in (Kind.VARCHAR, Kind.TEXT):
        return _texts(column.type.length)
    return _each(conversion(column))


def _each(convert: Callable[[Any], Value]) -> Whole:
    def whole(values: list[Any]) -> list[Value]:
        return [None if value is None else convert(value) for value in values]

    return whole


def _texts(limit: int | None) -> Whole:
    def whole(values: list[Any]) -> list[Value]:
        present = [value for value in values if value is not None] if None in values else values
        if not all(map(str.isascii, present)) or any(map(contains, present, repeat("\0"))):  # TypeError: one is no text
            raise ValueError
        if limit is not None and max(map(len, present), default=0) > limit:
            raise ValueError
        return values

    return whole


def _versions(values: list[Any]) -> list[Value]:
    if None in values:
        return [None if value is None else version_code(value) for value in values]
    return list(map(version_code, values))


def _filling(column: Column) -> Callable[[list[Value], list[int], set[int]], list[Value]]:
    """Build what gives nulls their default, or notes their places where a value is required."""
    default = default_of(column)

    def fill(values: list[Value], sent_ms: list[int], odd: set[int]) -> list[Value]:
        if None not in values:
            return values
        if column.required:
            odd.update(place for place, value in enumerate(values) if value is None)
            return values
        try:
            return [default(ms) if value is None else value for value, ms in zip(values, sent_ms, strict=True)]
        except Refused:  # a send time is unknown: these messages go through the stages themselves
            odd.update(place for place, value in enumerate(values) if value is None)
            return values

    return fill
