"""Memory of a worker: flat over millions of messages, and bounded by the byte budget when messages are large.

    python -m benchmarks.memory --messages 10000000 --large-messages 2000 --runs 1 --json FILE

`flat`: one worker empties a long queue in which a fifth of the values stay new to the end; its resident memory is read
every so many messages. `large`: bodies of 1 MiB, as many in flight as the budget of 64 MiB lets in. The last reading of
each is the high-water mark that the kernel kept, so nothing between two readings is missed.
"""

from __future__ import annotations

import argparse
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.database import table_counts
from benchmarks.envelope import Figure, envelope, machine, say, write
from benchmarks.loader import BenchmarkError
from benchmarks.null_process import LOOK_SECONDS, null_sqs
from benchmarks.place import Place, at_a_place
from benchmarks.report import check

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.measure import Running
    from benchmarks.null_process import NullSqsProcess

READINGS = 50
BODY_BYTES = 2**20
SECONDS_A_MESSAGE = 1e-3
LEAST_SECONDS = 300.0

Run = dict[str, Figure]


def run(place: Place, kind: str, *, messages: int, body_bytes: int, number: int) -> list[Run]:
    """Empty a queue and return the readings. Raises BenchmarkError, TimeoutError."""
    timeout = LEAST_SECONDS + messages * SECONDS_A_MESSAGE * (1 + body_bytes / 2**16)
    with (
        place.database() as dsn,
        null_sqs(messages=messages, stream=1, body_bytes=body_bytes, seed=place.number) as queue,
        place.loader.running(dsn=dsn, endpoint=queue.url, drain=True) as running,
    ):
        readings = read(running, queue, messages, time.monotonic() + timeout)
        usage = running.wait(timeout)
        check(messages=messages, outcome=place.loader.outcome(usage), stats=queue.stats(), counts=table_counts(dsn))
    readings.append((messages, usage.rss_mb))
    return [
        {"kind": kind, "round": number, "messages": count, "rss_mb": rss, "body_bytes": body_bytes}
        for count, rss in readings
    ]


def read(running: Running, queue: NullSqsProcess, messages: int, deadline: float) -> list[tuple[int, float]]:
    """Return the memory after each fiftieth of the messages, with how many had been deleted then."""
    readings: list[tuple[int, float]] = []
    while (deleted := queue.stats().deleted) < messages:
        if deleted >= (len(readings) + 1) * messages / READINGS:
            readings.append((deleted, running.rss_mb()))
        if time.monotonic() > deadline:
            raise TimeoutError(f"{deleted:,} of {messages:,} messages were deleted in time")
        time.sleep(LOOK_SECONDS)
    return readings


def measure(place: Place, options: argparse.Namespace) -> list[Run]:
    """Take the runs."""
    runs: list[Run] = []
    for number in range(1, options.runs + 1):
        for kind, messages, size in (("flat", options.messages, 0), ("large", options.large_messages, BODY_BYTES)):
            done = run(place, kind, messages=messages, body_bytes=size, number=number)
            runs += done
            say(f"run {number}, {told(done)}")
    return runs


def told(readings: Sequence[Run]) -> str:
    """Return the readings of a run as a line."""
    memory = [float(reading["rss_mb"] or 0) for reading in readings]
    last = readings[-1]
    return f"{last['kind']}, {last['messages']:,} messages: {memory[0]:.0f} MB first, {max(memory):.0f} MB at most"


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.memory", description="memory of a worker")
    option = parser.add_argument
    option("--messages", type=int, default=10_000_000, help="of the usual size (default: %(default)s)")
    option("--large-messages", type=int, default=2000, help="of 1 MiB (default: %(default)s)")
    option("--runs", type=int, default=1, help="(default: %(default)s)")
    option("--json", type=Path, metavar="FILE", help="write everything that was measured")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, and return the exit code."""
    options = parse_arguments(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # ends what was started, as Ctrl-C does
    try:
        with at_a_place(timeout=86_400.0) as place:
            runs = measure(place, options)
            facts = machine() | {"postgresql": place.databases.version}
    except (BenchmarkError, TimeoutError) as error:
        say(f"benchmark: error: {error}")
        return 1
    for number in range(1, options.runs + 1):
        for kind in ("flat", "large"):
            print(f"run {number}, {told([one for one in runs if (one['round'], one['kind']) == (number, kind)])}")
    if options.json:
        asked: Run = {name: getattr(options, name) for name in ("messages", "large_messages", "runs")}
        write(options.json, envelope("memory", options=asked, runs=runs, machine=facts))
    return 0


if __name__ == "__main__":
    sys.exit(main())
