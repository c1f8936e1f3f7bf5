"""What the catalogue says of the target table, as the findings about it need it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import psycopg

from coatcheck.errors import RefusedError
from coatcheck.sql import query, register
from coatcheck.sql.session import login_path


@dataclass(frozen=True, slots=True)
class Target:
    """The relation that is the target; `target.sql` says what each field means."""

    oid: int
    schema: str
    kind: str
    is_partition: bool
    takes_rows: bool
    row_security: bool
    behind: list[int]
    own: list[str]
    hidden: list[str]


class Actual(NamedTuple):
    """A column of the target; `target_columns.sql` says what each field means."""

    name: str
    type: str
    base: str
    domains: list[int]
    generated: bool
    always: bool
    updatable: bool
    not_null: bool
    filled: bool


def named(table: str) -> dict[str, str | None]:
    """Return the parameters `schema` and `name` of the queries that look a table up."""
    schema, _, name = table.rpartition(".")
    return {"schema": schema or None, "name": name}


def table_columns(connection: psycopg.Connection[Any], table: str) -> list[tuple[str, str, bool]]:
    """Return (name, type, whether rows need a value for it) for each column; nothing if there is no such table."""
    return connection.execute(query("table_columns"), named(table)).fetchall()


def look_up(connection: psycopg.Connection[Any], table: str) -> Target | None:
    """Return the relation of this name, if there is one. Raises psycopg.Error."""
    found = connection.execute(query("target"), named(table)).fetchone()
    return Target(*found) if found else None


def ask(connection: psycopg.Connection[Any], target: Target, name: str, **more: object) -> list[tuple[Any, ...]]:
    """Return the rows of a query about a target. Raises psycopg.Error."""
    return connection.execute(query(name), {"oid": target.oid, "behind": target.behind} | more).fetchall()


def columns_of(connection: psycopg.Connection[Any], target: Target) -> list[Actual]:
    """Return the columns of a target, in their order. Raises psycopg.Error."""
    return [Actual(*row) for row in ask(connection, target, "target_columns")]


def where(connection: psycopg.Connection[Any], pipeline: str, table: str) -> str:
    """Return a pipeline's table with its schema: the registered one, else that to which the login's search_path leads.

    It stays without a schema if that leads nowhere. Raises psycopg.Error.
    """
    if "." in table:
        return table
    known = _registered(connection, pipeline)
    if known is not None and known.exists and table == known.table:
        return known.qualified
    with login_path(connection):
        found = connection.execute(query("table_home"), {"name": table}).fetchone()
    return f"{found[0]}.{table}" if found and found[0] else table


def _registered(connection: psycopg.Connection[Any], pipeline: str) -> register.Pipeline | None:
    try:
        with connection.transaction():
            return register.pipelines(connection).get(pipeline)
    except (psycopg.errors.InsufficientPrivilege, psycopg.errors.UndefinedTable, psycopg.errors.InvalidSchemaName):
        return None  # what is missing is found with the rest


def refuse_anothers(connection: psycopg.Connection[Any], view: str) -> None:
    """Refuse to replace what has the name of a view of ours and is not one. Raises RefusedError, psycopg.Error."""
    found = connection.execute(query("view_is_ours"), named(view)).fetchone()
    if found and not found[0]:
        raise RefusedError(
            f"{view} is not a view that coatcheck has made, and a rotation makes one of that name",
            hint="give yours another name: ALTER TABLE ... RENAME TO ... (or ALTER VIEW)",
        )
