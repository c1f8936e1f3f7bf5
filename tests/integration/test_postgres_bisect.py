"""A row that the table refuses: found by bisecting, handed back with its SQLSTATE; all else is committed once."""

from __future__ import annotations

import asyncio
import random

import pytest
from tests.support.fix_postgres import (
    TABLE,
    Database,
    batch,
    column,
    postgres_sink,
    refusal,
    reject,
    row,
    rows,
    using,
    write,
)

from coatcheck.errors import UnreachableError
from coatcheck.pipeline.message import Outcome, Reason, Row
from coatcheck.sinks.postgres.schema import migrate

RULES = """
ALTER TABLE events ALTER name SET NOT NULL, ADD CONSTRAINT small CHECK (number < 1000000);
CREATE UNIQUE INDEX one_of_each ON events (number);
CREATE TABLE allowed (name text PRIMARY KEY);
CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    CASE NEW.name
        WHEN 'raise' THEN RAISE EXCEPTION 'not this one: %', NEW.name;
        WHEN 'code' THEN RAISE EXCEPTION 'not this one' USING ERRCODE = '22023';
        WHEN 'divide' THEN NEW.number := 1 / 0;
        WHEN 'assert' THEN ASSERT false;
        WHEN 'overflow' THEN NEW.number := 2147483647 + NEW.number;
        ELSE NULL;
    END CASE;
    RETURN NEW;
END $$;
CREATE TRIGGER refusing BEFORE INSERT ON events FOR EACH ROW EXECUTE FUNCTION refuse();
"""

FAULTS: dict[str, tuple[str | None, int]] = {
    "23514": ("check", 2_000_000),
    "23502": (None, 500_001),
    "22001": ("long" * 17, 500_002),
    "22021": ("nul\0", 500_003),
    "P0001": ("raise", 500_004),
    "22023": ("code", 500_005),
    "22012": ("divide", 500_006),
    "P0004": ("assert", 500_007),
    "22003": ("overflow", 500_008),
}
"""Values that the rules refuse, by the SQLSTATE they are refused with."""
NAMES = {"23514": "small", "23505": "one_of_each"}
"""The constraints that refuse, by their SQLSTATE."""


def detail(code: str) -> str:
    return f"{code} {NAMES.get(code, '')}".rstrip()


@pytest.fixture
def ruled(database: Database) -> Database:
    database.execute(RULES)
    return database


def faulty(number: int, code: str) -> Row:
    name, value = FAULTS[code]
    return row(number, name, value)


@pytest.mark.parametrize("code", FAULTS)
def test_each_fault_has_its_code(ruled: Database, code: str) -> None:
    bad = faulty(2, code)
    [outcome] = write(postgres_sink(ruled), batch([row(1), bad, row(3)]))
    assert outcome == Outcome(loaded=2, refused=[refusal(bad, detail(code))])
    assert ruled.names() == ["name-1", "name-3"]


@pytest.mark.parametrize("count", [1, 2, 7, 40])
def test_of_a_thousand_exactly_the_offending_rows_are_refused(ruled: Database, count: int) -> None:
    choice = random.Random(count)  # noqa: S311 - an order, no secret
    codes = [code for code in FAULTS if code != "23502"]
    bad = {number: choice.choice(codes) for number in choice.sample(range(1000), count)}
    one = batch(faulty(n, bad[n]) if n in bad else row(n) for n in range(1000))
    [outcome] = write(postgres_sink(ruled), one)
    assert [(entry.message.message_id, refused.detail) for entry, refused in outcome.refused] == [
        (f"message-{number}", detail(bad[number])) for number in sorted(bad)
    ]
    assert outcome.loaded == 1000 - count
    assert outcome.duplicates == 0
    assert sorted(ruled.names()) == sorted(f"name-{number}" for number in range(1000) if number not in bad)
    assert ruled.count("coatcheck.ledger") == 1000 - count
    assert ruled.value("SELECT sum(loaded) FROM coatcheck.batch") == 1000 - count


@pytest.mark.parametrize("place", [0, 1, 499, 500, 998, 999])
def test_wherever_the_row_stands(ruled: Database, place: int) -> None:
    one = batch(faulty(n, "P0001") if n == place else row(n) for n in range(1000))
    [outcome] = write(postgres_sink(ruled), one)
    assert [entry for entry, _ in outcome.refused] == [one.rows[place]]
    assert ruled.counts() == (999, 999, 0)


def test_of_two_rows_that_collide_the_later_one_is_refused(ruled: Database) -> None:
    twice = row(1_000, "the same number", 500)
    one = batch([*rows(*range(900)), twice, *rows(*range(901, 1000))])
    [outcome] = write(postgres_sink(ruled), one)
    assert outcome == Outcome(loaded=999, refused=[refusal(twice, "23505 one_of_each")])


def test_a_row_that_collides_with_a_stored_one(ruled: Database) -> None:
    twice = row(2, "the same number", 1)
    _, outcome = write(postgres_sink(ruled), batch(rows(1)), batch([twice, row(3)]))
    assert outcome == Outcome(loaded=1, refused=[refusal(twice, "23505 one_of_each")])


def test_a_whole_batch_is_refused(ruled: Database) -> None:
    every = [faulty(number, "22012") for number in range(100)]
    assert write(postgres_sink(ruled), batch(every)) == [Outcome(refused=[refusal(one, "22012") for one in every])]
    assert ruled.counts() == (0, 0, 0)
    assert ruled.count("coatcheck.batch") == 0


