"""Behind a connection pooler: no statement may count on the session of the one before; prepared ones are an option."""

from __future__ import annotations

import asyncio
import os
import secrets
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager, suppress
from pathlib import Path

import psycopg
import pytest
from tests.support.fix_postgres import (
    EVENTS,
    LIMIT,
    TABLE,
    Database,
    batch,
    postgres_sink,
    refusal,
    reject,
    row,
    rows,
    using,
    write,
)

from coatcheck.demo.guarded import free_port
from coatcheck.pipeline.message import Batch, Outcome, Row
from coatcheck.sinks.postgres.quarantine import Quarantine, Selection
from coatcheck.sinks.postgres.sink import PostgresSink

PGBOUNCER = shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin:/usr/local/sbin")
needs_pgbouncer = pytest.mark.skipif(PGBOUNCER is None, reason="pgbouncer is not installed")


@pytest.mark.usefixtures("quick_retries")
@pytest.mark.parametrize("prepare", [False, True])
def test_every_statement_on_a_server_connection_of_its_own(database: Database, prepare: bool) -> None:  # noqa: FBT001 - a case, named in its id
    sink = postgres_sink(database, connections=1, prepare=prepare)

    async def work() -> list[Outcome]:
        outcomes = []
        for first in range(0, 120, 10):
            outcomes.append(await sink.write(batch(rows(*range(first, first + 8)), [reject(first + 8)])))
            database.terminate()
        return outcomes

    assert asyncio.run(using(sink, work())) == [Outcome(loaded=8, quarantined=1)] * 12
    assert database.counts() == (96, 108, 12)


def prepared_statements(database: Database, *, prepare: bool) -> list[str]:
    """Write a few batches of different sizes, then ask the session which statements it has prepared."""
    sink = postgres_sink(database, connections=1, prepare=prepare)

    async def work() -> list[str]:
        for first in range(0, 100, 10):
            assert (await sink.write(batch(rows(*range(first, first + 1 + first // 10))))).refused == []
        assert (await sink.write(batch([row(500, None, None)], [reject(501)]))).loaded == 1
        connection = sink._idle.get_nowait()
        sink._idle.put_nowait(connection)
        assert connection is not None
        cursor = await connection.execute("SELECT name FROM pg_prepared_statements")
        return [name for (name,) in await cursor.fetchall()]

    return asyncio.run(using(sink, work()))


def test_nothing_is_prepared_unless_it_is_asked_for(database: Database) -> None:
    assert prepared_statements(database, prepare=False) == []


def test_one_statement_is_prepared_for_all_batches(database: Database) -> None:
    assert len(prepared_statements(database, prepare=True)) == 1
    assert database.count() == sum(range(1, 11)) + 1


def test_a_prepared_statement_outlives_a_change_of_the_table(database: Database) -> None:
    sink = postgres_sink(database, connections=1, prepare=True)

    async def work() -> list[Outcome]:
        outcomes = [await sink.write(batch(rows(number))) for number in range(8)]
        database.execute("ALTER TABLE events ADD note text DEFAULT 'x', ALTER number TYPE bigint")
        return outcomes + [await sink.write(batch(rows(number))) for number in range(8, 16)]

    assert asyncio.run(using(sink, work())) == [Outcome(loaded=1)] * 16
    assert database.count() == 16


def test_bisecting_with_prepared_statements(database: Database) -> None:
    database.execute("ALTER TABLE events ADD CHECK (number <> 77)")
    [outcome] = write(postgres_sink(database, connections=1, prepare=True), batch(rows(*range(100))))
    assert outcome == Outcome(loaded=99, refused=[refusal(row(77), "23514 events_number_check")])


@contextmanager
def pgbouncer(database: Database, pool: int) -> Iterator[str]:
    """Run PgBouncer before a database, pooling by transaction with `pool` server connections; yield the DSN."""
    server = psycopg.conninfo.conninfo_to_dict(database.dsn)
    folder = Path(tempfile.mkdtemp(prefix="pgbouncer-"))
    port = free_port()
    config = folder / "pgbouncer.ini"
    config.write_text(
        f"[databases]\n{database.name} = host=127.0.0.1 port={server['port']} dbname={database.name}"
        f" user=postgres password={server['password']}\n"
        f"[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\nauth_type = any\n"
        f"pool_mode = transaction\ndefault_pool_size = {pool}\nserver_reset_query = DISCARD ALL\n"
        "server_reset_query_always = 1\nmax_client_conn = 100\n"
    )
    user = ["-u", "nobody"] if os.geteuid() == 0 else []
    with (folder / "log").open("wb") as log, subprocess.Popen([str(PGBOUNCER), *user, config], stderr=log) as process:
        try:
            dsn = f"postgresql://{secrets.token_hex(4)}@127.0.0.1:{port}/{database.name}"
            wait_for(dsn, process)
            yield dsn
        finally:
            process.terminate()
            process.wait()
            shutil.rmtree(folder)


def wait_for(dsn: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + LIMIT
    while time.monotonic() < deadline and process.poll() is None:
        with suppress(psycopg.OperationalError), psycopg.connect(dsn):
            return
        time.sleep(0.02)
    pytest.fail("PgBouncer does not answer")


@needs_pgbouncer
def test_four_sinks_behind_pgbouncer(database: Database) -> None:
    """Eight connections of ours share two of the server's, and a batch sent to every sink is loaded by one of them."""
    database.execute("ALTER TABLE events ADD CHECK (number % 100 <> 99)")

    async def work(sinks: list[PostgresSink]) -> list[Outcome]:
        batches = [
            batch(rows(*range(first, first + 100)), [reject(first + 1000 + n) for n in range(5)])
            for first in range(0, 100_000, 10_000)
        ]
        async with AsyncExitStack() as stack:
            for sink in sinks:
                stack.push_async_callback(sink.close)
            return await asyncio.gather(*(sink.write(one) for one in batches for sink in sinks))

    with pgbouncer(database, pool=2) as dsn:
        sinks = [postgres_sink(dsn, connections=2) for _ in range(4)]
        outcomes = asyncio.run(work(sinks))
        servers = database.value("SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()")
    assert servers <= 3  # the test's own is one
    assert sum(outcome.loaded for outcome in outcomes) == 990
    assert sum(outcome.quarantined for outcome in outcomes) == 50
    assert all(len(outcome.refused) == 1 for outcome in outcomes)
    assert database.counts() == (990, 1040, 50)
    assert database.value("SELECT count(DISTINCT number) FROM events") == 990


@needs_pgbouncer
def test_the_quarantine_behind_pgbouncer(database: Database) -> None:
    with pgbouncer(database, pool=1) as dsn:
        write(postgres_sink(dsn), batch(rejected=[reject(1), reject(2)]))
        with Quarantine(dsn, TABLE, EVENTS) as quarantine:
            first, second = quarantine.opened(Selection())
            assert quarantine.load(first, Batch([Row(first.message, first.key, 0, ("late", 1))])) is None
            assert quarantine.discard(Selection(ids=(second.quarantine_id,))) == 1
            assert [entry.state for entry in quarantine.entries(Selection(), resolved=True)] == ["loaded", "discarded"]
    assert database.names() == ["late"]
