"""Each role is enough for its job, and `migrate` makes them, hands over and grants what it may, and tells the rest."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
import pytest
from tests.support.fix_postgres import LIMIT, MAY_READ
from tests.support.fix_servers import Alone, LoginDatabase
from tests.support.fix_versions import fresh, template
from tests.support.process import wait_until
from tests.support.vaults import (
    COLUMNS,
    TABLE,
    Loader,
    configuration,
    event,
    load,
    messages,
    originals,
    prefixes,
    torn,
)

from coatcheck import app, custody, rotation
from coatcheck.config import Config
from coatcheck.demo.servers import PostgresServer
from coatcheck.errors import ConfigError
from coatcheck.keys import Sealer
from coatcheck.keys.local import create
from coatcheck.pipeline.message import Batch, Reason, Reject, Row
from coatcheck.sinks.postgres import quarantine as quarantine_module
from coatcheck.sinks.postgres import roles, schema
from coatcheck.sinks.postgres import sink as sink_module
from coatcheck.sinks.postgres.quarantine import Quarantine, Selection
from coatcheck.sinks.postgres.roles import PREFIX, ROLES, Roles
from coatcheck.sinks.postgres.schema import Migrated
from coatcheck.sql import migrations, query
from coatcheck.sql import register as pipelines

NAMES = ("device", "ip", "net", "phone")
VAULTED = {name: COLUMNS[name] for name in ("who", "address", "place", "phone_plain", *NAMES)}
ALL_ROLES = tuple(PREFIX + role for role in ROLES)
NEW_IN_THE_BATCH = {
    "(SELECT erasures FROM coatcheck.erased)": "0",
    "(pipeline, ": "(",
    "%(pipeline)s, ": "",
}
"""What write_batch.sql says that schema 0002 does not know, and what it said instead."""
CREATE_ROLES = tuple(f"CREATE ROLE {name} NOLOGIN" for name in ALL_ROLES)


@pytest.fixture
def keyring(tmp_path: Path) -> Path:
    folder = tmp_path / "keys"
    create(folder, "tenant")
    return folder


def partitioned(database: LoginDatabase) -> None:
    """Have a superuser migrate, with a target table of two partitions."""
    fields = ", ".join(f"{name} text" for name in VAULTED)
    database.execute(
        f"CREATE TABLE {TABLE} ({fields}) PARTITION BY HASH (who);"
        f"CREATE TABLE half PARTITION OF {TABLE} FOR VALUES WITH (MODULUS 2, REMAINDER 0);"
        f"CREATE SCHEMA aside;"
        f"CREATE TABLE aside.half PARTITION OF {TABLE} FOR VALUES WITH (MODULUS 2, REMAINDER 1)"
    )
    app.migrate(configuration(database, Path("no-keys"), VAULTED))


@pytest.fixture
def database(any_server: PostgresServer) -> Iterator[LoginDatabase]:
    """A database of one's own on each server, migrated, with a partitioned target table."""
    with fresh(any_server, template(any_server, "roles", partitioned)) as new:
        yield new


@pytest.fixture
def config(database: LoginDatabase, keyring: Path) -> Config:
    """The configuration of the superuser."""
    return configuration(database, keyring, VAULTED)


def member(database: LoginDatabase, role: str, keyring: Path) -> Config:
    """Return the configuration of a new login that is in one role of coatcheck's."""
    return configuration(database.role(PREFIX + role), keyring, VAULTED)


def advice(config: Config) -> list[str]:
    """Return what `check` says of the database; nothing of it is an error."""
    findings = schema.inspect(custody.dsn(config), config.target.table, config.plan()).findings
    assert [finding.what for finding in findings if finding.level != "advice"] == []
    assert all(finding.hint for finding in findings)
    return [finding.what for finding in findings]


def masked(config: Config, body: str) -> Batch:
    """Return a batch of the row that a body becomes, with what the vault keeps of it."""
    keys = custody.loader_keys(config)
    sealer = Sealer(keys)
    row = app.road(config, keys, sealer).travel(*messages([body]))
    assert isinstance(row, Row)
    batch = Batch([row])
    app.vault_store(config, keys, sealer, None).keep(batch)
    batch.data_keys = [sealer.data_key(dek_id) for dek_id in {entry.sealed.dek_id for entry in batch.vault}]
    return batch


# --- each role does its job -------------------------------------------------------------------------------------------


