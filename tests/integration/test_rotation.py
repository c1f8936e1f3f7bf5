"""Rotation of the token key: at no moment do duplicates fall apart, and in the end nothing of the old key is left."""

from __future__ import annotations

import hashlib
import json
import shutil
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg
import pytest
from pydantic import SecretStr
from tests.support.fix_postgres import LIMIT
from tests.support.fix_servers import LoginDatabase
from tests.support.process import wait_until
from tests.support.vaults import (
    COLUMNS,
    PLAIN,
    TABLE,
    Loader,
    configuration,
    event,
    load,
    originals,
    prefixes,
    token,
    torn,
)

from coatcheck import app, custody, rotation, sql
from coatcheck.config import Config
from coatcheck.errors import CoatcheckError, ConfigError, RefusedError, UnreachableError
from coatcheck.keys import Sealer
from coatcheck.keys.local import TOKEN_ROOT, create
from coatcheck.ops.metrics import Metrics
from coatcheck.sinks.postgres.quarantine import Selection
from coatcheck.sql.connection import connect
from coatcheck.vault import retokenize as module
from coatcheck.vault.register import add_seal
from coatcheck.vault.retokenize import Retokenized
from coatcheck.vault.store import vault_context

VAULTED = {name: COLUMNS[name] for name in ("who", "address", "place", "phone_plain", "device", "ip", "net", "phone")}
"""Without the column that keeps no originals: a rotation of these can be ended without loading anew."""
NAMES = ("device", "ip", "net", "phone")


@pytest.fixture
def keyring(tmp_path: Path) -> Path:
    folder = tmp_path / "keys"
    create(folder, "tenant")
    return folder


@pytest.fixture
def config(bare_database: LoginDatabase, keyring: Path) -> Config:
    config = configuration(bare_database, keyring, VAULTED)
    app.migrate(config)
    return config


@pytest.fixture
def small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """A few hundred rows become many steps."""
    monkeypatch.setattr(module, "_PAGE", 20)
    monkeypatch.setattr(module, "_BLOCKS", 1)


def whole(database: LoginDatabase, table: str = f"{TABLE}_current") -> None:
    assert torn(database, table=table, names=NAMES) == []


def kids(database: LoginDatabase, table: str = TABLE) -> dict[str, set[str]]:
    return prefixes(database, table, NAMES)


def all_under(kid: str, names: Iterable[str] = NAMES) -> dict[str, set[str]]:
    return {name: {kid} for name in names}


def vault_kids(database: LoginDatabase) -> set[str]:
    return {kid for (kid,) in database.execute("SELECT DISTINCT split_part(token, '_', 3) FROM coatcheck.vault")}


def events(database: LoginDatabase) -> list[str]:
    return [event for (event,) in database.execute("SELECT event FROM coatcheck.audit ORDER BY seq")]


def old_keyring(config: Config, tmp_path: Path) -> Config:
    """Return the configuration of a host that has the keyring of now, whatever happens to it."""
    folder = Path(shutil.copytree(config.keys.path, tmp_path / "old-keys"))
    return config.model_copy(update={"keys": config.keys.model_copy(update={"path": folder})})


# --- from one key to the next -----------------------------------------------------------------------------------------


def test_a_rotation_from_the_first_row_to_the_last(bare_database: LoginDatabase, config: Config, keyring: Path) -> None:
    before = Loader(config)
    before.load(*map(event, range(60)), *map(event, range(30)))
    assert rotation.rotate(config) == rotation.Rotated("k1", "k2", (f"public.{TABLE}_current",), ())
    with before, Loader(config) as after:
        assert after.kids == ("k2", "k1")
        before.load(*map(event, range(50, 80)))
        whole(bare_database)
        after.load(*map(event, range(70, 100)))
        whole(bare_database)
        before.load(*map(event, range(90, 110)))
        whole(bare_database)
        done = rotation.retokenize(config)
        assert (done.mismatched, done.left) == (0, {})
        whole(bare_database)
        assert kids(bare_database) == all_under("k2")
        before.load(*map(event, range(100, 120)))
        whole(bare_database)
        assert rotation.retokenize(config).rows == 20
    rotation.retire(config, "k1")
    whole(bare_database)
    whole(bare_database, TABLE)
    assert kids(bare_database) == all_under("k2")
    assert vault_kids(bare_database) == {"k2"}
    assert bare_database.count("coatcheck.alias") == 0
    assert custody.loader_keys(config).kids == ("k2",)
    bodies = [json.loads(event(number)) for number in range(120)]
    held = {masked: original for (masked, _), original in originals(bare_database, keyring).items()}
    assert held == {token(config, name, body[name]): body[name] for body in bodies for name in ("device", "ip")}
    rows = bare_database.execute(f"SELECT {', '.join(NAMES)}, who, address, phone_plain FROM {TABLE}")
    for device, ip, net, phone, who, address, number in rows:
        plain = {"device": who, "ip": address, "net": address, "phone": number}
        expected = [token(config, name, plain[name]) for name in NAMES]
        assert [device, ip, net, phone] == expected


def test_a_second_rotation_follows_the_first(bare_database: LoginDatabase, config: Config) -> None:
    load(config, *map(event, range(20)))
    for old, new in (("k1", "k2"), ("k2", "k3")):
        rotation.rotate(config)
        load(config, *map(event, range(10, 30)))
        whole(bare_database)
        rotation.retokenize(config)
        rotation.retire(config, old)
        assert kids(bare_database) == all_under(new)
        whole(bare_database)


