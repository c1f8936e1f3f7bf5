"""Hold the target table against the configured columns: what `run` would refuse or quarantine, `check` says.

The catalogue is asked for each known reason, so that the finding can say what to change. Then PostgreSQL itself is
asked whether it would take rows (`target_probe.sql`): a refusal that no known reason explains is an error all the same.

Nothing that the owner of the table wrote runs here: `check` may be called by a superuser.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from fractions import Fraction
from typing import Any, NamedTuple

import psycopg

from coatcheck.errors import ConfigError, Finding
from coatcheck.pipeline.columns import Column
from coatcheck.sinks.postgres import target_constraints
from coatcheck.sinks.postgres.sink import compose
from coatcheck.sinks.postgres.target_catalog import Actual, Target, ask, columns_of, look_up
from coatcheck.sinks.postgres.target_types import holds
from coatcheck.sql import query
from coatcheck.sql.sqlstate import stop_error

_OWN = ("coatcheck", "information_schema")
_KINDS = {
    "v": "a view that takes no rows",
    "m": "a materialized view",
    "f": "a foreign table that takes no rows",
    "S": "a sequence",
    "c": "a composite type",
    "i": "an index",
    "I": "an index",
    "t": "a TOAST table",
}
_HASH = re.compile(r"modulus ([0-9]+)")
_PROBE_HINTS = {
    "0A000": "a rule of the table does not go with the loader's statement: use a trigger instead",
    "428C9": "the table computes a column that [columns] fills: leave that column out of [columns]",
}


class _Part(NamedTuple):
    name: str
    kind: str
    strategy: str | None
    has_default: bool
    bounds: list[str]
    check_option: bool


def _error(what: str, hint: str) -> Finding:
    return Finding("database", "error", what, hint)


def _advice(what: str, hint: str) -> Finding:
    return Finding("database", "advice", what, hint)


def misplaced(connection: psycopg.Connection[Any], table: str, target: Target | None) -> Finding | None:
    """Return what is wrong with where the target is, or would be made: it must not be coatcheck's or PostgreSQL's."""
    schema: str | None = target.schema if target else table.rpartition(".")[0]
    if not schema:
        what = f"the target table {table} is nowhere: this login's search_path has no schema to look in"
        return _error(what, "name it with its schema in [target] table")
    hint = "name a table of your own in [target] table, with its schema"
    if schema in _OWN or (schema or "").startswith("pg_"):
        whose = "coatcheck's own" if schema == "coatcheck" else "PostgreSQL's own"
        return _error(f"the target table {table} is in the schema {schema}, which is {whose}", hint)
    if target is None and schema and not _is_there(connection, schema):
        return _error(
            f"there is no schema {schema} for the target table {table}",
            f"CREATE SCHEMA {schema}, or name another in [target] table",
        )
    if target and target.own:
        return _error(f"the target table {table} leads to coatcheck's own tables: {', '.join(target.own)}", hint)
    return None


def _is_there(connection: psycopg.Connection[Any], schema: str) -> bool:
    found = connection.execute(
        "SELECT EXISTS (SELECT FROM pg_catalog.pg_namespace WHERE nspname = %s)", [schema]
    ).fetchone()
    return bool(found and found[0])


def refuse_misplaced(connection: psycopg.Connection[Any], table: str) -> None:
    """Refuse a target in a schema of coatcheck or PostgreSQL. Raises ConfigError, psycopg.Error."""
    wrong = misplaced(connection, table, look_up(connection, table))
    if wrong:
        raise ConfigError(wrong.what, hint=wrong.hint)


def inspect(connection: psycopg.Connection[Any], table: str, columns: Sequence[Column]) -> list[Finding]:
    """Return everything that keeps rows out of the target, and what may. Raises psycopg.Error."""
    target = look_up(connection, table)
    wrong = misplaced(connection, table, target)
    if wrong:
        return [wrong]
    if target is None:
        return [_error(f"the target table {table} is missing", "run `coatcheck migrate`, or create it")]
    if target.kind in _KINDS and not target.takes_rows:
        what = f"the target table {table} is {_KINDS[target.kind]}"
        return [_error(what, "name a table, or a view that takes rows, in [target] table")]
    return [*_Look(connection, table, columns, target).findings()]


def creators(connection: psycopg.Connection[Any], table: str) -> Iterator[Finding]:
    """Yield who may create objects in the target's schema beside its owner and the table's. Raises psycopg.Error."""
    target = look_up(connection, table)
    if target is None:
        return
    for (role,) in ask(connection, target, "schema_creators"):
        who = "everybody" if role is None else f"the role {role}"
        yield _error(
            f"{who} may create objects in the schema {target.schema}, where the target table is",
            f"REVOKE CREATE ON SCHEMA {target.schema} FROM {role or 'PUBLIC'}, move the table to a schema of its own, "
            "or set [target] shared_schema = true",
        )


def probe(connection: psycopg.Connection[Any], table: str, columns: Sequence[Column]) -> list[Finding]:
    """Ask PostgreSQL whether it would take the loader's rows; for a target in which nothing else is wrong.

    A table that somebody has locked is not waited for, and a standby is not asked.
    """
    stored = [column for column in columns if column.stored]
    statement = compose("target_probe", table, stored)
    try:
        with connection.transaction():
            standby = connection.execute("SELECT pg_catalog.pg_is_in_recovery()").fetchone()
            if standby and standby[0]:
                return []
            connection.execute("SET LOCAL lock_timeout = '2s'")
            connection.execute(statement, {f"c{index}": "{}" for index in range(len(stored))})
    except psycopg.errors.LockNotAvailable:
        return []
    except psycopg.Error as error:
        if connection.closed:
            raise
        refused = stop_error(error, f"put rows into {table}")
        return [_error(refused.message, _PROBE_HINTS.get(error.sqlstate or "", refused.hint))]
    return []


def replica_identities(
    connection: psycopg.Connection[Any], table: str, columns: Sequence[Column], *, partitioned: bool
) -> list[Finding]:
    """Return the tables that a publication keeps from being updated; of the target, if anything updates it.

    An erasure and a rotation update masked columns; `maintain` deletes from a partitioned target. Raises psycopg.Error.
    """
    target = look_up(connection, table)
    changes = partitioned or any(column.stored and column.scheme for column in columns)
    at = {"behind": target.behind if target and changes else []}
    return [
        _advice(
            f"{name} is published and has no replica identity: PostgreSQL refuses to update its rows or delete them, "
            "so that erase, keys retokenize and maintain fail (55000)",
            f"ALTER TABLE {name} REPLICA IDENTITY FULL, or give it a primary key",
        )
        for (name,) in connection.execute(query("replica_identities"), at).fetchall()
    ]


class _Look:
    """One look at a target; each method yields the findings of one kind."""

    def __init__(
        self, connection: psycopg.Connection[Any], table: str, columns: Sequence[Column], target: Target
    ) -> None:
        self._connection, self._table, self._target = connection, table, target
        self._stored = [column for column in columns if column.stored]
        self._quoted = ".".join(map(self._quote, table.split(".")))
        self._actual = columns_of(connection, target)

    def findings(self) -> Iterator[Finding]:
        yield from self._columns()
        yield from self._unfilled()
        yield from self._row_security()
        yield from self._parts()
        yield from target_constraints.findings(self._connection, self._table, self._stored, self._target, self._actual)
        yield from self._code()

    def _quote(self, name: str) -> str:
        found = self._connection.execute("SELECT pg_catalog.quote_ident(%s)", [name]).fetchone()
        return str(found[0]) if found else name

    def _columns(self) -> Iterator[Finding]:
        there = {actual.name: actual for actual in self._actual}
        for column in self._stored:
            actual = there.get(column.name)
            if actual is None:
                hint = (
                    f"ALTER TABLE {self._quoted} ADD COLUMN {self._quote(column.name)} {column.type.sql}, "
                    "or leave it out of [columns]"
                )
                yield _error(f"{self._table} has no column {column.name}", hint)
            else:
                yield from self._column(column, actual)

    def _column(self, column: Column, actual: Actual) -> Iterator[Finding]:
        name = f"{self._table}.{column.name}"
        if actual.generated or actual.always:
            how = "a generated column" if actual.generated else "GENERATED ALWAYS AS IDENTITY"
            yield _error(f"{name} is {how}, and [columns] fills it", "leave it out of [columns]: the table fills it")
        elif not actual.updatable:
            yield _error(f"{name} is a column of a view that takes no values", "leave it out of [columns]")
        elif not holds(actual.base, column):
            hint = (
                f"change the configuration, or ALTER TABLE {self._quoted} ALTER COLUMN {self._quote(column.name)} TYPE"
            )
            what = f"{name} is {actual.type}, [columns] says {column.type.sql}"
            yield _error(what, f"{hint} {column.type.sql}")
        elif actual.not_null and not column.required and column.default is None and not column.default_sent_at:
            lost = "; the column's DEFAULT does not apply, because the loader writes NULL" if actual.filled else ""
            yield _advice(
                f"{name} is NOT NULL, and [columns] does not require it: "
                f"a message without it goes to quarantine (23502){lost}",
                "set required = true, or a default, in [columns], or drop NOT NULL",
            )

    def _unfilled(self) -> Iterator[Finding]:
        filled = {column.name for column in self._stored}
        for actual in self._actual:
            if actual.not_null and not actual.filled and not actual.generated and actual.name not in filled:
                what = f"{self._table}.{actual.name} is NOT NULL without a default, and [columns] does not fill it"
                yield _error(what, "give it a default")
        for hidden in self._target.hidden:
            what = f"{self._table} is a view that does not show {hidden}, which is NOT NULL without a default"
            yield _error(what, "give the column a default, or show it in the view")

    def _row_security(self) -> Iterator[Finding]:
        if not self._target.row_security:
            return
        policies = ask(self._connection, self._target, "target_policies")
        permissive = [closed for _, permits, closed in policies if permits]
        restrictive = [closed for _, permits, closed in policies if not permits]
        if all(permissive) or any(restrictive):
            what = f"row-level security of {self._table} lets this user insert no row: no policy permits it"
            hint = f"CREATE POLICY ... ON {self._quoted} FOR INSERT TO ... WITH CHECK (true), or load as another user"
            yield _error(what, hint)
        else:
            names = ", ".join(name for name, *_ in policies)
            what = f"row-level security of {self._table} decides on each row: rows that no policy permits are refused"
            yield _advice(f"{what} ({names})", "make sure that the policies permit all rows that the queue brings")

    def _parts(self) -> Iterator[Finding]:
        parts = [_Part(*row) for row in ask(self._connection, self._target, "target_parts")]
        tables = [part for part in parts if part.kind in ("r", "f")]
        if not tables and any(part.kind == "p" for part in parts):
            hint = "create partitions, or set [target] partition_by and run `coatcheck maintain`"
            yield _error(f"{self._table} is partitioned and has no partition: it takes no row", hint)
            return
        for part in parts:
            if part.kind == "p" and not part.has_default and not _is_whole(part):
                hint = f"CREATE TABLE ... PARTITION OF {part.name} DEFAULT, or make sure that there is one for each row"
                yield _advice(f"{part.name} has no default partition: rows of no partition go to quarantine", hint)
        if any(part.check_option for part in parts):
            what = f"{self._table} is a view WITH CHECK OPTION: rows that it would not show go to quarantine"
            yield _advice(what, "make sure that its condition lets in all rows that the queue brings")
        if self._target.is_partition:
            what = f"{self._table} is a partition of another table: rows outside of its bounds go to quarantine"
            yield _advice(what, "name the partitioned table in [target] table")

    def _code(self) -> Iterator[Finding]:
        for kind, name, where in ask(self._connection, self._target, "target_code"):
            what = f"the {kind} {name} of {where} may change rows, drop them or put them elsewhere"
            yield Finding("database", "note", what, "what it drops is lost: know what it does")


def _is_whole(part: _Part) -> bool:
    """Tell whether hash partitions leave no row without a partition."""
    moduli = [match[1] for match in map(_HASH.search, part.bounds) if match]
    return part.strategy == "h" and sum((Fraction(1, int(modulus)) for modulus in moduli), Fraction(0)) == 1
