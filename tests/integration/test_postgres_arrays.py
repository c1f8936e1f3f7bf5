"""Our binary arrays, read back by psycopg; every kind of column on its way through the real statement."""

from __future__ import annotations

import asyncio
import itertools
import json
import struct
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any
from uuid import UUID

import psycopg
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from tests.support.fix_postgres import Database, batch, column, postgres_sink, row

from coatcheck.demo.servers import PostgresServer
from coatcheck.pipeline.columns import Kind
from coatcheck.sinks.postgres import arrays
from coatcheck.sinks.postgres.schema import migrate
from coatcheck.sinks.postgres.sink import PostgresSink
from coatcheck.sql.register import Pipeline

quick = settings(deadline=None, max_examples=60)
TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=40)
SIZES = (0, 1, 31, 1022, 1023, 1024, 1025, 70_000)
"""Lengths around the end of the table of packed lengths, in characters; in bytes, too, of "é"."""

COLUMNS = {kind: column(f"c_{kind}", "varchar(100000)" if kind is Kind.VARCHAR else str(kind)) for kind in Kind}
ENCODE = {kind: arrays.encoding(COLUMNS[kind]) for kind in Kind}

ZONES = st.integers(-15 * 60, 15 * 60).map(lambda minutes: timezone(timedelta(minutes=minutes)))
MOMENTS = st.datetimes(min_value=datetime(1, 1, 3), max_value=datetime(9999, 12, 29), timezones=ZONES)  # noqa: DTZ001 - the zone comes from `timezones`
NUMBERS = st.decimals(allow_nan=False, allow_infinity=False).filter(lambda value: abs(value.adjusted()) <= 1000)
JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.floats(-1e15, 1e15) | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=8,
)
VALUES: dict[Kind, st.SearchStrategy[Any]] = {
    Kind.VARCHAR: TEXTS,
    Kind.TEXT: TEXTS,
    Kind.INTEGER: st.integers(-(2**31), 2**31 - 1),
    Kind.BIGINT: st.integers(-(2**63), 2**63 - 1),
    Kind.NUMERIC: NUMBERS,
    Kind.BOOLEAN: st.booleans(),
    Kind.DATE: st.dates(),
    Kind.TIMESTAMPTZ: MOMENTS,
    Kind.JSONB: JSON,
}
"""What the stages may hand to the sink, by kind; numbers and JSON before they are written as text."""

BINARY_KINDS = [kind for kind in Kind if kind not in (Kind.NUMERIC, Kind.JSONB)]


@pytest.fixture(scope="module")
def connection(postgres_server: PostgresServer) -> Iterator[psycopg.Connection[Any]]:
    options = "-c TimeZone=UTC"
    with psycopg.connect(postgres_server.dsn, autocommit=True, options=options) as opened:
        opened.adapters.register_dumper(arrays.BinaryArray, arrays.BinaryArrayDumper)
        yield opened


def read(connection: psycopg.Connection[Any], element: str, array: arrays.BinaryArray) -> Any:
    """Send an array and let psycopg read what PostgreSQL makes of it; both of its formats must agree."""
    text, binary = (
        connection.execute(f"SELECT %s::{element}[]".encode(), [array], binary=binary).fetchall()[0][0]
        for binary in (False, True)
    )
    assert text == binary
    return text


@pytest.mark.parametrize("kind", BINARY_KINDS)
def test_values_of_a_column_arrive_as_they_were(connection: psycopg.Connection[Any], kind: Kind) -> None:
    element, encode = ENCODE[kind]

    @quick
    @given(st.lists(VALUES[kind] | st.none(), max_size=30))
    @example([])
    @example([None])
    @example([None, None, None])
    def arrives(values: list[Any]) -> None:
        assert read(connection, element, encode(values)) == values

    arrives()


@pytest.mark.parametrize("kind", BINARY_KINDS)
def test_psycopg_sends_the_same(connection: psycopg.Connection[Any], kind: Kind) -> None:
    """The bytes mean to PostgreSQL what psycopg's own list means."""
    element, encode = ENCODE[kind]

    @quick
    @given(st.lists(VALUES[kind] | st.none(), max_size=10))
    def means(values: list[Any]) -> None:
        query = f"SELECT %s::{element}[] IS NOT DISTINCT FROM %s::{element}[]"
        assert connection.execute(query.encode(), [encode(values), values]).fetchall() == [(True,)]

    means()


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        (Kind.DATE, [date.min, date(1969, 12, 31), date(1999, 12, 31), date(2000, 1, 1), date(2000, 2, 29), date.max]),
        (
            Kind.TIMESTAMPTZ,
            [
                datetime.min.replace(tzinfo=UTC),
                datetime(1969, 12, 31, 23, 59, 59, 999_999, UTC),
                datetime(1999, 12, 31, 23, 59, 59, 999_999, UTC),
                datetime(2000, 1, 1, tzinfo=UTC),
                datetime(2024, 2, 29, 12, 0, 0, 1, UTC),
                datetime(2024, 7, 1, 2, 0, 0, 7, timezone(timedelta(hours=14))),
                datetime.max.replace(tzinfo=UTC),
            ],
        ),
        (Kind.INTEGER, [-(2**31), -1, 0, 1, 2**31 - 1]),
        (Kind.BIGINT, [-(2**63), -1, 0, 1, 2**63 - 1]),
        (Kind.BOOLEAN, [True, False, None, True]),
        (Kind.TEXT, ["", " ", "\t\n\r", "{}", "NULL", '"', "\\", "é", "日本語", "🧥", "e\u0301", "\u202e", "\x01"]),
        (Kind.TEXT, ["a" * size for size in SIZES]),
        (Kind.TEXT, [None, *("é" * size for size in SIZES), None]),
    ],
)
def test_the_ends_of_the_ranges(connection: psycopg.Connection[Any], kind: Kind, values: list[Any]) -> None:
    element, encode = ENCODE[kind]
    assert read(connection, element, encode(values)) == values


