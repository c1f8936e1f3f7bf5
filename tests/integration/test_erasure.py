"""Erasure: what is asked for is gone for good, nothing else is, and what remains is said. As the role for it only."""

from __future__ import annotations

import itertools
import json
import re
import shutil
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psycopg
import pytest
from tests.support.fix_postgres import LIMIT
from tests.support.fix_servers import LoginDatabase
from tests.support.vaults import MASKED, TABLE, Loader, configuration, event, load, originals, token

from coatcheck import app, custody, desk, erasure, rotation
from coatcheck.config import Config
from coatcheck.demo.servers import PostgresServer
from coatcheck.erasure import Erasure, Why
from coatcheck.errors import CoatcheckError, ConfigError, RefusedError, UnreachableError
from coatcheck.keys.local import create
from coatcheck.vault import erase as module
from coatcheck.vault.erase import Epoch, Erased, Subject

USER: dict[str, object] = {"from": "user_id", "type": "varchar(20)"}
COLUMNS = {"user_id": USER} | MASKED
WHY = Why("DSAR", "INC-1")
TOMBSTONE = re.compile(r"px1_[a-z]+_k[0-9]+_[0-9a-f]{40}")
_numbers = itertools.count()
VAULTED = ("device", "ip")


@pytest.fixture
def keyring(tmp_path: Path) -> Path:
    folder = tmp_path / "keys"
    create(folder, "tenant")
    return folder


CATALOGUE = """
WITH ours AS (SELECT oid FROM pg_namespace WHERE nspname IN ('public', 'coatcheck'))
SELECT oid, xmin::text FROM pg_class WHERE relnamespace IN (SELECT oid FROM ours)
UNION ALL
SELECT attrelid, a.xmin::text FROM pg_attribute AS a JOIN pg_class AS c ON c.oid = attrelid
WHERE relnamespace IN (SELECT oid FROM ours)
UNION ALL
SELECT oid, xmin::text FROM pg_proc WHERE pronamespace IN (SELECT oid FROM ours)
UNION ALL
SELECT oid, xmin::text FROM pg_constraint WHERE connamespace IN (SELECT oid FROM ours)
UNION ALL
SELECT oid, xmin::text FROM pg_trigger
ORDER BY 1, 2
"""
EMPTY = (
    TABLE, "coatcheck.ledger", "coatcheck.quarantine", "coatcheck.batch", "coatcheck.data_key", "coatcheck.vault",
    "coatcheck.alias", "coatcheck.token_key", "coatcheck.seal_key", "coatcheck.form", "coatcheck.audit",
    "coatcheck.reveal_item", "coatcheck.reveal_approval", "coatcheck.reveal_opening", "coatcheck.reveal_request",
)  # fmt: skip


class Lent(LoginDatabase):
    """A database that is lent to one test after another, as long as none changes its schema."""

    def catalogue(self) -> list[tuple[Any, ...]]:
        return self.execute(CATALOGUE)

    def clean(self) -> None:
        """Remove the rows and the roles that a test has made."""
        self.execute("".join(f"DELETE FROM {name};" for name in EMPTY))
        self.execute("SELECT setval(pg_get_serial_sequence('coatcheck.reveal_request', 'request_id'), 1, false)")
        while self.roles:
            self._admin("DROP ROLE {}", self.roles.pop())


@pytest.fixture(scope="module")
def _lent(postgres_server: PostgresServer) -> Iterator[list[Lent]]:
    """What can be lent: one database at most, migrated for COLUMNS; and the template that it is a copy of."""
    template = Lent(postgres_server, "erasures")
    template.create("template1")
    app.migrate(configuration(template, Path("none"), COLUMNS))
    free: list[Lent] = []
    yield free
    for database in (*free, template):
        database.drop()


@pytest.fixture
def database(postgres_server: PostgresServer, _lent: list[Lent]) -> Iterator[LoginDatabase]:
    """A database with the table for COLUMNS and nothing in it."""
    if _lent:
        database = _lent.pop()
    else:
        database = Lent(postgres_server, f"erasure_{next(_numbers)}")
        database.create("erasures")
    database.mark()
    before = database.catalogue()
    yield database
    if database.catalogue() == before:
        database.clean()
        _lent.append(database)
    else:
        database.drop()


@pytest.fixture
def config(database: LoginDatabase, keyring: Path) -> Config:
    return configuration(database, keyring, COLUMNS)


@pytest.fixture
def eraser(database: LoginDatabase, config: Config) -> Config:
    """The configuration of whoever erases: with the token root, and no right in the database but the role's."""
    return as_role(database, config, "coatcheck_eraser")


@pytest.fixture
def small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    """A few rows become many pages."""
    monkeypatch.setattr(module, "_TEXTS", 2)
    monkeypatch.setattr(module, "_ROWS", 7)


def as_role(database: LoginDatabase, config: Config, *roles: str) -> Config:
    return configuration(database.role(*roles), config.keys.path, COLUMNS, table=config.target.table)


def login(user: object, number: int, **changes: object) -> str:
    return event(number, user_id=user, **changes)


def rows(database: LoginDatabase, table: str = TABLE) -> list[dict[str, str | None]]:
    names = ("user_id", *MASKED)
    found = database.execute(f"SELECT {', '.join(names)} FROM {table} ORDER BY user_id, ctid")
    return [dict(zip(names, row, strict=True)) for row in found]


def of(database: LoginDatabase, user: str | None, table: str = TABLE) -> list[dict[str, str | None]]:
    return [row for row in rows(database, table) if row["user_id"] == user]


def erased(text: str | None) -> bool:
    return text is not None and TOMBSTONE.fullmatch(text) is not None


