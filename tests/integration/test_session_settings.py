"""Settings of a session are ours, whatever server, database, role, connection string, environment or pooler say."""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psycopg
import pytest
from psycopg import sql
from tests.support.fix_postgres import Database
from tests.support.fix_servers import LoginDatabase
from tests.support.pooler import needs_pgbouncer, pgbouncer
from tests.support.vaults import COLUMNS, Loader, configuration, event, token

from coatcheck import app, desk, erasure, maintenance, rotation, trail
from coatcheck.config import Config
from coatcheck.demo.servers import PostgresServer
from coatcheck.erasure import Why
from coatcheck.errors import ConfigError
from coatcheck.keys.local import create
from coatcheck.sinks.postgres import schema
from coatcheck.sinks.postgres.quarantine import Selection
from coatcheck.sql.connection import connect

TABLE = "Logins"  # with a capital letter: it shows whether names are quoted once
NAME, FAR = "Zoë", "東京"
WHY = Why("DSAR", "INC-1")
PICKED = ("who", "address", "device", "ip")
TOUR: dict[str, dict[str, object]] = {
    **{name: COLUMNS[name] for name in PICKED},
    "tags": {"from": "tags", "type": "jsonb"},
    "at": {"from": "at", "type": "timestamptz"},
}
HOSTILE = {
    "client_encoding": "LATIN1",
    "DateStyle": "SQL, DMY",
    "IntervalStyle": "sql_standard",
    "TimeZone": "Pacific/Chatham",
    "standard_conforming_strings": "off",
    "backslash_quote": "off",
    "quote_all_identifiers": "on",
    "bytea_output": "escape",
    "extra_float_digits": "-15",
    "array_nulls": "off",
    "transform_null_equals": "on",
    "row_security": "off",
    "restrict_nonsystem_relation_kind": "view",
    "default_transaction_isolation": "serializable",
    "default_transaction_deferrable": "on",
    "exit_on_error": "on",
    "synchronous_commit": "off",
    "xmlbinary": "hex",
    "check_function_bodies": "off",
    "escape_string_warning": "off",
    "lc_monetary": "C",
    "default_text_search_config": "pg_catalog.simple",
    "plan_cache_mode": "force_generic_plan",
    "jit": "off",
    "client_min_messages": "debug1",
    "createrole_self_grant": "set, inherit",
    "default_toast_compression": "pglz",
    "enable_partition_pruning": "off",
    "constraint_exclusion": "off",
    "cursor_tuple_fraction": "0",
}
BY_ITSELF = (
    "client_encoding",
    "DateStyle",
    "TimeZone",
    "standard_conforming_strings",
    "quote_all_identifiers",
    "array_nulls",
    "transform_null_equals",
    "restrict_nonsystem_relation_kind",
    "exit_on_error",
    "default_transaction_isolation",
)
"""Those that have done harm, or could: a session that pins only the others must not hide it."""
_numbers = itertools.count()


@pytest.fixture(autouse=True)
def nobody_else_says(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("PG") and name != "PG_BIN"]:
        monkeypatch.delenv(name)


@contextmanager
def encoded(server: PostgresServer, encoding: str) -> Iterator[LoginDatabase]:
    """Make an empty database of an encoding."""
    database = LoginDatabase(server, f"settings_{next(_numbers)}")
    database.mark()
    with psycopg.connect(server.dsn, autocommit=True) as connection:
        connection.execute(
            sql.SQL(
                "CREATE DATABASE {} TEMPLATE template0 ENCODING {} LC_COLLATE 'C' LC_CTYPE 'C' STRATEGY file_copy"
            ).format(sql.Identifier(database.name), sql.Literal(encoding))
        )
    try:
        yield database
    finally:
        database.drop()


@pytest.fixture(params=["UTF8"])
def place(request: pytest.FixtureRequest, postgres_server: PostgresServer) -> Iterator[LoginDatabase]:
    """A database with nothing in it, of the encoding that the test asks for."""
    with encoded(postgres_server, request.param) as database:
        yield database


