"""Who may do what: coatcheck's roles in PostgreSQL, made and granted by `migrate`, held against by `check`.

Roles are groups without a login, to be granted to people's and services' own logins. They belong to the whole server:
another database of coatcheck there uses the same ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg import sql

from coatcheck.errors import Finding
from coatcheck.pipeline.columns import Column
from coatcheck.sinks.postgres.target import view_name
from coatcheck.sql import query

PREFIX = "coatcheck_"
ROLES = {
    "owner": "owns the schema; sets the policy of the desk",
    "loader": "the road: adds rows, reads nothing but the ledger",
    "operator": "a loader that may also look at, retry and discard quarantined messages",
    "analyst": "reads the target table: tokens",
    "revealer": "asks for originals, and opens what was approved",
    "approver": "approves what others ask for",
    "auditor": "reads the audit trail and all requests",
    "eraser": "erases originals and their tokens",
    "rotator": "carries out a rotation of keys",
}
"""Role (behind PREFIX) -> what it is for."""


@dataclass(frozen=True, slots=True)
class Roles:
    """What `install` did: roles created, statements carried out, and statements that this user may not carry out."""

    created: tuple[str, ...] = ()
    granted: tuple[str, ...] = ()
    refused: tuple[str, ...] = ()


def install(connection: psycopg.Connection[Any], table: str, columns: Sequence[Column]) -> Roles:
    """Make the roles that are missing, give them what they lack, and hand coatcheck's schema to its owner.

    What this user may not do is left, and told: rows can be loaded without any role. `connection` is in autocommit
    mode: each statement is a transaction, so that no lock is held for long.
    """
    created, granted, refused = [], [], []

    def run(*statements: str) -> bool:
        for statement in statements:
            try:
                connection.execute(statement.encode())
            except psycopg.errors.InsufficientPrivilege:
                refused.append(statement)
            else:
                granted.append(statement)
        return not refused

    for name in missing_roles(connection):
        try:
            connection.execute(sql.SQL("CREATE ROLE {} NOLOGIN").format(sql.Identifier(name)))
        except (psycopg.errors.DuplicateObject, psycopg.errors.UniqueViolation):
            pass  # another database of this server was migrated at the same moment
        except psycopg.errors.InsufficientPrivilege:
            refused.append(f"CREATE ROLE {name} NOLOGIN")
        else:
            created.append(name)
    if not refused and (_is_owner(connection) or run("GRANT coatcheck_owner TO CURRENT_USER")):
        run(*(text for (text,) in connection.execute(query("foreign_owned")).fetchall()))
    run(*(mend for kind, _, mend in _problems(connection, table, columns) if kind == "missing"))
    return Roles(tuple(created), tuple(granted), tuple(refused))


def _is_owner(connection: psycopg.Connection[Any]) -> bool:
    found = connection.execute("SELECT pg_has_role('coatcheck_owner', 'USAGE')").fetchone()
    return bool(found and found[0])


def missing_roles(connection: psycopg.Connection[Any]) -> list[str]:
    """Return the names of the roles that the server has not."""
    there = {name for (name,) in connection.execute("SELECT rolname FROM pg_roles").fetchall()}
    return [PREFIX + role for role in ROLES if PREFIX + role not in there]


def _problems(connection: psycopg.Connection[Any], table: str, columns: Sequence[Column]) -> list[tuple[str, str, str]]:
    """Return (missing or excess, what, the statement that mends it)."""
    schema, _, name = table.rpartition(".")
    view = view_name(table).rpartition(".")[2]
    found = connection.execute(query("table_schema"), {"schema": schema or None, "name": name}).fetchone()
    masked = [column.name for column in columns if column.stored and column.scheme]
    at = {"schema": found[0] if found else None, "table": name, "view": view, "masked": masked}
    return connection.execute(query("grants"), at).fetchall()


def inspect(connection: psycopg.Connection[Any], table: str, columns: Sequence[Column]) -> list[Finding]:
    """Return what is wrong with the roles, and with what this user may do beyond loading."""
    found = []
    absent = missing_roles(connection)
    if absent:
        hint = "run `coatcheck migrate` as a user that may create roles; until then only the owner opens the vault"
        found.append(Finding("database", "advice", f"roles are missing: {', '.join(absent)}", hint))
    for kind, what, mend in _problems(connection, table, columns):
        text = f"a role lacks {what}" if kind == "missing" else f"a privilege that no role should have: {what}"
        found.append(Finding("database", "advice", text, mend))
    return found