def vault(database: LoginDatabase) -> set[str]:
    return {text for (text,) in database.execute("SELECT token FROM coatcheck.vault")}


def consistent(database: LoginDatabase) -> bool:
    """Whether each token of the vault's columns has an original, and each original a row."""
    found = rows(database)
    return vault(database) == {t for r in found for n in VAULTED if (t := r[n]) and not erased(t)}


def events(database: LoginDatabase) -> list[tuple[str, dict[str, Any]]]:
    found = database.execute("SELECT event, detail FROM coatcheck.audit WHERE event LIKE '%%eras%%' ORDER BY seq")
    return [(event, json.loads(detail)) for event, detail in found]


def said(found: Erasure) -> str:
    return "\n".join(remainder.what for remainder in found.remains)


def done(found: Erasure) -> Erased:
    assert isinstance(found.erased, Erased)
    return found.erased


# --- by token ---------------------------------------------------------------------------------------------------------


def test_a_token_goes_from_vault_and_rows(database: LoginDatabase, config: Config, eraser: Config) -> None:
    load(config, *(login(f"u{n}", n % 3) for n in range(9)))
    gone, before = token(config, "ip", "10.0.1.1"), rows(database)
    found = erasure.erase_tokens(eraser, [gone, gone], WHY)
    assert (done(found).texts, done(found).entries, done(found).rows) == (1, 1, {"ip": 3})
    after = rows(database)
    tombstones = [row["ip"] for row in after if erased(row["ip"])]
    assert len(set(tombstones)) == 3, "each row has another"
    assert all(text and text.startswith("px1_ip_k1_") for text in tombstones)
    assert [row | {"ip": None} for row in after] == [row | {"ip": None} for row in before]
    assert [row["ip"] for row in after if not erased(row["ip"])] == [r["ip"] for r in before if r["ip"] != gone]
    assert gone not in database.text()
    assert consistent(database)
    assert "column net, which has the network of the address" in said(found)
    assert events(database) == [
        ("erasure begun", {"how": "token", "reason": "DSAR", "ticket": "INC-1", "tokens": 1}),
        ("tokens erased", {"erasure": 1, "tokens": 1, "entries": 1, "aliases": 0, "named": 0}),
        ("erasure ended",
         {"erasure": 1, "texts": 1, "entries": 1, "named": 0, "shared": 0, "late": 0, "tombstones": 3}),
    ]  # fmt: skip
    again = erasure.erase_tokens(eraser, [gone], WHY)
    assert (done(again).entries, done(again).rows) == (0, {})
    assert rows(database) == after


@pytest.mark.usefixtures("small_pages")
def test_many_texts_go_in_pages(database: LoginDatabase, config: Config, eraser: Config) -> None:
    """Tokens of several domains, and sealed texts, at once."""
    load(config, *(login("u", n) for n in range(12)))
    before = rows(database)
    texts = [str(row[name]) for row in before[:5] for name in ("device", "ip", "phone")]
    seen: list[int] = []
    found = erasure.erase_tokens(eraser, texts, WHY, lambda so_far: seen.append(so_far.texts))
    assert done(found).rows == {"device": 5, "ip": 5, "phone": 5}
    assert done(found).entries == 10
    assert seen[:8] == [2, 4, 6, 8, 10, 12, 14, 15]
    assert vault(database) == {str(row[name]) for row in before[5:] for name in VAULTED}
    assert consistent(database)


def test_all_epochs_of_a_token_go(database: LoginDatabase, config: Config, eraser: Config) -> None:
    with Loader(config) as loader:
        for epoch in (20251, 20252):
            loader.vault._epoch = lambda epoch=epoch: epoch  # type: ignore[misc]
            loader.load(login("u", 1), login("v", 2))
    assert done(erasure.erase_tokens(eraser, [token(config, "device", "device-1")], WHY)).entries == 2
    assert database.count("coatcheck.vault") == 6


def test_requests_do_not_name_it_any_more(database: LoginDatabase, config: Config, eraser: Config) -> None:
    load(config, login("u", 1), login("v", 2))
    gone, kept = (token(config, "device", f"device-{n}") for n in (1, 2))
    desk.request(config, [gone, kept], reason="FRAUD", ticket="INC-2")
    desk.request(config, [kept], reason="FRAUD", ticket="INC-3")
    assert done(erasure.erase_tokens(eraser, [gone], WHY)).named == 1
    items = database.execute('SELECT request_id, item FROM coatcheck.reveal_item ORDER BY 1, item COLLATE "C"')
    assert [(number, item.split(":")[0]) for number, item in items] == [(1, "erased"), (1, kept), (2, kept)]
    assert database.execute("SELECT salt IS NULL FROM coatcheck.reveal_request ORDER BY request_id") == [
        (True,), (False,),
    ]  # fmt: skip
    assert gone not in database.text()


def test_what_is_no_token_is_not_repeated() -> None:
    """It may be a value that somebody took for a token: it does not even come as far as the database."""
    nowhere = configuration("host=127.0.0.1 port=1", Path("none"), COLUMNS)
    for text in ("canary", "pt1_ip_k1_", "192.0.2.77", "px1_ip_k1_" + "0" * 40):
        with pytest.raises(ConfigError, match="item 2 is no token") as caught:
            erasure.erase_tokens(nowhere, [f"pt1_ip_k1_{'0' * 40}", text], WHY)
        assert text not in f"{caught.value.message} {caught.value.hint}"


# --- by value ---------------------------------------------------------------------------------------------------------