def of_tour(dsn: str, tmp_path: Path) -> Config:
    """The configuration of the tour: a partitioned table whose name wants quotes."""
    folder = tmp_path / "keys"
    if not folder.exists():
        create(folder, "tenant")
    target = {"dsn": dsn, "table": TABLE, "partition_by": "at", "partition": "month", "keep_partitions": 3}
    return configuration(dsn, folder, TOUR, target=target)


def body(number: int, who: str) -> str:
    """A message: a name, which is masked as a device too, and a document."""
    at = datetime.now(UTC).isoformat()
    return event(number, who=who, device=who, tags={"name": who, "null": None, "back": "\\"}, at=at)


def tour(config: Config, look: Callable[[str], list[tuple[Any, ...]]], names: tuple[str, ...] = (NAME, FAR)) -> None:
    """Do what the commands do, from the first to the last, and look at what has become of it.

    `look` asks the database over a connection of another's. Of `names` the others go to quarantine.
    """
    app.migrate(config)
    migrated = app.migrate(config)
    assert (migrated.applied, migrated.created_table) == ((), False)
    found = schema.inspect(config.target.dsn.get_secret_value(), TABLE, config.plan(), app.partitioning(config))  # type: ignore[union-attr]
    assert [finding for finding in found.findings if finding.level == "error"] == []
    with Loader(config) as loader:
        loader.open()
        counts = loader.load(body(1, NAME), body(2, FAR), body(3, "plain"), "no json", body(4, NAME))
        assert (counts.loaded, counts.rejected) == (2 + len(names), 1 + 2 - len(names))
        assert loader.load(body(5, "plain")).loaded == 3 + len(names)
    stored = {who for (who,) in look(f'SELECT who FROM "{TABLE}"')}
    assert stored == {*names, "plain"}
    assert look(f"SELECT count(DISTINCT device) FROM \"{TABLE}\" WHERE who = '{NAME}'") == [(1,)]
    document = look(f"SELECT tags::text FROM \"{TABLE}\" WHERE who = '{NAME}' LIMIT 1")[0][0]
    assert json.loads(document)["name"] == NAME
    _quarantine(config, look)
    _desk(config)
    _rotation(config)
    _erasure(config, look)
    done = maintenance.maintain(config, WHY)
    assert not [left for left in done.left if "busy" in left.what]
    assert trail.verify(lambda: config, None, [], None).head is not None
    assert app.database_figures(config)


def _quarantine(config: Config, look: Callable[[str], list[tuple[Any, ...]]]) -> None:
    """A row that the database refuses is held, listed, and loaded when it may be."""
    look(f"ALTER TABLE \"{TABLE}\" ADD CONSTRAINT none CHECK (who <> 'refused'); SELECT 1")
    with Loader(config) as loader:
        assert loader.load(body(6, "refused")).rejected == 1
    listed = app.quarantine_entries(config, Selection(), resolved=False, limit=100)
    assert {"not_json", "refused_by_database"} <= {entry.reason for entry in listed}
    assert all(abs((entry.quarantined_at - datetime.now(UTC)).total_seconds()) < 600 for entry in listed)
    with app.quarantine(config) as held:
        assert sum(held.status()[-1].values()) == len(listed)
    look(f'ALTER TABLE "{TABLE}" DROP CONSTRAINT none; SELECT 1')
    refused = tuple(entry.quarantine_id for entry in listed if entry.detail.startswith("23514"))
    assert app.quarantine_retry(config, Selection(ids=refused)).loaded == 1
    broken = tuple(entry.quarantine_id for entry in listed if entry.reason == "not_json")
    assert app.quarantine_discard(config, Selection(ids=broken)) == 1


def _desk(config: Config) -> None:
    desk.set_policy(config, "one_person", "on")
    wanted = token(config, "device", NAME)
    asked = desk.request(config, [wanted], reason="FRAUD", ticket="INC-1")
    shown = desk.reveal(config, asked.request_id, lambda _: None)
    assert [original.text for original in shown] == [NAME]
    assert [listed.items for listed in desk.requests(config, 10) if listed.kind != "retry"] == [1]
    assert desk.items(config, asked.request_id) == [wanted]
    assert wanted in desk.find(config, NAME, domain="device", reason="FRAUD", ticket="INC-1").values()


