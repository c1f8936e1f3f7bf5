"""The ledger forgets whole days, and only those whose newest entry is older than a queue can remember."""

from __future__ import annotations

import asyncio
import logging

import psycopg
import pytest
from tests.support.fix_postgres import (
    EVENTS,
    TABLE,
    Database,
    batch,
    key,
    message,
    postgres_sink,
    rows,
    until,
    using,
    write,
)

from coatcheck.pipeline.keying import DAY_S, DAYS, FOREVER, SLOTS
from coatcheck.pipeline.message import Outcome, Row
from coatcheck.sinks.postgres.schema import Migrated, migrate

OLD, KEPT = 41, 39
"""Days on either side of the default of 40; the day between depends on the time of day."""


def remember(database: Database, day: int, *days_ago: int) -> None:
    """Put entries into the partition of a day, or of what is bound to none, that were loaded so long ago."""
    for days in days_ago:
        database.execute(
            "INSERT INTO coatcheck.ledger (message_key, slot, loaded_on)"
            " VALUES (gen_random_uuid(), %s, current_date - %s::int)",
            max(day * DAY_S, FOREVER), days,
        )  # fmt: skip


def used(database: Database) -> list[int]:
    """The days that have entries; -1 stands for those bound to none."""
    return [int(day) for (day,) in database.execute(f"SELECT DISTINCT floor(slot / {DAY_S}.0) AS day"
                                                    " FROM coatcheck.ledger ORDER BY day")]  # fmt: skip


def prune(database: Database, *keep_days: int) -> int:
    return int(database.value("SELECT coatcheck.prune({})".format(*keep_days or [""])))


def test_the_ring_has_a_partition_for_each_day(database: Database) -> None:
    found = database.execute(
        "SELECT pg_get_expr(relpartbound, oid) FROM pg_class"
        " WHERE oid IN (SELECT inhrelid FROM pg_inherits WHERE inhparent = 'coatcheck.ledger'::regclass)"
    )
    days = [("'-1'", 0), *((day * DAY_S, (day + 1) * DAY_S) for day in range(DAYS))]
    assert sorted(bound for (bound,) in found) == sorted(f"FOR VALUES FROM ({a}) TO ({b})" for a, b in days)
    for outside in (FOREVER - 1, SLOTS):
        with pytest.raises(psycopg.errors.CheckViolation):
            database.execute("INSERT INTO coatcheck.ledger (message_key, slot) VALUES (gen_random_uuid(), %s)", outside)


def test_old_slots_go_and_live_ones_stay(database: Database) -> None:
    remember(database, 0, OLD, 400)
    remember(database, 1, OLD, 400, KEPT)
    remember(database, 2, 0)
    remember(database, 63, 100)
    assert prune(database) == 2
    assert used(database) == [1, 2]
    assert database.count("coatcheck.ledger") == 4
    assert prune(database) == 0


def test_what_is_bound_to_no_date_is_never_forgotten(database: Database) -> None:
    remember(database, FOREVER, 10_000, OLD)
    assert prune(database) == 0
    assert used(database) == [FOREVER]


def test_keep_days_has_a_lower_bound(database: Database) -> None:
    """A queue and its dead-letter queue remember for 28 days."""
    remember(database, 5, 31)
    assert prune(database, 33) == 0
    with pytest.raises(psycopg.errors.RaiseException, match="at least 30 days"):
        prune(database, 29)
    assert used(database) == [5]
    assert prune(database, 30) == 1


def test_batches_older_than_two_days_are_forgotten(database: Database) -> None:
    write(postgres_sink(database), batch(rows(1)))
    database.execute(
        "INSERT INTO coatcheck.batch SELECT now() - interval '49 hours', worker, loaded, quarantined, duplicates,"
        " oldest_sent FROM coatcheck.batch"
    )
    prune(database)
    assert database.count("coatcheck.batch") == 1


def test_migrate_prunes(database: Database) -> None:
    remember(database, 7, OLD)
    remember(database, 8, OLD)
    assert migrate(database.dsn, TABLE, EVENTS) == Migrated(pruned=2)


def test_a_slot_that_was_pruned_is_used_again(database: Database) -> None:
    remember(database, 7, OLD)
    prune(database)
    one = batch([Row(message(1), key(1), 7 * DAY_S, ("x", 1))])
    assert write(postgres_sink(database), one, one) == [Outcome(loaded=1), Outcome(duplicates=1)]


def test_a_slot_that_comes_to_life_is_left(database: Database) -> None:
    """The new entry is not committed yet, so nobody sees it; it must survive all the same."""
    remember(database, 7, OLD)
    remember(database, 8, OLD)
    with database.session() as writer, writer.transaction():
        writer.execute("INSERT INTO coatcheck.ledger (message_key, slot) SELECT gen_random_uuid(), 7 * 86400")
        assert prune(database) == 1
    assert prune(database) == 0
    assert database.execute("SELECT slot / 86400, count(*) FROM coatcheck.ledger GROUP BY slot") == [(7, 2)]


def test_it_looks_with_new_eyes_only(database: Database) -> None:
    """In a transaction that sees one moment only, it could not see what has been written since."""
    remember(database, 7, OLD)
    database.execute(f"ALTER DATABASE {database.name} SET default_transaction_isolation = 'repeatable read'")
    with database.session() as session, pytest.raises(psycopg.errors.RaiseException, match="READ COMMITTED"):
        session.execute("SELECT coatcheck.prune()")
    assert migrate(database.dsn, TABLE, EVENTS) == Migrated(pruned=1)


