"""Erasure: originals leave the vault, and tombstones take the places of their tokens, in the same transactions.

* By text: each page of texts goes from all rows and from the vault at once.
* By subject: each page of his rows loses its texts; a text that no row has any more goes from the vault at once.
* By epoch: all originals of the epoch go; rows keep their tokens.

The beginning is on the audit trail before anything else happens. A run that was cut short is done again: what is erased
is found erased. Loaders go on meanwhile; what they bring of the same kind is found in a last pass.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, LiteralString, TypeVar

import psycopg
from psycopg import sql

from coatcheck.errors import RefusedError, UnreachableError
from coatcheck.pipeline.columns import Column, Kind
from coatcheck.sql import query
from coatcheck.sql.connection import translated
from coatcheck.sql.register import Table, label
from coatcheck.sql.session import login_path
from coatcheck.vault.reveal import refuse

_TEXTS = 500  # a page of texts: one look through the table each, unless their columns are indexed
_ROWS, _MOST_ROWS = 2000, 64_000  # a page of a subject's rows: each twice the last, for few looks through the table
_PASSES = 5
_MOST_LINKED = 50  # spellings that became one value in a rotation to a coarser form
_TRIES = 10  # of a page, when PostgreSQL has chosen it to give way in a deadlock
_KEYED = re.compile(r"p[ts]1_[a-z0-9]{1,16}_k[0-9a-z]{1,6}_[A-Za-z0-9_-]{40,}")
_COMPARED: Mapping[Kind, LiteralString] = {
    Kind.VARCHAR: "text",
    Kind.TEXT: "text",
    Kind.INTEGER: "bigint",
    Kind.BIGINT: "bigint",
    Kind.NUMERIC: "numeric",
    Kind.BOOLEAN: "boolean",
    Kind.DATE: "date",
    Kind.TIMESTAMPTZ: "timestamptz",
}
"""The type in which a subject is compared: no narrower than the column, or another subject might be found."""

T = TypeVar("T")


@dataclass(slots=True)
class Erased:
    """What an erasure has done so far.

    `texts` are the tokens and sealed texts that are gone everywhere, `entries` what the vault had of them (of each
    epoch), `named` how often requests for originals named them, `rows` the tombstones by column, `shared` the texts of
    a subject that rows of others still have, in the tables `shared_in`. `late` are rows that came faster than they
    could be erased. Columns are named with their table where it is not the only one.
    """

    texts: int = 0
    entries: int = 0
    named: int = 0
    rows: dict[str, int] = field(default_factory=dict)
    shared: int = 0
    late: int = 0
    shared_in: tuple[str, ...] = ()

    def figures(self) -> dict[str, int]:
        """Return the counts that go on the audit trail."""
        return {
            "texts": self.texts, "entries": self.entries, "named": self.named, "shared": self.shared,
            "late": self.late, "tombstones": sum(self.rows.values()),
        }  # fmt: skip


@dataclass(frozen=True, slots=True)
class Epoch:
    """What the end of an epoch took: originals and data keys.

    `young` data keys are too new to go; `keks` wrapped those of the epoch.
    """

    entries: int
    data_keys: int
    young: int
    keks: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Subject:
    """Whose rows: those of a table (schema.table) that have a value in a column that is not masked."""

    column: Column
    value: object
    table: str

    def __repr__(self) -> str:
        """Show the column, never the value."""
        return f"Subject({self.column.name})"


@dataclass(frozen=True, slots=True)
class _Page:
    """What one transaction has done: rows of a subject looked at, texts met and gone, and the counts.

    `shared_in` are tables whose rows have some of the texts that stay.
    """

    rows: int
    met: frozenset[str]
    gone: frozenset[str]
    done: Erased
    shared_in: frozenset[str] = frozenset()


class Eraser:
    """Erases in one database. `tables` are all that it has registered, whichever pipelines load them.

    `progress` is told what is done after each page. Methods raise RefusedError (the policy), UnreachableError,
    ConfigError, and what `progress` raises.
    """

    def __init__(
        self,
        connection: psycopg.Connection[Any],
        *,
        tables: Sequence[Table],
        progress: Callable[[Erased], None] = lambda _: None,
    ) -> None:
        connection.isolation_level = psycopg.IsolationLevel.READ_COMMITTED  # each look sees what it has waited for
        self._connection, self._progress = connection, progress
        self._tables, self._number = tables, 0

    def begin(self, how: str, reason: str, ticket: str, **figures: object) -> None:
        """Put the beginning on the audit trail: without it the database erases nothing."""
        at = {"how": how, "reason": reason, "ticket": ticket, "figures": json.dumps(figures)}
        with translated("begin the erasure"):
            number, refusal = self._execute(query("erase_begin"), at).fetchone() or (0, None)
        refuse(refusal)
        self._number = int(number)

    def end(self, figures: Mapping[str, int]) -> None:
        """Put the end on the audit trail."""
        with translated("end the erasure"):
            self._execute(query("erase_end"), {"erasure_id": self._number, "figures": json.dumps(figures)})

    # -- by text

    def texts(self, texts: Iterable[str]) -> Erased:
        """Erase tokens and sealed texts from the vault and from all rows."""
        ordered = sorted(set(texts))
        pages = [set(ordered[at : at + _TEXTS]) for at in range(0, len(ordered), _TEXTS)]
        done, gone = Erased(), set[str]()
        with translated("erase"):
            for number in range(_PASSES):
                before = sum(done.rows.values())
                for known in pages:
                    page = self._step(partial(self._texts_page, known, last=number > 0))
                    known.update(page.gone)  # an alias that comes back leads to all of them
                    gone |= page.gone
                    _add(done, page.done)
                    done.texts = len(gone)
                    self._progress(done)
                if number and sum(done.rows.values()) == before:
                    return done
        done.late = sum(done.rows.values()) - before
        return done

    def _texts_page(self, texts: set[str], *, last: bool) -> _Page:
        families = self._families(texts)
        members, done = {member for _, member in families}, Erased()
        for table in self._tables:
            for column in table.columns:
                prefix = f"{column.scheme}_{column.domain}_"
                mine = [text for text in sorted(members) if text.startswith(prefix)]
                if mine and (count := self._tombstones(table, column, mine)):
                    name = label(self._tables, table, column.name)
                    done.rows[name] = done.rows.get(name, 0) + count
        if not last or done.rows or any(text != member for text, member in families):
            self._forget(members, done)
        return _Page(0, frozenset(), frozenset(members), done)

    def _tombstones(self, table: Table, column: Column, texts: list[str]) -> int:
        statement = sql.SQL(query("erase_rows")).format(
            target=table.identifier,
            column=sql.Identifier(column.name),
            text=_text(column),
            tombstone=_tombstone(column),
        )
        with login_path(self._connection):
            return self._execute(statement, {"texts": texts}).rowcount

    # -- by subject

    def subject(self, subject: Subject) -> Erased:
        """Erase all texts from a subject's rows, and from the vault those that no row has any more."""
        done, met, gone, passes, most = Erased(), set[str](), set[str](), 0, _ROWS
        with translated("erase"):
            while passes < _PASSES:
                page = self._step(partial(self._subject_page, subject, most))
                if not page.rows:
                    break
                passes += page.rows < most  # what comes now has arrived meanwhile
                most = min(2 * most, _MOST_ROWS)
                met |= page.met
                gone |= page.gone
                _add(done, page.done)
                done.texts, done.shared = len(gone), len(met - gone)
                done.shared_in = tuple(sorted({*done.shared_in, *page.shared_in}))
                self._progress(done)
            else:
                done.late = page.rows
        return done

    def _subject_page(self, subject: Subject, most: int) -> _Page:
        table = next((one for one in self._tables if one.qualified == subject.table), None)
        if table is None:  # it has no column under a key
            return _Page(0, frozenset(), frozenset(), Erased())
        masked = _one_each(table)
        fields = {"texts": _listed(map(_text, masked)), "any": _either(_unerased, masked)}
        statement = self._of_subject("erase_page", subject, **fields)
        found = self._execute(statement, {"subject": subject.value, "limit": most}).fetchall()
        if not found:
            return _Page(0, frozenset(), frozenset(), Erased())
        done = Erased(rows=self._count(table, [row[2:] for row in found]))
        places = {"tables": [row[0] for row in found], "places": [row[1] for row in found]}
        with login_path(self._connection):
            self._execute(_assigning(table), places)
        met = {text for row in found for text in row[2:] if text is not None and _KEYED.fullmatch(text)}
        gone, shared_in = self._unused(met)
        if gone:
            self._forget(gone, done)
        return _Page(len(found), frozenset(met), frozenset(gone), done, frozenset(shared_in))

    def _count(self, table: Table, rows: Sequence[Sequence[str | None]]) -> dict[str, int]:
        counts = {
            label(self._tables, table, name): sum(text is not None and not text.startswith("px1_") for text in texts)
            for name, texts in zip(table.names, zip(*rows, strict=True), strict=True)
        }
        return {name: count for name, count in counts.items() if count}

    def _unused(self, texts: set[str]) -> tuple[set[str], set[str]]:
        """Return those of the texts, with all that stand for the same values, of which no row of any table has any.

        And the tables that have some of the others.
        """
        families: dict[str, set[str]] = {}
        for text, member in self._families(texts):
            families.setdefault(text, set()).add(member)
        members = sorted(set().union(*families.values()))
        left, where = set[str](), set[str]()
        for table in self._tables if members else ():
            if found := self._left(table, members):
                left |= found
                where.add(table.qualified)
        return {member for family in families.values() if not family & left for member in family}, where

    def _left(self, table: Table, texts: list[str]) -> set[str]:
        masked = _one_each(table)
        statement = sql.SQL(query("erase_left")).format(
            target=table.identifier,
            texts=_listed(map(_text, masked)),
            any=_either(lambda column: sql.SQL("{} = ANY (%(texts)s::text[])").format(_text(column)), masked),
        )
        return {text for (text,) in self._execute(statement, {"texts": texts}).fetchall()}

    def rows_of(self, subject: Subject, columns: Sequence[Column]) -> tuple[int, dict[str, int]]:
        """Return how many rows a subject has, and how many have something in each of `columns`."""
        counts = [sql.SQL("count({})").format(_text(column)) for column in columns]
        statement = self._of_subject("erase_subject", subject, counts=_listed([*counts, sql.SQL("0")]))
        with translated("count what remains"):
            total, *found = self._execute(statement, {"subject": subject.value}).fetchone() or (0,)
        return total, dict(zip((column.name for column in columns), found, strict=False))

    def _of_subject(self, name: str, subject: Subject, **fields: sql.Composable) -> sql.Composed:
        return sql.SQL(query(name)).format(
            target=sql.Identifier(*subject.table.split(".", 1)),
            subject=_text(subject.column),
            type=sql.SQL(_COMPARED[subject.column.type.kind]),
            **fields,
        )

    # -- by epoch

    def epoch(self, epoch: int) -> Epoch:
        """Erase all originals of an epoch. Raises RefusedError: it is not over; UnreachableError: loaders are busy."""
        at = {"erasure": self._number, "epoch": epoch}
        with translated("erase the epoch"):
            try:
                found = self._step(lambda: self._execute(query("erase_epoch"), at).fetchone())
            except psycopg.errors.LockNotAvailable:
                raise UnreachableError(
                    "the vault was in use for ten seconds on end, nothing is erased",
                    hint="run it again when less is loaded, or no long transaction holds the vault",
                ) from None
        entries, data_keys, young, keks = found or (0, 0, 0, [])
        return Epoch(entries, data_keys, young, tuple(sorted(keks)))

    # -- what all have in common

    def held(self) -> int:
        """Return how many messages the quarantine holds."""
        with translated("count what remains"):
            return int((self._execute(query("erase_held"), {}).fetchone() or (0,))[0])

    def rotating(self) -> bool:
        """Tell whether a rotation has aliases."""
        with translated("count what remains"):
            return bool((self._execute(query("erase_rotating"), {}).fetchone() or (False,))[0])

    def _step(self, work: Callable[[], T]) -> T:
        """Do a page as one transaction; again, when somebody else had to go first (SQLSTATE class 40)."""
        for _ in range(_TRIES):
            try:
                return self._transaction(work)
            except psycopg.OperationalError as error:
                if (error.sqlstate or "")[:2] != "40":
                    raise
        return self._transaction(work)

    def _transaction(self, work: Callable[[], T]) -> T:
        with self._connection.transaction():
            self._execute(query("erase_turn"), {})
            return work()

    def _families(self, texts: set[str]) -> list[tuple[str, str]]:
        """Return (text, one of its family). Raises RefusedError for one of improbable size."""
        found = self._linked(texts)
        largest = max(Counter(text for text, _ in found).values(), default=0)
        if largest > _MOST_LINKED:
            raise RefusedError(
                f"a token is linked to {largest - 1:,} others, which would be erased with it",
                hint="a loader may have planted them: look into coatcheck.alias, or wait for the end of the rotation",
            )
        return found

    def _linked(self, texts: set[str]) -> list[tuple[str, str]]:
        return self._execute(query("erase_families"), {"texts": sorted(texts)}).fetchall()

    def _forget(self, texts: set[str], done: Erased) -> None:
        """Erase texts from vault, aliases and requests. After the rows: its locks are those that others wait for."""
        at = {"erasure": self._number, "texts": sorted(texts)}
        entries, _, named = self._execute(query("erase_tokens"), at).fetchone() or (0, 0, 0)
        done.entries += entries
        done.named += named

    def _execute(self, statement: str | sql.Composed, parameters: Mapping[str, Any]) -> psycopg.Cursor[Any]:
        text = statement.encode() if isinstance(statement, str) else statement
        return self._connection.execute(text, parameters)


