"""Sessions whose settings are ours, whatever server, database, role, connection string or environment say.

A session of our own gets its settings once, after connecting. Behind a pooler that gives each transaction another
session (PgBouncer's `pool_mode = transaction`), settings that poolers keep for each client are set once as well; if one
of the others is wrong there, each transaction sets it for itself. See docs/decisions/0029.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Self

import psycopg
from psycopg.abc import Params, QueryNoTemplate
from psycopg.pq import TransactionStatus

from coatcheck.errors import ConfigError
from coatcheck.sql import query
from coatcheck.sql.refusals import UNSUITABLE, NotConnectedError

PATH = "pg_catalog, pg_temp"
"""Where our statements look for names: nowhere that others may create anything in, and for temporary tables last."""
_SET_PATH = "SELECT pg_catalog.set_config('search_path', %s, true)"
_DEFAULTS = "default_transaction_"
_IN_STATEMENT = "synchronous_commit"
"""What `write_batch.sql` sets for itself, so that a batch costs no further round trip."""


class _Cursor(psycopg.Cursor[Any]):
    """A cursor that runs a lone statement in a transaction that sets what the session does not have."""

    def execute(  # type: ignore[override]  # there are no templates here
        self, query: QueryNoTemplate, params: Params | None = None, **options: Any
    ) -> Self:
        if self.connection.info.transaction_status is not TransactionStatus.IDLE:
            return super().execute(query, params, **options)
        with self.connection.transaction():
            return super().execute(query, params, **options)


class Session(psycopg.Connection[Any]):
    """A connection in autocommit mode whose statements run under our settings."""

    _local: bytes = b""
    login_path: str = PATH
    """The search_path that the session had."""

    def settle(self) -> None:
        """Set what is not as it has to be. Raises psycopg.Error."""
        with _told():
            at = {"pid": self.info.backend_pid, "path": True}
            wrong = self.execute(query("session_settings"), at).fetchall()
        self.login_path = next((actual for name, _, actual, _ in wrong if name == "search_path"), PATH)
        left = [(name, value) for name, value, _, done in wrong if not done]
        if left:
            self.isolation_level, self.deferrable = psycopg.IsolationLevel.READ_COMMITTED, False
            self._local, self.cursor_factory = _statement(left), _Cursor

    @contextmanager
    def transaction(
        self,
        savepoint_name: str | None = None,
        force_rollback: bool = False,  # noqa: FBT001, FBT002 - psycopg's signature
    ) -> Iterator[psycopg.Transaction]:
        """Begin a transaction, or a savepoint in one, as psycopg does."""
        begins = self.info.transaction_status is TransactionStatus.IDLE
        with super().transaction(savepoint_name, force_rollback) as transaction:
            if begins and self._local:
                self.execute(self._local)
            yield transaction


@contextmanager
def login_path(connection: psycopg.Connection[Any]) -> Iterator[None]:
    """Begin a transaction, or a savepoint in one, under the search_path that the login itself has.

    It is for statements that run code of others, such as triggers of the target's owner, or ask where a name leads.
    Each name and operator in such a statement is qualified: it could lead to what somebody has planted.
    """
    begins = connection.info.transaction_status is TransactionStatus.IDLE
    with connection.transaction():
        if isinstance(connection, Session):
            connection.execute(_SET_PATH, [connection.login_path])
        yield
        if isinstance(connection, Session) and not begins:  # else it ends with the transaction, after deferred triggers
            connection.execute(_SET_PATH, [PATH])


class _AsyncCursor(psycopg.AsyncCursor[Any]):
    """As _Cursor."""

    async def execute(  # type: ignore[override]  # there are no templates here
        self, query: QueryNoTemplate, params: Params | None = None, **options: Any
    ) -> Self:
        if self.connection.info.transaction_status is not TransactionStatus.IDLE:
            return await super().execute(query, params, **options)
        async with self.connection.transaction():
            return await super().execute(query, params, **options)


class AsyncSession(psycopg.AsyncConnection[Any]):
    """The sink's connection, likewise, but for the search_path, which is the login's.

    Triggers of the target's owner run there, and a batch behind a pooler stays one round trip: each name and operator
    in the sink's statements is qualified instead.
    """

    _local: bytes = b""

    async def settle(self) -> None:
        """Set what is not as it has to be. Raises psycopg.Error."""
        with _told():
            at = {"pid": self.info.backend_pid, "path": False}
            wrong = await (await self.execute(query("session_settings"), at)).fetchall()
        left = [(name, value) for name, value, _, done in wrong if not done and name != _IN_STATEMENT]
        if left:
            await self.set_isolation_level(psycopg.IsolationLevel.READ_COMMITTED)
            await self.set_deferrable(False)
            self._local, self.cursor_factory = _statement(left), _AsyncCursor

    @asynccontextmanager
    async def transaction(
        self,
        savepoint_name: str | None = None,
        force_rollback: bool = False,  # noqa: FBT001, FBT002 - psycopg's signature
    ) -> AsyncIterator[psycopg.AsyncTransaction]:
        """Begin a transaction, or a savepoint in one, as psycopg does."""
        begins = self.info.transaction_status is TransactionStatus.IDLE
        async with super().transaction(savepoint_name, force_rollback) as transaction:
            if begins and self._local:
                await self.execute(self._local)
            yield transaction


def _statement(settings: Sequence[tuple[str, str]]) -> bytes:
    """Return what sets `settings`, which are names and values of ours, for one transaction; b"" if none is left.

    The defaults of transactions are no settings of a transaction: BEGIN says them.
    """
    calls = [
        f"pg_catalog.set_config('{name}', '{value}', true)"
        for name, value in settings
        if not name.startswith(_DEFAULTS)
    ]
    return f"SELECT {', '.join(calls) or 'NULL'}".encode()


@contextmanager
def _told() -> Iterator[None]:
    """Say of a setting that this login may not change, or that the server does not know, what it is."""
    denied: ConfigError | None = None
    try:
        yield
    except psycopg.errors.InsufficientPrivilege:
        denied = ConfigError(
            "the sessions of this login begin with session_replication_role = replica, under which no trigger or "
            "foreign key holds",
            hint="have a superuser say: ALTER ROLE ... RESET session_replication_role (or ALTER DATABASE)",
        )
    except (psycopg.DataError, psycopg.ProgrammingError, psycopg.NotSupportedError):
        denied = ConfigError(
            "the server does not take the settings that coatcheck's statements need",
            hint="is it PostgreSQL? `SELECT version()` tells",
        )
    if denied is not None:  # raised here, outside: it has no text of the server's with it
        raise NotConnectedError(UNSUITABLE, denied)
