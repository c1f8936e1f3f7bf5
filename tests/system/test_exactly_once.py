"""Promise 2, one effect a message: whatever is killed at whatever moment, each message has exactly one row."""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from tests.support.fix_servers import BAD, LoginDatabase, Queue, commanding, feeding, logins, new_queue
from tests.support.process import Command, alive, wait_until
from tests.support.tcp_proxy import TcpProxy

from coatcheck.demo.servers import SqsServer

MESSAGES = 12_000
KILLS = 5


@pytest.fixture
def queue(sqs: SqsServer) -> Iterator[Queue]:
    """A queue whose messages come back soon after their holder's death."""
    with new_queue(sqs, VisibilityTimeout=3) as new:
        yield new


@pytest.fixture
def chance() -> random.Random:
    return random.Random(20_260_101)  # noqa: S311 - the same moments in every run


def more_rows(database: LoginDatabase, more: int) -> None:
    """Wait until so many more rows have appeared, or nearly all."""
    goal = min(database.rows() + more, MESSAGES - 1000)
    wait_until(lambda: database.rows() >= goal, f"{goal} rows")


def exactly_once(command: Command, queue: Queue, database: LoginDatabase, messages: int = MESSAGES) -> None:
    """Load the rest, and hold everything against what was sent."""
    command.drain()
    assert database.figures() == (messages, messages, 0)
    assert database.repeated() == 0
    assert queue.depth() == (0, 0, 0)


def test_one_process_killed_five_times(
    command: Command, queue: Queue, login_database: LoginDatabase, chance: random.Random
) -> None:
    command.set(SOURCE__MAX_IN_FLIGHT=400, BATCH__MESSAGES=300)
    with feeding(queue, logins(MESSAGES), most=400):
        for _ in range(KILLS):
            running = command.start("run")
            more_rows(login_database, chance.randrange(300, 2400))
            assert running.kill().code == -signal.SIGKILL
        assert login_database.rows() < MESSAGES, "the kills came too late to mean anything"
        last = command.start("run")
        more_rows(login_database, MESSAGES)
    last.kill()
    exactly_once(command, queue, login_database)


def test_workers_killed_five_times(
    command: Command, queue: Queue, login_database: LoginDatabase, chance: random.Random
) -> None:
    command.set(SOURCE__MAX_IN_FLIGHT=400, BATCH__MESSAGES=300)
    with feeding(queue, logins(MESSAGES), most=400):
        supervisor = command.start("run", "--workers", "2")
        for _ in range(KILLS):
            more_rows(login_database, chance.randrange(300, 1800))
            victim = chance.choice(wait_until(lambda: command.workers(supervisor), "a worker"))
            with suppress(ProcessLookupError):
                os.kill(victim, signal.SIGKILL)
        assert login_database.rows() < MESSAGES, "the kills came too late to mean anything"
        more_rows(login_database, MESSAGES)
    supervisor.signal(signal.SIGTERM)
    assert supervisor.wait().code == 0
    exactly_once(command, queue, login_database)


def test_workers_stop_by_themselves_when_their_supervisor_is_killed(
    command: Command, queue: Queue, login_database: LoginDatabase
) -> None:
    messages = MESSAGES // 4
    with feeding(queue, logins(messages)):
        supervisor = command.start("run", "--workers", "2")
        more_rows(login_database, messages // 3)
        workers = command.workers(supervisor)
        assert len(workers) == 2
        supervisor.kill()
        wait_until(lambda: not alive(workers), "the workers have stopped", 15)
        assert login_database.rows() < messages, "the kill came too late to mean anything"
    exactly_once(command, queue, login_database, messages)


def test_killed_between_commit_and_ack(
    tmp_path: Path, queue: Queue, login_database: LoginDatabase, keyring: Path
) -> None:
    """The moment that matters most, made to last: acks never reach the queue."""
    messages = [*logins(200), *(BAD % number for number in range(20))]
    queue.send(messages)
    with (
        TcpProxy("127.0.0.1", int(queue.endpoint.rpartition(":")[2])) as between,
        commanding(tmp_path, queue, login_database, keyring) as command,
        login_database.session() as session,
    ):
        command.set(SOURCE__WAIT_SECONDS=1)  # the embedded server does not notice that a poll's owner has died
        with session.transaction():
            session.execute("LOCK TABLE user_logins")
            running = command.start("run", AWS_ENDPOINT_URL=f"http://127.0.0.1:{between.port}")
            wait_until(lambda: queue.depth()[0] == 0 and login_database.waiting(), "all is received, none committed")
            between.deafen()
        wait_until(lambda: login_database.count("coatcheck.ledger") == len(messages), "all is committed")
        wait_until(lambda: between.swallowed, "an ack has been tried")
        running.kill()
        assert sum(queue.depth()) == len(messages)
        counts = command.drain()
    assert (counts["loaded"], counts["rejected"], counts["duplicates"]) == (0, 0, len(messages))
    assert login_database.figures() == (200, 220, 20)
    assert queue.depth() == (0, 0, 0)
