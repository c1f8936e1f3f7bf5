"""`migrate` and `check`: made once however often and by how many, and every difference reported at once."""

from __future__ import annotations

import asyncio
import json
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import psycopg
import pytest
from tests.support.fix_postgres import (
    EVENTS,
    MAY_READ,
    TABLE,
    Database,
    batch,
    column,
    postgres_sink,
    reject,
    row,
    rows,
    using,
    write,
)

from coatcheck.config import Config
from coatcheck.errors import ConfigError, UnreachableError
from coatcheck.pipeline.columns import Kind
from coatcheck.pipeline.message import Outcome
from coatcheck.sinks.postgres import schema
from coatcheck.sinks.postgres.schema import Migrated, inspect, migrate, verify
from coatcheck.sinks.postgres.target_catalog import table_columns
from coatcheck.sinks.postgres.target_types import holds
from coatcheck.sql import migrations, newest

EXERCISE = """
CREATE TABLE IF NOT EXISTS user_logins(
    user_id varchar(128), device_type varchar(32), masked_ip varchar(256), masked_device_id varchar(256),
    locale varchar(32), app_version integer, create_date date)
"""
NAMES = tuple(name for _, name, _ in migrations())


SHAPE = """
SELECT c.oid::int, relfilenode::int, attname, format_type(atttypid, atttypmod), attnotnull, atthasdef, relchecks
FROM pg_class AS c JOIN pg_attribute ON attrelid = c.oid WHERE c.oid = 'user_logins'::regclass ORDER BY attnum
"""
"""Everything about the exercise's table but who may do what with it."""


def logins() -> tuple[Any, ...]:
    return Config().plan()


def whats(database: Database | str, table: str = TABLE, columns: Any = EVENTS) -> list[str]:
    """Return what `inspect` finds."""
    dsn = database if isinstance(database, str) else database.dsn
    findings = [finding for finding in inspect(dsn, table, columns).findings if finding.level == "error"]
    assert all(finding.component == "database" and finding.hint for finding in findings)
    return [finding.what for finding in findings]


# --- migrate ----------------------------------------------------------------------------------------------------------


def test_an_empty_database(empty_database: Database) -> None:
    done = migrate(empty_database.dsn, TABLE, EVENTS)
    assert (done.applied, done.created_table) == (NAMES, True)
    state = inspect(empty_database.dsn, TABLE, EVENTS)
    assert (state.version, [finding.what for finding in state.findings]) == (newest(), [MAY_READ])
    assert state.server.startswith("PostgreSQL ")
    verify(empty_database.dsn, TABLE, EVENTS)
    assert write(postgres_sink(empty_database), batch(rows(1), [reject(2)])) == [Outcome(loaded=1, quarantined=1)]


def test_a_second_time_changes_nothing(database: Database) -> None:
    write(postgres_sink(database), batch(rows(1), [reject(2)]))
    before = database.fingerprint()
    assert migrate(database.dsn, TABLE, EVENTS) == Migrated()
    assert database.fingerprint() == before
    assert database.counts() == (1, 2, 1)


@pytest.mark.parametrize("isolation", ["read committed", "serializable"])
def test_several_at_once(empty_database: Database, isolation: str) -> None:
    empty_database.execute(f"ALTER DATABASE {empty_database.name} SET default_transaction_isolation = '{isolation}'")
    barrier = threading.Barrier(4)

    def one(_: int) -> Migrated:
        barrier.wait()
        return migrate(empty_database.dsn, TABLE, EVENTS)

    with ThreadPoolExecutor(4) as pool:
        results = sorted(pool.map(one, range(4)), key=lambda done: done.applied)
    assert [(done.applied, done.created_table) for done in results] == [((), False)] * 3 + [(NAMES, True)]
    assert [(done.roles.refused, done.roles.busy) for done in results] == [((), ())] * 4
    granted = [statement for done in results for statement in done.roles.granted]
    assert len(granted) == len(set(granted))
    assert migrate(empty_database.dsn, TABLE, EVENTS) == Migrated()
    assert empty_database.count("coatcheck.migration") == len(NAMES)


def test_while_a_worker_writes(database: Database) -> None:
    sink = postgres_sink(database)

    def five_times() -> list[Migrated]:
        return [migrate(database.dsn, TABLE, EVENTS) for _ in range(5)]

    async def work() -> int:
        migrating = asyncio.ensure_future(asyncio.to_thread(five_times))
        written = 0
        while not migrating.done():
            assert (await sink.write(batch(rows(*range(written, written + 50))))).loaded == 50
            written += 50
        assert await migrating == [Migrated()] * 5
        return written

    assert asyncio.run(using(sink, work())) == database.count() > 0


