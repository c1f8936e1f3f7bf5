"""The packed zip file as a Lambda function, run by AWS's runtime interface client, behind a mapping of a real queue."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from tests.support.canaries import canary, nowhere
from tests.support.fix_servers import BAD, LoginDatabase, Queue, login, logins, new_queue
from tests.support.lambda_runtime import Function, Mapping, deployed, event_of
from tests.support.process import Command, wait_until
from tests.support.tcp_proxy import TcpProxy

from coatcheck.demo.servers import SqsServer

pytestmark = pytest.mark.xdist_group("lambda")  # packing takes seconds: once is enough

ROOT = Path(__file__).parents[2]
LATER = """
CREATE FUNCTION later() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF new.user_id = 'user-25' THEN RAISE 'not now' USING ERRCODE = '57P03'; END IF;
    RETURN new;
END $$;
CREATE TRIGGER later BEFORE INSERT ON user_logins FOR EACH ROW EXECUTE FUNCTION later()
"""
"""From now on one of thirty messages finds the database starting up."""


@pytest.fixture(scope="session")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What is in the zip file, for this very Python."""
    folder = tmp_path_factory.mktemp("lambda")
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    build: list[str | Path] = [sys.executable, ROOT / "deploy" / "lambda" / "build.py", "--python", python]
    subprocess.run([*build, "--output", folder / "function.zip"], check=True, capture_output=True)
    subprocess.run([sys.executable, "-m", "zipfile", "-e", folder / "function.zip", folder / "task"], check=True)
    return folder / "task"


@pytest.fixture
def start(packed: Path, tmp_path: Path, command: Command) -> Iterator[Callable[..., Function]]:
    """Start an execution environment; `variables` are added to what leads to queue, database and keyring."""
    with ExitStack() as stack:
        yield lambda **variables: stack.enter_context(deployed(packed, tmp_path, command.environment | variables))


def test_a_mapping_loads_what_is_on_the_queue(
    start: Callable[..., Function], queue: Queue, login_database: LoginDatabase
) -> None:
    queue.send([*logins(14), BAD % 1, *logins(5, first=14)])
    function = start()
    mapping = Mapping(queue, function)
    assert [mapping.poll()[1] for _ in range(2)] == [10, 10]
    assert login_database.figures() == (19, 20, 1)
    assert queue.depth() == (0, 0, 0)
    assert "an invocation has ended" in function.log()


def test_an_event_that_comes_twice_has_one_effect(
    start: Callable[..., Function], queue: Queue, login_database: LoginDatabase
) -> None:
    queue.send([*logins(3), BAD % 1])
    event = event_of(queue.receive(), queue.arn)
    one, other = start(), start()
    answers = [function.invoke(event).value for function in (one, one, other)]
    assert answers == [{"batchItemFailures": []}] * 3
    assert login_database.figures() == (3, 4, 1)


def test_a_function_and_a_worker_know_each_others_messages(
    start: Callable[..., Function], command: Command, queue: Queue, login_database: LoginDatabase
) -> None:
    queue.send(logins(4))
    messages = queue.receive()
    assert start().invoke(event_of(messages, queue.arn)).value == {"batchItemFailures": []}
    queue.give_back(messages)
    assert command.drain()["duplicates"] == 4
    assert login_database.rows() == 4


def test_what_the_database_does_not_take_in_time_comes_again_and_nothing_else(
    start: Callable[..., Function], queue: Queue, login_database: LoginDatabase
) -> None:
    login_database.execute(LATER)
    queue.send(logins(30))
    function = start(COATCHECK_BATCH__MESSAGES="10")
    mapping = Mapping(queue, function)
    messages = [message for _ in range(3) for message in queue.receive()]
    numbers = [message["Body"] for message in messages]
    assert len(set(numbers)) == 30
    first = next(place for place, body in enumerate(numbers) if '"user-25"' in body) // 10 * 10
    answer = function.invoke(event_of(messages, queue.arn), seconds=6)
    if first:
        assert [item["itemIdentifier"] for item in answer.value["batchItemFailures"]] == [
            message["MessageId"] for message in messages[first:]
        ]
    else:
        assert answer.error["errorType"] == "UnreachableError"
    assert login_database.rows() == first
    assert "sqlstate=57P03" in function.log()
    assert "the time of the invocation has passed" in function.log()
    login_database.execute("DROP TRIGGER later ON user_logins")
    queue.give_back(messages)
    while queue.depth()[0]:
        mapping.poll()
    assert login_database.figures() == (30, 30, 0)


