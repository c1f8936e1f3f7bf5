"""The sections of docs/benchmarks.md: for each experiment a short table of medians, and its plots."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from statistics import median
from typing import TYPE_CHECKING

from benchmarks.peers.ratios import OURS
from benchmarks.plot import bars, lines
from benchmarks.report import Spread, spread
from benchmarks.scales import Axis, short
from benchmarks.targets import (
    ahead_of_peers,
    by_round,
    chosen,
    cpu_by_peer,
    figure,
    figures,
    growth_of,
    number,
    ratios,
    size_told,
    workers_told,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from benchmarks.envelope import Envelope, Figure
    from benchmarks.targets import Run

NOT_MEASURED = "not measured"
ROADS = ("road", "road-latency", "road-novault", "road-new")
FIGURES = tuple("0123456789-")
QUANTILE = re.compile(r"[pq](\d+)_ms")
GROWN = {"running_us": "CPU of the loader", "postgres_us": "CPU of PostgreSQL", "rate": "rate"}


@dataclass(slots=True)
class Section:
    """What the page tells of one experiment; `plots` by file name."""

    title: str
    paragraphs: list[str] = field(default_factory=list)
    plots: dict[str, str] = field(default_factory=dict)

    def markdown(self) -> str:
        """Return its text, with the plots at its end."""
        images = [f"![{_title(svg)}](benchmarks/{name})" for name, svg in self.plots.items()]
        return "\n\n".join([f"## {self.title}", *(self.paragraphs or [f"{NOT_MEASURED}."]), *images])


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table of Markdown: columns of figures to the right, others to the left."""
    body = list(rows)
    columns = zip(*body, strict=True) if body else ((name,) for name in head)
    marks = ["---:" if all(one[:1] in FIGURES for one in column) else "---" for column in columns]
    return "\n".join(f"| {' | '.join(one.replace('|', '/') for one in row)} |" for row in (head, marks, *body))


def cell(values: Sequence[float], form: Callable[[float], str] = number) -> str:
    """Return the median of a figure, with its least and greatest."""
    if not values:
        return "-"
    middle, low, high = (form(value) for value in (median(values), min(values), max(values)))
    return middle if low == high else f"{middle} ({low}-{high})"


def middle(values: Sequence[float], form: Callable[[float], str] = number) -> str:
    """Return the median of a figure alone."""
    return form(median(values)) if values else "-"


def grouped(runs: Iterable[Run], *names: str) -> dict[tuple[Figure, ...], list[Run]]:
    """Return the runs by the values that they have for these names, in their order."""
    groups: dict[tuple[Figure, ...], list[Run]] = {}
    for run in runs:
        groups.setdefault(tuple(run.get(name) for name in names), []).append(run)
    return groups


def road(results: Mapping[str, Envelope]) -> Section:
    """Return what the whole road gave, whatever it was set to."""
    section = Section("End to end")
    runs = [run for name in ROADS if name in results for run in results[name].runs]
    groups = {_setting(run[0]): run for run in grouped(runs, "workers", "latency_ms", "vault", "distinct").values()}
    if not groups:
        return section
    section.paragraphs += [
        (
            "The null SQS server, `coatcheck run` and PostgreSQL share the cores. CPU is user and system time of the "
            "command and all its workers; `less start` is without what a run on an empty queue takes. Messages per "
            "second go from the first receive to the last delete, at the queue."
        ),
        table(
            ("setting", "CPU us/msg", "less start", "msg/s", "SQS requests/1,000", "PostgreSQL us/msg", "MB a worker"),
            [_road_row(name, of) for name, of in groups.items()],
        ),
    ]
    for figure_name, file, title, label in (
        ("rate", "throughput.svg", "Throughput by setting", "messages per second"),
        ("cpu_us", "cpu.svg", "CPU per message by setting", "us of CPU per message, start-up included"),
    ):
        rows = {name: [_spread(figures(of, figure_name))] for name, of in groups.items()}
        section.plots[file] = bars(title, _told(title, rows), Axis(label), [label], rows)
    return section


def _setting(run: Run) -> str:
    """Return what a run of the road was made with, in words."""
    words = [workers_told(run["workers"])]
    words += [f"{latency:g} ms a request"] if (latency := figure(run, "latency_ms")) else []
    words += ["vault off"] if run["vault"] == "off" else []
    words += [f"{figure(run, 'distinct') or 0:.0%} new values"]
    return ", ".join(words)


def _road_row(name: str, runs: Sequence[Run]) -> tuple[str, ...]:
    less = [
        (cpu - start) / messages * 1e6
        for run in runs
        if (cpu := figure(run, "cpu_seconds")) is not None
        and (start := figure(run, "start_cpu_seconds")) is not None
        and (messages := figure(run, "messages"))
    ]
    return (
        name,
        cell(figures(runs, "cpu_us")),
        middle(less),
        cell(figures(runs, "rate")),
        middle(figures(runs, "requests_per_1000")),
        middle(figures(runs, "postgres_us")),
        middle(figures(runs, "rss_mb")),
    )


