"""The public exercise as it is written: its queue, its table, its hundred messages; and what must come of them.

The messages are not part of this project (see CONTRIBUTING.md). They are personal data in form, so nothing here prints
one: they travel in an object that shows their number only.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from tests.support import localstack_server
from tests.support.fix_servers import LoginDatabase, Queue, commanding
from tests.support.localstack_server import LocalStackServer
from tests.support.process import Command, wait_until

from coatcheck.demo.servers import SqsServer

MESSAGES = Path(__file__).parents[3] / "shared" / "data" / "login-messages.jsonl"
TABLE = """
CREATE TABLE IF NOT EXISTS user_logins (
    user_id varchar(128), device_type varchar(32), masked_ip varchar(256), masked_device_id varchar(256),
    locale varchar(32), app_version integer, create_date date)
"""
"""The target as the exercise defines it: no key, nothing NOT NULL."""

EMBEDDED = pytest.param("sqs", id="embedded")
LOCALSTACK = pytest.param(
    "localstack",
    id="localstack",
    marks=[
        pytest.mark.localstack,
        pytest.mark.xdist_group("localstack"),
        pytest.mark.skipif(localstack_server.available() is not None, reason=str(localstack_server.available())),
    ],
)


class Bodies(tuple[str, ...]):
    """Message bodies that no failing test shows."""

    __slots__ = ()

    def __repr__(self) -> str:
        """Show how many there are."""
        return f"<{len(self)} messages>"


class LoginQueue:
    """The exercise's queue in the hand of boto3."""

    def __init__(self, endpoint: str) -> None:
        self.client = boto3.client(
            "sqs",
            endpoint_url=endpoint,
            region_name="us-east-1",
            aws_access_key_id="test",
            aws_secret_access_key="test",
        )
        self.url = self.client.create_queue(QueueName="login-queue")["QueueUrl"]

    def send(self, bodies: Bodies) -> None:
        """Send each message in a request of its own, as the exercise does."""
        for body in bodies:
            self.client.send_message(QueueUrl=self.url, MessageBody=body)

    def depth(self) -> list[int]:
        """Return how many messages wait, are in flight, and are delayed."""
        attributes = self.client.get_queue_attributes(QueueUrl=self.url, AttributeNames=["All"])["Attributes"]
        return [int(attributes[f"ApproximateNumberOfMessages{name}"]) for name in ("", "NotVisible", "Delayed")]

    def close(self) -> None:
        """Delete the queue."""
        self.client.delete_queue(QueueUrl=self.url)
        self.client.close()


@pytest.fixture(scope="module")
def messages() -> Bodies:
    if not MESSAGES.exists():
        pytest.skip("the messages of the exercise are not on this machine")
    bodies = Bodies(MESSAGES.read_text(encoding="utf-8").splitlines())
    assert len(bodies) == 100
    return bodies


@pytest.fixture(params=[EMBEDDED, LOCALSTACK])
def login_queue(request: pytest.FixtureRequest) -> Iterator[LoginQueue]:
    server: SqsServer | LocalStackServer = request.getfixturevalue(request.param)
    queue = LoginQueue(server.url)
    yield queue
    queue.close()


@pytest.fixture
def exercise(
    tmp_path: Path, login_queue: LoginQueue, login_database: LoginDatabase, keyring: Path
) -> Iterator[Command]:
    """The command between the exercise's queue and a table of ours, ready to run."""
    endpoint, _, name = login_queue.url.partition("/000000000000/")
    with commanding(tmp_path, Queue(endpoint, name), login_database, keyring) as command:
        yield command


def figures(database: LoginDatabase) -> dict[str, Any]:
    names = "rows", "null locales", "versions", "ip tokens", "device tokens", "users", "dates", "undated"
    found = database.execute(
        "SELECT count(*), count(*) FILTER (WHERE locale IS NULL), count(DISTINCT app_version),"
        " count(DISTINCT masked_ip),"
        " count(DISTINCT masked_device_id), count(DISTINCT user_id), count(DISTINCT create_date),"
        " count(*) FILTER (WHERE create_date NOT BETWEEN current_date - 1 AND current_date) FROM user_logins"
    )
    return dict(zip(names, found[0], strict=True)) | {"quarantined": database.count("coatcheck.quarantine")}


def as_promised(database: LoginDatabase, times: int = 1) -> None:
    """Hold the table against the figures, with all messages loaded `times` times."""
    seen = figures(database)
    assert seen.pop("dates") in (1, 2), "the day may have changed in between"
    assert seen == {
        "rows": 99 * times,
        "null locales": 29 * times,
        "versions": 94,
        "ip tokens": 99,
        "device tokens": 99,
        "users": 99,
        "undated": 0,
        "quarantined": times,
    }


