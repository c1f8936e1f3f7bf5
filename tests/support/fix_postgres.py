"""A real PostgreSQL for tests: one server a worker of pytest, one fresh database a test, and things to write to it."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import os
import tempfile
import time
from collections.abc import Callable, Coroutine, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import psycopg
import pytest
from psycopg import sql

from coatcheck.demo.servers import PostgresServer
from coatcheck.pipeline.columns import Column, ColumnType
from coatcheck.pipeline.keying import DAY_S
from coatcheck.pipeline.message import Batch, DataKey, Message, Outcome, Reason, Reject, Rejected, Row, Sealed
from coatcheck.sinks.postgres import roles, schema
from coatcheck.sinks.postgres import sink as sink_module
from coatcheck.sinks.postgres.sink import PostgresSink

T = TypeVar("T")
LIMIT = 60.0
"""Seconds after which a test stops to wait for what should long have happened."""

TABLE = "events"
SENT_MS = 1_700_000_000_123
MAY_READ = "this user may read the vault, which a loader need not"
"""What `check` says to a superuser, as advice."""
OPTIONS = ("deadlock_timeout=100ms", "log_error_verbosity=verbose", "log_checkpoints=off")
MEMORY, ENOUGH = Path("/dev/shm"), 4 * 2**30  # noqa: S108 - the server makes a private folder there
_TEMPLATE = "migrated"
_numbers = itertools.count()


def column(name: str, type_: str) -> Column:
    return Column(name, (name,), ColumnType.from_text(type_))


EVENTS = (column("name", "varchar(64)"), column("number", "integer"))
"""The columns of the table that most tests write to."""


class Database:
    """One database of the server, seen by its superuser over a connection of its own."""

    def __init__(self, server: PostgresServer, name: str) -> None:
        self.server, self.name = server, name
        self.dsn = psycopg.conninfo.make_conninfo(server.dsn, dbname=name)
        self._connection: psycopg.Connection[Any] | None = None
        self.roles: list[str] = []

    def execute(self, statement: str, *parameters: object) -> list[tuple[Any, ...]]:
        """Run statements; return the rows of the last one, if it has any."""
        if self._connection is None or self._connection.closed:
            self.close()
            self._connection = psycopg.connect(
                self.dsn, autocommit=True, application_name="test", prepare_threshold=None
            )
        cursor = self._connection.execute(statement.encode(), parameters or None)
        return cursor.fetchall() if cursor.description else []

    def value(self, statement: str, *parameters: object) -> Any:
        """Return the one value that a query gives."""
        return self.execute(statement, *parameters)[0][0]

    def count(self, table: str = TABLE) -> int:
        return int(self.value(f"SELECT count(*) FROM {table}"))

    def counts(self) -> tuple[int, int, int]:
        """Return how many rows, ledger entries and quarantine entries there are."""
        return self.count(), self.count("coatcheck.ledger"), self.count("coatcheck.quarantine")

    def names(self) -> list[str]:
        """Return the names in the target table, in order of arrival."""
        return [name for (name,) in self.execute(f"SELECT name FROM {TABLE} ORDER BY ctid")]

    @contextmanager
    def session(self) -> Iterator[psycopg.Connection[Any]]:
        """Open one more session, for holding locks; autocommit, but for what runs in a transaction block."""
        with psycopg.connect(self.dsn, autocommit=True, application_name="test") as connection:
            yield connection

    def waiting(self) -> list[int]:
        """Return the backends of coatcheck that wait for a lock."""
        found = self.execute(
            "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
            " AND application_name = 'coatcheck'"
        )
        return [pid for (pid,) in found]

    def connections(self) -> int:
        """Return how many backends coatcheck has in this database."""
        return int(
            self.value(
                "SELECT count(*) FROM pg_stat_activity"
                " WHERE datname = current_database() AND application_name = 'coatcheck'"
            )
        )

    def terminate(self) -> int:
        """End coatcheck's backends in this database; return how many there were."""
        found = self.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND application_name = 'coatcheck'"
        )
        return len(found)

    def role(self, *grants: str) -> str:
        """Make a role that may log in and nothing else but `grants`, or roles; return its connection string."""
        name = f"role_{next(_numbers)}"
        self.roles.append(name)
        self.execute(f"CREATE ROLE {name} LOGIN PASSWORD 'known'")
        for grant in grants:
            self.execute(f"GRANT {grant} TO {name}")
        return psycopg.conninfo.make_conninfo(self.dsn, user=name, password="known")

    def log(self) -> str:
        """Return the server's log of this test."""
        return self.server.log_path.read_bytes()[self._seen :].decode()

    def mark(self) -> None:
        """From here on it is another test's log."""
        self._seen = self.server.log_path.stat().st_size

    def create(self, template: str) -> None:
        """Make the database, as a copy, in the way that is quicker there."""
        self.mark()
        strategy = "file_copy" if _in_memory(self.server) else "wal_log"
        self._admin(f"CREATE DATABASE {{}} TEMPLATE {{}} STRATEGY {strategy}", self.name, template)

    def drop(self) -> None:
        """Remove the database and its roles."""
        self.close()
        self._admin("DROP DATABASE IF EXISTS {} WITH (FORCE)", self.name)
        while self.roles:
            self._admin("DROP ROLE {}", self.roles.pop())

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()

    def fingerprint(self) -> object:
        """Return what changes with any change of the schema coatcheck or of the database's rights."""
        found = self.execute(_FINGERPRINT)
        if self.value("SELECT to_regclass('coatcheck.migration') IS NOT NULL"):
            found += self.execute("SELECT version, name FROM coatcheck.migration ORDER BY version")
        return found

    def empty(self, *, keep: bool) -> None:
        """Remove what a test has made; `keep` the schema coatcheck, but nothing in it."""
        for statement in self.execute(_REMOVE, keep):
            self.execute(*statement)
        self.execute("CREATE SCHEMA public; GRANT USAGE ON SCHEMA public TO PUBLIC")
        if keep:
            self.execute(
                "DELETE FROM coatcheck.ledger; DELETE FROM coatcheck.quarantine; DELETE FROM coatcheck.batch;"
                "DELETE FROM coatcheck.data_key; DELETE FROM coatcheck.vault; DELETE FROM coatcheck.alias;"
                "DELETE FROM coatcheck.token_key; DELETE FROM coatcheck.form; DELETE FROM coatcheck.audit;"
                "DELETE FROM coatcheck.reveal_opening; DELETE FROM coatcheck.reveal_approval;"
                "DELETE FROM coatcheck.reveal_item; DELETE FROM coatcheck.reveal_request;"
                "DELETE FROM coatcheck.policy; INSERT INTO coatcheck.policy DEFAULT VALUES;"
                "UPDATE coatcheck.erased SET erasures = 0;"
                "SELECT setval('coatcheck.quarantine_quarantine_id_seq', 1, false);"
                "SELECT setval('coatcheck.reveal_request_request_id_seq', 1, false)"
            )
            schema.migrate(self.dsn, TABLE, EVENTS)

    def _admin(self, statement: str, *names: str) -> None:
        with psycopg.connect(self.server.dsn, autocommit=True) as connection:
            text = sql.SQL(statement).format(*map(sql.Identifier, names))
            connection.execute(text)


