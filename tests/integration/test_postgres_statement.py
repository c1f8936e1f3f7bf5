"""What one batch leaves in the database, column by column, and for which tables the statement can be composed."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from tests.support.fix_postgres import (
    EVENTS,
    MAY_READ,
    SENT_MS,
    TABLE,
    Database,
    batch,
    column,
    key,
    message,
    postgres_sink,
    reject,
    row,
    rows,
    until,
    using,
    write,
)

from coatcheck.pipeline.columns import Column, ColumnType, Mask
from coatcheck.pipeline.keying import DAY_S, DAYS, FOREVER
from coatcheck.pipeline.message import (
    Batch,
    DataKey,
    Message,
    Outcome,
    Reason,
    Reject,
    Rejected,
    Row,
    Sealed,
)
from coatcheck.sinks.postgres.schema import inspect, migrate

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def moment(milliseconds: int) -> datetime:
    return EPOCH + timedelta(milliseconds=milliseconds)


def test_a_ledger_entry_holds_key_slot_and_day(database: Database) -> None:
    write(postgres_sink(database), batch(rows(5), [reject(9)]))
    found = database.execute("SELECT message_key, slot, loaded_on = current_date FROM coatcheck.ledger")
    assert sorted(found) == sorted([(UUID(bytes=key(5)), 5 * DAY_S, True), (UUID(bytes=key(9)), 9 * DAY_S, True)])


def test_days_have_partitions_of_their_own(database: Database) -> None:
    ends = [slot for day in range(DAYS) for slot in (day * DAY_S, (day + 1) * DAY_S - 1)]
    every = [Row(message(n), key(n), slot, ("x", n)) for n, slot in enumerate([FOREVER, *ends])]
    assert write(postgres_sink(database), batch(every)) == [Outcome(loaded=129)]
    found = database.execute("SELECT slot, tableoid::regclass::text FROM coatcheck.ledger")
    assert dict(found) == {slot: f"coatcheck.ledger_{slot // DAY_S:02}" for slot in ends} | {
        -1: "coatcheck.ledger_forever"
    }


@pytest.mark.parametrize("sent_ms", [SENT_MS, 1, 999, 0, 4_102_444_799_999])
def test_a_quarantine_entry_holds_all_that_a_retry_needs(database: Database, sent_ms: int) -> None:
    came = Message("an id of any form", "{", sent_ms, "receipt", 3, sent_ms + 77, "key:origin")
    sealed = Sealed(key(1), b"twelve bytes", b"\x00\xffsealed")
    entry = Rejected(came, key(2), 7, Reject(Reason.TOO_LONG, "name"), sealed)
    one = Batch([], [entry], [DataKey(key(1), "local:1234", b"\x00\x01wrapped")])
    assert write(postgres_sink(database), one) == [Outcome(quarantined=1)]
    [found] = database.execute(
        "SELECT message_key, message_id, origin, reason, detail, sent_at, received_at, dek_id, nonce, ciphertext,"
        " state, attempts, resolved_at, resolved_by FROM coatcheck.quarantine"
    )
    assert found == (
        UUID(bytes=key(2)), "an id of any form", "key:origin", "too_long", "name", moment(sent_ms),
        moment(sent_ms + 77), UUID(bytes=key(1)), b"twelve bytes", b"\x00\xffsealed", "held", 1, None, None,
    )  # fmt: skip
    assert database.execute("SELECT dek_id, kek, wrapped FROM coatcheck.data_key") == [
        (UUID(bytes=key(1)), "local:1234", b"\x00\x01wrapped")
    ]


def test_a_data_key_is_stored_once(database: Database) -> None:
    write(postgres_sink(database), batch(rejected=[reject(1), reject(2)]), batch(rejected=[reject(3)]))
    assert database.count("coatcheck.data_key") == 1


def test_each_transaction_leaves_a_record(database: Database) -> None:
    sink = postgres_sink(database, worker="a worker")
    write(sink, batch(rows(5, 4, 3), [reject(9)]), batch(rows(3, 4, 8)))
    found = database.execute("SELECT worker, loaded, quarantined, duplicates, oldest_sent FROM coatcheck.batch")
    assert found == [("a worker", 3, 1, 0, moment(SENT_MS + 3)), ("a worker", 1, 0, 2, moment(SENT_MS + 3))]


def test_what_is_not_stored_has_no_column(empty_database: Database) -> None:
    dropped = Column("secret", ("secret",), ColumnType.from_text("text"), mask=Mask.DROP)
    columns = (EVENTS[0], dropped, EVENTS[1])
    migrate(empty_database.dsn, TABLE, columns)
    assert write(postgres_sink(empty_database, columns), batch(rows(1))) == [Outcome(loaded=1)]
    assert empty_database.execute("SELECT * FROM events") == [("name-1", 1)]


@pytest.mark.parametrize(
    "name",
    # words of our own statements, of SQL, and what has to be quoted
    ["place", "message_key", "batch", "fresh", "loaded", "message_id", "quarantine_id", "released", "c0", "c1",
     "slot", "keys", "worker", "order", "select", "user", "userId", "_", "ctid_", "n" * 63],
)  # fmt: skip
def test_a_column_may_have_any_name(empty_database: Database, name: str) -> None:
    columns = (column(name, "text"), column("other", "integer"))
    migrate(empty_database.dsn, TABLE, columns)
    assert [finding.what for finding in inspect(empty_database.dsn, TABLE, columns).findings] == [MAY_READ]
    outcomes = write(postgres_sink(empty_database, columns), batch([row(1, "a", 1), row(2, None, 2)], [reject(3)]))
    assert outcomes == [Outcome(loaded=2, quarantined=1)]
    assert empty_database.execute(f'SELECT "{name}", other FROM events ORDER BY other') == [("a", 1), (None, 2)]


@pytest.mark.parametrize("table", ["fresh", "batch", "loaded", "order", "Events", "a$b", "public.events", "own.batch"])
def test_a_table_may_have_any_name(empty_database: Database, table: str) -> None:
    empty_database.execute("CREATE SCHEMA own")
    migrate(empty_database.dsn, table, EVENTS)
    assert [finding.what for finding in inspect(empty_database.dsn, table, EVENTS).findings] == [MAY_READ]
    one = batch(rows(1, 2), [reject(3)])
    outcomes = write(postgres_sink(empty_database, table=table), one, one)
    assert outcomes == [Outcome(loaded=2, quarantined=1), Outcome(duplicates=3)]
    assert empty_database.count('"' + table.replace(".", '"."') + '"') == 2


def test_columns_are_filled_by_name(empty_database: Database) -> None:
    """The table has them in another order, and has more of them."""
    empty_database.execute("CREATE TABLE events (at timestamptz DEFAULT now(), number bigint, note text, name text)")
    migrate(empty_database.dsn, TABLE, EVENTS)
    assert [finding.what for finding in inspect(empty_database.dsn, TABLE, EVENTS).findings] == [MAY_READ]
    write(postgres_sink(empty_database), batch(rows(1)))
    assert empty_database.execute("SELECT name, number, note, at IS NULL FROM events") == [("name-1", 1, None, False)]


def test_a_partitioned_table_and_a_view_are_tables(empty_database: Database) -> None:
    empty_database.execute(
        "CREATE TABLE events (name varchar(64), number integer) PARTITION BY RANGE (number);"
        "CREATE TABLE low PARTITION OF events FOR VALUES FROM (0) TO (5);"
        "CREATE TABLE high PARTITION OF events FOR VALUES FROM (5) TO (10);"
        "CREATE VIEW seen AS SELECT name, number FROM events"
    )
    migrate(empty_database.dsn, TABLE, EVENTS)
    assert write(postgres_sink(empty_database), batch(rows(1, 4, 5, 9))) == [Outcome(loaded=4)]
    assert write(postgres_sink(empty_database, table="seen"), batch(rows(0, 6))) == [Outcome(loaded=2)]
    assert (empty_database.count("low"), empty_database.count("high")) == (3, 3)


def test_the_time_zone_of_a_session_changes_nothing(database: Database) -> None:
    database.execute(f"ALTER DATABASE {database.name} SET TimeZone = 'Pacific/Kiritimati'")
    write(postgres_sink(database), batch(rejected=[reject(1)]))
    assert database.value("SELECT sent_at FROM coatcheck.quarantine") == moment(SENT_MS + 1)


def test_many_writes_share_few_connections(database: Database) -> None:
    sink = postgres_sink(database, connections=3)

    async def work() -> tuple[list[Outcome], int]:
        outcomes = await asyncio.gather(*(sink.write(batch(rows(number))) for number in range(60)))
        return outcomes, database.connections()

    outcomes, connections = asyncio.run(using(sink, work()))
    assert outcomes == [Outcome(loaded=1)] * 60
    assert 1 <= connections <= 3


def test_closing_leaves_no_connection(database: Database) -> None:
    write(postgres_sink(database, connections=4), batch(rows(1)))
    asyncio.run(postgres_sink(database).close())  # never opened
    asyncio.run(until(lambda: database.connections() == 0, "its backends end"))