def latency(results: Mapping[str, Envelope]) -> Section:
    """Return how long messages took from the queue to their row."""
    section = Section("Queue to row")
    if "latency" not in results:
        return section
    groups = grouped(results["latency"].runs, "kind", "offered")
    names = ("p50_ms", "p90_ms", "p99_ms", "max_ms")
    named = {_offered(run[0]): run for run in groups.values()}
    rows = [(name, *(cell(figures(of, one)) for one in names)) for name, of in named.items()]
    section.paragraphs += [
        "From the moment a message was sent to that at which its row can be read; in ms.",
        table(("offered", "p50", "p90", "p99", "slowest"), rows),
    ]
    curves = {name: _quantiles(of) for name, of in named.items()}
    curves = {name: points for name, points in curves.items() if len(points) > 1}
    if curves:
        title = "Queue to row: quantiles of the latency"
        ends = "; ".join(f"{name}: {short(of[0][1])} to {short(of[-1][1])} ms" for name, of in curves.items())
        axes = Axis("quantile, % of the messages"), Axis("ms from the queue to the row, log scale", log=True)
        section.plots["latency.svg"] = lines(title, ends, *axes, curves)
    return section


def _offered(run: Run) -> str:
    offered = figure(run, "offered")
    return "one message alone" if run.get("kind") == "lone" or not offered else f"{offered:,.0f} msg/s"


def _quantiles(runs: Sequence[Run]) -> list[tuple[float, float]]:
    """Return the medians of all quantiles that the runs have."""
    found: dict[float, list[float]] = {}
    for name in runs[0]:
        if (match := QUANTILE.fullmatch(name)) and (values := figures(runs, name)):
            found[float(match[1])] = values
    return [(quantile, median(found[quantile])) for quantile in sorted(found)]


def idle(results: Mapping[str, Envelope]) -> Section:
    """Return what an idle worker asks for, and how it comes to speed and to rest."""
    section = Section("Idle, and from rest to full speed")
    if "idle" in results:
        names = ("requests_per_hour", "ramp_s", "to_one_poll_s")
        groups = grouped(results["idle"].runs, "kind")
        rows = [(str(kind), *(cell(figures(of, name)) for name in names)) for (kind,), of in groups.items()]
        section.paragraphs.append(table(("", "SQS requests/hour", "to full speed, s", "back to one poll, s"), rows))
    return section


def growth(results: Mapping[str, Envelope]) -> Section:
    """Return what a message costs in full databases."""
    section = Section("Cost growth")
    if "growth" not in results:
        return section
    runs = results["growth"].runs
    named = {size_told(of[0]): of for of in grouped(runs, "ledger_rows", "vault_rows").values()}
    factors = {name: growth_of(runs, name) for name in GROWN}
    rows = [
        (
            size,
            *(f"{middle(figures(of, name))}{_factor(factors[name].get(size))}" for name in GROWN),
            middle(figures(of, "wal_bytes")),
        )
        for size, of in named.items()
    ]
    section.paragraphs += [
        (
            "The same messages into databases of several sizes, in turn. Each factor is to the empty database in the "
            "same round; CPU of the loader is without its start-up."
        ),
        table(("database", "loader us/msg", "PostgreSQL us/msg", "msg/s", "WAL bytes/msg"), rows),
    ]
    full = [size for size in named if size != "empty"]
    bar_rows = {size: [_spread(factors[name].get(size, [])) for name in GROWN] for size in full}
    if bar_rows:
        title = "Cost growth: by the empty database"
        axis = Axis("factor to the empty database (1 = no growth; a rate may fall to 1 / 1.3)", limit=1.3)
        section.plots["growth.svg"] = bars(title, _told(title, bar_rows), axis, list(GROWN.values()), bar_rows)
    return section


def _factor(values: Sequence[float] | None) -> str:
    return f" (x {median(values):.2f})" if values else ""


def memory(results: Mapping[str, Envelope]) -> Section:
    """Return the memory of a worker over many messages and over large ones."""
    section = Section("Memory")
    if "memory" not in results:
        return section
    runs = results["memory"].runs
    rows = [
        (
            str(kind),
            f"{max(figures(of, 'messages'), default=0):,.0f}",
            middle(_highest(of)),
            cell(figures(of, "rss_mb")),
        )
        for (kind,), of in grouped(runs, "kind").items()
    ]
    section.paragraphs += [
        "Memory of the worker, in MB; `large` are messages of 1 MiB, 64 in flight.",
        table(("", "messages", "highest", "all samples"), rows),
    ]
    curves = {f"run {name:g}": _memory_curve(of) for name, of in by_round(chosen(runs, kind="flat")).items()}
    curves = {name: points for name, points in curves.items() if len(points) > 1}
    if curves:
        title = "Memory of a worker over its messages"
        ends = "; ".join(f"{name}: {short(of[0][1])} to {short(of[-1][1])} MB" for name, of in curves.items())
        axes = Axis("messages"), Axis("MB of memory", limit=150)
        section.plots["memory.svg"] = lines(title, ends, *axes, curves)
    return section