def test_what_is_done_is_found_done(bare_database: LoginDatabase, config: Config) -> None:
    load(config, *map(event, range(30)))
    rotation.rotate(config)
    first = rotation.retokenize(config)
    assert (first.entries, first.rows) == (60, 30)
    before = (
        bare_database.execute(f"SELECT ctid, * FROM {TABLE}"),
        bare_database.execute("SELECT * FROM coatcheck.vault"),
    )
    again = rotation.retokenize(config)
    assert (again.entries, again.rows, again.left) == (0, 0, {})
    after = (
        bare_database.execute(f"SELECT ctid, * FROM {TABLE}"),
        bare_database.execute("SELECT * FROM coatcheck.vault"),
    )
    assert before == after


def test_entries_keep_their_epochs(bare_database: LoginDatabase, config: Config, keyring: Path) -> None:
    with Loader(config) as loader:
        for epoch in (20251, 20252):
            loader.vault._epoch = lambda epoch=epoch: epoch  # type: ignore[misc]
            loader.load(event(1))
    rotation.rotate(config)
    load(config, event(1))
    rotation.retokenize(config)
    rotation.retire(config, "k1")
    held = sorted((epoch, original) for (_, epoch), original in originals(bare_database, keyring).items())
    assert [entry for entry in held if entry[0] < 20260] == [
        (e, o) for e in (20251, 20252) for o in ("10.0.1.1", "device-1")
    ]
    assert len(held) == 6


@pytest.mark.parametrize("sub", ["", " PARTITION BY HASH (address)"], ids=["flat", "nested"])
def test_a_partitioned_table(bare_database: LoginDatabase, keyring: Path, sub: str) -> None:
    """In another schema, with odd names, and a partition that is itself partitioned."""
    config = configuration(bare_database, keyring, VAULTED, table="Odd$1.Log_Ins")
    names = ", ".join(f"{name} text" for name in VAULTED)
    bare_database.execute(
        'CREATE SCHEMA "Odd$1";'
        f'CREATE TABLE "Odd$1"."Log_Ins" ({names}) PARTITION BY HASH (who);'
        'CREATE TABLE "Odd$1"."p 0" PARTITION OF "Odd$1"."Log_Ins" FOR VALUES WITH (MODULUS 2, REMAINDER 0);'
        f'CREATE TABLE "Odd$1"."p""1" PARTITION OF "Odd$1"."Log_Ins" FOR VALUES WITH (MODULUS 2, REMAINDER 1){sub}'
    )
    if sub:
        bare_database.execute(
            'CREATE TABLE "Odd$1".leaf PARTITION OF "Odd$1"."p""1" FOR VALUES WITH (MODULUS 1, REMAINDER 0)'
        )
    app.migrate(config)
    load(config, *map(event, range(50)))
    assert rotation.rotate(config).views == ("Odd$1.Log_Ins_current",)
    load(config, *map(event, range(30, 70)))
    whole(bare_database, '"Odd$1"."Log_Ins_current"')
    with pytest.raises(RefusedError, match=r"rows of Odd\$1.Log_Ins still have tokens under k1"):
        rotation.retire(config, "k1")
    assert rotation.retokenize(config).rows == 50
    rotation.retire(config, "k1")
    assert kids(bare_database, '"Odd$1"."Log_Ins"') == all_under("k2")
    whole(bare_database, '"Odd$1"."Log_Ins_current"')


def test_nothing_but_the_tokens_of_a_row_is_touched(bare_database: LoginDatabase, config: Config) -> None:
    load(config, *map(event, range(10)), event(11, device=None, phone=None, ip=None), '{"who": "nobody"}')
    bare_database.execute(f"INSERT INTO {TABLE} (device, who) VALUES ('px1_device_k1_{'0' * 40}', 'erased')")
    bare_database.execute(f"ALTER TABLE {TABLE} ADD COLUMN own text DEFAULT 'theirs'")
    plain = f"SELECT own, {', '.join(PLAIN[name] for name in NAMES)} FROM {TABLE} ORDER BY who"
    before = bare_database.execute(plain)
    rotation.rotate(config)
    rotation.retokenize(config)
    rotation.retire(config, "k1")
    assert bare_database.execute(plain) == before
    assert bare_database.value(f"SELECT device FROM {TABLE} WHERE who = 'erased'").startswith("px1_device_k1_")


def test_who_reads_the_table_reads_the_view_and_no_alias(bare_database: LoginDatabase, config: Config) -> None:
    load(config, *map(event, range(9)))
    analyst = bare_database.role(f"SELECT ON {TABLE}")
    rotation.rotate(config)
    load(config, *map(event, range(9)))
    with psycopg.connect(analyst, autocommit=True) as connection:
        found = connection.execute(f"SELECT count(DISTINCT device), count(*) FROM {TABLE}_current".encode()).fetchone()
        assert found == (9, 18)
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute("SELECT FROM coatcheck.alias")


# --- while loaders write ----------------------------------------------------------------------------------------------


@contextmanager
def meanwhile(*works: Callable[[], object]) -> Iterator[None]:
    """Do the works over and over in threads of their own until the block ends; raise what one of them raises."""
    over = threading.Event()

    def again(work: Callable[[], object]) -> int:
        times = 0
        while not over.is_set() or not times:
            work()
            times += 1
        return times

    with ThreadPoolExecutor(len(works)) as pool:
        going = [pool.submit(again, work) for work in works]
        try:
            yield
        finally:
            over.set()
        assert all(one.result(LIMIT) for one in going)


