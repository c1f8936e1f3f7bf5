"""An error that may be a row's or the system's: if some rows pass, a row is at fault; if none passes, the system is."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import msgspec
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
    until,
    using,
    write,
)

from coatcheck.errors import CoatcheckError, ConfigError, UnreachableError
from coatcheck.pipeline.message import Outcome, Reason, Reject, Row
from coatcheck.sinks.postgres import evidence, trial
from coatcheck.sinks.postgres.quarantine import Added, Quarantine, Selection
from coatcheck.sql.sqlstate import Verdict, verdict

BAD = "a canary that nobody may see"
TRIGGER = """
CREATE OR REPLACE FUNCTION choose() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF %s THEN RAISE 'no: %%', NEW.name USING ERRCODE = '%s', CONSTRAINT = NEW.name, TABLE = NEW.name; END IF;
    RETURN NEW;
END $$;
CREATE OR REPLACE TRIGGER choosing BEFORE INSERT ON events FOR EACH ROW EXECUTE FUNCTION choose()
"""
ONE = f"NEW.name = '{BAD}'"
POLICY = f"""
ALTER TABLE events ENABLE ROW LEVEL SECURITY;
CREATE POLICY fence ON events FOR INSERT WITH CHECK (name <> '{BAD}')
"""
CODES = [
    "U0001",
    "38000",
    "45000",
    "XX000",
    "XX001",
    "42P01",
    "42501",
    "28000",
    "3D000",
    "0A000",
    "25001",
    "55000",
    "HV000",
]


@pytest.fixture(autouse=True)
def _no_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evidence, "_COMPANY_S", 0.05)


def bad(number: int, receive_count: int = 1) -> Row:
    one = row(number, BAD, number)
    message = msgspec.structs.replace(one.message, receive_count=receive_count)
    return msgspec.structs.replace(one, message=message)


def fenced(database: Database) -> str:
    """Set the policy, and return the connection string of a role that it holds for."""
    dsn = database.role("coatcheck_loader", f"INSERT ON {TABLE}")
    database.execute(POLICY)
    return dsn


def stops(database: Database, work: Callable[[], object], code: str) -> CoatcheckError:
    """The work ends with a hint and leaves nothing behind."""
    before = database.counts()
    with pytest.raises(CoatcheckError, match=code) as caught:
        work()
    assert caught.value.hint
    assert BAD not in str(caught.value) + repr(caught.value) + caught.value.hint
    assert database.counts() == before
    return caught.value


# --- some rows pass ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", range(10))
def test_a_policy_refuses_one_of_ten(database: Database, place: int) -> None:
    one = batch([bad(n) if n == place else row(n) for n in range(10)], [reject(77)])
    [outcome] = write(postgres_sink(fenced(database)), one)
    assert outcome == Outcome(loaded=9, quarantined=1, refused=[refusal(one.rows[place], "42501")])


@pytest.mark.parametrize("code", [*CODES, "P0001", "CC123"])
def test_a_trigger_refuses_one_of_ten(database: Database, code: str) -> None:
    """Whatever the code, and whatever the trigger puts into the fields of its error."""
    database.execute(TRIGGER % (ONE, code))
    [outcome] = write(postgres_sink(database), batch([*rows(*range(9)), bad(9)]))
    assert outcome == Outcome(loaded=9, refused=[refusal(bad(9), code)])


@pytest.mark.parametrize("share", [0.01, 0.3, 0.6])
def test_of_a_thousand_exactly_the_offending_rows_are_refused(database: Database, share: float) -> None:
    database.execute(TRIGGER % (ONE, "U0001"))
    every = [bad(n) if n % 100 < share * 100 else row(n) for n in range(1000)]
    [outcome] = write(postgres_sink(database), batch(every))
    assert outcome.refused == [refusal(one, "U0001") for one in every if one.values[0] == BAD]
    assert outcome.loaded == database.count() == 1000 - len(outcome.refused)


@pytest.mark.parametrize("start", [0, 250, 500])
def test_offending_rows_that_come_together_are_no_systemic_fault(database: Database, start: int) -> None:
    """Half of the batch, more than are enough elsewhere, in a row: those of one tenant, say."""
    database.execute(TRIGGER % (ONE, "U0001"))
    every = [bad(n) if start <= n < start + 500 else row(n) for n in range(1000)]
    [outcome] = write(postgres_sink(database), batch(every))
    assert (outcome.loaded, len(outcome.refused)) == (500, 500)


def test_one_offending_row_costs_few_statements(database: Database) -> None:
    database.execute(TRIGGER % (ONE, "U0001"))
    write(postgres_sink(database), batch([*rows(*range(700)), bad(700), *rows(*range(701, 1000))]))
    assert database.log().count("ERROR:") <= 12  # log2(1000), and the whole


def test_both_kinds_of_faults_in_one_batch(database: Database) -> None:
    database.execute(TRIGGER % (ONE, "U0001") + "; ALTER TABLE events ADD CONSTRAINT small CHECK (number < 100)")
    large = row(4, "large", 100)
    [outcome] = write(postgres_sink(database), batch([bad(1), row(2), bad(3), large, row(5)]))
    assert outcome == Outcome(
        loaded=2, refused=[refusal(bad(1), "U0001"), refusal(bad(3), "U0001"), refusal(large, "23514 small")]
    )


def test_the_name_of_a_constraint_is_told_of_the_table_only(database: Database) -> None:
    """A function can write anything into that field."""
    database.execute(TRIGGER % (ONE, "23514"))
    [outcome] = write(postgres_sink(database), batch([row(1), bad(2)]))
    assert outcome.refused == [refusal(bad(2), "23514")]


# --- no row passes ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [2, 3, 10, 1000])
@pytest.mark.parametrize("code", ["U0001", "42501", "XX000"])
def test_a_trigger_that_refuses_every_row_is_the_systems(database: Database, count: int, code: str) -> None:
    database.execute(TRIGGER % ("true", code))
    one = batch(rows(*range(count)), [reject(2000)])
    error = stops(database, lambda: write(postgres_sink(database), one), code)
    assert "triggers" in error.hint
    assert database.log().count("ERROR:") <= trial.ENOUGH + 1


@pytest.mark.parametrize("count", [4, 10, 300])
def test_exceptions_without_a_code_for_every_row_are_the_systems(database: Database, count: int) -> None:
    database.execute(TRIGGER % ("true", "P0001"))
    stops(database, lambda: write(postgres_sink(database), batch(rows(*range(count)))), "P0001")


def test_a_policy_that_refuses_every_row_is_the_systems(database: Database) -> None:
    dsn = fenced(database)
    every = batch(bad(n) for n in range(40))
    assert "policies" in stops(database, lambda: write(postgres_sink(dsn), every), "42501").hint


SYSTEM = {
    "privilege": (f"REVOKE INSERT ON {TABLE} FROM {{role}}", "42501", 2),
    "privilege of ours": ("REVOKE INSERT ON coatcheck.ledger FROM {role}", "42501", 2),
    "table": (f"DROP TABLE {TABLE}", "42P01", 1),
    "column": (f"ALTER TABLE {TABLE} DROP number", "42703", 1),
    "rule": (f"CREATE RULE none AS ON INSERT TO {TABLE} DO INSTEAD NOTHING", "0A000", 2),
    "rule beside": (f"CREATE RULE also AS ON INSERT TO {TABLE} DO ALSO DELETE FROM {TABLE}", "0A000", 2),
    "rule sometimes": (f"CREATE RULE few AS ON INSERT TO {TABLE} WHERE new.number = 3 DO INSTEAD NOTHING", "0A000", 2),
    "sequence": (
        f"CREATE SEQUENCE s; ALTER TABLE {TABLE} ADD id bigint DEFAULT nextval('s')", "42501", trial.ENOUGH + 1,
    ),
}  # fmt: skip
"""What goes wrong in the middle, its code, and how many statements may be spent on it."""


@pytest.mark.parametrize("case", SYSTEM)
@pytest.mark.parametrize("count", [1, 1000])
def test_a_fault_of_the_system_in_the_middle(database: Database, case: str, count: int) -> None:
    """Rows passed before; that makes nobody blame those that come now."""
    statement, code, most = SYSTEM[case]
    dsn = database.role()
    database.execute(
        f"GRANT USAGE ON SCHEMA coatcheck TO {database.roles[-1]};"
        f"GRANT ALL ON {TABLE}, coatcheck.ledger, coatcheck.quarantine, coatcheck.batch, coatcheck.vault,"
        f" coatcheck.alias, coatcheck.data_key, coatcheck.token_key, coatcheck.erased TO {database.roles[-1]};"
        f"GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA coatcheck TO {database.roles[-1]}"
    )
    sink = postgres_sink(dsn, connections=1)

    async def work() -> CoatcheckError:
        assert (await sink.write(batch(rows(*range(5000, 5010))))).loaded == 10
        database.execute(statement.format(role=database.roles[-1]))
        database.mark()
        with pytest.raises(ConfigError if code.startswith("42") else UnreachableError, match=code) as caught:
            await sink.write(batch(rows(*range(count)), [reject(2000)]))
        return caught.value

    assert asyncio.run(using(sink, work())).hint
    assert database.count("coatcheck.ledger") == 10
    assert database.count("coatcheck.quarantine") == 0
    assert database.log().count("ERROR:") <= most + 1  # the row that passed before, too


# --- no row of this batch passes, and others do -----------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 2, 50])
@pytest.mark.parametrize("way", ["policy", "trigger"])
def test_rows_that_are_refused_after_others_have_passed(database: Database, way: str, count: int) -> None:
    """A row that passed before would still pass, so that the new ones are at fault; it is not inserted again."""
    dsn = fenced(database) if way == "policy" else database.dsn
    code = "42501" if way == "policy" else "U0001"
    if way == "trigger":
        database.execute(TRIGGER % (ONE, code))
    every = [bad(n) for n in range(100, 100 + count)]
    first, second = write(postgres_sink(dsn), batch(rows(1, 2)), batch(every))
    assert (first, second) == (Outcome(loaded=2), Outcome(refused=[refusal(one, code) for one in every]))
    assert database.names() == ["name-1", "name-2"]


def test_a_trigger_that_breaks_in_the_middle(database: Database) -> None:
    """Rows passed before, and would not pass now: nobody is blamed, be it one row or many."""
    sink = postgres_sink(database)

    async def work() -> None:
        assert (await sink.write(batch(rows(1, 2)))).loaded == 2
        database.execute(TRIGGER % ("true", "U0001"))
        for numbers in ([3], range(4, 8), range(100, 400)):
            with pytest.raises(UnreachableError, match="U0001 to every row that was tried"):
                await sink.write(batch(rows(*numbers)))

    asyncio.run(using(sink, work()))
    assert database.counts() == (2, 2, 0)


def test_the_row_that_passed_before_is_stored_already(database: Database) -> None:
    """It can be no witness then; a few are blamed all the same, and after that one has to pass."""
    database.execute(TRIGGER % (ONE, "U0001") + "; CREATE UNIQUE INDEX ON events (number)")
    sink = postgres_sink(database)

    async def work() -> list[int]:
        await sink.write(batch(rows(1)))
        refused = [len((await sink.write(batch([bad(n)]))).refused) for n in (10, 11, 12)]
        with pytest.raises(UnreachableError, match="U0001"):
            await sink.write(batch([bad(13)]))
        await sink.write(batch(rows(2)))
        return [*refused, len((await sink.write(batch([bad(13)]))).refused)]

    assert asyncio.run(using(sink, work())) == [1, 1, 1, 1]
    assert database.counts() == (2, 2, 0)


def test_a_row_alone_waits_for_others_that_pass(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evidence, "_COMPANY_S", 60.0)
    database.execute(TRIGGER % (ONE, "U0001"))
    sink = postgres_sink(database, connections=2)

    async def work() -> Outcome:
        alone = asyncio.create_task(sink.write(batch([bad(1)])))
        await until(lambda: sink._evidence._waiting, "it waits")
        assert (await sink.write(batch(rows(2)))).loaded == 1
        return await alone

    assert asyncio.run(using(sink, work())) == Outcome(refused=[refusal(bad(1), "U0001")])


@pytest.mark.parametrize("count", [1, 2])
def test_nobody_can_tell_whose_fault_a_row_alone_is(database: Database, count: int) -> None:
    database.execute(TRIGGER % (ONE, "U0001"))
    stops(database, lambda: write(postgres_sink(database), batch([bad(1, count)])), "U0001")


@pytest.mark.parametrize("count", [3, 9])
def test_a_row_alone_does_not_stop_the_worker_for_ever(database: Database, count: int) -> None:
    """At its third delivery it is held rather than made a dead letter."""
    database.execute(TRIGGER % (ONE, "U0001"))
    one = bad(1, count)
    assert write(postgres_sink(database), batch([one])) == [Outcome(refused=[refusal(one, "U0001")])]


def test_many_rows_are_not_blamed_because_they_came_often(database: Database) -> None:
    """All messages of a queue come often while the system is at fault."""
    database.execute(TRIGGER % ("true", "U0001"))
    every = batch(bad(n, 5) for n in range(10))
    stops(database, lambda: write(postgres_sink(database), every), "U0001")


def test_few_rows_in_succession_are_blamed_because_they_came_often(database: Database) -> None:
    database.execute(TRIGGER % ("true", "U0001"))
    sink = postgres_sink(database)

    async def work() -> int:
        blamed = [len((await sink.write(batch([bad(n, 3)]))).refused) for n in range(3)]
        with pytest.raises(UnreachableError, match="U0001"):
            await sink.write(batch([bad(3, 3)]))
        return sum(blamed)

    assert asyncio.run(using(sink, work())) == 3


def test_rows_that_the_ledger_knows_are_no_evidence(database: Database) -> None:
    """They were not inserted now: a systemic fault may have come since."""
    write(postgres_sink(database), batch(rows(*range(100))))
    database.execute(TRIGGER % ("true", "U0001"))
    one = batch([*rows(*range(100)), bad(200)])
    with pytest.raises(UnreachableError, match="U0001"):
        write(postgres_sink(database), one)
    assert database.counts() == (100, 100, 0)


# --- time-outs of the server ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", ["57014", "55P03", "25P03", "25P04", "57P05", "40001", "08006", "53100"])
def test_a_timeout_of_the_server_is_waited_out(code: str) -> None:
    assert verdict(code) is Verdict.RETRY


@pytest.mark.usefixtures("quick_retries")
def test_transaction_timeout_halves_a_batch_that_takes_too_long(database: Database) -> None:
    if database.value("SELECT current_setting('server_version_num')::int") < 170000:
        pytest.skip("transaction_timeout came with PostgreSQL 17")
    database.execute(
        "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN PERFORM pg_sleep(0.02); RETURN NEW; END $$;"
        "CREATE TRIGGER slow BEFORE INSERT ON events FOR EACH ROW EXECUTE FUNCTION slow();"
        f"ALTER DATABASE {database.name} SET transaction_timeout = '400ms'"
    )
    [outcome] = write(postgres_sink(database), batch(rows(*range(40))))
    assert outcome == Outcome(loaded=40)
    assert database.counts() == (40, 40, 0)


@pytest.mark.usefixtures("quick_retries")
def test_idle_session_timeout_is_waited_out(database: Database) -> None:
    database.execute(f"ALTER DATABASE {database.name} SET idle_session_timeout = '30ms'")
    sink = postgres_sink(database, connections=1)

    async def work() -> list[Outcome]:
        first = await sink.write(batch(rows(1)))
        await until(lambda: database.connections() == 0, "the server ends the session")
        return [first, await sink.write(batch(rows(2)))]

    assert asyncio.run(using(sink, work())) == [Outcome(loaded=1)] * 2


@pytest.mark.usefixtures("quick_retries")
def test_a_code_that_seems_to_pass_holds_back_its_row_only(database: Database) -> None:
    """A trigger that raises lock_not_available for one row: the others are written meanwhile."""
    database.execute(TRIGGER % (ONE, "55P03"))
    sink = postgres_sink(database, give_up_seconds=3.0)
    with pytest.raises(UnreachableError, match="55P03"):
        write(sink, batch([bad(0), *rows(*range(1, 10))]))
    # what stands before the row in its half waits for it; the other half does not have to
    database.execute("DROP TRIGGER choosing ON events")
    assert write(postgres_sink(database), batch([bad(0), *rows(*range(1, 10))]))[0].refused == []
    assert database.counts() == (10, 10, 0)


# --- quarantine retry -------------------------------------------------------------------------------------------------


def held(database: Database, *names: str) -> None:
    write(postgres_sink(database), batch(rejected=[reject(n) for n, _ in enumerate(names)]))


def retried(dsn: str, *names: str) -> list[Reject | Added]:
    """Retry the held entries in their order, as rows with these names."""
    found = []
    with Quarantine(dsn, f"public.{TABLE}", EVENTS) as quarantine:
        for entry, name in zip(quarantine.opened(Selection()), names, strict=True):
            again = quarantine.load(entry, batch([Row(entry.message, entry.key, 0, (name, 1))]))
            if isinstance(again, Reject):
                quarantine.rejected_again(entry, again)
            found.append(again)
        quarantine.settle()
    return found


def entries(database: Database) -> list[tuple[str, str, str, int]]:
    return [
        (state, reason, detail, attempts)
        for state, reason, detail, attempts in database.execute(
            "SELECT state, reason, detail, attempts FROM coatcheck.quarantine ORDER BY quarantine_id"
        )
    ]


@pytest.mark.parametrize("code", ["U0001", "42501", "XX000", "P0001"])
@pytest.mark.parametrize("names", [(BAD, "good", BAD), ("good", BAD, BAD), (BAD, BAD, "good")])
def test_a_retry_rejects_what_is_refused_while_others_pass(
    database: Database, code: str, names: tuple[str, ...]
) -> None:
    database.execute(TRIGGER % (ONE, code))
    held(database, *names)
    refused = Reject(Reason.REFUSED_BY_DATABASE, code)
    assert retried(database.dsn, *names) == [refused if name == BAD else "loaded" for name in names]
    assert entries(database) == [
        ("held", "refused_by_database", code, 2) if name == BAD else ("loaded", "not_json", "", 1) for name in names
    ]


@pytest.mark.parametrize("count", [1, 3, 60])
def test_a_retry_stops_when_nothing_passes(database: Database, count: int) -> None:
    database.execute(TRIGGER % ("true", "U0001"))
    held(database, *[BAD] * count)
    stops(database, lambda: retried(database.dsn, *[BAD] * count), "U0001 to every row")
    assert entries(database) == [("held", "not_json", "", 1)] * count


def test_a_retry_without_the_privilege_stops(database: Database) -> None:
    dsn = database.role("coatcheck_operator")
    database.execute(f"REVOKE INSERT ON {TABLE} FROM coatcheck_loader, coatcheck_operator")
    held(database, *["good"] * 40)
    stops(database, lambda: retried(dsn, *["good"] * 40), "42501")
    assert entries(database) == [("held", "not_json", "", 1)] * 40
