"""The vault is filled on the road, in the transaction of the rows: each distinct token once, whatever happens."""

from __future__ import annotations

import asyncio
import json
import random
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import psycopg
import pytest
from tests.support.fix_postgres import LIMIT
from tests.support.fix_servers import LoginDatabase
from tests.support.vaults import COLUMNS, MASKED, TABLE, Loader, configuration, event, load, messages, originals, token

from coatcheck import app, custody
from coatcheck.config import Config
from coatcheck.errors import ConfigError
from coatcheck.keys import rotate
from coatcheck.keys.local import create
from coatcheck.sinks.postgres import current_view, schema
from coatcheck.sinks.postgres.quarantine import Selection
from coatcheck.vault.epochs import Epochs, Period, epoch_of

NOW = Epochs("quarter").now


@pytest.fixture
def keyring(tmp_path: Path) -> Path:
    folder = tmp_path / "keys"
    create(folder, "tenant")
    return folder


@pytest.fixture
def config(bare_database: LoginDatabase, keyring: Path) -> Config:
    """A configuration whose database is migrated."""
    config = configuration(bare_database, keyring)
    app.migrate(config)
    return config


def values(database: LoginDatabase, keyring: Path) -> list[str]:
    return sorted(originals(database, keyring).values())


def refuse(database: LoginDatabase, condition: str) -> None:
    """Have the target table refuse rows, until `accept`."""
    database.execute(f"ALTER TABLE {TABLE} ADD CONSTRAINT refuses CHECK (NOT ({condition}))")


def accept(database: LoginDatabase) -> None:
    database.execute(f"ALTER TABLE {TABLE} DROP CONSTRAINT refuses")


# --- once, and with the rows ------------------------------------------------------------------------------------------


def test_each_distinct_token_once(bare_database: LoginDatabase, config: Config, keyring: Path) -> None:
    with Loader(config) as loader:
        loader.load(*(event(number % 5) for number in range(40)))
        counts = loader.load(*(event(number % 8) for number in range(40)))
    assert (counts.loaded, bare_database.count(TABLE)) == (80, 80)
    expected = {(token(config, "device", f"device-{n}"), NOW()): f"device-{n}" for n in range(8)}
    addresses = [json.loads(event(n))["ip"] for n in range(8)]
    expected |= {(token(config, "ip", address), NOW()): address for address in addresses}
    assert originals(bare_database, keyring) == expected
    assert bare_database.count("coatcheck.alias") == 0


def test_another_loader_meets_the_entries_of_the_first(
    bare_database: LoginDatabase, config: Config, keyring: Path
) -> None:
    load(config, event(1))
    before = bare_database.execute("SELECT * FROM coatcheck.vault ORDER BY token")
    load(config, event(1, device=" device-1 "), event(2))
    assert [row for row in before if row not in bare_database.execute("SELECT * FROM coatcheck.vault")] == []
    assert values(bare_database, keyring) == ["10.0.1.1", "10.0.2.2", "device-1", "device-2"]


def test_the_view_shows_the_table_while_nothing_rotates(bare_database: LoginDatabase, config: Config) -> None:
    load(config, *map(event, range(20)))
    current_view.make_view(bare_database.dsn, f"public.{TABLE}", config.plan())
    table, view = (bare_database.execute(f"SELECT * FROM {name} ORDER BY who") for name in (TABLE, f"{TABLE}_current"))
    assert table == view
    assert len(table) == 20


def test_rows_entries_and_data_keys_are_one_transaction(
    bare_database: LoginDatabase, config: Config, keyring: Path
) -> None:
    """The last step of the statement fails: nothing of what came before it is left, and nothing is remembered."""
    bare_database.execute(
        "CREATE FUNCTION fails() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN RAISE EXCEPTION 'no' USING ERRCODE = 'XX000'; END $$;"
        "CREATE TRIGGER fails BEFORE INSERT ON coatcheck.batch FOR EACH ROW EXECUTE FUNCTION fails()"
    )
    with Loader(config) as loader:
        with pytest.raises(Exception, match="PostgreSQL answers XX000"):
            loader.load(*map(event, range(9)))
        tables = (TABLE, *(f"coatcheck.{name}" for name in ("vault", "data_key", "ledger", "batch", "alias")))
        assert {name: bare_database.count(name) for name in tables} == dict.fromkeys(tables, 0)
        bare_database.execute("DROP TRIGGER fails ON coatcheck.batch")
        loader.load(*map(event, range(9)))
    assert len(values(bare_database, keyring)) == 18


