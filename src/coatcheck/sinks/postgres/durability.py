"""Whether a commit is one: what is acked must survive a crash of the server, and a fail-over where there is one."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import psycopg

from coatcheck.errors import ConfigError, Finding
from coatcheck.sql import query

Standing = Literal["refused", "not tried"]
_LOOK_ALIKES: tuple[tuple[str, str, Standing, str], ...] = (
    (r"^CockroachDB", "CockroachDB", "refused", "advisory locks do nothing there, so migrations do not take turns"),
    (r"Redshift", "Amazon Redshift", "refused", "unique keys are not enforced there, so messages would be doubled"),
    (r"RisingWave", "RisingWave", "refused", "it has no transactions that write"),
    (r"Materialize", "Materialize", "refused", "it has no unique keys and no ON CONFLICT"),
    (r"QuestDB", "QuestDB", "refused", "it has no unique keys and no transactions over several tables"),
    (r"CrateDB", "CrateDB", "refused", "it has no transactions"),
    (r"Spanner", "Cloud Spanner", "refused", "it has no PL/pgSQL"),
    (r"Greenplum|Cloudberry|HAWQ", "Greenplum", "not tried", ""),
    (r"-YB-|YugabyteDB", "YugabyteDB", "not tried", ""),
    (r"CedarDB", "CedarDB", "not tried", ""),
    (r"openGauss|GaussDB|Gauss200", "openGauss", "not tried", ""),
    (r"EnterpriseDB", "EDB Postgres Advanced Server", "not tried", ""),
    (r"PolarDB", "PolarDB", "not tried", ""),
    (r"KingbaseES", "KingbaseES", "not tried", ""),
    (r"GlareDB|DuckDB|Doltgres|immudb|H2 ", "a database that speaks PostgreSQL's protocol", "not tried", ""),
)
_BY_CATALOGUE: dict[str, tuple[str, Standing, str]] = {
    "dsql": ("Aurora DSQL", "refused", "it has no triggers, no partitions and no savepoints"),
    "citus": ("Citus", "not tried", ""),
    "orioledb": ("OrioleDB", "not tried", ""),
    "timescaledb": ("TimescaleDB", "not tried", ""),
}
"""By extension or table: their version() is PostgreSQL's."""
_POSTGRES = re.compile(r"^PostgreSQL \d+")
_BYTES_ONLY = "SQL_ASCII"


@dataclass(frozen=True, slots=True)
class Risk(Finding):
    """Advice about what may be lost: a worker says it at its start, too."""


@dataclass(frozen=True, slots=True)
class LookAlike:
    """A server that is not PostgreSQL as its project makes it. `why` it is refused."""

    name: str
    standing: Standing
    why: str = ""


def look_alikes(version: str, marks: Sequence[str]) -> Iterator[LookAlike]:
    """Yield what a server is beside PostgreSQL: by its `version()`, and by what its catalogue has.

    RDS and Aurora PostgreSQL are none: they keep PostgreSQL's promises and call themselves so.
    """
    known = next((LookAlike(*rest) for words, *rest in _LOOK_ALIKES if re.search(words, version)), None)  # type: ignore[arg-type]  # a name, a standing, a reason
    if known is not None:
        yield known
    elif not _POSTGRES.match(version):
        yield LookAlike("a server that does not call itself PostgreSQL", "not tried")
    yield from (LookAlike(*_BY_CATALOGUE[mark]) for mark in marks)


def refuse_look_alikes(connection: psycopg.Connection[Any]) -> None:
    """Refuse a server on which promises cannot be kept, before anything is made there. Raises ConfigError."""
    version, marks, *_ = _asked(connection)
    for one in look_alikes(version, marks):
        if one.standing == "refused":
            raise _refusal(one)


def _refusal(one: LookAlike) -> ConfigError:
    return ConfigError(
        f"the database is {one.name}, not PostgreSQL: {one.why}", hint="load into PostgreSQL 14 or newer"
    )


def findings(connection: psycopg.Connection[Any], table: dict[str, str | None]) -> Iterator[Finding]:
    """Yield what makes a commit worth less than it says; `table` is schema and name of the target.

    Raises psycopg.Error; ConfigError: the server is no PostgreSQL, and cannot be looked at further.
    """
    version, marks, encoding, off, commit, synchronous, standbys = _asked(connection)
    for one in look_alikes(version, marks):
        if one.standing == "refused":
            raise _refusal(one)
        yield _advice(
            f"coatcheck has not been tried on {one.name}", "try it with your own data, kills and fail-overs first"
        )
    for name, kind in connection.execute(query("unlogged"), table).fetchall():
        yield _relation(name, kind)
    for name in off:
        what = f"{name} = off: a crash of the database's machine may lose messages that were acked, or the database"
        yield Risk("database", "advice", what, f"set {name} = on in postgresql.conf, and make a fresh copy of the data")
    yield from _commits(commit, synchronous=synchronous, standbys=standbys)
    if encoding == _BYTES_ONLY:
        what = "the database's encoding is SQL_ASCII: it takes any bytes for text, and counts them as characters"
        yield _advice(what, "coatcheck keeps UTF-8 there; see that others do, or take a database of encoding UTF8")


def _asked(connection: psycopg.Connection[Any]) -> tuple[Any, ...]:
    found = connection.execute(query("durability")).fetchone()
    return found or ("", [], "", [], "on", False, 0)


def _advice(what: str, hint: str) -> Finding:
    return Finding("database", "advice", what, hint)


def _relation(name: str, kind: str) -> Finding:
    if kind == "f":
        what = f"{name} is a foreign table: its rows commit on another server, not together with the ledger"
        return Risk("database", "advice", what, "load into a table of this database, and copy from there")
    if kind == "t":
        what, hint = (
            f"{name} is a temporary table: it ends with its session",
            "name a table that stays in [target] table",
        )
    else:
        what = f"{name} is UNLOGGED: a crash of the database empties it, acked messages included"
        hint = f"ALTER TABLE {name} SET LOGGED"
    return Finding("database", "error", what, hint)


def _commits(commit: str, *, synchronous: bool, standbys: int) -> Iterator[Finding]:
    if commit == "off":
        what = "synchronous_commit = off is this session's default; coatcheck's own commits wait for the disk"
        yield Finding("database", "note", what, "ALTER ROLE ... or DATABASE ... RESET synchronous_commit")
    if synchronous and commit == "local":
        what = (
            "synchronous_commit = local: commits do not wait for the synchronous standby, and a fail-over may lose them"
        )
        yield _advice(what, "set synchronous_commit = on for this role, if acked messages have to survive a fail-over")
    if standbys and not synchronous:
        what = "synchronous_standby_names is empty, and there are standbys: a fail-over to one may lose acked messages"
        yield _advice(what, "name one that commits wait for (ANY 1 (...)), or know that a fail-over needs a redrive")