def test_every_other_row_is_refused(ruled: Database) -> None:
    every = [faulty(n, "22012") if n % 2 else row(n) for n in range(100)]
    [outcome] = write(postgres_sink(ruled), batch(every))
    assert outcome == Outcome(loaded=50, refused=[refusal(one, "22012") for one in every[1::2]])


def test_refused_rows_go_to_quarantine_once(ruled: Database) -> None:
    """As the runner does it: the refused come back as rejects; then everything is delivered again."""
    bad = [faulty(n, "23514") for n in (3, 4)]
    every = [*rows(1, 2), *bad, *rows(5, 6)]
    again = [reject(n, Reason.REFUSED_BY_DATABASE, "23514") for n in (3, 4)]
    outcomes = write(postgres_sink(ruled), batch(every, [reject(7)]), batch(rejected=again), batch(every, [reject(7)]))
    assert outcomes == [
        Outcome(loaded=4, quarantined=1, refused=[refusal(one, "23514 small") for one in bad]),
        Outcome(quarantined=2),
        Outcome(duplicates=7),
    ]
    assert ruled.counts() == (4, 7, 3)
    assert ruled.execute("SELECT message_id, detail FROM coatcheck.quarantine ORDER BY quarantine_id") == [
        ("message-7", ""), ("message-3", "23514"), ("message-4", "23514"),
    ]  # fmt: skip


def test_rejects_beside_a_refused_row_keep_their_data_keys(ruled: Database) -> None:
    bad = faulty(2, "23514")
    [outcome] = write(postgres_sink(ruled), batch([row(1), bad], [reject(3), reject(4)]))
    assert outcome == Outcome(loaded=1, quarantined=2, refused=[refusal(bad, "23514 small")])
    held = ruled.value("SELECT count(*) FROM coatcheck.quarantine JOIN coatcheck.data_key USING (dek_id)")
    assert held == 2


def test_duplicates_are_counted_beside_refused_rows(ruled: Database) -> None:
    bad = faulty(4, "23514")
    _, outcome = write(postgres_sink(ruled), batch(rows(1, 2)), batch([*rows(1, 2, 3, 3), bad]))
    assert outcome == Outcome(loaded=1, duplicates=3, refused=[refusal(bad, "23514 small")])


def test_a_constraint_that_is_checked_at_commit(database: Database) -> None:
    """PostgreSQL answers with the result first and with the error after it: no row may count as loaded by then."""
    database.execute(
        "CREATE TABLE known (number integer PRIMARY KEY); INSERT INTO known SELECT generate_series(0, 9);"
        "ALTER TABLE events ADD FOREIGN KEY (number) REFERENCES known DEFERRABLE INITIALLY DEFERRED"
    )
    bad = row(10, "unknown", 10)
    [outcome] = write(postgres_sink(database), batch([*rows(*range(10)), bad], [reject(11)]))
    assert outcome == Outcome(loaded=10, quarantined=1, refused=[refusal(bad, "23503 events_number_fkey")])
    assert database.counts() == (10, 11, 1)


def test_no_partition_takes_the_row(empty_database: Database) -> None:
    empty_database.execute(
        "CREATE TABLE events (name varchar(64), number integer) PARTITION BY RANGE (number);"
        "CREATE TABLE low PARTITION OF events FOR VALUES FROM (0) TO (5)"
    )
    migrate(empty_database.dsn, TABLE, [column("name", "varchar(64)"), column("number", "integer")])
    [outcome] = write(postgres_sink(empty_database), batch(rows(1, 2, 7)))
    assert outcome == Outcome(loaded=2, refused=[refusal(row(7), "23514")])


def test_an_entry_too_large_for_an_index(empty_database: Database) -> None:
    columns = [column("name", "text"), column("number", "integer")]
    migrate(empty_database.dsn, TABLE, columns)
    empty_database.execute("CREATE INDEX ON events (name)")
    noise = random.Random(3).randbytes(20_000).hex()  # noqa: S311 - what does not compress
    bad = row(2, noise, 2)
    [outcome] = write(postgres_sink(empty_database, columns), batch([row(1), bad, row(3)]))
    assert outcome == Outcome(loaded=2, refused=[refusal(bad, "54000")])


def test_a_quarantine_that_refuses_stops_the_worker(database: Database) -> None:
    """No message is at fault then, and none may be lost: the batch stays on the queue."""
    database.execute("ALTER TABLE coatcheck.quarantine ADD CHECK (message_id <> 'message-2')")
    with pytest.raises(UnreachableError, match="cannot write to quarantine: PostgreSQL answers 23514") as caught:
        write(postgres_sink(database), batch(rejected=[reject(1), reject(2), reject(3)]))
    assert caught.value.hint
    ids = database.execute("SELECT message_id FROM coatcheck.quarantine")
    assert ids in ([], [("message-1",)])
    assert database.count("coatcheck.ledger") == len(ids)


def test_two_batches_are_bisected_at_once(ruled: Database) -> None:
    sink = postgres_sink(ruled, connections=2)
    bad = [faulty(number, "22012") for number in (100, 1100)]
    batches = [batch([*rows(*range(start, start + 50)), one]) for start, one in zip((0, 1000), bad, strict=True)]

    async def work() -> list[Outcome]:
        return await asyncio.gather(*map(sink.write, batches))

    outcomes = asyncio.run(using(sink, work()))
    assert outcomes == [Outcome(loaded=50, refused=[refusal(one, "22012")]) for one in bad]
    assert ruled.counts() == (100, 100, 0)