def _highest(runs: Sequence[Run]) -> list[float]:
    return [max(values) for of in by_round(runs).values() if (values := figures(of, "rss_mb"))]


def _memory_curve(runs: Sequence[Run]) -> list[tuple[float, float]]:
    found = ((figure(run, "messages"), figure(run, "rss_mb")) for run in runs)
    return sorted((count, rss) for count, rss in found if count is not None and rss is not None)


def scaling(results: Mapping[str, Envelope]) -> Section:
    """Return what a second worker brings on a sink that answers at once."""
    section = Section("Scaling on a null sink")
    if "scaling" not in results:
        return section
    runs = results["scaling"].runs
    rows = []
    for (setting, workers), of in grouped(runs, "setting", "workers").items():
        factors = ratios(of, chosen(runs, setting=setting, workers=1), "rate")
        names = ("rate", "running_us", "busy_cores", "worker_cores")
        rows.append((f"{setting}, {workers_told(workers)}", *(cell(figures(of, one)) for one in names), cell(factors)))
    section.paragraphs += [
        (
            "Without PostgreSQL. `latency`: each SQS request takes 20 ms and few are under way, so that CPU stays "
            "free. `saturated`: no latency, workers and null SQS server fill the cores."
        ),
        table(("setting", "msg/s", "CPU us/msg less start", "busy cores", "cores a worker", "x one worker"), rows),
    ]
    return section


def peers(results: Mapping[str, Envelope]) -> Section:
    """Return the other ways to do the job, with the ratios to coatcheck."""
    section = Section("Peers")
    if "peers" not in results:
        return section
    runs = results["peers"].runs
    done = [run for run in runs if not run.get("skipped")]
    section.paragraphs.append(
        "Contestants take turns in each round; a ratio is taken within a round, and what stands here is the median "
        "over the rounds. `_2`: two workers or two processes. Rates are by the better of one and two workers of "
        "coatcheck. Peers parse, hash, insert and delete only; coatcheck also validates, makes keyed tokens, keeps a "
        "vault and a ledger."
    )
    for latency_ms in sorted(set(figures(done, "latency_ms"))):
        of = chosen(done, latency_ms=latency_ms)
        section.paragraphs.append(_peers_table(of, latency_ms))
        named = {str(name): mine for (name,), mine in grouped(of, "peer").items()}
        for name, file, label in (
            ("rate", "rate", "messages per second"),
            ("running_us", "cpu", "us of CPU per message"),
        ):
            title = f"Peers, {latency_ms:g} ms a request: {label}"
            rows = {peer: [_spread(figures(mine, name))] for peer, mine in named.items()}
            axis = Axis(f"{label}, log scale", log=True)
            section.plots[f"peers-{file}-{latency_ms:g}ms.svg"] = bars(title, _told(title, rows), axis, [label], rows)
    skipped = dict.fromkeys((str(run["peer"]), str(run["skipped"])) for run in runs if run.get("skipped"))
    section.paragraphs += [f"{peer} was skipped: {why}." for peer, why in skipped]
    return section


def _peers_table(runs: Sequence[Run], latency_ms: float) -> str:
    ahead = ahead_of_peers(runs)
    rows = []
    for (peer,), of in grouped(runs, "peer").items():
        name = str(peer)
        cpu = [] if name == OURS[0] else cpu_by_peer(runs, name)
        cells = (cell(figures(of, "running_us")), middle(cpu), cell(figures(of, "rate")), middle(ahead.get(name, [])))
        rows.append((name, *cells, middle(figures(of, "postgres_us")), middle(figures(of, "rss_total_mb"))))
    head = ("CPU us/msg less start", "x coatcheck", "msg/s", "coatcheck is x", "PostgreSQL us/msg", "MB, all processes")
    return table((f"{latency_ms:g} ms a request", *head), rows)


def _spread(values: Sequence[float]) -> Spread | None:
    return spread(values) if values else None


def _told(title: str, rows: Mapping[str, Sequence[Spread | None]]) -> str:
    """Return a plot in words, for who cannot see it."""
    told = ("/".join(short(one.median) if one else "-" for one in row) for row in rows.values())
    return f"{title}. " + "; ".join(f"{name}: {values}" for name, values in zip(rows, told, strict=True))


def _title(svg: str) -> str:
    return svg.partition('<title id="title">')[2].partition("</title>")[0]


SECTIONS = (road, latency, idle, growth, memory, scaling, peers)