def test_live_slots_are_not_locked(database: Database) -> None:
    """A writer that holds a live slot for long does not stop the pruning, nor the pruning it."""
    remember(database, 3, OLD)
    with database.session() as writer, writer.transaction():
        writer.execute("INSERT INTO coatcheck.ledger (message_key, slot) SELECT gen_random_uuid(), 4 * 86400")
        assert prune(database) == 1
    assert used(database) == [4]


def test_a_worker_prunes_when_it_starts_and_in_a_day_again(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    sink = postgres_sink(database)

    async def work() -> None:
        remember(database, 7, OLD)
        await sink.open()
        assert used(database) == []
        remember(database, 8, OLD)
        await sink.write(batch(rows(1)))
        assert used(database) == [1, 8]
        monkeypatch.setattr(sink, "_upkeep_at", 0.0)
        await sink.write(batch(rows(2)))
        assert used(database) == [1, 2]
        remember(database, 9, OLD)
        await sink.write(batch(rows(3)))
        assert used(database) == [1, 2, 3, 9]

    asyncio.run(using(sink, work()))


def test_a_worker_that_may_not_prune_works_all_the_same(
    database: Database, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.DEBUG, "coatcheck")
    remember(database, 7, OLD)
    sink = postgres_sink(
        database.role(
            *("USAGE ON SCHEMA coatcheck", "INSERT, SELECT ON coatcheck.ledger", "INSERT ON coatcheck.batch"),
            *("INSERT ON coatcheck.quarantine", "INSERT ON coatcheck.data_key", "INSERT ON events"),
            *("INSERT ON coatcheck.vault", "INSERT ON coatcheck.alias", "EXECUTE ON FUNCTION coatcheck.using_key"),
            *("SELECT ON coatcheck.token_key", "SELECT ON coatcheck.erased"),
        )
    )

    async def work() -> None:
        await sink.open()
        monkeypatch.setattr(sink, "_upkeep_at", 0.0)
        assert await sink.write(batch(rows(1))) == Outcome(loaded=1)

    asyncio.run(using(sink, work()))
    assert used(database) == [1, 7]
    assert caplog.records == []


def test_pruning_that_fails_keeps_nobody_waiting(database: Database, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "coatcheck")
    database.execute("DROP FUNCTION coatcheck.prune")
    sink = postgres_sink(database)

    async def work() -> None:
        await sink.open()
        assert await sink.write(batch(rows(1))) == Outcome(loaded=1)

    asyncio.run(using(sink, work()))
    assert [(record.message, record.__dict__["sqlstate"]) for record in caplog.records] == [
        ("upkeep was not done", "42883")
    ]


def test_it_waits_for_nobody(database: Database) -> None:
    """A standstill would cost more than a slot that is pruned some other day."""
    remember(database, 3, OLD)
    with database.session() as holder, holder.transaction():
        holder.execute("LOCK TABLE coatcheck.ledger_03 IN ROW EXCLUSIVE MODE; SET LOCAL lock_timeout = '1s'")
        assert prune(database) == 0
    assert prune(database) == 1


def test_an_entry_that_comes_between_the_two_looks(empty_database: Database) -> None:
    """The first look is held up by a policy that waits for a lock; the entry is committed meanwhile, unseen by it."""
    base = empty_database
    owner = base.role(f"CREATE ON DATABASE {base.name}", "CREATE ON SCHEMA public")
    migrate(owner, TABLE, EVENTS)
    remember(base, 7, OLD)
    base.execute(
        "CREATE FUNCTION gate() RETURNS boolean LANGUAGE plpgsql AS"
        " $$ BEGIN PERFORM pg_advisory_xact_lock_shared(4711); RETURN true; END $$;"
        "ALTER TABLE coatcheck.ledger_07 ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;"
        "CREATE POLICY gate ON coatcheck.ledger_07 USING (gate())"
    )

    async def work() -> None:
        with base.session() as holder:
            holder.execute("SELECT pg_advisory_lock(4711)")
            pruning = asyncio.create_task(asyncio.to_thread(migrate, owner, TABLE, EVENTS))
            await until(base.waiting, "the first look is held up")
            remember(base, 7, 0, OLD)
        assert (await pruning).pruned == 0

    asyncio.run(work())
    assert base.count("coatcheck.ledger_07") == 3


def test_dead_slots_that_come_to_life_by_the_dozen(database: Database) -> None:
    """Pruning and writing at once, over and over: whatever the order, no new entry is forgotten, and nobody fails."""
    batches = [
        batch(Row(message(n), key(n), n % DAYS * DAY_S, ("x", n)) for n in range(first, first + DAYS))
        for first in range(0, 20 * DAYS, DAYS)
    ]
    sink = postgres_sink(database)

    async def work() -> None:
        for one in batches:
            outcome, _ = await asyncio.gather(sink.write(one), asyncio.to_thread(prune, database))
            assert outcome == Outcome(loaded=DAYS)
            assert await sink.write(one) == Outcome(duplicates=DAYS)
            database.execute("UPDATE coatcheck.ledger SET loaded_on = current_date - %s::int", OLD)

    asyncio.run(using(sink, work()))
    assert "deadlock" not in database.log()


def test_a_worker_prunes_when_it_starts(database: Database) -> None:
    remember(database, 5, OLD)
    remember(database, 6, KEPT)

    sink = postgres_sink(database)
    asyncio.run(using(sink, sink.open()))
    assert used(database) == [6]
