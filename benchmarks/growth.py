"""Whether a message costs more when the ledger or the vault is full: the whole road on databases of several sizes.

    python -m benchmarks.growth --ledger 0 10000000 50000000 --vault 0 10000000 --runs 5

The databases are filled once (`benchmarks.prefill` tells with what; `--data` keeps them for another time). Then each
round loads the same messages into each of them, beginning with another one each time, so that a drift of the machine
hits all alike. What a run adds stays in the table that is to be full and goes from the one that is to be empty.

A checkpoint comes before each run. After it PostgreSQL writes the whole of a page into the WAL when it touches it for
the first time: in a large index nearly every message meets a page of its own, so a short run shows the worst case.
How much of the WAL that is stands beside it. Few messages a run mean more of it than there is in steady work, where a
page is met many times between two checkpoints; `--no-checkpoint` shows runs without one.
"""

from __future__ import annotations

import argparse
import math
import os
import signal
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

import psycopg
from benchmarks.database import Databases
from benchmarks.envelope import Figure, envelope, machine, say, write
from benchmarks.loader import BenchmarkError, Loader, installed_command
from benchmarks.null_process import null_sqs
from benchmarks.prefill import Filled, Size, dsn_of, fill, filling_server, noted
from benchmarks.wal import until_quiet, wal_position, wal_since

from coatcheck.demo.servers import PostgresServer

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from benchmarks.loader import Outcome
    from benchmarks.null_process import Stats

LIMIT = 1.3
DISTINCT = 0.2
WARM_UP = 10_000
EMPTY = Size(0, 0)
GATED = {"running_us": 1, "postgres_us": 1, "rate": -1}
"""What may not grow beyond the limit (a rate may not fall): CPU of the loader without its start, of PostgreSQL."""
SHOWN_SETTINGS = ("shared_buffers", "max_wal_size", "checkpoint_timeout", "wal_compression")

Run = dict[str, Figure]


def sizes_of(ledger: Sequence[int], vault: Sequence[int]) -> list[Size]:
    """Return the databases: the empty one, then each full ledger and each full vault."""
    full = [Size(rows, 0) for rows in ledger if rows] + [Size(0, rows) for rows in vault if rows]
    return list(dict.fromkeys([EMPTY, *full]))


class Growth:
    """The filled databases on one server, and the runs with them."""

    def __init__(self, dsn: str, loader: Loader, sizes: Sequence[Size], options: argparse.Namespace) -> None:
        self._dsn, self._loader, self._options = dsn, loader, options
        self._databases = Databases(dsn)
        self.filled = {size: _must_be_filled(dsn, size) for size in sizes}
        say("counting what is there")
        self._expected = {size: _counts(self._dsn_of(size)) for size in sizes}
        for size, found in self._expected.items():
            if found["ledger"] < size.ledger or found["vault"] < size.vault:
                raise BenchmarkError(f"{size.database} holds {found}")

    def round(self, number: int, messages: int) -> list[Run]:
        """Load the same messages into each database, beginning with another one each time."""
        sizes, start = list(self.filled), self._start_seconds()
        first = number % len(sizes)
        return [self.run(size, number, messages, start) for size in sizes[first:] + sizes[:first]]

    def _start_seconds(self) -> float:
        """Return the CPU of a run on an empty queue, which is no message's."""
        with null_sqs(messages=0) as queue:
            usage, _ = self._loader.drain(dsn=self._dsn_of(EMPTY), endpoint=queue.url, workers=1)
        return usage.cpu_seconds

    def run(self, size: Size, number: int, messages: int, start_seconds: float) -> Run:
        """Load a fresh queue; raises BenchmarkError if the result is wrong."""
        dsn, filled = self._dsn_of(size), self.filled[size]
        _make_room(dsn, size)
        with null_sqs(
            messages=messages, distinct=DISTINCT, seed=self._options.seed + number, sent_ms=filled.sent_ms
        ) as queue:
            if self._options.checkpoint:
                self._databases.settle()
            position, cpu = wal_position(dsn), self._databases.cpu_seconds()
            usage, outcome = self._loader.drain(dsn=dsn, endpoint=queue.url, workers=1)
            until_quiet(dsn)
            wal, full_pages = wal_since(dsn, position)
            used = self._databases.cpu_seconds()
            stats = queue.stats()
        check(messages, outcome, stats, _counts(dsn, but=size))
        self._expected[size]["ledger"] += messages
        self._expected[size]["vault"] += new_values(messages)
        return {
            "ledger_rows": size.ledger,
            "vault_rows": size.vault,
            "round": number,
            "cpu_us": usage.cpu_seconds / messages * 1e6,
            "running_us": (usage.cpu_seconds - start_seconds) / messages * 1e6,
            "postgres_us": None if used is None or cpu is None else (used - cpu) / messages * 1e6,
            "rate": messages / stats.elapsed,
            "wal_bytes": wal / messages,
            "full_page_bytes": None if full_pages is None else full_pages / messages,
            "null_sqs_us": stats.cpu_seconds / messages * 1e6,
            "rss_mb": usage.rss_mb,
        }

    def check_full(self) -> None:
        """Count the full tables once, at the end: what each run has written must be there, beside what was before."""
        for size, expected in self._expected.items():
            found = _counts(self._dsn_of(size))
            for table in ("ledger", "vault"):
                if getattr(size, table) and found[table] != expected[table]:
                    raise BenchmarkError(f"{size.database}: {found[table]} entries of the {table}, not {expected}")

    def settings(self) -> dict[str, Figure]:
        """Return the settings of the server that the figures depend on."""
        with psycopg.connect(self._dsn) as connection:
            found = connection.execute("SELECT name, current_setting(name) FROM pg_settings").fetchall()
        values: dict[str, str] = dict(found)
        return {"postgres": self._databases.version, **{name: values[name] for name in SHOWN_SETTINGS}}

    def index_mb(self) -> dict[Size, float]:
        """Return the size of the largest index that the loader writes to."""
        query = (
            "SELECT max(pg_relation_size(indexrelid)) / 1e6 FROM pg_stat_user_indexes WHERE schemaname = 'coatcheck'"
        )
        found = {}
        for size in self.filled:
            with psycopg.connect(self._dsn_of(size)) as connection:
                row = connection.execute(query).fetchone()
            found[size] = float(row[0]) if row else 0.0
        return found

    def _dsn_of(self, size: Size) -> str:
        return dsn_of(self._dsn, size.database)


