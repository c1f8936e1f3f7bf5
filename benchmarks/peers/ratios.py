"""What is told of the peers: the runs, the medians with the ratios to coatcheck, the table and the verdict.

A ratio is taken within each round, where both had the same machine; what is told is the median over the rounds.
"""

from __future__ import annotations

from statistics import median
from typing import TYPE_CHECKING

import msgspec
from benchmarks.report import Spread, spread

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from benchmarks.envelope import Figure

OURS = ("coatcheck", "coatcheck_2")
USUAL = "boto3_rows"
CPU_TARGET = 10.0
RATE_TARGET = 4.0
HEADER = (
    "",
    "SQS ms",
    "messages",
    "CPU us/msg",
    "less start",
    "x coatcheck",
    "msg/s",
    "coatcheck x",
    "pg us/msg",
    "RSS MB",
)
LEGEND = """\
_2           two workers, or two processes of the peer
SQS ms       latency of each SQS request; peers with tasks have 8 a process without it, 64 with it
CPU us/msg   user and system time of the command and its children, start-up included: median (min-max)
less start   the same without the CPU of a run on an empty queue; x coatcheck: by that of coatcheck with one worker
msg/s        messages by the time from the first receive to the last delete, at the queue: median (min-max)
coatcheck x  how many times faster coatcheck is, with the better of one and two workers
pg us/msg    CPU of PostgreSQL per message; RSS MB: the peaks of all processes added up
coatcheck validates, makes two keyed tokens, keeps vault and ledger; peers parse, hash, insert and delete only"""


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """The figures of one run, or why there are none. `running_us` is `cpu_us` without the start-up."""

    peer: str
    round: int
    latency_ms: float
    processes: int
    messages: int | None = None
    cpu_us: float | None = None
    running_us: float | None = None
    start_cpu_seconds: float | None = None
    rate: float | None = None
    postgres_us: float | None = None
    null_sqs_us: float | None = None
    rss_mb: float | None = None
    rss_total_mb: float | None = None
    skipped: str | None = None

    def flat(self) -> dict[str, Figure]:
        """Return the run as an envelope holds it."""
        figures: dict[str, Figure] = msgspec.structs.asdict(self)
        return figures


class Line(msgspec.Struct, frozen=True, kw_only=True):
    """The medians of one contestant at one latency; ratios are None where coatcheck was not measured."""

    peer: str
    latency_ms: float
    processes: int
    messages: int
    cpu: Spread
    running: Spread
    rate: Spread
    postgres_us: float | None
    rss_total_mb: float
    cpu_ratio: float | None
    rate_ratio: float | None


def lines(runs: Sequence[Run]) -> list[Line]:
    """Sum up each contestant at each latency, in the order of the runs; without those that were skipped."""
    done = [run for run in runs if not run.skipped]
    settings = dict.fromkeys((run.latency_ms, run.peer) for run in done)
    return [
        _line([run for run in done if (run.latency_ms, run.peer) == setting], done)
        for setting in sorted(settings, key=lambda setting: setting[0])  # a stable sort: peers stay in their order
    ]


def _line(mine: Sequence[Run], all_runs: Sequence[Run]) -> Line:
    first = mine[0]
    postgres = _figures(mine, "postgres_us")
    return Line(
        peer=first.peer,
        latency_ms=first.latency_ms,
        processes=first.processes,
        messages=first.messages or 0,
        cpu=spread(_figures(mine, "cpu_us")),
        running=spread(_figures(mine, "running_us")),
        rate=spread(_figures(mine, "rate")),
        postgres_us=median(postgres) if postgres else None,
        rss_total_mb=median(_figures(mine, "rss_total_mb")),
        cpu_ratio=_middle(_cpu_ratios(mine, all_runs)),
        rate_ratio=_middle(_rate_ratios(mine, all_runs)),
    )


def _figures(runs: Sequence[Run], name: str) -> list[float]:
    return [figure for run in runs if (figure := getattr(run, name)) is not None]


