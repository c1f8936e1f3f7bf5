"""`run --workers N`: one set of counts, restarts where they help, and an end where they do not."""

from __future__ import annotations

import os
import signal

import pytest
from tests.support.fix_servers import BAD, LoginDatabase, Queue, login, logins
from tests.support.process import Command, alive, wait_until


def test_counts_are_summed(command: Command, queue: Queue, login_database: LoginDatabase) -> None:
    queue.send([*logins(2000), *(BAD % number for number in range(20))])
    command.set(SOURCE__MAX_IN_FLIGHT=200)
    counts = command("run", "--workers", "3", "--drain", "--json").json()
    seconds = counts.pop("seconds")
    assert counts == {"received": 2020, "loaded": 2000, "duplicates": 0, "rejected": 20, "acked": 2020}
    assert 0 < seconds < 60
    assert login_database.figures() == (2000, 2020, 20)
    workers = login_database.value("SELECT count(DISTINCT worker) FROM coatcheck.batch")
    assert workers > 1, "one worker has done it all"


def test_a_killed_worker_is_started_again(command: Command, queue: Queue, login_database: LoginDatabase) -> None:
    running = command.start("run", "--workers", "2", "--json")
    first = wait_until(lambda: pids if len(pids := command.workers(running)) == 2 else [], "two workers")
    os.kill(first[0], signal.SIGKILL)
    both = wait_until(
        lambda: pids if len(pids := command.workers(running)) == 2 and first[0] not in pids else [], "two again"
    )
    assert first[1] in both, "the other one has nothing to do with it"
    queue.send(logins(100))
    wait_until(lambda: login_database.rows() == 100, "they work")
    running.signal(signal.SIGTERM)
    done = running.wait()
    assert (done.code, done.json()["loaded"]) == (0, 100)
    assert done.err.endswith(" warning: a worker has died and is started again (exit_code=-9 worker=0)\n")
    assert len(done.err.splitlines()) == 1
    assert not alive(both)


@pytest.mark.parametrize("attempt", range(3))
def test_what_no_restart_mends_ends_it(command: Command, login_database: LoginDatabase, attempt: int) -> None:  # noqa: ARG001 - workers end in no certain order
    login_database.execute("DROP SCHEMA coatcheck CASCADE")
    done = command("run", "--workers", "3", code=2)
    assert done.out == ""
    assert done.err.count("coatcheck: error: the schema coatcheck is missing") in range(1, 4)
    assert done.err.count("coatcheck: hint: run `coatcheck migrate`") in range(1, 4)
    assert done.err.count("coatcheck: error: worker ") == 1
    assert done.err.endswith("with exit code 2\ncoatcheck: hint: its own message stands above\n")


def test_an_open_breaker_ends_it(command: Command, queue: Queue, login_database: LoginDatabase) -> None:
    command.set(BREAKER__RUN=20, BATCH__SECONDS=3)
    queue.send(BAD % number for number in range(100))
    done = command("run", "--workers", "2", code=4)
    assert "coatcheck: error: the breaker is open: 20 messages in a row were rejected" in done.err
    kept = login_database.count("coatcheck.quarantine")  # the other one may have had a few, and ends them in good order
    assert kept < 20
    assert queue.depth() == (100 - kept, 0, 0)


def test_a_dead_dependency_ends_a_drain(command: Command) -> None:
    done = command("run", "--workers", "2", "--drain", code=3, DATABASE_URL="postgresql://postgres@127.0.0.1:1/none")
    assert "coatcheck: error: cannot connect to the database: the database does not answer" in done.err


@pytest.mark.parametrize("workers", [1, 4])
def test_a_stop_while_workers_are_being_started(command: Command, workers: int) -> None:
    running = command.start("run", "--json", "--workers", str(workers + 1))
    wait_until(lambda: len(command.workers(running)) >= workers, "so many workers")
    running.signal(signal.SIGTERM)
    done = running.wait(10)
    assert (done.code, done.err) == (0, "")
    assert done.json()["received"] == 0
    assert not alive(command.workers(running))


def test_options_reach_the_workers(command: Command, queue: Queue, login_database: LoginDatabase) -> None:
    """--config and --verbose, and the configuration file is found from anywhere."""
    (command.folder / "other.toml").write_text('[ledger]\nkey = "content"\n')
    queue.send([login(1)] * 7)
    running = command.start("--config", "other.toml", "-v", "run", "--workers", "2")
    wait_until(lambda: queue.depth() == (0, 0, 0), "all is acked")
    running.signal(signal.SIGTERM)
    done = running.wait()
    assert done.code == 0
    assert login_database.figures() == (1, 1, 0)
    assert done.err.count("info: stopping: no more receiving, finishing what is in progress") == 2


@pytest.mark.parametrize("attempt", range(4))
def test_a_stop_at_the_moment_when_workers_die(command: Command, attempt: int) -> None:  # noqa: ARG001 - two signals arrive in no certain order
    running = command.start("run", "--workers", "4")
    workers = wait_until(lambda: pids if len(pids := command.workers(running)) == 4 else [], "four workers")
    running.signal(signal.SIGSTOP)
    for worker in workers[:3]:
        os.kill(worker, signal.SIGKILL)
    running.signal(signal.SIGTERM)
    running.signal(signal.SIGCONT)
    done = running.wait(10)
    assert (done.code, done.err) == (0, "")
    assert not alive(workers)


def test_a_worker_that_somebody_stops_is_started_again(
    command: Command, queue: Queue, login_database: LoginDatabase
) -> None:
    """It ends well, exit code 0; but nobody has told the supervisor to stop."""
    sent = 0

    def both_work() -> bool:  # so both are past their start, and end well
        nonlocal sent
        sent += queue.send(logins(40, first=sent))
        return bool(login_database.value("SELECT count(DISTINCT worker) FROM coatcheck.batch") == 2)

    running = command.start("run", "--workers", "2", "--json")
    first = wait_until(lambda: pids if len(pids := command.workers(running)) == 2 else [], "two workers")
    wait_until(both_work, "both work")
    os.kill(first[0], signal.SIGTERM)
    both = wait_until(
        lambda: pids if len(pids := command.workers(running)) == 2 and first[0] not in pids else [], "two again"
    )
    assert first[1] in both
    wait_until(lambda: queue.depth() == (0, 0, 0), "all is loaded")
    running.signal(signal.SIGTERM)
    done = running.wait()
    assert (done.code, login_database.figures()) == (0, (sent, sent, 0))
    assert "warning: a worker has ended and is started again (exit_code=0 worker=" in done.err
    assert len(done.err.splitlines()) == 1
    assert not alive(both)


def test_modules_in_the_current_folder_are_not_executed(command: Command, queue: Queue) -> None:
    """The folder may be anybody's, and the process holds the keys."""
    for name in ("click", "msgspec", "uvloop", "json", "sitecustomize", "coatcheck"):
        (command.folder / f"{name}.py").write_text(f"open('executed-{name}', 'w').close()\nraise SystemExit(7)\n")
    queue.send(logins(20))
    assert command("run", "--workers", "2", "--drain", "--json").json()["loaded"] == 20
    assert not list(command.folder.glob("executed-*"))