_FINGERPRINT = """
SELECT array_agg(xmin::text ORDER BY oid) FROM pg_class WHERE relnamespace = to_regnamespace('coatcheck')
UNION ALL
SELECT array_agg(xmin::text ORDER BY oid) FROM pg_constraint WHERE connamespace = to_regnamespace('coatcheck')
UNION ALL
SELECT array_agg(xmin::text ORDER BY oid) FROM pg_proc WHERE pronamespace = to_regnamespace('coatcheck')
UNION ALL
SELECT array_agg(t.xmin::text ORDER BY t.oid) FROM pg_trigger AS t JOIN pg_class AS c ON c.oid = tgrelid
WHERE relnamespace = to_regnamespace('coatcheck')
UNION ALL
SELECT array_agg(a.xmin::text ORDER BY attrelid, attnum) FROM pg_attribute AS a JOIN pg_class AS c ON c.oid = attrelid
WHERE relnamespace = to_regnamespace('coatcheck')
UNION ALL
SELECT array_agg(a.xmin::text ORDER BY oid) FROM pg_type AS a WHERE typnamespace = to_regnamespace('coatcheck')
UNION ALL
SELECT array_agg(xmin::text) FROM pg_namespace WHERE nspname = 'coatcheck'
UNION ALL
SELECT array_agg(xmin::text) FROM pg_database WHERE datname = current_database()
"""

