"""Who may do what: coatcheck's roles in PostgreSQL, made and granted by `migrate`, held against by `check`.

Roles are groups without a login, to be granted to people's and services' own logins. They belong to the whole server:
another database of coatcheck there uses the same ones.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import groupby
from typing import Any, NamedTuple

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


_TRIES = 10  # of a statement that met the same one of another database's migration
_IS_OWNER = "SELECT pg_has_role('coatcheck_owner', 'USAGE')"
LOCK_TIMEOUT = "2s"  # loaders queue behind a statement that waits for a table: it gives up before they notice
_AGAIN = (
    psycopg.errors.InternalError_,  # tuple concurrently updated
    psycopg.errors.UniqueViolation,
    psycopg.errors.DuplicateObject,
    psycopg.errors.DeadlockDetected,
    psycopg.errors.SerializationFailure,
)


@dataclass(frozen=True, slots=True)
class Roles:
    """What `install` did: roles created, statements carried out, and statements that this user may not carry out.

    `busy` are statements that a table in use did not let through; the next run finds them again.
    """

    created: tuple[str, ...] = ()
    granted: tuple[str, ...] = ()
    refused: tuple[str, ...] = ()
    busy: tuple[str, ...] = ()


class _Problem(NamedTuple):
    kind: str
    role: str | None
    what: str
    mend: str


class _Installer:
    """Carries statements out, each in a transaction of its own, so that no lock is held for long."""

    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        self._connection = connection
        self.created: list[str] = []
        self.granted: list[str] = []
        self.refused: list[str] = []
        self.busy: list[str] = []

    def run(self, statement: str) -> bool:
        """Carry one out; tell whether its effect is there."""
        for _ in range(_TRIES):
            try:
                with self._connection.transaction():
                    self._connection.execute(f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT}'".encode())
                    self._connection.execute(statement.encode())
            except _AGAIN:
                continue
            except psycopg.errors.InsufficientPrivilege:
                self.refused.append(statement)
                return False
            except psycopg.errors.UndefinedTable:  # an epoch that was erased at this moment
                return True
            except psycopg.errors.LockNotAvailable:
                break
            self.granted.append(statement)
            return True
        self.busy.append(statement)
        return False

    def create(self, name: str) -> None:
        """Make a role, unless another database of this server is migrated at the same moment."""
        statement = sql.SQL("CREATE ROLE {} NOLOGIN").format(sql.Identifier(name))
        try:
            self._connection.execute(statement)
        except (psycopg.errors.DuplicateObject, psycopg.errors.UniqueViolation):
            pass
        except psycopg.errors.InsufficientPrivilege:
            self.refused.append(f"CREATE ROLE {name} NOLOGIN")
        else:
            self.created.append(name)

    def hand_over(self) -> None:
        """Give what is in coatcheck's schema to its owner, up to the first thing that this user may not give away.

        Functions run as their owner: they come last, and only when all the tables that they use are the same owner's.
        """
        if not _value(self._connection, _IS_OWNER):
            statement = f"GRANT coatcheck_owner TO {_value(self._connection, 'SELECT quote_ident(current_user)')}"
            if self.run(statement) and not _value(self._connection, _IS_OWNER):
                self._without_effect(statement)  # NOINHERIT
        for statement in [] if self.refused else self._foreign_owned():
            if self.refused or (self.busy and statement.startswith("ALTER FUNCTION")):
                return
            self.run(statement)
            if statement.startswith("GRANT") and statement in self._foreign_owned():
                self._without_effect(statement)

    def _foreign_owned(self) -> list[str]:
        return [statement for (statement,) in self._connection.execute(query("foreign_owned")).fetchall()]

    def _without_effect(self, statement: str) -> None:
        if statement in self.granted:
            self.granted.remove(statement)
            self.refused.append(statement)

    def take_back(self, table: str, columns: Sequence[Column]) -> None:
        """Take from coatcheck's roles, and from everybody, what they should not have, whoever granted it."""
        for mend in _taken_back(self._connection, table, columns):
            self.run(mend)
        # of what another role granted, or owns, PostgreSQL takes nothing back with a warning only
        for mend in _taken_back(self._connection, table, columns):
            self._without_effect(mend)

    def grant(self, table: str, columns: Sequence[Column]) -> None:
        """Grant what is missing. Some of it shows only when the rest is there."""
        tried: set[str] = set()
        while new := [mend for mend in _missing(self._connection, table, columns) if mend not in tried]:
            for mend in new:
                self.run(mend)
            tried.update(new)
        # of a table on which this user may do something, but grant nothing, PostgreSQL refuses with a warning only
        for mend in _missing(self._connection, table, columns):
            self._without_effect(mend)


