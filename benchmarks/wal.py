"""How much a run has written to PostgreSQL's WAL, and how much of that are images of whole pages."""

from __future__ import annotations

import time

import psycopg
from benchmarks.loader import BenchmarkError

QUIET_SECONDS = 30.0
OTHERS = """
SELECT 1 FROM pg_stat_activity
WHERE datname = current_database() AND backend_type = 'client backend' AND pid <> pg_backend_pid()
"""
IMAGES = "SELECT sum(fpi_size)::bigint FROM pg_get_wal_stats(%s, least(%s, pg_current_wal_flush_lsn()))"


def wal_position(dsn: str) -> str:
    """Return where the WAL ends now."""
    with psycopg.connect(dsn) as connection:
        return _position(connection)


def wal_since(dsn: str, position: str) -> tuple[int, int | None]:
    """Return the bytes of WAL since then, and how many of them are images of pages (None: it cannot be told)."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        now = _position(connection)
        size = connection.execute("SELECT (%s::pg_lsn - %s)::bigint", [now, position]).fetchone()
        try:
            connection.execute("CREATE EXTENSION IF NOT EXISTS pg_walinspect")
            images = connection.execute(IMAGES, [position, now]).fetchone()
        except psycopg.Error:  # no such extension, or the WAL is recycled already
            images = None
    return int(size[0]) if size else 0, int(images[0]) if images and images[0] is not None else None


def until_quiet(dsn: str) -> None:
    """Wait until nobody else is connected to the database: only then is the CPU of all connections counted."""
    deadline = time.monotonic() + QUIET_SECONDS
    with psycopg.connect(dsn, autocommit=True) as connection:
        while connection.execute(OTHERS).fetchone():
            if time.monotonic() > deadline:
                raise BenchmarkError("connections to the database are left")
            time.sleep(0.01)


def _position(connection: psycopg.Connection) -> str:
    row = connection.execute("SELECT pg_current_wal_insert_lsn()::text").fetchone()
    return str(row[0]) if row else "0/0"
