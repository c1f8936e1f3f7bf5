"""The figures of the road: what a run gave, their medians, the table and the floor."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING

import msgspec
from benchmarks.loader import BenchmarkError
from benchmarks.measure import REFERENCE_STRINGS

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from benchmarks.envelope import Figure
    from benchmarks.loader import Outcome
    from benchmarks.measure import Usage
    from benchmarks.null_process import Stats

FLOOR_CPU_US = 60.0
FLOOR_RATE = 12_000.0
FLOOR_RSS_MB = 150.0
FLOOR_REQUESTS = 205.0
SATURATED = 50_000
"""So many messages make the receives at the end, which come back empty, too few to count."""
HEADER = (
    "workers",
    "SQS ms",
    "vault",
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
SQS ms       latency of each SQS request
CPU us/msg   user and system time of the command and its children, start-up included: median (min-max)
less start   the same without the CPU of a run on an empty queue
x ref        CPU of a message in strings of the reference loop just before, to compare machines
msg/s        messages by the time from the first receive to the last delete, at the queue: median (min-max)
msg/s (own)  messages by the `seconds` that the command itself tells
RSS MB       peak of its largest process; all MB: the peaks of all its processes added up
req/1000     SQS requests per 1,000 messages
pg, sqs      CPU of PostgreSQL and of the null SQS server, per message"""


@dataclass(frozen=True, slots=True, order=True)
class Setting:
    """What a run is made with."""

    workers: int = 1
    latency_ms: float = 0.0
    vault: str = "on"
    distinct: float = 0.2

    def told(self) -> str:
        """Return it in words."""
        words = [f"{self.workers} worker{'s' if self.workers > 1 else ''}"]
        words += [f"{self.latency_ms:g} ms a request"] if self.latency_ms else []
        words += ["no vault"] if self.vault == "off" else []
        return ", ".join(words)


class Run(msgspec.Struct, frozen=True):
    """The figures of one run; per-message figures are 0 where there was no message."""

    setting: Setting
    round: int
    messages: int
    cpu_seconds: float
    cpu_us: float
    wall_seconds: float
    rate: float
    own_rate: float
    rss_mb: float
    rss_total_mb: float
    requests_per_1000: float
    postgres_us: float | None
    null_sqs_us: float
    reference_ms: float
    vault_rows: int | None

    def flat(self, start_cpu_seconds: float) -> dict[str, Figure]:
        """Return the figures as an envelope holds them, with the CPU of the run on an empty queue of its round."""
        figures: dict[str, Figure] = msgspec.structs.asdict(self)
        setting = self.setting
        figures.pop("setting")
        return {
            "workers": setting.workers,
            "latency_ms": setting.latency_ms,
            "vault": setting.vault,
            "distinct": setting.distinct,
            **figures,
            "start_cpu_seconds": start_cpu_seconds,
        }


class Spread(msgspec.Struct, frozen=True):
    """A figure over the runs."""

    median: float
    low: float
    high: float


class Summary(msgspec.Struct, frozen=True):
    """The figures of all runs with the same setting."""

    setting: Setting
    messages: int
    cpu_us: Spread
    cpu_us_less_start: float
    start_cpu_seconds: float
    reference_strings: float
    rate: Spread
    own_rate: float
    rss_mb: Spread
    rss_total_mb: float
    requests_per_1000: float
    postgres_us: float | None
    null_sqs_us: float


def check(
    *, messages: int, outcome: Outcome, stats: Stats, counts: Mapping[str, int | None], vault: str = "on"
) -> None:
    """Raise BenchmarkError unless each message was loaded once and deleted, with a vault only where one is kept."""
    figures = {
        "rows in the table": counts["rows"],
        "ledger entries": counts["ledger"],
        "messages deleted from the queue": stats.deleted,
        "messages the command says it loaded": outcome.loaded,
    }
    wrong = [f"{value} {name}" for name, value in figures.items() if value != messages]
    if stats.errors:
        wrong.append(f"{stats.errors} errors at the queue")
    if bool(counts["vault"]) != (vault == "on" and messages > 0):
        wrong.append(f"{counts['vault']} entries in a vault that is {vault}")
    if wrong:
        raise BenchmarkError(f"{messages} messages, but {', '.join(wrong)}")


