"""What no retry mends stops the worker at once, with a hint; what is said names codes and objects, never values."""

from __future__ import annotations

import asyncio

import psycopg
import pytest
from tests.support.fix_postgres import (
    EVENTS,
    TABLE,
    Database,
    batch,
    column,
    postgres_sink,
    refusal,
    reject,
    row,
    using,
    write,
)

from coatcheck.errors import CoatcheckError, ConfigError, UnreachableError
from coatcheck.pipeline.message import Outcome
from coatcheck.sinks.postgres.quarantine import Quarantine
from coatcheck.sinks.postgres.schema import inspect, migrate, verify

VALUE = "a value that nobody may see"
BATCH = batch([row(1, VALUE, 1_234_567_890), row(2, VALUE, 2)], [reject(3)])

TRIGGER = """
CREATE FUNCTION t() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN %s; RETURN NEW; END $$;
CREATE TRIGGER t BEFORE INSERT ON events FOR EACH ROW EXECUTE FUNCTION t()
"""
BROKEN = {
    "42P01 table": ("DROP TABLE events", "42P01", "migrate"),
    "42P01 ledger": ("DROP TABLE coatcheck.ledger CASCADE", "42P01", "migrate"),
    "42P01 schema": ("DROP SCHEMA coatcheck CASCADE", "42P01", "migrate"),
    "42703 column": ("ALTER TABLE events DROP number", "42703", "check"),
    "42703 own column": ("ALTER TABLE coatcheck.quarantine DROP detail", "42703", "check"),
    "42804 type": ("ALTER TABLE events ALTER number TYPE date USING NULL", "42804", "check"),
    "42883 trigger": (TRIGGER % "PERFORM no_such(NEW.name)", "42883", "migrate"),
    "45000 trigger": (TRIGGER % "RAISE '%', NEW.name USING ERRCODE = '45000'", "45000", "triggers"),
    "U0001 trigger": (
        TRIGGER % "RAISE '%', NEW.name USING ERRCODE = 'U0001', CONSTRAINT = NEW.name, TABLE = NEW.name",
        "U0001 to every row",
        "triggers",
    ),
}


def stopped(caplog: pytest.LogCaptureFixture, error: CoatcheckError, code: str, hint: str) -> None:
    """The error says what to do, and came at the first try."""
    assert code in error.message
    assert hint in error.hint
    assert error.hint
    for text in (str(error), repr(error), error.hint, caplog.text):
        assert VALUE not in text
        assert "1234567890" not in text
    assert caplog.records == []


@pytest.mark.parametrize("case", BROKEN)
def test_a_database_that_does_not_fit(database: Database, case: str, caplog: pytest.LogCaptureFixture) -> None:
    statements, code, hint = BROKEN[case]
    database.execute(statements)
    with pytest.raises(CoatcheckError) as caught:
        write(postgres_sink(database), BATCH)
    assert isinstance(caught.value, ConfigError if code.startswith("42") else UnreachableError)
    stopped(caplog, caught.value, code, hint)
    tries = 3 if "trigger" in case else 1  # each row by itself, if the fault may be a row's
    assert database.log().count("ERROR:") == tries


def test_what_was_mended_works_again(database: Database) -> None:
    """The same sink goes on: nothing of it was spoilt."""
    sink = postgres_sink(database, connections=1)
    database.execute("ALTER TABLE events RENAME TO away")

    async def work() -> Outcome:
        with pytest.raises(ConfigError):
            await sink.write(BATCH)
        database.execute("ALTER TABLE away RENAME TO events")
        return await sink.write(BATCH)

    assert asyncio.run(using(sink, work())) == Outcome(loaded=2, quarantined=1)


