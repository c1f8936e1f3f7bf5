"""The whole road, measured: null SQS server -> the installed `coatcheck run` -> durable PostgreSQL.

    python -m benchmarks.road --messages 100000 --runs 3 --workers 1 2
    python -m benchmarks.road --workers 1 --latency-ms 0 20 --vault on off

Each run has a database and a queue of its own and is checked: as many rows, ledger entries and deletes as
messages. Of several numbers of workers, latencies and vaults every combination is measured, in turn in each round.
The last line says whether the floor is met; so does the exit code (1: missed, or a run was wrong).
"""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

import msgspec
from benchmarks.database import Databases, table_counts
from benchmarks.envelope import Envelope, Figure, envelope, machine, say, write
from benchmarks.loader import BenchmarkError, Loader, installed_command
from benchmarks.measure import reference_loop_ms
from benchmarks.null_process import null_sqs
from benchmarks.report import LEGEND, Run, Setting, Summary, check, misses, run_figures, summarise, table, verdict

from coatcheck.config_columns import login_columns
from coatcheck.demo.servers import PostgresServer

if TYPE_CHECKING:
    from collections.abc import Sequence

WARM_UP = 10_000
TIMEOUT_SECONDS = 600.0


@dataclass(slots=True)
class Road:
    """One PostgreSQL server, one keyring, and the runs with them: `loaders` without and with a vault."""

    databases: Databases
    loaders: dict[str, Loader]
    number: int = 0

    def run(self, setting: Setting, *, messages: int, in_round: int) -> Run:
        """Load a fresh queue into a fresh database; raises BenchmarkError if the result is wrong."""
        self.number += 1
        loader = self.loaders[setting.vault]
        with ExitStack() as stack:
            dsn = stack.enter_context(self.databases.fresh(f"road_{self.number}"))
            loader.migrate(dsn)
            queue = stack.enter_context(
                null_sqs(messages=messages, distinct=setting.distinct, latency_ms=setting.latency_ms, seed=self.number)
            )
            self.databases.settle()
            reference = reference_loop_ms()
            before = self.databases.cpu_seconds()
            usage, outcome = loader.drain(dsn=dsn, endpoint=queue.url, workers=setting.workers)
            after = self.databases.cpu_seconds()
            stats = queue.stats()
            counts = table_counts(dsn)
        check(messages=messages, outcome=outcome, stats=stats, counts=counts, vault=setting.vault)
        return run_figures(
            setting=setting,
            number=in_round,
            messages=messages,
            usage=usage,
            outcome=outcome,
            stats=stats,
            postgres_seconds=None if before is None or after is None else after - before,
            reference_ms=reference,
            vault_rows=counts["vault"],
        )


@dataclass(slots=True)
class Measured:
    """The runs, and those on an empty queue by the number of workers."""

    runs: list[Run] = field(default_factory=list)
    starts: list[Run] = field(default_factory=list)

    def summaries(self) -> list[Summary]:
        """Sum up each setting, in the order in which they were measured."""
        settings = dict.fromkeys(run.setting for run in self.runs)
        return [
            summarise(
                [run for run in self.runs if run.setting == setting],
                [start for start in self.starts if start.setting.workers == setting.workers],
            )
            for setting in settings
        ]

    def flat(self) -> list[dict[str, Figure]]:
        """Return the runs as an envelope holds them."""
        starts = {(start.setting.workers, start.round): start.cpu_seconds for start in self.starts}
        return [run.flat(starts[run.setting.workers, run.round]) for run in self.runs]


def settings_of(options: argparse.Namespace) -> list[Setting]:
    """Return every combination that was asked for."""
    chosen = product(options.vault, options.latency_ms, options.workers)
    return [Setting(workers, latency, vault, options.distinct) for vault, latency, workers in chosen]