def test_a_value_goes_as_token_and_as_sealed_text(bare_database: LoginDatabase, keyring: Path) -> None:
    """All columns of the domain, and what else the field has become is named."""
    field: dict[str, Any] = {"from": "ip", "type": "text", "parse": "ip"}
    columns = {
        "user_id": {"from": "user_id", "type": "text"},
        "one": field | {"mask": "token", "domain": "ip"},
        "two": {"from": "last_ip", "type": "text", "parse": "ip", "mask": "token", "domain": "ip"},
        "sealed": field | {"mask": "seal", "domain": "ip"},
        "net": field | {"mask": "subnet", "domain": "net"},
        "near": field | {"mask": "ipcrypt-pfx", "domain": "near"},
        "other": field | {"mask": "token", "domain": "other"},
        "hash": {"from": "ip", "type": "text", "mask": "sha256-insecure"},
        "kept": {"from": "ip", "type": "text"},
    }
    sections = {"masking": {"allow_sha256_insecure": True}}
    config = configuration(bare_database, keyring, columns, **sections)
    app.migrate(config)
    bodies = [{"user_id": f"u{n}", "ip": f"10.0.0.{n % 3}", "last_ip": f"10.0.0.{n % 2}"} for n in range(6)]
    load(config, *map(json.dumps, bodies))
    before = bare_database.execute(f"SELECT net, near, other, hash, kept, user_id FROM {TABLE} ORDER BY user_id")
    eraser = configuration(bare_database.role("coatcheck_eraser"), keyring, columns, **sections)
    found = erasure.erase_value(eraser, "ip", "::ffff:10.0.0.1", WHY)
    assert done(found).rows == {"one": 2, "two": 3, "sealed": 2}
    assert (
        bare_database.execute(f"SELECT net, near, other, hash, kept, user_id FROM {TABLE} ORDER BY user_id") == before
    )
    for text in (token(config, "one", "10.0.0.1"), token(config, "sealed", "10.0.0.1")):
        assert text not in bare_database.text()
    for name in ("net", "near", "other", "hash", "kept"):
        assert f"column {name}, which" in said(found)
    assert "user_id" not in said(found)
    texts = {text for text, _ in originals(bare_database, keyring)}
    assert texts == {token(config, "one", f"10.0.0.{n}") for n in (0, 2)} | {
        token(config, "other", f"10.0.0.{n}") for n in range(3)
    }


def test_a_value_that_nobody_has(database: LoginDatabase, config: Config, eraser: Config) -> None:
    load(config, login("u", 1))
    before = rows(database)
    found = done(erasure.erase_value(eraser, "device", "device-2", WHY))
    assert (found.entries, found.rows) == (0, {})
    assert rows(database) == before


@pytest.mark.parametrize(
    ("domain", "value", "what"),
    [
        ("ip", "canary", "the value has no token in the domain ip: not_an_ip"),
        ("device", " ", "the value has no token in the domain device: empty_value"),
        ("net", "192.0.2.1", "the domain net holds networks"),
        ("canary", "192.0.2.1", "no column has tokens or sealed texts of this domain"),
    ],
)
def test_a_value_that_can_have_no_token(  # noqa: PLR0917 - fixtures and cases
    database: LoginDatabase, config: Config, eraser: Config, domain: str, value: str, what: str
) -> None:
    load(config, login("u", 1))
    with pytest.raises(ConfigError, match=what) as caught:
        erasure.erase_value(eraser, domain, value, WHY)
    assert caught.value.hint
    assert not {"canary", "192.0.2.1"} & set(re.split(r"[ :,]", f"{caught.value.message} {caught.value.hint}"))
    assert events(database) == []


def test_another_keyring_is_refused(database: LoginDatabase, config: Config, eraser: Config, tmp_path: Path) -> None:
    """Under it the value would have other tokens: nothing would be found, and nobody would know."""
    load(config, login("u", 1))
    outdated = Path(shutil.copytree(config.keys.path, tmp_path / "outdated"))
    rotation.rotate(config)
    load(config, login("u", 1))
    foreign = tmp_path / "foreign"
    create(foreign, "tenant")
    for folder, kids in ((outdated, "k2"), (foreign, "k1, k2")):
        other = configuration(eraser.conninfo(), folder, COLUMNS)
        with pytest.raises(ConfigError, match=f"this keyring does not have the database's {kids}:"):
            erasure.erase_value(other, "device", "device-1", WHY)
    assert events(database) == []


# --- while a rotation lasts -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("moment", ["begun", "retokenized"])
def test_a_value_goes_under_both_keys(database: LoginDatabase, config: Config, eraser: Config, moment: str) -> None:
    """Whichever of its tokens is given, or the value itself."""
    load(config, *(login("u", n) for n in range(4)))
    rotation.rotate(config)
    load(config, *(login(user, n) for n in range(4) for user in ("u", "v")))
    if moment == "retokenized":
        rotation.retokenize(config)
    texts = {(kid, n): token(config, "device", f"device-{n}", kid) for kid in ("k1", "k2") for n in range(3)}
    ways: tuple[Callable[[], Erasure], ...] = (
        lambda: erasure.erase_value(eraser, "device", "device-0", WHY),
        lambda: erasure.erase_tokens(eraser, [texts["k1", 1]], WHY),
        lambda: erasure.erase_tokens(eraser, [texts["k2", 2]], WHY),
    )
    for erase in ways:
        found = erase()
        assert (done(found).rows, done(found).entries) == ({"device": 3}, 2)
        assert "a rotation of the token key is under way" in said(found)
    assert not any(text in database.text() for text in texts.values())
    rotation.retokenize(config)
    assert not any(text in database.text() for text in texts.values())
    assert Counter(erased(row["device"]) for row in rows(database)) == {True: 9, False: 3}


