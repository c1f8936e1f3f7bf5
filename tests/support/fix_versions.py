"""PostgreSQL of two versions: that of the other tests, and the oldest that Debian has put on this machine."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psycopg
import pytest
from psycopg import sql
from tests.support.fix_postgres import OPTIONS, make_roles, postgres
from tests.support.fix_servers import LoginDatabase

from coatcheck import app
from coatcheck.config import Config
from coatcheck.demo.servers import DEBIAN, PostgresServer
from coatcheck.sinks.postgres.roles import PREFIX, ROLES

OLDEST = 15
"""The oldest version that coatcheck is for."""

_numbers = itertools.count()


def debians() -> Path | None:
    """Return the programs of Debian's oldest PostgreSQL here that is not too old."""
    found = {int(place.parent.name): place for place in DEBIAN.glob("*/bin") if re.fullmatch(r"\d+", place.parent.name)}
    fit = [version for version in sorted(found) if version >= OLDEST and (found[version] / "postgres").exists()]
    return found[fit[0]] if fit else None


@pytest.fixture(scope="session")
def debian_server() -> Iterator[PostgresServer]:
    """A server of Debian's PostgreSQL."""
    programs = debians()
    if programs is None:
        pytest.skip("no PostgreSQL of Debian here (make setup-debian)")
    with ExitStack() as stack:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("PG_BIN", str(programs))
            server = stack.enter_context(postgres(OPTIONS))
        make_roles(server)
        yield server


@pytest.fixture(
    params=["postgres_server", pytest.param("debian_server", marks=pytest.mark.xdist_group("debian_server"))],
    ids=["newest", "debian"],
)
def any_server(request: pytest.FixtureRequest) -> PostgresServer:
    """Each server in turn; that of Debian's in one worker only."""
    server: PostgresServer = request.getfixturevalue(request.param)
    return server


@contextmanager
def fresh(server: PostgresServer, base: str = "template1") -> Iterator[LoginDatabase]:
    """Make a database for one test."""
    database = LoginDatabase(server, f"any_{next(_numbers)}")
    database.create(base)
    try:
        yield database
    finally:
        database.drop()


def template(server: PostgresServer, name: str, prepare: Callable[[LoginDatabase], None]) -> str:
    """Make a template for `fresh`, unless the server has it; return its name."""
    with psycopg.connect(server.dsn, autocommit=True) as connection:
        there = connection.execute("SELECT FROM pg_database WHERE datname = %s", [name]).fetchone()
    if there is None:
        database = LoginDatabase(server, name)
        database.create("template1")
        prepare(database)
        database.close()
    return name


@pytest.fixture
def any_database(any_server: PostgresServer) -> Iterator[LoginDatabase]:
    """A database of one's own on each server, migrated for the login pipeline."""
    with fresh(any_server, template(any_server, "logins_of_any", _migrate)) as database:
        yield database


def _migrate(database: LoginDatabase) -> None:
    app.migrate(Config.model_validate({"target": {"dsn": database.dsn}}))


@pytest.fixture
def any_bare_database(any_server: PostgresServer) -> Iterator[LoginDatabase]:
    """A database of one's own on each server with nothing in it."""
    with fresh(any_server) as database:
        yield database


@contextmanager
def without_roles(server: PostgresServer) -> Iterator[list[LoginDatabase]]:
    """Have a server without coatcheck's roles; the databases in the list go before the roles that were made in them."""
    names = [PREFIX + role for role in ROLES]
    databases: list[LoginDatabase] = []

    def rename(old: str, new: str) -> None:
        for name in names:
            _admin(server, "ALTER ROLE {} RENAME TO {}", old + name, new + name)

    rename("", "away_")
    try:
        yield databases
    finally:
        logins = [name for database in databases for name in database.roles]
        for database in databases:
            database.roles.clear()
            database.drop()
        for name in [*names, *logins]:
            _admin(server, "DROP ROLE IF EXISTS {}", name)
        rename("away_", "")


@pytest.fixture
def roleless(any_server: PostgresServer) -> Iterator[tuple[LoginDatabase, LoginDatabase]]:
    """Two empty databases on each server, which has none of coatcheck's roles."""
    with without_roles(any_server) as databases:
        for _ in range(2):
            database = LoginDatabase(any_server, f"any_{next(_numbers)}")
            database.create("template1")
            databases.append(database)
        yield databases[0], databases[1]


def _admin(server: PostgresServer, statement: str, *names: str) -> None:
    with psycopg.connect(server.dsn, autocommit=True) as connection:
        connection.execute(sql.SQL(statement).format(*map(sql.Identifier, names)))
