"""What a second worker brings, and what the road costs without PostgreSQL: the road on a sink that answers at once.

    python -m benchmarks.scaling --workers 1 2 --runs 5

Two settings. `saturated`: SQS answers at once, so all cores are busy and share out among the workers and the null SQS
server; what each takes stands beside the rate, and names what bounds it. `latency`: each SQS request takes 20 ms and a
worker has few receivers, so that it waits more than it works; CPU is free, and the second worker must bring 1.8 times
the rate. Each worker gets the same number of messages, so the ramp at the start and the last batch weigh the same.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from benchmarks.database import Databases, table_counts
from benchmarks.envelope import Figure, envelope, machine, say, write
from benchmarks.loader import BenchmarkError, Loader
from benchmarks.measure import PROC
from benchmarks.null_process import null_sqs
from benchmarks.null_sink import write_command

from coatcheck.demo.servers import PostgresServer

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from benchmarks.loader import Outcome
    from benchmarks.null_process import Stats

TARGET = 1.8
FREE_CORES = 0.5
"""What one worker may take for CPU to count as free."""
BUSY = 0.9
"""Share of what it can have at most above which something bounds the rate."""
WARM_UP = 10_000

Run = dict[str, Figure]


@dataclass(frozen=True, slots=True)
class Setting:
    """How long an SQS request takes, and how many a worker has under way."""

    name: str
    latency_ms: float
    receivers: int
    messages: int


class Scaling:
    """One migrated database that stays empty, and the runs."""

    def __init__(self, dsn: str, folder: Path, timeout: float) -> None:
        self._dsn, self._folder, self._timeout = dsn, folder, timeout
        self._command = write_command(folder / "coatcheck")
        self._loader(1).make_keys()
        self._loader(1).migrate(dsn)
        self._seed = 0

    def run(self, setting: Setting, *, workers: int, number: int) -> Run:
        """Empty a queue without a row in the database; raises BenchmarkError if the result is wrong."""
        loader, messages = self._loader(setting.receivers), setting.messages * workers
        self._seed += 1
        with null_sqs(messages=0) as queue:
            start, _ = loader.drain(dsn=self._dsn, endpoint=queue.url, workers=workers)
        with null_sqs(messages=messages, latency_ms=setting.latency_ms, seed=self._seed) as queue:
            before = machine_seconds()
            usage, outcome = loader.drain(dsn=self._dsn, endpoint=queue.url, workers=workers)
            after, stats = machine_seconds(), queue.stats()
        check(messages, outcome, stats, table_counts(self._dsn))
        loader_cores = (usage.cpu_seconds - start.cpu_seconds) / stats.elapsed
        sqs_cores = stats.cpu_seconds / stats.elapsed
        return {
            "workers": workers,
            "setting": setting.name,
            "round": number,
            "rate": messages / stats.elapsed,
            "cpu_us": usage.cpu_seconds / messages * 1e6,
            "running_us": (usage.cpu_seconds - start.cpu_seconds) / messages * 1e6,
            "busy_cores": loader_cores + sqs_cores,
            "worker_cores": loader_cores / workers,
            "null_sqs_cores": sqs_cores,
            "null_sqs_us": stats.cpu_seconds / messages * 1e6,
            "other_cores": None
            if before is None or after is None
            else max(0.0, after - before - usage.cpu_seconds - stats.cpu_seconds) / usage.wall_seconds,
        }

    def _loader(self, receivers: int) -> Loader:
        extra = {"COATCHECK_SOURCE__RECEIVERS": str(receivers)}
        return Loader(self._command, self._folder, extra=extra, timeout=self._timeout)


def check(messages: int, outcome: Outcome, stats: Stats, counts: Mapping[str, int | None]) -> None:
    """Raise BenchmarkError unless each message went through once and was deleted, and none reached the database."""
    figures = {
        "went through": (outcome.loaded, messages),
        "rejected": (outcome.rejected, 0),
        "deleted from the queue": (stats.deleted, messages),
        "received": (stats.received, messages),
        "errors at the queue": (stats.errors, 0),
        **{f"{name} in the database": (count, 0) for name, count in counts.items()},
    }
    wrong = [f"{found} {name}, not {due}" for name, (found, due) in figures.items() if found != due]
    if wrong:
        raise BenchmarkError(f"{messages} messages, but {'; '.join(wrong)}")


def machine_seconds() -> float | None:
    """Return the CPU that everything on the machine has used, with what its host took from it; None without /proc."""
    try:
        fields = PROC.joinpath("stat").read_text().split("\n", 1)[0].split()[1:]
    except OSError:
        return None
    user, nice, system, _idle, _waiting, interrupt, soft, stolen = map(int, fields[:8])
    return (user + nice + system + interrupt + soft + stolen) / os.sysconf("SC_CLK_TCK")


def bound_by(run: Mapping[str, Figure], cores: int) -> str:
    """Name what keeps a run from going faster: a process with all of a core, or all cores.

    Else it waits: for answers of the queue, or for its last batch to fill.
    """
    figures = {"other_cores": 0.0} | {name: value for name, value in run.items() if isinstance(value, float)}
    if figures["null_sqs_cores"] > BUSY:
        return "the null SQS server"
    if figures["worker_cores"] > BUSY:
        return "each worker's core"
    if figures["busy_cores"] > BUSY * cores:
        return "all cores"
    return "others on the machine" if figures["busy_cores"] + figures["other_cores"] > BUSY * cores else "waiting"


def middle(runs: Sequence[Run], setting: str, workers: int) -> dict[str, float]:
    """Return the medians of the figures of one line."""
    of = [run for run in runs if (run["setting"], run["workers"]) == (setting, workers)]
    names = [name for name, value in of[0].items() if isinstance(value, float)]
    return {name: median(value for run in of if isinstance(value := run[name], float)) for name in names}


def scale(runs: Sequence[Run], setting: str, workers: int) -> float:
    """Return how many times the rate of one worker so many have: the median over rounds, each against its own."""
    rate = {(run["workers"], run["round"]): run["rate"] for run in runs if run["setting"] == setting}
    pairs = [(rate[workers, number], rate[1, number]) for of, number in rate if of == workers]
    return median(many / one for many, one in pairs if isinstance(many, float) and isinstance(one, float))


def verdict(runs: Sequence[Run], workers: Sequence[int]) -> str:
    """Tell whether two workers bring what they must while CPU is free, and whether it was free."""
    if not {1, 2} <= set(workers):
        return "target: not looked at, it is about 1 and 2 workers"
    cores, factor = middle(runs, "latency", 1)["worker_cores"], scale(runs, "latency", 2)
    if cores >= FREE_CORES:
        return f"target: not looked at, one worker takes {cores:.2f} cores: fewer --receivers leave CPU free"
    return f"target (>= {TARGET} x while CPU is free): {'met' if factor >= TARGET else 'missed'}, x {factor:.2f}"


def show(runs: Sequence[Run], workers: Sequence[int], cores: int) -> None:
    """Print the medians, what bounds each line, and the verdict."""
    shares = ("busy_cores", "worker_cores", "null_sqs_cores", "other_cores")
    names = ("rate", "cpu_us", "running_us", "null_sqs_us", *shares)
    print("  ".join([f"{'setting':>10}  workers  {'x one':>5}", *(f"{name:>14}" for name in names), "bound by"]))
    for setting in dict.fromkeys(str(run["setting"]) for run in runs):
        for count in workers:
            figures = middle(runs, setting, count)
            factor = f"{scale(runs, setting, count):.2f}" if 1 in workers else "-"
            cells = [f"{figures[name]:>14,.2f}" if name in figures else f"{'-':>14}" for name in names]
            print("  ".join([f"{setting:>10}  {count:>7}  {factor:>5}", *cells, bound_by(figures, cores)]))
    print(f"\n{verdict(runs, workers)}")


def measure(road: Scaling, options: argparse.Namespace) -> list[Run]:
    """Warm up, then take the runs, settings and numbers of workers in turn: a drift of the machine hits all alike."""
    latency = Setting("latency", options.latency_ms, options.receivers, options.latency_messages)
    saturated = Setting("saturated", 0.0, 64, options.messages)
    say("warm-up")
    warm_up = min(WARM_UP, options.messages)
    road.run(Setting("warm-up", 0.0, 64, warm_up), workers=max(options.workers), number=0)
    runs: list[Run] = []
    for number in range(1, options.runs + 1):
        for setting in (saturated, latency):
            runs += [road.run(setting, workers=workers, number=number) for workers in options.workers]
        say(f"round {number} of {options.runs}")
    return runs


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.scaling", description="the road on a sink that answers at once, by number of workers"
    )
    option = parser.add_argument
    option("--workers", type=int, nargs="+", default=[1, 2], help="numbers to try (default: 1 2)")
    option("--runs", type=int, default=5, help="rounds (default: %(default)s)")
    option("--messages", type=int, default=200_000, help="for each worker, saturated (default: %(default)s)")
    option("--latency-messages", type=int, default=50_000, help="for each worker, with latency (default: %(default)s)")
    option("--latency-ms", type=float, default=20.0, help="of each SQS request there (default: %(default)s)")
    option("--receivers", type=int, default=16, help="of each worker there (default: %(default)s)")
    option("--timeout", type=float, default=600.0, help="of one run, in seconds")
    option("--json", type=Path, metavar="FILE", help="write everything that was measured")
    options = parser.parse_args(arguments)
    if min(*options.workers, options.runs, options.messages, options.latency_messages) < 1:
        parser.error("numbers of workers, runs and messages are at least 1")
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, and return the exit code."""
    options = parse_arguments(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # ends what was started, as Ctrl-C does
    try:
        with ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="coatcheck-scaling-")))
            dsn = stack.enter_context(PostgresServer(durable=True)).dsn
            version = Databases(dsn).version
            runs = measure(Scaling(dsn, folder, options.timeout), options)
    except BenchmarkError as error:
        say(f"benchmark: error: {error}")
        return 1
    show(runs, options.workers, os.cpu_count() or 1)
    if options.json:
        told = {name: value for name, value in vars(options).items() if name != "json"}
        told["workers"] = " ".join(map(str, options.workers))
        write(options.json, envelope("scaling", options=told, runs=runs, machine=machine() | {"postgres": version}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
