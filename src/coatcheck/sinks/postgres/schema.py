"""The database's side of the contract: create it (`migrate`) and hold it against what is needed (`check`, `run`)."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import psycopg
from psycopg import sql

from coatcheck.errors import CoatcheckError, ConfigError, Finding
from coatcheck.pipeline.columns import Column
from coatcheck.sinks.postgres import current_view, durability, partitions, roles, target_findings
from coatcheck.sinks.postgres.partitions import Left, Partitioning
from coatcheck.sinks.postgres.roles import Roles
from coatcheck.sinks.postgres.sink import table_identifier
from coatcheck.sinks.postgres.target import add_checks, checks, create_table
from coatcheck.sinks.postgres.target_catalog import named, table_columns, where
from coatcheck.sql import migrations, newest, query, register, serves
from coatcheck.sql.connection import connect, translated
from coatcheck.sql.register import Pipeline
from coatcheck.sql.sqlstate import stop_error

_log = logging.getLogger(__name__)
_LOCK = 0x636F6174  # "coat": the advisory lock that makes migrations take turns
_SCHEMA = """
CREATE SCHEMA IF NOT EXISTS coatcheck;
CREATE TABLE IF NOT EXISTS coatcheck.migration (
    version integer PRIMARY KEY, name text NOT NULL, applied_at timestamptz NOT NULL DEFAULT now())
