"""Whatever somebody plants in a schema of the search_path: none of it runs in a session of ours (CVE-2018-1058)."""

from __future__ import annotations

from pathlib import Path

import psycopg
import pytest
from tests.integration.test_session_settings import looking, of_tour, tour
from tests.support.fix_servers import LoginDatabase
from tests.support.traps import plant


def test_no_namesake_runs_in_any_command(bare_database: LoginDatabase, tmp_path: Path) -> None:
    """With them in front of PostgreSQL's own: the harshest search_path that a role or connection string can have."""
    assert plant(bare_database.dsn, "trap") > 1000
    dsn = psycopg.conninfo.make_conninfo(bare_database.dsn, options="-c search_path=public,trap,pg_catalog")
    with psycopg.connect(dsn, autocommit=True) as connection, pytest.raises(psycopg.Error) as caught:
        connection.execute("SELECT relname FROM pg_class")
    assert caught.value.sqlstate == "TRAPS", "else this tells nothing"
    tour(of_tour(dsn, tmp_path), looking(bare_database))