def test_all_spellings_go_that_the_new_key_takes_for_one(
    database: LoginDatabase, config: Config, eraser: Config
) -> None:
    load(config, *(login("u", 1, device=name) for name in ("Ada", "ADA", "Bob")))
    folding = COLUMNS | {"device": COLUMNS["device"] | {"casefold": True}}
    rotation.rotate(configuration(config.conninfo(), config.keys.path, folding))
    later = configuration(config.conninfo(), config.keys.path, folding)
    load(later, *(login("u", 1, device=name) for name in ("Ada", "ADA", "Bob")))
    asked = configuration(eraser.conninfo(), config.keys.path, folding)
    assert done(erasure.erase_value(asked, "device", "Ada", WHY)).rows == {"device": 4}
    assert Counter(erased(row["device"]) for row in rows(database)) == {True: 4, False: 2}


def test_what_two_share_under_two_keys_is_shared(database: LoginDatabase, config: Config, eraser: Config) -> None:
    load(config, login("u", 1))
    rotation.rotate(config)
    load(config, login("v", 1))
    found = done(erasure.erase_subject(eraser, "user_id", "u", WHY))
    assert (found.texts, found.entries, found.shared) == (0, 0, 5)
    [kept] = of(database, "v")
    assert {kept[name] for name in VAULTED} < vault(database)
    found = done(erasure.erase_subject(eraser, "user_id", "v", WHY))
    assert (found.texts, found.entries, found.shared) == (10, 4, 0)
    assert vault(database) == set()
    assert database.count("coatcheck.alias") == 0


# --- by subject -------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("small_pages")
def test_a_subject_goes_and_what_he_shares_stays_with_others(
    database: LoginDatabase, config: Config, eraser: Config
) -> None:
    load(config, *(login("u", n % 10) for n in range(40)), *(login("v", n) for n in range(5)), login(None, 5))
    others = [row for row in rows(database) if row["user_id"] != "u"]
    found = erasure.erase_subject(eraser, "user_id", "u", WHY)
    assert done(found).rows == dict.fromkeys(MASKED, 40)
    mine = of(database, "u")
    assert all(erased(row[name]) for row in mine for name in MASKED)
    assert len({row[name] for row in mine for name in MASKED}) == 200
    assert [row for row in rows(database) if row["user_id"] != "u"] == others
    assert vault(database) == {str(row[name]) for row in others for name in VAULTED}
    exclusive = {
        token(config, name, value)
        for n in range(6, 10)
        for name, value in (
            ("device", f"device-{n}"),
            ("ip", f"10.0.{n % 7}.{n}"),
            ("phone", f"+49 {n}"),
            ("tag", f"tag-{n}"),
        )
    }
    assert done(found).texts >= len(exclusive)
    for text in exclusive:
        assert text not in database.text()
    assert "40 rows with what is not masked: user_id 40" in said(found)
    assert f"{done(found).shared} tokens or networks that rows of others have as well" in said(found)
    assert consistent(database)
    again = erasure.erase_subject(eraser, "user_id", "u", WHY)
    assert (done(again).rows, done(again).entries) == ({}, 0)


def test_what_others_have_in_another_column_of_the_domain_is_shared(
    bare_database: LoginDatabase, keyring: Path
) -> None:
    field: dict[str, Any] = {"type": "text", "mask": "token", "domain": "phone"}
    columns = {
        "user_id": {"from": "u", "type": "text"},
        "caller": field | {"from": "caller"},
        "called": field | {"from": "called"},
    }
    config = configuration(bare_database, keyring, columns)
    app.migrate(config)
    load(config, '{"u": "a", "caller": "1", "called": "2"}', '{"u": "b", "caller": "2", "called": "3"}')
    found = done(erasure.erase_subject(config, "user_id", "a", WHY))
    assert (found.entries, found.shared) == (1, 1)
    assert set(originals(bare_database, keyring).values()) == {"2", "3"}


def test_what_is_no_token_in_a_masked_column_goes_too(database: LoginDatabase, eraser: Config) -> None:
    """A table that was there before coatcheck may hold raw values; nothing of them stays, not even in a tombstone."""
    database.execute(
        f"ALTER TABLE {TABLE} DROP CONSTRAINT device_masked;"
        f"INSERT INTO {TABLE} (user_id, device) VALUES ('u', 'pt1_canary_canary_canary'), ('u', NULL), ('v', 'other')"
    )
    assert done(erasure.erase_subject(eraser, "user_id", "u", WHY)).rows == {"device": 1}
    assert "canary" not in database.text()
    [first, second] = [row["device"] for row in of(database, "u")]
    assert re.fullmatch("px1_device_k0_[0-9a-f]{40}", str(first or second))
    assert of(database, "v")[0]["device"] == "other"


SUBJECTS: tuple[tuple[str, dict[str, object], object, str, str], ...] = (
    ("varchar(20)", {}, "Ünï", "Ünï", "x" * 21),
    ("text", {}, " a'b", " a'b", "canary\0"),
    ("integer", {}, 7, "7", "canary"),
    ("integer", {}, 7, "007", "99999999999"),
    ("bigint", {}, 2**62, str(2**62), "1.5"),
    ("numeric(10,2)", {}, 1.5, "1.50", "canary"),
    ("numeric", {}, 2**70, str(2**70), "1e999999999"),
    ("boolean", {}, True, "true", "canary"),
    ("date", {}, "2020-02-29", "2020-02-29", "2021-02-29"),
    ("timestamptz", {}, "2020-02-29T12:00:00Z", "2020-02-29T13:00:00+01:00", "canary"),
    ("integer", {"parse": "version"}, "1.2.3", "1.2.3", "canary"),
    ("text", {"parse": "ip"}, "::ffff:192.0.2.1", "192.0.2.1", "canary"),
    ("date", {"parse": "timestamp"}, "2020-02-29T12:00:00Z", "2020-02-29T00:00:00Z", "canary"),
)


