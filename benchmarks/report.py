"""The figures of the benchmark: what a run gave, their medians, the table and the floor."""

from __future__ import annotations

from statistics import median
from typing import TYPE_CHECKING

import msgspec
from benchmarks.loader import BenchmarkError
from benchmarks.measure import REFERENCE_STRINGS

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from benchmarks.loader import Outcome
    from benchmarks.measure import Usage
    from benchmarks.null_process import Stats

FLOOR_CPU_US = 60.0
FLOOR_RATE = 12_000.0
FLOOR_RSS_MB = 150.0
HEADER = (
    "workers",
    "CPU us/msg",
    "less start",
    "x ref",
    "msg/s",
    "msg/s (own)",
    "RSS MB",
    "all MB",
    "req/1000",
    "pg us/msg",
    "sqs us/msg",
)
LEGEND = """\
CPU us/msg   user and system time of the command and its children, start-up included: median (min-max)
less start   the same without the CPU of a run on an empty queue
x ref        CPU of a message in strings of the reference loop just before, to compare machines
msg/s        messages by the time from the first receive to the last delete, at the queue: median (min-max)
msg/s (own)  messages by the `seconds` that the command itself tells
RSS MB       peak of its largest process; all MB: the peaks of all its processes added up
req/1000     SQS requests per 1,000 messages
pg, sqs      CPU of PostgreSQL and of the null SQS server, per message"""


class Run(msgspec.Struct, frozen=True):
    """The figures of one run; per-message figures are 0 where there was no message."""

    workers: int
    messages: int
    cpu_seconds: float
    cpu_us: float
    wall_seconds: float
    queue_rate: float
    own_rate: float
    rss_mb: float
    rss_total_mb: float
    requests_per_1000: float
    requests: dict[str, int]
    postgres_us: float | None
    null_sqs_us: float
    reference_ms: float
    vault_rows: int | None


class Spread(msgspec.Struct, frozen=True):
    """A figure over the runs."""

    median: float
    low: float
    high: float


class Summary(msgspec.Struct, frozen=True):
    """The figures of all runs with the same number of workers."""

    workers: int
    cpu_us: Spread
    cpu_us_less_start: float
    start_cpu_seconds: float
    reference_strings: float
    queue_rate: Spread
    own_rate: float
    rss_mb: Spread
    rss_total_mb: float
    requests_per_1000: float
    postgres_us: float | None
    null_sqs_us: float


def check(*, messages: int, outcome: Outcome, stats: Stats, counts: Mapping[str, int | None]) -> None:
    """Raise BenchmarkError unless each message was loaded once and deleted."""
    figures = {
        "rows in the table": counts["rows"],
        "ledger entries": counts["ledger"],
        "messages deleted from the queue": stats.deleted,
        "messages the command says it loaded": outcome.loaded,
    }
    wrong = [f"{value} {name}" for name, value in figures.items() if value != messages]
    if stats.errors:
        wrong.append(f"{stats.errors} errors at the queue")
    if wrong:
        raise BenchmarkError(f"{messages} messages, but {', '.join(wrong)}")


def run_figures(
    *,
    workers: int,
    messages: int,
    usage: Usage,
    outcome: Outcome,
    stats: Stats,
    postgres_seconds: float | None,
    reference_ms: float,
    vault_rows: int | None,
) -> Run:
    """Turn what was counted in one run into its figures."""
    return Run(
        workers=workers,
        messages=messages,
        cpu_seconds=usage.cpu_seconds,
        cpu_us=_per(usage.cpu_seconds, messages) * 1e6,
        wall_seconds=usage.wall_seconds,
        queue_rate=_per(messages, stats.elapsed),
        own_rate=_per(messages, outcome.seconds),
        rss_mb=usage.rss_mb,
        rss_total_mb=usage.rss_total_mb,
        requests_per_1000=_per(sum(stats.requests.values()), messages) * 1000,
        requests=stats.requests,
        postgres_us=None if postgres_seconds is None else _per(postgres_seconds, messages) * 1e6,
        null_sqs_us=_per(stats.cpu_seconds, messages) * 1e6,
        reference_ms=reference_ms,
        vault_rows=vault_rows,
    )


