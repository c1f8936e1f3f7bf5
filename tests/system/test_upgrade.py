"""An upgrade without a pause: `migrate` of the new version while the old one loads, then the workers, one by one."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from tests.support.fix_servers import BAD, LoginDatabase, Queue, commanding, logins, new_queue
from tests.support.process import LIMIT_S, Command, wait_until

from coatcheck.demo.servers import SqsServer

ROOT = Path(__file__).parents[2]
OLDER = "8193f92"
"""A commit whose schema is 0006. From the first release on this is to be the release before."""


@pytest.fixture
def older(tmp_path: Path) -> Path:
    """The source of the older version."""
    folder = tmp_path / "older"
    folder.mkdir()
    packed = subprocess.run(["git", "archive", OLDER, "src"], cwd=ROOT, capture_output=True, check=False)
    if packed.returncode:
        pytest.skip("the history of the repository is not here")
    subprocess.run(["tar", "-x"], cwd=folder, input=packed.stdout, check=True)
    source = folder / "src"
    where = "import coatcheck.cli; print(coatcheck.cli.__file__)"
    used = subprocess.run(
        [sys.executable, "-c", where], env={"PYTHONPATH": str(source)}, capture_output=True, text=True, check=True
    )
    assert used.stdout.startswith(str(source)), "it would run this version twice"
    return source


@pytest.fixture
def queue(sqs: SqsServer) -> Iterator[Queue]:
    """A queue whose messages come back soon after their holder's death."""
    with new_queue(sqs, VisibilityTimeout=3) as new:
        yield new


@pytest.fixture
def fleet(tmp_path: Path, queue: Queue, bare_database: LoginDatabase, keyring: Path) -> Iterator[Command]:
    with commanding(tmp_path, queue, bare_database, keyring) as command:
        command.set(SOURCE__MAX_IN_FLIGHT=60, BATCH__MESSAGES=20)
        yield command


@contextmanager
def running(command: Command, source: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run a worker of a version."""
    process = subprocess.Popen(
        [sys.executable, "-m", "coatcheck", "run"],
        cwd=command.folder,
        env=command.environment | {"PYTHONPATH": str(source)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait(LIMIT_S)


def do(command: Command, source: Path, *arguments: str) -> str:
    """Run a command of a version to its end; return what it printed."""
    done = subprocess.run(
        [sys.executable, "-m", "coatcheck", *arguments],
        cwd=command.folder,
        env=command.environment | {"PYTHONPATH": str(source)},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout


def test_migrate_first_then_the_workers_one_by_one(
    fleet: Command, queue: Queue, bare_database: LoginDatabase, older: Path
) -> None:
    """At every step somebody loads; one of the old version may still be killed and start again on the new schema."""
    sent = 0

    def more(messages: int = 20) -> None:
        nonlocal sent
        queue.send(logins(messages, first=sent))
        sent += messages

    def workers() -> int:
        return int(bare_database.value("SELECT count(DISTINCT worker) FROM coatcheck.batch"))

    def fed_until(condition: Callable[[], bool], what: str) -> None:
        def fed() -> bool:
            more()
            return condition()

        wait_until(fed, what)

    def loads_on(process: subprocess.Popen[bytes]) -> bool:
        before = bare_database.rows()
        fed_until(lambda: bare_database.rows() > before + 60, "it loads on")
        return process.poll() is None

    assert "applied 0006_figures.sql" in do(fleet, older, "migrate")
    queue.send([BAD % number for number in range(5)])
    with ExitStack() as stack:
        old = stack.enter_context(running(fleet, older))
        fed_until(lambda: workers() == 1, "the old one loads")
        assert "applied 0007_pipelines.sql" in do(fleet, ROOT / "src", "migrate")
        assert loads_on(old)
        new = stack.enter_context(running(fleet, ROOT / "src"))
        fed_until(lambda: workers() == 2, "the new one loads beside it")
        old.kill()
        again = stack.enter_context(running(fleet, older))
        new.kill()
        fed_until(lambda: workers() == 3, "one of the old version starts on the new schema, and loads")
        again.terminate()
        assert again.wait(LIMIT_S) == 0
    fleet("run", "--drain")
    assert bare_database.figures() == (sent, sent + 5, 5)
    assert bare_database.repeated() == 0
    assert queue.depth() == (0, 0, 0)