def test_a_table_of_the_users_is_left_as_it_is(empty_database: Database) -> None:
    """The exercise's own table, with a row in it."""
    empty_database.execute(EXERCISE)
    empty_database.execute("INSERT INTO user_logins (user_id) VALUES ('theirs')")
    before = empty_database.execute(SHAPE)
    done = migrate(empty_database.dsn, "user_logins", logins())
    assert (done.applied, done.created_table) == (NAMES, False)
    assert whats(empty_database, "user_logins", logins()) == []
    sink = postgres_sink(empty_database, logins(), table="user_logins")
    values = ("user", "ios", "pt1_ip_k1_" + "0" * 40, "pt1_device_k1_" + "1" * 40, None, 2_003_000, date(2026, 1, 2))
    assert write(sink, batch([row(1, *values)])) == [Outcome(loaded=1)]
    assert empty_database.execute(SHAPE) == before
    assert empty_database.execute("SELECT * FROM user_logins ORDER BY user_id")[1] == values


def test_the_table_that_is_made_has_the_exercises_columns(empty_database: Database) -> None:
    empty_database.execute("CREATE SCHEMA theirs; SET search_path = theirs; " + EXERCISE)
    migrate(empty_database.dsn, "user_logins", logins())
    shape = (
        "SELECT attname, format_type(atttypid, atttypmod), attnotnull FROM pg_attribute"
        " WHERE attrelid = '{}.user_logins'::regclass AND attnum > 0 ORDER BY attnum"
    )
    assert empty_database.execute(shape.format("public")) == empty_database.execute(shape.format("theirs"))


def test_every_kind_of_column_is_made_as_it_is_checked(empty_database: Database) -> None:
    columns = [column(f"c_{kind}", "varchar(7)" if kind is Kind.VARCHAR else str(kind)) for kind in Kind]
    migrate(empty_database.dsn, "kinds", columns)
    assert whats(empty_database, "kinds", columns) == []


def test_a_newer_schema_is_refused(database: Database) -> None:
    database.execute("INSERT INTO coatcheck.migration (version, name) VALUES (9999, '9999_future.sql')")
    before = database.fingerprint()
    with pytest.raises(ConfigError, match="the schema of the database is at 9999") as caught:
        migrate(database.dsn, TABLE, EVENTS)
    assert "newer coatcheck" in caught.value.hint
    assert database.fingerprint() == before
    assert whats(database) == [caught.value.message]
    with pytest.raises(ConfigError, match="9999"):
        verify(database.dsn, TABLE, EVENTS)


@pytest.mark.parametrize(("served", "fits"), [(0, True), (None, False), (1, False)])
def test_a_newer_schema_says_whom_it_serves(database: Database, served: int | None, *, fits: bool) -> None:
    """`served` is how much further than this program one must know the schema (None: the migration says nothing)."""
    oldest = None if served is None else newest() + served
    for version in (9998, 9999):
        database.execute("INSERT INTO coatcheck.migration (version, name) VALUES (%s, 'later')", version)
    database.execute("UPDATE coatcheck.migration SET serves = %s WHERE version = 9998", oldest)
    database.execute("UPDATE coatcheck.migration SET serves = %s WHERE version = 9999", newest())
    (found,) = [one for one in inspect(database.dsn, TABLE, EVENTS).findings if "9999" in one.what]
    assert found.level == ("advice" if fits else "error")
    with nullcontext() if fits else pytest.raises(ConfigError, match="9999"):
        verify(database.dsn, TABLE, EVENTS)
    with pytest.raises(ConfigError, match="9999"):
        migrate(database.dsn, TABLE, EVENTS)


