"""Connections to PostgreSQL: what every one gets, and a synchronous one for commands."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import psycopg

from coatcheck.errors import ConfigError
from coatcheck.sql.sqlstate import stop_error

CONNECTION: dict[str, str | int] = {
    "application_name": "coatcheck",
    "connect_timeout": 10,
    "keepalives_idle": 30,
    "keepalives_interval": 10,
    "keepalives_count": 3,
    "tcp_user_timeout": 30_000,
}
"""What a connection gets unless the connection string says otherwise: a silent peer is noticed within a minute."""


def conninfo(dsn: str) -> str:
    """Return `dsn` completed by CONNECTION; what it says itself stays. Raises ConfigError: it is none."""
    given = None
    with suppress(psycopg.ProgrammingError):
        given = psycopg.conninfo.conninfo_to_dict(dsn)
    if given is None:  # raised here, outside: what was caught quotes the string
        raise ConfigError(
            "the connection string of the database is not understood", hint="see [target] dsn and DATABASE_URL"
        )
    missing = {name: value for name, value in CONNECTION.items() if name not in given}
    return psycopg.conninfo.make_conninfo(dsn, **missing)


def connect(dsn: str) -> psycopg.Connection[Any]:
    """Open a connection in autocommit mode. Raises UnreachableError, ConfigError."""
    try:
        return psycopg.connect(conninfo(dsn), autocommit=True, prepare_threshold=None)
    except psycopg.Error as error:
        raise stop_error(error, "connect to the database") from None


@contextmanager
def translated(action: str) -> Iterator[None]:
    """Turn a database error while doing `action` into ours, which quotes no value."""
    try:
        yield
    except psycopg.Error as error:
        raise stop_error(error, action) from None
