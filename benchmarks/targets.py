"""The targets of the benchmarks as one catalogue: what is asked for, and which figures of which result file tell it.

Each target names the samples it is judged by, one a run or round, in groups (by number of workers, by size of the
database, by peer). What counts is the median of a group; of several groups the worst, unless the target is about the
best there is. Ratios are taken within a round, where both sides had the same machine.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING

from benchmarks.peers.ratios import OURS, USUAL
from benchmarks.report import SATURATED, Spread, spread
from benchmarks.scaling import FREE_CORES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from benchmarks.envelope import Envelope, Figure

    Run = Mapping[str, Figure]
    Groups = Mapping[str, Sequence[float]]

ENOUGH_RUNS = 5
MEMORY_MB = 150.0
BUDGET_MB = 64 * 2**20 / 1e6
"""The bytes of bodies that a worker has in flight at most, unless it is told otherwise."""
EARLY = 0.1
"""The share of the messages after which the memory of a worker is to be flat."""


@dataclass(frozen=True, slots=True)
class Target:
    """One thing asked for. `samples` takes it from the result file `source`."""

    name: str
    limit: float
    unit: str
    source: str
    samples: Callable[[Envelope], Groups]
    at_least: bool = False
    best: bool = False


@dataclass(frozen=True, slots=True)
class Judged:
    """What was measured for a target: the group that counts, its spread, and how many runs it had."""

    target: Target
    group: str
    found: Spread
    runs: int

    @property
    def met(self) -> bool:
        """Whether the median is within the limit."""
        if self.target.at_least:
            return self.found.median >= self.target.limit
        return self.found.median <= self.target.limit

    def verdict(self) -> str:
        """Return whether it is met, or by what it is missed, and whether there were enough runs to tell."""
        few = "" if self.runs >= ENOUGH_RUNS else f" ({self.runs} run{'s' if self.runs > 1 else ''} only)"
        if self.met:
            return f"met{few}"
        away = abs(self.found.median - self.target.limit)
        unit = f" {self.target.unit}" if self.target.unit else ""
        return f"**missed** by {number(away)}{unit} ({away / self.target.limit * 100:.0f} %){few}"


def judge(target: Target, measured: Envelope | None) -> Judged | None:
    """Return what was measured for a target; None if it was not."""
    groups = {} if measured is None else target.samples(measured)
    found = {name: list(values) for name, values in groups.items() if values}
    if not found:
        return None
    highest = target.best == target.at_least
    name = (max if highest else min)(found, key=lambda name: median(found[name]))
    return Judged(target, name, spread(found[name]), len(found[name]))


def number(value: float) -> str:
    """Return a figure with as many digits as tell something."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def figure(run: Run, name: str) -> float | None:
    """Return a figure that is a number; None if it was not measured."""
    value = run.get(name)
    return float(value) if isinstance(value, int | float) else None


def figures(runs: Iterable[Run], name: str) -> list[float]:
    """Return a figure of the runs that have it."""
    return [value for run in runs if (value := figure(run, name)) is not None]


def chosen(runs: Iterable[Run], **values: Figure) -> list[Run]:
    """Return the runs that have these values."""
    return [run for run in runs if all(run.get(name) == value for name, value in values.items())]


def ratios(of: Iterable[Run], to: Iterable[Run], name: str) -> list[float]:
    """Return for each round a figure of one run by that of the other."""
    by = {run["round"]: figure(run, name) for run in to}
    pairs = [(figure(run, name), by.get(run["round"])) for run in of]
    return [one / other for one, other in pairs if one is not None and other]


def workers_told(count: Figure) -> str:
    """Return a number of workers in words."""
    return f"{count:g} worker{'' if count == 1 else 's'}" if isinstance(count, int | float) else f"{count} workers"


def size_told(run: Run) -> str:
    """Return how full a database was, in words."""
    full = {kind: figure(run, f"{kind}_rows") or 0.0 for kind in ("ledger", "vault")}
    return ", ".join(f"{rows / 1e6:g} M in the {kind}" for kind, rows in full.items() if rows) or "empty"


def growth_of(runs: Sequence[Run], name: str) -> dict[str, list[float]]:
    """Return by size of the database how many times the figure of the empty one it has, a sample a round."""
    sizes: dict[str, list[Run]] = defaultdict(list)
    for run in runs:
        sizes[size_told(run)].append(run)
    empty = sizes.pop("empty", [])
    return {size: ratios(of, empty, name) for size, of in sizes.items()}


def ahead_of_peers(runs: Sequence[Run]) -> dict[str, list[float]]:
    """Return by peer how many times its rate coatcheck has with the better of 1 and 2 workers, a sample a round."""
    ours: dict[Figure, float] = {}
    for run in runs:
        if run["peer"] in OURS and (rate := figure(run, "rate")) is not None:
            ours[run["round"]] = max(rate, ours.get(run["round"], 0.0))
    peers: dict[str, list[float]] = defaultdict(list)
    for run in runs:
        if run["peer"] not in OURS and (rate := figure(run, "rate")) and run["round"] in ours:
            peers[str(run["peer"])].append(ours[run["round"]] / rate)
    return peers


def cpu_by_peer(runs: Sequence[Run], of: str = USUAL) -> list[float]:
    """Return how many times the CPU of coatcheck a peer takes for a message, both without their start-up."""
    return ratios(chosen(runs, peer=of), chosen(runs, peer=OURS[0]), "running_us")


