"""Why there is no connection: what servers, poolers and libpq say is told apart, by what to do about it."""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
import pytest
from tests.support.fix_postgres import Database, batch, postgres_sink, rows, until
from tests.support.pooler import needs_pgbouncer, pgbouncer

from coatcheck.errors import CoatcheckError, UnreachableError
from coatcheck.sinks.postgres.faults import fault_of
from coatcheck.sql.connection import connect
from coatcheck.sql.refusals import UNSUITABLE
from coatcheck.sql.sqlstate import Verdict, is_permanent, sqlstate_of, verdict

CANARY = "canary-7f3a"
"""A name of a user, host or database in what the server says; it may be anything, and stays there."""

PERMANENT: dict[str, tuple[str, str]] = {
    f'password authentication failed for user "{CANARY}"': ("28P01", "password is wrong"),
    "password authentication failed": ("28P01", "password is wrong"),  # PgBouncer
    "SASL authentication failed": ("28P01", "password is wrong"),
    "empty password returned by client": ("28P01", "password"),
    f'PAM authentication failed for user "{CANARY}"': ("28000", "iam"),
    f'LDAP authentication failed for user "{CANARY}"': ("28000", "directory"),
    f'RADIUS authentication failed for user "{CANARY}"': ("28000", "RADIUS"),
    f'Peer authentication failed for user "{CANARY}"': ("28000", "pg_ident.conf"),
    f'Ident authentication failed for user "{CANARY}"': ("28000", "pg_ident.conf"),
    f'GSSAPI authentication failed for user "{CANARY}"': ("28000", "klist"),
    f'certificate authentication failed for user "{CANARY}"': ("28000", "sslcert"),
    "connection requires a valid client certificate": ("28000", "sslcert"),
    f'OAuth bearer authentication failed for user "{CANARY}"': ("28000", "log"),
    f'pg_hba.conf rejects connection for host "10.0.0.1", user "{CANARY}", database "x", no encryption': (
        "28000",
        "pg_hba.conf",
    ),
    f'no pg_hba.conf entry for host "10.0.0.1", user "{CANARY}", database "x", SSL encryption': (
        "28000",
        "pg_hba.conf",
    ),
    f'no pg_hba.conf entry for host "10.0.0.1", user "{CANARY}", database "x", no encryption': ("28000", "sslmode"),
    f'no pg_hba.conf entry for host "10.0.0.1", user "{CANARY}", database "x", SSL off': ("28000", "sslmode"),
    "SSL required": ("28000", "sslmode"),
    f'role "{CANARY}" does not exist': ("28000", "create the role"),
    'role "password authentication failed" does not exist': ("28000", "create the role"),
    f'role "{CANARY}" is not permitted to log in': ("28000", "LOGIN"),
    f"no such user: {CANARY}": ("28000", "pooler"),
    f'database "{CANARY}" does not exist': ("3D000", "create the database"),
    'database "the database system is starting up" does not exist': ("3D000", "create the database"),
    f"no such database: {CANARY}": ("3D000", "[databases]"),
    f'database "{CANARY}" is not currently accepting connections': ("55000", "ALLOW_CONNECTIONS"),
    f'permission denied for database "{CANARY}"': ("42501", "GRANT CONNECT"),
    "unsupported startup parameter: options": ("SET00", "ignore_startup_parameters"),
    f'unrecognized configuration parameter "{CANARY}"': ("SET00", "options"),
    f'invalid value for parameter "{CANARY}": "x"': ("SET00", "options"),
    "conversion between UTF8 and MULE_INTERNAL is not supported": ("SET00", "encoding"),
}
PASSING: dict[str, tuple[str, str]] = {
    "sorry, too many clients already": ("53300", "max_connections"),
    f'too many connections for role "{CANARY}"': ("53300", "max_connections"),
    "remaining connection slots are reserved for roles with the SUPERUSER attribute": ("53300", "max_connections"),
    "the database system is starting up": ("57P03", "wait"),
    "the database system is shutting down": ("57P03", "wait"),
    "the database system is in recovery mode": ("57P03", "wait"),
    "the database system is not yet accepting connections": ("57P03", "wait"),
    "the database system is not accepting connections": ("57P03", "wait"),
    "no more connections allowed (max_client_conn)": ("53300", "max_client_conn"),
    "query_wait_timeout": ("53300", "max_client_conn"),
    "server login has been failing, try again later (server_login_retry)": ("08006", "pooler"),
    "server login has been failing, cached error: password authentication failed (server_login_retry)": (
        "08006",
        "pooler",
    ),
    "pgbouncer cannot connect to server": ("08006", "pooler"),
    "das Datenbanksystem startet": ("57P03", "language"),
    "数据库系统启动中": ("57P03", "language"),
}