def leaks(database: LoginDatabase, messages: Bodies) -> int:
    """Count the masked fields, and the words of the rejected message, that stand anywhere in the database."""
    stored, found = database.text(), 0
    for message in messages:
        fields = json.loads(message)
        values = [fields["ip"], fields["device_id"]] if "ip" in fields else list(fields.values())
        found += sum(str(value) in stored for value in values if len(str(value)) > 3)
    return found


def test_the_exercise(
    exercise: Command, login_queue: LoginQueue, bare_database: LoginDatabase, messages: Bodies
) -> None:
    bare_database.execute(TABLE)
    exercise.environment["DATABASE_URL"] = bare_database.dsn
    assert "created table" not in exercise("migrate").out
    told = exercise("check", "--json").json()
    assert any("seal-private.pem lies here in clear" in finding["what"] for finding in told)
    assert not [finding for finding in told if finding["level"] == "error"]
    assert [finding for finding in told if finding["component"] == "queue"] == [
        {
            "component": "queue",
            "level": "advice",
            "what": "the queue has no dead-letter queue",
            "hint": "set a RedrivePolicy: what nobody can even receive ends there",
        }
    ]
    login_queue.send(messages)
    counts = exercise.drain()
    del counts["seconds"]
    assert counts == {"received": 100, "loaded": 99, "duplicates": 0, "rejected": 1, "acked": 100}
    as_promised(bare_database)
    assert login_queue.depth() == [0, 0, 0]
    entry = json.loads(exercise("quarantine", "list", "--json").out)
    assert (entry["reason"], entry["detail"], entry["state"]) == ("missing_field", "user_id", "held")

    again = exercise.drain()
    assert (again["received"], again["loaded"]) == (0, 0)
    as_promised(bare_database)
    assert leaks(bare_database, messages) == 0
    token = bare_database.value("SELECT count(*) FROM user_logins WHERE masked_ip ~ '^pt1_ip_k1_[0-9a-f]{40}$'")
    assert token == 99


def test_sent_twice_by_coatcheck(
    exercise: Command, login_queue: LoginQueue, login_database: LoginDatabase, messages: Bodies
) -> None:
    (exercise.folder / "messages").symlink_to(MESSAGES)
    for _ in range(2):
        assert exercise("send", "messages").out == f"sent {len(messages)} messages\n"
        exercise.drain()
        as_promised(login_database)
    assert login_database.count("coatcheck.ledger") == 100
    assert login_queue.depth() == [0, 0, 0]


@pytest.mark.parametrize(("key", "times"), [("message_id", 2), ("content", 1)])
def test_sent_twice_by_a_foreign_producer(  # noqa: PLR0917 - fixtures, given by name
    exercise: Command,
    login_queue: LoginQueue,
    login_database: LoginDatabase,
    messages: Bodies,
    key: str,
    times: int,
) -> None:
    """They are different messages, unless one says that equal bodies are the same."""
    exercise.set(LEDGER__KEY=key)
    login_queue.send(messages)
    login_queue.send(messages)
    assert exercise.drain()["acked"] == 200
    as_promised(login_database, times)
    assert leaks(login_database, messages) == 0
    assert login_queue.depth() == [0, 0, 0]


GATE = """
CREATE FUNCTION gate() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF (SELECT count(*) FROM user_logins) >= 30 THEN PERFORM pg_advisory_xact_lock(1); END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER gate BEFORE INSERT ON user_logins EXECUTE FUNCTION gate()
"""
"""After thirty rows, a batch waits for whoever holds the lock."""


def test_killed_in_between(
    exercise: Command, login_queue: LoginQueue, login_database: LoginDatabase, messages: Bodies
) -> None:
    """Rows are there, a batch is on its way: PostgreSQL commits it when nobody is left to hear of it."""
    login_queue.client.set_queue_attributes(QueueUrl=login_queue.url, Attributes={"VisibilityTimeout": "3"})
    exercise.set(BATCH__MESSAGES=10, SOURCE__MAX_IN_FLIGHT=20, SOURCE__WAIT_SECONDS=1)
    login_database.execute(GATE)
    login_queue.send(messages)
    with login_database.session() as session:
        session.execute("SELECT pg_advisory_lock(1)")
        running = exercise.start("run")
        wait_until(login_database.waiting, "a batch waits")
        assert 30 <= login_database.rows() < 99
        running.kill()
        session.execute("SELECT pg_advisory_unlock(1)")
    wait_until(lambda: not login_database.waiting(), "the batch is committed")
    assert exercise.drain()["duplicates"] > 0
    as_promised(login_database)
    assert login_database.count("coatcheck.ledger") == 100
    assert login_queue.depth() == [0, 0, 0]