def test_subjects_of_each_type(bare_database: LoginDatabase, keyring: Path) -> None:
    """As a message has them; one that does not fit is found before PostgreSQL could write it into its log."""
    columns = {f"who{n}": {"from": f"who{n}", "type": case[0]} | case[1] for n, case in enumerate(SUBJECTS)}
    columns["device"] = MASKED["device"]
    config = configuration(bare_database, keyring, columns)
    app.migrate(config)
    bare_database.mark()
    bodies = [{f"who{n}": case[2], "device": f"device-{n}"} for n, case in enumerate(SUBJECTS)]
    load(config, *map(json.dumps, bodies), json.dumps({"device": "nobody's"}))
    eraser = configuration(bare_database.role("coatcheck_eraser"), keyring, columns)
    for n, (_, _, _, given, misfit) in enumerate(SUBJECTS):
        with pytest.raises(ConfigError, match=f"what is given for who{n} does not fit it: ") as caught:
            erasure.erase_subject(eraser, f"who{n}", misfit, WHY)
        assert misfit not in f"{caught.value.message} {caught.value.hint}"
        found = erasure.erase_subject(eraser, f"who{n}", given, WHY)
        assert done(found).rows == {"device": 1}, given
        assert f"1 rows with what is not masked: who{n} 1" in said(found)
    assert list(originals(bare_database, keyring).values()) == ["nobody's"]
    assert "canary" not in bare_database.log()
    assert "ERROR" not in bare_database.log()


def test_a_longer_name_is_another_subject(database: LoginDatabase, config: Config, eraser: Config) -> None:
    """A cast to varchar(20) would cut it; it never comes so far."""
    load(config, login("u" * 20, 1))
    with pytest.raises(ConfigError, match="too_long"):
        erasure.erase_subject(eraser, "user_id", "u" * 21, WHY)
    assert done(erasure.erase_subject(eraser, "user_id", "u" * 19, WHY)).rows == {}
    assert consistent(database)


@pytest.mark.parametrize(
    ("name", "what", "hint"),
    [
        ("device", "the column device is masked", "--value - --domain device"),
        ("canary", "this is no column that tells whose a row is", "are user_id"),
    ],
)
def test_a_column_that_tells_no_subject(eraser: Config, name: str, what: str, hint: str) -> None:
    with pytest.raises(ConfigError, match=what) as caught:
        erasure.erase_subject(eraser, name, "x", WHY)
    assert hint in caught.value.hint
    assert "canary" not in f"{caught.value.message} {caught.value.hint}"


def test_a_subject_shows_no_value() -> None:
    [column] = configuration("", Path("x"), {"user_id": COLUMNS["user_id"]}).plan()
    assert repr(Subject(column, "canary", "public.logins")) == "Subject(user_id)"


@pytest.mark.parametrize("key", ["user_id", "device"])
def test_a_partitioned_table(bare_database: LoginDatabase, keyring: Path, key: str) -> None:
    """With odd names, a partition that is itself partitioned, and the role's rights on the root only.

    By a masked column rows move from one partition to another as they are erased.
    """
    config = configuration(bare_database, keyring, COLUMNS, table="Odd$1.Log_Ins")
    names = ", ".join(f"{name} text" for name in COLUMNS)
    bare_database.execute(
        'CREATE SCHEMA "Odd$1";'
        f'CREATE TABLE "Odd$1"."Log_Ins" ({names}) PARTITION BY HASH ({key});'
        'CREATE TABLE "Odd$1"."p 0" PARTITION OF "Odd$1"."Log_Ins" FOR VALUES WITH (MODULUS 2, REMAINDER 0);'
        'CREATE TABLE "Odd$1"."p""1" PARTITION OF "Odd$1"."Log_Ins" FOR VALUES WITH (MODULUS 2, REMAINDER 1)'
        " PARTITION BY HASH (user_id);"
        'CREATE TABLE "Odd$1".leaf PARTITION OF "Odd$1"."p""1" FOR VALUES WITH (MODULUS 1, REMAINDER 0)'
    )
    app.migrate(config)
    load(config, *(login(f"u{n % 4}", n) for n in range(40)))
    asked = as_role(bare_database, config, "coatcheck_eraser")
    table = '"Odd$1"."Log_Ins"'
    assert done(erasure.erase_subject(asked, "user_id", "u1", WHY)).rows == dict.fromkeys(MASKED, 10)
    assert all(erased(row[name]) for row in of(bare_database, "u1", table) for name in MASKED)
    assert done(erasure.erase_value(asked, "device", "device-2", WHY)).rows == {"device": 1}
    assert Counter(erased(row["device"]) for row in rows(bare_database, table)) == {True: 11, False: 29}


# --- cut short, and beside others -------------------------------------------------------------------------------------


class KilledError(BaseException):
    """Stands for the end of the process."""