"""


@dataclass(frozen=True, slots=True)
class Migrated:
    """What `migrate` did: migrations applied, whether the target table was created, days of the ledger pruned.

    And the checks added to an existing table, and what was done about roles.
    """

    applied: tuple[str, ...] = ()
    created_table: bool = False
    pruned: int = 0
    constrained: tuple[str, ...] = ()
    roles: Roles = field(default_factory=Roles)


@dataclass(frozen=True, slots=True)
class SchemaState:
    """What the database looks like to this user: schema version (None: never migrated) and everything that is wrong.

    `stops` are the errors with which `run` does not start. Other errors break a promise to people, as a privilege
    in excess does, and not the road: loading goes on.
    """

    version: int | None
    server: str
    findings: tuple[Finding, ...] = ()
    stops: tuple[Finding, ...] = ()


def _wrong(what: str, hint: str) -> Finding:
    return Finding("database", "error", what, hint)


def migrate(
    dsn: str,
    table: str,
    columns: Sequence[Column],
    *,
    constrain: bool = False,
    epochs: Sequence[int] = (),
    by: Partitioning | None = None,
    pipeline: Pipeline = Pipeline(),  # noqa: B008 - it is frozen
) -> Migrated:
    """Bring coatcheck's schema to the newest version, and make the target table where there is none.

    The database takes note of the `pipeline` (whose table is `table`) and of its masked columns.

    With `constrain` an existing table gets the checks of its masked columns. `epochs` get their partitions in the
    vault; a new table is partitioned as `by` says. All of this is one transaction: a failure leaves the schema and the
    target as they were. Runs take turns by an advisory lock.

    What follows the commit cannot break the schema, and the next run takes it up where this one stopped: new checks
    are validated while loaders write (or dropped again, where rows break them), roles and privileges are granted one
    statement at a time, a rotation's view is made, and the ledger is pruned. Raises UnreachableError, ConfigError.
    """
    with connect(dsn) as connection, translated("migrate the database"):
        durability.refuse_look_alikes(connection)
        connection.isolation_level = psycopg.IsolationLevel.READ_COMMITTED  # whoever waited sees what the other did
        with connection.transaction():
            connection.execute("SELECT pg_advisory_xact_lock(%s)", [_LOCK])
            connection.execute("SET LOCAL lock_timeout = '2s'")  # loaders queue behind a statement that waits
            applied = _apply(connection)
            table = where(connection, pipeline.name, table)
            target_findings.refuse_misplaced(connection, table)
            created = _make_target(connection, table, columns, by)
            pipeline = _at_home(connection, table, pipeline)
            register.put(connection, pipeline, columns)
            connection.execute(query("make_epochs"), {"epochs": list(epochs)})
            constrained = _add_checks(connection, table, columns) if constrain else ()
        if constrain:
            _validate(connection, table, columns, constrained)
        with turn(dsn):
            made = roles.install(connection, table, columns)
        current_view.follow_rotation(connection, dsn, pipeline.qualified)
        with connection.transaction():
            pruned = connection.execute(query("prune")).fetchone()
    return Migrated(tuple(applied), created, pruned[0] if pruned else 0, constrained, made)


def _make_target(
    connection: psycopg.Connection[Any], table: str, columns: Sequence[Column], by: Partitioning | None
) -> bool:
    """Make the target table with its partitions, unless there is one; tell whether it was made."""
    if table_columns(connection, table):
        return False
    connection.execute(create_table(table, columns, *([partitions.partition_by(by)] if by else [])))
    if by:
        partitions.fill(connection, table, by)
    return True


@contextmanager
def turn(dsn: str) -> Iterator[None]:
    """Keep other migrations of this database out while one works in many transactions.

    By a transaction on a connection of its own: a lock of a session would be lost, or stay, behind a pooler.
    """
    with connect(dsn) as connection, connection.transaction():
        connection.execute("SET LOCAL idle_in_transaction_session_timeout = 0")
        connection.execute("SELECT pg_advisory_xact_lock(%s)", [_LOCK])
        yield


def upkeep(connection: psycopg.Connection[Any], name: str, parameters: Mapping[str, object], left: list[Left]) -> int:
    """Call a function of the database that loaders call, too; return what it did. Raises psycopg.Error.

    `connection` is in autocommit mode.
    """
    allowed = connection.execute(query(f"may_{name}")).fetchone()
    if not (allowed and allowed[0]):
        hint = "run it as a member of coatcheck_owner or coatcheck_loader"
        left.append(Left(f"this login may not call coatcheck.{name}", hint))
        return 0
    connection.isolation_level = psycopg.IsolationLevel.READ_COMMITTED
    try:
        with connection.transaction():
            done = connection.execute(query(name), parameters).fetchone()
    except psycopg.errors.LockNotAvailable:
        left.append(Left(f"coatcheck.{name} found its tables in use", "run it again"))
        return 0
    return int(done[0]) if done else 0


def _apply(connection: psycopg.Connection[Any]) -> list[str]:
    applied = []
    if _version(connection) is None:
        connection.execute(_SCHEMA)
    at = _version(connection) or 0
    if at > newest():
        raise _too_new(at)
    for version, name, text in migrations():
        if version > at:
            connection.execute(text)
            connection.execute("INSERT INTO coatcheck.migration (version, name) VALUES (%s, %s)", [version, name])
            if (oldest := serves(text)) is not None:
                connection.execute("UPDATE coatcheck.migration SET serves = %s WHERE version = %s", [oldest, version])
            applied.append(name)
    return applied


def _add_checks(connection: psycopg.Connection[Any], table: str, columns: Sequence[Column]) -> tuple[str, ...]:
    """Add the checks that are missing, without a look at the rows there are; return their names."""
    present = _checks(connection, table)
    added = []
    for name, add, _ in add_checks(table, columns):
        if name not in present:
            connection.execute(add)
            added.append(name)
    return tuple(added)


def _at_home(connection: psycopg.Connection[Any], table: str, pipeline: Pipeline) -> Pipeline:
    """Return the pipeline with its table as the database knows it."""
    found = connection.execute(query("table_schema"), named(table)).fetchone()
    return replace(pipeline, schema=found[0] if found else "", table=table.rpartition(".")[2])


def _validate(connection: psycopg.Connection[Any], table: str, columns: Sequence[Column], added: Sequence[str]) -> None:
    """Hold the rows there are against the checks; if one fails, drop those that were added. Raises psycopg.Error."""
    try:
        for _, _, validate in add_checks(table, columns):
            connection.execute(validate)
    except psycopg.Error:
        if added and not connection.closed:
            drops = [sql.SQL("DROP CONSTRAINT IF EXISTS {}").format(sql.Identifier(name)) for name in added]
            drop = sql.SQL("ALTER TABLE {} {}").format(table_identifier(table), sql.SQL(", ").join(drops))
            with connection.transaction():
                connection.execute(f"SET LOCAL lock_timeout = '{roles.LOCK_TIMEOUT}'".encode())
                connection.execute(drop)
        raise


def _checks(connection: psycopg.Connection[Any], table: str) -> set[str]:
    return {name for (name,) in connection.execute(query("table_checks"), named(table))}


def _too_new(at: int) -> CoatcheckError:
    return ConfigError(
        f"the schema of the database is at {at:04}, this version knows up to {newest():04}",
        hint="install a newer coatcheck; an older one must not write here",
    )


def _version(connection: psycopg.Connection[Any]) -> int | None:
    found = connection.execute("SELECT to_regclass('coatcheck.migration') IS NOT NULL").fetchone()
    if not found or not found[0]:
        return None
    version = connection.execute("SELECT coalesce(max(version), 0) FROM coatcheck.migration").fetchone()
    return int(version[0]) if version else None


def version(dsn: str) -> int | None:
    """Return the version of coatcheck's schema; None: there is none, or this user may not see it.

    Raises UnreachableError, ConfigError.
    """
    with connect(dsn) as connection, translated("read the schema's version"):
        return _readable_version(connection, [])


def inspect(
    dsn: str,
    table: str,
    columns: Sequence[Column],
    by: Partitioning | None = None,
    pipeline: str = "default",
    *,
    shared: bool = False,
) -> SchemaState:
    """Hold the database against what the road needs, and report everything at once.

    With `shared` others may create objects in the target's schema. Raises UnreachableError when it cannot be asked at
    all.
    """
    with connect(dsn) as connection:
        server = f"PostgreSQL {connection.info.server_version // 10000}"
        try:
            findings: list[Finding] = []
            version = _readable_version(connection, findings)
            configured, table = table, where(connection, pipeline, table)
            findings += durability.findings(connection, named(table))
            findings += _target(connection, table, columns, partitioned=by is not None, shared=shared)
            if version == newest() and table_columns(connection, table):
                findings += _register_findings(connection, pipeline, configured, columns)
            stops = tuple(finding for finding in findings if finding.level == "error")
            findings += _advice(connection, table, columns, version)
            findings += _partition_findings(connection, table, by) if by and table_columns(connection, table) else []
            if version == newest():
                findings += roles.inspect(connection, table, columns)
        except psycopg.Error as error:
            raise stop_error(error, "inspect the database") from None
    return SchemaState(version, server, tuple(findings), stops)


def _target(
    connection: psycopg.Connection[Any], table: str, columns: Sequence[Column], *, partitioned: bool, shared: bool
) -> list[Finding]:
    """Return what keeps rows out of the target table, what may, and the privileges that this user lacks."""
    findings = []
    try:
        with connection.transaction():
            connection.execute("SET LOCAL lock_timeout = '2s'")  # a worker that starts need not wait for the table
            findings += target_findings.inspect(connection, table, columns)
            findings += target_findings.creators(connection, table) if not shared else ()
            findings += target_findings.replica_identities(connection, table, columns, partitioned=partitioned)
    except psycopg.errors.LockNotAvailable:
        what = f"the target table {table} is locked by somebody else: it was not looked at"
        return [Finding("database", "advice", what, "run `coatcheck check` again when it is free")]
    except psycopg.errors.ObjectNotInPrerequisiteState:
        what = f"the target table {table} cannot be asked what it takes (55000)"
        return [_wrong(what, "is it a foreign table whose wrapper has no handler? load into a table of this server")]
    at = named(table) | {"columns": [column.name for column in columns if column.stored]}
    findings += [
        _wrong(f"this user lacks the privilege {verb} on {name}", f"GRANT {verb} ON {name} TO ...")
        for verb, name in connection.execute(query("privileges"), at).fetchall()
    ]
    if all(finding.level != "error" for finding in findings):
        findings += target_findings.probe(connection, table, columns)
    return findings


def _register_findings(
    connection: psycopg.Connection[Any], pipeline: str, table: str, columns: Sequence[Column]
) -> Iterator[Finding]:
    try:
        _, difference = register.held_against(connection, pipeline, table, columns)
    except psycopg.errors.InsufficientPrivilege:
        return  # which one is missing is found with the others
    if difference:
        yield _wrong(difference, "run `coatcheck migrate` (safe while workers run)")


def _readable_version(connection: psycopg.Connection[Any], findings: list[Finding]) -> int | None:
    try:
        version = _version(connection)
    except psycopg.errors.InsufficientPrivilege:
        return None  # which one is missing is found with the others
    if version is None:
        findings.append(_wrong("the schema coatcheck is missing", "run `coatcheck migrate`"))
    elif version < newest():
        what = f"the schema is at {version:04}, this version needs {newest():04}"
        findings.append(_wrong(what, "run `coatcheck migrate` (safe while workers run)"))
    elif version > newest():
        findings.append(_newer(connection, version))
    return version


def _newer(connection: psycopg.Connection[Any], version: int) -> Finding:
    """Say of a schema that a newer coatcheck has made whether this one may go on with it, as during an upgrade."""
    needed = connection.execute(query("oldest_served"), {"known": newest()}).fetchone()
    if needed and needed[0] <= newest():
        what = f"the schema is at {version:04} already; this version knows {newest():04} and may go on"
        return Finding("database", "advice", what, "upgrade the workers that are left")
    return _wrong(_too_new(version).message, _too_new(version).hint)


def _advice(
    connection: psycopg.Connection[Any], table: str, columns: Sequence[Column], version: int | None
) -> list[Finding]:
    """Return what would be wise: the daily upkeep allowed, masked columns checked."""
    found = []
    if version == newest():
        for name, what in (("prune", "the ledger grows"), ("make_epochs", "the vault's epochs share a partition")):
            allowed = connection.execute(query(f"may_{name}")).fetchone()
            if not (allowed and allowed[0]):
                hint = f"GRANT EXECUTE ON FUNCTION coatcheck.{name} TO ..., or run `coatcheck migrate` now and then"
                found.append(Finding("database", "advice", f"this user may not call coatcheck.{name}: {what}", hint))
    there = {name for name, *_ in table_columns(connection, table)}
    present = _checks(connection, table)
    missing = [name for name, _ in checks([c for c in columns if c.name in there]) if name not in present]
    if missing:
        what = f"{table} takes raw values in masked columns: it lacks the checks {', '.join(missing)}"
        found.append(Finding("database", "advice", what, "run `coatcheck migrate --constrain`"))
    return found


def _partition_findings(connection: psycopg.Connection[Any], table: str, by: Partitioning) -> Iterator[Finding]:
    try:
        missing = partitions.missing(connection, table, by)
    except ConfigError as error:
        yield Finding("database", "advice", error.message, error.hint)
        return
    if missing:
        hint = "run `coatcheck maintain` every day as the table's owner"
        yield Finding("database", "advice", f"partitions are missing: {', '.join(missing)}", hint)


def verify(dsn: str, table: str, columns: Sequence[Column], pipeline: str = "default", *, shared: bool = False) -> None:
    """Refuse to start on a schema that does not fit; warn of other errors. Raises ConfigError naming the first one."""
    state = inspect(dsn, table, columns, pipeline=pipeline, shared=shared)
    for finding in state.findings:
        if isinstance(finding, durability.Risk):
            _log.warning(finding.what)
    if state.stops:
        first, more = state.stops[0], len(state.stops) - 1
        raise ConfigError(first.what + (f" (and {more} more: `coatcheck check`)" if more else ""), hint=first.hint)
    errors = sum(finding.level == "error" for finding in state.findings)
    if errors:
        _log.warning(
            "the database has errors that do not stop loading: see `coatcheck check`", extra={"errors": errors}
        )