def test_loader_rotator_and_analyst(database: LoginDatabase, config: Config, keyring: Path) -> None:
    """Two rotations, by two people, while a loader goes on; then the first one leaves."""
    tables = (TABLE, f"{TABLE}_current")
    assert app.migrate(config).roles == Roles()
    mine, theirs = (member(database, "rotator", keyring) for _ in range(2))
    loading = member(database, "loader", keyring)
    lacks = f"{TABLE} takes raw values in masked columns"
    assert [what for what in advice(loading) if lacks not in what] == []
    with Loader(loading) as loader:
        loader.open()
        assert loader.load(*map(event, range(20)), "no json").loaded == 20
        rotation.rotate(mine)
        assert loader.load(*map(event, range(10, 30))).loaded == 40
    with Loader(loading) as loader:
        loader.open()
        loader.load(*map(event, range(20, 40)))
    with psycopg.connect(database.role("coatcheck_analyst"), autocommit=True) as analyst:
        for table in tables:
            assert analyst.execute(f"SELECT count(*), count(device) FROM {table}".encode()).fetchone() == (60, 60)
        assert torn(database, names=NAMES) == []
        assert rotation.retokenize(mine).left == {}
        rotation.retire(mine, "k1")
        rotation.rotate(theirs)
        load(loading, *map(event, range(30, 50)))
        assert rotation.retokenize(theirs).left == {}
        rotation.retire(theirs, "k2")
        old = custody.rotate_seal(theirs).old_id
        assert rotation.rewrap(theirs) > 0
        rotation.retire_seal(theirs, old)
        database.execute(f"DROP ROLE {database.roles[0]}")
        del database.roles[0]
        for table in tables:
            assert prefixes(database, table, NAMES) == {name: {"k3"} for name in NAMES}
            assert analyst.execute(f"SELECT count(*) FROM {table}".encode()).fetchone() == (80,)
    assert len(originals(database, keyring)) == 100
    assert app.migrate(config).roles == Roles()


def test_operator(database: LoginDatabase, config: Config, keyring: Path) -> None:
    """Looks at the state of things, lists, tries again, discards."""
    load(config, *map(event, range(3)), "no json", "nor this", "nor that")
    operator = member(database, "operator", keyring)
    assert app.quarantine_entries(operator, Selection(), resolved=True, limit=9)[0].message_id
    with Quarantine(custody.dsn(operator), TABLE, operator.plan(), kid="k1") as held:
        loaded, _, newest, _, reasons = held.status()
        assert (loaded, sum(reasons.values())) == (3, 3)
        assert newest is not None
        connection = held._connection
        opened = connection.execute("SELECT * FROM coatcheck.retry_open(NULL, NULL)").fetchone()
        assert opened is not None
        assert opened[1] == 3
        connection.execute("SELECT coatcheck.reveal_settle(%s)", [opened[0]])
        rows = connection.execute("SELECT * FROM coatcheck.retry_fetch(%s, 0, 100)", [opened[0]]).fetchall()
        held._request = opened[0]
        first, second, _ = map(quarantine_module._held, rows)
        assert held.load(first, masked(operator, event(7))) == "loaded"
        held.rejected_again(second, Reject(Reason.NOT_JSON))
    assert load(operator, event(8), "no json").loaded == 1
    with psycopg.connect(custody.dsn(operator), autocommit=True) as connection:
        discarded = connection.execute("SELECT coatcheck.quarantine_discard(NULL, NULL)").fetchone()
    assert discarded == (3,)
    states = dict(database.execute("SELECT state, count(*) FROM coatcheck.quarantine GROUP BY 1"))
    assert states == {"loaded": 1, "discarded": 3}
    events = database.execute("SELECT event, actor FROM coatcheck.audit ORDER BY seq")
    login = database.roles[-1]
    assert events == [("quarantine retry opened", login), ("quarantine discarded", login)]


def test_auditor_and_owner(database: LoginDatabase, config: Config) -> None:
    """The one reads the trail and every request, the other sets the policy."""
    load(config, event(1))
    asking = database.role("coatcheck_revealer")
    [(token,)] = database.execute("SELECT min(token) FROM coatcheck.vault")
    with psycopg.connect(asking, autocommit=True) as connection:
        asked = connection.execute("SELECT * FROM coatcheck.reveal_request(%s, 'LEGAL', 'CASE-1')", [[token]])
        assert asked.fetchone() == (1, None, 1)
    with psycopg.connect(database.role("coatcheck_owner"), autocommit=True) as connection:
        assert connection.execute("SELECT coatcheck.set_policy('review_hours', '5')").fetchone() == (None,)
    with psycopg.connect(database.role("coatcheck_auditor"), autocommit=True) as connection:
        trail = connection.execute("SELECT event FROM coatcheck.audit ORDER BY seq").fetchall()
        assert trail == [("reveal requested",), ("policy changed",)]
        assert connection.execute("SELECT items FROM coatcheck.reveal_list()").fetchall() == [(1,)]
        assert connection.execute("SELECT coatcheck.reveal_items(1)").fetchall() == [(token,)]
        assert connection.execute("SELECT review_hours FROM coatcheck.policy").fetchone() == (5,)


