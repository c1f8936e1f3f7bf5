"""The ledger forgets whole slots, and only those whose newest entry is older than a queue can remember."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest
from tests.support.fix_postgres import (
    EVENTS,
    LIMIT,
    TABLE,
    Database,
    batch,
    key,
    message,
    postgres_sink,
    reject,
    rows,
    write,
)

from coatcheck.pipeline.keying import FOREVER, SLOTS
from coatcheck.pipeline.message import Outcome, Row
from coatcheck.sinks.postgres.schema import Migrated, migrate

OLD, KEPT = 41, 39
"""Days on either side of the default of 40; the day between depends on the time of day."""


def remember(database: Database, slot: int, *days_ago: int) -> None:
    for number, days in enumerate(days_ago):
        database.execute(
            "INSERT INTO coatcheck.ledger (message_key, slot, loaded_on) VALUES (%s, %s, current_date - %s::int)",
            key(1000 * slot + number).hex(), slot, days,
        )  # fmt: skip


def slots(database: Database) -> list[int]:
    return [slot for (slot,) in database.execute("SELECT DISTINCT slot FROM coatcheck.ledger ORDER BY slot")]


def prune(database: Database, *keep_days: int) -> int:
    return int(database.value("SELECT coatcheck.prune({})".format(*keep_days or [""])))


def test_the_ring_has_a_partition_for_each_slot(database: Database) -> None:
    found = database.execute(
        "SELECT pg_get_expr(relpartbound, oid) FROM pg_class"
        " WHERE oid IN (SELECT inhrelid FROM pg_inherits WHERE inhparent = 'coatcheck.ledger'::regclass)"
    )
    wanted = [f"FOR VALUES IN ('{slot}')" for slot in (FOREVER, *range(SLOTS))]
    assert sorted(bound for (bound,) in found) == sorted(wanted)
    for outside in (FOREVER - 1, SLOTS):
        with pytest.raises(psycopg.errors.CheckViolation):
            remember(database, outside, 0)


def test_old_slots_go_and_live_ones_stay(database: Database) -> None:
    remember(database, 0, OLD, 400)
    remember(database, 1, OLD, 400, KEPT)
    remember(database, 2, 0)
    remember(database, 63, 100)
    assert prune(database) == 2
    assert slots(database) == [1, 2]
    assert database.count("coatcheck.ledger") == 4
    assert prune(database) == 0


def test_what_is_bound_to_no_date_is_never_forgotten(database: Database) -> None:
    remember(database, FOREVER, 10_000, OLD)
    assert prune(database) == 0
    assert slots(database) == [FOREVER]


def test_keep_days_has_a_lower_bound(database: Database) -> None:
    """A queue and its dead-letter queue remember for 28 days."""
    remember(database, 5, 31)
    assert prune(database, 33) == 0
    with pytest.raises(psycopg.errors.RaiseException, match="at least 30 days"):
        prune(database, 29)
    assert slots(database) == [5]
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
    one = batch([Row(message(1), key(1), 7, ("x", 1))])
    assert write(postgres_sink(database), one, one) == [Outcome(loaded=1), Outcome(duplicates=1)]


def test_what_is_written_while_it_looks_is_not_forgotten(database: Database) -> None:
    """An old slot comes to life in the moment between the look at it and its end: the new entry must survive."""
    remember(database, 7, OLD)
    with database.session() as writer, ThreadPoolExecutor(1) as pool:
        with writer.transaction():
            writer.execute("INSERT INTO coatcheck.ledger (message_key, slot) VALUES (%s::uuid, 7)", [key(1).hex()])
            pruning = pool.submit(prune, database)
            wait_for_lock(writer)
        pruning.result(LIMIT)
    assert database.value("SELECT count(*) FROM coatcheck.ledger WHERE message_key = %s::uuid", key(1).hex()) == 1


def wait_for_lock(connection: psycopg.Connection[tuple[int]]) -> None:
    query = "SELECT count(*) FROM pg_locks WHERE NOT granted AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
    deadline = time.monotonic() + LIMIT
    while connection.execute(query).fetchall() == [(0,)]:
        assert time.monotonic() < deadline


def test_live_slots_are_not_locked(database: Database) -> None:
    """A writer that holds a live slot for long does not stop the pruning, nor the pruning it."""
    remember(database, 3, OLD)
    with database.session() as writer, writer.transaction():
        writer.execute("INSERT INTO coatcheck.ledger (message_key, slot) SELECT gen_random_uuid(), 4")
        assert prune(database) == 1
    assert slots(database) == [4]


def test_a_slot_that_stays_locked_is_given_up(database: Database) -> None:
    """After two seconds: pruning is never worth a standstill."""
    remember(database, 3, OLD)
    with database.session() as writer, writer.transaction():
        writer.execute("LOCK TABLE coatcheck.ledger_03 IN ROW EXCLUSIVE MODE")
        with pytest.raises(psycopg.errors.LockNotAvailable):
            prune(database)
    assert slots(database) == [3]


def test_pruning_while_workers_write(database: Database) -> None:
    for slot in range(32, 64):
        remember(database, slot, OLD)
    stop = threading.Event()

    def pruned() -> int:
        total = 0
        while not stop.is_set():
            total += prune(database)
        return total

    with ThreadPoolExecutor(1) as pool:
        pruning = pool.submit(pruned)
        batches = [batch(rows(*range(first, first + 60)), [reject(first + 99)]) for first in range(0, 4000, 100)]
        try:
            outcomes = write(postgres_sink(database), *batches, *batches)
        finally:
            stop.set()
        assert 0 < pruning.result(LIMIT) <= 32
    assert outcomes == [Outcome(loaded=60, quarantined=1)] * 40 + [Outcome(duplicates=61)] * 40
