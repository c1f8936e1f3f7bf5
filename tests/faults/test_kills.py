"""kill -9, and SIGSTOP, at the moments that matter: each is made to last, so that no run misses it."""

from __future__ import annotations

import os
import random
import signal
import time

import pytest
from tests.faults.faulty_sqs import DELETE, Fault
from tests.faults.lab import Lab
from tests.support.process import alive, frozen, wait_until

LOCK = 1702
PHASES = {
    "ledger": "CREATE TRIGGER gate AFTER INSERT ON coatcheck.ledger FOR EACH ROW",
    "rows": "CREATE TRIGGER gate AFTER INSERT ON user_logins FOR EACH ROW",
    "quarantine": "CREATE TRIGGER gate AFTER INSERT ON coatcheck.quarantine FOR EACH ROW",
    "commit": "CREATE CONSTRAINT TRIGGER gate AFTER INSERT ON user_logins DEFERRABLE INITIALLY DEFERRED FOR EACH ROW",
}
"""A trigger for each phase of a transaction, which stands there while the lock is held."""


def gate(lab: Lab, phase: str) -> None:
    lab.database.execute(
        "CREATE FUNCTION gate() RETURNS trigger LANGUAGE plpgsql AS"
        f" $$ BEGIN PERFORM pg_advisory_xact_lock_shared({LOCK}); RETURN NULL; END $$;"
        f" {PHASES[phase]} EXECUTE FUNCTION gate()"
    )


@pytest.mark.parametrize("backend", ["ends with it", "goes on without it"])
@pytest.mark.parametrize("phase", PHASES)
def test_killed_in_a_phase_of_its_transaction(lab: Lab, phase: str, backend: str) -> None:
    """PostgreSQL notices late that nobody is there: what was begun may yet be committed, or not. Both are fine."""
    gate(lab, phase)
    lab.send(80, 10)
    with lab.database.session() as session:
        session.execute(f"SELECT pg_advisory_lock({LOCK})".encode())
        running = lab.command.start("run")
        wait_until(lab.database.waiting, "its transaction stands at the gate")
        assert lab.database.figures() == (0, 0, 0)
        running.kill()
        if backend == "ends with it":
            lab.database.terminate()
            wait_until(lambda: not lab.database.connections(), "its transactions are gone")
        session.execute(f"SELECT pg_advisory_unlock({LOCK})".encode())
    wait_until(lambda: not lab.database.connections(), "whatever it began has ended")
    assert (lab.done() == 0) == (backend == "ends with it")
    verdict = lab.finish()
    assert verdict.kept, verdict


@pytest.mark.parametrize("kind", ["stalled", "lost", "unavailable", "partial"])
def test_killed_while_it_acks(lab: Lab, kind: str) -> None:
    """Some deletes have happened, some have not, and it knew of neither."""
    lab.sqs.faults = (Fault(kind, 0.5, (DELETE,)),)
    lab.send(150, 5)
    running = lab.command.start("run")
    wait_until(lambda: lab.sqs.injected[kind], "an ack has met the fault")
    running.kill()
    assert lab.done()
    verdict = lab.finish()
    assert verdict.kept, verdict


@pytest.mark.parametrize("workers", ["1", "2"])
def test_killed_while_it_starts(lab: Lab, workers: str) -> None:
    """At moments spread over its start, each somewhere else in it."""
    began = time.monotonic()
    lab.send(20)
    running = lab.command.start("run", "--workers", workers)
    lab.more(1)
    whole = time.monotonic() - began
    running.kill()
    for part in range(10):
        lab.send(20)
        running = lab.command.start("run", "--workers", workers)
        time.sleep(whole * part / 10)  # the fault itself: the moment of the kill
        members = lab.command.workers(running)
        running.kill()
        for pid in alive(members):
            os.kill(pid, signal.SIGKILL)
    verdict = lab.finish()
    assert verdict.kept, verdict


def test_killed_while_it_stops(lab: Lab) -> None:
    """It has been told to stop, its last batch stands before its commit, acks are slow: and then kill -9."""
    rng = random.Random(6)  # noqa: S311 - moments, no secret
    lab.sqs.faults = (Fault("slow", 1.0, (DELETE,), seconds=0.1),)
    for _ in range(8):
        lab.send(100, 2)
        running = lab.command.start("run")
        lab.more(1)
        running.signal(signal.SIGTERM)
        time.sleep(rng.random() * 0.3)  # the fault itself: the moment of the kill
        running.kill()
    verdict = lab.finish()
    assert verdict.kept, verdict


def test_stopped_for_longer_than_its_leases_last(lab: Lab) -> None:
    """SIGSTOP: another has its messages meanwhile, and then it wakes and goes on with them."""
    lab.send(200)
    sleeper = lab.command.start("run")
    lab.more(1)
    with frozen(sleeper.pid):
        lab.send(100)
        other = lab.command.start("run")
        lab.more(300)
        wait_until(lambda: lab.queue.depth() == (0, 0, 0), "the other has acked all")
    lab.send(100)
    lab.more(100)
    for running in (sleeper, other):
        running.signal(signal.SIGTERM)
        assert running.wait().code == 0
    verdict = lab.finish()
    assert verdict.kept, verdict