GRANTS = (
    "INSERT ON events",
    "USAGE ON SCHEMA coatcheck",
    "INSERT, SELECT ON coatcheck.ledger",
    "INSERT ON coatcheck.data_key",
    "INSERT ON coatcheck.quarantine",
    "INSERT ON coatcheck.batch",
    "SELECT ON coatcheck.migration",
    "INSERT ON coatcheck.vault",
    "INSERT ON coatcheck.alias",
    "SELECT ON coatcheck.token_key",
    "SELECT ON coatcheck.form",
    "SELECT ON coatcheck.erased",
    "SELECT ON coatcheck.pipeline",
    "SELECT ON coatcheck.masked_column",
    "SELECT ON coatcheck.database",
    "EXECUTE ON FUNCTION coatcheck.using_key",
    "EXECUTE ON FUNCTION coatcheck.register_keys",
    "EXECUTE ON FUNCTION coatcheck.register_seal_key",
)
"""All that a loader needs; docs and `check` say so."""


def test_a_loader_with_the_least_privileges_writes(database: Database) -> None:
    dsn = database.role(*GRANTS)
    verify(dsn, TABLE, EVENTS)
    outcomes = write(postgres_sink(dsn), BATCH, BATCH)
    assert outcomes == [Outcome(loaded=2, quarantined=1), Outcome(duplicates=3)]


def test_such_a_loader_bisects(database: Database) -> None:
    database.execute("ALTER TABLE events ADD CHECK (number <> 2)")
    outcomes = write(postgres_sink(database.role(*GRANTS)), BATCH)
    assert outcomes == [Outcome(loaded=1, quarantined=1, refused=[refusal(BATCH.rows[1], "23514 events_number_check")])]


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT FROM events", "SELECT FROM coatcheck.quarantine", "SELECT FROM coatcheck.data_key",
        "SELECT FROM coatcheck.batch", "SELECT FROM coatcheck.vault", "SELECT FROM coatcheck.alias",
        "SELECT FROM coatcheck.audit", "DELETE FROM coatcheck.vault", "UPDATE coatcheck.token_key SET state = 'in use'",
        "SELECT coatcheck.make_epochs('{2030}')", "SELECT coatcheck.audit_append('x', 'y')",
        "UPDATE coatcheck.quarantine SET state = 'held'", "DELETE FROM coatcheck.ledger",
        "TRUNCATE coatcheck.ledger_00", "DELETE FROM events", "SELECT coatcheck.prune(30)",
        "INSERT INTO coatcheck.migration VALUES (9, 'x')",
    ],
)  # fmt: skip
def test_such_a_loader_can_do_no_more(database: Database, statement: str) -> None:
    with (
        psycopg.connect(database.role(*GRANTS), autocommit=True) as connection,
        pytest.raises(psycopg.errors.InsufficientPrivilege),
    ):
        connection.execute(statement.encode())


def test_a_loader_that_may_prune(database: Database) -> None:
    dsn = database.role(*GRANTS, "EXECUTE ON FUNCTION coatcheck.prune")
    with psycopg.connect(dsn, autocommit=True) as connection:
        assert connection.execute("SELECT coatcheck.prune()").fetchall() == [(0,)]


ONLY_AT_THE_START = (
    "migration", "token_key", "form", "pipeline", "masked_column", "database", "register_keys", "register_seal_key",
)  # fmt: skip


@pytest.mark.parametrize("missing", [grant for grant in GRANTS if not grant.endswith(ONLY_AT_THE_START)])
def test_a_privilege_is_missing(database: Database, missing: str, caplog: pytest.LogCaptureFixture) -> None:
    dsn = database.role(*(grant for grant in GRANTS if grant != missing))
    with pytest.raises(ConfigError) as caught:
        write(postgres_sink(dsn), BATCH)
    stopped(caplog, caught.value, "42501", "grant the privilege")
    with pytest.raises(ConfigError):
        verify(dsn, TABLE, EVENTS)