@pytest.mark.usefixtures("small_pages")
@pytest.mark.parametrize(
    ("how", "mode", "moment"),
    [("killed", "token", 0), ("cut off", "token", 1), ("killed", "subject", 1), ("cut off", "subject", 0)],
)
def test_cut_short_and_done_again(  # noqa: PLR0917 - fixtures and cases
    database: LoginDatabase, config: Config, eraser: Config, how: str, mode: str, moment: int
) -> None:
    load(config, *(login("u", n) for n in range(30)), *(login("v", n) for n in range(3)))
    texts = [str(row["device"]) for row in of(database, "u")]
    ticks = iter(range(100))

    def cut(_: Erased) -> None:
        if next(ticks) == moment:
            if how == "killed":
                raise KilledError
            assert database.terminate() == 1

    def run(progress: Callable[[Erased], None]) -> Erasure:
        if mode == "token":
            return erasure.erase_tokens(eraser, texts, WHY, progress)
        return erasure.erase_subject(eraser, "user_id", "u", WHY, progress)

    with pytest.raises(KilledError if how == "killed" else UnreachableError):
        run(cut)
    assert consistent(database), "rows and vault know the same"
    assert any(erased(row["device"]) for row in of(database, "u"))
    assert not all(erased(row["device"]) for row in of(database, "u"))
    assert done(run(lambda _: None)).rows
    assert all(erased(row["device"]) for row in of(database, "u"))
    assert consistent(database)
    assert [name for name, _ in events(database)].count("erasure ended") == 1


def test_a_deadlock_with_somebody_else_is_outlived(database: LoginDatabase, config: Config, eraser: Config) -> None:
    """PostgreSQL may choose the job as the one that has to give way: it does the page again, and counts it once."""
    load(config, login("u", 1), login("u", 2))
    database.execute(
        "CREATE SEQUENCE tries; GRANT USAGE ON SEQUENCE tries TO PUBLIC;"
        "CREATE FUNCTION gives_way() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
        " IF nextval('tries') IN (1, 3) THEN RAISE EXCEPTION 'no' USING ERRCODE = '40P01'; END IF; RETURN NULL;"
        " END $$;"
        f"CREATE TRIGGER gives_way AFTER UPDATE ON {TABLE} FOR EACH STATEMENT EXECUTE FUNCTION gives_way()"
    )
    found = done(erasure.erase_value(eraser, "device", "device-1", WHY))
    assert (found.entries, found.rows) == (1, {"device": 1})
    found = done(erasure.erase_subject(eraser, "user_id", "u", WHY))
    assert (found.entries, found.rows["ip"], found.rows["device"]) == (3, 2, 1)
    assert consistent(database)
    database.execute(
        "CREATE OR REPLACE FUNCTION gives_way() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN RAISE EXCEPTION 'no' USING ERRCODE = '40P01'; END $$"
    )
    with pytest.raises(UnreachableError, match="cannot erase: PostgreSQL answers 40P01"):
        erasure.erase_tokens(eraser, [f"pt1_device_k1_{'0' * 40}"], WHY)


@pytest.mark.usefixtures("small_pages")
def test_two_erasures_at_once_leave_nothing_to_each_other(
    database: LoginDatabase, config: Config, eraser: Config
) -> None:
    """Two who share all they have are erased at the same time: the last one takes the originals."""
    load(config, *(login(user, n) for n in range(40) for user in ("u", "v")))
    with ThreadPoolExecutor(2) as pool:
        both = list(pool.map(lambda user: done(erasure.erase_subject(eraser, "user_id", user, WHY)), ("u", "v")))
    assert sum(found.entries for found in both) == 80
    assert vault(database) == set()
    assert all(erased(row[name]) for row in rows(database) for name in MASKED)


@pytest.mark.usefixtures("small_pages")
@pytest.mark.parametrize("mode", ["subject", "value"])
def test_beside_a_loader(database: LoginDatabase, config: Config, eraser: Config, mode: str) -> None:
    """What was there at the start is erased, nothing of others is, and what comes meanwhile is loaded as ever."""
    over, loaded = threading.Event(), threading.Event()
    with Loader(config) as loader:
        loader.load(*(login("u", n % 10) for n in range(60)), *(login("v", n % 20) for n in range(60)))
        database.execute(f"ALTER TABLE {TABLE} ADD COLUMN number bigserial")
        database.execute(f"GRANT SELECT ON {TABLE} TO coatcheck_eraser")
        first = database.value(f"SELECT max(number) FROM {TABLE}")
        others = [row for row in rows(database) if row["user_id"] == "v"]

        def write() -> int:
            times = 0
            while not over.is_set() or not times:
                loader.load(*(login("u", n) for n in range(3)), *(login("w", n) for n in range(5, 25)))
                times += 1
                loaded.set()
            return times

        with ThreadPoolExecutor(1) as pool:
            going = pool.submit(write)
            try:
                assert loaded.wait(LIMIT)
                if mode == "subject":
                    erasure.erase_subject(eraser, "user_id", "u", WHY)
                else:
                    erasure.erase_value(eraser, "device", "device-1", WHY)
            finally:
                over.set()
            times = going.result(LIMIT)
    there = f"SELECT device FROM {TABLE} WHERE user_id = 'u' AND number <= %s"
    gone = [text for (text,) in database.execute(there, first)]
    if mode == "subject":
        assert all(map(erased, gone))
        assert [row for row in rows(database) if row["user_id"] == "v"] == others
    else:
        assert token(config, "device", "device-1") not in gone
        assert Counter(map(erased, gone)) == {True: 6, False: 54}
    assert len(of(database, "u")) == 60 + 3 * times
    assert len(of(database, "w")) == 20 * times
    assert not any(erased(row["phone"]) for row in of(database, "w"))
    assert "deadlock detected" not in database.log()


def test_what_comes_again_is_loaded_as_before(database: LoginDatabase, config: Config, eraser: Config) -> None:
    """Also by a loader that has been there all the time: it forgets what it knew to be stored."""
    text = token(config, "device", "device-1")
    with Loader(config) as loader:
        loader.load(login("u", 1))
        assert erasure.rows_of(eraser, "user_id", "u") == 1
        erasure.erase_value(eraser, "device", "device-1", WHY)
        assert text not in vault(database)
        loader.load(login("u", 1))
    assert text in vault(database)


