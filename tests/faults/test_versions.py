"""An older version beside this one, on the same queue and table, as during an upgrade of many machines."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.faults.lab import Lab
from tests.support.process import LIMIT_S, wait_until

ROOT = Path(__file__).parents[2]
OLDER = "e612567"
"""A commit before metrics, JSON logs and verified TLS. From the first release on this is to be the release before."""


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


@contextmanager
def running(lab: Lab, source: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run a worker of a version."""
    process = subprocess.Popen(
        [sys.executable, "-m", "coatcheck", "run"],
        cwd=lab.command.folder,
        env=lab.command.environment | {"PYTHONPATH": str(source)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait(LIMIT_S)


def workers(lab: Lab) -> int:
    """Return how many processes have written batches."""
    return int(lab.database.value("SELECT count(DISTINCT worker) FROM coatcheck.batch"))


def fed_until(lab: Lab, count: int, what: str) -> None:
    """Send messages until so many processes have had some."""

    def fed() -> bool:
        lab.send(20)
        return workers(lab) == count

    wait_until(fed, what)


def test_two_versions_side_by_side(lab: Lab, older: Path) -> None:
    """Both load, one after the other is killed in the middle, and what one has begun the other ends."""
    lab.command.set(SOURCE__MAX_IN_FLIGHT=60, BATCH__MESSAGES=20)
    lab.send(200, 5)
    with running(lab, older) as old, running(lab, ROOT / "src") as new:
        fed_until(lab, 2, "both load")
        assert old.poll() is new.poll() is None
        lab.send(200, 5)
        old.kill()
        lab.more(100)
        with running(lab, older):
            new.kill()
            fed_until(lab, 3, "the older version is started again, and loads")
    verdict = lab.finish()
    assert verdict.kept, verdict
