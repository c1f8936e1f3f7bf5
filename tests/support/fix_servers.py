"""Queue, database, keys and the command between them: everything a system test needs, each test with its own."""

from __future__ import annotations

import http.client
import itertools
import json
import os
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psycopg
import pytest
from tests.support.fix_postgres import Database
from tests.support.localstack_server import LocalStackServer
from tests.support.process import Command, Done, environment

from coatcheck import cli
from coatcheck.demo.servers import PostgresServer, SqsServer

_numbers = itertools.count()
_TEMPLATE = "logins"
_AMAZON = "application/x-amz-json-1.0"
_IDLE_S = 30.0
"""After so long a connection is opened anew: the embedded server closes one after 75 s, which a busy machine takes."""

Ask = Callable[[str], tuple[int, str]]


class Queue:
    """One queue, spoken to without boto3, which costs a millisecond of CPU a request. Not for several threads."""

    def __init__(self, endpoint: str, name: str) -> None:
        self.endpoint, self.name = endpoint, name
        self.url = f"{endpoint}/000000000000/{name}"
        self.arn = f"arn:aws:sqs:us-east-1:000000000000:{name}"
        self._connection = http.client.HTTPConnection(urlsplit(endpoint).netloc, timeout=60)
        self._used_at = time.monotonic()

    def call(self, operation: str, **request: object) -> Any:
        """Send one request and return its answer."""
        if time.monotonic() - self._used_at > _IDLE_S:
            self._connection.close()
        headers = {"Content-Type": _AMAZON, "X-Amz-Target": f"AmazonSQS.{operation}"}
        self._connection.request("POST", "/", json.dumps(request), headers)
        response = self._connection.getresponse()
        body = response.read()
        self._used_at = time.monotonic()
        assert response.status == http.client.OK, (operation, body)
        return json.loads(body or b"{}")

    def create(self, **attributes: object) -> None:
        """Create the queue."""
        wanted = {name: str(value) for name, value in attributes.items()}
        self.call("CreateQueue", QueueName=self.name, Attributes=wanted)

    def set(self, **attributes: object) -> None:
        """Change attributes of the queue."""
        wanted = {name: str(value) for name, value in attributes.items()}
        self.call("SetQueueAttributes", QueueUrl=self.url, Attributes=wanted)

    def send(self, bodies: Iterable[str]) -> int:
        """Send messages, ten at a time; return how many."""
        rest, sent = iter(bodies), 0
        while batch := list(itertools.islice(rest, 10)):
            entries = [{"Id": str(place), "MessageBody": body} for place, body in enumerate(batch)]
            answer = self.call("SendMessageBatch", QueueUrl=self.url, Entries=entries)
            assert not answer.get("Failed")
            sent += len(batch)
        return sent

    def receive(self) -> list[dict[str, Any]]:
        """Receive up to ten messages."""
        messages: list[dict[str, Any]] = self.call(
            "ReceiveMessage",
            QueueUrl=self.url,
            MaxNumberOfMessages=10,
            AttributeNames=["All"],
            MessageAttributeNames=["All"],
        ).get("Messages", [])
        return messages

    def give_back(self, messages: Iterable[dict[str, Any]]) -> None:
        """Make messages that were received visible again."""
        for message in messages:
            receipt = message["ReceiptHandle"]
            self.call("ChangeMessageVisibility", QueueUrl=self.url, ReceiptHandle=receipt, VisibilityTimeout=0)

    def depth(self) -> tuple[int, int, int]:
        """Return how many messages wait, are in flight, and are delayed."""
        attributes = self.call("GetQueueAttributes", QueueUrl=self.url, AttributeNames=["All"])["Attributes"]
        names = ("", "NotVisible", "Delayed")
        waiting, in_flight, delayed = (int(attributes[f"ApproximateNumberOfMessages{name}"]) for name in names)
        return waiting, in_flight, delayed

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()