def test_a_migration_does_not_make_loaders_wait_behind_it(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    later = (9001, "9001_one.sql", "ALTER TABLE coatcheck.batch ADD COLUMN one int")
    monkeypatch.setattr(schema, "migrations", lambda: [*migrations(), later])
    with database.session() as reader, reader.transaction():
        reader.execute("SELECT FROM coatcheck.batch")
        with pytest.raises(UnreachableError, match="55P03") as caught:
            migrate(database.dsn, TABLE, EVENTS)
        assert "run it again" in caught.value.hint
    assert migrate(database.dsn, TABLE, EVENTS).applied == ("9001_one.sql",)


def test_a_migration_tells_whom_it_serves(empty_database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    later = (9001, "9001_one.sql", "-- serves: 0005\nCREATE TABLE coatcheck.one (a int)")
    monkeypatch.setattr(schema, "migrations", lambda: [*migrations(), later])
    migrate(empty_database.dsn, TABLE, EVENTS)
    assert empty_database.value("SELECT serves FROM coatcheck.migration WHERE version = 9001") == 5


def test_an_older_schema_is_told(database: Database) -> None:
    database.execute("DELETE FROM coatcheck.migration")
    assert whats(database) == [f"the schema is at 0000, this version needs {newest():04}"]


def test_a_migration_that_fails_leaves_nothing(empty_database: Database) -> None:
    empty_database.execute("CREATE SCHEMA coatcheck; CREATE TABLE coatcheck.quarantine (theirs text)")
    with pytest.raises(ConfigError, match="42P07"):
        migrate(empty_database.dsn, TABLE, EVENTS)
    assert empty_database.execute(
        "SELECT relname FROM pg_class WHERE relnamespace = 'coatcheck'::regnamespace AND relkind = 'r'"
    ) == [("quarantine",)]


def test_migrations_apply_one_after_another(empty_database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """A later release brings more of them: only those are applied, in their order; one that fails takes all back."""
    migrate(empty_database.dsn, TABLE, EVENTS)
    more = [
        *migrations(),
        (9001, "9001_one.sql", "CREATE TABLE coatcheck.one (a int)"),
        (9002, "9002_two.sql", "ALTER TABLE coatcheck.one ADD b int; INSERT INTO coatcheck.one VALUES (1, 2)"),
    ]
    monkeypatch.setattr(schema, "newest", lambda: 9002)
    monkeypatch.setattr(schema, "migrations", lambda: [*more[:-1], (9002, "9002_two.sql", "SELECT 1 / 0")])
    with pytest.raises(UnreachableError, match="22012"):
        migrate(empty_database.dsn, TABLE, EVENTS)
    assert inspect(empty_database.dsn, TABLE, EVENTS).version == migrations()[-1][0]
    monkeypatch.setattr(schema, "migrations", lambda: more)
    assert migrate(empty_database.dsn, TABLE, EVENTS).applied == ("9001_one.sql", "9002_two.sql")
    assert empty_database.execute("SELECT * FROM coatcheck.one") == [(1, 2)]


def test_an_owner_who_is_no_superuser(empty_database: Database) -> None:
    """As in every managed PostgreSQL."""
    dsn = empty_database.role(f"CREATE ON DATABASE {empty_database.name}", "CREATE ON SCHEMA public")
    done = migrate(dsn, TABLE, EVENTS)
    assert (done.applied, done.created_table) == (NAMES, True)
    verify(dsn, TABLE, EVENTS)
    assert write(postgres_sink(dsn), batch(rows(1), [reject(2)])) == [Outcome(loaded=1, quarantined=1)]
    again = migrate(dsn, TABLE, EVENTS)
    assert (again.applied, again.roles.granted, again.roles.refused) == ((), (), done.roles.refused)


def test_a_role_that_may_create_nothing(empty_database: Database) -> None:
    with pytest.raises(ConfigError, match="42501") as caught:
        migrate(empty_database.role(), TABLE, EVENTS)
    assert "as the owner" in caught.value.hint
    assert whats(empty_database) == ["the schema coatcheck is missing", "the target table public.events is missing"]


# --- inspect and verify -----------------------------------------------------------------------------------------------


def test_nothing_is_there(empty_database: Database) -> None:
    state = inspect(empty_database.dsn, TABLE, EVENTS)
    assert state.version is None
    assert [finding.what for finding in state.findings] == [
        "the schema coatcheck is missing", "the target table public.events is missing",
    ]  # fmt: skip
    assert all("coatcheck migrate" in finding.hint for finding in state.findings)


LEAST = {
    "USAGE ON SCHEMA coatcheck": ["USAGE on SCHEMA coatcheck"],
    "INSERT ON events": ["INSERT on public.events"],
    "INSERT, SELECT ON coatcheck.ledger": ["INSERT on coatcheck.ledger", "SELECT on coatcheck.ledger"],
    "INSERT ON coatcheck.data_key": ["INSERT on coatcheck.data_key"],
    "INSERT ON coatcheck.quarantine": ["INSERT on coatcheck.quarantine"],
    "INSERT ON coatcheck.batch": ["INSERT on coatcheck.batch"],
    "SELECT ON coatcheck.migration": ["SELECT on coatcheck.migration"],
    "INSERT ON coatcheck.vault": ["INSERT on coatcheck.vault"],
    "INSERT ON coatcheck.alias": ["INSERT on coatcheck.alias"],
    "SELECT ON coatcheck.token_key": ["SELECT on coatcheck.token_key"],
    "SELECT ON coatcheck.form": ["SELECT on coatcheck.form"],
    "SELECT ON coatcheck.erased": ["SELECT on coatcheck.erased"],
    "SELECT ON coatcheck.pipeline": ["SELECT on coatcheck.pipeline"],
    "SELECT ON coatcheck.masked_column": ["SELECT on coatcheck.masked_column"],
    "SELECT ON coatcheck.database": ["SELECT on coatcheck.database"],
    "EXECUTE ON FUNCTION coatcheck.using_key": ["EXECUTE on FUNCTION coatcheck.using_key(text)"],
    "EXECUTE ON FUNCTION coatcheck.register_keys": [
        "EXECUTE on FUNCTION coatcheck.register_keys(text[],text[],text[],text[])"
    ],
    "EXECUTE ON FUNCTION coatcheck.register_seal_key": ["EXECUTE on FUNCTION coatcheck.register_seal_key(text)"],
}


def lacks(*grants: str) -> set[str]:
    return {f"this user lacks the privilege {each}" for grant in grants for each in LEAST[grant]}


@pytest.mark.parametrize("missing", LEAST)
def test_one_privilege_is_missing(database: Database, missing: str) -> None:
    dsn = database.role(*(grant for grant in LEAST if grant != missing))
    assert set(whats(dsn)) == lacks(missing)
    hints = {finding.hint for finding in inspect(dsn, TABLE, EVENTS).findings if finding.level == "error"}
    assert hints == {f"GRANT {each.replace(' on ', ' ON ')} TO ..." for each in LEAST[missing]}


def test_what_is_not_needed_but_wise_is_advice(database: Database) -> None:
    advice = {finding.what: finding.hint for finding in inspect(database.role(*LEAST), TABLE, EVENTS).findings}
    assert advice == {
        f"this user may not call coatcheck.{name}: {what}": (
            f"GRANT EXECUTE ON FUNCTION coatcheck.{name} TO ..., or run `coatcheck migrate` now and then"
        )
        for name, what in (("prune", "the ledger grows"), ("make_epochs", "the vault's epochs share a partition"))
    }


def test_all_privileges_are_missing(database: Database) -> None:
    assert set(whats(database.role())) == lacks(*LEAST)


def test_a_table_in_a_schema_that_is_closed(database: Database) -> None:
    database.execute('CREATE SCHEMA "Theirs"; ALTER TABLE events SET SCHEMA "Theirs"')
    dsn = database.role(*(grant for grant in LEAST if not grant.endswith("events")))
    assert 'this database\'s pipeline "default" loads public.events, not Theirs.events' in whats(dsn, "Theirs.events")
    migrate(database.dsn, "Theirs.events", EVENTS)  # the table has moved: the pipeline goes with it
    assert whats(dsn, "Theirs.events") == [
        'this user lacks the privilege USAGE on SCHEMA "Theirs"',
        'this user lacks the privilege INSERT on "Theirs".events',
    ]
    database.execute(f'GRANT USAGE ON SCHEMA "Theirs" TO {database.roles[-1]}')
    database.execute(f'GRANT INSERT ON "Theirs".events TO {database.roles[-1]}')
    assert whats(dsn, "Theirs.events") == []
    assert write(postgres_sink(dsn, table="Theirs.events"), batch(rows(1))) == [Outcome(loaded=1)]


def test_every_difference_is_reported_at_once(empty_database: Database) -> None:
    migrate(empty_database.dsn, "other", EVENTS)
    empty_database.execute(EXERCISE)
    empty_database.execute(
        "ALTER TABLE user_logins DROP locale, ALTER masked_ip TYPE varchar(68), ALTER app_version TYPE text,"
        " ADD tenant text NOT NULL, ADD seen timestamptz NOT NULL DEFAULT now(),"
        " ADD id bigint GENERATED ALWAYS AS IDENTITY, ADD up text NOT NULL GENERATED ALWAYS AS (upper(user_id)) STORED;"
        "DELETE FROM coatcheck.migration"
    )
    dsn = empty_database.role(
        "USAGE ON SCHEMA coatcheck", "SELECT ON coatcheck.migration", "INSERT ON coatcheck.ledger"
    )
    found = whats(dsn, "user_logins", logins())
    assert found[0] == f"the schema is at 0000, this version needs {newest():04}"
    assert set(found[1:]) == {
        "public.user_logins has no column locale",
        "public.user_logins.masked_ip is character varying(68), [columns] says varchar(256)",
        "public.user_logins.app_version is text, [columns] says integer",
        "public.user_logins.tenant is NOT NULL without a default, and [columns] does not fill it",
        *(f"this user lacks the privilege {what}" for what in (
            "INSERT on public.user_logins", "SELECT on coatcheck.ledger", "INSERT on coatcheck.data_key",
            "INSERT on coatcheck.quarantine", "INSERT on coatcheck.batch", "INSERT on coatcheck.vault",
            "INSERT on coatcheck.alias", "SELECT on coatcheck.token_key",
            "SELECT on coatcheck.form", "SELECT on coatcheck.erased", "SELECT on coatcheck.pipeline",
            "SELECT on coatcheck.masked_column", "SELECT on coatcheck.database",
            "EXECUTE on FUNCTION coatcheck.register_seal_key(text)",
            "EXECUTE on FUNCTION coatcheck.using_key(text)",
            "EXECUTE on FUNCTION coatcheck.register_keys(text[],text[],text[],text[])",
        )),
    }  # fmt: skip
    with pytest.raises(ConfigError) as caught:
        verify(dsn, "user_logins", logins())
    assert caught.value.message == f"{found[0]} (and {len(found) - 1} more: `coatcheck check`)"
    assert "migrate" in caught.value.hint


def test_one_difference_is_named_alone(database: Database) -> None:
    database.execute("ALTER TABLE events DROP number")
    with pytest.raises(ConfigError) as caught:
        verify(database.dsn, TABLE, EVENTS)
    assert caught.value.message == "public.events has no column number"
    assert "ALTER TABLE public.events ADD COLUMN number integer" in caught.value.hint


ACTUAL = (
    "varchar(9)", "varchar(10)", "varchar(11)", "varchar", "text", "char(10)", "smallint", "integer", "bigint",
    "numeric", "numeric(5)", "numeric(40,20)", "real", "double precision", "boolean", "date", "timestamptz",
    "timestamptz(0)",
    "timestamp", "timestamp(3)", "json", "jsonb", "uuid", "bytea", "inet", "varchar(10)[]", "varchar[]", "text[]",
    "integer[]", "bit varying(10)", "interval", "time(3)", "name", "xml",
)  # fmt: skip
EXTREMES: dict[str, list[Any]] = {
    "varchar(10)": ["", "é" * 10, " trailing "],
    "text": ["", "é" * 1000, " "],
    "integer": [-(2**31), 0, 2**31 - 1],
    "bigint": [-(2**63), 0, 2**63 - 1],
    "numeric": ["1E+500", "-1E-500", "0.10"],
    "boolean": [True, False],
    "date": [date.min, date.max],
    "timestamptz": [datetime.min.replace(tzinfo=UTC), datetime(2024, 1, 1, 1, 1, 1, 999_999, UTC)],
    "jsonb": ['{"a": [1, null]}', '"x"', "null"],
}


def test_a_column_that_passes_takes_every_value(database: Database) -> None:
    """No type that `check` lets pass refuses or changes a value at the end of the configured type's range."""
    for number, actual in enumerate(ACTUAL):
        database.execute(f"CREATE TABLE actual_{number} (value {actual})")
    passed = []
    with psycopg.connect(database.dsn, autocommit=True, options="-c TimeZone=UTC") as reader:
        for number, actual in enumerate(ACTUAL):
            ((_, found, _),) = table_columns(reader, f"actual_{number}")
            for wanted, values in EXTREMES.items():
                columns = [column("value", wanted)]
                if not holds(found, columns[0]):
                    continue
                passed.append((actual, wanted))
                sink = postgres_sink(database, columns, table=f"actual_{number}", worker=wanted)
                database.execute(f"TRUNCATE actual_{number}; DELETE FROM coatcheck.ledger")
                assert write(sink, batch(row(n, value) for n, value in enumerate(values))) == [
                    Outcome(loaded=len(values))
                ], (actual, wanted)
                stored = [value for (value,) in reader.execute(f"SELECT value FROM actual_{number}".encode())]
                assert stored == [as_read(wanted, value) for value in values], (actual, wanted)
    assert set(passed) == {
        ("varchar(10)", "varchar(10)"), ("varchar(11)", "varchar(10)"), ("varchar", "varchar(10)"),
        ("text", "varchar(10)"), ("varchar", "text"), ("text", "text"), ("integer", "integer"), ("bigint", "integer"),
        ("numeric", "integer"), ("numeric(40,20)", "integer"), ("numeric(40,20)", "bigint"),
        ("bigint", "bigint"), ("numeric", "bigint"), ("numeric", "numeric"),
        ("boolean", "boolean"), ("date", "date"), ("timestamptz", "timestamptz"), ("jsonb", "jsonb"),
    }  # fmt: skip


def as_read(wanted: str, value: Any) -> Any:
    if wanted == "jsonb":
        return json.loads(value)
    return Decimal(value) if wanted == "numeric" else value
