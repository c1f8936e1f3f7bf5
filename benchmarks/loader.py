"""Runs the installed `coatcheck` command with nothing but environment variables as its configuration."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
from benchmarks.measure import started

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from benchmarks.measure import Running, Usage

OTHERS = ("AWS_", "PG", "COATCHECK_")  # what the machine has set must not reach the measured program
COMMAND_SECONDS = 120
TAIL = 2000


class BenchmarkError(Exception):
    """A run cannot be made, or gave a wrong result."""


class Outcome(msgspec.Struct, frozen=True):
    """What `coatcheck run --drain --json` prints."""

    received: int
    loaded: int
    duplicates: int
    rejected: int
    acked: int
    seconds: float


def installed_command() -> Path:
    """Return the command that belongs to this Python."""
    command = Path(sys.executable).with_name("coatcheck")
    if not command.exists():
        raise BenchmarkError(f"there is no coatcheck command beside {sys.executable}; make setup")
    return command


def _inherited() -> dict[str, str]:
    """Return this process's environment without the settings that would lead the command elsewhere."""
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(OTHERS) and not name.lower().endswith("_proxy")
    }


class Loader:
    """The command, its keys and its environment, in a folder of its own."""

    def __init__(self, command: Path, folder: Path, *, extra: Mapping[str, str], timeout: float) -> None:
        self._command = command
        self._folder = folder
        self._timeout = timeout
        self._environment = {
            **_inherited(),
            "AWS_ACCESS_KEY_ID": "benchmark",
            "AWS_SECRET_ACCESS_KEY": "benchmark",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_EC2_METADATA_DISABLED": "true",
            "COATCHECK_SOURCE__QUEUE": "login-queue",
            "COATCHECK_KEYS__PATH": str(folder / "keys"),
            "COATCHECK_METRICS__LISTEN": "127.0.0.1:0",  # as in production
            **extra,
        }

    def make_keys(self) -> None:
        """Make the keyring that all runs share."""
        self._call("keys", "init")

    def migrate(self, dsn: str) -> None:
        """Create schema and target table."""
        self._call("migrate", DATABASE_URL=dsn)

    def drain(self, *, dsn: str, endpoint: str, workers: int) -> tuple[Usage, Outcome]:
        """Load the whole queue and tell what it cost."""
        with self.running(dsn=dsn, endpoint=endpoint, workers=workers, drain=True) as running:
            usage = running.wait(self._timeout)
        return usage, self.outcome(usage)

    @contextmanager
    def running(self, *, dsn: str, endpoint: str, workers: int = 1, drain: bool = False) -> Iterator[Running]:
        """Give the command while it loads; without `drain` it ends only when it is told to."""
        command = [str(self._command), "run", *(["--drain"] if drain else []), "--json", "--workers", str(workers)]
        environment = {**self._environment, "DATABASE_URL": dsn, "AWS_ENDPOINT_URL": endpoint}
        with started(command, environment=environment, folder=self._folder) as running:
            yield running

    def outcome(self, usage: Usage) -> Outcome:
        """Return what the command printed at its end; raises BenchmarkError if it failed."""
        if usage.wall_seconds > self._timeout:
            raise BenchmarkError(f"coatcheck run did not end within {self._timeout:g} s")
        if usage.exit_code:
            errors = (self._folder / "stderr").read_text(errors="replace")[-TAIL:]
            raise BenchmarkError(f"coatcheck run ended with {usage.exit_code}: {errors}")
        try:
            return msgspec.json.decode((self._folder / "stdout").read_bytes(), type=Outcome)
        except msgspec.DecodeError as error:
            raise BenchmarkError(f"coatcheck run printed no outcome: {error}") from error

    def _call(self, *arguments: str, **environment: str) -> None:
        done = subprocess.run(
            [str(self._command), *arguments],
            env={**self._environment, **environment},
            cwd=self._folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=COMMAND_SECONDS,
            check=False,
        )
        if done.returncode:
            errors = done.stderr[-TAIL:]
            raise BenchmarkError(f"coatcheck {' '.join(arguments)} ended with {done.returncode}: {errors}")