def _one_each(table: Table) -> list[Column]:
    """Return the columns of a table, each name once."""
    first: dict[str, Column] = {}
    for column in table.columns:
        first.setdefault(column.name, column)
    return list(first.values())


def _assigning(table: Table) -> sql.Composed:
    assignments = [
        sql.SQL("{} = CASE WHEN {} THEN {} ELSE {} END").format(
            sql.Identifier(column.name), _unerased(column), _tombstone(column), _text(column)
        )
        for column in _one_each(table)
    ]
    return sql.SQL(query("erase_page_rows")).format(target=table.identifier, assignments=_listed(assignments))


def _add(done: Erased, more: Erased) -> None:
    done.entries += more.entries
    done.named += more.named
    for name, count in more.rows.items():
        done.rows[name] = done.rows.get(name, 0) + count


def _text(column: Column) -> sql.Identifier:
    return sql.Identifier("t", column.name)


def _tombstone(column: Column) -> sql.Composed:
    return sql.SQL(query("erase_tombstone")).format(domain=sql.Literal(column.domain), text=_text(column))


def _unerased(column: Column) -> sql.Composed:
    """Compose the condition that a column has something that is no tombstone; it need not be a token."""
    return sql.SQL("({0} IS NOT NULL AND NOT pg_catalog.starts_with({0}, 'px1_'))").format(_text(column))


def _listed(parts: Iterable[sql.Composable]) -> sql.Composed:
    return sql.SQL(", ").join(list(parts))


def _either(condition: Callable[[Column], sql.Composable], columns: Sequence[Column]) -> sql.Composed:
    return sql.SQL(" OR ").join([condition(column) for column in columns])
