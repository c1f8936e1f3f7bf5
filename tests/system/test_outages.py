"""What the road stands on goes away: it is waited for, or the command ends with a hint. Nothing is lost or doubled."""

from __future__ import annotations

import json
import re
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
from tests.support.fix_servers import BAD, LoginDatabase, Queue, feeding, logins
from tests.support.process import Command, Done, frozen, wait_until
from tests.support.tcp_proxy import TcpProxy

from coatcheck.demo.servers import PostgresServer, SqsServer

SENT = 1500
NOBODY = "postgresql://postgres@127.0.0.1:1/postgres"
"""Nobody listens on port 1."""


def said(done: Done, what: str, hint: str) -> None:
    """Hold the last error and hint against patterns."""
    error, advice = done.err.splitlines()[-2:]
    assert re.fullmatch(f"coatcheck: error: {what}", error), done.err
    assert re.fullmatch(f"coatcheck: hint: {hint}", advice), done.err


@contextmanager
def loading(command: Command, queue: Queue, database: LoginDatabase) -> Iterator[None]:
    """Load a number of messages, with something happening in the middle of it."""
    command.set(SOURCE__MAX_IN_FLIGHT=200, BATCH__MESSAGES=50, SOURCE__WAIT_SECONDS=2)
    with feeding(queue, logins(SENT), most=400):
        running = command.start("run", "--json")
        wait_until(lambda: database.rows() >= 100, "rows")
        yield
        before = database.rows()
        assert before < SENT - 200, "it came too late to mean anything"
        wait_until(lambda: database.rows() == SENT and queue.depth() == (0, 0, 0), "everything is loaded and acked")
    running.signal(15)
    done = running.wait()
    assert done.code == 0
    assert done.json()["loaded"] == SENT
    assert database.figures() == (SENT, SENT, 0)
    assert database.repeated() == 0


@pytest.fixture
def database_proxy(command: Command, postgres_server: PostgresServer) -> Iterator[TcpProxy]:
    """A proxy through which the command reaches its database."""
    with TcpProxy("127.0.0.1", postgres_server.port) as between:
        command.environment["DATABASE_URL"] = psycopg.conninfo.make_conninfo(
            command.environment["DATABASE_URL"], port=between.port
        )
        yield between


@pytest.fixture
def sqs_proxy(command: Command, sqs: SqsServer) -> Iterator[TcpProxy]:
    """A proxy through which the command reaches its queue."""
    with TcpProxy("127.0.0.1", sqs.port) as between:
        command.environment["AWS_ENDPOINT_URL"] = f"http://127.0.0.1:{between.port}"
        yield between


def test_postgresql_crashes_and_comes_back(
    command: Command, queue: Queue, login_database: LoginDatabase, postgres_server: PostgresServer
) -> None:
    with loading(command, queue, login_database):
        postgres_server.kill()
        wait_until(lambda: queue.depth()[1] >= 200, "messages pile up in flight")
        postgres_server.start()


def test_postgresql_restarts(
    command: Command, queue: Queue, login_database: LoginDatabase, postgres_server: PostgresServer
) -> None:
    with loading(command, queue, login_database):
        postgres_server.restart()


def test_postgresql_hangs(
    command: Command, queue: Queue, login_database: LoginDatabase, postgres_server: PostgresServer
) -> None:
    with loading(command, queue, login_database), frozen(postgres_server.pid):
        wait_until(lambda: queue.depth()[1] >= 200, "messages pile up in flight")


def test_the_connections_to_sqs_are_cut(
    command: Command, queue: Queue, login_database: LoginDatabase, sqs_proxy: TcpProxy
) -> None:
    queue.set(VisibilityTimeout=5)  # SQS hides what it hands to a connection that is cut
    with loading(command, queue, login_database):
        seen = sqs_proxy.connections
        sqs_proxy.refusing = True
        sqs_proxy.cut()
        wait_until(lambda: sqs_proxy.connections >= seen + 5, "it has tried in vain")
        sqs_proxy.refusing = False


def test_sqs_hangs(command: Command, queue: Queue, login_database: LoginDatabase, sqs: SqsServer) -> None:
    with loading(command, queue, login_database), frozen(sqs.pid):
        still = Still(login_database.rows, seconds=1.5)
        wait_until(still, "nothing is loaded any more")


