"""TLS to PostgreSQL: another host has to prove who it is, unless somebody says that it need not."""

from __future__ import annotations

import os
import shutil
import ssl
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace

import psycopg
import pytest
import trustme
from cryptography import x509
from tests.support.fix_postgres import batch, postgres_sink, rows, write
from tests.support.fix_versions import debians

from coatcheck.demo.servers import PostgresServer
from coatcheck.errors import UnreachableError
from coatcheck.sinks.postgres import figures
from coatcheck.sql import connection
from coatcheck.sql.certificate import ends_at
from coatcheck.sql.sqlstate import Verdict, sqlstate_of, verdict

pytestmark = pytest.mark.xdist_group("tls")
HOST = "db.test"
"""The name on the certificate. `hostaddr` leads it to loopback: libpq holds the certificate against the name."""


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def server(authority: trustme.CA) -> Iterator[PostgresServer]:
    """PostgreSQL with a certificate for HOST; that of the wheel is built without TLS."""
    programs = debians()
    if programs is None:
        pytest.skip("no PostgreSQL of Debian here (make setup-debian)")
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        folder.chmod(0o711)
        certificate = authority.issue_cert(HOST)
        key, chain = folder / "server.key", folder / "server.crt"
        certificate.private_key_pem.write_to_path(key)
        certificate.cert_chain_pems[0].write_to_path(chain)
        key.chmod(0o400)
        if os.geteuid() == 0:
            shutil.chown(key, "nobody")
        with pytest.MonkeyPatch.context() as patch:  # for this start only, not for those of other tests
            patch.setenv("PG_BIN", str(programs))
            options = ("ssl=on", f"ssl_cert_file={chain}", f"ssl_key_file={key}")
            running = stack.enter_context(PostgresServer(options=options))
        yield running


@pytest.fixture
def roots(authority: trustme.CA, tmp_path: Path) -> Path:
    """A file with the authority."""
    path = tmp_path / "roots.pem"
    authority.cert_pem.write_to_path(path)
    return path


