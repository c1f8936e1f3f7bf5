"""How long a message takes from the queue to its row, at several rates, and alone.

    python -m benchmarks.latency --offered 100 1000 10000 --seconds 20 --runs 5 --json FILE

Messages arrive at random moments whether or not the worker keeps up (an open loop), so a stall counts for every message
that came meanwhile. Measured at the queue, on one clock: from the moment a message can be received to that at which its
delete comes in. A delete follows the commit, so this is an upper bound of when the row can be read. `lone` are messages
a second and more apart, to a worker that was at rest.
"""

from __future__ import annotations

import argparse
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.envelope import Figure, envelope, machine, say, write
from benchmarks.loader import BenchmarkError
from benchmarks.null_process import null_sqs
from benchmarks.place import Place, at_a_place

if TYPE_CHECKING:
    from collections.abc import Sequence

PERCENTILES = {"p50": 50.0, "p90": 90.0, "p99": 99.0}
CURVE = {f"q{percent:02d}": float(percent) for percent in range(5, 100, 5)}
LONE_RATE, LONE_GAP_S = 0.5, 1.0
LATE_SECONDS = 60.0
LONG_POLL_MS = 20_000

Run = dict[str, Figure]


def run(place: Place, kind: str, *, offered: float, messages: int, latency_ms: float, number: int) -> Run:
    """Offer messages and tell how long they took. Raises BenchmarkError, TimeoutError."""
    gap_s = LONE_GAP_S if kind == "lone" else 0.0
    queue_options = {"latency_ms": latency_ms, "empty_wait_ms": LONG_POLL_MS, "seed": place.number}
    with (
        place.database() as dsn,
        null_sqs(messages=messages, stream=1, held=1, rate=offered, gap_s=gap_s, **queue_options) as queue,
        place.waiting(dsn, queue) as running,
    ):
        before = running.cpu_seconds()
        queue.start()
        queue.wait(lambda stats: stats.deleted >= messages, messages / offered + LATE_SECONDS)
        after = running.cpu_seconds()
        latencies = sorted(queue.latencies_ms())
        requests = queue.stats().requests
        place.end(running, queue, dsn, messages=messages)
    return {
        "kind": kind,
        "round": number,
        "offered": offered,
        "messages": messages,
        **{f"{name}_ms": quantile(latencies, percent) for name, percent in (PERCENTILES | CURVE).items()},
        "max_ms": latencies[-1],
        "cpu_us": None if before is None or after is None else (after - before) / messages * 1e6,
        "requests_per_1000": sum(requests.values()) / messages * 1000,
    }


def quantile(ordered: Sequence[float], percent: float) -> float:
    """Return the least value that at least `percent` of the values do not exceed (nearest rank)."""
    return ordered[max(0, -int(-len(ordered) * percent // 100) - 1)]


def measure(place: Place, options: argparse.Namespace) -> list[Run]:
    """Take the runs, the rates in turn in each round; the first of all is a warm-up."""
    first = options.offered[0]
    say("warm-up")
    run(place, "rate", offered=first, messages=int(first) or 1, latency_ms=options.latency_ms, number=0)
    plans = [("rate", rate, max(1, round(rate * options.seconds))) for rate in options.offered]
    plans.append(("lone", LONE_RATE, options.lone))
    runs = []
    for number in range(1, options.runs + 1):
        for kind, offered, messages in plans:
            done = run(place, kind, offered=offered, messages=messages, latency_ms=options.latency_ms, number=number)
            runs.append(done)
            say(f"run {number}, {told(done)}")
    return runs


def told(of: Run) -> str:
    """Return a run as a line."""
    figures = ", ".join(f"{name} {of[f'{name}_ms']:.0f}" for name in (*PERCENTILES, "max"))
    what = "one message alone" if of["kind"] == "lone" else f"{of['offered']:,.0f} msg/s"
    return f"{what}: {figures} ms; {of['requests_per_1000']:,.0f} SQS requests/1,000"


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.latency", description="from the queue to the row")
    option = parser.add_argument
    option("--offered", type=float, nargs="+", default=[100.0, 1000.0, 10_000.0], help="messages a second")
    option("--seconds", type=float, default=20.0, help="of each run (default: %(default)s)")
    option("--lone", type=int, default=15, help="messages that come alone in each run (default: %(default)s)")
    option("--runs", type=int, default=5, help="of each rate (default: %(default)s)")
    option("--latency-ms", type=float, default=20.0, help="of each SQS request (default: %(default)s)")
    option("--json", type=Path, metavar="FILE", help="write everything that was measured")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, and return the exit code."""
    options = parse_arguments(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # ends what was started, as Ctrl-C does
    try:
        with at_a_place() as place:
            runs = measure(place, options)
            facts = machine() | {"postgresql": place.databases.version}
    except (BenchmarkError, TimeoutError) as error:
        say(f"benchmark: error: {error}")
        return 1
    for one in runs:
        print(f"run {one['round']}, {told(one)}")
    if options.json:
        offered = " ".join(f"{rate:g}" for rate in options.offered)
        asked: Run = {"offered": offered, "seconds": options.seconds, "lone": options.lone, "runs": options.runs}
        asked |= {"latency_ms": options.latency_ms}
        write(options.json, envelope("latency", options=asked, runs=runs, machine=facts))
    return 0


if __name__ == "__main__":
    sys.exit(main())
