"""`coatcheck maintain` on the real thing: partitions come in time and go when they are old, whoever loads meanwhile."""

from __future__ import annotations

import asyncio
import json
import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import date, timedelta
from functools import partial
from typing import Any

import psycopg
import pytest
from tests.support.fix_postgres import LIMIT, Database, batch, message, postgres_sink, using
from tests.support.fix_servers import LoginDatabase
from tests.support.process import wait_until
from tests.support.vaults import MASKED

from coatcheck import app, custody, trail
from coatcheck.config import Config
from coatcheck.errors import ConfigError, UnreachableError
from coatcheck.maintenance import Maintained, maintain
from coatcheck.pipeline.keying import DAY_S
from coatcheck.pipeline.message import Row
from coatcheck.sinks.postgres import partitions, schema

TABLE = "logins"
TODAY = date(2026, 11, 17)
COLUMNS: dict[str, dict[str, object]] = {
    "name": {"from": "name", "type": "text"},
    "day": {"from": "day", "type": "date"},
    "at": {"from": "at", "type": "timestamptz"},
    "ip": MASKED["ip"],
}
DONE_BEFORE = Maintained(0, 0, (), (), (), 0, ())
"""There was nothing to do."""


class Calendar:
    """What day it is for `maintain`."""

    def __init__(self) -> None:
        self.today = TODAY

    def later(self, days: int) -> date:
        self.today += timedelta(days)
        return self.today


