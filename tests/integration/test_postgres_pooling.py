"""Behind a connection pooler: no statement may count on the session of the one before; prepared ones are an option."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

import pytest
from tests.support.fix_postgres import (
    EVENTS,
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
from tests.support.pooler import needs_pgbouncer, pgbouncer

from coatcheck.pipeline.message import Batch, Outcome, Row
from coatcheck.sinks.postgres.quarantine import Quarantine, Selection
from coatcheck.sinks.postgres.sink import PostgresSink


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
        with Quarantine(dsn, f"public.{TABLE}", EVENTS) as quarantine:
            first, second = quarantine.opened(Selection())
            assert quarantine.load(first, Batch([Row(first.message, first.key, 0, ("late", 1))])) == "loaded"
            assert quarantine.discard(Selection(ids=(second.quarantine_id,))) == 1
            assert [entry.state for entry in quarantine.entries(Selection(), resolved=True)] == ["loaded", "discarded"]
    assert database.names() == ["late"]