def test_a_loader_that_is_faster_is_told(config: Config, eraser: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_PASSES", 2)
    with Loader(config) as loader:

        def more(_: Erased) -> None:
            loader.load(login("u", 1))

        more(Erased())
        found = erasure.erase_subject(eraser, "user_id", "u", WHY, more)
        assert done(found).late == 1
        assert "rows that were loaded meanwhile, 1 at the last look" in said(found)
        found = erasure.erase_value(eraser, "ip", "10.0.1.1", WHY, more)
        assert done(found).late == 1
    assert done(erasure.erase_subject(eraser, "user_id", "u", WHY)).late == 0


# --- by epoch ---------------------------------------------------------------------------------------------------------


def fill(config: Config, *epochs: int) -> None:
    for place, epoch in enumerate(epochs):
        with Loader(config) as loader:
            loader.vault._epoch = lambda epoch=epoch: epoch  # type: ignore[misc]
            loader.load(login("u", place), login("v", 9))


def test_an_epoch_goes_with_its_data_keys(
    database: LoginDatabase, config: Config, eraser: Config, keyring: Path
) -> None:
    database.execute("SELECT coatcheck.make_epochs('{20251}')")  # 20252 is in the default partition
    fill(config, 20251, 20252)
    load(config, login("w", 5), "no JSON")
    database.execute(
        "UPDATE coatcheck.data_key SET created_at = now() - interval '3 days' WHERE dek_id IN"
        " (SELECT dek_id FROM coatcheck.vault WHERE epoch = 20251)"
    )
    before = rows(database)
    kek = custody.loader_keys(config).describe()["kek"]
    found = erasure.erase_epoch(eraser, 20251, WHY)
    assert found.erased == Epoch(entries=4, data_keys=1, young=0, keks=(kek,))
    assert f"backups, which open with {kek} until that is destroyed" in said(found)
    assert "1 quarantined messages, sealed and not searched" in said(found)
    assert not database.value("SELECT to_regclass('coatcheck.vault_20251') IS NOT NULL")
    found = erasure.erase_epoch(eraser, 20252, WHY)
    assert found.erased == Epoch(entries=4, data_keys=0, young=1, keks=(kek,))
    assert "1 data keys younger than two days" in said(found)
    assert sorted(originals(database, keyring).values()) == ["10.0.5.5", "device-5"]
    assert rows(database) == before
    assert events(database)[:3] == [
        ("erasure begun", {"how": "epoch", "reason": "DSAR", "ticket": "INC-1", "epoch": 20251}),
        ("epoch erased", {"erasure": 1, "epoch": 20251, "entries": 4, "data_keys": 1}),
        ("erasure ended", {"erasure": 1, "entries": 4, "data_keys": 1}),
    ]
    fill(config, 20251)  # a loader that comes late lands in the default partition
    assert isinstance(erasure.erase_epoch(eraser, 20251, WHY).erased, Epoch)


def test_an_epoch_that_is_not_over_stays(database: LoginDatabase, eraser: Config) -> None:
    for epoch in (2999, 29991, 299912, 1234567, 7):
        with pytest.raises(RefusedError, match="cannot erase the epoch") as caught:
            erasure.erase_epoch(eraser, epoch, WHY)
        assert "stays" in caught.value.hint
    assert {name for name, _ in events(database)} == {"erasure begun"}


def test_an_epoch_in_use_is_left_alone(database: LoginDatabase, config: Config, eraser: Config) -> None:
    database.execute("SELECT coatcheck.make_epochs('{20251}')")
    fill(config, 20251)
    database.execute("ALTER FUNCTION coatcheck.erase_epoch(bigint, integer) SET lock_timeout = '50ms'")
    with database.session() as reader, reader.transaction():
        reader.execute("SELECT FROM coatcheck.vault")
        with pytest.raises(UnreachableError, match="nothing is erased"):
            erasure.erase_epoch(eraser, 20251, WHY)
    assert database.count("coatcheck.vault") == 4


def test_each_way_on_each_postgresql(any_bare_database: LoginDatabase, keyring: Path) -> None:
    database, config = any_bare_database, configuration(any_bare_database, keyring, COLUMNS)
    app.migrate(config)
    fill(config, 20251)
    load(config, *(login(user, n) for n in range(5) for user in ("u", "v")), login("u", 7))
    eraser = as_role(database, config, "coatcheck_eraser")
    assert done(erasure.erase_tokens(eraser, [token(config, "ip", "10.0.1.1")], WHY)).rows == {"ip": 2}
    assert done(erasure.erase_value(eraser, "phone", "+49 2", WHY)).rows == {"phone": 2}
    assert done(erasure.erase_subject(eraser, "user_id", "u", WHY)).entries == 2
    assert isinstance(found := erasure.erase_epoch(eraser, 20251, WHY).erased, Epoch)
    assert (found.entries, found.young) == (4, 1)
    mine, others = of(database, "u"), of(database, "v")
    assert all(erased(row[name]) for row in mine for name in MASKED)
    assert Counter(erased(row[name]) for row in others for name in MASKED) == {True: 2, False: 28}


# --- who may, and what is told ----------------------------------------------------------------------------------------


def test_the_role_erases_and_reads_no_original(config: Config, eraser: Config) -> None:
    load(config, login("u", 1), "no JSON")
    with psycopg.connect(eraser.conninfo(), autocommit=True) as connection:
        for statement in (
            "SELECT ciphertext FROM coatcheck.vault",
            "SELECT FROM coatcheck.vault",
            "SELECT ciphertext FROM coatcheck.quarantine",
            "SELECT FROM coatcheck.data_key",
            "SELECT FROM coatcheck.audit",
            "SELECT FROM coatcheck.reveal_item",
            "DELETE FROM coatcheck.vault",
            f"UPDATE {TABLE} SET user_id = 'x'",
            f"DELETE FROM {TABLE}",
            "SELECT coatcheck.audit_append('x', '{}')",
            "SELECT coatcheck.reveal_fetch(1)",
        ):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute(statement.encode())


def test_who_lacks_a_privilege_is_told_before_anything_is_done(
    database: LoginDatabase, config: Config, eraser: Config
) -> None:
    load(config, login("u", 1))
    before = rows(database)
    nobody = as_role(database, config)
    with pytest.raises(ConfigError) as caught:
        erasure.erase_subject(nobody, "user_id", "u", WHY)
    for what in (
        "USAGE ON SCHEMA coatcheck", "SELECT ON coatcheck.alias",
        "SELECT (state) ON coatcheck.quarantine",
        "EXECUTE ON FUNCTION coatcheck.erase_tokens(erasure_id bigint, tokens text[])",
    ):  # fmt: skip
        assert what in caught.value.message
    database.execute(f"REVOKE SELECT, UPDATE (device, ip, net, phone, tag) ON {TABLE} FROM coatcheck_eraser")
    with pytest.raises(
        ConfigError, match=f"it lacks SELECT ON public.{TABLE}; UPDATE .device, ip, net, phone, tag. ON"
    ):
        erasure.erase_subject(eraser, "user_id", "u", WHY)
    database.execute(f"GRANT SELECT, UPDATE (device, net, phone, tag) ON {TABLE} TO coatcheck_eraser")
    with pytest.raises(ConfigError, match=rf"it lacks UPDATE \(ip\) ON public.{TABLE}$") as caught:
        erasure.erase_value(eraser, "device", "device-1", WHY)
    assert f"GRANT UPDATE (ip) ON public.{TABLE} TO" in caught.value.hint
    assert events(database) == []
    assert rows(database) == before


@pytest.mark.parametrize(("reason", "ticket"), [("canary", "INC-1"), ("DSAR", "canary")])
def test_what_policy_refuses(database: LoginDatabase, config: Config, eraser: Config, reason: str, ticket: str) -> None:
    load(config, login("u", 1))
    with pytest.raises(RefusedError) as caught:
        erasure.erase_subject(eraser, "user_id", "u", Why(reason, ticket))
    assert "`coatcheck reveal policy`" in caught.value.hint
    why = "reason" if reason == "canary" else "ticket"
    assert events(database) == [("erasure refused", {"why": why})]
    assert consistent(database)


def test_the_beginning_is_on_record_whatever_comes_after(
    database: LoginDatabase, config: Config, eraser: Config
) -> None:
    load(config, login("u", 1))
    database.execute(
        "CREATE FUNCTION no() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN RAISE EXCEPTION 'no' USING ERRCODE = '53100'; END $$;"
        f"CREATE TRIGGER no BEFORE UPDATE ON {TABLE} FOR EACH STATEMENT EXECUTE FUNCTION no()"
    )
    with pytest.raises(UnreachableError, match="cannot erase: PostgreSQL answers 53100"):
        erasure.erase_subject(eraser, "user_id", "u", WHY)
    assert events(database) == [
        ("erasure begun", {"how": "subject", "reason": "DSAR", "ticket": "INC-1", "column": "user_id"})
    ]


def test_a_database_that_is_older(database: LoginDatabase, config: Config) -> None:
    database.execute("DROP FUNCTION coatcheck.erase_begin(text, text, text, jsonb)")
    with pytest.raises(ConfigError) as caught:
        erasure.erase_subject(config, "user_id", "u", WHY)
    assert "coatcheck migrate" in caught.value.hint


def test_no_value_is_told_anywhere(database: LoginDatabase, config: Config, eraser: Config, keyring: Path) -> None:
    """Neither the value, nor the subject, nor the token root; whether it goes well or fails."""
    database.mark()
    load(config, login("canary-user", 1, device="canary-device", phone="canary-phone"), login("u", 2))
    shown: list[object] = [
        erasure.erase_value(eraser, "device", "canary-device", WHY),
        erasure.erase_subject(eraser, "user_id", "canary-user", WHY),
    ]
    database.execute(
        "CREATE FUNCTION no() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN RAISE EXCEPTION 'no' USING ERRCODE = '23514'; END $$;"
        f"CREATE TRIGGER no BEFORE UPDATE ON {TABLE} FOR EACH STATEMENT EXECUTE FUNCTION no()"
    )
    load(config, login("canary-user", 1, device="canary-device"))
    works: tuple[Callable[[], Erasure], ...] = (
        lambda: erasure.erase_value(eraser, "device", "canary-device", WHY),
        lambda: erasure.erase_subject(eraser, "user_id", "canary-user", WHY),
        lambda: erasure.erase_value(eraser, "ip", "canary-ip", WHY),
    )
    for work in works:
        with pytest.raises(CoatcheckError) as caught:
            work()
        shown += [caught.value.message, caught.value.hint, str(caught.value)]
    root = json.loads((keyring / "token-root.json").read_text())
    secrets = re.findall(r"[A-Za-z0-9+/=_-]{40,}", json.dumps(root))
    assert secrets
    audit = str(database.execute("SELECT * FROM coatcheck.audit"))
    for place in (str(shown), audit, database.log()):
        assert "canary" not in place
        assert "pt1_" not in place
        assert not any(secret in place for secret in secrets)