@pytest.fixture(autouse=True)
def calendar(monkeypatch: pytest.MonkeyPatch) -> Calendar:
    calendar = Calendar()
    monkeypatch.setattr(partitions, "today", lambda: calendar.today)
    return calendar


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who waits for a lock gives up soon."""
    monkeypatch.setattr(partitions, "_LOCK_TIMEOUT", "50ms")


def configured(target: Database | str, period: str = "month", *, by: str = "day", **options: object) -> Config:
    columns = options.pop("columns", COLUMNS)
    options = {"table": TABLE} | options
    dsn = target if isinstance(target, str) else target.dsn
    values = {"dsn": dsn, "partition_by": by, "partition": period} | options
    return Config.model_validate({"target": values, "columns": columns}).named("parts")


def bounds(database: Database, table: str = TABLE) -> dict[str, str]:
    """The partitions and their bounds."""
    found = database.execute(
        "SELECT c.oid::regclass::text, pg_get_expr(c.relpartbound, c.oid) FROM pg_inherits JOIN pg_class AS c"
        " ON c.oid = inhrelid WHERE inhparent = %s::regclass ORDER BY 1", table,
    )  # fmt: skip
    return {name: text.removeprefix("FOR VALUES ") for name, text in found}


def insert(database: Database, *days: date | str | None, name: str = "x", table: str = TABLE) -> None:
    for day in days:
        database.execute(f"INSERT INTO {table} (name, day) VALUES (%s, %s)", name, day)


def where(database: Database, table: str = TABLE) -> dict[str, int]:
    """How many rows each partition has."""
    return dict(database.execute(f"SELECT tableoid::regclass::text, count(*) FROM {table} GROUP BY 1 ORDER BY 1"))


def recorded(database: Database) -> list[tuple[str, dict[str, Any]]]:
    """What stands on the trail: event and detail."""
    found = database.execute("SELECT event, detail FROM coatcheck.audit ORDER BY seq")
    return [(event, json.loads(detail)) for event, detail in found]


def told(done: Maintained) -> list[tuple[str, str]]:
    return [(left.what, left.hint) for left in done.left]


def last(table: str) -> str:
    return table.rpartition(".")[2]


def hand_over(database: Database, dsn: str, table: str = TABLE) -> str:
    """Make a login the owner of a table and its partitions; return the login."""
    login = str(psycopg.conninfo.conninfo_to_dict(dsn)["user"])
    database.execute(f"GRANT USAGE, CREATE ON SCHEMA public TO {login}")
    for name in (table, *bounds(database, table)):
        database.execute(f"ALTER TABLE {name} OWNER TO {login}")
    return login


# --- a table's life ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("table", "by", "kind"),
    [
        ("logins", "day", "date"),
        ("logins", "at", "timestamptz"),
        ("App.User_Logins", "When", "timestamptz"),
        ("Order", "timestamp", "date"),
    ],
)
def test_the_life_of_a_table(database: Database, calendar: Calendar, table: str, by: str, kind: str) -> None:
    """Days are days of UTC, wherever the server is and however it writes dates."""
    database.execute(f"ALTER DATABASE {database.name} SET timezone = 'Asia/Tokyo'")
    database.execute(f"ALTER DATABASE {database.name} SET datestyle = 'German'")
    database.execute('CREATE SCHEMA "App"')
    database.close()
    columns = {"name": COLUMNS["name"], by: {"from": "x", "type": kind}, "ip": MASKED["ip"]}
    config = configured(database, "month", by=by, table=table, columns=columns, keep_partitions=1)
    quoted = ".".join(f'"{part}"' for part in table.split("."))
    assert app.migrate(config).created_table

    def put(*days: str) -> None:
        for day in days:
            text = f"{day}+00" if kind == "timestamptz" else day[:10]
            database.execute(f'INSERT INTO {quoted} ("{by}") VALUES (%s)', text)

    def named(ending: str) -> str:
        name = ".".join(f'"{part}"' for part in f"{table}_{ending}".split("."))
        return str(database.value("SELECT %s::regclass::text", name))

    put("2026-10-31 23:59:59", "2026-11-01 00:00:00", "2026-11-30 23:59:59", "2026-12-01 00:00:00", "2027-03-01 00:00")
    database.execute(f'INSERT INTO {quoted} ("{by}") VALUES (NULL)')
    assert where(database, quoted) == {named("202611"): 2, named("202612"): 1, named("other"): 3}
    assert maintain(config) == DONE_BEFORE
    calendar.later(26)  # 13 December
    assert maintain(config) == Maintained(0, 0, (), (f"{last(table)}_202701",), (), 1, ())
    calendar.later(20)  # 2 January
    dropped = f"{table.rpartition('.')[2]}_202611"
    assert maintain(config) == Maintained(0, 0, (), (f"{last(table)}_202702",), (dropped,), 0, ())
    assert where(database, quoted) == {named("202612"): 1, named("other"): 2}
    assert maintain(config) == DONE_BEFORE
    schema_name = database.value("SELECT nspname FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace"
                                 " WHERE c.oid = %s::regclass", named("other"))  # fmt: skip
    assert recorded(database) == [
        ("rows dropped", {"partition": f"{schema_name}.{last(table)}_other", "before": "2026-11-01", "rows": 1}),
        ("rows dropped", {"partition": f"{schema_name}.{dropped}", "before": "2026-12-01"}),
    ]
    assert trail.verify(lambda: config, None, (), None).count == 2


def test_on_each_postgresql(any_bare_database: LoginDatabase, calendar: Calendar) -> None:
    database, config = any_bare_database, configured(any_bare_database, "day", keep_partitions=3)
    app.migrate(config)
    insert(database, "2026-11-13", "2026-11-14", TODAY, "2026-12-02", None)
    assert where(database) == {"logins_20261114": 1, "logins_20261117": 1, "logins_other": 3}
    calendar.later(1)
    done = maintain(config)
    assert done.left == ()
    assert (done.partitions_made, done.partitions_dropped) == (("logins_20261202",), ("logins_20261114",))
    assert where(database) == {"logins_20261117": 1, "logins_20261202": 1, "logins_other": 1}
    assert done.rows_deleted == 1
    calendar.later(1)
    done = maintain(config)
    assert (done.partitions_made, done.partitions_dropped) == (("logins_20261203",), ("logins_20261115",))
    assert [event for event, _ in recorded(database)] == ["rows dropped"] * 3
    assert trail.verify(lambda: config, None, (), None).count == 3


def test_a_table_keeps_everything_unless_it_is_said(database: Database, calendar: Calendar) -> None:
    config = configured(database)
    app.migrate(config)
    insert(database, "2020-01-01", TODAY)
    calendar.later(1000)
    assert maintain(config).partitions_dropped == ()
    assert database.count(TABLE) == 2
    assert recorded(database) == []


def test_without_partitions_of_ours_the_rest_is_done(database: Database) -> None:
    database.execute(
        "INSERT INTO coatcheck.ledger (message_key, slot, loaded_on) VALUES (gen_random_uuid(), 1, current_date - 41)"
    )
    made = configured(database, by="").vault.epoch
    assert made == "quarter"
    done = maintain(configured(database, by=""))
    assert (done.ledger_days, done.partitions_made, done.left) == (1, (), ())
    assert done.epochs_made == database.value(
        "SELECT count(*) FROM pg_inherits WHERE inhparent = 'coatcheck.vault'::regclass"
    ) - 1  # fmt: skip
    assert done.epochs_made in (1, 2)
    assert maintain(configured(database, by="")) == DONE_BEFORE


def test_the_names_of_long_tables_fit(database: Database, calendar: Calendar) -> None:
    table = "t" * 63
    config = configured(database, "day", table=table, keep_partitions=1)
    app.migrate(config)
    calendar.later(2)
    done = maintain(config)
    assert (len(done.partitions_made), len(done.partitions_dropped), done.left) == (2, 2, ())
    assert max(map(len, bounds(database, table))) == 59


def test_a_database_that_looks_from_one_moment(database: Database, calendar: Calendar) -> None:
    """The ledger is pruned, and the trail is written, with new eyes only."""
    config = configured(database, "day", keep_partitions=1)
    app.migrate(config)
    database.execute(f"ALTER DATABASE {database.name} SET default_transaction_isolation = 'serializable'")
    calendar.later(2)
    done = maintain(config)
    assert (len(done.partitions_made), len(done.partitions_dropped), done.left) == (2, 2, ())


# --- what is in the way -----------------------------------------------------------------------------------------------


def test_rows_in_the_way_move_to_the_partition_of_their_time(database: Database, calendar: Calendar) -> None:
    """A producer's clock is ahead: one message must not keep a whole month out of its partition."""
    config = configured(database, "day")
    app.migrate(config)
    insert(database, "2026-12-03", "2026-12-03", None, "2026-12-05")
    calendar.later(3)
    assert maintain(config).partitions_made == ("logins_20261202", "logins_20261203", "logins_20261204")
    assert where(database) == {"logins_20261203": 2, "logins_other": 2}
    insert(database, "2026-12-03")
    assert where(database) == {"logins_20261203": 3, "logins_other": 2}
    assert maintain(config) == DONE_BEFORE
    checks = "SELECT count(*) FROM pg_constraint WHERE contype = 'c' AND conrelid = %s::regclass"
    assert database.value(checks, "logins_20261203") == database.value(checks, "logins")