def test_a_database_that_is_away_fails_the_invocation_and_is_found_again(
    start: Callable[..., Function], queue: Queue, login_database: LoginDatabase
) -> None:
    queue.send(logins(2))
    event = event_of(queue.receive(), queue.arn)
    server = login_database.server
    with TcpProxy("127.0.0.1", server.port) as proxy:
        function = start(DATABASE_URL=login_database.dsn.replace(f"port={server.port}", f"port={proxy.port}"))
        assert function.invoke(event).value == {"batchItemFailures": []}
        proxy.aim("127.0.0.1", 1)
        proxy.cut()
        queue.send(logins(2, first=2))
        later = event_of(queue.receive(), queue.arn)
        answer = function.invoke(later, seconds=3)
        assert answer.error["errorType"] == "UnreachableError"
        assert "coatcheck: hint:" in function.log()
        proxy.aim("127.0.0.1", server.port)
        assert function.invoke(later).value == {"batchItemFailures": []}
    assert login_database.figures() == (4, 4, 0)


def test_a_database_that_says_nothing_more_is_given_up_in_time(
    start: Callable[..., Function], queue: Queue, login_database: LoginDatabase
) -> None:
    """A network that has forgotten the connection, say. At its time AWS would end the function, and lose its answer."""
    server = login_database.server
    queue.send(logins(4))
    messages = queue.receive()
    with TcpProxy("127.0.0.1", server.port) as proxy:
        function = start(DATABASE_URL=login_database.dsn.replace(f"port={server.port}", f"port={proxy.port}"))
        assert function.invoke(event_of(messages[:2], queue.arn)).value == {"batchItemFailures": []}
        proxy.mute()
        began = time.monotonic()
        answer = function.invoke(event_of(messages[2:], queue.arn), seconds=4)
        assert time.monotonic() - began < 4
        assert answer.error["errorType"] == "UnreachableError"
        assert "the time of the invocation has passed" in function.log()
    function = start()
    assert function.invoke(event_of(messages, queue.arn)).value == {"batchItemFailures": []}
    assert login_database.figures() == (4, 4, 0)


def test_a_login_that_has_changed_is_read_anew_after_a_failure(
    start: Callable[..., Function], queue: Queue, login_database: LoginDatabase, tmp_path: Path
) -> None:
    queue.send(logins(2))
    event = event_of(queue.receive(), queue.arn)
    old, new = login_database.role("coatcheck_loader"), login_database.role("coatcheck_loader")
    secret = tmp_path / "dsn"
    secret.write_text(old)
    secret.chmod(0o600)
    function = start(COATCHECK_TARGET__DSN=f"file:{secret}", DATABASE_URL="")
    assert function.invoke(event).value == {"batchItemFailures": []}
    login_database.execute(f"ALTER ROLE {login_database.roles[0]} NOLOGIN")
    login_database.terminate()
    assert function.invoke(event).error
    secret.write_text(new)
    assert function.invoke(event).value == {"batchItemFailures": []}
    assert login_database.figures() == (2, 2, 0)


def test_each_invocation_says_what_it_did(start: Callable[..., Function], queue: Queue) -> None:
    queue.send(logins(2))
    function = start()
    event = event_of(queue.receive(), queue.arn)
    for _ in range(3):
        function.invoke(event)
    lines = [line for line in function.log().splitlines() if "an invocation has ended" in line]
    assert len(lines) == 3
    assert "duplicates=0 loaded=2 messages=2" in lines[0]
    assert "duplicates=2 loaded=0 messages=2" in lines[2]


def test_one_killed_in_the_middle_leaves_all_to_the_next(
    start: Callable[..., Function], queue: Queue, login_database: LoginDatabase
) -> None:
    queue.send(logins(10))
    event = event_of(queue.receive(), queue.arn)
    function = start()
    with login_database.session() as session, session.transaction():
        session.execute("LOCK TABLE user_logins IN ACCESS EXCLUSIVE MODE")
        function.send(event)
        wait_until(login_database.waiting, "it waits for the lock")
        function.process.kill()
        assert function.process.wait() == -signal.SIGKILL
    assert start().invoke(event).value == {"batchItemFailures": []}
    assert login_database.figures() == (10, 10, 0)


