"""The laboratory of one test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.faults.lab import Lab, laboratory
from tests.support.fix_servers import LoginDatabase

from coatcheck.demo.servers import SqsServer


@pytest.fixture
def lab(tmp_path: Path, sqs: SqsServer, login_database: LoginDatabase, keyring: Path) -> Iterator[Lab]:
    """A laboratory with a queue and a database of its own."""
    with laboratory(tmp_path, sqs=sqs, database=login_database, keyring=keyring) as ready:
        yield ready