def install(connection: psycopg.Connection[Any], table: str, columns: Sequence[Column]) -> Roles:
    """Make the roles that are missing, give and take what they lack and should not have, hand the schema to its owner.

    Each statement is a transaction of its own: loaders queue behind locks. A run that was cut short is done again.

    What this user may not do is left, and told: rows can be loaded without any role. `connection` is in autocommit
    mode. Whoever calls it keeps other runs in this database out meanwhile.
    """
    installer = _Installer(connection)
    for name in missing_roles(connection):
        installer.create(name)
    if not installer.refused:
        installer.hand_over()
    installer.take_back(table, columns)
    installer.grant(table, columns)
    return Roles(*map(tuple, (installer.created, installer.granted, installer.refused, installer.busy)))


def hand_over_view(connection: psycopg.Connection[Any], table: str, columns: Sequence[Column]) -> None:
    """Give the view over the target to the rotators, if this user may: it must outlive the login that has made it."""
    for problem in _problems(connection, table, columns):
        if problem.mend.startswith("ALTER VIEW"):
            with suppress(psycopg.errors.InsufficientPrivilege), connection.transaction():
                connection.execute(problem.mend.encode())


def _value(connection: psycopg.Connection[Any], statement: str) -> Any:
    found = connection.execute(statement.encode()).fetchone()
    return found[0] if found else None


def missing_roles(connection: psycopg.Connection[Any]) -> list[str]:
    """Return the names of the roles that the server has not."""
    there = {name for (name,) in connection.execute("SELECT rolname FROM pg_roles").fetchall()}
    return [PREFIX + role for role in ROLES if PREFIX + role not in there]


def _problems(connection: psycopg.Connection[Any], table: str, columns: Sequence[Column]) -> list[_Problem]:
    """Return the privileges that are missing or in excess, of which role, and the statements that mend it.

    `grants.sql` says what each kind is.
    """
    schema, _, name = table.rpartition(".")
    view = view_name(table).rpartition(".")[2]
    found = connection.execute(query("table_schema"), {"schema": schema or None, "name": name}).fetchone()
    stored = [column.name for column in columns if column.stored]
    masked = [column.name for column in columns if column.stored and column.scheme]
    at = {"schema": found[0] if found else None, "table": name, "view": view, "masked": masked, "stored": stored}
    return [_Problem(*row) for row in connection.execute(query("grants"), at).fetchall()]


def _missing(connection: psycopg.Connection[Any], table: str, columns: Sequence[Column]) -> list[str]:
    return [problem.mend for problem in _problems(connection, table, columns) if problem.kind == "missing"]


def _taken_back(connection: psycopg.Connection[Any], table: str, columns: Sequence[Column]) -> list[str]:
    """Return the statements that take back what coatcheck's own roles, and everybody, have too much."""
    problems = _problems(connection, table, columns)
    ours = {None, *(PREFIX + role for role in ROLES)}
    return [
        problem.mend
        for problem in problems
        if problem.kind == "excess" or (problem.kind == "harmless" and problem.role in ours)
    ]


def inspect(connection: psycopg.Connection[Any], table: str, columns: Sequence[Column]) -> list[Finding]:
    """Return what is wrong with the roles, and with what this user may do beyond loading.

    A privilege in the schema coatcheck that its holder should not have is an error, unless it is harmless. What is
    missing is advice: rows are loaded without it.
    """
    problems = _problems(connection, table, columns)
    absent = missing_roles(connection)
    if absent:
        hint = "run `coatcheck migrate` as a user that may create roles; rows are loaded without them"
        return [_advice(f"roles are missing: {', '.join(absent)}", hint), *_excess(problems)]
    return [*_lacking(problems), *_excess(problems), *_reads_the_vault(connection)]


def _lacking(problems: Iterable[_Problem]) -> list[Finding]:
    missing = sorted((problem.role or "", problem.what) for problem in problems if problem.kind == "missing")
    hint = "run `coatcheck migrate` as a user that may grant them, or as a superuser"
    return [
        _advice(f"{role} lacks {'; '.join(what for _, what in each)}", hint)
        for role, each in groupby(missing, key=lambda lack: lack[0])
    ]


def _excess(problems: Iterable[_Problem]) -> list[Finding]:
    return [
        Finding(
            "database",
            "advice" if problem.kind == "harmless" else "error",
            f"{problem.role or 'everybody'} should not have {problem.what}",
            problem.mend,
        )
        for problem in problems
        if problem.kind in ("excess", "foreign", "harmless")
    ]


def _reads_the_vault(connection: psycopg.Connection[Any]) -> list[Finding]:
    if not _value(connection, "SELECT has_table_privilege('coatcheck.vault', 'SELECT')"):
        return []
    hint = f"load with a login of its own that is only a member of {PREFIX}loader; for trying out it will do"
    return [_advice("this user may read the vault, which a loader need not", hint)]


def _advice(what: str, hint: str) -> Finding:
    return Finding("database", "advice", what, hint)
