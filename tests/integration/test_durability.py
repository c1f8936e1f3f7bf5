"""What is acked is on the disk, or somebody is told: asynchronous commits, tables that a crash empties, look-alikes."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator

import psycopg
import pytest
from tests.support.fix_postgres import EVENTS, TABLE, Database, batch, column, postgres, postgres_sink, rows, write
from tests.support.pooler import needs_pgbouncer, pgbouncer

from coatcheck.demo.servers import PostgresServer
from coatcheck.errors import ConfigError, Finding
from coatcheck.pipeline.message import Outcome
from coatcheck.sinks.postgres import durability
from coatcheck.sinks.postgres.schema import inspect, migrate, verify
from coatcheck.sql.connection import connect
from coatcheck.sql.session import login_path

SLOW_WRITER = ("wal_writer_delay=10s", "wal_writer_flush_after=1GB", "checkpoint_timeout=1h", "autovacuum=off")
"""What an asynchronous commit has written reaches the disk ten seconds later, so a crash before that takes it back."""
REMEMBER = """
CREATE TABLE seen (setting text);
CREATE FUNCTION see() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO seen VALUES (current_setting('synchronous_commit'));
    RETURN NULL;
END $$;
CREATE CONSTRAINT TRIGGER see AFTER INSERT ON %s DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION see()
"""
"""Notes the setting at the moment of the commit."""


def errors(found: tuple[Finding, ...]) -> list[str]:
    return [finding.what for finding in found if finding.level == "error"]


def seen(database: Database) -> set[str]:
    return {setting for (setting,) in database.execute("SELECT DISTINCT setting FROM seen")}


@pytest.mark.parametrize("where", ["DATABASE", "ROLE", "PGOPTIONS", "DSN"])
def test_a_batch_is_committed_synchronously(database: Database, where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    database.execute(REMEMBER % TABLE)
    dsn = database.dsn
    if where == "DATABASE":
        database.execute(f"ALTER DATABASE {database.name} SET synchronous_commit = off")
    elif where == "ROLE":
        dsn = database.role("coatcheck_loader", f"ALL ON {TABLE}, seen")
        database.execute(f"ALTER ROLE {database.roles[-1]} SET synchronous_commit = off")
    elif where == "PGOPTIONS":
        monkeypatch.setenv("PGOPTIONS", "-c synchronous_commit=off")
    else:
        dsn = psycopg.conninfo.make_conninfo(dsn, options="-c synchronous_commit=off")
    assert write(postgres_sink(dsn), batch(rows(1, 2))) == [Outcome(loaded=2)]
    assert seen(database) == {"on"}
    (note,) = [finding for finding in inspect(dsn, TABLE, EVENTS).findings if "synchronous_commit" in finding.what]
    assert note.level == "note"
    with connect(dsn) as connection:  # what commands and the desk have
        assert connection.execute("SHOW synchronous_commit").fetchone() == ("on",)


@pytest.mark.parametrize("choice", ["local", "remote_write", "remote_apply"])
def test_another_choice_stays(database: Database, choice: str) -> None:
    """Nobody standing by, these are as good as `on`; and where somebody does, they are for the owner to choose."""
    database.execute(REMEMBER % TABLE)
    database.execute(f"ALTER DATABASE {database.name} SET synchronous_commit = {choice}")
    assert write(postgres_sink(database), batch(rows(1))) == [Outcome(loaded=1)]
    assert seen(database) == {choice}
    with connect(database.dsn) as connection:
        assert connection.execute("SHOW synchronous_commit").fetchone() == (choice,)


def test_it_goes_off_while_a_worker_runs(database: Database) -> None:
    """The next session begins asynchronously; the sink sets it back, and within a session each batch does so itself."""
    database.execute(REMEMBER % TABLE)
    sink = postgres_sink(database, connections=1)

    async def work() -> None:
        assert (await sink.write(batch(rows(1)))).loaded == 1
        database.execute(f"ALTER DATABASE {database.name} SET synchronous_commit = off")
        (connection,) = sink._connections
        await connection.execute("SET synchronous_commit = off")  # as a pooler's session might have it
        assert (await sink.write(batch(rows(2)))).loaded == 1
        cursor = await connection.execute("SHOW synchronous_commit")
        assert await cursor.fetchone() == ("off",)  # it was set for the batch only
        database.terminate()
        assert (await sink.write(batch(rows(3)))).loaded == 1
        await sink.close()

    asyncio.run(work())
    assert seen(database) == {"on"}


@needs_pgbouncer
def test_behind_a_pooler_it_costs_no_round_trip(database: Database) -> None:
    database.execute(REMEMBER % TABLE)
    database.execute(f"ALTER DATABASE {database.name} SET synchronous_commit = off")
    with pgbouncer(database, 2, reset=False) as dsn:
        assert write(postgres_sink(dsn, connections=2), *(batch(rows(n)) for n in range(8))) == [Outcome(loaded=1)] * 8
        with connect(dsn) as connection, login_path(connection):
            connection.execute("INSERT INTO events VALUES ('x', 99)")
        with psycopg.connect(dsn, autocommit=True) as other:
            assert other.execute("SHOW synchronous_commit").fetchone() == ("off",)  # nothing of ours stays
    assert seen(database) == {"on"}
    assert "BEGIN" not in [text for (text,) in database.execute("SELECT query FROM pg_stat_activity")]


@pytest.fixture(scope="module")
def crashing() -> Iterator[PostgresServer]:
    with postgres(SLOW_WRITER) as server:
        yield server


def test_what_was_acked_is_there_after_a_crash(crashing: PostgresServer) -> None:
    database = Database(crashing, "crashed")
    database.mark()
    with psycopg.connect(crashing.dsn, autocommit=True) as connection:
        connection.execute("CREATE DATABASE crashed")
        connection.execute("ALTER DATABASE crashed SET synchronous_commit = off")
    migrate(database.dsn, TABLE, EVENTS)
    database.execute("CREATE TABLE control (n integer); CHECKPOINT")
    assert write(postgres_sink(database), batch(rows(*range(20)))) == [Outcome(loaded=20)]
    database.execute("INSERT INTO control VALUES (1)")  # another's commit, which nothing waits for
    database.close()
    crashing.kill()
    crashing.start()
    assert database.counts() == (20, 20, 0)
    assert database.value("SELECT count(*) FROM control") == 0  # such a crash it was
    database.drop()


UNLOGGED: dict[str, tuple[str, str]] = {
    "target": ("ALTER TABLE events SET UNLOGGED", "public.events"),
    "ledger": ("ALTER TABLE coatcheck.ledger_00 SET UNLOGGED", "coatcheck.ledger_00"),
    "quarantine": ("ALTER TABLE coatcheck.quarantine SET UNLOGGED", "coatcheck.quarantine"),
    "partition": (
        (
            "DROP TABLE events; CREATE TABLE events (name varchar(64), number integer) PARTITION BY LIST (number);"
            "CREATE TABLE rest PARTITION OF events DEFAULT PARTITION BY LIST (name);"
            "CREATE UNLOGGED TABLE deep PARTITION OF rest DEFAULT"
        ),
        "public.deep",
    ),
    "child": ("CREATE UNLOGGED TABLE child () INHERITS (events)", "public.child"),
    "view": (
        "ALTER TABLE events RENAME TO base; ALTER TABLE base SET UNLOGGED; CREATE VIEW events AS SELECT * FROM base",
        "public.base",
    ),
}


@pytest.mark.parametrize("case", UNLOGGED)
def test_a_table_that_a_crash_empties(database: Database, case: str) -> None:
    statements, name = UNLOGGED[case]
    database.execute(statements)
    (found,) = [finding for finding in inspect(database.dsn, TABLE, EVENTS).findings if finding.level == "error"]
    assert found.what.startswith(f"{name} is UNLOGGED")
    assert found.hint == f"ALTER TABLE {name} SET LOGGED"
    with pytest.raises(ConfigError, match="UNLOGGED"):
        verify(database.dsn, TABLE, EVENTS)
    database.execute(f"ALTER TABLE {name} SET LOGGED")
    verify(database.dsn, TABLE, EVENTS)


def test_a_temporary_table(database: Database) -> None:
    """Only its own session sees it by its bare name; a name with the schema leads everybody there."""
    with database.session() as session:
        session.execute("CREATE TEMPORARY TABLE passing (name varchar(64), number integer)")
        found_schema = session.execute("SELECT nspname FROM pg_namespace WHERE oid = pg_my_temp_schema()").fetchone()
        schema = found_schema[0] if found_schema else ""
        found = errors(inspect(database.dsn, f"{schema}.passing", EVENTS).findings)
    assert f"{schema}.passing is a temporary table: it ends with its session" in found


def test_a_foreign_table_is_told(database: Database) -> None:
    database.execute(
        "CREATE FOREIGN DATA WRAPPER w; CREATE SERVER s FOREIGN DATA WRAPPER w;"
        "CREATE FOREIGN TABLE far (name varchar(64), number integer) SERVER s"
    )
    found = inspect(database.dsn, "far", EVENTS).findings
    assert [one.level for one in found if "another server" in one.what] == ["advice"]


@pytest.mark.parametrize("setting", ["fsync", "full_page_writes"])
def test_a_server_that_does_not_wait_for_its_disk(setting: str, caplog: pytest.LogCaptureFixture) -> None:
    with postgres(("fsync=on", f"{setting}=off")) as server:
        migrate(server.dsn, TABLE, EVENTS)
        found = [finding for finding in inspect(server.dsn, TABLE, EVENTS).findings if setting in finding.what]
        with caplog.at_level(logging.WARNING):
            verify(server.dsn, TABLE, EVENTS)
    assert [finding.level for finding in found] == ["advice"]
    assert f"{setting} = off" in caplog.text


def test_standbys_that_commits_do_not_wait_for() -> None:
    with postgres(("wal_sender_timeout=1s",)) as server:
        migrate(server.dsn, TABLE, EVENTS)
        assert standbys(server) == []
        replica = psycopg.pq.PGconn.connect(psycopg.conninfo.make_conninfo(server.dsn, replication="true").encode())
        assert standbys(server) == [
            "synchronous_standby_names is empty, and there are standbys: a fail-over to one may lose acked messages"
        ]
        replica.finish()


def test_a_standby_that_commits_of_this_session_do_not_wait_for() -> None:
    """By an option: a setting of the running server would hold up every other commit."""
    options = ("synchronous_standby_names=nobody", "synchronous_commit=local")
    with postgres(options) as server:
        migrate(server.dsn, TABLE, EVENTS)
        assert standbys(server) == [
            "synchronous_commit = local: commits do not wait for the synchronous standby, and a fail-over may lose them"
        ]


def standbys(server: PostgresServer) -> list[str]:
    return [one.what for one in inspect(server.dsn, TABLE, EVENTS).findings if "standb" in one.what]


VERSIONS = {
    "PostgreSQL 16.4 (Debian 16.4-1) on x86_64-pc-linux-gnu, compiled by gcc": [],
    "PostgreSQL 15.4 on aarch64-unknown-linux-gnu, compiled by aarch64-unknown-linux-gnu-gcc (GCC) 9.5.0, 64-bit": [],
    "CockroachDB CCL v24.1.0 (x86_64-pc-linux-gnu, built 2024/05/15)": [("CockroachDB", "refused")],
    "PostgreSQL 11.2-YB-2.20.1.3-b0 on x86_64-pc-linux-gnu": [("YugabyteDB", "not tried")],
    "PostgreSQL 8.0.2 on i686-pc-linux-gnu, compiled by GCC gcc, Redshift 1.0.77433": [("Amazon Redshift", "refused")],
    "PostgreSQL 12.12 (Greenplum Database 7.1.0 build) on x86_64": [("Greenplum", "not tried")],
    "PostgreSQL 9.5 on x86_64-unknown-linux-gnu (Materialize v0.100)": [("Materialize", "refused")],
    "PostgreSQL 13.14.0-RisingWave-2.0.1 (abc)": [("RisingWave", "refused")],
    "PostgreSQL 16.3 compatible CedarDB v2025-01-10": [("CedarDB", "not tried")],
    "PostgreSQL 12.3, compiled by Visual C++ build 1914, 64-bit, QuestDB": [("QuestDB", "refused")],
    "something else": [("a server that does not call itself PostgreSQL", "not tried")],
}


@pytest.mark.parametrize("version", VERSIONS)
def test_look_alikes_by_version(version: str) -> None:
    assert [(one.name, one.standing) for one in durability.look_alikes(version, [])] == VERSIONS[version]


def test_look_alikes_by_catalogue(empty_database: Database) -> None:
    """Nothing is made on a server that is refused; the start and `check` say the same."""
    empty_database.execute("CREATE SCHEMA sys; CREATE TABLE sys.iam_pg_role_mappings ()")
    attempts: list[Callable[[], object]] = [
        lambda: migrate(empty_database.dsn, TABLE, EVENTS),
        lambda: inspect(empty_database.dsn, TABLE, EVENTS),
        lambda: verify(empty_database.dsn, TABLE, [column("name", "text")]),
    ]
    for attempt in attempts:
        with pytest.raises(ConfigError, match="Aurora DSQL"):
            attempt()
    assert empty_database.value("SELECT to_regnamespace('coatcheck') IS NULL")