@pytest.fixture(autouse=True)
def nobody_says_how(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in [name for name in os.environ if name.startswith("PG")]:
        monkeypatch.delenv(name)
    monkeypatch.setattr(connection, "LIBPQ_ROOTS", tmp_path / "none")


def away(server: PostgresServer, host: str = HOST, **options: str) -> str:
    """Return the connection string for the server as another host."""
    return psycopg.conninfo.make_conninfo(server.dsn, host=host, hostaddr="127.0.0.1", **options)


def in_use(dsn: str) -> bool:
    """Connect, and tell whether TLS is in use."""
    with connection.connect(dsn) as open_:
        found = open_.execute("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()").fetchone()
    assert found is not None
    return bool(found[0])


def test_the_machines_authorities_are_asked(server: PostgresServer) -> None:
    with pytest.raises(UnreachableError, match="does not prove by TLS who it is") as caught:
        connection.connect(away(server))
    assert "sslrootcert" in caught.value.hint


def test_a_named_authority(server: PostgresServer, roots: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert in_use(away(server, sslrootcert=str(roots)))
    monkeypatch.setenv("PGSSLROOTCERT", str(roots))
    assert in_use(away(server))


def test_an_authority_where_libpq_looks_for_it(roots: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Then it is left to libpq."""
    assert "sslrootcert" in connection.conninfo("host=db.example")
    monkeypatch.setattr(connection, "LIBPQ_ROOTS", roots)
    assert "sslrootcert" not in connection.conninfo("host=db.example")
    assert "sslmode=verify-full" in connection.conninfo("host=db.example")


def test_a_certificate_for_another_name(server: PostgresServer, roots: Path) -> None:
    with pytest.raises(UnreachableError, match="does not prove by TLS who it is"):
        connection.connect(away(server, "other.test", sslrootcert=str(roots)))


def test_the_end_of_a_certificate_is_told(server: PostgresServer, roots: Path) -> None:
    with psycopg.connect(server.dsn) as plain:
        (chain,) = plain.execute("SELECT pg_read_file(current_setting('ssl_cert_file'))").fetchone() or ("",)
    end = x509.load_pem_x509_certificate(chain.encode()).not_valid_after_utc.timestamp()
    assert end > time.time()
    assert ends_at(HOST, "127.0.0.1", server.port) == end
    gauges = figures.samples(away(server, sslrootcert=str(roots)), "none", None, ())
    assert ("coatcheck_certificate_expiry_timestamp_seconds", "database", end) in gauges


def test_a_server_without_tls_has_none(postgres_server: PostgresServer) -> None:
    assert ends_at(HOST, "127.0.0.1", postgres_server.port) is None


def test_a_server_without_tls(postgres_server: PostgresServer) -> None:
    with pytest.raises(UnreachableError, match="does not prove by TLS who it is") as caught:
        connection.connect(away(postgres_server))
    assert "sslmode=disable" in caught.value.hint
    assert not in_use(away(postgres_server, sslmode="disable"))


def test_this_machine_needs_no_proof(postgres_server: PostgresServer) -> None:
    assert not in_use(postgres_server.dsn)


def test_somebody_says_how(postgres_server: PostgresServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGSSLMODE", "disable")
    assert not in_use(away(postgres_server))


def test_a_worker_stops_instead_of_trying_for_ever(server: PostgresServer) -> None:
    with pytest.raises(UnreachableError, match="does not prove by TLS who it is"):
        write(postgres_sink(away(server)), batch(rows(1)))


@pytest.mark.parametrize(
    ("dsn", "proof"),
    [
        ("", True),
        ("host=/run/postgresql", True),
        ("host=@abstract", True),
        ("host=localhost", True),
        ("host=127.0.0.1,::1", True),
        ("postgresql://[::1]/x", True),
        ("hostaddr=127.0.0.1", True),
        ("host=localhost hostaddr=203.0.113.5 sslmode=prefer", False),
        ("host=/run/postgresql hostaddr=203.0.113.5 sslmode=prefer", False),
        ("host=db.example", True),
        ("host=db.example sslmode=verify-full", True),
        ("service=x", True),
        ("host=db.example sslmode=verify-ca", False),
        ("host=db.example sslmode=require", False),
        ("host=localhost,db.example sslmode=prefer", False),
        ("host=10.0.0.1 sslmode=disable", False),
    ],
)
def test_whether_it_is_verified(dsn: str, *, proof: bool) -> None:
    assert connection.is_verified(dsn) == proof


@pytest.mark.parametrize(
    "dsn", ["host=localhost hostaddr=203.0.113.5", "host=/run hostaddr=203.0.113.5", "host=db.test hostaddr=127.0.0.1"]
)
def test_name_and_address_both_count(dsn: str) -> None:
    assert "sslmode=verify-full" in connection.conninfo(dsn)


def test_an_address_of_the_environment_beside_a_local_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGHOSTADDR", "203.0.113.5")
    assert "sslmode=verify-full" in connection.conninfo("host=localhost")


class Unreachable(type(Path())):  # type: ignore[misc]  # the class that this system's paths have
    """A path whose user has no home, or another's."""

    error: type[Exception]

    def expanduser(self) -> Path:
        raise self.error


@pytest.mark.parametrize("error", [PermissionError, RuntimeError])
def test_a_user_without_a_home(error: type[Exception], monkeypatch: pytest.MonkeyPatch) -> None:
    path = Unreachable("~/x")
    path.error = error
    monkeypatch.setattr(connection, "LIBPQ_ROOTS", path)
    assert "sslmode=verify-full" in connection.conninfo("host=db.example")


def test_a_python_that_knows_no_authorities(monkeypatch: pytest.MonkeyPatch, roots: Path) -> None:
    monkeypatch.setattr(ssl, "get_default_verify_paths", lambda: SimpleNamespace(cafile=None))
    monkeypatch.setattr(connection, "BUNDLES", ("/no/such/file", str(roots)))
    assert f"sslrootcert={roots}" in connection.conninfo("host=db.example")
    monkeypatch.setattr(connection, "BUNDLES", ())
    assert "sslrootcert=system" in connection.conninfo("host=db.example")


WORDS = {
    "FATAL:  sorry, too many clients already": "53300",
    'FATAL:  too many connections for role "x"': "53300",
    "FATAL:  remaining connection slots are reserved for roles with the SUPERUSER attribute": "53300",
    "FATAL:  the database system is starting up": "57P03",
    "FATAL:  the database system is not yet accepting connections": "57P03",
    "SSL error: certificate verify failed": "TLS00",
    "could not load system root certificate paths: unknown error": "TLS00",
    'server certificate for "a" does not match host name "b"': "TLS00",
    "server does not support SSL, but SSL was required": "TLS00",
    "SSL connection has been closed unexpectedly": "08006",
    "SSL error: unexpected eof while reading": "08006",
}


@pytest.mark.parametrize("words", WORDS)
def test_refused_connections_by_libpqs_words(words: str) -> None:
    code = sqlstate_of(psycopg.OperationalError(f"connection failed: {words}"))
    assert code == WORDS[words]
    assert (verdict(code) is Verdict.STOP) == (code == "TLS00")


def test_a_foreign_server_that_is_away_passes() -> None:
    """08001 comes from postgres_fdw, behind a partition or a trigger."""
    assert verdict("08001") is Verdict.RETRY


@pytest.mark.parametrize("name", ["PGHOST", "PGHOSTADDR"])
def test_hosts_by_libpqs_variables(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "192.0.2.1")
    assert "sslmode=verify-full" in connection.conninfo("")
    monkeypatch.setenv("PGSERVICE", "x")
    assert "sslmode" not in connection.conninfo("")
