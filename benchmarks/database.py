"""A fresh database for each run, and what a run left in it."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING
from urllib.parse import urlsplit, urlunsplit

import psycopg
from benchmarks.loader import BenchmarkError
from benchmarks.measure import parent, tree_cpu_seconds
from psycopg import sql

if TYPE_CHECKING:
    from collections.abc import Iterator

MUST_BE_ON = ("fsync", "synchronous_commit", "full_page_writes")
TABLES = {"rows": "user_logins", "ledger": "coatcheck.ledger", "vault": "coatcheck.vault"}


class Databases:
    """Makes databases on one durable server, which nothing else uses, and reads its CPU."""

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn
        with psycopg.connect(dsn) as connection:
            found = connection.execute("SELECT name, setting FROM pg_settings").fetchall()
            self._postmaster = parent(connection.info.backend_pid)
        settings: dict[str, str] = dict(found)
        self.version = settings["server_version"]
        lax = [name for name in MUST_BE_ON if settings[name] != "on"]
        if lax:
            raise BenchmarkError(f"PostgreSQL is not durable: {', '.join(lax)} must be on")

    @contextmanager
    def fresh(self, name: str) -> Iterator[str]:
        """Create a database, give its connection string, and drop it at the end."""
        self._execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        try:
            yield urlunsplit(urlsplit(self._dsn)._replace(path=f"/{name}"))
        finally:
            self._execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))

    def settle(self) -> None:
        """Write what earlier runs left to be written, so this run does not pay for it."""
        self._execute(sql.SQL("CHECKPOINT"))

    def cpu_seconds(self) -> float | None:
        """Return the CPU that the server has used so far; None where there is no /proc."""
        return tree_cpu_seconds(self._postmaster) if self._postmaster else None

    def _execute(self, statement: sql.SQL | sql.Composed) -> None:
        with psycopg.connect(self._dsn, autocommit=True) as connection:
            connection.execute(statement)


def table_counts(dsn: str) -> dict[str, int | None]:
    """Count what a run wrote; None for a table that does not exist."""
    counts: dict[str, int | None] = dict.fromkeys(TABLES)
    with psycopg.connect(dsn) as connection:
        for name, table in TABLES.items():
            found = connection.execute("SELECT to_regclass(%s)::text", (table,)).fetchone()
            if found and found[0]:
                count = sql.SQL("SELECT count(*) FROM {}").format(sql.Identifier(*table.split(".")))
                row = connection.execute(count).fetchone()
                counts[name] = row[0] if row else None
    return counts