@pytest.mark.usefixtures("small_steps")
def test_groups_are_whole_at_every_moment(bare_database: LoginDatabase, keyring: Path) -> None:
    """Loaders with the old keyring and the new one write the same values, new and known ones, while the job runs."""
    config = configuration(bare_database, keyring)
    app.migrate(config)
    eye = LoginDatabase(bare_database.server, bare_database.name)
    samples: list[dict[str, set[str]]] = []

    def sample() -> None:
        assert torn(eye) == []
        samples.append(prefixes(eye))

    def write(loader: Loader, first: int) -> None:
        for at in range(first, first + 200, 2):
            loader.load(*map(event, range(at, at + 20)), *map(event, range(200 + at, 210 + at)))

    with Loader(config) as before:
        before.load(*map(event, range(250)))
        rotation.rotate(config)
        with Loader(config) as after, meanwhile(sample), ThreadPoolExecutor(2) as pool:
            writing = [pool.submit(write, before, 0), pool.submit(write, after, 1)]
            while not all(one.done() for one in writing):
                rotation.retokenize(config)
            for one in writing:
                one.result(LIMIT)
        assert rotation.retokenize(config).left == {}
    eye.close()
    assert {"k1", "k2"} in [sample["device"] for sample in samples], "the samples came too late to mean anything"
    assert prefixes(bare_database) == all_under("k2", PLAIN)
    # job and loaders may, seldom, meet in a deadlock here: whom PostgreSQL ends tries again, and nothing is torn
    rotation.retire(config, "k1")
    assert torn(bare_database) == []


