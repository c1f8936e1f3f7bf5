"""Rows that the table refuses or keeps out, as the command meets them: held one by one, and never a dead letter."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from tests.support.canaries import nowhere
from tests.support.fix_servers import LoginDatabase, Queue, login, logins, new_queue
from tests.support.process import Command

from coatcheck.demo.servers import SqsServer

BAD = "user-canary-7x7x"
TRIGGER = """
CREATE FUNCTION choose() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF %s THEN %s END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER choosing BEFORE INSERT ON user_logins FOR EACH ROW EXECUTE FUNCTION choose()
"""
ONE = f"NEW.user_id = '{BAD}'"
RAISE = "RAISE 'no: %', NEW USING ERRCODE = 'U0001', CONSTRAINT = NEW.user_id, TABLE = NEW.user_id;"
POLICY = f"""
ALTER TABLE user_logins ENABLE ROW LEVEL SECURITY;
CREATE POLICY fence ON user_logins FOR INSERT WITH CHECK (user_id <> '{BAD}')
"""
BODY = login(7, user_id=BAD)


@pytest.fixture
def dead(sqs: SqsServer, queue: Queue) -> Iterator[Queue]:
    """The queue's dead letters: what was received three times goes there."""
    with new_queue(sqs, "-dead") as letters:
        policy = json.dumps({"deadLetterTargetArn": letters.arn, "maxReceiveCount": "3"})
        queue.set(RedrivePolicy=policy, VisibilityTimeout=30)
        yield letters


@pytest.fixture(params=["policy", "trigger"])
def choosy(request: pytest.FixtureRequest, command: Command, login_database: LoginDatabase) -> str:
    """A table that refuses one user; return the code that it refuses them with."""
    if request.param == "trigger":
        login_database.execute(TRIGGER % (ONE, RAISE))
        return "U0001"
    command.environment["DATABASE_URL"] = login_database.role("coatcheck_operator", "coatcheck_loader")
    login_database.execute(POLICY)
    return "42501"


def held(database: LoginDatabase) -> list[tuple[str, str]]:
    found = database.execute("SELECT reason, detail FROM coatcheck.quarantine")
    return [(reason, detail) for reason, detail in found]


def test_one_of_ten(command: Command, queue: Queue, login_database: LoginDatabase, dead: Queue, choosy: str) -> None:
    queue.send([*logins(5), BODY, *logins(4, 10)])
    counts = command.drain()
    assert (counts["loaded"], counts["rejected"], counts["duplicates"], counts["acked"]) == (9, 1, 0, 10)
    assert held(login_database) == [("refused_by_database", choosy)]
    assert (queue.depth(), dead.depth()) == ((0, 0, 0), (0, 0, 0))


def test_a_row_alone_is_no_dead_letter(
    command: Command, queue: Queue, login_database: LoginDatabase, dead: Queue, choosy: str
) -> None:
    """Nobody can tell whose fault it is, so it stops the command, but not a third time."""
    queue.send([BODY])
    said = [command("run", "--drain", code=2 if choosy == "42501" else 3).err for _ in range(2)]
    assert all(f"{choosy} to every row that was tried" in text and "hint: " in text for text in said)
    assert held(login_database) == []
    assert command.drain()["rejected"] == 1
    assert held(login_database) == [("refused_by_database", choosy)]
    assert (queue.depth(), dead.depth()) == ((0, 0, 0), (0, 0, 0))
    nowhere({BAD}, {"errors": "".join(said)})


def test_a_row_alone_before_good_ones(
    command: Command, queue: Queue, login_database: LoginDatabase, dead: Queue, choosy: str
) -> None:
    queue.send([BODY])
    assert command.start("run", "--drain").wait().code
    queue.send(logins(9))
    for _ in range(2):  # should it come alone again
        command.start("run", "--drain").wait()
    assert held(login_database) == [("refused_by_database", choosy)]
    assert login_database.figures() == (9, 10, 1)
    assert (queue.depth(), dead.depth()) == ((0, 0, 0), (0, 0, 0))


def test_a_row_alone_after_good_ones(
    command: Command, queue: Queue, login_database: LoginDatabase, dead: Queue, choosy: str
) -> None:
    queue.send(logins(9))
    assert command.drain()["loaded"] == 9
    queue.send([BODY])
    codes = [command.start("run", "--drain").wait().code for _ in range(3)]
    assert [bool(code) for code in codes] == [True, True, False]
    assert held(login_database) == [("refused_by_database", choosy)]
    assert login_database.figures() == (9, 10, 1)
    assert (queue.depth(), dead.depth()) == ((0, 0, 0), (0, 0, 0))


def test_every_row_is_refused(command: Command, queue: Queue, login_database: LoginDatabase) -> None:
    """The command stops as it does before the breaker opens; nothing is acked or quarantined."""
    login_database.execute(TRIGGER % ("true", RAISE))
    queue.send(logins(50))
    done = command("run", "--drain", code=3)
    assert "U0001 to every row that was tried" in done.err
    assert login_database.figures() == (0, 0, 0)
    assert sum(queue.depth()) == 50
    login_database.execute("DROP TRIGGER choosing ON user_logins")
    assert command.drain()["loaded"] == 50


def test_rows_that_a_trigger_keeps_out(command: Command, queue: Queue, login_database: LoginDatabase) -> None:
    login_database.execute(TRIGGER % (ONE, "RETURN NULL;"))
    queue.send([*logins(5), BODY])
    done = command("-v", "run", "--drain", "--json")
    counts = done.json()
    assert (counts["loaded"], counts["rejected"], counts["duplicates"], counts["acked"]) == (5, 1, 0, 6)
    assert "suppressed" not in counts
    assert '[target] suppressed = "accept"' in done.err
    assert held(login_database) == [("suppressed_by_table", "")]
    command("quarantine", "retry", "--all")
    assert held(login_database) == [("suppressed_by_table", "")]
    nowhere({BAD}, {"log": done.err})


def test_rows_that_a_trigger_keeps_out_can_be_accepted(
    command: Command, queue: Queue, login_database: LoginDatabase
) -> None:
    login_database.execute(TRIGGER % (ONE, "RETURN NULL;"))
    command.set(TARGET__SUPPRESSED="accept")
    queue.send([*logins(5), BODY])
    counts = command.drain()
    assert {name: counts[name] for name in ("received", "loaded", "suppressed", "duplicates", "rejected", "acked")} == {
        "received": 6, "loaded": 5, "suppressed": 1, "duplicates": 0, "rejected": 0, "acked": 6,
    }  # fmt: skip
    assert held(login_database) == []