def measure(road: Road, options: argparse.Namespace) -> Measured:
    """Warm up, then take the runs, the settings in turn: a drift of the machine hits them alike."""
    settings = settings_of(options)
    say(f"warm-up, {WARM_UP:,} messages")
    road.run(settings[0], messages=min(WARM_UP, options.messages), in_round=0)
    measured = Measured()
    for number in range(1, options.runs + 1):
        for workers in options.workers:
            empty = Setting(workers, distinct=options.distinct, vault=options.vault[0])
            measured.starts.append(road.run(empty, messages=0, in_round=number))
        for setting in settings:
            run = road.run(setting, messages=options.messages, in_round=number)
            measured.runs.append(run)
            say(f"run {number}, {setting.told()}: {run.cpu_us:.1f} us/message, {run.rate:,.0f} msg/s")
    return measured


def wrapped(measured: Measured, options: argparse.Namespace, postgresql: str) -> Envelope:
    """Return everything that was measured, as --json writes it."""
    told: dict[str, Figure] = {
        "messages": options.messages,
        "runs": options.runs,
        "workers": " ".join(map(str, options.workers)),
        "latency_ms": " ".join(f"{latency:g}" for latency in options.latency_ms),
        "vault": " ".join(options.vault),
        "distinct": options.distinct,
        "env": " ".join(options.env),
    }
    return envelope("road", options=told, runs=measured.flat(), machine=machine() | {"postgresql": postgresql})


def show(measured: Measured, summaries: list[Summary], told: Envelope) -> None:
    """Print the table and what belongs to it."""
    print(", ".join(f"{name} {value}" for name, value in told.machine.items()))
    print(", ".join(f"{name} {told.options[name]}" for name in ("messages", "runs", "distinct")) + "\n")
    print(table(summaries))
    print(f"\n{LEGEND}\n")
    starts = {summary.setting.workers: summary.start_cpu_seconds for summary in summaries}
    shares = ", ".join(f"{seconds * 1000:.0f} ms ({workers})" for workers, seconds in starts.items())
    print(f"start-up share: CPU of a run on an empty queue, by workers: {shares}")
    loops = [run.reference_ms for run in measured.runs]
    print(f"reference loop: {median(loops):.0f} ms ({min(loops):.0f}-{max(loops):.0f})")
    kept = max(run.vault_rows or 0 for run in measured.runs)
    print(f"vault: {kept:,} entries after a run" if kept else "vault: off")
    print(verdict(misses(summaries)))


def without_vault() -> str:
    """Return the columns of the login pipeline as JSON, tokens without kept originals."""
    columns = {
        name: column.model_dump(by_alias=True, exclude_unset=True) | ({"vault": False} if column.domain else {})
        for name, column in login_columns().items()
    }
    return msgspec.json.encode(columns).decode()


def make_loaders(folder: Path, extra: dict[str, str], timeout: float) -> dict[str, Loader]:
    """Return a loader that keeps originals and one that does not, with the same keys."""
    command = installed_command()
    loaders = {
        "on": Loader(command, folder, extra=extra, timeout=timeout),
        "off": Loader(command, folder, extra={"COATCHECK_COLUMNS": without_vault(), **extra}, timeout=timeout),
    }
    loaders["on"].make_keys()
    return loaders


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.road",
        description="loader CPU per message, messages per second and memory of the whole road",
    )
    option = parser.add_argument
    option("--messages", type=_positive, default=100_000, help="in each run (default: %(default)s)")
    option("--runs", type=_positive, default=3, help="of each setting (default: %(default)s)")
    option("--workers", type=_positive, nargs="+", default=[1, 2], help="numbers to try (default: 1 2)")
    option("--latency-ms", type=float, nargs="+", default=[0.0], help="of each SQS request (default: 0)")
    option("--vault", choices=("on", "off"), nargs="+", default=["on"], help="keep originals (default: on)")
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
            loaders = make_loaders(folder, extra, options.timeout)
            databases = Databases(stack.enter_context(PostgresServer(durable=True)).dsn)
            measured = measure(Road(databases, loaders), options)
            told = wrapped(measured, options, databases.version)
    except BenchmarkError as error:
        say(f"benchmark: error: {error}")
        return 1
    summaries = measured.summaries()
    show(measured, summaries, told)
    if options.json:
        write(options.json, told)
    return 0 if options.no_gate or not misses(summaries) else 1


if __name__ == "__main__":
    sys.exit(main())
