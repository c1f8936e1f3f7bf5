"""Rows that the table keeps out without an error, by a trigger or a rule: told, never counted as known."""

from __future__ import annotations

import pytest
from tests.support.fix_postgres import (
    EVENTS,
    TABLE,
    Database,
    batch,
    postgres_sink,
    reject,
    row,
    rows,
    write,
)
from tests.support.fix_postgres import suppressed as kept_out

from coatcheck.errors import UnreachableError
from coatcheck.pipeline.message import Outcome, Reason, Reject, Row
from coatcheck.sinks.postgres.quarantine import Quarantine, Selection
from coatcheck.sinks.postgres.schema import migrate

FUNCTION = """
CREATE FUNCTION keep_out() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.number %% 2 = 0 THEN %s RETURN NULL; END IF;
    %s RETURN NEW;
END $$;
"""
BEFORE = "CREATE TRIGGER keep_out BEFORE INSERT ON events FOR EACH ROW EXECUTE FUNCTION keep_out()"
INSTEAD = """
CREATE VIEW seen AS SELECT name, number FROM events;
CREATE TRIGGER keep_out INSTEAD OF INSERT ON seen FOR EACH ROW EXECUTE FUNCTION keep_out()
"""
INTO_EVENTS = "INSERT INTO events VALUES (NEW.name, NEW.number);"


def recorded(database: Database) -> tuple[int, int, int]:
    [found] = database.execute("SELECT sum(loaded), sum(quarantined), sum(duplicates) FROM coatcheck.batch")
    return found[0], found[1], found[2]


@pytest.fixture(params=["trigger", "view", "partition"])
def target(request: pytest.FixtureRequest, empty_database: Database) -> tuple[Database, str]:
    """A table that keeps out every second row."""
    if request.param == "partition":
        empty_database.execute(
            "CREATE TABLE events (name varchar(64), number integer) PARTITION BY RANGE (number);"
            "CREATE TABLE low PARTITION OF events FOR VALUES FROM (0) TO (100000);"
            + FUNCTION % ("", "")
            + BEFORE.replace("ON events", "ON low")
        )
    migrate(empty_database.dsn, TABLE, EVENTS)
    if request.param == "trigger":
        empty_database.execute(FUNCTION % ("", "") + BEFORE)
    if request.param == "view":
        empty_database.execute(FUNCTION % ("", INTO_EVENTS) + INSTEAD)
    return empty_database, "seen" if request.param == "view" else TABLE


def test_what_is_kept_out_comes_back(target: tuple[Database, str]) -> None:
    database, table = target
    every = rows(*range(100))
    [outcome] = write(postgres_sink(database, table=table), batch(every, [reject(200)]))
    assert outcome == Outcome(loaded=50, quarantined=1, refused=[kept_out(one) for one in every[::2]])
    assert database.counts() == (50, 51, 1)
    assert recorded(database) == (50, 1, 0)


def test_what_is_kept_out_can_be_accepted(target: tuple[Database, str]) -> None:
    database, table = target
    sink = postgres_sink(database, table=table, accept_suppressed=True)
    one = batch([*rows(*range(100)), row(7)], [reject(200)])
    assert write(sink, one, one) == [
        Outcome(loaded=50, quarantined=1, suppressed=50, duplicates=1),
        Outcome(duplicates=102),
    ]
    assert database.counts() == (50, 101, 1)
    assert recorded(database) == (50, 1, 103)


def test_a_trigger_that_puts_rows_elsewhere(database: Database) -> None:
    """Six rows in another table, as tools for partitions do it: accepted, and there once."""
    database.execute(
        "CREATE TABLE child () INHERITS (events);"
        "CREATE FUNCTION route() RETURNS trigger LANGUAGE plpgsql AS $$"
        " BEGIN INSERT INTO child VALUES (NEW.name, NEW.number); RETURN NULL; END $$;"
        "CREATE TRIGGER route BEFORE INSERT ON events FOR EACH ROW EXECUTE FUNCTION route()"
    )
    one = batch(rows(*range(6)))
    assert write(postgres_sink(database), one) == [Outcome(refused=[kept_out(row(n)) for n in range(6)])]
    assert database.counts() == (0, 0, 0)
    assert write(postgres_sink(database, accept_suppressed=True), one, one) == [
        Outcome(suppressed=6),
        Outcome(duplicates=6),
    ]
    assert database.count("child") == 6


