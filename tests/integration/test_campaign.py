"""A short campaign of the fault laboratory, so that every change meets some of it (`make soak` is the long one)."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.faults.faulty_sqs import RECEIVE, Fault
from tests.faults.lab import PAIR, Lab, laboratory
from tests.faults.soak import Campaign
from tests.support.fix_servers import LoginDatabase, Queue

from coatcheck.demo.servers import SqsServer

CYCLES = 8


@pytest.fixture
def lab(tmp_path: Path, sqs: SqsServer, login_database: LoginDatabase, keyring: Path) -> Iterator[Lab]:
    with laboratory(tmp_path, sqs=sqs, database=login_database, keyring=keyring, seed=7, pipelines=PAIR) as ready:
        yield ready


def test_a_short_campaign(lab: Lab) -> None:
    campaign = Campaign(lab, random.Random(7))  # noqa: S311 - a campaign that repeats
    for number in range(CYCLES):
        campaign.cycle(number)
    verdict = lab.finish()
    assert verdict.kept, verdict
    assert campaign.kills() >= CYCLES / 2
    assert verdict.messages > CYCLES * 30


def test_the_verdict_sees_what_is_lost_doubled_misplaced_and_leaked(lab: Lab) -> None:
    lab.send(60, 4)
    verdict = lab.finish()
    assert verdict.kept
    assert (verdict.rows, verdict.quarantined) == (60, 4)
    lab.database.execute("DELETE FROM user_logins WHERE user_id = 'user-3'")
    lab.database.execute("INSERT INTO user_logins SELECT * FROM user_logins WHERE user_id IN ('user-4', 'user-5')")
    lab.database.execute("UPDATE user_logins SET locale = %s WHERE user_id = 'user-6'", lab.word[-6:])
    lab.database.execute("UPDATE second_logins SET user_id = 'user-x' WHERE user_id = 'user-7'")
    lab.database.execute("INSERT INTO second_logins SELECT * FROM user_logins WHERE user_id = 'user-8'")
    lab.database.execute("DELETE FROM user_logins WHERE user_id = 'user-8'")
    lab.database.execute("INSERT INTO user_logins SELECT * FROM second_logins WHERE user_id = 'user-9'")
    (lab.command.folder / "some.log").write_text(lab.word.encode().hex())
    lab.lines[1].queue.send(["{}"])
    verdict = lab.verdict()
    assert (verdict.lost, verdict.doubled, verdict.strange, verdict.misplaced, verdict.left) == (2, 2, 1, 2, 1)
    assert verdict.leaks == ("some.log",)
    assert not verdict.kept


def test_a_receive_comes_twice_on_its_own_queue(lab: Lab) -> None:
    one, other = (Queue(lab.sqs.url, line.queue.name) for line in lab.lines)
    lab.lines[0].queue.send(["of one"])
    lab.sqs.faults = (Fault("twice", operations=(RECEIVE,)),)
    try:
        assert [message["Body"] for message in one.receive()] == ["of one"]
        lab.sqs.faults = ()
        assert other.receive() == []
        assert [message["Body"] for message in one.receive()] == ["of one"]
    finally:
        one.close()
        other.close()