def new_values(messages: int) -> int:
    """Return how many vault entries the messages of one run bring: each new event has an address and a device.

    That a run brings a value which an earlier one had, too, is as likely as 1 in 10,000.
    """
    return 2 * math.ceil(messages * DISTINCT)


def check(messages: int, outcome: Outcome, stats: Stats, counts: Mapping[str, int]) -> None:
    """Raise BenchmarkError unless each message was loaded once and deleted; `counts` are of tables that were empty."""
    expected = dict.fromkeys(counts, messages) | {"duplicates": 0, "vault": new_values(messages)}
    figures = {
        "loaded, as the command says": (outcome.loaded, messages),
        "deleted from the queue": (stats.deleted, messages),
        "errors at the queue": (stats.errors, 0),
        **{f"in {name}": (count, expected[name]) for name, count in counts.items()},
    }
    wrong = [f"{found} {name}, not {due}" for name, (found, due) in figures.items() if found != due]
    if wrong:
        raise BenchmarkError(f"{messages} messages, but {'; '.join(wrong)}")


def _must_be_filled(dsn: str, size: Size) -> Filled:
    if (found := noted(dsn, size)) is None:
        raise BenchmarkError(f"{size.database} is not filled")
    return found


def _make_room(dsn: str, size: Size) -> None:
    """Empty what is to be empty, and the rows of the run before."""
    tables = ["user_logins", "coatcheck.batch"]
    tables += [] if size.ledger else ["coatcheck.ledger"]
    tables += [] if size.vault else ["coatcheck.vault"]
    with psycopg.connect(dsn) as connection:
        for table in tables:
            connection.execute(f"TRUNCATE {table}".encode())


def _counts(dsn: str, but: Size = EMPTY) -> dict[str, int]:
    """Count what is there; not the tables that are full in `but`, which takes long."""
    queries = {
        "rows": "SELECT count(*) FROM user_logins",
        "batch": "SELECT coalesce(sum(loaded), 0) FROM coatcheck.batch",
        "duplicates": "SELECT coalesce(sum(duplicates), 0) FROM coatcheck.batch",
    }
    queries |= {} if but.ledger else {"ledger": "SELECT count(*) FROM coatcheck.ledger"}
    queries |= {} if but.vault else {"vault": "SELECT count(*) FROM coatcheck.vault"}
    with psycopg.connect(dsn) as connection:
        rows = {name: connection.execute(query.encode()).fetchone() for name, query in queries.items()}
    return {name: int(row[0]) for name, row in rows.items() if row}


def growth(runs: Sequence[Run], size: Size, figure: str) -> float | None:
    """Return by what factor a figure has grown (a rate: fallen): the median over rounds, each against its empty run."""
    of = {(run["ledger_rows"], run["vault_rows"], run["round"]): run[figure] for run in runs}
    factors = []
    for run in runs:
        full, empty = run[figure], of[0, 0, run["round"]]
        if (run["ledger_rows"], run["vault_rows"]) == size and isinstance(full, float) and isinstance(empty, float):
            factors.append((full / empty) ** GATED.get(figure, 1))
    return median(factors) if factors else None


def misses(runs: Sequence[Run], sizes: Sequence[Size]) -> list[str]:
    """Return where the limit is missed."""
    factors = {(size, figure): growth(runs, size, figure) for size in sizes for figure in GATED}
    return [
        f"{figure} x {factor:.2f} with {size.ledger:,} ledger and {size.vault:,} vault entries"
        for (size, figure), factor in factors.items()
        if factor is not None and factor > LIMIT
    ]


