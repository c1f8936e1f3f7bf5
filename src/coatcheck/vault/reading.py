"""Reads the audit trail, a page at a time: however long it is, it is never in memory as a whole.

What gives entries holds a transaction until it is closed.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import psycopg
from psycopg import sql

from coatcheck.errors import ConfigError
from coatcheck.sql import query
from coatcheck.sql.connection import translated
from coatcheck.vault.chain import Entry

AUDITOR = "coatcheck_auditor"
"""The role that may read the audit trail."""

_ACTION = "read the audit trail"
_PAGE = 5000
_NO_PRIVILEGE = "42501"
_FIRST_EVER = -(2**63)  # numbers begin with 1; what stands before was put there


def entries(connection: psycopg.Connection[Any], first: int | None = None) -> Generator[Entry, None, None]:
    """Yield the entries from number `first` on (None: all), as one snapshot. Raises UnreachableError, ConfigError."""
    return _stream(connection, "audit_entries", {"first": _FIRST_EVER if first is None else first})


def select(
    connection: psycopg.Connection[Any],
    *,
    since_us: int | None = None,
    events: Sequence[str] = (),
    limit: int | None = None,
) -> Generator[Entry, None, None]:
    """Yield the newest `limit` entries (None: all), newest last, not older than `since_us` and of these events."""
    parameters = {"since": since_us, "events": list(events) or None, "limit": limit}
    return _stream(connection, "audit_select" if limit is None else "audit_newest", parameters)


def head(connection: psycopg.Connection[Any]) -> tuple[int, bytes] | None:
    """Return number and hash of the last entry, if there is one."""
    with _reading(connection):
        found: tuple[int, bytes] | None = connection.execute(query("audit_head")).fetchone()
    return found


def _stream(
    connection: psycopg.Connection[Any], name: str, parameters: Mapping[str, object]
) -> Generator[Entry, None, None]:
    with (
        _reading(connection),
        connection.transaction(),
        connection.cursor(name="coatcheck_audit", binary=True) as cursor,
    ):
        cursor.itersize = _PAGE
        yield from map(Entry._make, cursor.execute(query(name), parameters))


@contextmanager
def _reading(connection: psycopg.Connection[Any]) -> Iterator[None]:
    refused = False
    with translated(_ACTION):
        try:
            yield
        except psycopg.Error as error:
            if error.sqlstate != _NO_PRIVILEGE:
                raise
            refused = True
    if refused:
        user = sql.Identifier(connection.info.user).as_string()
        raise ConfigError(
            f"cannot {_ACTION}: PostgreSQL answers {_NO_PRIVILEGE} (audit)",
            hint=f"let the owner say: GRANT {AUDITOR} TO {user}",
        )
