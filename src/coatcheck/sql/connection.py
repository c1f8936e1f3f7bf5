"""Connections to PostgreSQL: what every one gets, and a synchronous one for commands."""

from __future__ import annotations

import ipaddress
import os
import ssl
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import psycopg

from coatcheck.errors import CoatcheckError, ConfigError
from coatcheck.loop import in_thread
from coatcheck.sql.refusals import NO_PASSWORD, NotConnectedError
from coatcheck.sql.session import AsyncSession, Session
from coatcheck.sql.sqlstate import stop_error

CONNECTION: dict[str, str | int] = {
    "application_name": "coatcheck",
    "connect_timeout": 10,
    "keepalives_idle": 30,
    "keepalives_interval": 10,
    "keepalives_count": 3,
    "tcp_user_timeout": 30_000,
}
"""What a connection gets unless the connection string says otherwise: a silent peer is noticed within a minute."""


class Dsn(str):
    """A connection string whose password is made for each connection. `password` raises CoatcheckError."""

    __slots__ = ("password",)
    password: Callable[[], str]

    def __new__(cls, text: str, password: Callable[[], str]) -> Self:
        """Return `text` with the function that makes the password."""
        made = super().__new__(cls, text)
        made.password = password
        return made

    def __repr__(self) -> str:
        """Show nothing: it may hold a password, too."""
        return "Dsn(...)"


@dataclass(frozen=True, slots=True)
class Place:
    """Where a connection string leads, for those who make passwords: one host, port and user; and its sslmode."""

    host: str
    port: int
    user: str
    sslmode: str


def place_of(dsn: str) -> Place:
    """Return where `dsn` leads, libpq's variables and service files included. Raises ConfigError: to several hosts."""
    given = {name: str(value) for name, value in psycopg.conninfo.conninfo_to_dict(conninfo(dsn)).items()}
    defaults = psycopg.pq.Conninfo.get_defaults()
    found = {one.keyword.decode(): one.val.decode() for one in defaults if one.val is not None} | given
    if "," in found.get("host", "") or not found.get("host", "").strip("/@"):
        raise ConfigError("the database has no single host to make a token for", hint="[target] dsn with one host=")
    return Place(found["host"], int(found.get("port") or 5432), found.get("user", ""), found.get("sslmode", ""))


LIBPQ_ROOTS = Path("~/.postgresql/root.crt")
"""Where libpq looks for certificate authorities by itself."""
BUNDLES = (
    "/etc/ssl/certs/ca-certificates.crt",  # Debian, Alpine
    "/etc/pki/tls/certs/ca-bundle.crt",  # Fedora, Amazon Linux
    "/etc/ssl/ca-bundle.pem",  # SUSE
    "/etc/ssl/cert.pem",  # macOS
)
"""Where systems keep theirs; a Python of its own may not know."""


def conninfo(dsn: str) -> str:
    """Return `dsn` completed by CONNECTION and, for another host, by TLS; what it says itself stays.

    But for client_encoding: text is UTF-8 from the first byte on, errors of the connection included.

    Another host has to show a certificate for its name (sslmode=verify-full) unless `dsn`, PGSSLMODE or a service file
    says how else. Raises ConfigError: it is no connection string.
    """
    given = None
    with suppress(psycopg.ProgrammingError):
        given = psycopg.conninfo.conninfo_to_dict(dsn)
    if given is None:  # raised here, outside: what was caught quotes the string
        raise ConfigError(
            "the connection string of the database is not understood", hint="see [target] dsn and DATABASE_URL"
        )
    missing = {name: value for name, value in (CONNECTION | _tls(given)).items() if name not in given}
    return psycopg.conninfo.make_conninfo(dsn, **missing, client_encoding="UTF8")


def is_verified(dsn: str) -> bool:
    """Tell whether the host is this one, or has to prove who it is. A service file is not read, and taken to say so."""
    given = psycopg.conninfo.conninfo_to_dict(conninfo(dsn))
    mode = given.get("sslmode") or os.environ.get("PGSSLMODE") or "verify-full"
    return mode == "verify-full" or _is_here(given)


def _tls(given: Mapping[str, Any]) -> dict[str, str]:
    settled = {"sslmode", "service"} & given.keys() or {"PGSSLMODE", "PGSERVICE"} & os.environ.keys()
    if settled or _is_here(given):
        return {}
    with suppress(OSError, RuntimeError):  # a container's user may have no home, or another's
        if "PGSSLROOTCERT" in os.environ or LIBPQ_ROOTS.expanduser().exists():
            return {"sslmode": "verify-full"}
    return {"sslmode": "verify-full", "sslrootcert": _roots()}


def _roots() -> str:
    """Return the machine's file of authorities.

    libpq's own word for it, "system", means the folder with which its OpenSSL was built: in a wheel there is none.
    """
    places = (ssl.get_default_verify_paths().cafile, *BUNDLES)
    return next((place for place in places if place and os.access(place, os.R_OK)), "system")


def _is_here(given: Mapping[str, Any]) -> bool:
    """Tell whether every host, and every address given for one, is this machine: a unix socket, or loopback."""
    named = [given.get(name) or os.environ.get(f"PG{name.upper()}") or "" for name in ("host", "hostaddr")]
    return all(_is_loopback(place) for places in named for place in str(places).split(","))


def _is_loopback(host: str) -> bool:
    if not host or host == "localhost" or host.startswith(("/", "@")):
        return True
    with suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return False


def connect(dsn: str) -> psycopg.Connection[Any]:
    """Open a connection in autocommit mode whose settings are ours. Raises UnreachableError, ConfigError."""
    try:
        connection = Session.connect(_complete(dsn), autocommit=True, prepare_threshold=None)
        try:
            connection.settle()
        except BaseException:
            connection.close()
            raise
    except psycopg.Error as error:
        raise stop_error(error, "connect to the database") from None
    return connection


async def connect_async(dsn: str, *, prepare: bool) -> AsyncSession:
    """Open a connection as `connect` does, for the event loop. Raises psycopg.Error; ConfigError: `dsn` is none."""
    complete = await in_thread(lambda: _complete(dsn)) if isinstance(dsn, Dsn) else _complete(dsn)
    connection = await AsyncSession.connect(complete, autocommit=True, prepare_threshold=5 if prepare else None)
    try:
        await connection.settle()
    except BaseException:
        await connection.close()
        raise
    return connection


def _complete(dsn: str) -> str:
    """Return `conninfo` of `dsn`, with its password if that is made for each connection.

    Raises ConfigError; NotConnectedError: there is no password.
    """
    if not isinstance(dsn, Dsn):
        return conninfo(dsn)
    told: CoatcheckError | None = None
    try:
        return psycopg.conninfo.make_conninfo(conninfo(dsn), password=dsn.password())
    except CoatcheckError as error:
        told = error
    raise NotConnectedError(NO_PASSWORD, told)


@contextmanager
def translated(action: str) -> Iterator[None]:
    """Turn a database error while doing `action` into ours, which quotes no value."""
    try:
        yield
    except psycopg.Error as error:
        raise stop_error(error, action) from None
