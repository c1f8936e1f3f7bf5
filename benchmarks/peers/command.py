"""The command line of `python -m benchmarks.peers`."""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.database import Databases
from benchmarks.envelope import Figure, envelope, machine, say, write
from benchmarks.loader import BenchmarkError, Loader, installed_command
from benchmarks.peers.race import Race
from benchmarks.peers.ratios import LEGEND, Run, lines, table, verdict
from benchmarks.peers.roster import CONTESTANTS, PEER_NAMES, find_starters

from coatcheck.demo.servers import PostgresServer

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from benchmarks.peers.roster import Contestant

WARM_UP_SHARE = 50
TIMEOUT_SECONDS = 600.0


def measure(
    race: Race, contestants: Sequence[Contestant], missing: Mapping[str, str], options: argparse.Namespace
) -> list[Run]:
    """Warm up, then take the runs, contestants in turn in each round: a drift of the machine hits all alike."""
    able = [contestant for contestant in contestants if contestant.runs_on not in missing]
    say("warm-up")
    for contestant in able:
        few = contestant.messages(options.messages, 1.0) // WARM_UP_SHARE + 1
        race.run(contestant, messages=few, latency_ms=0.0, in_round=0)
    runs: list[Run] = []
    for number in range(1, options.runs + 1):
        for latency in options.latency_ms:
            for contestant in contestants:
                runs.append(_one(race, contestant, missing, latency=latency, number=number, most=options.messages))
                if not runs[-1].skipped:
                    say(told(runs[-1]))
    return runs


def _one(
    race: Race, contestant: Contestant, missing: Mapping[str, str], *, latency: float, number: int, most: int
) -> Run:
    """Measure a contestant, or say that it is skipped."""
    if contestant.runs_on in missing:
        why = missing[contestant.runs_on]
        processes = contestant.processes
        return Run(peer=contestant.name, round=number, latency_ms=latency, processes=processes, skipped=why)
    messages = contestant.messages(most, latency)
    return race.run(contestant, messages=messages, latency_ms=latency, in_round=number)


def told(run: Run) -> str:
    """Return a run in words."""
    return f"run {run.round}, {run.latency_ms:g} ms, {run.peer}: {run.running_us:.1f} us/message, {run.rate:,.0f} msg/s"


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.peers",
        description="coatcheck and other ways to do its job, in the same run: CPU per message, messages per second",
    )
    option = parser.add_argument
    option("--runs", type=_positive, default=5, help="of each (default: %(default)s)")
    option("--messages", type=_positive, default=100_000, help="in each run of coatcheck; slower ones get their share")
    option("--latency-ms", type=float, nargs="+", default=[0.0, 20.0], help="of each SQS request (default: 0 20)")
    option("--only", nargs="+", choices=PEER_NAMES, metavar="NAME", help=f"peers: {', '.join(PEER_NAMES)}")
    option("--timeout", type=float, default=TIMEOUT_SECONDS, help="of one run, in seconds")
    option("--json", type=Path, metavar="FILE", help="write everything that was measured")
    return parser.parse_args(arguments)


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise ValueError(text)
    return number


def main(arguments: Sequence[str] | None = None, contestants: Sequence[Contestant] = CONTESTANTS) -> int:
    """Measure, print, and return the exit code."""
    options = parse_arguments(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # ends what was started, as Ctrl-C does
    chosen = [one for one in contestants if not one.is_peer or not options.only or one.name in options.only]
    starters, missing = find_starters(chosen)
    try:
        with ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="coatcheck-peers-")))
            loader = Loader(installed_command(), folder, extra={}, timeout=options.timeout)
            loader.make_keys()
            databases = Databases(stack.enter_context(PostgresServer(durable=True)).dsn)
            runs = measure(Race(databases, loader, starters, folder, options.timeout), chosen, missing, options)
    except BenchmarkError as error:
        say(f"benchmark: error: {error}")
        return 1
    show(runs)
    if options.json:
        asked: dict[str, Figure] = {
            "runs": options.runs,
            "messages": options.messages,
            "latency_ms": " ".join(f"{latency:g}" for latency in options.latency_ms),
            "only": " ".join(options.only or []),
        }
        found = machine() | {"postgresql": databases.version}
        write(options.json, envelope("peers", options=asked, runs=[run.flat() for run in runs], machine=found))
    return 0


def show(runs: Sequence[Run]) -> None:
    """Print the table and the verdict."""
    found = lines(runs)
    print(f"{table(found, runs)}\n\n{LEGEND}\n")
    print("\n".join(verdict(found)))
