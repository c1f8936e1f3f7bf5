"""Which constraints of the target refuse rows: those that refuse every token, and those that may refuse some rows.

A check over masked columns is tried on texts as they are made; only if PostgreSQL ships all that it calls, and none of
that has an effect. Nothing that the owner of the table wrote runs here: `check` may be called by a superuser.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import psycopg
from psycopg import sql

from coatcheck.errors import Finding
from coatcheck.pipeline.columns import Column, Mask
from coatcheck.sinks.postgres.target_catalog import Actual, Target, ask

_KINDS = {
    "c": "check", "d": "check of a domain", "u": "unique", "p": "primary key", "x": "exclusion", "f": "foreign key",
}  # fmt: skip
_SAMPLES = {
    Mask.TOKEN: "pt1_{domain}_k1_" + "0123456789" * 4,
    Mask.SUBNET: "pt1_{domain}_k1_" + "0123456789" * 4,
    Mask.SEAL: "ps1_{domain}_k1_" + "Az09_-bQ" * 6,
    Mask.SHA256_INSECURE: "0123456789abcdef" * 4,
    Mask.IPCRYPT_PFX: "203.0.113.7",
    Mask.REDACT: "[redacted]",
}
"""A text of each kind that a masked column is filled with."""
_SETTINGS = "SET LOCAL search_path = pg_catalog; SET LOCAL statement_timeout = '5s'"
"""Names in an expression are then those of pg_catalog, or have a schema."""


class _Constraint(NamedTuple):
    name: str
    kind: str
    columns: list[str]
    domain: int
    safe: bool
    tried: str | None  # an expression; for a domain, its name


def findings(
    connection: psycopg.Connection[Any], table: str, stored: Sequence[Column], target: Target, actual: Sequence[Actual]
) -> Iterator[Finding]:
    """Yield an error for each constraint that refuses every token, and one advice about all that may refuse rows."""
    may_refuse = []
    for constraint, names, refuses in _tried(connection, stored, target, actual):
        if refuses:
            yield _error(table, constraint.name, names)
        elif refuses is None:
            may_refuse.append(f"{constraint.name} ({_KINDS[constraint.kind]})")
    if may_refuse:
        what = f"{table} refuses rows that break its constraints, and they go to quarantine: {', '.join(may_refuse)}"
        yield Finding("database", "advice", what, "make sure that they fit what the queue brings")


def _tried(
    connection: psycopg.Connection[Any], stored: Sequence[Column], target: Target, actual: Sequence[Actual]
) -> list[tuple[_Constraint, list[str], bool | None]]:
    """Return each constraint, its columns, and whether it refuses every text in them; None: that cannot be tried."""
    fields = {column.name: column for column in stored}
    of_domains = {oid: each.name for each in actual for oid in each.domains if each.name in fields}
    types = {each.name: each.base for each in actual}
    tried = []
    with connection.transaction(force_rollback=True):  # and with it the settings
        connection.execute(_SETTINGS)
        for row in ask(connection, target, "target_constraints", columns=[*fields], domains=[*of_domains]):
            constraint = _Constraint(*row)
            names = [of_domains[constraint.domain]] if constraint.domain else constraint.columns
            columns = [fields[name] for name in names if name in fields and fields[name].mask in _SAMPLES]
            may = constraint.safe and columns and len(columns) == len(names)
            tried.append((constraint, names, _refuses(connection, constraint, columns, types) if may else None))
    return tried


def _error(table: str, constraint: str, columns: Sequence[str]) -> Finding:
    held = f"masked column{'s' * (len(columns) > 1)} {', '.join(columns)}"
    what = f"the constraint {constraint} of {table} refuses every text that [columns] puts into the {held}"
    hint = "drop it; `coatcheck migrate --constrain` adds checks that let in tokens of the configured domain only"
    return Finding("database", "error", what, hint)


def _refuses(
    connection: psycopg.Connection[Any], constraint: _Constraint, columns: Sequence[Column], types: Mapping[str, str]
) -> bool | None:
    """Tell whether a check refuses masked texts; None: it cannot be tried."""
    try:
        with connection.transaction():
            found = connection.execute(_trial(constraint, columns, types)).fetchone()
    except psycopg.errors.CheckViolation:
        return True
    except psycopg.Error:
        if connection.closed:
            raise
        return None
    return found is not None and found[0] is False


def _trial(constraint: _Constraint, columns: Sequence[Column], types: Mapping[str, str]) -> sql.Composed:
    samples = [sql.Literal(_SAMPLES[column.mask].format(domain=column.domain)) for column in columns]
    tried = sql.SQL(constraint.tried or "true")  # as PostgreSQL writes it
    if constraint.domain:
        return sql.SQL("SELECT CAST({} AS {}) IS NOT NULL").format(samples[0], tried)
    fields = [
        sql.SQL("CAST({} AS {}) AS {}").format(sample, sql.SQL(types[column.name]), sql.Identifier(column.name))
        for column, sample in zip(columns, samples, strict=True)
    ]
    row = sql.SQL(" FROM (SELECT {}) AS one_row").format(sql.SQL(", ").join(fields))
    return sql.SQL("SELECT {}{}").format(tried, row)