def test_a_message_that_is_known_brings_its_entry_all_the_same(
    bare_database: LoginDatabase, config: Config, keyring: Path
) -> None:
    """Its row may have been loaded before there was a vault."""
    came = messages([event(1)])
    with Loader(config) as loader:
        loader.take(came)
    bare_database.execute("DELETE FROM coatcheck.vault")
    with Loader(config) as loader:
        counts = loader.take(came)
    assert (counts.loaded, counts.duplicates) == (0, 1)
    assert values(bare_database, keyring) == ["10.0.1.1", "device-1"]


def test_entries_under_several_data_keys_open(bare_database: LoginDatabase, config: Config, keyring: Path) -> None:
    with Loader(config) as loader:
        for number in range(6):
            loader.load(event(number))
            if number % 2:
                loader.sealer.retire()
    assert bare_database.count("coatcheck.data_key") == 3
    assert len(values(bare_database, keyring)) == 12


def test_null_has_no_entry(bare_database: LoginDatabase, config: Config, keyring: Path) -> None:
    load(config, event(1, device=None), json.dumps({"who": "nobody"}))
    assert values(bare_database, keyring) == ["10.0.1.1"]
    assert bare_database.count(TABLE) == 2


# --- rows that are refused --------------------------------------------------------------------------------------------


def test_a_bisected_batch_keeps_the_entries_of_what_was_loaded(
    bare_database: LoginDatabase, config: Config, keyring: Path
) -> None:
    refuse(bare_database, "who IN ('device-3', 'device-11', 'device-12')")
    with Loader(config) as loader:
        counts = loader.load(*map(event, range(20)), "no json")
        assert (counts.loaded, counts.rejected) == (17, 4)
        held = {text for (_, _), text in originals(bare_database, keyring).items() if text.startswith("device")}
        assert held >= {f"device-{number}" for number in range(20) if number not in {3, 11, 12}}
        missing = bare_database.execute(f"SELECT device FROM {TABLE} EXCEPT SELECT token FROM coatcheck.vault")
        assert missing == []
        accept(bare_database)
        loader.load(event(3), event(11), event(12))
    assert bare_database.execute(f"SELECT device FROM {TABLE} EXCEPT SELECT token FROM coatcheck.vault") == []
    assert len(values(bare_database, keyring)) == 40


def test_a_batch_that_is_refused_whole_leaves_nothing_and_is_not_taken_for_stored(
    bare_database: LoginDatabase, config: Config, keyring: Path
) -> None:
    refuse(bare_database, "true")
    with Loader(config) as loader:
        counts = loader.load(*map(event, range(5)))
        assert (counts.loaded, counts.rejected) == (0, 5)
        assert bare_database.count("coatcheck.vault") == 0
        accept(bare_database)
        loader.load(*map(event, range(5)))
    assert len(values(bare_database, keyring)) == 10


def test_a_retry_of_the_quarantine_stores_the_entry(
    bare_database: LoginDatabase, config: Config, keyring: Path
) -> None:
    refuse(bare_database, "who <> 'device-1'")
    load(config, event(1), event(2), event(3), event(2))
    assert values(bare_database, keyring) == [
        "10.0.1.1",
        *[f"10.0.{n}.{n}" for n in (2, 3)],
        *map("device-{}".format, (1, 2, 3)),
    ]
    bare_database.execute("DELETE FROM coatcheck.vault")
    retried = app.quarantine_retry(config, Selection())
    assert (retried.loaded, retried.rejected, retried.unopened) == (0, {"refused_by_database": 3}, 0)
    assert bare_database.count("coatcheck.vault") == 0
    accept(bare_database)
    assert app.quarantine_retry(config, Selection()).loaded == 3
    assert values(bare_database, keyring) == ["10.0.2.2", "10.0.3.3", "device-2", "device-3"]
    assert bare_database.count(TABLE) == 4


