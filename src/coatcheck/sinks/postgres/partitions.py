"""Partitions of the target table by time: made ahead, and dropped when they have been kept long enough.

What lies between the bounds of no partition is in `TABLE_other`: loading never stops for want of one. PostgreSQL
documentation, "Table Partitioning", "Declarative Partitioning Best Practices".
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Any, Literal, NamedTuple

import psycopg
from psycopg import sql

from coatcheck.errors import ConfigError
from coatcheck.sinks.postgres.sink import table_identifier
from coatcheck.sql import query
from coatcheck.sql.session import login_path
from coatcheck.sql.sqlstate import sqlstate_of

Period = Literal["day", "month", "year"]
_BEHIND = timedelta(days=14)  # so old may a message be that comes now
_AHEAD = {"day": timedelta(days=14), "month": timedelta(days=40), "year": timedelta(days=40)}
_PATIENCE = timedelta(days=2)
_BOUNDS = re.compile(r"FOR VALUES FROM \('?(?P<start>[^')]+)'?\) TO \('?(?P<end>[^')]+)'?\)")
_ISOLATION = psycopg.IsolationLevel.READ_COMMITTED  # whatever the database's default: each look sees what it waited for
_LOCK_TIMEOUT = "2s"  # loaders queue behind a statement that waits for the table: it gives up before they notice
_PATTERNS = {"day": "%Y%m%d", "month": "%Y%m", "year": "%Y"}
_MOST_MOVED = 10_000  # rows for which loaders are made to wait
_STRAYS = "rows of its time are in the default partition: move them by hand in a quiet hour"
_SETTINGS = "SET LOCAL timezone = 'UTC'; SET LOCAL datestyle = 'ISO'"  # in which bounds are read


@dataclass(frozen=True, slots=True)
class Partitioning:
    """By which column, in what steps, and how many finished partitions are kept (0: all)."""

    column: str
    period: Period
    keep: int = 0


class Span(NamedTuple):
    """Days from `start` up to, and without, `end`."""

    start: date
    end: date


@dataclass(frozen=True, slots=True)
class Left:
    """What is due and was not done, and what to do about it."""

    what: str
    hint: str


@dataclass(frozen=True, slots=True)
class Kept:
    """What was done about partitions: those made and dropped, rows deleted from `TABLE_other`, and what is left."""

    made: tuple[str, ...] = ()
    dropped: tuple[str, ...] = ()
    deleted: int = 0
    left: tuple[Left, ...] = ()


def _start(day: date, period: Period) -> date:
    return day if period == "day" else day.replace(day=1) if period == "month" else day.replace(month=1, day=1)


def _following(start: date, period: Period) -> date:
    return _start(start + timedelta(days={"day": 1, "month": 31, "year": 366}[period]), period)


def _before(start: date, period: Period, count: int) -> date:
    for _ in range(count):
        start = _start(start - timedelta(days=1), period)
    return start


def cutoff(by: Partitioning, today: date) -> date:
    """Return the day before which nothing is kept."""
    try:
        return _before(_start(today, by.period), by.period, by.keep) if by.keep else date.min
    except OverflowError:  # more years than there have been
        return date.min


def wanted(by: Partitioning, today: date) -> Iterator[Span]:
    """Yield the spans that need a partition: what may come in now, and what will soon."""
    start = max(_start(today - _BEHIND, by.period), cutoff(by, today))
    while start <= today + _AHEAD[by.period]:
        end = _following(start, by.period)
        yield Span(start, end)
        start = end


def gaps(span: Span, there: Iterable[Span]) -> Iterator[Span]:
    """Yield the parts of a span in which there is no partition."""
    start = span.start
    for part in sorted(there):
        if start < (end := min(part.start, span.end)):
            yield Span(start, end)
        start = max(start, part.end)
    if start < span.end:
        yield Span(start, span.end)


def _name(table: str, by: Partitioning, span: Span) -> str:
    schema, dot, name = table.rpartition(".")
    pattern = _PATTERNS[by.period if span.start == _start(span.start, by.period) else "day"]
    return f"{schema}{dot}{name[:50]}_{span.start.strftime(pattern)}"


def other_name(table: str) -> str:
    """Return the name of the partition for what is between the bounds of no other."""
    schema, dot, name = table.rpartition(".")
    return f"{schema}{dot}{name[:50]}_other"


def partition_by(by: Partitioning) -> sql.Composed:
    """Return the clause of CREATE TABLE."""
    return sql.SQL("PARTITION BY RANGE ({})").format(sql.Identifier(by.column))


def fill(connection: psycopg.Connection[Any], table: str, by: Partitioning) -> None:
    """Give a new table its partitions, in the transaction that creates it."""
    default = sql.SQL("CREATE TABLE {} PARTITION OF {} DEFAULT")
    connection.execute(default.format(table_identifier(other_name(table)), table_identifier(table)))
    for span in wanted(by, today()):
        connection.execute(_create(table, by, span))


def today() -> date:
    """Return the day of now (UTC)."""
    return datetime.now(UTC).date()


def _create(table: str, by: Partitioning, span: Span) -> sql.Composed:
    name, parent = table_identifier(_name(table, by, span)), table_identifier(table)
    return sql.SQL("CREATE TABLE {} PARTITION OF {} FOR VALUES FROM ({}) TO ({})").format(name, parent, *_bounds(span))


def _bounds(span: Span) -> Iterator[sql.Literal]:
    return (sql.Literal(f"{day.isoformat()} 00:00+00") for day in span)


class _Partition(NamedTuple):
    schema: str
    name: str
    span: Span | None  # None: the default partition
    owner: str  # of the table
    identified: bool  # REPLICA IDENTITY FULL

    @property
    def identifier(self) -> sql.Identifier:
        return sql.Identifier(self.schema, self.name)


def _partitions(connection: psycopg.Connection[Any], table: str, by: Partitioning) -> list[_Partition]:
    """Return the partitions there are. Raises ConfigError: the table is not partitioned in this way."""
    schema, _, name = table.rpartition(".")
    with connection.transaction():
        connection.execute(_SETTINGS)
        found = connection.execute(query("partitions"), {"schema": schema or None, "name": name}).fetchall()
    column = sql.Identifier(by.column).as_string(connection)
    if not found or found[0][1] not in {f"RANGE ({by.column})", f"RANGE ({column})"}:
        raise ConfigError(
            f"{table} is not partitioned by {by.column}, as [target] partition_by says",
            hint="a table is partitioned when it is created: let `coatcheck migrate` make a new one, move the rows, "
            "or leave partition_by out",
        )
    return [
        _Partition(schema, name, _span(bounds), owner, identified)
        for owner, _, schema, name, bounds, identified in found
        if name
    ]


def _span(bounds: str) -> Span | None:
    match = _BOUNDS.fullmatch(bounds)
    return Span(_midnight(match["start"]), _midnight(match["end"], after=True)) if match else None


def _midnight(bound: str, *, after: bool = False) -> date:
    """Return the last midnight before a bound, or the first after it: no partition has more than its span."""
    if bound in ("MINVALUE", "-infinity") or bound.endswith(" BC"):
        return date.min
    try:
        moment = datetime.fromisoformat(bound)
        return moment.date() + timedelta(days=after and moment.time() != time.min)
    except (ValueError, OverflowError):  # MAXVALUE, infinity, the year 10,000
        return date.max


def missing(connection: psycopg.Connection[Any], table: str, by: Partitioning) -> list[str]:
    """Return the names of the partitions that are wanted and not there. Raises ConfigError, psycopg.Error."""
    return [_name(table.rpartition(".")[2], by, gap) for gap in _missing(connection, table, by)]


def overdue(connection: psycopg.Connection[Any], table: str, by: Partitioning) -> list[Span]:
    """Return what is missing though it was wanted two days ago, too: a daily `maintain` has had its turn.

    Raises ConfigError, psycopg.Error.
    """
    before = set(wanted(by, today() - _PATIENCE))
    there = [part.span for part in _partitions(connection, table, by) if part.span]
    return [gap for span in wanted(by, today()) if span in before for gap in gaps(span, there)]


def _missing(connection: psycopg.Connection[Any], table: str, by: Partitioning) -> list[Span]:
    there = [part.span for part in _partitions(connection, table, by) if part.span]
    return [gap for span in wanted(by, today()) for gap in gaps(span, there)]


def keep(connection: psycopg.Connection[Any], table: str, by: Partitioning) -> Kept:
    """Make the partitions that are wanted, and drop what is older than is kept; each in a transaction of its own.

    `connection` is in autocommit mode, and of the table's owner. Raises ConfigError, psycopg.Error.
    """
    connection.isolation_level = _ISOLATION
    work = _Work(connection, table, by)
    others = [part for part in _partitions(connection, table, by) if part.span is None]
    for span in _missing(connection, table, by):
        work.make(span, *others)
    if by.keep:
        for part in _partitions(connection, table, by):
            work.drop(part, cutoff(by, today()))
    return Kept(tuple(work.made), tuple(work.dropped), work.deleted, tuple(work.left))


class _Work:
    def __init__(self, connection: psycopg.Connection[Any], table: str, by: Partitioning) -> None:
        self._connection, self._table, self._by = connection, table, by
        self.made: list[str] = []
        self.dropped: list[str] = []
        self.deleted = 0
        self.left: list[Left] = []
        self._busy = False

    def make(self, span: Span, *others: _Partition) -> None:
        """Make one partition; rows of its time that are in the default partition move there, if they are few."""
        if self._busy:  # each further try would stop the loaders for as long again
            return
        qualified = _name(self._table, self._by, span)
        name = qualified.rpartition(".")[2]
        statement = _create(self._table, self._by, span)
        if others and (rows := self._strays(span, others[0])):
            if rows > _MOST_MOVED:
                self.left.append(Left(f"partition {name} is missing", f"over {_MOST_MOVED:,} {_STRAYS}"))
                return
            statement = self._moving(span, others[0])
        for other in others:  # who makes it may be a member of the owner; it is to be dropped by him, too
            owner = sql.SQL("; ALTER TABLE {} OWNER TO {}")
            statement += owner.format(table_identifier(qualified), sql.Identifier(other.owner))
            if other.identified:  # it is published, and rows of the new one are to be changed, too
                statement += sql.SQL("; ALTER TABLE {} REPLICA IDENTITY FULL").format(table_identifier(qualified))
        if self._done(f"partition {name} is missing", statement) is not None:
            self.made.append(name)

    def _in(self, span: Span) -> sql.Composed:
        """Return the condition under which a row belongs to a span."""
        return sql.SQL("{0} OPERATOR(pg_catalog.>=) {1} AND {0} OPERATOR(pg_catalog.<) {2}").format(
            sql.Identifier(self._by.column), *_bounds(span)
        )

    def _columns(self) -> list[tuple[Any, ...]]:
        schema, _, name = self._table.rpartition(".")
        return self._connection.execute(query("table_columns"), {"schema": schema or None, "name": name}).fetchall()

    def _strays(self, span: Span, other: _Partition) -> int:
        """Return how many rows of a span there are in the default partition, counted up to one more than are moved."""
        look = sql.SQL("SELECT count(*) FROM (SELECT FROM {} WHERE {} LIMIT {}) AS strays")
        try:
            with self._connection.transaction():
                self._connection.execute(f"SET LOCAL lock_timeout = '{_LOCK_TIMEOUT}'".encode())
                found = self._connection.execute(look.format(other.identifier, self._in(span), _MOST_MOVED + 1))
                (strays,) = found.fetchone() or (0,)
        except psycopg.Error:  # what is in the way of a look is in the way of making the partition, too, and told there
            if self._connection.closed:
                raise
            return 0
        return int(strays)

    def _moving(self, span: Span, other: _Partition) -> sql.Composed:
        """Return the statements that make a partition with its rows; loaders wait, or a row could slip in behind."""
        return sql.SQL(
            "LOCK TABLE {parent} IN SHARE ROW EXCLUSIVE MODE; "
            "CREATE TABLE {part} (LIKE {parent} INCLUDING DEFAULTS INCLUDING CONSTRAINTS); "
            "WITH strays AS (DELETE FROM {other} WHERE {condition} RETURNING {columns}) "
            "INSERT INTO {part} ({columns}) SELECT {columns} FROM strays; "
            "ALTER TABLE {parent} ATTACH PARTITION {part} FOR VALUES FROM ({start}) TO ({end})"
        ).format(
            parent=table_identifier(self._table),
            part=table_identifier(_name(self._table, self._by, span)),
            other=other.identifier,
            condition=self._in(span),
            columns=sql.SQL(", ").join(sql.Identifier(name) for name, *_ in self._columns()),  # each may have its order
            **dict(zip(("start", "end"), _bounds(span), strict=True)),
        )

    def drop(self, part: _Partition, before: date) -> None:
        """Drop a partition if all of it is older; of the default partition delete what is."""
        if self._busy:
            return
        table = part.identifier
        record = {"partition": f"{part.schema}.{part.name}", "before": before.isoformat()}
        if part.span is None:
            delete = sql.SQL("DELETE FROM {} WHERE {} OPERATOR(pg_catalog.<) {}").format(
                table, sql.Identifier(self._by.column), sql.Literal(f"{before.isoformat()} 00:00+00")
            )
            self.deleted += self._done(f"{part.name} holds rows of before {before}", delete, record) or 0
        elif part.span.end <= before:
            # detached first: what somebody has taken out at this moment, to keep it elsewhere, is no partition any more
            detach = sql.SQL("ALTER TABLE {} DETACH PARTITION {}; DROP TABLE {}")
            statement = detach.format(table_identifier(self._table), table, table)
            if self._done(f"partition {part.name} is to be dropped", statement, record) is not None:
                self.dropped.append(part.name)

    def _done(self, what: str, statement: sql.Composed, record: Mapping[str, object] | None = None) -> int | None:
        """Carry out a statement; return the rows it took (-1: they were not counted), or None: it was not done.

        What takes rows away stands on the audit trail, in the same transaction. Raises psycopg.Error: the connection is
        lost.
        """
        try:
            with self._connection.transaction():
                self._connection.execute(f"SET LOCAL lock_timeout = '{_LOCK_TIMEOUT}'".encode())
                with login_path(self._connection):
                    rows = self._connection.execute(statement).rowcount
                if record and rows:
                    detail = json.dumps(dict(record) | ({"rows": rows} if rows > 0 else {}))
                    self._connection.execute(query("record"), {"event": "rows dropped", "detail": detail})
        except psycopg.Error as error:
            if self._connection.closed:
                raise
            self._busy |= isinstance(error, psycopg.errors.LockNotAvailable)
            self.left.append(Left(f"{what}: PostgreSQL answers {sqlstate_of(error)}", _hint(error, self._table)))
            return None
        return rows


def _hint(error: psycopg.Error, table: str) -> str:
    hints: tuple[tuple[type[psycopg.Error], str], ...] = (
        (psycopg.errors.InsufficientPrivilege, f"run it as the owner of {table}, who is a member of coatcheck_owner"),
        (
            psycopg.errors.LockNotAvailable,
            f"the table was in use for longer than {_LOCK_TIMEOUT}, and nothing more was tried; run it again",
        ),
        (
            psycopg.errors.ObjectNotInPrerequisiteState,
            "if it is published, it needs a replica identity: `coatcheck check` shows the statement",
        ),
        (
            psycopg.errors.CheckViolation,
            f"rows of its time came into {other_name(table)} at this moment; run it again",
        ),
        (psycopg.errors.UndefinedTable, "somebody has taken it out at this moment: it is his"),
        (
            psycopg.errors.DuplicateTable,
            "a table of this name exists and is no partition for this time: rename it",
        ),
    )
    return next((hint for kind, hint in hints if isinstance(error, kind)), "see PostgreSQL's log")
