"""What a process says of its start, of an outage that is over, and of why it ends: as text, and as JSON alone."""

from __future__ import annotations

import json
from typing import Any

import psycopg
import pytest
from tests.support.canaries import canary, nowhere
from tests.support.fix_servers import BAD, LoginDatabase, Queue, logins
from tests.support.process import Command, Done, Running, wait_until
from tests.support.tcp_proxy import TcpProxy

from coatcheck.demo.servers import SqsServer

BREAKER = {"BREAKER__RUN": 20, "BATCH__SECONDS": 5, "SOURCE__WAIT_SECONDS": 1}


def entries(done: Done | Running) -> list[dict[str, Any]]:
    """Return the lines on stderr; each of them has to be JSON."""
    return [json.loads(line) for line in done.err.splitlines()]


def named(done: Done | Running, message: str) -> list[dict[str, Any]]:
    return [entry for entry in entries(done) if entry["message"] == message]


def stopped(running: Running) -> Done:
    running.signal(15)
    done = running.wait()
    assert done.code == 0, done.err
    return done


@pytest.mark.parametrize("workers", [1, 2])
def test_json_tells_of_the_start(command: Command, queue: Queue, login_database: LoginDatabase, workers: int) -> None:
    command.set(LOG__FORMAT="json")
    queue.send(logins(10))
    done = command("run", "--drain", "--workers", str(workers))
    (start,) = named(done, "coatcheck is starting")
    assert start["log.level"] == "notice"
    assert start["coatcheck"] == {
        "pipeline": "default",
        "queue": queue.url.rpartition("/")[2],
        "table": "user_logins",
        "version": command("--version").out.split()[-1],
        "workers": workers,
    }
    assert len(entries(done)) == 1, "nothing else is of interest"
    assert login_database.dsn not in done.err


def test_text_tells_of_the_start_on_demand(command: Command, queue: Queue, login_database: LoginDatabase) -> None:
    queue.send(logins(10))
    assert command("--verbose", "run", "--drain").err.count("info: coatcheck is starting (queue=") == 1
    assert command("run", "--drain").err == ""
    assert login_database.rows() == 10


@pytest.mark.parametrize("form", ["json", "text"])
def test_a_database_that_is_back_is_told_once(
    command: Command, queue: Queue, login_database: LoginDatabase, form: str
) -> None:
    with TcpProxy("127.0.0.1", login_database.server.port) as between:
        command.environment["DATABASE_URL"] = psycopg.conninfo.make_conninfo(login_database.dsn, port=between.port)
        command.set(LOG__FORMAT=form, SOURCE__WAIT_SECONDS=1, BATCH__MESSAGES=10, TARGET__CONNECTIONS=2)
        running = command.start("run")
        queue.send(logins(30))
        wait_until(lambda: login_database.rows() == 30, "it loads")
        between.refusing = True
        between.cut()
        queue.send(logins(100, first=30))
        wait_until(lambda: "the database refuses a batch for now" in running.err, "the outage is told")
        between.refusing = False
        wait_until(lambda: login_database.rows() == 130, "it goes on")
        queue.send(logins(50, first=130))
        wait_until(lambda: login_database.rows() == 180, "and on")
        done = stopped(running)
    assert done.err.count("the database takes batches again") == 1
    if form == "json":
        (back,) = named(done, "the database takes batches again")
        assert 0 < back["coatcheck"]["seconds"] < 60
    else:
        assert "notice: the database takes batches again (seconds=" in done.err


@pytest.mark.parametrize("form", ["json", "text"])
def test_an_sqs_that_is_back_is_told_once(
    command: Command, queue: Queue, sqs: SqsServer, login_database: LoginDatabase, form: str
) -> None:
    queue.set(VisibilityTimeout=5)  # SQS hides what it hands to a connection that is cut
    with TcpProxy("127.0.0.1", sqs.port) as between:
        command.set(LOG__FORMAT=form, SOURCE__WAIT_SECONDS=1)
        command.environment["AWS_ENDPOINT_URL"] = f"http://127.0.0.1:{between.port}"
        running = command.start("run")
        queue.send(logins(30))
        wait_until(lambda: login_database.rows() == 30, "it loads")
        between.refusing = True
        between.cut()
        wait_until(lambda: "SQS does not answer for now" in running.err, "the outage is told")
        between.refusing = False
        queue.send(logins(50, first=30))
        wait_until(lambda: login_database.rows() == 80, "it goes on")
        running.said("SQS answers again")
        done = stopped(running)
    assert done.err.count("SQS answers again") == 1
    if form == "json":
        (back,) = named(done, "SQS answers again")
        assert back["coatcheck"]["seconds"] >= 0


@pytest.mark.parametrize("workers", [1, 2])
def test_json_tells_why_it_ends(command: Command, queue: Queue, login_database: LoginDatabase, workers: int) -> None:
    """And nothing of the messages that it ends for."""
    words = {canary() for _ in range(100)}
    command.set(LOG__FORMAT="json", **BREAKER)
    queue.send([json.dumps({"ip": "1.2.3.4", "device_id": word, word: word}) for word in words])
    done = command("run", "--workers", str(workers), code=4)
    nowhere(words, {"stderr": done.err, "stdout": done.out})
    reasons = {"missing_field": {"user_id": 20}}
    text = "the breaker is open: 20 messages in a row were rejected, most often for missing_field 20 (user_id 20)"
    (end, *_) = named(done, text)
    assert (end["log.level"], end["coatcheck"]["exit_code"], end["coatcheck"]["reasons"]) == ("error", 4, reasons)
    assert end["coatcheck"]["hint"].startswith("nothing of this batch was acked; ")
    assert "coatcheck: " not in done.err
    if workers > 1:
        assert [entry["coatcheck"]["exit_code"] for entry in entries(done)[-1:]] == [4]
    rows, known, held = login_database.figures()
    assert rows == 0
    assert known == held < 20 * (workers - 1) + 1, "another worker may have held fewer than open its own breaker"


def test_text_tells_why_it_ends_as_before(command: Command, queue: Queue) -> None:
    command.set(**BREAKER)
    queue.send([BAD % number for number in range(100)])
    done = command("run", code=4)
    assert [line.split(": ")[1] for line in done.err.splitlines()] == ["error", "hint"]


def test_json_tells_of_a_wrong_configuration(command: Command) -> None:
    command.set(LOG__FORMAT="json", BREAKER__RUN=0)
    (end,) = entries(command("run", code=2))
    assert end["message"].startswith("the configuration in ")
    assert end["coatcheck"]["exit_code"] == 2
    (command.folder / "coatcheck.toml").write_text('[log]\nformat = "json"\n[source]\nquue = "x"\n', encoding="utf-8")
    del command.environment["COATCHECK_LOG__FORMAT"], command.environment["COATCHECK_BREAKER__RUN"]
    (end,) = entries(command("run", code=2))
    assert "source.quue: no such option" in end["message"]


def test_json_tells_of_a_dependency_that_is_not_there(command: Command) -> None:
    command.set(LOG__FORMAT="json")
    *_, end = entries(command("run", code=3, DATABASE_URL="postgresql://postgres@127.0.0.1:1/postgres"))
    assert end["coatcheck"]["exit_code"] == 3
    assert end["message"].startswith("cannot connect to the database")


def test_a_command_that_a_person_gives_answers_in_words(command: Command, queue: Queue) -> None:
    command.set(LOG__FORMAT="json")
    assert command("redrive", code=2).err.startswith("coatcheck: error: ")
    assert queue.depth() == (0, 0, 0)