class Still:
    """True once a value has stayed the same for some seconds."""

    def __init__(self, value: Callable[[], int], *, seconds: float) -> None:
        self._value, self._seconds = value, seconds
        self._last, self._since = -1, 0.0

    def __call__(self) -> bool:
        now, value = time.monotonic(), self._value()
        if value != self._last:
            self._last, self._since = value, now
        return now - self._since >= self._seconds


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_drain_gives_up_on_a_database_that_goes_away(
    command: Command, queue: Queue, login_database: LoginDatabase, database_proxy: TcpProxy, workers: str
) -> None:
    command.set(RUN__GIVE_UP_SECONDS=2, SOURCE__WAIT_SECONDS=1, SOURCE__MAX_IN_FLIGHT=200)
    queue.send(logins(SENT))
    running = command.start("run", "--drain", "--workers", workers)
    wait_until(lambda: login_database.rows() >= 100, "rows")
    database_proxy.refusing = True
    database_proxy.cut()
    done = running.wait(20)
    assert done.code == 3
    assert "coatcheck: error: the database has not taken a batch for 2 s (last answer 08006)" in done.err
    assert "coatcheck: hint: nothing is lost: the messages come back; is PostgreSQL up?" in done.err
    visible, in_flight, _ = queue.depth()
    assert in_flight == 0
    assert visible >= SENT - login_database.rows(), "a commit whose answer was cut off is not acked"
    database_proxy.refusing = False
    command.drain()
    assert login_database.figures() == (SENT, SENT, 0)


def test_a_drain_gives_up_on_an_sqs_that_goes_away(
    command: Command, queue: Queue, login_database: LoginDatabase, sqs_proxy: TcpProxy
) -> None:
    command.set(RUN__GIVE_UP_SECONDS=2, SOURCE__WAIT_SECONDS=1, SOURCE__MAX_IN_FLIGHT=200)
    queue.set(VisibilityTimeout=10)
    queue.send(logins(SENT))
    running = command.start("run", "--drain")
    wait_until(lambda: login_database.rows() >= 100, "rows")
    sqs_proxy.refusing = True
    sqs_proxy.cut()
    done = running.wait(30)
    assert done.code == 3
    said(done, "SQS has not answered for 2 s .*", "nothing is lost: .*")
    sqs_proxy.refusing = False
    command.drain()
    assert login_database.figures() == (SENT, SENT, 0)


def test_no_database_at_the_start(command: Command) -> None:
    command.set(RUN__GIVE_UP_SECONDS=2)
    done = command("run", "--drain", code=3, DATABASE_URL=NOBODY)
    said(done, "cannot connect to the database: the database does not answer", "is PostgreSQL up[?] .*")


def test_no_sqs_at_the_start(command: Command) -> None:
    command.set(RUN__GIVE_UP_SECONDS=2)
    done = command("run", "--drain", code=3, AWS_ENDPOINT_URL="http://127.0.0.1:1")
    said(done, "SQS GetQueueUrl failed: .*", "are the endpoint, .* right, and is the service up[?]")


def test_a_wrong_password(command: Command, login_database: LoginDatabase) -> None:
    dsn = psycopg.conninfo.make_conninfo(login_database.dsn, password="another")
    done = command("run", "--drain", code=3, DATABASE_URL=dsn)
    said(done, "cannot connect to the database: .*", "the user name or password is wrong: .*PGPASSWORD")
    assert "another" not in done.err


def test_a_database_that_does_not_exist(command: Command, login_database: LoginDatabase) -> None:
    dsn = psycopg.conninfo.make_conninfo(login_database.dsn, dbname="nowhere")
    done = command("run", "--drain", code=3, DATABASE_URL=dsn)
    said(done, "cannot connect to the database: .*", "create the database, or correct .*")


def test_a_queue_that_does_not_exist(command: Command) -> None:
    command.set(SOURCE__QUEUE="nowhere")
    done = command("run", "--drain", code=3)
    said(done, "SQS GetQueueUrl failed: missing queue .*", ".*`coatcheck send --create-queue` makes a queue")


def no_keys(command: Command, database: LoginDatabase) -> None:  # noqa: ARG001 - the same form as the others
    command.set(KEYS__PATH="nowhere")


def no_public_key(command: Command, database: LoginDatabase) -> None:  # noqa: ARG001 - the same form as the others
    shutil.copytree(command.environment["COATCHECK_KEYS__PATH"], command.folder / "half")
    (command.folder / "half" / "seal-public.json").unlink()
    command.set(KEYS__PATH=command.folder / "half")


