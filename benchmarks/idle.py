"""What an idle worker asks SQS for, how fast it comes from rest to full speed, and when it is at rest again.

    python -m benchmarks.idle --seconds 100 --messages 200000 --runs 5 --json FILE

`idle`: requests of one worker at an empty queue with long polls of 20 s, counted over whole long polls and told by the
hour. `ramp`: a burst comes to a worker that has been at rest for a long poll; full speed is 90 % of what the middle
half of the burst goes at, in windows of half a second; at rest again is when no more than one receive is under way, for
good, counted from the moment at which the queue is empty.
"""

from __future__ import annotations

import argparse
import math
import signal
import sys
import time
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from benchmarks.envelope import Figure, envelope, machine, say, write
from benchmarks.loader import BenchmarkError
from benchmarks.null_process import null_sqs
from benchmarks.place import Place, at_a_place

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.null_process import Timeline

HOUR_S = 3600.0
WINDOW_S = 0.5
FULL_SHARE = 0.9
REST_LIMIT_S = 120.0
LOAD_LIMIT_S = 600.0

Run = dict[str, Figure]


def idle(place: Place, *, seconds: float, long_poll_s: float, number: int) -> Run:
    """Watch a worker at an empty queue; whole long polls are counted, from the answer of the first."""
    with (
        place.database() as dsn,
        null_sqs(messages=0, empty_wait_ms=long_poll_s * 1000) as queue,
        place.waiting(dsn, queue) as running,
    ):
        queue.wait(lambda stats: stats.empty_receives > 0, 2 * long_poll_s)
        first, began, before = queue.stats(), time.perf_counter(), running.cpu_seconds()
        polls = max(1, math.ceil(seconds / long_poll_s))
        due = first.empty_receives + polls
        last = queue.wait(lambda stats: stats.empty_receives >= due, (polls + 1) * long_poll_s)
        watched, after = time.perf_counter() - began, running.cpu_seconds()
        place.end(running, queue, dsn, messages=0)
    requests = sum(last.requests.values()) - sum(first.requests.values())
    return {
        "kind": "idle",
        "round": number,
        "watched_s": watched,
        "requests_per_hour": requests / watched * HOUR_S,
        "cpu_seconds_per_hour": None if before is None or after is None else (after - before) / watched * HOUR_S,
    }


def ramp(place: Place, *, messages: int, latency_ms: float, long_poll_s: float, number: int) -> Run:
    """Let a burst come to a worker at rest."""
    with (
        place.database() as dsn,
        null_sqs(
            messages=messages,
            stream=1,
            held=1,
            latency_ms=latency_ms,
            empty_wait_ms=long_poll_s * 1000,
            seed=place.number,
        ) as queue,
        place.waiting(dsn, queue) as running,
    ):
        queue.wait(lambda stats: stats.empty_receives > 0, 2 * long_poll_s)
        queue.start()
        queue.wait(lambda stats: stats.deleted >= messages, LOAD_LIMIT_S)
        deadline = time.monotonic() + REST_LIMIT_S
        while at_rest_s(queue.timeline(), long_poll_s) is None and time.monotonic() < deadline:
            time.sleep(1.0)
        timeline = queue.timeline()
        place.end(running, queue, dsn, messages=messages)
    rest = at_rest_s(timeline, long_poll_s)
    if rest is None:
        raise BenchmarkError(f"{REST_LIMIT_S:g} s after a burst more than one receive was under way")
    full = full_rate(timeline)
    return {
        "kind": "ramp",
        "round": number,
        "messages": messages,
        "ramp_s": ramp_s(timeline),
        "to_one_poll_s": rest,
        "full_rate": full,
        "most_polls": max(timeline.polls),
    }


def busy(timeline: Timeline) -> list[int]:
    """Return the messages handed out from the first tenth of a second that had some to the last."""
    places = [place for place, count in enumerate(timeline.received) if count]
    return timeline.received[places[0] : places[-1] + 1]


def windows(timeline: Timeline) -> list[float]:
    """Return messages a second, by whole windows from the start of the burst."""
    counts, size = busy(timeline), round(WINDOW_S / timeline.bin_s)
    whole = range(0, len(counts) - size + 1, size)
    return [sum(counts[start : start + size]) / WINDOW_S for start in whole]


def full_rate(timeline: Timeline) -> float:
    """Return the rate of the middle half of the burst. Raises BenchmarkError if it was too short to tell."""
    rates = windows(timeline)
    quarter = len(rates) // 4
    if not quarter:
        raise BenchmarkError(f"the burst was over within {len(rates) * WINDOW_S:g} s: more messages are needed")
    return median(rates[quarter : len(rates) - quarter])


def ramp_s(timeline: Timeline) -> float:
    """Return the seconds from the start of the burst to the end of the first window at full speed."""
    enough = FULL_SHARE * full_rate(timeline)
    return WINDOW_S * next(place for place, rate in enumerate(windows(timeline), 1) if rate >= enough)


def at_rest_s(timeline: Timeline, long_poll_s: float) -> float | None:
    """Return the seconds from the last message to the end of the last tenth with more than one receive under way.

    None if that may not be over: it has to have been so for as long as a long poll.
    """
    last = max(place for place, count in enumerate(timeline.received) if count)
    several = max((place for place, polls in enumerate(timeline.polls) if polls > 1), default=last)
    if (len(timeline.polls) - 1 - several) * timeline.bin_s < long_poll_s:
        return None
    return max(0, several - last) * timeline.bin_s


def measure(place: Place, options: argparse.Namespace) -> list[Run]:
    """Take the runs."""
    runs = []
    for number in range(1, options.runs + 1):
        runs.append(idle(place, seconds=options.seconds, long_poll_s=options.long_poll_s, number=number))
        say(f"run {number}, {told(runs[-1])}")
        runs.append(
            ramp(
                place,
                messages=options.messages,
                latency_ms=options.latency_ms,
                long_poll_s=options.long_poll_s,
                number=number,
            )
        )
        say(f"run {number}, {told(runs[-1])}")
    return runs


def told(of: Run) -> str:
    """Return a run as a line."""
    if of["kind"] == "idle":
        return f"idle: {of['requests_per_hour']:.0f} SQS requests/hour over {of['watched_s']:.0f} s"
    return (
        f"ramp: full speed ({of['full_rate']:,.0f} msg/s) after {of['ramp_s']:.1f} s, "
        f"one receive {of['to_one_poll_s']:.1f} s after the last message"
    )


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.idle", description="requests at rest, and the way up")
    option = parser.add_argument
    option("--seconds", type=float, default=100.0, help="to watch an idle worker (default: %(default)s)")
    option("--messages", type=int, default=200_000, help="of a burst (default: %(default)s)")
    option("--runs", type=int, default=5, help="(default: %(default)s)")
    option("--latency-ms", type=float, default=20.0, help="of each SQS request in a burst (default: %(default)s)")
    option("--long-poll-s", type=float, default=20.0, help="that the queue holds a receive (default: %(default)s)")
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
        asked: Run = {
            name: getattr(options, name) for name in ("seconds", "messages", "runs", "latency_ms", "long_poll_s")
        }
        write(options.json, envelope("idle", options=asked, runs=runs, machine=facts))
    return 0


if __name__ == "__main__":
    sys.exit(main())