_REMOVE = """
SELECT format('SELECT pg_terminate_backend(%%s)', pid) FROM pg_stat_activity
WHERE datname = current_database() AND pid <> pg_backend_pid()
UNION ALL
SELECT format('ALTER DATABASE %%I RESET ALL', current_database())
UNION ALL
SELECT format('DROP SCHEMA %%I CASCADE', nspname) FROM pg_namespace
WHERE nspname <> 'information_schema' AND nspname NOT LIKE 'pg\\_%%' AND NOT (%s AND nspname = 'coatcheck')
"""


class Pool:
    """Databases to lend: in memory always a new one, on a disk where the last was changed beyond what can be undone."""

    def __init__(self, server: PostgresServer) -> None:
        self.server = server
        self._free: dict[bool, tuple[Database, object]] = {}  # by whether it is migrated
        template = Database(server, _TEMPLATE)
        template.create("template1")
        schema.migrate(template.dsn, TABLE, EVENTS)

    @contextmanager
    def lend(self, *, migrated: bool) -> Iterator[Database]:
        """Lend a database that looks like a new one."""
        database, fingerprint = self._free.pop(migrated) if migrated in self._free else self._new(migrated=migrated)
        database.mark()
        try:
            yield database
        finally:
            self.server.start()  # should a test have left it down
            database.close()  # with all that a test has set in its session
            kept = not database.roles and not _in_memory(self.server)
            if kept and (not migrated or database.fingerprint() == fingerprint):
                database.empty(keep=migrated)
                database.close()  # the server may go away before it is lent again
                self._free[migrated] = (database, fingerprint)
            else:
                database.drop()

    def _new(self, *, migrated: bool) -> tuple[Database, object]:
        database = Database(self.server, f"test_{next(_numbers)}")
        database.create(_TEMPLATE if migrated else "template1")
        return database, database.fingerprint()


def make_roles(server: PostgresServer) -> None:
    """Make coatcheck's roles, which belong to the whole server: no test is the first that misses them."""
    with psycopg.connect(server.dsn, autocommit=True) as connection:
        for name in roles.missing_roles(connection):
            connection.execute(sql.SQL("CREATE ROLE {} NOLOGIN").format(sql.Identifier(name)))
        connection.execute("GRANT coatcheck_loader TO coatcheck_operator")


def _in_memory(server: PostgresServer) -> bool:
    return server.folder.is_relative_to(MEMORY)


def _roomy() -> bool:
    """Tell whether this machine has a folder in memory that will hold a server, programs included."""
    try:
        there = os.statvfs(MEMORY)
    except OSError:
        return False
    runs = os.access(MEMORY, os.W_OK) and not there.f_flag & os.ST_NOEXEC
    return runs and there.f_bavail * there.f_frsize >= ENOUGH