@contextmanager
def feeding(queue: Queue, bodies: Sequence[str], *, most: int = 1000) -> Iterator[None]:
    """Send messages in the background while at most `most` wait: the embedded server slows down with its depth.

    At the end of the block the rest is sent whatever waits.
    """
    hurry = threading.Event()
    failed: list[BaseException] = []

    def feed() -> None:
        mine = Queue(queue.endpoint, queue.name)
        try:
            for start in range(0, len(bodies), 200):
                while mine.depth()[0] > most - 200 and not hurry.wait(0.02):
                    pass
                mine.send(bodies[start : start + 200])
        except BaseException as error:  # noqa: BLE001 - told by the main thread
            failed.append(error)
        finally:
            mine.close()

    thread = threading.Thread(target=feed)
    thread.start()
    try:
        yield
    finally:
        hurry.set()
        thread.join()
    assert not failed, failed


class LoginDatabase(Database):
    """A database with the table `user_logins`, whose server may go away and come back."""

    def execute(self, statement: str, *parameters: object) -> list[tuple[Any, ...]]:
        """Run statements, on a new connection if the last one has died."""
        try:
            return super().execute(statement, *parameters)
        except psycopg.OperationalError:
            self.close()
            return super().execute(statement, *parameters)

    def rows(self) -> int:
        """Return how many rows there are."""
        return self.count("user_logins")

    def figures(self) -> tuple[int, int, int]:
        """Return how many rows, ledger entries and quarantine entries there are."""
        return self.rows(), self.count("coatcheck.ledger"), self.count("coatcheck.quarantine")

    def repeated(self) -> int:
        """Return how many users have more than one row (in tests that send one message a user)."""
        return int(self.value("SELECT count(*) - count(DISTINCT user_id) FROM user_logins"))

    def text(self) -> str:
        """Return everything that any table of ours holds, as text; bytes also as what they spell."""
        tables = self.execute(
            "SELECT format('%I.%I', schemaname, tablename) FROM pg_tables"
            " WHERE schemaname NOT IN ('pg_catalog', 'information_schema')"
        )
        lines = [str(row) for (table,) in tables for row in self.execute(f"SELECT t.*, t::text FROM {table} AS t")]
        return "\n".join(lines)


def login(number: int, **changes: object) -> str:
    """Return the body of a made-up login; a number has a user, an address and a device of its own."""
    fields: dict[str, object] = {
        "user_id": f"user-{number}",
        "app_version": f"{1 + number % 9}.{number % 10}.{number % 7}",
        "device_type": ("android", "ios")[number % 2],
        "ip": f"10.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}",
        "locale": None if number % 3 == 0 else "DE",
        "device_id": f"device-{number:06d}",
    }
    return json.dumps({name: value for name, value in (fields | changes).items() if value is not ...})


def logins(count: int, first: int = 0) -> list[str]:
    """Return `count` bodies, each of another user."""
    return [login(number) for number in range(first, first + count)]


BAD = '{"type": "heartbeat", "number": %d}'
"""A message of another kind, which is rejected."""


@pytest.fixture(scope="session")
def sqs() -> Iterator[SqsServer]:
    """The SQS server of this worker."""
    with SqsServer() as server:
        yield server


@pytest.fixture(scope="session")
def localstack() -> Iterator[LocalStackServer]:
    """The one LocalStack of all tests, which are in the group `localstack`: it takes seconds to start."""
    with LocalStackServer(services="sqs,kms,cloudformation,cloudwatch,iam,sts") as server:
        yield server


@contextmanager
def new_queue(sqs: SqsServer, suffix: str = "", **attributes: object) -> Iterator[Queue]:
    """Make a queue of one's own."""
    queue = Queue(sqs.url, f"queue-{next(_numbers)}{suffix}")
    queue.create(**attributes)
    try:
        yield queue
    finally:
        queue.call("DeleteQueue", QueueUrl=queue.url)
        queue.close()


@pytest.fixture
def queue(sqs: SqsServer) -> Iterator[Queue]:
    """A queue of one's own; what is in flight stays so for longer than any test."""
    with new_queue(sqs, VisibilityTimeout=120) as new:
        yield new


