"""A database with originals in its vault, on each server, and people with logins of their own who want them."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest
from tests.support.fix_servers import LoginDatabase
from tests.support.vaults import configuration, event, load, token

from coatcheck import app, desk
from coatcheck.config import Config
from coatcheck.demo.servers import PostgresServer
from coatcheck.keys.local import create
from coatcheck.vault.reveal import Original

TICKET = "INC-1234"
NOT_OPEN = "CC003"
"""SQLSTATE of a fetch that no committed opening stands behind."""

TEMPLATE = "desk"


@pytest.fixture(scope="session")
def _desk_keyring(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("desk") / "keys"
    create(folder, "tenant")
    return folder


@pytest.fixture
def desk_keys(_desk_keyring: Path, tmp_path: Path) -> Path:
    """The keyring of `desk_database`; a copy, to be spoilt."""
    return Path(shutil.copytree(_desk_keyring, tmp_path / "desk-keys"))


@pytest.fixture
def desk_database(any_server: PostgresServer, _desk_keyring: Path) -> Iterator[LoginDatabase]:
    """A database on each server with 60 events, and a message that is no JSON. It is lent again if only asked."""
    lent = _free.pop(any_server.dsn, None) or _loaded(any_server, _desk_keyring)
    lent.mark()
    before = lent.execute(CONTENT)
    try:
        yield lent
    finally:
        if lent.execute(CONTENT) == before:
            lent.execute(FORGET)
            clock(lent, "0")
            for role in lent.roles:
                lent.execute(f"DROP ROLE {role}")
            lent.roles.clear()
            _free[any_server.dsn] = lent
        else:
            lent.drop()


_free: dict[str, LoginDatabase] = {}
_numbers = itertools.count()
CONTENT = """
SELECT md5(string_agg(v::text, '' ORDER BY v::text)) FROM coatcheck.vault AS v
UNION ALL SELECT md5(string_agg(q::text, '' ORDER BY q::text)) FROM coatcheck.quarantine AS q
UNION ALL SELECT md5(string_agg(k::text, '' ORDER BY k::text)) FROM coatcheck.token_key AS k
UNION ALL SELECT count(*)::text FROM coatcheck.erased WHERE erasures = 0
UNION ALL SELECT string_agg(attname, ' ') FROM pg_attribute WHERE attrelid = 'logins'::regclass
UNION ALL SELECT count(*)::text FROM pg_views WHERE viewname LIKE 'logins%%'
"""
FORGET = """
DELETE FROM coatcheck.reveal_opening; DELETE FROM coatcheck.reveal_approval; DELETE FROM coatcheck.reveal_item;
DELETE FROM coatcheck.reveal_request; DELETE FROM coatcheck.audit; DELETE FROM coatcheck.policy;
INSERT INTO coatcheck.policy DEFAULT VALUES;
SELECT setval('coatcheck.reveal_request_request_id_seq', 1, false)
"""


def _loaded(server: PostgresServer, keyring: Path) -> LoginDatabase:
    database = LoginDatabase(server, f"desk_{next(_numbers)}")
    with psycopg.connect(server.dsn, autocommit=True) as connection:
        there = connection.execute("SELECT FROM pg_database WHERE datname = %s", [TEMPLATE]).fetchone()
    if there is None:
        template = LoginDatabase(server, TEMPLATE)
        template.create("template1")
        loading = configuration(template, keyring)
        app.migrate(loading)
        load(loading, *map(event, range(60)), "no json")
    database.create(TEMPLATE)
    return database


@pytest.fixture
def desk_config(desk_database: LoginDatabase, desk_keys: Path) -> Config:
    """The owner's configuration."""
    return configuration(desk_database, desk_keys)


@dataclass(frozen=True)
class Person:
    """Somebody with a login of his own."""

    dsn: str
    config: Config

    @property
    def name(self) -> str:
        return str(psycopg.conninfo.conninfo_to_dict(self.dsn)["user"])

    def connect(self, **options: Any) -> psycopg.Connection[Any]:
        return psycopg.connect(self.dsn, autocommit=True, **options)


@dataclass(frozen=True)
class People:
    database: LoginDatabase
    keyring: Path

    def new(self, *roles: str) -> Person:
        dsn = self.database.role(*(f"coatcheck_{role}" for role in roles))
        return Person(dsn, configuration(dsn, self.keyring))


@pytest.fixture
def people(desk_database: LoginDatabase, desk_keys: Path) -> People:
    """Gives logins."""
    return People(desk_database, desk_keys)


@pytest.fixture
def asker(people: People) -> Person:
    """One who may ask."""
    return people.new("revealer")


@pytest.fixture
def approver(people: People) -> Person:
    """One who may approve."""
    return people.new("approver")


def devices(config: Config, count: int = 1, first: int = 0) -> list[str]:
    """The tokens of devices."""
    return [token(config, "device", f"device-{number}") for number in range(first, first + count)]


def ask(person: Person, items: list[str], **options: Any) -> int:
    return desk.request(person.config, items, **{"reason": "FRAUD", "ticket": TICKET} | options).request_id


def approved(asker: Person, approver: Person, items: list[str]) -> int:
    number = ask(asker, items)
    desk.approve(approver.config, number)
    return number


def opened(person: Person, number: int) -> list[Original]:
    shown: list[Original] = []
    assert desk.reveal(person.config, number, shown.extend) == shown
    return shown


def texts(found: list[Original]) -> dict[str, str]:
    return {original.item: original.text for original in found if not original.problem}


def events(database: LoginDatabase, *names: str) -> list[tuple[str, str]]:
    """The trail, as (actor, event)."""
    found = database.execute("SELECT actor, event FROM coatcheck.audit ORDER BY seq")
    return [(actor, name) for actor, name in found if not names or name in names]


def clock(database: LoginDatabase, offset: str) -> None:
    """Have the desk's clock show another time."""
    database.execute(
        "CREATE OR REPLACE FUNCTION coatcheck.clock() RETURNS timestamptz LANGUAGE sql VOLATILE"
        " SET search_path = pg_catalog, pg_temp SET timezone = 'UTC'"
        f" AS $$ SELECT clock_timestamp() + interval '{offset}' $$"
    )


def fetch(connection: psycopg.Connection[Any], number: int) -> list[Any]:
    connection.execute("SELECT coatcheck.reveal_settle(%s)", [number])
    return connection.execute("SELECT * FROM coatcheck.reveal_fetch(%s)", [number]).fetchall()


def refused_to_fetch(connection: psycopg.Connection[Any], number: int) -> bool:
    code = None
    try:
        with connection.transaction():
            fetch(connection, number)
    except psycopg.Error as error:
        code = error.sqlstate
    assert code in (None, NOT_OPEN)
    return code == NOT_OPEN