def test_a_retry_while_a_key_retires_stores_the_aliases(
    bare_database: LoginDatabase, config: Config, keyring: Path
) -> None:
    load(config, event(1))
    refuse(bare_database, "who = 'device-2'")
    load(config, event(2))
    accept(bare_database)
    rotate.rotate(keyring)
    assert app.quarantine_retry(config, Selection()).loaded == 1
    aliases = dict(bare_database.execute("SELECT old_token, new_token FROM coatcheck.alias"))
    values = {"device": "device-2", "ip": "10.0.2.2", "net": "10.0.2.2", "phone": "+49 2", "tag": "tag-2"}
    assert aliases == {token(config, name, v, "k1"): token(config, name, v, "k2") for name, v in values.items()}


# --- several at once --------------------------------------------------------------------------------------------------


def together(*works: Callable[[], object]) -> None:
    """Do all at once; raise what one of them raises."""
    barrier = threading.Barrier(len(works))

    def begin(work: Callable[[], object]) -> None:
        barrier.wait(LIMIT)
        work()

    with ThreadPoolExecutor(len(works)) as pool:
        for done in [pool.submit(begin, work) for work in works]:
            done.result(LIMIT)


@pytest.mark.parametrize("rotating", [False, True], ids=["one key", "two keys"])
def test_writers_of_the_same_tokens_do_not_deadlock(
    bare_database: LoginDatabase, config: Config, keyring: Path, *, rotating: bool
) -> None:
    """In whatever order they come: entries, aliases and data keys are written in one order by all."""
    if rotating:
        rotate.rotate(keyring)
    loaders = [Loader(config) for _ in range(4)]
    barrier = threading.Barrier(4)

    def work(seed: int) -> None:
        chance = random.Random(seed)  # noqa: S311 - the same order in every run
        with loaders[seed] as loader:
            for first in range(0, 4000, 400):
                barrier.wait(LIMIT)  # all have not been seen yet by anybody
                loader.load(*map(event, chance.sample(range(first, first + 400), 300)))

    together(*(partial(work, seed) for seed in range(4)))
    assert "deadlock detected" not in bare_database.log()
    assert bare_database.count(TABLE) == 4 * 10 * 300
    seen = bare_database.value(f"SELECT count(DISTINCT device) + count(DISTINCT ip) FROM {TABLE}")
    assert len(values(bare_database, keyring)) == seen
    assert bool(bare_database.count("coatcheck.alias")) == rotating


def test_a_writer_waits_for_another_that_stores_the_same_token(
    bare_database: LoginDatabase, config: Config, keyring: Path
) -> None:
    """And stores it itself if the other one fails."""
    with Loader(config) as first, bare_database.session() as session:
        first.load(event(2))
        [entry] = bare_database.execute(
            "SELECT dek_id, nonce, ciphertext FROM coatcheck.vault WHERE token LIKE 'pt1_d%'"
        )
        with ThreadPoolExecutor(1) as pool:
            with session.transaction(force_rollback=True):
                session.execute(
                    "INSERT INTO coatcheck.vault (token, epoch, dek_id, nonce, ciphertext) VALUES (%s, %s, %s, %s, %s)",
                    [token(config, "device", "device-1"), NOW(), *entry],
                )
                loading = pool.submit(first.load, event(1))
                asyncio.run(_until(lambda: bool(bare_database.waiting())))
                assert bare_database.count(TABLE) == 1
            loading.result(LIMIT)
    assert values(bare_database, keyring) == ["10.0.1.1", "10.0.2.2", "device-1", "device-2"]


async def _until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(LIMIT):
        while not condition():  # noqa: ASYNC110 - the condition is in the database
            await asyncio.sleep(0.005)


# --- rights -----------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("config")
def test_a_loader_with_insert_rights_only(bare_database: LoginDatabase, keyring: Path) -> None:
    """It cannot read what it stores: the vault, the data keys, the aliases, the audit trail."""
    rotate.rotate(keyring)
    dsn = bare_database.role("coatcheck_loader")
    mine = configuration(dsn, keyring)
    assert not [f for f in schema.inspect(dsn, TABLE, mine.plan()).findings if f.level == "error"]
    for _ in range(2):
        with Loader(mine) as loader:
            loader.open()
            assert loader.load(*map(event, range(10)), "no json").loaded == 10
    assert len(values(bare_database, keyring)) == 20
    assert bare_database.count("coatcheck.alias") == 10 * 3 + 7 + 10
    with psycopg.connect(dsn, autocommit=True) as connection:
        for name in ("vault", "data_key", "alias", "audit", "quarantine"):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute(f"SELECT FROM coatcheck.{name}".encode())
        for statement in (
            "UPDATE coatcheck.vault SET epoch = 1",
            "DELETE FROM coatcheck.alias",
            "UPDATE coatcheck.token_key SET state = 'in use'",
            "INSERT INTO coatcheck.audit VALUES (1, 1, 'a', 'b', 'c', sha256(''))",
            "SELECT coatcheck.audit_append('a', '{}')",
            f"SELECT FROM coatcheck.vault_{NOW()}",
        ):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute(statement.encode())