def show(runs: Sequence[Run], sizes: Sequence[Size]) -> None:
    """Print medians, each with its growth, and whether the limit is met."""
    names = ("cpu_us", "running_us", "postgres_us", "rate", "wal_bytes", "full_page_bytes", "index_mb")
    print("  ".join([f"{'ledger':>11}  {'vault':>11}", *(f"{name:>18}" for name in names)]))
    for size in sizes:
        cells = []
        for name in names:
            of_size = [run[name] for run in runs if (run["ledger_rows"], run["vault_rows"]) == size]
            values = [value for value in of_size if isinstance(value, float)]
            factor = growth(runs, size, name) if name in GATED else None
            cell = f"{median(values):,.1f}" if values else "-"
            cells.append(f"{cell}{f' x {factor:.2f}' if factor else ''}".rjust(18))
        print("  ".join([f"{size.ledger:>11,}  {size.vault:>11,}", *cells]))
    missed = misses(runs, sizes)
    print(f"\nlimit of {LIMIT} x the empty database: " + (f"missed: {'; '.join(missed)}" if missed else "met"))


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.growth", description="what a message costs on databases of several sizes"
    )
    option = parser.add_argument
    option("--ledger", type=int, nargs="+", default=[0, 10_000_000, 50_000_000], help="entries of full ledgers")
    option("--vault", type=int, nargs="+", default=[0, 10_000_000], help="entries of full vaults")
    option("--days", type=int, default=1, help="over which the ledger's entries are spread, 1 to 40 (default: 1)")
    option("--runs", type=int, default=5, help="rounds (default: %(default)s)")
    option("--messages", type=int, default=50_000, help="in each run (default: %(default)s)")
    option("--no-checkpoint", dest="checkpoint", action="store_false", help="no checkpoint before each run")
    option("--set", action="append", default=[], metavar="NAME=VALUE", help="setting of the PostgreSQL server")
    option("--data", type=Path, metavar="FOLDER", help="where the databases are kept; default: a temporary folder")
    option("--seed", type=int, default=int(time.time()), help="of the messages; each time another one by default")
    option("--timeout", type=float, default=600.0, help="of one run, in seconds")
    option("--json", type=Path, metavar="FILE", help="write everything that was measured")
    options = parser.parse_args(arguments)
    if (
        not 1 <= options.days <= 40
        or min(options.runs, options.messages) < 1
        or min(*options.ledger, *options.vault, 0)
    ):
        parser.error("--days is 1 to 40, --runs and --messages are at least 1, entries are no negative number")
    return options


def measure(folder: Path, options: argparse.Namespace) -> tuple[list[Run], list[Size], dict[str, Figure]]:
    """Fill the databases, warm up, and take the runs; return them with the sizes and the server's settings."""
    loader = Loader(installed_command(), folder, extra={}, timeout=options.timeout)
    if not (folder / "keys").exists():
        loader.make_keys()
    sizes, data = sizes_of(options.ledger, options.vault), folder / "postgres"
    with filling_server(data) as server:
        fill(server.dsn, loader, folder / "keys", sizes, options.days)
    os.sync()  # what the filling server has left to the kernel is not the runs' business
    with PostgresServer(durable=True, options=tuple(options.set), data=data) as server:
        road = Growth(server.dsn, loader, sizes, options)
        settings = road.settings()
        say(f"warm-up, {WARM_UP:,} messages into each database")
        road.round(0, min(WARM_UP, options.messages))
        runs: list[Run] = []
        for number in range(1, options.runs + 1):
            runs += road.round(number, options.messages)
            say(f"round {number} of {options.runs}")
        road.check_full()
        indexes = road.index_mb()
        for run, size in ((run, Size(run["ledger_rows"], run["vault_rows"])) for run in runs):  # type: ignore[arg-type]  # they are integers
            run |= {"index_mb": indexes[size], "fill_s": road.filled[size].seconds}
    return runs, sizes, settings


def _told(value: object) -> Figure:
    """Return an option's value as an envelope holds it."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int | float):
        return value
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, and return the exit code."""
    options = parse_arguments(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # ends what was started, as Ctrl-C does
    try:
        with ExitStack() as stack:
            folder = options.data or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="coatcheck-growth-")))
            folder.mkdir(parents=True, exist_ok=True)
            folder.chmod(0o711)  # under root the server runs as another user
            runs, sizes, settings = measure(folder.absolute(), options)
    except BenchmarkError as error:
        say(f"benchmark: error: {error}")
        return 1
    show(runs, sizes)
    if options.json:
        told = {name: _told(value) for name, value in vars(options).items() if name not in {"json", "data"}}
        write(options.json, envelope("growth", options=told, runs=runs, machine={**machine(), **settings}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
