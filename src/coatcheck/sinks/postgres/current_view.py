"""The view for the time of a rotation, in which old and new tokens of one value are the same text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import psycopg
from psycopg import sql

from coatcheck.pipeline.columns import Column
from coatcheck.sinks.postgres import roles
from coatcheck.sinks.postgres.sink import table_identifier
from coatcheck.sinks.postgres.target import create_view, view_name
from coatcheck.sinks.postgres.target_catalog import named, refuse_anothers, table_columns
from coatcheck.sql import query, register
from coatcheck.sql.connection import connect, translated


def follow_rotation(connection: psycopg.Connection[Any], dsn: str, qualified: str) -> None:
    """Make the view of a table that is registered, or gets a masked column, while a rotation is under way."""
    found = connection.execute(query("is_rotating")).fetchone()
    if found and found[0]:
        for table in register.tables(connection):
            if table.qualified == qualified:
                make_view(dsn, qualified, table.columns)


def make_view(dsn: str, table: str, columns: Sequence[Column]) -> str:
    """Make the view for the time of a rotation, and let all read it who read the table; return its name.

    It stays until somebody drops it: while it is there, the columns of the table cannot change their types. Raises
    UnreachableError, ConfigError.
    """
    view = view_name(table)
    with connect(dsn) as connection, translated("make the view over the target table"), connection.transaction():
        refuse_anothers(connection, view)
        create = create_view(table, columns, table_columns(connection, table))
        try:
            with connection.transaction():
                connection.execute(create)
        except psycopg.errors.InvalidTableDefinition:  # that of an earlier rotation, when the columns were others
            connection.execute(sql.SQL("DROP VIEW {}").format(table_identifier(view)))
            connection.execute(create)
        for (grantee,) in connection.execute(query("table_readers"), named(table)).fetchall():
            role = sql.SQL("PUBLIC") if grantee is None else sql.Identifier(grantee)
            connection.execute(sql.SQL("GRANT SELECT ON {} TO {}").format(table_identifier(view), role))
        roles.hand_over_view(connection, table, columns)
    return view
