"""The whole road, measured: null SQS server -> the installed `coatcheck run` -> durable PostgreSQL.

    python -m benchmarks.road --messages 100000 --runs 3 --workers 1 2

Each run has a database and a queue of its own and is checked: as many rows, ledger entries and deletes as
messages. The last line says whether the floor is met; so does the exit code (1: missed, or a run was wrong).
"""

from __future__ import annotations

import argparse
import os
import platform
import signal
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

import msgspec
from benchmarks.database import Databases, table_counts
from benchmarks.loader import BenchmarkError, Loader, installed_command
from benchmarks.measure import reference_loop_ms
from benchmarks.null_process import null_sqs
from benchmarks.report import LEGEND, Run, Summary, check, misses, run_figures, summarise, table, verdict

from coatcheck.demo.servers import PostgresServer

if TYPE_CHECKING:
    from collections.abc import Sequence

WARM_UP = 10_000
TIMEOUT_SECONDS = 600.0


class Report(msgspec.Struct, frozen=True):
    """Everything that was measured, as written by --json."""

    machine: dict[str, str | int | None]
    options: dict[str, object]
    runs: list[Run]
    starts: list[Run]
    summaries: list[Summary]
    missed: list[str]


class Road:
    """One PostgreSQL server, one keyring, and the runs with them."""

    def __init__(self, databases: Databases, loader: Loader, options: argparse.Namespace) -> None:
        self._databases = databases
        self._loader = loader
        self._options = options
        self._number = 0

    def run(self, *, workers: int, messages: int) -> Run:
        """Load a fresh queue into a fresh database; raises BenchmarkError if the result is wrong."""
        self._number += 1
        with ExitStack() as stack:
            dsn = stack.enter_context(self._databases.fresh(f"road_{self._number}"))
            self._loader.migrate(dsn)
            queue = stack.enter_context(
                null_sqs(
                    messages=messages,
                    distinct=self._options.distinct,
                    latency_ms=self._options.latency_ms,
                    seed=self._number,
                )
            )
            self._databases.settle()
            reference = reference_loop_ms()
            before = self._databases.cpu_seconds()
            usage, outcome = self._loader.drain(dsn=dsn, endpoint=queue.url, workers=workers)
            after = self._databases.cpu_seconds()
            stats = queue.stats()
            counts = table_counts(dsn)
        check(messages=messages, outcome=outcome, stats=stats, counts=counts)
        return run_figures(
            workers=workers,
            messages=messages,
            usage=usage,
            outcome=outcome,
            stats=stats,
            postgres_seconds=None if before is None or after is None else after - before,
            reference_ms=reference,
            vault_rows=counts["vault"],
        )


def measure(road: Road, options: argparse.Namespace, machine: dict[str, str | int | None]) -> Report:
    """Warm up, then take the runs, the numbers of workers in turn: a drift of the machine hits them alike."""
    say(f"warm-up, {WARM_UP:,} messages")
    road.run(workers=options.workers[0], messages=WARM_UP)
    runs: list[Run] = []
    starts: list[Run] = []
    for number in range(1, options.runs + 1):
        for workers in options.workers:
            starts.append(road.run(workers=workers, messages=0))
            run = road.run(workers=workers, messages=options.messages)
            runs.append(run)
            say(f"run {number}, workers {workers}: {run.cpu_us:.1f} us/message, {run.queue_rate:,.0f} msg/s")
    summaries = [
        summarise(
            [run for run in runs if run.workers == workers],
            [start for start in starts if start.workers == workers],
        )
        for workers in options.workers
    ]
    return Report(
        machine=machine,
        options={name: value for name, value in vars(options).items() if name != "json"},
        runs=runs,
        starts=starts,
        summaries=summaries,
        missed=misses(summaries),
    )


def show(report: Report) -> None:
    """Print the table and what belongs to it."""
    machine = ", ".join(f"{name} {value}" for name, value in report.machine.items())
    shown = ("messages", "runs", "distinct", "latency_ms")
    options = ", ".join(f"{name} {report.options[name]}" for name in shown)
    starts = ", ".join(f"{start.start_cpu_seconds * 1000:.0f} ms" for start in report.summaries)
    print(f"{machine}; {options}\n")
    print(table(report.summaries))
    print(f"\n{LEGEND}\n")
    print(f"start-up share: CPU of a run on an empty queue: {starts}")
    loops = [run.reference_ms for run in report.runs]
    print(f"reference loop: {median(loops):.0f} ms ({min(loops):.0f}-{max(loops):.0f})")
    vault = report.runs[0].vault_rows
    print("vault: off" if vault is None else f"vault: {vault:,} entries after a run")
    print(verdict(report.missed))


def say(text: str) -> None:
    """Tell how far it is, apart from the result."""
    print(text, file=sys.stderr, flush=True)


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.road",
        description="loader CPU per message, messages per second and memory of the whole road",
    )
    option = parser.add_argument
    option("--messages", type=_positive, default=100_000, help="in each run (default: %(default)s)")
    option("--runs", type=_positive, default=3, help="of each number of workers (default: %(default)s)")
    option("--workers", type=_positive, nargs="+", default=[1, 2], help="numbers to try (default: 1 2)")
    option("--latency-ms", type=float, default=0.0, help="of each SQS request (default: %(default)s)")
    option("--distinct", type=float, default=0.2, help="share of new values (default: %(default)s)")
    option("--env", action="append", default=[], metavar="NAME=VALUE", help="setting for the command")
    option("--timeout", type=float, default=TIMEOUT_SECONDS, help="of one run, in seconds")
    option("--json", type=Path, metavar="FILE", help="write everything that was measured")
    option("--no-gate", action="store_true", help="exit 0 even if the floor is missed")
    options = parser.parse_args(arguments)
    for setting in options.env:
        if "=" not in setting:
            parser.error(f"--env wants NAME=VALUE, not {setting}")
    return options


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise ValueError(text)
    return number


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, and return the exit code."""
    options = parse_arguments(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # ends what was started, as Ctrl-C does
    extra = dict(setting.split("=", 1) for setting in options.env)
    try:
        with ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="coatcheck-road-")))
            loader = Loader(installed_command(), folder, extra=extra, timeout=options.timeout)
            loader.make_keys()
            databases = Databases(stack.enter_context(PostgresServer(durable=True)).dsn)
            machine: dict[str, str | int | None] = {
                "cores": os.cpu_count(),
                "Python": platform.python_version(),
                "PostgreSQL": databases.version,
            }
            report = measure(Road(databases, loader, options), options, machine)
    except BenchmarkError as error:
        say(f"benchmark: error: {error}")
        return 1
    show(report)
    if options.json:
        options.json.write_bytes(msgspec.json.format(msgspec.json.encode(report)) + b"\n")
    return 0 if options.no_gate or not report.missed else 1


if __name__ == "__main__":
    sys.exit(main())