# --- migrate ----------------------------------------------------------------------------------------------------------


def test_a_second_time_changes_nothing(any_database: LoginDatabase) -> None:
    config = Config.model_validate({"target": {"dsn": any_database.dsn}})
    rights = "SELECT array_agg((oid, relacl, xmin::text) ORDER BY oid) FROM pg_class WHERE NOT relisshared"
    before = any_database.fingerprint(), any_database.execute(rights)
    assert app.migrate(config) == Migrated()
    assert (any_database.fingerprint(), any_database.execute(rights)) == before


def owned(database: LoginDatabase, *powers: str) -> str:
    """Give the database to a new login that is no superuser; return its connection string."""
    dsn = database.role()
    database.execute(f"ALTER DATABASE {database.name} OWNER TO {database.roles[-1]}")
    for power in powers:
        database.execute(f"ALTER ROLE {database.roles[-1]} {power}")
    return dsn


def owners(database: LoginDatabase) -> set[str]:
    found = database.execute(
        "SELECT relowner::regrole::text FROM pg_class WHERE relnamespace = 'coatcheck'::regnamespace"
        " UNION SELECT proowner::regrole::text FROM pg_proc WHERE pronamespace = 'coatcheck'::regnamespace"
        " UNION SELECT nspowner::regrole::text FROM pg_namespace WHERE nspname = 'coatcheck'"
    )
    return {name for (name,) in found}


def test_an_owner_who_may_create_roles(roleless: tuple[LoginDatabase, ...], keyring: Path) -> None:
    """As in every managed PostgreSQL: it makes them all, and can go on afterwards."""
    database, _ = roleless
    config = configuration(owned(database, "CREATEROLE"), keyring, VAULTED)
    done = app.migrate(config).roles
    assert (done.created, done.refused, done.busy) == (ALL_ROLES, (), ())
    assert owners(database) == {"coatcheck_owner"}
    assert app.migrate(config) == Migrated()
    assert advice(config) == [MAY_READ]
    load(config, event(1))
    loading = member(database, "loader", keyring)
    assert load(loading, event(1), event(2)).loaded == 2
    assert advice(loading) == []


def test_an_owner_who_may_not(roleless: tuple[LoginDatabase, ...], keyring: Path) -> None:
    """Rows are loaded all the same. Then an administrator migrates, and the loader of the owner goes on."""
    database, _ = roleless
    config = configuration(owned(database), keyring, VAULTED)
    for _ in range(2):
        assert app.migrate(config).roles == Roles(refused=CREATE_ROLES)
    assert advice(config) == [f"roles are missing: {', '.join(ALL_ROLES)}"]
    with Loader(config) as loader:
        loader.open()
        loader.load(event(1))
        by_hand = ("CREATE ROLE coatcheck_owner", "CREATE ROLE coatcheck_loader")
        database.execute("; ".join(by_hand))
        some = app.migrate(config).roles
        assert some.refused == tuple(s for s in CREATE_ROLES if "_owner" not in s and "_loader" not in s)
        assert "GRANT INSERT ON coatcheck.vault TO coatcheck_loader" in some.granted
        assert load(member(database, "loader", keyring), event(2)).loaded == 1
        done = app.migrate(configuration(database, keyring, VAULTED)).roles
        assert (done.created, done.refused, done.busy) == (ALL_ROLES[2:], (), ())
        assert f"GRANT coatcheck_owner TO {database.roles[0]}" in done.granted
        assert loader.load(event(3)).loaded == 2
        loader.open()
    assert owners(database) == {"coatcheck_owner"}
    assert app.migrate(config) == Migrated()
    assert database.count(TABLE) == 3


