"""The queries of docs/analysts.md run as an analyst, and tell what they are said to tell."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from tests.support.fix_servers import LoginDatabase, login
from tests.support.vaults import load

from coatcheck.config import Config
from coatcheck.sinks.postgres import current_view

GUIDE = (Path(__file__).parents[2] / "docs" / "analysts.md").read_text(encoding="utf-8")
QUERIES: list[str] = re.findall(r"```sql\n(.*?)```", GUIDE, re.DOTALL)


Answers = list[list[tuple[Any, ...]]]


@pytest.fixture
def asked(login_database: LoginDatabase, keyring: Path) -> Iterator[Callable[[str], Answers]]:
    """What an analyst is told where two share an address, and one who was alone with his was erased."""
    config = Config.model_validate({"target": {"dsn": login_database.dsn}, "keys": {"path": str(keyring)}})
    load(config, *(login(number, ip="198.51.100.20", app_version="2.3.1") for number in (1, 2)))
    load(config, *(login(number, app_version="3.0") for number in (3, 4)))
    login_database.execute(
        "UPDATE user_logins SET masked_ip = 'px1_ip_k1_' || repeat('0', 40) WHERE user_id = 'user-3'"
    )
    current_view.make_view(login_database.dsn, "public.user_logins", config.plan())
    with psycopg.connect(login_database.role("coatcheck_analyst")) as analyst:
        yield lambda table: [
            analyst.execute(query.replace("FROM user_logins", f"FROM {table}").encode()).fetchall() for query in QUERIES
        ]


@pytest.mark.parametrize("table", ["user_logins", "user_logins_current"])
def test_the_queries_tell_what_they_are_said_to(asked: Callable[[str], Answers], table: str) -> None:
    sharing, versions, [(addresses,)] = asked(table)
    assert [row[1:] for row in sharing] == [(2, 2, 2)]
    assert versions == [(3, 0, 0, 2), (2, 3, 1, 2)]
    assert addresses == 2  # the tombstone is none