def run_figures(
    *,
    setting: Setting,
    number: int,
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
        setting=setting,
        round=number,
        messages=messages,
        cpu_seconds=usage.cpu_seconds,
        cpu_us=_per(usage.cpu_seconds, messages) * 1e6,
        wall_seconds=usage.wall_seconds,
        rate=_per(messages, stats.elapsed),
        own_rate=_per(messages, outcome.seconds),
        rss_mb=usage.rss_mb,
        rss_total_mb=usage.rss_total_mb,
        requests_per_1000=_per(sum(stats.requests.values()), messages) * 1000,
        postgres_us=None if postgres_seconds is None else _per(postgres_seconds, messages) * 1e6,
        null_sqs_us=_per(stats.cpu_seconds, messages) * 1e6,
        reference_ms=reference_ms,
        vault_rows=vault_rows,
    )


def _per(amount: float, share: float) -> float:
    return amount / share if share else 0.0


def spread(values: Sequence[float]) -> Spread:
    """Return median, least and greatest."""
    return Spread(median(values), min(values), max(values))


def summarise(runs: Sequence[Run], starts: Sequence[Run]) -> Summary:
    """Sum up runs of the same setting; `starts` are runs on an empty queue."""

    def middle(figure: Callable[[Run], float]) -> float:
        return median(map(figure, runs))

    cpu = spread([run.cpu_us for run in runs])
    start = median(run.cpu_seconds for run in starts)
    postgres = [run.postgres_us for run in runs if run.postgres_us is not None]
    return Summary(
        setting=runs[0].setting,
        messages=runs[0].messages,
        cpu_us=cpu,
        cpu_us_less_start=cpu.median - start / runs[0].messages * 1e6,
        start_cpu_seconds=start,
        reference_strings=middle(lambda run: run.cpu_us / (run.reference_ms * 1000 / REFERENCE_STRINGS)),
        rate=spread([run.rate for run in runs]),
        own_rate=middle(lambda run: run.own_rate),
        rss_mb=spread([run.rss_mb for run in runs]),
        rss_total_mb=middle(lambda run: run.rss_total_mb),
        requests_per_1000=middle(lambda run: run.requests_per_1000),
        postgres_us=median(postgres) if postgres else None,
        null_sqs_us=middle(lambda run: run.null_sqs_us),
    )


def table(summaries: Sequence[Summary]) -> str:
    """Return the aligned table, one line per setting."""
    lines = [HEADER, *map(_cells, summaries)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join("  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)) for line in lines)


def _cells(summary: Summary) -> tuple[str, ...]:
    cpu, rate = summary.cpu_us, summary.rate
    return (
        str(summary.setting.workers),
        f"{summary.setting.latency_ms:g}",
        summary.setting.vault,
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
    """Return where the floor is missed: the rate must be reached by the best line, everything else by each.

    The requests count only where they tell: a long run against a server without latency.
    """
    missed: list[str] = []
    for summary in summaries:
        who = f"with {summary.setting.told()}"
        if summary.cpu_us.median > FLOOR_CPU_US:
            missed.append(f"{summary.cpu_us.median:.1f} us {who}")
        if summary.rss_mb.high > FLOOR_RSS_MB:
            missed.append(f"{summary.rss_mb.high:.0f} MB {who}")
        saturated = summary.messages >= SATURATED and not summary.setting.latency_ms
        if saturated and summary.requests_per_1000 > FLOOR_REQUESTS:
            missed.append(f"{summary.requests_per_1000:.0f} requests per 1,000 messages {who}")
    best = max(summary.rate.median for summary in summaries)
    if best < FLOOR_RATE:
        missed.append(f"{best:,.0f} msg/s at best")
    return missed


def verdict(missed: Sequence[str]) -> str:
    """Return the last line: whether the floor is met."""
    floor = (
        f"floor (<= {FLOOR_CPU_US:.0f} us, >= {FLOOR_RATE:,.0f} msg/s, <= {FLOOR_RSS_MB:.0f} MB, "
        f"<= {FLOOR_REQUESTS:.0f} requests)"
    )
    return f"{floor}: missed: {', '.join(missed)}" if missed else f"{floor}: met"