def _rotation(config: Config) -> None:
    rotated = rotation.rotate(config)
    with Loader(config) as loader:
        assert loader.load(body(7, NAME)).loaded == 1
    rotation.retokenize(config)
    rotation.retire(config, rotated.old)
    rotation.rewrap(config)


def _erasure(config: Config, look: Callable[[str], list[tuple[Any, ...]]]) -> None:
    assert erasure.rows_of(config, "who", NAME) == 3
    erasure.erase_subject(config, "who", NAME, WHY)
    assert look(f"SELECT count(*) FROM \"{TABLE}\" WHERE who = '{NAME}' AND device LIKE 'pt1%%'") == [(0,)]
    erasure.erase_value(config, "device", "plain", WHY)
    assert look(f"SELECT count(*) FROM \"{TABLE}\" WHERE who = 'plain' AND device LIKE 'pt1%%'") == [(0,)]


def looking(database: Database) -> Callable[[str], list[tuple[Any, ...]]]:
    """Ask over a connection that nothing hostile concerns."""

    def look(statement: str) -> list[tuple[Any, ...]]:
        with psycopg.connect(
            database.server.dsn, dbname=database.name, autocommit=True, client_encoding="UTF8"
        ) as connection:
            connection.execute("SET standard_conforming_strings = on; SET quote_all_identifiers = off")
            connection.execute("SET row_security = on; SET restrict_nonsystem_relation_kind = ''")
            rows: list[tuple[Any, ...]] = []
            for part in statement.split("; "):
                cursor = connection.execute(part.encode())
                rows = cursor.fetchall() if cursor.description else []
            return rows

    return look


def say(database: Database, kind: str, name: str, settings: dict[str, str]) -> None:
    with psycopg.connect(database.server.dsn, autocommit=True) as connection:
        for setting, value in settings.items():
            connection.execute(
                sql.SQL("ALTER {} {} SET {} = {}").format(
                    sql.SQL(kind), sql.Identifier(name), sql.Identifier(setting), sql.Literal(value)
                )
            )


def options(settings: dict[str, str]) -> str:
    return " ".join(f"-c {name}={value.replace(' ', chr(92) + ' ')}" for name, value in settings.items())


@contextmanager
def hostile(place: Database, where: str, settings: dict[str, str], patch: pytest.MonkeyPatch) -> Iterator[str]:
    """Have `where` say those of `settings` that the server knows; yield the connection string to use."""
    known = {name.lower() for (name,) in place.execute("SELECT name FROM pg_settings")}
    settings = {name: value for name, value in settings.items() if name.lower() in known}
    if where == "database":
        say(place, "DATABASE", place.name, settings)
        yield place.dsn
    elif where == "role":
        dsn = place.role()
        name = place.roles[-1]
        place.execute(f"ALTER ROLE {name} SUPERUSER")
        say(place, "ROLE", name, settings)
        yield dsn
        place.execute(f"REASSIGN OWNED BY {name} TO postgres; DROP OWNED BY {name}")
    elif where == "dsn":
        encoding = settings.get("client_encoding", "LATIN1")
        server = place.server.dsn.rpartition("/")[0]
        yield f"{server}/{place.name}?client_encoding={encoding}&options={quote(options(settings))}"
    else:
        patch.setenv("PGOPTIONS", options(settings))
        patch.setenv("PGCLIENTENCODING", settings["client_encoding"])
        patch.setenv("PGDATESTYLE", settings["DateStyle"])
        patch.setenv("PGTZ", settings["TimeZone"])
        yield place.dsn