WRONG = {
    "password": ({"password": "wrong"}, "28P01", "password is wrong"),
    "no password": ({"password": ""}, "28P01", "password is wrong"),
    "user": ({"user": "nobody_at_all"}, "28P01", "user name"),
    "database": ({"dbname": "no_such_database"}, "3D000", "create the database"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_connection_that_is_refused(
    database: Database, case: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not waited out as if the server were away: nothing will change by itself."""
    monkeypatch.delenv("PGPASSWORD", raising=False)
    change, code, hint = WRONG[case]
    dsn = psycopg.conninfo.make_conninfo(database.dsn, passfile="/dev/null", **change)
    for attempt in (
        lambda: asyncio.run(postgres_sink(dsn).open()),
        lambda: write(postgres_sink(dsn), BATCH),
        lambda: migrate(dsn, TABLE, EVENTS),
        lambda: inspect(dsn, TABLE, EVENTS),
        lambda: Quarantine(dsn, f"public.{TABLE}", EVENTS),
    ):
        with pytest.raises(UnreachableError) as caught:
            attempt()
        stopped(caplog, caught.value, code, hint)
        assert "wrong" not in caught.value.message


def test_a_role_that_may_not_log_in(database: Database, caplog: pytest.LogCaptureFixture) -> None:
    dsn = database.role()
    database.execute(f"ALTER ROLE {database.roles[-1]} NOLOGIN")
    with pytest.raises(UnreachableError) as caught:
        write(postgres_sink(dsn), BATCH)
    stopped(caplog, caught.value, "28000", "may not connect")


def test_a_role_that_may_not_connect_to_the_database(database: Database, caplog: pytest.LogCaptureFixture) -> None:
    dsn = database.role()
    database.execute(f"REVOKE CONNECT ON DATABASE {database.name} FROM PUBLIC")
    with pytest.raises(UnreachableError) as caught:
        write(postgres_sink(dsn), BATCH)
    stopped(caplog, caught.value, "42501", "grant the privilege")


def test_a_password_that_changes_while_the_worker_runs(database: Database) -> None:
    """The open connection goes on; when it must be opened anew, the worker stops and says why."""
    dsn = database.role(*GRANTS)
    sink = postgres_sink(dsn, connections=1)

    async def work() -> None:
        assert (await sink.write(BATCH)).loaded == 2
        database.execute(f"ALTER ROLE {database.roles[-1]} PASSWORD 'another'")
        assert (await sink.write(BATCH)).duplicates == 3
        database.terminate()
        with pytest.raises(UnreachableError, match="28P01"):
            await sink.write(BATCH)

    asyncio.run(using(sink, work()))


@pytest.mark.parametrize("port", [1, 9])
def test_a_server_that_is_not_there(port: int) -> None:
    dsn = f"postgresql://someone:secret@127.0.0.1:{port}/x"
    with pytest.raises(UnreachableError, match="the database does not answer") as caught:
        verify(dsn, TABLE, EVENTS)
    assert "is PostgreSQL up?" in caught.value.hint
    with pytest.raises(UnreachableError, match="the database does not answer"):
        asyncio.run(postgres_sink(dsn).open())


@pytest.mark.parametrize("dsn", ["secret", "postgresql://x:secret@h:1/d?no_such=1", "password='secret", "a=secret"])
def test_a_connection_string_that_is_none(dsn: str) -> None:
    """The words of psycopg about it hold parts of it, which may be the password."""
    for attempt in (lambda: verify(dsn, TABLE, EVENTS), lambda: postgres_sink(dsn)):
        with pytest.raises(ConfigError, match="the connection string") as caught:
            attempt()
        assert "secret" not in str(caught.value) + caught.value.hint
        assert "dsn" in caught.value.hint


def test_a_table_that_is_none(empty_database: Database) -> None:
    migrate(empty_database.dsn, "other", [column("x", "text")])
    with pytest.raises(ConfigError, match="42P01"):
        write(postgres_sink(empty_database, table="nowhere.events"), BATCH)