def test_a_fifo_queue(start: Callable[..., Function], sqs: SqsServer, login_database: LoginDatabase) -> None:
    with new_queue(sqs, ".fifo", FifoQueue="true", ContentBasedDeduplication="true") as fifo:
        for number in range(6):
            fifo.call("SendMessage", QueueUrl=fifo.url, MessageBody=login(number), MessageGroupId=f"group-{number % 2}")
        function = start()
        mapping = Mapping(fifo, function)
        while sum(fifo.depth()):
            mapping.poll()
    assert login_database.figures() == (6, 6, 0)


def test_one_function_serves_the_queues_of_several_pipelines(
    start: Callable[..., Function], command: Command, sqs: SqsServer, queue: Queue, bare_database: LoginDatabase
) -> None:
    with new_queue(sqs) as second, new_queue(sqs) as third:
        del command.environment["COATCHECK_SOURCE__QUEUE"]
        command.environment["DATABASE_URL"] = bare_database.dsn
        command.set(PIPELINES__LOGINS__SOURCE__QUEUE=queue.name, PIPELINES__OTHERS__SOURCE__QUEUE=second.url)
        command.set(PIPELINES__OTHERS__TARGET__TABLE="other_logins", LOG__FORMAT="json")
        command("migrate")
        function = start()
        for each, first in ((queue, 0), (second, 3), (queue, 6)):
            each.send(logins(3, first=first))
            assert function.invoke(event_of(each.receive(), each.arn)).value == {"batchItemFailures": []}
        third.send(logins(1))
        assert function.invoke(event_of(third.receive(), third.arn)).error["errorType"] == "ConfigError"
    assert (bare_database.rows(), bare_database.count("other_logins")) == (6, 3)
    ends = [json.loads(line) for line in function.log().splitlines() if "an invocation has ended" in line]
    assert [end["coatcheck"]["pipeline"] for end in ends] == ["logins", "others", "logins"]
    assert "no pipeline of the configuration reads the queue of the event; there are logins, others" in function.log()


def test_no_value_is_in_what_a_function_writes_and_answers(
    start: Callable[..., Function], queue: Queue, login_database: LoginDatabase
) -> None:
    word = canary()
    login_database.execute(
        "ALTER TABLE user_logins ADD CHECK (user_id <> 'x'), ADD COLUMN shown text NOT NULL DEFAULT 'no'"
    )
    queue.send([login(1, user_id=word, device_id=word), login(2, ip=word), BAD.replace("heartbeat", word) % 3])
    function = start(COATCHECK_LOG__FORMAT="json")
    event = event_of(queue.receive(), queue.arn)
    answers = [function.invoke(event)]
    login_database.execute("REVOKE ALL ON user_logins FROM PUBLIC; DROP TABLE user_logins")
    event["Records"][0]["body"] = event["Records"][0]["body"].replace("user_id", "user_ib")
    answers += [
        function.invoke(event),
        function.invoke({"Records": [{"body": word}]}),
        function.invoke({"detail": word}),
        function.invoke([word]),
        function.invoke(word),
    ]
    assert answers[0].value == {"batchItemFailures": []}
    assert [answer.error.get("errorType") for answer in answers[2:]] == ["ConfigError"] * 4
    assert "coatcheck: error: the event does not come from an SQS queue" in function.log()
    nowhere({word}, {"log": function.log()} | {f"answer {place}": one.raw for place, one in enumerate(answers)})


def test_one_without_keys_says_so_and_works_once_it_has_them(
    start: Callable[..., Function], queue: Queue, keyring: Path, tmp_path: Path
) -> None:
    queue.send(logins(1))
    event = event_of(queue.receive(), queue.arn)
    function = start(COATCHECK_KEYS__PATH=str(tmp_path / "later"))
    assert function.invoke(event).error["errorType"] == "ConfigError"
    (tmp_path / "later").symlink_to(keyring)
    assert function.invoke(event).value == {"batchItemFailures": []}