@pytest.mark.parametrize("where", ["database", "role", "dsn", "environment"])
def test_the_tour_under_everything_hostile(
    place: LoginDatabase, tmp_path: Path, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with hostile(place, where, HOSTILE, monkeypatch) as dsn:
        tour(of_tour(dsn, tmp_path), looking(place))


@pytest.mark.parametrize("name", BY_ITSELF)
def test_the_tour_under_one_hostile_setting(
    place: LoginDatabase, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with hostile(place, "database", {name: HOSTILE[name]}, monkeypatch) as dsn:
        tour(of_tour(dsn, tmp_path), looking(place))


@pytest.mark.parametrize("where", ["database", "role"])
def test_a_role_of_replicas(place: LoginDatabase, tmp_path: Path, where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A superuser sets it back; who may not change it is told, and nothing is set up halfway."""
    settings = {"session_replication_role": "replica"}
    with hostile(place, where, settings, monkeypatch) as dsn:
        if where == "role":
            place.execute(f"ALTER ROLE {place.roles[-1]} NOSUPERUSER; GRANT ALL ON SCHEMA public TO {place.roles[-1]}")
            with pytest.raises(ConfigError, match="session_replication_role"):
                app.migrate(of_tour(dsn, tmp_path))
            assert place.value("SELECT to_regnamespace('coatcheck') IS NULL")
        else:
            tour(of_tour(dsn, tmp_path), looking(place))


@pytest.mark.parametrize("place", ["LATIN1", "WIN1252", "SQL_ASCII", "EUC_JP"], indirect=True)
@pytest.mark.parametrize("kind", ["plain", "hostile"])
def test_the_tour_in_another_encoding(
    place: LoginDatabase,
    tmp_path: Path,
    kind: str,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> None:
    """What the encoding holds is stored as what it is, what it does not is held in quarantine (22P05)."""
    encoding = request.node.callspec.params["place"]
    names = (NAME,) if encoding in ("LATIN1", "WIN1252") else (NAME, FAR)
    with hostile(place, "database", HOSTILE if kind == "hostile" else {}, monkeypatch) as dsn:
        tour(of_tour(dsn, tmp_path), looking(place), names)


@pytest.mark.parametrize("place", ["MULE_INTERNAL"], indirect=True)
def test_an_encoding_that_is_none_of_unicode(place: LoginDatabase, tmp_path: Path) -> None:
    config = of_tour(place.dsn, tmp_path)
    for attempt in (lambda: app.migrate(config), lambda: schema.verify(place.dsn, TABLE, config.plan())):
        with pytest.raises(ConfigError) as caught:
            attempt()
        assert "encoding" in caught.value.hint
    bare = psycopg.conninfo.make_conninfo(place.dsn, client_encoding="SQL_ASCII")
    with psycopg.connect(bare) as connection:  # Python knows no such encoding
        assert connection.execute("SELECT to_regnamespace('coatcheck') IS NULL").fetchone() == (True,)


@needs_pgbouncer
@pytest.mark.parametrize("reset", [True, False])
@pytest.mark.parametrize("kind", ["plain", "hostile"])
def test_the_tour_behind_a_pooler(
    place: LoginDatabase,
    tmp_path: Path,
    kind: str,
    reset: bool,  # noqa: FBT001 - a case
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each transaction may run in another session, which begins as hostile as the last; and none of ours stays."""
    with (
        hostile(place, "database", HOSTILE if kind == "hostile" else {}, monkeypatch),
        pgbouncer(place, 2, reset=reset) as dsn,
    ):
        tour(of_tour(dsn, tmp_path), looking(place))
        with psycopg.connect(dsn, autocommit=True) as other:
            seen = {
                other.execute(
                    "SELECT current_setting('quote_all_identifiers'), current_setting('row_security')"
                ).fetchone()
                for _ in range(4)
            }
        assert seen == {("on", "off") if kind == "hostile" else ("off", "on")}


@needs_pgbouncer
def test_what_a_pooler_keeps_for_each_client_is_set_once(place: LoginDatabase) -> None:
    with pgbouncer(place, 1) as dsn, connect(dsn) as connection:
        place.execute("SELECT 1")
        found = connection.execute("SELECT current_setting('TimeZone'), current_setting('client_encoding')").fetchone()
    assert found == ("UTC", "UTF8")