@contextmanager
def refusing(text: str, *, severity: str = "FATAL", after_password: bool = False) -> Iterator[str]:
    """Serve one answer: that it refuses the connection in these words, or asks for the password before."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=_refuse, args=(listening, text, severity, after_password), daemon=True)
        thread.start()
        port = listening.getsockname()[1]
        yield f"postgresql://{CANARY}:{CANARY}-secret@127.0.0.1:{port}/{CANARY}?gssencmode=disable&sslmode=disable"
        listening.shutdown(socket.SHUT_RDWR)
        thread.join()


def _refuse(listening: socket.socket, text: str, severity: str, after_password: bool) -> None:  # noqa: FBT001 - of a thread
    while True:
        try:
            client, _ = listening.accept()
        except OSError:
            return
        with client:
            client.recv(4096)
            if after_password:
                client.sendall(b"R" + struct.pack("!ii", 8, 3))
                client.recv(4096)
            fields = b"".join(
                kind + value.encode() + b"\0"
                for kind, value in ((b"S", severity), (b"V", "FATAL"), (b"C", "XX000"), (b"M", text))
            )
            client.sendall(b"E" + struct.pack("!i", len(fields) + 5) + fields + b"\0")


def refused(dsn: str) -> tuple[psycopg.Error, CoatcheckError]:
    """Return what psycopg says, and what is made of it."""
    with pytest.raises(psycopg.OperationalError) as low:
        psycopg.connect(dsn)
    with pytest.raises(CoatcheckError) as caught:
        connect(dsn)
    for said in (str(caught.value), repr(caught.value), caught.value.hint):
        assert CANARY not in said
    assert caught.value.hint
    return low.value, caught.value


@pytest.mark.parametrize("text", PERMANENT)
def test_what_only_people_mend(text: str) -> None:
    code, hint = PERMANENT[text]
    with refusing(text) as dsn:
        low, told = refused(dsn)
    assert sqlstate_of(low) == code
    assert hint in told.hint
    assert told.exit_code == (2 if code == UNSUITABLE else 3)
    assert is_permanent(low)
    with pytest.raises(CoatcheckError):  # neither waited out, nor held against a row
        fault_of(low, "write")


@pytest.mark.parametrize("text", PASSING)
def test_what_passes_by_itself(text: str) -> None:
    code, hint = PASSING[text]
    with refusing(text) as dsn:
        low, told = refused(dsn)
    assert sqlstate_of(low) == code
    assert hint in told.hint
    assert isinstance(told, UnreachableError)
    assert not is_permanent(low)
    assert verdict(code) is Verdict.RETRY


@pytest.mark.parametrize("severity", ["FATAL", "致命错误", "ВАЖНО", "FATALE"])
def test_a_server_that_speaks_another_language(severity: str) -> None:
    """After the password was sent it is the login that is refused; who looks into the log finds why."""
    with refusing("Passwort-Authentifizierung fehlgeschlagen", severity=severity, after_password=True) as dsn:
        low, told = refused(dsn)
    assert is_permanent(low)
    assert sqlstate_of(low) == "REF00"
    assert "log" in told.hint


NOBODY: dict[str, tuple[str, str]] = {
    "host=no-such-host.invalid": ("not known", "DNS"),
    "host=127.0.0.1 port=1": ("does not answer", "nobody listens"),
    "host=/no/such/folder": ("does not answer", "nobody listens"),
}


@pytest.mark.parametrize("dsn", NOBODY)
def test_nobody_there(dsn: str) -> None:
    what, hint = NOBODY[dsn]
    low, told = refused(f"{dsn} user={CANARY} dbname={CANARY}")
    assert what in told.message
    assert hint in told.hint
    assert isinstance(told, UnreachableError)
    assert (sqlstate_of(low), is_permanent(low)) == ("08006", False)


def test_a_server_that_says_nothing() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        _, told = refused(f"host=127.0.0.1 port={port} user=x dbname=x connect_timeout=2")
    assert "in time" in told.message
    assert "firewall" in told.hint


def test_a_server_without_tls(database: Database) -> None:
    low, told = refused(psycopg.conninfo.make_conninfo(database.dsn, sslmode="require"))
    assert sqlstate_of(low) == "TLS00"
    assert "no TLS" in told.message
    assert "sslmode=disable" in told.hint


@needs_pgbouncer
def test_a_pooler_itself(database: Database) -> None:
    with pgbouncer(database, 1) as dsn:
        low, told = refused(dsn.rpartition("/")[0] + "/no_such_one")
        assert (sqlstate_of(low), told.exit_code) == ("3D000", 3)
        _, told = refused(psycopg.conninfo.make_conninfo(dsn, options="-c work_mem=4MB"))
        assert "ignore_startup_parameters" in told.hint


@pytest.mark.usefixtures("quick_retries")
def test_a_password_that_is_being_changed(database: Database, caplog: pytest.LogCaptureFixture) -> None:
    """A running worker bears with it for a while; when the password is what it was, it goes on."""
    dsn = database.role("coatcheck_loader", "ALL ON events")
    role = database.roles[-1]
    sink = postgres_sink(dsn, connections=1, login_patience_s=60.0)

    async def work() -> None:
        assert (await sink.write(batch(rows(1)))).loaded == 1
        database.execute(f"ALTER ROLE {role} PASSWORD 'another'")
        database.terminate()
        writing = asyncio.create_task(sink.write(batch(rows(2))))
        await until(lambda: "the database refuses the login" in caplog.text, "it is told")
        assert not writing.done()
        database.execute(f"ALTER ROLE {role} PASSWORD 'known'")
        assert (await writing).loaded == 1
        await sink.close()

    asyncio.run(work())
    assert "another" not in caplog.text
    assert "known" not in caplog.text.replace("unknown", "")


@pytest.mark.usefixtures("quick_retries")
def test_patience_ends(database: Database) -> None:
    dsn = database.role("coatcheck_loader", "ALL ON events")
    sink = postgres_sink(dsn, connections=1, login_patience_s=0.3)

    async def work() -> None:
        assert (await sink.write(batch(rows(1)))).loaded == 1
        database.execute(f"ALTER ROLE {database.roles[-1]} NOLOGIN")
        database.terminate()
        with pytest.raises(UnreachableError, match="may not log in"):
            await sink.write(batch(rows(2)))
        await sink.close()

    asyncio.run(work())
