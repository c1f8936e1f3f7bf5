"""What SQS, or the network before it, answers on a bad day: a worker goes on, and nothing is lost or doubled."""

from __future__ import annotations

import pytest
from tests.faults.faulty_sqs import DELETE, EXTEND, RECEIVE, Fault
from tests.faults.lab import Lab
from tests.support.process import wait_until

KINDS = {
    "503 to everything": (Fault("unavailable"), 5),
    "500 to everything": (Fault("internal"), 5),
    "throttled": (Fault("throttled", 0.7), 5),
    "credentials that have expired": (Fault("expired"), 3),
    "connections that are cut": (Fault("cut"), 5),
    "answers that never come": (Fault("lost"), 5),
    "half of an answer": (Fault("truncated"), 5),
    "half-open connections": (Fault("stalled"), 3),
    "late answers": (Fault("slow", seconds=0.7), 10),
    "bodies that do not fit their checksum": (Fault("damaged", 0.5, (RECEIVE,)), 3),
    "delivered twice": (Fault("twice", 1.0, (RECEIVE,)), 3),
    "out of order": (Fault("shuffled", 1.0, (RECEIVE,)), 5),
    "one delete of ten told as failed": (Fault("partial", 1.0, (DELETE,)), 5),
    "deletes whose answer never comes": (Fault("lost", 1.0, (DELETE,)), 3),
    "deletes that are refused": (Fault("unavailable", 1.0, (DELETE,)), 3),
    "stale receipt handles": (Fault("stale", 1.0, (DELETE,)), 3),
}
"""Each with how often it is to be met."""


@pytest.mark.parametrize("kind", KINDS)
def test_a_bad_day(lab: Lab, kind: str) -> None:
    fault, times = KINDS[kind]
    lab.send(100, 3)
    running = lab.command.start("run")
    lab.more(20)
    lab.sqs.faults = (fault,)
    lab.send(300, 7)
    wait_until(lambda: lab.sqs.injected[fault.kind] >= times, f"it has met: {kind}")
    assert not running.ended(), running.err
    lab.sqs.heal()
    lab.more(410)
    running.signal(15)
    assert running.wait().code == 0
    verdict = lab.finish()
    assert verdict.kept, verdict


@pytest.mark.parametrize("code", ["unavailable", "cut", "throttled"])
def test_leases_that_are_not_extended_in_time(lab: Lab, code: str) -> None:
    """The batch waits for a lock, its messages become visible again, and a second worker has the same ones."""
    lab.sqs.faults = (Fault(code, 1.0, (EXTEND,)),)
    lab.send(60)
    with lab.database.session() as session, session.transaction():
        session.execute("LOCK TABLE user_logins")
        first = lab.command.start("run")
        wait_until(lambda: lab.database.waiting() and lab.queue.depth()[0] == 0, "all is received, nothing committed")
        wait_until(lambda: lab.queue.depth()[0] > 0, "messages are visible again")
        before = len(lab.database.waiting())
        second = lab.command.start("run")
        wait_until(lambda: len(lab.database.waiting()) > before, "the second has some of them, too")
    lab.more(60)
    for running in (first, second):
        running.signal(15)
        assert running.wait().code == 0
    verdict = lab.finish()
    assert verdict.kept, verdict


def test_permission_is_withdrawn_while_it_runs(lab: Lab) -> None:
    """Nothing but people can cure it: it ends with a word, what it held is not lost, and the next run loads it."""
    lab.send(200)
    running = lab.command.start("run")
    lab.more(20)
    lab.sqs.faults = (Fault("denied"),)
    lab.send(200)
    done = running.wait()
    assert done.code == 3
    assert "coatcheck: error: " in done.err
    assert "coatcheck: hint: " in done.err
    verdict = lab.finish()
    assert verdict.kept, verdict


def test_a_queue_that_is_purged_while_it_is_read(lab: Lab) -> None:
    """Who purges takes what waits; what was received is loaded, what comes later too, and the worker goes on."""
    running = lab.command.start("run")
    lab.send(300)
    lab.more(20)
    lab.queue.call("PurgeQueue", QueueUrl=lab.queue.url)
    lab.send(100)
    wait_until(lambda: lab.database.value("SELECT count(*) FROM user_logins WHERE user_id = 'user-399'"), "it goes on")
    wait_until(lambda: lab.queue.depth() == (0, 0, 0), "all is acked")
    running.signal(15)
    assert running.wait().code == 0
    verdict = lab.verdict()
    assert (verdict.doubled, verdict.strange, verdict.left, verdict.leaks) == (0, 0, 0, ())