def test_a_partition_is_the_owners_whoever_makes_it(database: Database, calendar: Calendar) -> None:
    config = configured(database, "day")
    app.migrate(config)
    database.execute(f"ALTER TABLE {TABLE} OWNER TO coatcheck_owner; GRANT CREATE ON SCHEMA public TO coatcheck_owner")
    insert(database, "2026-12-03")
    calendar.later(3)
    assert len(maintain(config).partitions_made) == 3
    owner = "SELECT pg_get_userbyid(relowner) FROM pg_class WHERE relname = %s"
    assert {database.value(owner, f"logins_2026120{day}") for day in (2, 3, 4)} == {"coatcheck_owner"}


def test_many_rows_in_the_way_are_told_and_the_others_made(
    database: Database, calendar: Calendar, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(partitions, "_MOST_MOVED", 1)
    config = configured(database, "day")
    app.migrate(config)
    insert(database, "2026-12-03", "2026-12-03")
    calendar.later(3)
    done = maintain(config)
    assert done.partitions_made == ("logins_20261202", "logins_20261204")
    [(what, hint)] = told(done)
    assert what == "partition logins_20261203 is missing"
    assert hint.startswith("over 1 rows of its time are in the default partition")
    assert where(database) == {"logins_other": 2}
    assert told(maintain(config)) == [(what, hint)]


def test_a_table_of_the_same_name_is_told(database: Database, calendar: Calendar) -> None:
    config = configured(database, "day")
    app.migrate(config)
    database.execute("CREATE TABLE logins_20261202 (note text)")
    calendar.later(2)
    done = maintain(config)
    assert done.partitions_made == ("logins_20261203",)
    assert told(done) == [
        (
            "partition logins_20261202 is missing: PostgreSQL answers 42P07",
            "a table of this name exists and is no partition for this time: rename it",
        )
    ]


@pytest.mark.usefixtures("impatient")
def test_a_table_in_use_is_left_for_the_next_run(database: Database, calendar: Calendar) -> None:
    config = configured(database, "day", keep_partitions=2)
    app.migrate(config)
    insert(database, "2026-11-15", "2026-11-16", "2026-11-14")
    calendar.later(2)
    with database.session() as reader, reader.transaction():
        reader.execute("SELECT FROM logins")
        done = maintain(config)
        assert (done.partitions_made, done.partitions_dropped, done.rows_deleted) == ((), (), 0)
        assert told(done) == [  # and nothing else is tried: loaders wait behind each try
            (
                "partition logins_20261202 is missing: PostgreSQL answers 55P03",
                "the table was in use for longer than 50ms, and nothing more was tried; run it again",
            )
        ]
    with database.session() as reader, reader.transaction():
        reader.execute("SELECT FROM logins_20261115")
        done = maintain(config)
        assert (len(done.partitions_made), done.partitions_dropped) == (2, ())
        assert [what for what, _ in told(done)] == [
            "partition logins_20261115 is to be dropped: PostgreSQL answers 55P03"
        ]
    done = maintain(config)
    assert (done.partitions_dropped, done.rows_deleted) == (("logins_20261115", "logins_20261116"), 1)
    assert maintain(config) == DONE_BEFORE
    assert [detail["partition"] for _, detail in recorded(database)] == [
        "public.logins_20261115", "public.logins_20261116", "public.logins_other",
    ]  # fmt: skip


def test_what_somebody_takes_out_at_this_moment_is_his(
    database: Database, calendar: Calendar, monkeypatch: pytest.MonkeyPatch
) -> None:
    """He detaches a partition, to keep it elsewhere, while `maintain` is about to drop it."""
    monkeypatch.setattr(partitions, "_LOCK_TIMEOUT", f"{LIMIT}s")
    config = configured(database, "day", keep_partitions=1)
    app.migrate(configured(database, "day"))
    insert(database, "2026-11-16")
    calendar.later(1)
    maintain(configured(database, "day"))
    with database.session() as reader, database.session() as archivist, ThreadPoolExecutor(2) as pool:
        with reader.transaction():
            reader.execute("SELECT FROM logins_20261115")
            dropping = pool.submit(maintain, config)
            wait_until(database.waiting, "it has the table, and waits for the partition that is read")
            taking = pool.submit(archivist.execute, "ALTER TABLE logins DETACH PARTITION logins_20261116")
            waits = "SELECT count(*) FROM pg_locks WHERE pid = %s AND NOT granted"
            wait_until(lambda: database.value(waits, archivist.info.backend_pid), "he waits for the table")
        taking.result(LIMIT)
        done = dropping.result(LIMIT)
    assert database.count("logins_20261116") == 1
    what = "partition logins_20261116 is to be dropped: PostgreSQL answers 42P01"
    assert told(done) == [(what, "somebody has taken it out at this moment: it is his")]
    assert "logins_20261115" in done.partitions_dropped
    assert maintain(config) == DONE_BEFORE


def test_what_others_need_stays(database: Database, calendar: Calendar) -> None:
    config = configured(database, "day", keep_partitions=1)
    app.migrate(config)
    database.execute("CREATE VIEW monday AS SELECT name FROM logins_20261116")
    calendar.later(1)
    done = maintain(config)
    assert [what for what, _ in told(done)] == ["partition logins_20261116 is to be dropped: PostgreSQL answers 2BP01"]
    assert "logins_20261116" in bounds(database)
    assert recorded(database) == []


def test_a_connection_that_is_lost_ends_it(database: Database, calendar: Calendar) -> None:
    app.migrate(configured(database, "day"))
    calendar.later(3)
    maintain(configured(database, "day"))
    config = configured(database, "day", keep_partitions=1)
    before = bounds(database)
    database.execute(
        "CREATE FUNCTION gone() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN"
        " PERFORM pg_terminate_backend(pg_backend_pid()); END $$;"
        "CREATE EVENT TRIGGER gone ON sql_drop EXECUTE FUNCTION gone()"
    )
    with pytest.raises(UnreachableError):
        maintain(config)
    assert bounds(database) == before
    assert recorded(database) == []


def test_a_turn_that_does_not_come_is_an_error_of_ours(database: Database) -> None:
    config = configured(database)
    app.migrate(config)
    database.execute(f"ALTER DATABASE {database.name} SET lock_timeout = '50ms'")
    with schema.turn(database.dsn), pytest.raises(UnreachableError, match="PostgreSQL answers 55P03"):
        maintain(config)


# --- partitions of the user's own -------------------------------------------------------------------------------------


def test_partitions_of_other_names_and_bounds_are_respected(database: Database, calendar: Calendar) -> None:
    """Nothing of theirs is overlapped, nor dropped before the last row it may have is too old."""
    database.execute("""
        CREATE TABLE logins (name text, day date, at timestamptz, ip text) PARTITION BY RANGE (at);
        CREATE TABLE "All before" PARTITION OF logins FOR VALUES FROM (MINVALUE) TO ('2026-10-10 00:00+00');
        CREATE TABLE never PARTITION OF logins FOR VALUES FROM ('infinity') TO (MAXVALUE);
        CREATE TABLE until_noon PARTITION OF logins FOR VALUES FROM ('2026-10-10 00:00+00') TO ('2026-11-15 12:00+00');
        CREATE TABLE a_week PARTITION OF logins FOR VALUES FROM ('2026-11-20 00:00+09') TO ('2026-11-27 00:00+09');
        CREATE TABLE later PARTITION OF logins FOR VALUES FROM ('2027-01-01 00:00+00') TO ('12000-01-01 00:00+00')
    """)
    config = configured(database, "day", by="at", keep_partitions=2)
    before = bounds(database)
    done = maintain(config)
    assert (done.partitions_dropped, done.left) == (("All before",), ())
    made = [date(2026, 11, 16) + timedelta(days) for days in range(16)]
    theirs = [date(2026, 11, 19) + timedelta(days) for days in range(8)]
    assert done.partitions_made == tuple(f"logins_{day:%Y%m%d}" for day in made if day not in theirs)
    database.execute("INSERT INTO logins (at) VALUES ('2026-11-15 11:00+00')")
    calendar.later(1)  # two days are kept: the 16th and the 17th, but something of the 15th was until noon
    assert maintain(config).partitions_dropped == ("until_noon",)
    calendar.later(13)
    done = maintain(config)
    assert (len(done.partitions_made), done.left) == (13, ())
    assert "a_week" in done.partitions_dropped
    assert {"never", "later"} <= bounds(database).keys() <= {*before, *(name for name in bounds(database))}


def test_what_ends_within_a_day_is_kept_for_that_day(database: Database, calendar: Calendar) -> None:
    database.execute("""
        CREATE TABLE logins (name text, day date, at timestamptz, ip text) PARTITION BY RANGE (at);
        CREATE TABLE night PARTITION OF logins FOR VALUES FROM ('2026-11-16 00:00+09') TO ('2026-11-17 00:00+09');
        INSERT INTO logins (at) VALUES ('2026-11-16 14:59+00')
    """)
    config = configured(database, "day", by="at", keep_partitions=1)
    assert maintain(config).partitions_dropped == (), "the 16th is kept, and it has 15 hours of it"
    calendar.later(1)
    assert maintain(config).partitions_dropped == ("night",)


@pytest.mark.parametrize(("before", "after"), [("day", "month"), ("month", "day"), ("year", "month"), ("day", "year")])
def test_a_period_that_is_configured_anew(database: Database, calendar: Calendar, before: str, after: str) -> None:
    """The new partitions begin where the old ones end, and no day is left without one."""
    app.migrate(configured(database, before))
    config = configured(database, after)
    for _ in range(3):
        done = maintain(config)
        assert done.left == ()
        days = [calendar.today + timedelta(days) for days in range(-14, 15)]
        insert(database, *days, name=calendar.today.isoformat())
        calendar.later(20)
    assert "logins_other" not in where(database)
    assert database.count(TABLE) == 3 * 29


NO_TABLE_OF_OURS = {
    "not at all": "CREATE TABLE logins (day date, at timestamptz)",
    "by another column": "CREATE TABLE logins (day date, at timestamptz) PARTITION BY RANGE (at)",
    "by a list": "CREATE TABLE logins (day date, at timestamptz) PARTITION BY LIST (day)",
    "by a hash": "CREATE TABLE logins (day date, at timestamptz) PARTITION BY HASH (day)",
    "by two columns": "CREATE TABLE logins (day date, at timestamptz) PARTITION BY RANGE (day, at)",
    "by an expression": "CREATE TABLE logins (day date, at timestamptz) PARTITION BY RANGE ((day + 1))",
    "a view": "CREATE VIEW logins AS SELECT current_date AS day",
    "no table": "SELECT",
}


@pytest.mark.parametrize("statement", NO_TABLE_OF_OURS.values(), ids=NO_TABLE_OF_OURS)
def test_a_table_that_is_partitioned_otherwise(database: Database, statement: str) -> None:
    database.execute(statement)
    config = configured(database)
    with pytest.raises(ConfigError) as caught:
        maintain(config)
    assert caught.value.message == "public.logins is not partitioned by day, as [target] partition_by says"
    assert "let `coatcheck migrate` make a new one" in caught.value.hint
    if statement != NO_TABLE_OF_OURS["no table"]:
        assert (caught.value.message, caught.value.hint) in advice(config)
        app.migrate(config)
        assert (caught.value.message, caught.value.hint) in advice(config), "a table that is there stays as it is"


def advice(config: Config) -> list[tuple[str, str]]:
    found = schema.inspect(
        custody.dsn(config), config.target.table, config.plan(), app.partitioning(config), config.pipeline
    ).findings
    return [(one.what, one.hint) for one in found if one.level == "advice"]


def test_check_tells_what_is_missing(database: Database, calendar: Calendar) -> None:
    config = configured(database, "day")
    app.migrate(config)
    told = "run `coatcheck maintain` every day as the table's owner"
    assert told not in [hint for _, hint in advice(config)]
    calendar.later(2)
    as_loader = configured(database.role("coatcheck_loader"), "day")
    for one in (config, as_loader):
        assert ("partitions are missing: logins_20261202, logins_20261203", told) in advice(one)
    maintain(config)
    assert told not in [hint for _, hint in advice(config)]


# --- who may ----------------------------------------------------------------------------------------------------------


def test_a_loader_takes_nothing_away_and_is_told(database: Database, calendar: Calendar) -> None:
    app.migrate(configured(database, "day", keep_partitions=1))
    insert(database, "2026-11-01", "2026-11-16")
    before = bounds(database)
    calendar.later(1)
    done = maintain(configured(database.role("coatcheck_loader"), "day", keep_partitions=1))
    assert (done.partitions_made, done.partitions_dropped, done.rows_deleted) == ((), (), 0)
    assert told(done) == [
        (
            f"{what}: PostgreSQL answers 42501",
            "run it as the owner of public.logins, who is a member of coatcheck_owner",
        )
        for what in (
            "partition logins_20261202 is missing",
            "partition logins_20261116 is to be dropped",
            "logins_other holds rows of before 2026-11-17",
        )
    ]
    assert (bounds(database), database.count(TABLE), recorded(database)) == (before, 2, [])


def test_nothing_goes_without_a_record(database: Database, calendar: Calendar) -> None:
    """The table's owner may drop its partitions, but who may not write the trail drops nothing."""
    app.migrate(configured(database, "day", keep_partitions=1))
    insert(database, "2026-11-01", "2026-11-16")
    before = bounds(database)
    dsn = database.role("coatcheck_loader")
    hand_over(database, dsn)
    calendar.later(1)
    done = maintain(configured(dsn, "day", keep_partitions=1))
    assert (done.partitions_made, done.partitions_dropped, done.rows_deleted) == (("logins_20261202",), (), 0)
    assert [what for what, _ in told(done)] == [
        "partition logins_20261116 is to be dropped: PostgreSQL answers 42501",
        "logins_other holds rows of before 2026-11-17: PostgreSQL answers 42501",
    ]
    assert bounds(database).keys() == {*before, "logins_20261202"}
    assert (database.count(TABLE), recorded(database)) == (2, [])


def test_the_owner_drops_under_his_name(database: Database, calendar: Calendar) -> None:
    app.migrate(configured(database, "day", keep_partitions=1))
    insert(database, "2026-11-01", "2026-11-16", TODAY)
    dsn = database.role("coatcheck_owner")
    login = hand_over(database, dsn)
    calendar.later(1)
    config = configured(dsn, "day", keep_partitions=1)
    done = maintain(config)
    assert (done.partitions_made, done.partitions_dropped) == (("logins_20261202",), ("logins_20261116",))
    assert (done.rows_deleted, done.left) == (1, ())
    assert where(database) == {"logins_20261117": 1}
    assert {actor for (actor,) in database.execute("SELECT actor FROM coatcheck.audit")} == {login}
    assert trail.verify(lambda: config, None, (), None).count == 2


def test_who_may_nothing_is_told_at_once(database: Database) -> None:
    config = configured(database.role())
    with pytest.raises(ConfigError, match="cannot maintain the database: PostgreSQL answers 42501"):
        maintain(config)


def test_a_login_that_may_not_call_the_upkeep_is_told(database: Database) -> None:
    done = maintain(configured(database.role("coatcheck_auditor"), by=""))
    hint = "run it as a member of coatcheck_owner or coatcheck_loader"
    assert told(done) == [(f"this login may not call coatcheck.{name}", hint) for name in ("prune", "make_epochs")]


def test_who_changes_tokens_is_let_into_new_partitions(database: Database, calendar: Calendar) -> None:
    config = configured(database, "day")
    app.migrate(config)
    calendar.later(1)
    [made] = maintain(config).partitions_made
    for part in (made, "logins_20261117", "logins_other"):
        for role in ("coatcheck_eraser", "coatcheck_rotator"):
            for right, wanted in (("SELECT", True), ("DELETE", False)):
                assert database.value("SELECT has_table_privilege(%s, %s, %s)", role, part, right) == wanted
            for column, wanted in (("ip", True), ("name", False)):
                found = database.value("SELECT has_column_privilege(%s, %s, %s, 'UPDATE')", role, part, column)
                assert found == wanted
        assert not database.value("SELECT has_table_privilege('coatcheck_loader', %s, 'INSERT')", part)


# --- beside others ----------------------------------------------------------------------------------------------------


def test_two_at_once_and_a_migration(database: Database, calendar: Calendar) -> None:
    """They take turns: each partition is made once, dropped once, and nobody finds anything odd."""
    config = configured(database, "day", keep_partitions=5)
    app.migrate(config)
    calendar.later(9)
    start = threading.Barrier(3)

    def at_once(work: Callable[[Config], Any]) -> Any:
        start.wait(LIMIT)
        return work(config)

    with ThreadPoolExecutor(3) as pool:
        first, second, _ = pool.map(at_once, (maintain, maintain, app.migrate))
    assert first.left == second.left == ()
    made, dropped = Counter(first.partitions_made), Counter(first.partitions_dropped)
    assert made + Counter(second.partitions_made) == Counter(f"logins_202612{day:02}" for day in range(2, 11))
    assert dropped + Counter(second.partitions_dropped) == Counter(f"logins_202611{day:02}" for day in range(12, 21))
    assert len(recorded(database)) == 9
    assert trail.verify(lambda: config, None, (), None).count == 9


class Busy:
    """A loader that writes as fast as it can, until it is told to stop. `rows` are the days of its rows, by number."""

    def __init__(self, database: Database, config: Config, calendar: Calendar, place: int) -> None:
        self._sink = postgres_sink(database, config.plan(), table=TABLE, connections=1, prepare=place > 0)
        self._calendar, self._number = calendar, place
        self.rows: dict[int, date] = {}
        self.outcomes: Counter[str] = Counter()
        self.over = threading.Event()

    def run(self) -> None:
        asyncio.run(using(self._sink, self._write()))

    async def _write(self) -> None:
        while not self.over.is_set():
            done = await self._sink.write(batch([self._row() for _ in range(100)]))
            self.outcomes.update(batches=1, loaded=done.loaded, refused=len(done.refused), duplicates=done.duplicates)

    def _row(self) -> Row:
        self._number += 2
        day = self._calendar.today + timedelta(days=self._number // 2 % 18 - 5)
        self.rows[self._number] = day
        key = self._number.to_bytes(16)
        return Row(message(self._number), key, self._number % 64 * DAY_S, (str(self._number), day, None, None))


def test_beside_loaders_at_full_speed(database: Database, calendar: Calendar) -> None:
    """Partitions are made and dropped under their hands: what is to be kept is there, once."""
    config = configured(database, "day", keep_partitions=3)
    app.migrate(config)
    loaders = [Busy(database, config, calendar, place) for place in range(2)]

    def both_go_on(seen: list[int]) -> bool:
        return all(loader.outcomes["batches"] > before for loader, before in zip(loaders, seen, strict=True))

    done = []
    with ThreadPoolExecutor(2) as pool:
        running = [pool.submit(loader.run) for loader in loaders]
        try:
            for _ in range(6):
                seen = [loader.outcomes["batches"] for loader in loaders]
                wait_until(partial(both_go_on, seen), "both loaders go on")
                calendar.later(1)
                done.append(maintain(config))
        finally:
            for loader in loaders:
                loader.over.set()
        for one in running:
            one.result(LIMIT)
    maintain(config)
    rows = loaders[0].rows | loaders[1].rows
    outcomes = loaders[0].outcomes + loaders[1].outcomes
    assert (outcomes["loaded"], outcomes["refused"], outcomes["duplicates"]) == (len(rows), 0, 0)
    kept = [(str(number), day) for number, day in rows.items() if day >= calendar.today - timedelta(days=3)]
    assert sorted(database.execute("SELECT name, day FROM logins")) == sorted(kept)
    assert [(len(one.partitions_made), len(one.partitions_dropped), one.left) for one in done] == [(1, 1, ())] * 6
    assert "deadlock detected" not in database.log()


def test_no_value_is_told_anywhere(database: Database, calendar: Calendar) -> None:
    config = configured(database, "day", keep_partitions=1)
    database.mark()
    app.migrate(config)
    insert(database, "2026-11-01", "2026-11-16", "2026-12-02", None, name="canary")
    calendar.later(1)
    shown: list[object] = [maintain(configured(database.role("coatcheck_loader"), "day", keep_partitions=1))]
    database.execute(
        "CREATE FUNCTION no() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN RAISE EXCEPTION 'no %', OLD.name USING ERRCODE = '23514'; END $$;"
        "CREATE TRIGGER no BEFORE DELETE ON logins FOR EACH ROW EXECUTE FUNCTION no()"
    )
    shown.append(done := maintain(config))
    assert [what.rpartition(" ")[2] for what, _ in told(done)] == ["23514", "23514"]
    database.execute("DROP TRIGGER no ON logins")
    shown += [maintain(config), advice(config)]
    assert "canary" not in str(shown) + str(recorded(database))
    assert "canary" not in database.log().replace("no canary", ""), "but for what the trigger says itself"