def test_the_job_and_loaders_do_not_deadlock(
    bare_database: LoginDatabase, config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They store the same entries and aliases, and in the same order."""
    monkeypatch.setattr(module, "_PAGE", 20)
    with Loader(config) as before:
        before.load(*map(event, range(1500)))
    rotation.rotate(config)
    with Loader(config) as one, Loader(config) as two:

        def write(loader: Loader) -> None:
            loader.load(*map(event, range(1500)))
            loader.vault._recent.clear()
            loader.vault._older.clear()

        for _ in range(3):
            with meanwhile(lambda: write(one), lambda: write(two)):
                rotation.retokenize(config)
            bare_database.execute(
                "DELETE FROM coatcheck.alias; DELETE FROM coatcheck.vault WHERE split_part(token, '_', 3) = 'k2'"
            )
    assert "deadlock detected" not in bare_database.log()


def test_a_deadlock_with_somebody_else_is_outlived(bare_database: LoginDatabase, config: Config) -> None:
    """PostgreSQL may choose the job as the one that has to give way: it does the step again."""
    load(config, *map(event, range(10)))
    bare_database.execute(
        "CREATE SEQUENCE tries;"
        "CREATE FUNCTION gives_way() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
        " IF nextval('public.tries') IN (1, 3) THEN RAISE EXCEPTION 'no' USING ERRCODE = '40P01'; END IF; RETURN NULL;"
        " END $$;"
        "CREATE TRIGGER gives_way AFTER INSERT ON coatcheck.alias FOR EACH STATEMENT EXECUTE FUNCTION gives_way();"
        f"CREATE TRIGGER gives_way AFTER UPDATE ON {TABLE} FOR EACH STATEMENT EXECUTE FUNCTION gives_way()"
    )
    rotation.rotate(config)
    done = rotation.retokenize(config)
    assert (done.entries, done.rows, done.left) == (20, 10, {})


# --- cut short --------------------------------------------------------------------------------------------------------


class KilledError(BaseException):
    """Stands for the end of the process."""


@pytest.mark.usefixtures("small_steps")
@pytest.mark.parametrize("moment", range(0, 33, 3))
def test_cut_short_and_started_again(bare_database: LoginDatabase, config: Config, moment: int) -> None:
    load(config, *map(event, range(250)))
    rotation.rotate(config)
    ticks = iter(range(10**6))

    def kill(_: Retokenized) -> None:
        if next(ticks) == moment:
            raise KilledError

    with pytest.raises(KilledError):
        rotation.retokenize(config, kill)
    whole(bare_database)
    load(config, *map(event, range(200, 300)))
    whole(bare_database)
    with pytest.raises(RefusedError):
        rotation.retire(config, "k1")
    done = rotation.retokenize(config)
    assert (done.mismatched, done.left) == (0, {})
    whole(bare_database)
    rotation.retire(config, "k1")
    assert kids(bare_database) == all_under("k2")


@pytest.mark.usefixtures("small_steps")
def test_a_connection_that_is_lost(bare_database: LoginDatabase, config: Config) -> None:
    load(config, *map(event, range(100)))
    rotation.rotate(config)

    def cut(_: Retokenized) -> None:
        bare_database.terminate()

    with pytest.raises(UnreachableError, match="cannot re-tokenize"):
        rotation.retokenize(config, cut)
    assert rotation.retokenize(config).left == {}
    rotation.retire(config, "k1")


def test_a_retirement_cut_short_between_database_and_keyring(
    bare_database: LoginDatabase, config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    load(config, *map(event, range(20)))
    rotation.rotate(config)
    rotation.retokenize(config)
    with monkeypatch.context() as patch:
        patch.setattr(custody, "retire_token_key", _killed)
        with pytest.raises(KilledError):
            rotation.retire(config, "k1")
    assert custody.loader_keys(config).kids == ("k2", "k1")
    assert bare_database.value("SELECT state FROM coatcheck.token_key WHERE kid = 'k1'") == "retired"
    with Loader(config) as loader:
        assert loader.load(*map(event, range(10, 30))).loaded == 20
    rotation.retire(config, "k1")
    assert custody.loader_keys(config).kids == ("k2",)
    assert bare_database.count("coatcheck.alias") == 0
    whole(bare_database, TABLE)
    assert events(bare_database).count("key retired") == 1


@pytest.mark.parametrize("query", ["retire_vault", "retire_aliases"])
def test_a_retirement_cut_short_while_it_cleans_up(
    bare_database: LoginDatabase, config: Config, monkeypatch: pytest.MonkeyPatch, query: str
) -> None:
    from coatcheck.vault import retire  # noqa: PLC0415 - only here it is looked into

    load(config, *map(event, range(20)))
    rotation.rotate(config)
    rotation.retokenize(config)
    with monkeypatch.context() as patch:
        patch.setattr(retire, "query", lambda name: _killed() if name == query else sql.query(name))
        with pytest.raises(KilledError):
            rotation.retire(config, "k1")
    whole(bare_database)
    rotation.retire(config, "k1")
    assert bare_database.count("coatcheck.alias") == 0
    assert vault_kids(bare_database) == {"k2"}
    assert custody.loader_keys(config).kids == ("k2",)


def _killed(*_: object) -> Any:
    raise KilledError


# --- what cannot be moved ---------------------------------------------------------------------------------------------


def replant(database: LoginDatabase, planted: str, source: str) -> None:
    """Put the sealed original of one token in the place of another's."""
    database.execute(
        "UPDATE coatcheck.vault AS v SET dek_id = s.dek_id, nonce = s.nonce, ciphertext = s.ciphertext"
        " FROM coatcheck.vault AS s WHERE v.token = %s AND s.token = %s",
        planted,
        source,
    )


def plant(config: Config, database: LoginDatabase, planted: str, original: str) -> None:
    """Put another original in the place of a token's, as a loader can: sealed by the rules, for this token."""
    sealer = Sealer(custody.loader_keys(config))
    epoch = database.value("SELECT epoch FROM coatcheck.vault WHERE token = %s", planted)
    sealed = sealer.seal(original.encode(), *vault_context(planted, epoch))
    key = sealer.data_key(sealed.dek_id)
    dek_id = UUID(bytes=key.dek_id)
    database.execute("INSERT INTO coatcheck.data_key VALUES (%s, %s, %s)", dek_id, key.kek, key.wrapped)
    database.execute(
        "UPDATE coatcheck.vault SET dek_id = %s, nonce = %s, ciphertext = %s WHERE token = %s",
        dek_id,
        sealed.nonce,
        sealed.ciphertext,
        planted,
    )


@pytest.mark.parametrize("original", ["device-9", "--", "\0"], ids=["another's", "odd", "no text"])
def test_an_entry_that_opens_counts_only_if_it_gives_its_token(
    bare_database: LoginDatabase, config: Config, original: str
) -> None:
    load(config, *map(event, range(10)))
    plant(config, bare_database, token(config, "device", "device-1"), original)
    rotation.rotate(config)
    done = rotation.retokenize(config)
    assert (done.entries, done.mismatched, done.left) == (19, 1, {"device": 1})
    whole(bare_database)
    assert bare_database.count("coatcheck.alias") == 9 + 10 + 7 + 10


def test_planted_and_damaged_entries_are_counted_and_left(
    bare_database: LoginDatabase, config: Config, keyring: Path
) -> None:
    """A loader may insert what it likes: an entry counts only if its original gives its token."""
    load(config, *map(event, range(10)))
    one, two, three = (token(config, "device", f"device-{number}") for number in (1, 2, 3))
    replant(bare_database, one, token(config, "device", "device-9"))
    bare_database.execute(
        "UPDATE coatcheck.vault SET ciphertext = set_byte(ciphertext, 0, get_byte(ciphertext, 0) # 1) WHERE token = %s",
        two,
    )
    forged = custody.tokenizer(custody.loader_keys(config)).token(
        "device", "forged", custody.forms(config.plan())["device"]
    )
    bare_database.execute(
        "INSERT INTO coatcheck.vault (token, epoch, dek_id, nonce, ciphertext)"
        " SELECT %s, epoch, dek_id, nonce, ciphertext FROM coatcheck.vault WHERE token = %s",
        forged,
        three,
    )
    rotation.rotate(config)
    done = rotation.retokenize(config)
    assert (done.entries, done.mismatched, done.left) == (18, 3, {"device": 2})
    whole(bare_database)
    again = rotation.retokenize(config)
    assert (again.entries, again.mismatched, again.left) == (0, 3, {"device": 2})
    with pytest.raises(RefusedError, match=f"rows of public.{TABLE} still have tokens under k1: device 2"):
        rotation.retire(config, "k1")
    load(config, *map(event, range(10)))  # whoever sends the values again brings their aliases
    whole(bare_database)
    assert rotation.retokenize(config).left == {}
    with pytest.raises(RefusedError, match="the vault has 1 entries of the domain device under k1 only") as caught:
        rotation.retire(config, "k1")
    assert caught.value.hint.endswith("deleted from coatcheck.vault by hand")
    bare_database.execute("DELETE FROM coatcheck.vault WHERE token = %s", forged)
    rotation.retire(config, "k1")
    assert set(originals(bare_database, keyring).values()) >= {f"device-{number}" for number in range(10)}


def test_planted_sealed_texts_are_left(bare_database: LoginDatabase, config: Config) -> None:
    load(config, *map(event, range(10)))
    bare_database.execute(f"UPDATE {TABLE} SET phone = 'ps1_phone_k1_' || repeat('A', 64) WHERE who = 'device-1'")
    bare_database.execute(f"UPDATE {TABLE} SET phone = 'ps1_phone_k1_' || repeat('A', 65) WHERE who = 'device-2'")
    rotation.rotate(config)
    done = rotation.retokenize(config)
    assert (done.entries, done.rows, done.left) == (20, 10, {"phone": 2})
    assert kids(bare_database) == all_under("k2") | {"phone": {"k1", "k2"}}
    with pytest.raises(RefusedError, match="phone 2"):
        rotation.retire(config, "k1")


def test_columns_without_a_vault_are_told_and_left(bare_database: LoginDatabase, keyring: Path) -> None:
    config = configuration(bare_database, keyring)
    app.migrate(config)
    load(config, *map(event, range(9)))
    assert rotation.rotate(config).without_vault == ("tag",)
    load(config, *map(event, range(5)))
    assert rotation.retokenize(config).left == {"tag": 4}
    assert torn(bare_database) == []
    with pytest.raises(RefusedError, match="tag 4") as caught:
        rotation.retire(config, "k1")
    assert "loaded anew" in caught.value.hint
    load(config, *map(event, range(9)))
    assert rotation.retokenize(config).left == {}
    rotation.retire(config, "k1")


def test_a_second_token_of_the_same_field_needs_no_vault_of_its_own(
    bare_database: LoginDatabase, keyring: Path
) -> None:
    """As the network of an address: its original is in the vault of the other column."""
    twin = {"from": "device", "type": "text", "mask": "token", "domain": "twin", "vault": False}
    config = configuration(bare_database, keyring, VAULTED | {"twin": twin})
    app.migrate(config)
    load(config, *map(event, range(9)))
    assert rotation.rotate(config).without_vault == ()
    assert rotation.retokenize(config).left == {}
    rotation.retire(config, "k1")
    rows = bare_database.execute(f"SELECT who, twin FROM {TABLE}")
    assert {twin for _, twin in rows} == {token(config, "twin", who) for who, _ in rows}


@pytest.mark.parametrize("change", ["dropped", "without a vault"])
def test_entries_of_a_column_that_was_configured_otherwise_since(
    bare_database: LoginDatabase, config: Config, keyring: Path, change: str
) -> None:
    """The vault goes to the new key as a whole: else the old one could never be retired."""
    load(config, *map(event, range(9)))
    columns = {name: column for name, column in VAULTED.items() if name != "device"}
    if change == "without a vault":
        columns["device"] = VAULTED["device"] | {"vault": False}
    else:
        bare_database.execute(f"DELETE FROM {TABLE}")
    later = configuration(bare_database, keyring, columns)
    rotation.rotate(later)
    assert rotation.retokenize(later).left == {}
    rotation.retire(later, "k1")
    assert vault_kids(bare_database) == {"k2"}
    assert {f"device-{number}" for number in range(9)} <= set(originals(bare_database, keyring).values())


def test_what_begins_a_rotation_that_cannot_be(bare_database: LoginDatabase, config: Config, keyring: Path) -> None:
    with pytest.raises(RefusedError, match="k1 is the only token key"):
        rotation.retokenize(config)
    with pytest.raises(RefusedError, match="k1 is the active key"):
        rotation.retire(config, "k1")
    with pytest.raises(ConfigError, match='the key "k9" is not in the keyring'):
        rotation.retire(config, "k9")
    prefix = {"from": "ip", "type": "text", "parse": "ip", "mask": "ipcrypt-pfx", "domain": "pfx"}
    with pytest.raises(RefusedError, match="near: ipcrypt-pfx does not tell its key"):
        rotation.rotate(configuration(bare_database, keyring, VAULTED | {"near": prefix}))
    rotation.rotate(config)
    with pytest.raises(RefusedError, match="the rotation to k2 is not over"):
        rotation.rotate(config)
    assert custody.loader_keys(config).kids == ("k2", "k1")


# --- another canonical form -------------------------------------------------------------------------------------------


def folding(config: Config) -> Config:
    """Return the configuration with devices that ignore case."""
    columns = VAULTED | {"device": VAULTED["device"] | {"casefold": True}}
    return configuration(config.conninfo(), config.keys.path, columns)


def test_a_form_is_frozen_for_a_key(bare_database: LoginDatabase, config: Config) -> None:
    load(config, event(1))
    with pytest.raises(ConfigError) as caught:
        Loader(folding(config))
    assert caught.value.message == (
        'the canonical form of domain device is "text/v1" under k1, [columns] says "text/v1+casefold"'
    )
    assert caught.value.hint == (
        "its tokens would change unseen: undo parse, casefold and strip_chars, or begin a new key with "
        "`coatcheck keys rotate`"
    )
    assert bare_database.count(TABLE) == 1
    with pytest.raises(ConfigError):
        app.quarantine_retry(folding(config), Selection())
    load(config, event(2))


@pytest.mark.parametrize("why", ["another key", "another form", "a retired key"])
def test_a_keyring_that_is_refused_leaves_no_trace(
    bare_database: LoginDatabase, config: Config, tmp_path: Path, why: str
) -> None:
    """Else it would freeze forms for those who come after it."""
    load(config, event(1))
    outdated = old_keyring(config, tmp_path)
    if why == "another key":
        create(tmp_path / "another", "tenant")
        outdated = configuration(bare_database, tmp_path / "another", VAULTED)
    if why == "a retired key":
        rotation.rotate(config)
        rotation.retokenize(config)
        rotation.retire(config, "k1")
    before = [bare_database.execute(f"SELECT * FROM coatcheck.{name}") for name in ("token_key", "form")]
    extra = {"extra": VAULTED["device"] | {"domain": "extra"}}
    wrong = configuration(
        bare_database,
        outdated.keys.path,
        VAULTED | extra | ({"device": VAULTED["device"] | {"casefold": True}} if why == "another form" else {}),
    )
    with pytest.raises(ConfigError):
        Loader(wrong)
    assert [bare_database.execute(f"SELECT * FROM coatcheck.{name}") for name in ("token_key", "form")] == before


def test_a_coarser_form_comes_with_a_rotation(bare_database: LoginDatabase, config: Config, keyring: Path) -> None:
    """What was several values becomes one, as soon as the first of them is loaded under the new key."""
    spellings = [{"device": name, "who": name.lower()} for name in ("Ada", "ADA", "ada", "Bob")]
    load(config, *(event(1, **spelling) for spelling in spellings))
    assert bare_database.value(f"SELECT count(DISTINCT device) FROM {TABLE}") == 4
    later = folding(config)
    rotation.rotate(later)
    load(later, event(1, **spellings[0]))

    def tokens(name: str) -> dict[str, str]:
        return dict(bare_database.execute(f"SELECT device, who FROM {name} WHERE who = 'ada'"))

    assert len(tokens(f"{TABLE}_current")) == 3  # Ada is new, ADA and ada have not been seen since
    load(later, *(event(1, **spelling) for spelling in spellings))
    assert len(tokens(f"{TABLE}_current")) == 1
    done = rotation.retokenize(later)
    assert (done.mismatched, done.left) == (0, {})
    assert tokens(TABLE) == {token(later, "device", "aDa"): "ada"}
    rotation.retire(later, "k1")
    held = {original for (text, _), original in originals(bare_database, keyring).items() if "_device_" in text}
    assert held in ({name, "Bob"} for name in ("Ada", "ADA", "ada"))
    with pytest.raises(ConfigError, match='is "text/v1\\+casefold" under k2'):
        Loader(config)


def test_a_coarser_form_without_a_loader(bare_database: LoginDatabase, config: Config) -> None:
    load(config, *(event(1, device=name) for name in ("Ada", "ADA", "ada", "Bob")))
    later = folding(config)
    rotation.rotate(later)
    assert rotation.retokenize(later).left == {}
    assert bare_database.value(f"SELECT count(DISTINCT device) FROM {TABLE}") == 2
    rotation.retire(later, "k1")


def test_values_without_a_new_form_are_left(bare_database: LoginDatabase, config: Config) -> None:
    """A new form may take all there is of a value: such a row waits for somebody to decide."""
    load(config, event(1, device="--", phone="--"), event(2))
    stripped = {name: VAULTED[name] | {"strip_chars": "-"} for name in ("device", "phone")}
    later = configuration(bare_database, config.keys.path, VAULTED | stripped)
    rotation.rotate(later)
    done = rotation.retokenize(later)
    assert done.left == {"device": 1, "phone": 1}
    assert (done.entries, done.mismatched, done.rows) == (3, 1, 2)


# --- the old key is shut out ------------------------------------------------------------------------------------------


def test_a_keyring_given_as_a_secret_is_changed_neither_here_nor_in_the_database(
    bare_database: LoginDatabase, config: Config, keyring: Path
) -> None:
    """To shut a key out in the database, and then be unable to take it from the keyring, would be half a step."""

    def by_secret() -> Config:
        text = SecretStr((keyring / TOKEN_ROOT).read_text())
        return config.model_copy(update={"keys": config.keys.model_copy(update={"token_root": text})})

    load(config, event(1))
    with pytest.raises(RefusedError, match="the keyring comes from") as caught:
        rotation.rotate(by_secret())
    assert caught.value.hint.startswith("change the keyring where its file is")
    assert events(bare_database) == []
    rotation.rotate(config)
    rotation.retokenize(by_secret())
    with pytest.raises(RefusedError, match="the keyring comes from"):
        rotation.retire(by_secret(), "k1")
    assert "key retired" not in events(bare_database)
    rotation.retire(config, "k1")
    assert custody.loader_keys(config).kids == ("k2",)


def test_retire_is_refused_while_anything_is_left(bare_database: LoginDatabase, config: Config) -> None:
    load(config, *map(event, range(12)))
    rotation.rotate(config)
    with pytest.raises(RefusedError) as caught:
        rotation.retire(config, "k1")
    assert (
        caught.value.message == f"rows of public.{TABLE} still have tokens under k1: device 12, ip 12, net 12, phone 12"
    )
    assert caught.value.hint.startswith("run `coatcheck keys retokenize`")
    bare_database.execute(f"DELETE FROM {TABLE}")
    with pytest.raises(RefusedError, match="the vault has 12 entries of the domain device under k1 only") as caught:
        rotation.retire(config, "k1")
    assert caught.value.hint.startswith("run `coatcheck keys retokenize`")
    assert custody.loader_keys(config).kids == ("k2", "k1")
    assert "key retired" not in events(bare_database)
    rotation.retokenize(config)
    rotation.retire(config, "k1")


def test_a_loader_with_the_retired_key_is_refused_at_its_start(
    bare_database: LoginDatabase, config: Config, tmp_path: Path
) -> None:
    load(config, event(1))
    outdated = old_keyring(config, tmp_path)
    rotation.rotate(config)
    rotation.retokenize(config)
    rotation.retire(config, "k1")
    with pytest.raises(ConfigError) as caught:
        Loader(outdated)
    assert caught.value.message == "the token key k1 is retired in this database"
    assert caught.value.hint == "this keyring is out of date: bring the one in use"
    assert caught.value.exit_code == 2
    for work in (
        lambda: app.quarantine_retry(outdated, Selection()),
        lambda: app.runner(outdated, drain=True, metrics=Metrics()),
    ):
        with pytest.raises(CoatcheckError, match="retired"):
            work()
    assert bare_database.count(TABLE) == 1


def test_a_loader_with_the_retired_key_is_refused_in_the_middle_of_its_run(
    bare_database: LoginDatabase, config: Config
) -> None:
    with Loader(config) as before:
        before.load(*map(event, range(10)))
        rotation.rotate(config)
        rotation.retokenize(config)
        rotation.retire(config, "k1")
        with pytest.raises(ConfigError) as caught:
            before.load(*map(event, range(5, 20)), "no json")
    assert caught.value.message == "cannot write to the database: PostgreSQL answers CC001"
    assert caught.value.hint == "another keyring is in use by now: bring it here and start again"
    assert caught.value.exit_code == 2
    assert kids(bare_database) == all_under("k2")
    assert vault_kids(bare_database) == {"k2"}
    assert [bare_database.count(name) for name in (TABLE, "coatcheck.quarantine", "coatcheck.ledger")] == [10, 0, 10]


def test_a_key_that_no_loader_has_used_is_retired_all_the_same(
    bare_database: LoginDatabase, config: Config, tmp_path: Path
) -> None:
    """The database has never heard of it: a backup of the keyring must be shut out nevertheless."""
    outdated = old_keyring(config, tmp_path)
    rotation.rotate(config)
    rotation.retire(config, "k1")
    with pytest.raises(ConfigError, match="the token key k1 is retired"):
        Loader(outdated)
    load(config, event(1))
    assert kids(bare_database) == all_under("k2")


@pytest.mark.parametrize("isolation", ["read committed", "repeatable read", "serializable"])
def test_no_row_slips_in_behind_the_last_look(bare_database: LoginDatabase, config: Config, isolation: str) -> None:
    """A batch under the old key is open while the key is retired: the look waits for its commit, and finds it."""
    load(config, event(1))
    old = token(config, "device", "device-2")
    rotation.rotate(config)
    rotation.retokenize(config)
    bare_database.execute(f"ALTER DATABASE {bare_database.name} SET default_transaction_isolation = '{isolation}'")
    with bare_database.session() as session, ThreadPoolExecutor(1) as pool:
        with session.transaction():
            session.execute("SELECT coatcheck.using_key('k1')")
            session.execute(f"INSERT INTO {TABLE} (device) VALUES (%s)".encode(), [old])
            retiring = pool.submit(rotation.retire, config, "k1")
            wait_until(bare_database.waiting, "the retirement waits for the batch")
        with pytest.raises(RefusedError, match="device 1"):
            retiring.result(LIMIT)
    assert bare_database.value("SELECT count(*) FROM coatcheck.token_key WHERE state = 'retired'") == 0


def test_a_batch_that_begins_while_a_key_is_retired_is_refused(bare_database: LoginDatabase, config: Config) -> None:
    """It waits for the retirement, and then its key is retired: it must not commit."""
    with Loader(config) as before, bare_database.session() as session, ThreadPoolExecutor(1) as pool:
        before.load(event(1))
        with session.transaction():
            session.execute("SELECT pg_advisory_xact_lock(x'636f6177'::int, hashtext('k1'))")
            loading = pool.submit(before.load, event(2))
            wait_until(bare_database.waiting, "the batch waits for the retirement")
            session.execute("UPDATE coatcheck.token_key SET state = 'retired' WHERE kid = 'k1'")
        with pytest.raises(ConfigError, match="CC001"):
            loading.result(LIMIT)
    assert bare_database.count(TABLE) == 1


def test_other_keys_do_not_wait_for_a_retirement(bare_database: LoginDatabase, config: Config) -> None:
    load(config, event(1))
    rotation.rotate(config)
    with Loader(config) as loader, bare_database.session() as session, session.transaction():
        session.execute("SELECT pg_advisory_xact_lock(x'636f6177'::int, hashtext('k1'))")
        assert loader.load(event(2)).loaded == 1


# --- the key that wraps data keys -------------------------------------------------------------------------------------


def sealed_with_history(config: Config) -> tuple[str, str]:
    """Load and reject under one seal pair, rotate it, and do so under the next; return the ids of both."""
    load(config, *map(event, range(5)), "no json, old pair")
    rotated = custody.rotate_seal(config)
    with connect(custody.dsn(config)) as connection:
        add_seal(connection, f"local:{rotated.key_id}")
    load(config, *map(event, range(3, 9)), "no json, new pair")
    return rotated.old_id, rotated.key_id


def bodies(config: Config, database: LoginDatabase) -> list[str | None]:
    opener = custody.opener(config)
    with app.quarantine(config) as entries:
        held = list(entries.opened(Selection()))
    assert len(held) == database.count("coatcheck.quarantine")
    return [opener.open(entry.sealed, entry.data_key, entry.key).decode() for entry in held]


def test_rewrapping_touches_nothing_else(bare_database: LoginDatabase, config: Config, keyring: Path) -> None:
    old, new = sealed_with_history(config)
    tables = ("coatcheck.vault", "coatcheck.quarantine", TABLE)
    before = [bare_database.execute(f"SELECT * FROM {name} ORDER BY 1") for name in tables]
    held = originals(bare_database, keyring)
    with pytest.raises(RefusedError, match=f"1 data keys are wrapped under {old}") as caught:
        rotation.retire_seal(config, old)
    assert caught.value.hint == "run `coatcheck keys rewrap` first"
    told: list[int] = []
    assert rotation.rewrap(config, told.append) == 1
    assert told == [1]
    assert rotation.rewrap(config) == 0
    assert bare_database.execute("SELECT DISTINCT kek FROM coatcheck.data_key") == [(f"local:{new}",)]
    rotation.retire_seal(config, old)
    assert [path.name for path in keyring.glob("seal-private*")] == ["seal-private.pem"]
    assert [bare_database.execute(f"SELECT * FROM {name} ORDER BY 1") for name in tables] == before
    assert originals(bare_database, keyring) == held
    assert len(held) == 18
    assert bodies(config, bare_database) == ["no json, old pair", "no json, new pair"]
    assert events(bare_database) == [
        *["data keys rewrapped"] * 2,
        *["seal key retirement asked", "seal key retired"],
        "quarantine retry opened",
    ]


def test_the_seal_key_in_use_is_not_retired(bare_database: LoginDatabase, config: Config) -> None:
    _, new = sealed_with_history(config)
    for key_id in (new, "0" * 16):
        with pytest.raises(CoatcheckError):
            rotation.retire_seal(config, key_id)
    assert "seal key retired" not in events(bare_database)


def test_many_data_keys_are_rewrapped_in_pages(
    bare_database: LoginDatabase, config: Config, keyring: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from coatcheck.vault import rewrap  # noqa: PLC0415 - only here it is looked into

    monkeypatch.setattr(rewrap, "_PAGE", 7)
    with Loader(config) as loader:
        for number in range(30):
            loader.load(event(number))
            loader.sealer.retire()
    custody.rotate_seal(config)

    def kill(done: int) -> None:
        if done == 14:
            raise KilledError

    with pytest.raises(KilledError):
        rotation.rewrap(config, kill)
    assert len(originals(bare_database, keyring)) == 60
    assert rotation.rewrap(config) == 16
    assert len(originals(bare_database, keyring)) == 60


def test_a_planted_data_key_keeps_no_other_from_being_rewrapped(bare_database: LoginDatabase, config: Config) -> None:
    """A loader may insert what it likes: rubbish must not stop the rotation of all the rest."""
    load(config, *map(event, range(3)))
    rotated = custody.rotate_seal(config)
    for first in "1f":
        bare_database.execute(
            f"INSERT INTO coatcheck.data_key VALUES (('{first}' || repeat('0', 31))::uuid, %s, 'rubbish')",
            f"local:{rotated.old_id}",
        )
    with pytest.raises(CoatcheckError, match="2 data keys do not open") as caught:
        rotation.rewrap(config)
    assert caught.value.hint
    left = bare_database.value("SELECT count(*) FROM coatcheck.data_key WHERE kek = %s", f"local:{rotated.old_id}")
    assert left == 2


# --- the audit trail --------------------------------------------------------------------------------------------------


def lp(*texts: str) -> bytes:
    return b"".join(len(text.encode()).to_bytes(4, "big") + text.encode() for text in texts)


def verify(database: LoginDatabase) -> list[tuple[str, str, Any]]:
    """Compute the chain anew, and return actor, event and detail of each entry."""
    before, entries = bytes(32), []
    for place, row in enumerate(database.execute("SELECT * FROM coatcheck.audit ORDER BY seq"), 1):
        seq, at_us, actor, event, detail, digest = row
        assert seq == place
        text = (
            before
            + seq.to_bytes(8, "big", signed=True)
            + at_us.to_bytes(8, "big", signed=True)
            + lp(actor, event, detail)
        )
        before = hashlib.sha256(text).digest()
        assert digest == before
        entries.append((actor, event, json.loads(detail)))
    return entries


def test_what_is_done_with_keys_is_on_record(bare_database: LoginDatabase, config: Config) -> None:
    load(config, *map(event, range(7)))
    rotation.rotate(config)
    with pytest.raises(RefusedError):
        rotation.rotate(config)
    rotation.retokenize(config)
    rotation.retire(config, "k1")
    old = custody.rotate_seal(config).old_id
    rotation.rewrap(config)
    rotation.retire_seal(config, old)
    seal = custody.loader_keys(config).describe()["kek"]
    counts = {"entries": 14, "rows": 7, "mismatched": 0, "foreign": 0, "left": {}}
    assert verify(bare_database) == [
        ("postgres", name, detail)
        for name, detail in [
            ("rotation asked", {}),
            ("token key added", {"old": "k1", "new": "k2"}),
            ("rotation asked", {}),
            ("retokenize begun", {"old": "k1", "new": "k2"}),
            ("retokenize ended", {"old": "k1", "new": "k2"} | counts),
            ("key retired", {"kid": "k1"}),
            ("data keys rewrapped", {"kek": seal, "count": 2, "damaged": 0}),
            ("seal key retirement asked", {"key": old}),
            ("seal key retired", {"key": old}),
        ]
    ]


def test_the_chain_is_the_same_in_every_session(bare_database: LoginDatabase, config: Config) -> None:
    """Whatever its time zone, date style and encoding, with odd actors and texts, and several at once."""
    del config
    name = 'Åsa "the auditor"'
    quoted = psycopg.sql.Identifier(name).as_string()
    bare_database.execute(f"CREATE ROLE {quoted} LOGIN SUPERUSER PASSWORD 'known'")
    try:
        dsn = psycopg.conninfo.make_conninfo(bare_database.dsn, user=name, password="known")
        settings = ("-c timezone=Asia/Tokyo -c datestyle=german", "-c client_encoding=latin1", "-c bytea_output=escape")

        def append(options: str) -> None:
            with psycopg.connect(dsn, options=options, autocommit=True) as connection:
                for number in range(30):
                    connection.execute("SET ROLE postgres")
                    connection.execute(
                        "SELECT coatcheck.audit_append(%s, %s)", [f"é {number}", json.dumps({"é": options})]
                    )

        with ThreadPoolExecutor(3) as pool:
            list(pool.map(append, settings))
        entries = verify(bare_database)
    finally:
        bare_database.execute(f"DROP ROLE {quoted}")
    assert len(entries) == 90
    assert {actor for actor, _, _ in entries} == {name}


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE coatcheck.audit SET detail = '{}' WHERE seq = 2",
        "UPDATE coatcheck.audit SET actor = 'x' WHERE seq = 1",
        "UPDATE coatcheck.audit SET at_us = at_us + 1 WHERE seq = 3",
        "UPDATE coatcheck.audit SET event = event || substr(detail, 1, 1), detail = substr(detail, 2) WHERE seq = 2",
        "DELETE FROM coatcheck.audit WHERE seq = 2",
        "DELETE FROM coatcheck.audit WHERE seq = 1",
    ],
)
def test_a_change_in_the_trail_shows(bare_database: LoginDatabase, config: Config, change: str) -> None:
    rotation.rotate(config)
    rotation.retokenize(config)
    assert len(verify(bare_database)) == 4
    bare_database.execute(change)
    with pytest.raises(AssertionError):
        verify(bare_database)


def test_the_trail_holds_no_value(bare_database: LoginDatabase, config: Config) -> None:
    load(config, *(event(n, device=f"canary-{n}", phone=f"canary-{n}") for n in range(9)), "canary")
    replant(bare_database, token(config, "device", "canary-1"), token(config, "device", "canary-2"))
    rotation.rotate(config)
    rotation.retokenize(config)
    with pytest.raises(RefusedError) as caught:
        rotation.retire(config, "k1")
    shown = f"{caught.value.message} {caught.value.hint}"
    assert "canary" not in shown + str(bare_database.execute("SELECT * FROM coatcheck.audit"))
    assert "pt1_" not in str(bare_database.execute("SELECT * FROM coatcheck.audit"))
    for word in ("canary", b"canary".hex()):
        assert word not in bare_database.text()
