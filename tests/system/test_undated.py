"""A server that does not tell when messages were sent: each still has one effect, and no time is invented."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Thread

import pytest
from tests.support.fix_servers import LoginDatabase, login
from tests.support.process import Command
from tests.support.scripted_sqs import ScriptedSqs

DATED = login(1, create_date="2026-11-25")


@contextmanager
def old_server(*bodies: str) -> Iterator[str]:
    """Serve these messages, always under the same ids, in a thread of its own; give the endpoint."""
    started, ended = Event(), Event()
    found: list[str] = []

    async def serve() -> None:
        async with ScriptedSqs() as server:
            server.knows = ()
            server.put(*bodies)
            found.append(server.url)
            started.set()
            await asyncio.to_thread(ended.wait)

    thread = Thread(target=asyncio.run, args=(serve(),))
    thread.start()
    try:
        assert started.wait(10)
        yield found[0]
    finally:
        ended.set()
        thread.join()


def test_a_redelivery_is_known_again(login_database: LoginDatabase, tmp_path: Path, keyring: Path) -> None:
    """As after a kill between commit and ack: the same messages come once more, at another moment of our clock."""
    variables = {"DATABASE_URL": login_database.dsn, "COATCHECK_KEYS__PATH": str(keyring)}
    command = Command(tmp_path, variables | {"COATCHECK_SOURCE__QUEUE": "logins"})
    counts = []
    for _ in range(2):
        with old_server(DATED, login(2)) as url:
            counts.append(command("run", "--drain", "--json", AWS_ENDPOINT_URL=url).json())
    told = [(each["loaded"], each["rejected"], each["duplicates"]) for each in counts]
    assert told == [(1, 1, 0), (0, 0, 2)]
    assert login_database.rows() == 1
    assert login_database.execute("SELECT DISTINCT slot FROM coatcheck.ledger") == [(-1,)]
    assert login_database.execute("SELECT reason, detail FROM coatcheck.quarantine") == [
        ("missing_field", "create_date")
    ]
    (entry,) = [line for line in command("quarantine", "list").out.splitlines() if "missing_field" in line]
    assert " unknown " in entry
    assert "1969" not in entry


def test_the_lag_of_such_messages_is_not_told(login_database: LoginDatabase, tmp_path: Path, keyring: Path) -> None:
    variables = {"DATABASE_URL": login_database.dsn, "COATCHECK_KEYS__PATH": str(keyring)}
    command = Command(tmp_path, variables | {"COATCHECK_SOURCE__QUEUE": "logins"})
    with old_server(DATED) as url:
        command("run", "--drain", AWS_ENDPOINT_URL=url)
    lag_s = login_database.value("SELECT extract(epoch FROM committed_at - oldest_sent)::float8 FROM coatcheck.batch")
    assert lag_s == pytest.approx(0, abs=60)