def no_schema(command: Command, database: LoginDatabase) -> None:  # noqa: ARG001 - the same form as the others
    database.execute("DROP SCHEMA coatcheck CASCADE")


def no_table(command: Command, database: LoginDatabase) -> None:  # noqa: ARG001 - the same form as the others
    database.execute("DROP TABLE user_logins")


def no_column(command: Command, database: LoginDatabase) -> None:  # noqa: ARG001 - the same form as the others
    database.execute("ALTER TABLE user_logins DROP COLUMN locale")


@pytest.mark.parametrize(
    ("spoil", "what", "hint"),
    [
        (no_keys, "the key file nowhere/token-root.json is missing", ".*`coatcheck keys init`.*"),
        (no_public_key, "the key file .*/half/seal-public.json is missing", ".*`coatcheck keys init`.*"),
        (no_schema, "the schema coatcheck is missing", "run `coatcheck migrate`"),
        (no_table, "the target table public.user_logins is missing", "run `coatcheck migrate`, or create it"),
        (no_column, "public.user_logins has no column locale", "ALTER TABLE public.user_logins ADD COLUMN locale .*"),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_what_a_run_needs_to_start(  # noqa: PLR0917 - fixtures, given by name
    command: Command,
    queue: Queue,
    login_database: LoginDatabase,
    spoil: Callable[[Command, LoginDatabase], None],
    what: str,
    hint: str,
) -> None:
    queue.send(logins(5))
    spoil(command, login_database)
    done = command("run", "--drain", "--json", code=2)
    assert done.out == ""
    said(done, what, hint)
    assert queue.depth() == (5, 0, 0), "nothing was received"


def test_a_table_that_is_dropped_while_it_runs(command: Command, queue: Queue, login_database: LoginDatabase) -> None:
    command.set(SOURCE__WAIT_SECONDS=1)
    queue.send(logins(5))
    running = command.start("run")
    wait_until(lambda: queue.depth() == (0, 0, 0), "all is acked")
    login_database.execute("DROP TABLE user_logins")
    queue.send(logins(50, first=10))
    done = running.wait()
    assert done.code == 2
    said(done, "cannot .*: PostgreSQL answers 42P01", "run `coatcheck migrate` .*")
    assert queue.depth() == (50, 0, 0)
    command("migrate")
    assert command.drain()["loaded"] == 50


def test_the_breaker(command: Command, queue: Queue, login_database: LoginDatabase) -> None:
    command.set(BATCH__SECONDS=5, SOURCE__WAIT_SECONDS=1)
    good = logins(100)
    queue.send([*good, *(BAD % number for number in range(400))])
    done = command("run", code=4)
    reasons = r"most often for missing_field 200 \(user_id 200\)"
    said(done, f"the breaker is open: 200 messages in a row were rejected, {reasons}", "nothing of this batch was .*")
    assert "quarantine list" not in done.err, "there is nothing in it"
    assert command("quarantine", "list").out.count("\n") == 1
    assert login_database.figures() == (0, 0, 0)
    assert queue.depth() == (500, 0, 0)
    command.set(BREAKER__RUN=1000, BREAKER__RATIO=1, BATCH__SECONDS=0.2)
    assert command.drain()["loaded"] == 100
    assert login_database.figures() == (100, 500, 400)


def test_a_row_that_the_database_refuses_is_no_outage(
    command: Command, queue: Queue, login_database: LoginDatabase, tmp_path: Path
) -> None:
    login_database.execute("ALTER TABLE user_logins ADD CHECK (user_id <> 'user-7')")
    queue.send(logins(100))
    counts = command.drain()
    assert (counts["loaded"], counts["rejected"], counts["acked"]) == (99, 1, 100)
    listed: list[dict[str, Any]] = [json.loads(command("quarantine", "list", "--json").out)]
    assert [(entry["reason"], entry["detail"]) for entry in listed] == [
        ("refused_by_database", "23514 user_logins_user_id_check")
    ]
    command("reveal", "policy", "one_person=true")
    command("quarantine", "show", "1", "--reason", "INCIDENT", "--ticket", "OPS-1", "--output", str(tmp_path / "body"))
    assert json.loads((tmp_path / "body").read_text())["user_id"] == "user-7"
