"""Where an experiment runs: a durable PostgreSQL server, the installed command with its keys, fresh databases."""

from __future__ import annotations

import tempfile
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.database import Databases, table_counts
from benchmarks.loader import Loader, installed_command
from benchmarks.report import check

from coatcheck.demo.servers import PostgresServer

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from benchmarks.measure import Running
    from benchmarks.null_process import NullSqsProcess

START_SECONDS = 60.0
STOP_SECONDS = 60.0


@dataclass(slots=True)
class Place:
    """One PostgreSQL server and the command; each run has a database of its own."""

    loader: Loader
    databases: Databases
    number: int = 0

    @contextmanager
    def database(self) -> Iterator[str]:
        """Give the connection string of a fresh database with schema and target table."""
        self.number += 1
        with self.databases.fresh(f"bench_{self.number}") as dsn:
            self.loader.migrate(dsn)
            self.databases.settle()
            yield dsn

    @contextmanager
    def waiting(self, dsn: str, queue: NullSqsProcess) -> Iterator[Running]:
        """Give one worker that has come to its first receive and goes on until it is told to stop."""
        with self.loader.running(dsn=dsn, endpoint=queue.url) as running:
            queue.wait(lambda stats: stats.requests["ReceiveMessage"] > 0, START_SECONDS)
            yield running

    def end(self, running: Running, queue: NullSqsProcess, dsn: str, *, messages: int) -> float:
        """Stop the command, hold what it did against what it should have done, and return the CPU seconds it took."""
        usage = running.stop(STOP_SECONDS)
        outcome = self.loader.outcome(usage)
        check(messages=messages, outcome=outcome, stats=queue.stats(), counts=table_counts(dsn))
        return usage.cpu_seconds


@contextmanager
def at_a_place(extra: Mapping[str, str] | None = None, *, timeout: float = 3600.0) -> Iterator[Place]:
    """Start the server and make the keys; all of it is gone at the end."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="coatcheck-bench-")))
        loader = Loader(installed_command(), folder, extra=extra or {}, timeout=timeout)
        loader.make_keys()
        yield Place(loader, Databases(stack.enter_context(PostgresServer(durable=True)).dsn))