@contextmanager
def postgres(options: tuple[str, ...]) -> Iterator[PostgresServer]:
    """Run a server, in memory where there is room: to make and drop a database on a disk costs a third of a second."""
    with pytest.MonkeyPatch.context() as patch:
        if _roomy():
            patch.setattr(tempfile, "tempdir", str(MEMORY))
        server = PostgresServer(options=options).start()
    with server:
        yield server


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """The server of this worker."""
    with postgres(OPTIONS) as server:
        make_roles(server)
        yield server


@pytest.fixture(scope="session")
def _pool(postgres_server: PostgresServer) -> Pool:
    return Pool(postgres_server)


@pytest.fixture
def database(_pool: Pool) -> Iterator[Database]:
    """A database of one's own, migrated, with the table `events`."""
    with _pool.lend(migrated=True) as lent:
        yield lent


@pytest.fixture
def empty_database(_pool: Pool) -> Iterator[Database]:
    """A database of one's own with nothing in it."""
    with _pool.lend(migrated=False) as lent:
        yield lent


@pytest.fixture
def quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    """Retries come soon: what is tested is that they come."""
    monkeypatch.setattr(sink_module, "_BACKOFF_FIRST_S", 0.01)
    monkeypatch.setattr(sink_module, "_BACKOFF_MOST_S", 0.1)


def postgres_sink(target: Database | str, columns: Sequence[Column] = EVENTS, **options: Any) -> PostgresSink:
    dsn = target if isinstance(target, str) else target.dsn
    table = str(options.pop("table", TABLE))
    return PostgresSink(dsn=dsn, table=table if "." in table else f"public.{table}", columns=columns, **options)


async def using(sink: PostgresSink, work: Coroutine[Any, Any, T]) -> T:
    """Do `work`, then close the sink, within the limit."""
    try:
        async with asyncio.timeout(LIMIT):
            return await work
    finally:
        await sink.close()


def write(sink: PostgresSink, *batches: Batch) -> list[Outcome]:
    """Write batches one after another, and close the sink."""

    async def work() -> list[Outcome]:
        return [await sink.write(batch) for batch in batches]

    return asyncio.run(using(sink, work()))


async def until(condition: Callable[[], object], what: str) -> None:
    """Wait until `condition` holds."""
    deadline = time.monotonic() + LIMIT
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain: {what}"
        await asyncio.sleep(0.005)


def key(number: int) -> bytes:
    return hashlib.sha256(str(number).encode()).digest()[:16]


def message(number: int, body: str = "{}") -> Message:
    return Message(f"message-{number}", body, SENT_MS + number, f"receipt-{number}", 1, SENT_MS + number + 1000)


def row(number: int, *values: object) -> Row:
    """One row of a message `number`; without values those that fit `events`."""
    return Row(message(number), key(number), number % 64 * DAY_S, values or (f"name-{number}", number))


def refusal(one: Row, detail: str) -> tuple[Row, Reject]:
    """A row that was refused, as an outcome tells it."""
    return one, Reject(Reason.REFUSED_BY_DATABASE, detail)


def suppressed(one: Row) -> tuple[Row, Reject]:
    """A row that the table kept out, as an outcome tells it."""
    return one, Reject(Reason.SUPPRESSED_BY_TABLE)


def reject(number: int, reason: Reason = Reason.NOT_JSON, detail: str = "") -> Rejected:
    """A rejected message `number`, with a body that looks sealed."""
    sealed = Sealed(key(-1), number.to_bytes(12), b"sealed" + bytes([number % 256]))
    return Rejected(message(number), key(number), number % 64 * DAY_S, Reject(reason, detail), sealed)


def batch(rows: Iterable[Row] = (), rejected: Iterable[Rejected] = ()) -> Batch:
    """A batch with the data keys its rejects need."""
    held = list(rejected)
    deks = {entry.sealed.dek_id for entry in held}
    return Batch(list(rows), held, [DataKey(dek, "local:test", b"wrapped " + dek) for dek in deks])


def rows(*numbers: int) -> list[Row]:
    return [row(number) for number in numbers]