def test_roles_there_but_nothing_to_do_with_this_owner(bare_database: LoginDatabase, keyring: Path) -> None:
    """Another database of the server made them: the owner is told who has to give him what."""
    config = configuration(owned(bare_database), keyring, VAULTED)
    done = app.migrate(config).roles
    assert done.refused == (f"GRANT coatcheck_owner TO {bare_database.roles[0]}",)
    assert owners(bare_database) == {bare_database.roles[0]}
    assert load(member(bare_database, "loader", keyring), event(1)).loaded == 1
    bare_database.execute(done.refused[0])
    assert app.migrate(config).roles.refused == ()
    assert owners(bare_database) == {"coatcheck_owner"}
    assert load(member(bare_database, "loader", keyring), event(2)).loaded == 1


def test_an_owner_who_would_lose_what_he_owns_keeps_it(bare_database: LoginDatabase, keyring: Path) -> None:
    """A login that inherits nothing has no use of being in the role of the owner: nothing is handed over."""
    mine = configuration(owned(bare_database), keyring, VAULTED)
    app.migrate(mine)
    name = bare_database.roles[0]
    bare_database.execute(f"ALTER ROLE {name} NOINHERIT")
    for _ in range(2):
        assert app.migrate(configuration(bare_database, keyring, VAULTED)).roles == Roles(
            refused=(f"GRANT coatcheck_owner TO {name}",)
        )
        assert owners(bare_database) == {name}
    assert load(mine, event(1)).loaded == 1


def test_two_databases_at_once(roleless: tuple[LoginDatabase, ...], keyring: Path) -> None:
    """They meet at the roles, which both make and grant."""
    configs = [configuration(database, keyring, VAULTED) for database in roleless]
    barrier = threading.Barrier(4)

    def one(config: Config) -> Roles:
        barrier.wait(LIMIT)
        return app.migrate(config).roles

    with ThreadPoolExecutor(4) as pool:
        done = list(pool.map(one, configs * 2))
    assert sorted(name for each in done for name in each.created) == sorted(ALL_ROLES)
    assert [(each.refused, each.busy) for each in done] == [((), ())] * 4
    for config, database in zip(configs, roleless, strict=True):
        assert app.migrate(config) == Migrated()
        assert advice(config)[0] == MAY_READ
        assert load(member(database, "loader", keyring), event(1)).loaded == 1


# --- migrate, from what was there before ------------------------------------------------------------------------------


def as_before(text: str) -> str:
    for new, old in NEW_IN_THE_BATCH.items():
        text = text.replace(new, old)
    return text