def _middle(ratios: Iterator[float]) -> float | None:
    found = list(ratios)
    return median(found) if found else None


def _same(run: Run, runs: Sequence[Run], names: Sequence[str]) -> list[Run]:
    """Return the runs of these contestants in the round of a run, at its latency."""
    return [one for one in runs if one.peer in names and (one.round, one.latency_ms) == (run.round, run.latency_ms)]


def _cpu_ratios(mine: Sequence[Run], runs: Sequence[Run]) -> Iterator[float]:
    """Yield for each round how many times coatcheck's CPU a contestant takes for a message."""
    for run in mine:
        for ours in _same(run, runs, OURS[:1]):
            if run.running_us is not None and ours.running_us:
                yield run.running_us / ours.running_us


def _rate_ratios(mine: Sequence[Run], runs: Sequence[Run]) -> Iterator[float]:
    """Yield for each round how many times the rate of a contestant coatcheck has."""
    for run in mine:
        rates = _figures(_same(run, runs, OURS), "rate")
        if rates and run.rate:
            yield max(rates) / run.rate


def table(found: Sequence[Line], runs: Sequence[Run]) -> str:
    """Return the aligned table, and a line for each that was skipped."""
    cells = [HEADER, *map(_cells, found)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    rows = ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in cells]
    skipped = dict.fromkeys((run.peer, run.skipped) for run in runs if run.skipped)
    return "\n".join([*rows, *(f"{peer}: skipped ({why})" for peer, why in skipped)])


def _cells(line: Line) -> tuple[str, ...]:
    def times(ratio: float | None) -> str:
        return "-" if ratio is None else f"{ratio:.1f}"

    return (
        line.peer,
        f"{line.latency_ms:g}",
        f"{line.messages:,}",
        f"{line.cpu.median:.1f} ({line.cpu.low:.1f}-{line.cpu.high:.1f})",
        f"{line.running.median:.1f}",
        times(line.cpu_ratio),
        f"{line.rate.median:,.0f} ({line.rate.low:,.0f}-{line.rate.high:,.0f})",
        times(line.rate_ratio),
        "-" if line.postgres_us is None else f"{line.postgres_us:.1f}",
        f"{line.rss_total_mb:.0f}",
    )


def verdict(found: Sequence[Line]) -> list[str]:
    """Return whether coatcheck is as far ahead as it must be: of the usual solution, and of the best peer.

    The CPU is looked at where the latency is least. The rate is looked at for each latency, against the best peer
    in one process, and against the best one at all if that has two.
    """
    latencies = sorted({line.latency_ms for line in found})
    told = [_cpu_verdict(found, latencies[0])] if latencies else []
    for latency in latencies:
        peers = [line for line in found if line.latency_ms == latency and line.peer not in OURS]
        in_one = [line for line in peers if line.processes == 1]
        told.append(_rate_verdict(in_one, latency, "the best peer in one process"))
        if len(peers) > len(in_one):
            told.append(_rate_verdict(peers, latency, "the best peer, also in two processes"))
    return told


def _cpu_verdict(found: Sequence[Line], latency: float) -> str:
    ratios = [line.cpu_ratio for line in found if (line.peer, line.latency_ms) == (USUAL, latency)]
    return _judged(f">= {CPU_TARGET:g} x {USUAL} in CPU per message", CPU_TARGET, ratios[0] if ratios else None)


def _rate_verdict(peers: Sequence[Line], latency: float, whom: str) -> str:
    target = f">= {RATE_TARGET:g} x {whom} end to end at {latency:g} ms a request"
    if not peers:
        return _judged(target, RATE_TARGET, None)
    best = max(peers, key=lambda line: line.rate.median)
    return _judged(target, RATE_TARGET, best.rate_ratio, f" ({best.peer})")


def _judged(target: str, least: float, ratio: float | None, whom: str = "") -> str:
    if ratio is None:
        return f"{target}: not looked at, it was not measured"
    return f"{target}: {'met' if ratio >= least else 'missed'}, x {ratio:.1f}{whom}"