def test_nothing_that_keeps_rejects_out_is_accepted(database: Database) -> None:
    """A reject that does not reach the quarantine would have vanished."""
    database.execute(
        "CREATE FUNCTION nothing() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$;"
        "CREATE TRIGGER nothing BEFORE INSERT ON coatcheck.quarantine FOR EACH ROW EXECUTE FUNCTION nothing()"
    )
    for accept in (False, True):
        for one in (batch(rejected=[reject(1)]), batch(rejected=[reject(1), reject(2)])):
            with pytest.raises(UnreachableError, match="cannot write to quarantine: a trigger there keeps"):
                write(postgres_sink(database, accept_suppressed=accept), one)
    assert database.counts() == (0, 0, 0)


def test_a_rule_that_replaces_the_insert_and_returns_its_row_is_counted(database: Database) -> None:
    database.execute(
        "CREATE TABLE other (LIKE events);"
        "CREATE RULE elsewhere AS ON INSERT TO events DO INSTEAD"
        " INSERT INTO other VALUES (new.name, new.number) RETURNING name, number"
    )
    one = batch(rows(*range(6)))
    assert write(postgres_sink(database), one, one) == [Outcome(loaded=6), Outcome(duplicates=6)]
    assert database.count("other") == 6


def test_a_rule_that_postgresql_cannot_count_is_named(database: Database) -> None:
    database.execute("CREATE RULE nothing_at_all AS ON INSERT TO events DO INSTEAD NOTHING")
    with pytest.raises(UnreachableError, match="0A000") as caught:
        write(postgres_sink(database), batch(rows(1, 2)))
    assert "rule" in caught.value.hint
    assert database.counts() == (0, 0, 0)


def test_a_trigger_that_changes_a_row_suppresses_nothing(database: Database) -> None:
    database.execute(
        "CREATE FUNCTION change() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.name := 'x'; RETURN NEW; END $$;"
        "CREATE TRIGGER change BEFORE INSERT ON events FOR EACH ROW EXECUTE FUNCTION change()"
    )
    assert write(postgres_sink(database), batch(rows(1, 2))) == [Outcome(loaded=2)]


def test_repeats_in_a_batch_stand_in_its_record(database: Database) -> None:
    write(postgres_sink(database), batch([*rows(1, 2, 1, 1)], [reject(3), reject(3)]), batch(rows(1, 1)))
    assert recorded(database) == (2, 1, 5)


# --- quarantine retry -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suppressed", ["quarantine", "accept"])
def test_a_retry_tells_what_is_kept_out(database: Database, suppressed: str) -> None:
    accept = suppressed == "accept"
    database.execute(FUNCTION % ("", "") + BEFORE)
    write(postgres_sink(database), batch(rejected=[reject(1), reject(2)]))
    found = []
    with Quarantine(database.dsn, f"public.{TABLE}", EVENTS, accept_suppressed=accept) as quarantine:
        for held, number in zip(quarantine.opened(Selection()), (1, 2), strict=True):
            again = quarantine.load(held, batch([Row(held.message, held.key, 0, ("late", number))]))
            if isinstance(again, Reject):
                quarantine.rejected_again(held, again)
            found.append(again)
        quarantine.settle()
    states = database.execute("SELECT state, reason FROM coatcheck.quarantine ORDER BY quarantine_id")
    if accept:
        assert found == ["loaded", "loaded"]
        assert states == [("loaded", "not_json"), ("loaded", "not_json")]
    else:
        assert found == ["loaded", Reject(Reason.SUPPRESSED_BY_TABLE)]
        assert states == [("loaded", "not_json"), ("held", "suppressed_by_table")]
    assert database.count() == 1