def test_an_upgrade_while_a_loader_of_the_release_before_writes(
    bare_database: LoginDatabase, keyring: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It runs as the owner, who is no superuser, as it always did; an administrator upgrades. No batch fails."""
    mine = configuration(owned(bare_database), keyring, VAULTED)
    with monkeypatch.context() as before:
        before.setattr(schema, "migrations", lambda: migrations()[:2])
        before.setattr(schema, "newest", lambda: 2)
        before.setattr(roles, "install", lambda *_: Roles())
        before.setattr(pipelines, "put", lambda *_: None)
        before.setattr(schema, "where", lambda _connection, _pipeline, table: f"public.{table}")
        app.migrate(mine)
    monkeypatch.setattr(sink_module, "query", lambda name: as_before(query(name)))
    monkeypatch.setattr(app, "registered", lambda *_: app.Registered(TABLE, None))
    ready, stop, written = threading.Event(), threading.Event(), 0

    def loading() -> int:
        with Loader(mine) as loader:
            while not stop.is_set():
                counts = loader.load(*map(event, range(40)), "no json")
                ready.set()
            return counts.loaded

    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(loading)
        try:
            assert ready.wait(LIMIT)
            done = app.migrate(configuration(bare_database, keyring, VAULTED))
            seen = bare_database.count(TABLE)
            wait_until(lambda: running.done() or bare_database.count(TABLE) > seen, "the loader goes on")
        finally:
            stop.set()
        written = running.result(LIMIT)
    assert done.applied == tuple(name for _, name, _ in migrations()[2:])
    assert (done.roles.refused, done.roles.busy) == ((), ())
    assert owners(bare_database) == {"coatcheck_owner"}
    assert bare_database.count(TABLE) == written > 0
    assert bare_database.count("coatcheck.ledger") == written // 40 * 41
    assert len(originals(bare_database, keyring)) == 80
    assert "deadlock detected" not in bare_database.log()
    monkeypatch.undo()
    assert load(member(bare_database, "loader", keyring), event(1)).loaded == 1


def test_a_table_in_use_is_left_for_the_next_run(
    bare_database: LoginDatabase, keyring: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody reads the ledger for hours (pg_dump): no loader may queue behind a change of its owner."""
    monkeypatch.setattr(roles, "LOCK_TIMEOUT", "10ms")
    config = configuration(bare_database, keyring, VAULTED)
    with monkeypatch.context() as before:
        before.setattr(roles, "install", lambda *_: Roles())
        app.migrate(config)
    with bare_database.session() as session, session.transaction():
        session.execute("SELECT FROM coatcheck.ledger_07")
        busy = app.migrate(config).roles.busy
        assert busy == ("ALTER TABLE coatcheck.ledger_07 OWNER TO coatcheck_owner",)
        with Loader(member(bare_database, "loader", keyring)) as loader:
            loader.open()
            assert loader.load(event(1)).loaded == 1
        assert bare_database.value("SELECT coatcheck.prune()") == 0
        assert app.migrate(config).roles == Roles(busy=busy)
    done = app.migrate(config).roles
    assert done.granted[0] == busy[0]
    assert owners(bare_database) == {"coatcheck_owner"}
    assert app.migrate(config) == Migrated()


# --- migrate, of tables elsewhere and of others -----------------------------------------------------------------------


def test_a_table_in_another_schema(bare_database: LoginDatabase, keyring: Path) -> None:
    bare_database.execute('CREATE SCHEMA "Facts"')
    config = configuration(bare_database, keyring, VAULTED, table=f"Facts.{TABLE}")
    assert app.migrate(config).created_table
    loading = configuration(bare_database.role("coatcheck_loader"), keyring, VAULTED, table=f"Facts.{TABLE}")
    rotating = configuration(bare_database.role("coatcheck_rotator"), keyring, VAULTED, table=f"Facts.{TABLE}")
    assert load(loading, event(1)).loaded == 1
    assert rotation.rotate(rotating).views == (f"Facts.{TABLE}_current",)
    assert rotation.retokenize(rotating).rows == 1
    with psycopg.connect(bare_database.role("coatcheck_analyst"), autocommit=True) as analyst:
        for name in (TABLE, f"{TABLE}_current"):
            assert analyst.execute(f'SELECT count(*) FROM "Facts".{name}'.encode()).fetchone() == (1,)
    assert app.migrate(config) == Migrated()


def test_a_table_that_numbers_its_rows(bare_database: LoginDatabase, keyring: Path) -> None:
    """By a serial column, whose sequence whoever inserts has to be allowed to use."""
    fields = ", ".join(f"{name} text" for name in VAULTED)
    bare_database.execute(f"CREATE TABLE {TABLE} (id bigserial, {fields})")
    app.migrate(configuration(bare_database, keyring, VAULTED))
    loading = member(bare_database, "loader", keyring)
    assert load(loading, event(1), event(2)).loaded == 2
    assert bare_database.execute(f"SELECT id FROM {TABLE}") == [(1,), (2,)]
    bare_database.execute(f"REVOKE USAGE ON SEQUENCE {TABLE}_id_seq FROM coatcheck_loader")
    with pytest.raises(ConfigError, match=r"lacks the privilege USAGE on SEQUENCE public\.logins_id_seq") as caught:
        schema.verify(custody.dsn(loading), TABLE, loading.plan())
    assert caught.value.hint == "GRANT USAGE ON SEQUENCE public.logins_id_seq TO ..."


def test_a_table_of_somebody_else(bare_database: LoginDatabase, alone: Alone) -> None:
    """Not a word of it is granted: not where PostgreSQL only warns, since this user may insert there."""
    bare_database.role()
    theirs = bare_database.roles[0]
    bare_database.execute(
        "CREATE TABLE user_logins (user_id varchar(128), device_type varchar(32), masked_ip varchar(256),"
        " masked_device_id varchar(256), locale varchar(32), app_version integer, create_date date);"
        f"ALTER TABLE user_logins OWNER TO {theirs}"
    )
    dsn = owned(bare_database)
    me = bare_database.roles[-1]
    bare_database.execute(f"GRANT INSERT ON user_logins TO {me}; GRANT coatcheck_owner TO {me}")
    done = alone("migrate", DATABASE_URL=dsn)
    assert "created table" not in done.out
    masked = "(masked_device_id, masked_ip)"
    refused = [
        "GRANT INSERT ON public.user_logins TO coatcheck_loader",
        "GRANT SELECT ON public.user_logins TO coatcheck_analyst",
        "GRANT SELECT ON public.user_logins TO coatcheck_eraser",
        "GRANT SELECT ON public.user_logins TO coatcheck_rotator",
        f"GRANT UPDATE {masked} ON public.user_logins TO coatcheck_eraser",
        f"GRANT UPDATE {masked} ON public.user_logins TO coatcheck_rotator",
    ]
    *told, hint = done.err.splitlines()
    assert told == [f"coatcheck: warning: this user may not: {statement}" for statement in refused]
    assert hint.startswith("coatcheck: hint: have an administrator run `coatcheck migrate`, or these statements")
    again = alone("migrate", DATABASE_URL=dsn)
    assert (again.out, again.err) == ("nothing to do: the schema is up to date\n", done.err)
    config = Config.model_validate({"target": {"dsn": dsn}})
    lacking = advice(config)
    assert "coatcheck_loader lacks INSERT ON public.user_logins" in lacking
    assert f"coatcheck_rotator lacks SELECT ON public.user_logins; UPDATE {masked} ON public.user_logins" in lacking
    for statement in refused:
        bare_database.execute(statement)
    assert alone("migrate", DATABASE_URL=dsn).err == ""


# --- what the command and `check` say ---------------------------------------------------------------------------------


def test_what_the_command_says_of_roles(roleless: tuple[LoginDatabase, ...], alone: Alone) -> None:
    database, _ = roleless
    said = alone("migrate", DATABASE_URL=database.dsn)
    assert said.out.splitlines()[-9:] == [f"created role {name}" for name in ALL_ROLES]
    assert said.err == ""
    assert alone("migrate", DATABASE_URL=database.dsn).out == "nothing to do: the schema is up to date\n"
    database.execute("REVOKE INSERT ON coatcheck.vault FROM coatcheck_loader")
    assert alone("migrate", DATABASE_URL=database.dsn).out == "changes made to coatcheck's roles: 1\n"
    assert alone("migrate", DATABASE_URL=database.dsn).out == "nothing to do: the schema is up to date\n"


EXCESS = (
    ("SELECT ON coatcheck.vault", "PUBLIC"),
    ("USAGE ON SCHEMA coatcheck", "coatcheck_analyst"),
    ("EXECUTE ON FUNCTION coatcheck.set_policy(text,text)", "coatcheck_approver"),
    ("SELECT (ciphertext) ON coatcheck.quarantine", "coatcheck_operator"),
    ("DELETE ON coatcheck.audit", "coatcheck_auditor"),
    ("SELECT ON coatcheck.vault_other", "pg_monitor"),
)
"""Privileges that no role should have, and who gets them."""


def test_check_names_what_is_too_much_and_how_to_take_it_back(login_database: LoginDatabase) -> None:
    config = Config.model_validate({"target": {"dsn": login_database.dsn}})
    assert advice(config) == [MAY_READ]
    loader = Config.model_validate({"target": {"dsn": login_database.role("coatcheck_loader")}})
    assert advice(loader) == []
    for what, whom in EXCESS:
        login_database.execute(f"GRANT {what} TO {whom}")
    named = {f"{whom.replace('PUBLIC', 'everybody')} should not have {what}" for what, whom in EXCESS}
    found = schema.inspect(custody.dsn(loader), "user_logins", loader.plan()).findings
    assert {finding.what for finding in found} == {*named, MAY_READ}
    harmless = {finding.what for finding in found if finding.level == "advice"}
    assert harmless == {"coatcheck_analyst should not have USAGE ON SCHEMA coatcheck", MAY_READ}
    for finding in schema.inspect(custody.dsn(loader), "user_logins", loader.plan()).findings:
        if finding.hint.startswith("REVOKE "):
            login_database.execute(finding.hint)
    assert advice(loader) == []


def test_a_login_that_is_named_like_a_role_is_left_alone(login_database: LoginDatabase) -> None:
    """Grants by hand to a login `coatcheck_...` are nobody's business."""
    name = "coatcheck_worker_of_a_test"
    login_database.execute(f"CREATE ROLE {name}; GRANT SELECT ON coatcheck.batch TO {name}")
    login_database.roles.append(name)
    assert advice(Config.model_validate({"target": {"dsn": login_database.dsn}})) == [MAY_READ]


def test_a_loader_that_lacks_what_came_with_an_upgrade_is_told(login_database: LoginDatabase) -> None:
    login_database.execute("REVOKE SELECT ON coatcheck.erased FROM coatcheck_loader")
    config = Config.model_validate({"target": {"dsn": login_database.role("coatcheck_loader")}})
    with pytest.raises(ConfigError, match=r"lacks the privilege SELECT on coatcheck\.erased"):
        schema.verify(custody.dsn(config), config.target.table, config.plan())