@pytest.mark.parametrize("table", ["vault", "alias", "ledger", "quarantine"])
def test_a_right_that_is_missing_is_named(
    bare_database: LoginDatabase, config: Config, keyring: Path, table: str
) -> None:
    assert config.target.table == TABLE
    bare_database.execute(f"REVOKE INSERT ON coatcheck.{table} FROM coatcheck_loader")
    dsn = bare_database.role("coatcheck_loader")
    mine = configuration(dsn, keyring)
    with pytest.raises(ConfigError, match=f"lacks the privilege INSERT on coatcheck.{table}") as caught:
        schema.verify(dsn, TABLE, mine.plan())
    assert caught.value.hint == f"GRANT INSERT ON coatcheck.{table} TO ..."


# --- epochs -----------------------------------------------------------------------------------------------------------


def partitions(database: LoginDatabase) -> set[str]:
    found = database.execute(
        "SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = 'coatcheck.vault'::regclass"
    )
    return {name.removeprefix("coatcheck.vault_") for (name,) in found}


@pytest.mark.parametrize("period", ["year", "quarter", "month"])
def test_partitions_are_made_ahead(bare_database: LoginDatabase, keyring: Path, period: Period) -> None:
    config = configuration(bare_database, keyring, vault={"epoch": period})
    app.migrate(config)
    assert partitions(bare_database) == {"other", *map(str, Epochs(period).ahead())}
    load(config, event(1))
    assert bare_database.count("coatcheck.vault_other") == 0
    assert bare_database.count(f"coatcheck.vault_{Epochs(period).now()}") == 2


