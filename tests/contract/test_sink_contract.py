"""What every sink promises (`ports.Sink`), held against the one in memory and the one in PostgreSQL."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

import pytest
from tests.support.fix_postgres import (
    Database,
    batch,
    key,
    message,
    postgres_sink,
    refusal,
    reject,
    row,
    rows,
    suppressed,
    using,
)

from coatcheck.pipeline.message import Batch, Outcome, Reason, Row
from coatcheck.pipeline.ports import Sink
from coatcheck.sinks.memory import MemorySink
from coatcheck.sinks.postgres.sink import PostgresSink

REFUSED, SUPPRESSED = "name-refused", "name-suppressed"
DETAIL = "23514 refusing"
SUPPRESS = f"""
CREATE FUNCTION suppress() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.name = '{SUPPRESSED}' THEN RETURN NULL; END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER suppressing BEFORE INSERT ON events FOR EACH ROW EXECUTE FUNCTION suppress()
"""


class Ends(Protocol):
    """A sink, and a look at what it has stored."""

    @property
    def sink(self) -> Any: ...

    def names(self) -> list[str]:
        """Return the first value of each stored row, in order."""

    def quarantined(self) -> list[tuple[str, str, str]]:
        """Return message id, reason and detail of each quarantined message, in order."""

    def refused(self, number: int) -> Row:
        """Return a row that the sink will refuse with 23514."""

    def suppressed(self, number: int) -> Row:
        """Return a row that the table will keep out."""

    def accepting(self) -> None:
        """Accept rows that the table keeps out."""

    def accept(self) -> None:
        """Refuse no more."""


class MemoryEnds:
    def __init__(self) -> None:
        self.sink = MemorySink()

    def names(self) -> list[str]:
        return [str(entry.values[0]) for entry in self.sink.rows]

    def quarantined(self) -> list[tuple[str, str, str]]:
        return [
            (entry.message.message_id, str(entry.reject.reason), entry.reject.detail) for entry in self.sink.quarantine
        ]

    def refused(self, number: int) -> Row:
        self.sink.refuse[message(number).message_id] = DETAIL
        return row(number, REFUSED, number)

    def suppressed(self, number: int) -> Row:
        self.sink.suppress.add(message(number).message_id)
        return row(number, SUPPRESSED, number)

    def accepting(self) -> None:
        self.sink.accept = True

    def accept(self) -> None:
        self.sink.refuse.clear()


class PostgresEnds:
    def __init__(self, database: Database) -> None:
        self.database = database
        self.sink = postgres_sink(database)
        database.execute(f"ALTER TABLE events ADD CONSTRAINT refusing CHECK (name <> '{REFUSED}'); {SUPPRESS}")

    def names(self) -> list[str]:
        return self.database.names()

    def quarantined(self) -> list[tuple[str, str, str]]:
        found = self.database.execute(
            "SELECT message_id, reason, detail FROM coatcheck.quarantine ORDER BY quarantine_id"
        )
        return [(message_id, reason, detail) for message_id, reason, detail in found]

    def refused(self, number: int) -> Row:
        return row(number, REFUSED, number)

    def suppressed(self, number: int) -> Row:
        return row(number, SUPPRESSED, number)

    def accepting(self) -> None:
        self.sink = postgres_sink(self.database, accept_suppressed=True)

    def accept(self) -> None:
        self.database.execute("ALTER TABLE events DROP CONSTRAINT refusing")


@pytest.fixture(params=["memory", "postgres"])
def ends(request: pytest.FixtureRequest) -> Ends:
    if request.param == "memory":
        return MemoryEnds()
    return PostgresEnds(request.getfixturevalue("database"))


def held(number: int) -> tuple[str, str, str]:
    return f"message-{number}", "not_json", ""


def given(ends: Ends, work: Callable[[Sink], Awaitable[None]]) -> None:
    """Open the sink, do the work, close the sink."""

    async def opened() -> None:
        await ends.sink.open()
        await work(ends.sink)

    if isinstance(ends.sink, PostgresSink):
        asyncio.run(using(ends.sink, opened()))
    else:
        asyncio.run(opened())


def written(ends: Ends, *batches: Batch) -> list[Outcome]:
    outcomes: list[Outcome] = []

    async def work(sink: Sink) -> None:
        outcomes.extend([await sink.write(one) for one in batches])

    given(ends, work)
    return outcomes


def test_rows_are_stored_in_their_order(ends: Ends) -> None:
    numbers = random.Random(1).sample(range(10_000), 300)  # noqa: S311 - an order, no secret
    assert written(ends, batch(rows(*numbers))) == [Outcome(loaded=300)]
    assert ends.names() == [f"name-{number}" for number in numbers]


def test_rejects_are_stored_in_their_order(ends: Ends) -> None:
    numbers = random.Random(2).sample(range(10_000), 300)  # noqa: S311 - an order, no secret
    assert written(ends, batch(rejected=map(reject, numbers))) == [Outcome(quarantined=300)]
    assert ends.quarantined() == [held(number) for number in numbers]


def test_rows_and_rejects_go_together(ends: Ends) -> None:
    assert written(ends, batch(rows(1, 2, 3), [reject(4), reject(5)])) == [Outcome(loaded=3, quarantined=2)]
    assert ends.names() == ["name-1", "name-2", "name-3"]
    assert ends.quarantined() == [held(4), held(5)]


def test_one_row_alone_and_one_reject_alone(ends: Ends) -> None:
    assert written(ends, batch(rows(1)), batch(rejected=[reject(2)])) == [Outcome(loaded=1), Outcome(quarantined=1)]


def test_an_empty_batch_does_nothing(ends: Ends) -> None:
    assert written(ends, batch()) == [Outcome()]
    assert (ends.names(), ends.quarantined()) == ([], [])


def test_the_reason_and_the_detail_are_kept(ends: Ends) -> None:
    written(ends, batch(rejected=[reject(1, Reason.REFUSED_BY_DATABASE, "23514"), reject(2, Reason.TOO_LONG, "name")]))
    assert ends.quarantined() == [
        ("message-1", "refused_by_database", "23514"),
        ("message-2", "too_long", "name"),
    ]


def test_a_second_time_adds_nothing(ends: Ends) -> None:
    one = batch(rows(1, 2, 3), [reject(4), reject(5)])
    first, second, third = written(ends, one, one, batch(rows(3, 2, 1)))
    assert first == Outcome(loaded=3, quarantined=2)
    assert second == Outcome(duplicates=5)
    assert third == Outcome(duplicates=3)
    assert ends.names() == ["name-1", "name-2", "name-3"]
    assert ends.quarantined() == [held(4), held(5)]


def test_known_and_new_messages_in_one_batch(ends: Ends) -> None:
    _, outcome = written(ends, batch(rows(1, 3), [reject(5)]), batch(rows(0, 1, 2, 3, 4), [reject(5), reject(6)]))
    assert outcome == Outcome(loaded=3, quarantined=1, duplicates=3)
    assert ends.names() == ["name-1", "name-3", "name-0", "name-2", "name-4"]
    assert ends.quarantined() == [held(5), held(6)]


def test_a_message_twice_in_one_batch_is_stored_once(ends: Ends) -> None:
    one = batch(rows(1, 2, 1, 1), [reject(3), reject(3)])
    assert written(ends, one) == [Outcome(loaded=2, quarantined=1, duplicates=3)]
    assert ends.names() == ["name-1", "name-2"]
    assert ends.quarantined() == [held(3)]


def test_a_message_that_is_row_and_reject_at_once_has_one_effect(ends: Ends) -> None:
    assert written(ends, batch(rows(1), [reject(1)])) == [Outcome(loaded=1, duplicates=1)]
    assert (ends.names(), ends.quarantined()) == (["name-1"], [])


def test_a_row_stays_known_when_it_comes_back_as_a_reject(ends: Ends) -> None:
    _, outcome = written(ends, batch(rows(1)), batch(rejected=[reject(1)]))
    assert outcome == Outcome(duplicates=1)
    assert (ends.names(), ends.quarantined()) == (["name-1"], [])


def test_one_key_in_two_slots_is_two_messages_to_the_ledger(ends: Ends) -> None:
    """Keys come with their slot: what is asked of the ledger is the pair."""
    one = row(1)
    two = Row(message(2), key(1), (one.slot + 1) % 64, ("name-2", 2))
    assert written(ends, batch([one]), batch([two]), batch([one]), batch([two])) == [
        Outcome(loaded=1),
        Outcome(loaded=1),
        Outcome(duplicates=1),
        Outcome(duplicates=1),
    ]


def test_refused_rows_come_back_and_the_others_are_committed(ends: Ends) -> None:
    bad, worse = ends.refused(2), ends.refused(5)
    [outcome] = written(ends, batch([row(1), bad, *rows(3, 4), worse, row(6)], [reject(7)]))
    assert outcome == Outcome(loaded=4, quarantined=1, refused=[refusal(bad, DETAIL), refusal(worse, DETAIL)])
    assert ends.names() == ["name-1", "name-3", "name-4", "name-6"]
    assert ends.quarantined() == [held(7)]


def test_a_batch_of_refused_rows_only(ends: Ends) -> None:
    refused = [ends.refused(number) for number in range(5)]
    assert written(ends, batch(refused)) == [Outcome(refused=[refusal(one, DETAIL) for one in refused])]
    assert (ends.names(), ends.quarantined()) == ([], [])


def test_a_refused_row_has_no_effect_yet(ends: Ends) -> None:
    """It may come back as a reject, or, once the table takes it, as a row."""
    one, two = ends.refused(1), ends.refused(2)
    first, second = written(ends, batch([one, two]), batch(rejected=[reject(1, Reason.REFUSED_BY_DATABASE, "23514")]))
    assert [entry for entry, _ in first.refused] == [one, two]
    assert second == Outcome(quarantined=1)
    ends.accept()
    if isinstance(ends, PostgresEnds):
        ends.sink = postgres_sink(ends.database)
    assert written(ends, batch([two, one])) == [Outcome(loaded=1, duplicates=1)]
    assert ends.names() == [REFUSED]


def test_known_rows_are_not_refused(ends: Ends) -> None:
    """What the ledger knows is a duplicate, however the row looks today."""
    written(ends, batch(rows(1)))
    bad = ends.refused(1)
    if isinstance(ends, PostgresEnds):
        ends.sink = postgres_sink(ends.database)
    assert written(ends, batch([bad, row(2)])) == [Outcome(loaded=1, duplicates=1)]


def test_the_counts_of_an_outcome_add_up_to_the_batch(ends: Ends) -> None:
    bad = ends.refused(3)
    written(ends, batch(rows(1)))
    if isinstance(ends, PostgresEnds):
        ends.sink = postgres_sink(ends.database)
    one = batch([*rows(1, 2, 2), bad], [reject(4), reject(4)])
    [outcome] = written(ends, one)
    assert outcome.loaded + outcome.quarantined + outcome.duplicates + len(outcome.refused) == len(one)
    assert outcome == Outcome(loaded=1, quarantined=1, duplicates=3, refused=[refusal(bad, DETAIL)])


# --- rows that the table keeps out without an error -------------------------------------------------------------------


def test_suppressed_rows_come_back_and_the_others_are_committed(ends: Ends) -> None:
    one, two = ends.suppressed(2), ends.suppressed(5)
    [outcome] = written(ends, batch([row(1), one, *rows(3, 4), two, row(6)], [reject(7)]))
    assert outcome == Outcome(loaded=4, quarantined=1, refused=[suppressed(one), suppressed(two)])
    assert ends.names() == ["name-1", "name-3", "name-4", "name-6"]
    assert ends.quarantined() == [held(7)]


def test_a_batch_of_suppressed_rows_only_counts_no_duplicate(ends: Ends) -> None:
    every = [ends.suppressed(number) for number in range(6)]
    assert written(ends, batch(every)) == [Outcome(refused=[suppressed(one) for one in every])]
    assert (ends.names(), ends.quarantined()) == ([], [])


def test_a_suppressed_row_is_quarantined_once(ends: Ends) -> None:
    one = batch([row(1), ends.suppressed(2)])
    again = batch(rejected=[reject(2, Reason.SUPPRESSED_BY_TABLE)])
    _, second, third = written(ends, one, again, one)
    assert (second, third) == (Outcome(quarantined=1), Outcome(duplicates=2))
    assert ends.quarantined() == [("message-2", "suppressed_by_table", "")]


def test_suppressed_rows_that_are_accepted_are_known_from_then_on(ends: Ends) -> None:
    ends.accepting()
    one = batch([row(1), ends.suppressed(2), ends.suppressed(2), row(3)], [reject(4)])
    first, second = written(ends, one, one)
    assert first == Outcome(loaded=2, quarantined=1, suppressed=1, duplicates=1)
    assert second == Outcome(duplicates=5)
    assert ends.names() == ["name-1", "name-3"]


def test_accepting_does_not_accept_refused_rows(ends: Ends) -> None:
    bad = ends.refused(3)
    ends.accepting()
    [outcome] = written(ends, batch([row(1), ends.suppressed(2), bad]))
    assert outcome == Outcome(loaded=1, suppressed=1, refused=[refusal(bad, DETAIL)])


def test_batches_written_at_once_share_no_message(ends: Ends) -> None:
    """The same fifty messages in twenty batches, all at once: each is loaded by one of them."""
    outcomes: list[Outcome] = []

    async def work(sink: Sink) -> None:
        shuffled = [random.Random(seed).sample(range(50), 50) for seed in range(20)]  # noqa: S311 - an order, no secret
        outcomes.extend(await asyncio.gather(*(sink.write(batch(rows(*numbers))) for numbers in shuffled)))

    given(ends, work)
    assert sum(outcome.loaded for outcome in outcomes) == 50
    assert sum(outcome.duplicates for outcome in outcomes) == 950
    assert sorted(ends.names()) == sorted(f"name-{number}" for number in range(50))


def test_a_reader_sees_all_of_a_batch_or_nothing(ends: Ends) -> None:
    seen: set[tuple[int, int]] = set()

    async def work(sink: Sink) -> None:
        async def write_all() -> None:
            for first in range(0, 4000, 400):
                numbers = range(first, first + 200)
                await sink.write(batch(rows(*numbers), map(reject, range(first + 200, first + 300))))
                await asyncio.sleep(0)

        writing = asyncio.create_task(write_all())
        while not writing.done():
            seen.add(look())
            await asyncio.sleep(0)
        await writing

    def look() -> tuple[int, int]:
        if isinstance(ends, PostgresEnds):
            [found] = ends.database.execute(
                "SELECT (SELECT count(*) FROM events), (SELECT count(*) FROM coatcheck.quarantine)"
            )
            return found[0], found[1]
        return len(ends.names()), len(ends.quarantined())

    given(ends, work)
    assert len(seen) > 1
    assert all(loaded == 2 * quarantined and loaded % 200 == 0 for loaded, quarantined in seen)
