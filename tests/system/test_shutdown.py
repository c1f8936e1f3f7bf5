"""A stop: finish what is in progress within the deadline, give the rest back at once, end with 0."""

from __future__ import annotations

import signal
import socket
import time

import pytest
from tests.support.fix_servers import LoginDatabase, Queue, login, logins
from tests.support.process import LIMIT_S, Command, Done, Running, alive, frozen, wait_until

from coatcheck.demo.servers import PostgresServer

SENT = 1500
SLACK_S = 4.0
"""What a busy machine may need beside the deadlines."""


def signalled(running: Running, number: int = signal.SIGTERM, *, within: float) -> Done:
    """Send a signal, and hold the time until the end against what is allowed."""
    running.signal(number)
    return running.wait(within + SLACK_S)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
@pytest.mark.parametrize("workers", [1, 2])
def test_under_load_everything_received_is_acked_or_given_back(
    command: Command, queue: Queue, login_database: LoginDatabase, number: int, workers: int
) -> None:
    command.set(RUN__DRAIN_SECONDS=10, SOURCE__MAX_IN_FLIGHT=300, BATCH__MESSAGES=50)
    queue.send(logins(SENT))
    running = command.start("run", "--json", "--workers", str(workers))
    wait_until(lambda: login_database.rows() > 0, "rows")
    done = signalled(running, number, within=10)
    depth = queue.depth()
    assert (done.code, done.err) == (0, "")
    acked = done.json()["acked"]
    assert 0 < acked < SENT
    assert depth == (SENT - acked, 0, 0), "what was not acked is visible again at once"
    assert login_database.rows() == acked, "what was written was acked, too"
    assert command.drain()["duplicates"] == 0
    assert login_database.figures() == (SENT, SENT, 0)
    assert queue.depth() == (0, 0, 0)


@pytest.mark.parametrize("workers", [1, 2])
def test_idle_it_ends_soon(command: Command, queue: Queue, login_database: LoginDatabase, workers: int) -> None:
    queue.send([login(1)])
    running = command.start("run", "--json", "--workers", str(workers))
    wait_until(lambda: login_database.rows() == 1 and queue.depth() == (0, 0, 0), "it waits in a long poll")
    began = time.monotonic()
    done = signalled(running, within=5)
    assert time.monotonic() - began < 5
    assert (done.code, done.err) == (0, "")
    assert done.json()["loaded"] == 1


def stuck(command: Command, queue: Queue, login_database: LoginDatabase, server: PostgresServer) -> Running:
    """Start it and give it messages that it cannot write, since the database no longer answers."""
    queue.send([login(1)])
    running = command.start("-v", "run", "--json")
    wait_until(lambda: login_database.rows() == 1, "it runs")
    server.kill()
    queue.send(logins(50, first=10))
    wait_until(lambda: queue.depth()[1] == 50, "it holds messages")
    return running


@pytest.mark.parametrize("wait_s", [1, 20])
def test_the_database_is_down(
    command: Command, queue: Queue, login_database: LoginDatabase, postgres_server: PostgresServer, wait_s: int
) -> None:
    """What is given back must not go to one of our own polls, which nobody waits for any more."""
    command.set(RUN__DRAIN_SECONDS=2, SOURCE__WAIT_SECONDS=wait_s)
    running = stuck(command, queue, login_database, postgres_server)
    done = signalled(running, within=2)
    assert done.code == 0
    assert "the deadline has passed; unfinished messages go back to the queue" in done.err
    assert queue.depth() == (50, 0, 0), done.err
    postgres_server.start()
    assert command.drain()["loaded"] == 50
    assert login_database.rows() == 51


def test_the_database_hangs(
    command: Command, queue: Queue, login_database: LoginDatabase, postgres_server: PostgresServer
) -> None:
    command.set(RUN__DRAIN_SECONDS=2, SOURCE__WAIT_SECONDS=1)
    queue.send([login(1)])
    running = command.start("run", "--json")
    wait_until(lambda: login_database.rows() == 1, "it runs")
    with frozen(postgres_server.pid):
        queue.send(logins(50, first=10))
        wait_until(lambda: queue.depth()[1] == 50, "it holds messages")
        done = signalled(running, within=15)  # the driver takes its time to give a statement up
        assert done.code == 0
        assert queue.depth() == (50, 0, 0)
    command.drain()
    assert login_database.figures() == (51, 51, 0)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
def test_a_second_signal_ends_it_at_once(
    command: Command, queue: Queue, login_database: LoginDatabase, postgres_server: PostgresServer, number: int
) -> None:
    running = stuck(command, queue, login_database, postgres_server)
    running.signal(number)
    running.said("stopping: ")
    began = time.monotonic()
    assert signalled(running, number, within=0).code == 130
    assert time.monotonic() - began < 2


def test_a_second_signal_ends_workers_at_once(
    command: Command, queue: Queue, login_database: LoginDatabase, postgres_server: PostgresServer
) -> None:
    queue.send([login(1)])
    running = command.start("-v", "run", "--workers", "2")
    wait_until(lambda: login_database.rows() == 1, "it runs")
    workers = command.workers(running)
    with frozen(postgres_server.pid):
        queue.send(logins(50, first=10))
        wait_until(lambda: queue.depth()[1] == 50, "they hold messages")
        running.signal(signal.SIGTERM)
        running.said("stopping: ")
        assert signalled(running, within=0).code == 130
        wait_until(lambda: not alive(workers), "the workers have ended", 2)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
def test_while_it_starts_against_a_database_that_says_nothing(command: Command, number: int) -> None:
    """It holds nothing yet, so there is nothing to wait for."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.settimeout(LIMIT_S)
        url = f"postgresql://postgres@127.0.0.1:{silent.getsockname()[1]}/postgres"
        running = command.start("run", DATABASE_URL=url)
        connection, _ = silent.accept()
        with connection:
            began = time.monotonic()
            done = signalled(running, number, within=2)
            assert time.monotonic() - began < 2
    assert (done.code, done.err) == (0, "")


def test_while_it_starts_against_an_sqs_that_says_nothing(command: Command) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.settimeout(LIMIT_S)
        running = command.start("run", AWS_ENDPOINT_URL=f"http://127.0.0.1:{silent.getsockname()[1]}")
        connection, _ = silent.accept()
        with connection:
            done = signalled(running, within=2)
    assert (done.code, done.err) == (0, "")