def _road(name: str, workers: int | None = None) -> Callable[[Envelope], Groups]:
    """Return the samples of a figure by number of workers."""

    def samples(measured: Envelope) -> Groups:
        counts = dict.fromkeys(run["workers"] for run in measured.runs)
        if workers is not None:
            return {"": figures(chosen(measured.runs, workers=workers), name)}
        return {workers_told(count): figures(chosen(measured.runs, workers=count), name) for count in counts}

    return samples


def _saturated(measured: Envelope) -> Groups:
    """Return the SQS requests of runs that are long enough to tell."""
    long = [run for run in measured.runs if (figure(run, "messages") or 0) >= SATURATED and not run["latency_ms"]]
    counts = dict.fromkeys(run["workers"] for run in long)
    return {workers_told(count): figures(chosen(long, workers=count), "requests_per_1000") for count in counts}


def _kind(kind: str, name: str, **values: Figure) -> Callable[[Envelope], Groups]:
    """Return the samples of a figure of one kind of run."""
    return lambda measured: {"": figures(chosen(measured.runs, kind=kind, **values), name)}


def _growth(name: str) -> Callable[[Envelope], Groups]:
    return lambda measured: growth_of(measured.runs, name)


def by_round(runs: Iterable[Run]) -> dict[float, list[Run]]:
    """Return the runs of each round; those that tell none are of the first."""
    rounds: dict[float, list[Run]] = defaultdict(list)
    for run in runs:
        rounds[figure(run, "round") or 1.0].append(run)
    return rounds


def _highest(kind: str) -> Callable[[Envelope], Groups]:
    """Return the highest memory of each round."""

    def samples(measured: Envelope) -> Groups:
        rounds = by_round(chosen(measured.runs, kind=kind)).values()
        return {"": [max(values) for runs in rounds if (values := figures(runs, "rss_mb"))]}

    return samples


def flatness(measured: Envelope) -> Groups:
    """Return the memory at the end by that after the first tenth of the messages, a sample a round."""
    found = []
    for runs in by_round(chosen(measured.runs, kind="flat")).values():
        series = sorted(
            (count, rss)
            for run in runs
            if (count := figure(run, "messages")) is not None and (rss := figure(run, "rss_mb")) is not None
        )
        late = [rss for count, rss in series if count >= EARLY * series[-1][0]]
        found += [late[-1] / late[0]] if len(late) > 1 else []
    return {"": found}


def _scaling(measured: Envelope) -> Groups:
    """Return what the second worker brings, in rounds in which one alone left CPU free."""
    runs = chosen(measured.runs, setting="latency")
    free = [run for run in chosen(runs, workers=1) if (figure(run, "worker_cores") or 0.0) < FREE_CORES]
    return {"": ratios(chosen(runs, workers=2), free, "rate")}


def _usual(measured: Envelope) -> Groups:
    latencies = [latency for run in measured.runs if (latency := figure(run, "latency_ms")) is not None]
    return {"": cpu_by_peer(chosen(measured.runs, latency_ms=min(latencies)))} if latencies else {}


def _peers(latency_ms: float) -> Callable[[Envelope], Groups]:
    return lambda measured: ahead_of_peers(chosen(measured.runs, latency_ms=latency_ms))


TARGETS = (
    Target("loader CPU per message, one worker", 25, "us", "road", _road("cpu_us", 1)),
    Target("loader CPU per message, one worker: stretch", 18, "us", "road", _road("cpu_us", 1)),
    Target("loader CPU per message, two workers", 25, "us", "road", _road("cpu_us", 2)),
    Target("end to end, 20 % new values", 25_000, "msg/s", "road", _road("rate"), at_least=True, best=True),
    Target("end to end, vault off", 30_000, "msg/s", "road-novault", _road("rate"), at_least=True, best=True),
    Target(
        "20 ms latency on every SQS request, one process",
        18_000,
        "msg/s",
        "road-latency",
        _road("rate", 1),
        at_least=True,
    ),
    Target("queue to row at 1,000 msg/s, p50", 150, "ms", "latency", _kind("rate", "p50_ms", offered=1000)),
    Target("queue to row at 1,000 msg/s, p99", 1000, "ms", "latency", _kind("rate", "p99_ms", offered=1000)),
    Target("queue to row, one message alone (the slowest)", 300, "ms", "latency", _kind("lone", "max_ms")),
    Target("SQS requests per 1,000 messages, saturated", 205, "", "road", _saturated),
    Target("SQS requests per hour, idle", 200, "", "idle", _kind("idle", "requests_per_hour")),
    Target("from a burst to full speed", 5, "s", "idle", _kind("ramp", "ramp_s")),
    Target("from the last message to one poll", 60, "s", "idle", _kind("ramp", "to_one_poll_s")),
    Target("growth of the loader's CPU per message", 1.3, "x", "growth", _growth("running_us")),
    Target("growth of PostgreSQL's CPU per message", 1.3, "x", "growth", _growth("postgres_us")),
    Target("rate with a full database, of the empty one", 1 / 1.3, "x", "growth", _growth("rate"), at_least=True),
    Target("memory of a worker, at most", MEMORY_MB, "MB", "memory", _highest("flat")),
    Target("memory with 1 MiB messages, 64 in flight", MEMORY_MB + 2 * BUDGET_MB, "MB", "memory", _highest("large")),
    Target("memory at the end, by that after a tenth of the messages", 1.1, "x", "memory", flatness),
    Target("two workers by one on the null sink, CPU free", 1.8, "x", "scaling", _scaling, at_least=True),
    Target("CPU per message of the usual solution, by ours", 10, "x", "peers", _usual, at_least=True),
    Target("our rate by the best peer's, 0 ms a request", 4, "x", "peers", _peers(0), at_least=True),
    Target("our rate by the best peer's, 20 ms a request", 4, "x", "peers", _peers(20), at_least=True),
)
