"""PgBouncer before a database of a test."""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psycopg
import pytest
from tests.support.fix_postgres import LIMIT, Database

from coatcheck.demo.guarded import free_port

PGBOUNCER = shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin:/usr/local/sbin")
needs_pgbouncer = pytest.mark.skipif(PGBOUNCER is None, reason="pgbouncer is not installed")


@contextmanager
def pgbouncer(database: Database, pool: int, *, reset: bool = True) -> Iterator[str]:
    """Run PgBouncer before a database, pooling by transaction with `pool` server connections; yield the DSN.

    With `reset` nothing of a session outlives its transaction; without, as PgBouncer comes, everything does.
    """
    server = psycopg.conninfo.conninfo_to_dict(database.dsn)
    folder = Path(tempfile.mkdtemp(prefix="pgbouncer-"))
    port = free_port()
    config = folder / "pgbouncer.ini"
    config.write_text(
        f"[databases]\n{database.name} = host=127.0.0.1 port={server['port']} dbname={database.name}"
        f" user=postgres password={server['password']}\n"
        f"[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\nauth_type = any\n"
        f"pool_mode = transaction\ndefault_pool_size = {pool}\nserver_reset_query = DISCARD ALL\n"
        f"server_reset_query_always = {int(reset)}\nmax_client_conn = 100\n"
    )
    user = ["-u", "nobody"] if os.geteuid() == 0 else []
    with (folder / "log").open("wb") as log, subprocess.Popen([str(PGBOUNCER), *user, config], stderr=log) as process:
        try:
            dsn = f"postgresql://{secrets.token_hex(4)}@127.0.0.1:{port}/{database.name}"
            wait_for(dsn, process)
            yield dsn
        finally:
            process.terminate()
            process.wait()
            shutil.rmtree(folder)


def wait_for(dsn: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + LIMIT
    while time.monotonic() < deadline and process.poll() is None:
        with suppress(psycopg.OperationalError), psycopg.connect(dsn):
            return
        time.sleep(0.02)
    pytest.fail("PgBouncer does not answer")