def _per(amount: float, share: float) -> float:
    return amount / share if share else 0.0


def summarise(runs: Sequence[Run], starts: Sequence[Run]) -> Summary:
    """Sum up runs of the same number of workers; `starts` are runs on an empty queue."""

    def middle(figure: Callable[[Run], float]) -> float:
        return median(map(figure, runs))

    def spread(figure: Callable[[Run], float]) -> Spread:
        values = [figure(run) for run in runs]
        return Spread(median(values), min(values), max(values))

    cpu = spread(lambda run: run.cpu_us)
    start = median(run.cpu_seconds for run in starts)
    postgres = [run.postgres_us for run in runs if run.postgres_us is not None]
    return Summary(
        workers=runs[0].workers,
        cpu_us=cpu,
        cpu_us_less_start=cpu.median - start / runs[0].messages * 1e6,
        start_cpu_seconds=start,
        reference_strings=middle(lambda run: run.cpu_us / (run.reference_ms * 1000 / REFERENCE_STRINGS)),
        queue_rate=spread(lambda run: run.queue_rate),
        own_rate=middle(lambda run: run.own_rate),
        rss_mb=spread(lambda run: run.rss_mb),
        rss_total_mb=middle(lambda run: run.rss_total_mb),
        requests_per_1000=middle(lambda run: run.requests_per_1000),
        postgres_us=median(postgres) if postgres else None,
        null_sqs_us=middle(lambda run: run.null_sqs_us),
    )


def table(summaries: Sequence[Summary]) -> str:
    """Return the aligned table, one line per number of workers."""
    lines = [HEADER, *map(_cells, summaries)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join("  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)) for line in lines)


def _cells(summary: Summary) -> tuple[str, ...]:
    cpu, rate = summary.cpu_us, summary.queue_rate
    return (
        str(summary.workers),
        f"{cpu.median:.1f} ({cpu.low:.1f}-{cpu.high:.1f})",
        f"{summary.cpu_us_less_start:.1f}",
        f"{summary.reference_strings:.0f}",
        f"{rate.median:,.0f} ({rate.low:,.0f}-{rate.high:,.0f})",
        f"{summary.own_rate:,.0f}",
        f"{summary.rss_mb.median:.0f}",
        f"{summary.rss_total_mb:.0f}",
        f"{summary.requests_per_1000:.0f}",
        "-" if summary.postgres_us is None else f"{summary.postgres_us:.1f}",
        f"{summary.null_sqs_us:.1f}",
    )


def misses(summaries: Sequence[Summary]) -> list[str]:
    """Return where the floor is missed: CPU and memory hold for every line, the rate for the best one."""
    missed: list[str] = []
    for summary in summaries:
        who = f"with {summary.workers} worker{'s' if summary.workers > 1 else ''}"
        if summary.cpu_us.median > FLOOR_CPU_US:
            missed.append(f"{summary.cpu_us.median:.1f} us {who}")
        if summary.rss_mb.high > FLOOR_RSS_MB:
            missed.append(f"{summary.rss_mb.high:.0f} MB {who}")
    best = max(summary.queue_rate.median for summary in summaries)
    if best < FLOOR_RATE:
        missed.append(f"{best:,.0f} msg/s at best")
    return missed


def verdict(missed: Sequence[str]) -> str:
    """Return the last line: whether the floor is met."""
    floor = f"floor (<= {FLOOR_CPU_US:.0f} us, >= {FLOOR_RATE:,.0f} msg/s, <= {FLOOR_RSS_MB:.0f} MB)"
    return f"{floor}: missed: {', '.join(missed)}" if missed else f"{floor}: met"