@pytest.fixture(scope="session")
def keyring(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A keyring with a private key in clear."""
    folder = tmp_path_factory.mktemp("keyring")
    Command(folder, {})("keys", "init", COATCHECK_KEYS__PATH=str(folder / "keys"))
    return folder / "keys"


@pytest.fixture(scope="session")
def _login_template(postgres_server: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> str:
    database = LoginDatabase(postgres_server, _TEMPLATE)
    database.create("template1")
    Command(tmp_path_factory.mktemp("migrate"), {"DATABASE_URL": database.dsn})("migrate")
    return _TEMPLATE


@contextmanager
def _fresh(server: PostgresServer, template: str) -> Iterator[LoginDatabase]:
    database = LoginDatabase(server, f"logins_{next(_numbers)}")
    database.create(template)
    try:
        yield database
    finally:
        server.start()  # should a test have left it down
        database.drop()


@pytest.fixture
def login_database(postgres_server: PostgresServer, _login_template: str) -> Iterator[LoginDatabase]:
    """A database of one's own, migrated for the login pipeline."""
    with _fresh(postgres_server, _login_template) as database:
        yield database


@pytest.fixture
def bare_database(postgres_server: PostgresServer) -> Iterator[LoginDatabase]:
    """A database of one's own with nothing in it."""
    with _fresh(postgres_server, "template1") as database:
        yield database


@pytest.fixture
def another_database(postgres_server: PostgresServer) -> Iterator[LoginDatabase]:
    """A second database with nothing in it."""
    with _fresh(postgres_server, "template1") as database:
        yield database


@contextmanager
def commanding(folder: Path, queue: Queue, database: LoginDatabase, keyring: Path) -> Iterator[Command]:
    """Give the command between a queue and a database."""
    command = Command(
        folder,
        {
            "AWS_ENDPOINT_URL": queue.endpoint,
            "DATABASE_URL": database.dsn,
            "COATCHECK_SOURCE__QUEUE": queue.name,
            "COATCHECK_KEYS__PATH": str(keyring),
        },
    )
    try:
        yield command
    finally:
        command.close()


@pytest.fixture
def command(tmp_path: Path, queue: Queue, login_database: LoginDatabase, keyring: Path) -> Iterator[Command]:
    """The command with a keyring, between `queue` and `login_database`."""
    with commanding(tmp_path, queue, login_database, keyring) as ready:
        yield ready


@pytest.fixture
def ask(command: Command) -> Ask:
    """Let the command listen on a free port; get pages of it: (status, text), status 0 while nobody answers."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    command.set(METRICS__LISTEN=f"127.0.0.1:{port}", SOURCE__WAIT_SECONDS=1)

    def get(path: str) -> tuple[int, str]:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            return response.status, response.read().decode()
        except OSError:
            return 0, ""
        finally:
            connection.close()

    return get


@pytest.fixture
def own_keyring(keyring: Path, tmp_path: Path) -> Path:
    """A keyring that a test may spoil."""
    return Path(shutil.copytree(keyring, tmp_path / "own-keys"))


class Alone:
    """The command in this process: it answers in milliseconds. By itself it has nothing to speak to."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder = folder
        self._monkeypatch, self._capsys = monkeypatch, capsys
        self.environment = environment(folder) | {
            "DATABASE_URL": "postgresql://127.0.0.1:1/x",
            "AWS_ENDPOINT_URL": "http://127.0.0.1:1",
        }

    def __call__(self, *arguments: str, code: int = 0, **variables: str) -> Done:
        """Run it, and hold its exit code against the expected one."""
        with self._monkeypatch.context() as patch:
            patch.chdir(self.folder)
            for name in set(os.environ) - set(self.environment):
                patch.delenv(name)
            for name, value in (self.environment | variables).items():
                patch.setenv(name, value)
            patch.setattr("sys.argv", ["coatcheck", *arguments])
            with pytest.raises(SystemExit) as ended:
                cli.main()
        out, err = self._capsys.readouterr()
        assert ended.value.code == code, f"coatcheck {' '.join(arguments)} ended with {ended.value.code}: {out}{err}"
        return Done(code, out, err)


@pytest.fixture
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Alone:
    """The command in this process, in a folder of its own with nothing in it."""
    return Alone(tmp_path, monkeypatch, capsys)


@pytest.fixture
def aws_by_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """AWS as users set it, by the environment; nothing of theirs."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.setenv("AWS_REGION", "us-east-1")
