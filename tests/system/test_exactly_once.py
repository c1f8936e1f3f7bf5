"""Promise 2, one effect a message: whatever is killed at whatever moment, each message has exactly one row."""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Iterator
from contextlib import suppress

import pytest

from coatcheck.demo.servers import SqsServer
from tests.support.fix_servers import BAD, LoginDatabase, Queue, commanding, feeding, logins, new_queue, proxy
from tests.support.process import Command, Running, processes, wait_until

MESSAGES = 20_000
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
    """Wait until so many more rows have appeared."""
    goal = min(database.rows() + more, MESSAGES)
    wait_until(lambda: database.rows() >= goal, f"{goal} rows")


def exactly_once(command: Command, queue: Queue, database: LoginDatabase, messages: int = MESSAGES) -> None:
    """Load the rest, and hold everything against what was sent."""
    wait_until(lambda: database.rows() + sum(queue.depth()) >= messages, "everything was sent")
    command.drain()
    assert database.figures() == (messages, messages, 0)
    assert database.repeated() == 0
    assert queue.depth() == (0, 0, 0)


def test_one_process_killed_five_times(
    command: Command, queue: Queue, login_database: LoginDatabase, chance: random.Random
) -> None:
    command.set(SOURCE__MAX_IN_FLIGHT=1000, BATCH__MESSAGES=300)
    with feeding(queue, logins(MESSAGES)):
        for _ in range(KILLS):
            running = command.start("run")
            more_rows(login_database, chance.randrange(500, 4000))
            assert running.kill().code == -signal.SIGKILL
        assert login_database.rows() < MESSAGES, "the kills came too late to mean anything"
        more_rows_come(command, login_database)
    exactly_once(command, queue, login_database)


def more_rows_come(command: Command, database: LoginDatabase) -> None:
    """Let one process take the rest in while it is being sent."""
    running = command.start("run")
    wait_until(lambda: database.rows() >= MESSAGES - 1000, "nearly all rows")
    running.kill()


def test_workers_killed_five_times(
    command: Command, queue: Queue, login_database: LoginDatabase, chance: random.Random
) -> None:
    command.set(SOURCE__MAX_IN_FLIGHT=500, BATCH__MESSAGES=300)
    with feeding(queue, logins(MESSAGES)):
        supervisor = command.start("run", "--workers", "2")
        for _ in range(KILLS):
            more_rows(login_database, chance.randrange(500, 3000))
            victim = chance.choice(wait_until(lambda: command.workers(supervisor), "a worker"))
            with suppress(ProcessLookupError):
                os.kill(victim, signal.SIGKILL)
        assert login_database.rows() < MESSAGES, "the kills came too late to mean anything"
        wait_until(lambda: login_database.rows() >= MESSAGES - 1000, "nearly all rows")
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
        workers = orphaned(command, supervisor)
        wait_until(lambda: not set(workers) & processes().keys(), "the workers have stopped", 15)
        rows = login_database.rows()
        assert rows < messages, "the kill came too late to mean anything"
        again = command.start("run", "--workers", "2")
        wait_until(lambda: login_database.rows() >= messages - 500, "nearly all rows")
        orphaned(command, again)
    exactly_once(command, queue, login_database, messages)


def orphaned(command: Command, supervisor: Running) -> list[int]:
    """Kill a supervisor, and return the pids of the workers it had."""
    workers = wait_until(lambda: (pids := command.workers(supervisor)) if len(command.workers(supervisor)) == 2 else [], "two workers")
    supervisor.kill()
    return workers