@pytest.mark.parametrize(
    ("element", "encode", "value"),
    [
        ("uuid", arrays.uuids, st.uuids()),
        ("int8", arrays.int8s, st.integers(-(2**63), 2**63 - 1)),
        ("bytea", arrays.byteas, st.binary(max_size=100)),
        ("text", arrays.texts, TEXTS | st.none()),
    ],
)
def test_the_arrays_of_ledger_and_quarantine(
    connection: psycopg.Connection[Any],
    element: str,
    encode: Callable[[Sequence[Any]], arrays.BinaryArray],
    value: st.SearchStrategy[Any],
) -> None:
    @quick
    @given(st.lists(value, max_size=30))
    @example([])
    def arrives(values: list[Any]) -> None:
        sent = [one.bytes if isinstance(one, UUID) else one for one in values]
        assert read(connection, element, encode(sent)) == values

    arrives()


@pytest.mark.parametrize("size", SIZES)
def test_long_bytes(connection: psycopg.Connection[Any], size: int) -> None:
    values = [bytes([number % 256]) * size for number in (0, 255, 92)]
    assert read(connection, "bytea", arrays.byteas(values)) == values


def test_a_thousand_elements(connection: psycopg.Connection[Any]) -> None:
    values = list(range(100_000))
    assert read(connection, "int8", arrays.int8s(values)) == values


@pytest.mark.parametrize(("kind", "value"), [(Kind.INTEGER, 2**31), (Kind.BIGINT, -(2**63) - 1)])
def test_a_number_that_does_not_fit_is_an_error_and_not_another_number(kind: Kind, value: int) -> None:
    with pytest.raises(struct.error):
        ENCODE[kind][1]([value])


RECORDS = st.tuples(*(VALUES[kind] | st.none() for kind in Kind))
ORDER = tuple(Kind)
_numbers = itertools.count()


def sendable(record: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return the record as the stages hand it over: numbers and JSON as text."""
    values = dict(zip(ORDER, record, strict=True))
    if values[Kind.NUMERIC] is not None:
        values[Kind.NUMERIC] = str(values[Kind.NUMERIC])
    values[Kind.JSONB] = json.dumps(values[Kind.JSONB], ensure_ascii=False)
    return tuple(values.values())


def prepared(database: Database) -> PostgresSink:
    columns = list(COLUMNS.values())
    migrate(database.dsn, "kinds", columns, pipeline=Pipeline("kinds"))
    return postgres_sink(database, columns, table="kinds")


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(records=st.lists(RECORDS, max_size=8))
def write_and_read(records: list[tuple[Any, ...]], runner: asyncio.Runner, sink: PostgresSink, base: Database) -> None:
    base.execute("DELETE FROM kinds")
    one = batch(row(next(_numbers), *sendable(record)) for record in records)
    assert runner.run(sink.write(one)).loaded == len(records)
    found = base.execute("SELECT * FROM kinds ORDER BY ctid")
    for number, (stored, sent) in enumerate(zip(found, records, strict=True)):
        assert stored == sent, f"record {number}"


def test_every_kind_through_the_real_statement(database: Database) -> None:
    sink = prepared(database)
    with asyncio.Runner() as runner:
        try:
            write_and_read(runner=runner, sink=sink, base=database)
        finally:
            runner.run(sink.close())


def test_numbers_and_json_of_all_sizes(database: Database) -> None:
    numbers = ["0", "-0", "1E+1000", "1E-1000", "9" * 1000, "-" + "1" * 500 + "." + "3" * 500, "0.10", "1e5"]
    texts = [
        '{"b": 1, "a": [1.10, null, true, "é🧥"]}',
        '"text"',
        "null",
        "0.1000",
        "[]",
        "{}",
        '{"a": {"a": {}}}',
        "1",
    ]
    records: list[tuple[Any, ...]] = [(*sendable((None,) * len(Kind))[:-1], text) for text in texts]
    at = ORDER.index(Kind.NUMERIC)
    records = [(*one[:at], number, *one[at + 1 :]) for one, number in zip(records, numbers, strict=True)]
    sink = prepared(database)

    async def work() -> int:
        try:
            return (await sink.write(batch(row(number, *one) for number, one in enumerate(records)))).loaded
        finally:
            await sink.close()

    assert asyncio.run(work()) == len(records)
    found = database.execute("SELECT c_numeric, c_jsonb::text FROM kinds ORDER BY ctid")
    assert [number for number, _ in found] == [Decimal(number) for number in numbers]
    assert [json.loads(text) for _, text in found] == [json.loads(text) for text in texts]
    assert found[3][1] == "0.1000"  # jsonb keeps the digits


def test_more_columns_than_a_function_takes_arguments(empty_database: Database) -> None:
    """PostgreSQL's functions end at 100 arguments; `unnest` in FROM is no such call."""
    columns = [column(f"c{number}", "integer") for number in range(300)]
    migrate(empty_database.dsn, "wide", columns)
    sink = postgres_sink(empty_database, columns, table="wide")

    async def work() -> int:
        try:
            return (await sink.write(batch([row(1, *range(300)), row(2, *([None] * 300))]))).loaded
        finally:
            await sink.close()

    assert asyncio.run(work()) == 2
    assert empty_database.execute("SELECT * FROM wide ORDER BY ctid") == [tuple(range(300)), (None,) * 300]
