"""One contestant empties a queue into a database of its own: what it cost, once the result is found right."""

from __future__ import annotations

import os
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING

import psycopg
from benchmarks.database import Databases, table_counts
from benchmarks.loader import TAIL, BenchmarkError, Loader
from benchmarks.measure import run_measured
from benchmarks.null_process import ROOT, null_sqs
from benchmarks.null_sqs import ACCOUNT, QUEUE
from benchmarks.peers.login import COLUMNS, TABLE
from benchmarks.peers.ratios import Run
from benchmarks.report import check as check_coatcheck
from psycopg import sql

from coatcheck.config_columns import login_columns

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from benchmarks.measure import Usage
    from benchmarks.null_process import Stats
    from benchmarks.peers.roster import Contestant

KEPT = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "LD_LIBRARY_PATH")
"""What a peer gets of this process's environment: nothing that would lead it elsewhere."""
MASKED = sql.SQL(
    "SELECT count(*) FROM {} WHERE masked_ip ~ '^[0-9a-f]{{64}}$' AND masked_device_id ~ '^[0-9a-f]{{64}}$'"
    " AND app_version IS NOT NULL AND create_date IS NOT NULL"
).format(sql.Identifier(TABLE))


@dataclass(frozen=True, slots=True)
class Drained:
    """What one emptied queue cost."""

    usage: Usage
    stats: Stats
    postgres_seconds: float | None


@dataclass(slots=True)
class Race:
    """One PostgreSQL server, coatcheck with its keys, and what starts the peers."""

    databases: Databases
    loader: Loader
    starters: Mapping[str, list[str]]
    folder: Path
    timeout: float
    number: int = 0

    def run(self, contestant: Contestant, *, messages: int, latency_ms: float, in_round: int) -> Run:
        """Measure a contestant, on an empty queue first; raises BenchmarkError if the result is wrong."""
        start = self._drain(contestant, 0, latency_ms).usage.cpu_seconds
        drained = self._drain(contestant, messages, latency_ms)
        usage, postgres = drained.usage, drained.postgres_seconds
        return Run(
            peer=contestant.name,
            round=in_round,
            latency_ms=latency_ms,
            processes=contestant.processes,
            messages=messages,
            cpu_us=usage.cpu_seconds / messages * 1e6,
            running_us=(usage.cpu_seconds - start) / messages * 1e6,
            start_cpu_seconds=start,
            rate=messages / drained.stats.elapsed,
            postgres_us=None if postgres is None else postgres / messages * 1e6,
            null_sqs_us=drained.stats.cpu_seconds / messages * 1e6,
            rss_mb=usage.rss_mb,
            rss_total_mb=usage.rss_total_mb,
        )

    def _drain(self, contestant: Contestant, messages: int, latency_ms: float) -> Drained:
        self.number += 1
        with ExitStack() as stack:
            dsn = stack.enter_context(self.databases.fresh(f"peers_{self.number}"))
            if contestant.is_peer:
                create_table(dsn)
            else:
                self.loader.migrate(dsn)
            options = {"messages": messages, "latency_ms": latency_ms, "seed": self.number}
            queue = stack.enter_context(null_sqs(**options))
            self.databases.settle()
            before = self.databases.cpu_seconds()
            if contestant.is_peer:
                usage = self._run_peer(contestant, dsn, queue.url, latency_ms)
            else:
                usage, outcome = self.loader.drain(dsn=dsn, endpoint=queue.url, workers=contestant.processes)
            after = self.databases.cpu_seconds()
            stats = queue.stats()
            if contestant.is_peer:
                check(contestant.name, messages, stats, rows=counted(dsn), masked=counted(dsn, MASKED))
            else:
                check_coatcheck(messages=messages, outcome=outcome, stats=stats, counts=table_counts(dsn))
        return Drained(usage, stats, None if before is None or after is None else after - before)

    def _run_peer(self, contestant: Contestant, dsn: str, endpoint: str, latency_ms: float) -> Usage:
        """Run a peer until it has emptied the queue, in a folder of its own: dlt keeps its state there."""
        folder = self.folder / f"peer-{self.number}"
        folder.mkdir()
        usage = run_measured(
            contestant.command(self.starters, latency_ms),
            environment=environment(dsn, endpoint),
            folder=folder,
            timeout=self.timeout,
        )
        if usage.wall_seconds > self.timeout:
            raise BenchmarkError(f"{contestant.name} did not end within {self.timeout:g} s")
        if usage.exit_code:
            errors = (folder / "stderr").read_text(errors="replace")[-TAIL:]
            raise BenchmarkError(f"{contestant.name} ended with {usage.exit_code}: {errors}")
        return usage


def environment(dsn: str, endpoint: str) -> dict[str, str]:
    """Return the environment of a peer."""
    return {name: os.environ[name] for name in KEPT if name in os.environ} | {
        "PYTHONPATH": str(ROOT),
        "AWS_ACCESS_KEY_ID": "benchmark",
        "AWS_SECRET_ACCESS_KEY": "benchmark",
        "AWS_REGION": "us-east-1",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_ENDPOINT_URL": endpoint,
        "QUEUE_URL": f"{endpoint}/{ACCOUNT}/{QUEUE}",
        "DATABASE_URL": dsn,
        "RUNTIME__DLTHUB_TELEMETRY": "false",  # of dlt
    }


def create_table(dsn: str) -> None:
    """Make the target table for a peer: coatcheck's columns, without its checks that a value is a token."""
    columns = login_columns()
    parts = [sql.SQL("{} " + columns[name].type).format(sql.Identifier(name)) for name in COLUMNS]
    statement = sql.SQL("CREATE TABLE {} ({})").format(sql.Identifier(TABLE), sql.SQL(", ").join(parts))
    with psycopg.connect(dsn) as connection:
        connection.execute(statement)


def counted(dsn: str, query: sql.Composed | None = None) -> int:
    """Return how many rows there are, or what a query counts."""
    count = query or sql.SQL("SELECT count(*) FROM {}").format(sql.Identifier(TABLE))
    with psycopg.connect(dsn) as connection:
        row = connection.execute(count).fetchone()
    return int(row[0]) if row else 0


def check(name: str, messages: int, stats: Stats, *, rows: int, masked: int) -> None:
    """Raise BenchmarkError unless a peer has stored each message once, masked, and deleted it."""
    figures = {
        "rows in the table": (rows, messages),
        "rows that are masked and whole": (masked, messages),
        "messages deleted from the queue": (stats.deleted, messages),
        "messages received": (stats.received, messages),
        "errors at the queue": (stats.errors, 0),
    }
    wrong = [f"{found} {what}" for what, (found, due) in figures.items() if found != due]
    if wrong:
        raise BenchmarkError(f"{name}: {messages} messages, but {', '.join(wrong)}")