def test_a_loader_makes_them_at_its_start_and_once_a_day(
    bare_database: LoginDatabase, config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    present = set(map(str, Epochs("quarter").ahead()))
    with Loader(config) as loader:
        loader.sink._epochs = lambda: (20301, 20302)
        loader.open()
        assert partitions(bare_database) == {"other", "20301", "20302"} | present
        loader.sink._epochs = lambda: (20302, 20303)
        loader.load(event(1))
        assert "20303" not in partitions(bare_database)
        monkeypatch.setattr(loader.sink, "_upkeep_at", 0.0)
        loader.load(event(2))
        assert "20303" in partitions(bare_database)


def test_an_epoch_without_a_partition_is_kept_all_the_same(
    bare_database: LoginDatabase, config: Config, keyring: Path
) -> None:
    """And what is in the common partition stays there: nothing is moved under the loaders' hands."""
    with Loader(config) as loader:
        loader.vault._epoch = lambda: 20341
        loader.load(event(1))
        loader.sink._epochs = lambda: (20341, 20402)
        loader.open()
        loader.load(event(2))
    assert bare_database.count("coatcheck.vault_other") == 4
    assert not {"20341"} & partitions(bare_database)
    assert {epoch for _, epoch in originals(bare_database, keyring)} == {20341}


def test_every_epoch_keeps_its_own_entry_and_goes_as_a_whole(
    bare_database: LoginDatabase, config: Config, keyring: Path
) -> None:
    with Loader(config) as loader:
        loader.load(event(1), event(2))
        bare_database.execute("SELECT coatcheck.make_epochs('{20341}')")
        loader.vault._epoch = lambda: 20341
        loader.load(event(2), event(3))
    bare_database.execute(f"DROP TABLE coatcheck.vault_{NOW()}")
    held = originals(bare_database, keyring)
    assert {epoch for _, epoch in held} == {20341}
    assert sorted(held.values()) == ["10.0.2.2", "10.0.3.3", "device-2", "device-3"]


def test_two_make_the_same_epoch_at_once(bare_database: LoginDatabase, config: Config) -> None:
    del config

    def make() -> None:
        with psycopg.connect(bare_database.dsn, autocommit=True) as connection:
            connection.execute("SELECT coatcheck.make_epochs('{20301,20302,20303}')")

    together(make, make, make)
    assert {"20301", "20302", "20303"} <= partitions(bare_database)


@pytest.mark.parametrize("epochs", ["{1}", "{NULL}", "{1000000}", "{2031,2032,2033,2034,2035,2036,2037,2038,2039}"])
def test_what_is_no_epoch_is_refused(bare_database: LoginDatabase, config: Config, epochs: str) -> None:
    del config
    with pytest.raises(psycopg.errors.RaiseException, match="epochs are up to 8"):
        bare_database.execute("SELECT coatcheck.make_epochs(%s::integer[])", epochs)


def test_the_epoch_is_that_of_today(bare_database: LoginDatabase, config: Config) -> None:
    before = epoch_of(datetime.now(UTC).date(), "quarter")
    load(config, event(1))
    assert before <= bare_database.value("SELECT max(epoch) FROM coatcheck.vault") <= NOW()


# --- canary -----------------------------------------------------------------------------------------------------------

BIRDS = ("canary-device", "203.0.113", "canary-phone", "canary-tag", "canary-body")


def bird(number: int, **changes: object) -> str:
    fields: dict[str, object] = {
        "device": f"canary-device-{number}", "ip": f"203.0.113.{number}",
        "phone": f"canary-phone-{number}", "tag": f"canary-tag-{number}", "extra": "canary-body",
    }  # fmt: skip
    return json.dumps(fields | changes)


def test_no_original_is_anywhere_in_the_database(
    bare_database: LoginDatabase, keyring: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """After loading, refusals, a retry, a second epoch, a rotation on the road: no value in any table, view or log."""
    config = configuration(bare_database, keyring, MASKED)
    app.migrate(config, constrain=True)
    refuse(bare_database, f"device = '{token(config, 'device', 'canary-device-3')}'")
    with Loader(config) as loader:
        loader.load(*map(bird, range(6)), bird(7, ip="canary-body"), "canary-body")
        loader.vault._epoch = lambda: 20341
        loader.load(*map(bird, range(6)))
    accept(bare_database)
    current_view.make_view(bare_database.dsn, f"public.{TABLE}", config.plan())
    rotate.rotate(keyring)
    assert app.quarantine_retry(config, Selection()).loaded == 2
    load(config, *map(bird, range(9)))
    assert bare_database.count("coatcheck.quarantine") == 4
    opened = set(originals(bare_database, keyring).values())
    assert opened == {f"{kind}{number}" for number in range(9) for kind in ("canary-device-", "203.0.113.")}
    everything = bare_database.text() + str(bare_database.execute(f"SELECT * FROM {TABLE}_current"))
    assert token(config, "device", "canary-device-1") in everything, "the search would not find anything"
    for word in BIRDS:
        for place, text in {"database": everything, "server log": bare_database.log(), "log": caplog.text}.items():
            for form in (word, word.encode().hex()):
                assert form not in text, f"{form} is in the {place}"


def test_the_checks_keep_raw_values_out(bare_database: LoginDatabase, keyring: Path) -> None:
    """A table that was there before gets them by --constrain; whoever writes, a raw value does not get in."""
    config = configuration(bare_database, keyring, COLUMNS)
    names = ", ".join(f"{name} text" for name in COLUMNS)
    bare_database.execute(f"CREATE TABLE {TABLE} ({names})")
    app.migrate(config)
    bare_database.execute(f"INSERT INTO {TABLE} (device) VALUES ('raw')")
    bare_database.execute(f"DELETE FROM {TABLE}")
    assert app.migrate(config, constrain=True).constrained == tuple(f"{name}_masked" for name in MASKED)
    assert app.migrate(config, constrain=True).constrained == ()
    for name in MASKED:
        for raw in ("raw", "", f"pt1_{name}_k1_{'a' * 39}", f"pt1_other_k1_{'a' * 40}", f"pt1_{name}_k1_{'a' * 40}\n"):
            with pytest.raises(psycopg.errors.CheckViolation):
                bare_database.execute(f"INSERT INTO {TABLE} ({name}) VALUES (%s)", raw)
    load(config, *map(event, range(5)))
    assert custody.loader_keys(config).kid == "k1"
    assert bare_database.count(TABLE) == 5
