"""`coatcheck run`: one pipeline in this process, or several, or with several workers each, under a supervisor."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

import click

from coatcheck import terminal
from coatcheck.cli.context import configurations, has_several, names_argument, naming

if TYPE_CHECKING:
    from coatcheck.config import Config
    from coatcheck.ops.metrics import ByPipeline, Metrics
    from coatcheck.pipeline.message import Counts
    from coatcheck.supervisor import Supervised

_METRICS_S = 2.0


@click.command()
@names_argument
@click.option("--drain", is_flag=True, help="Stop when the queue stays empty.")
@click.option(
    "--workers", default=1, show_default=True, type=click.IntRange(1, 256), help="Supervised processes a pipeline."
)
@click.option("--json", "as_json", is_flag=True, help="Print the counts as one JSON object at the end.")
@click.option("--place", type=int, hidden=True, help="This process is a supervisor's worker of that number.")
@click.pass_context
def run(  # noqa: PLR0917 - click passes them by name
    context: click.Context, names: tuple[str, ...], drain: bool, workers: int, as_json: bool, place: int | None
) -> None:
    """Consume messages until stopped (SIGTERM or Ctrl-C: finish, release the rest, exit 0).

    Of a file with several pipelines, run those that are named, or all. One that its configuration or its breaker stops
    (exit codes 2 and 4) does not stop the others.
    """
    configs = configurations(context, names, unattended=True)
    several = has_several(context)
    if place is not None:
        with naming(configs[0], several=several):
            _work_for_a_supervisor(configs[0], drain=drain, place=place)
        return
    done = _run(context, configs, workers=workers, drain=drain)
    if done.ended is not None and not several:
        raise done.ended
    _say(done, several=several, as_json=as_json)
    if done.ended is not None:
        raise done.ended


def _run(context: click.Context, configs: Sequence[Config], *, workers: int, drain: bool) -> Supervised:
    from coatcheck.supervisor import Supervised
    from coatcheck.worker import say_started

    for config in configs:
        say_started(config, workers=workers)
    with terminal.progress("loading") as show:

        def tick(counts: Counts, _: object = None) -> None:
            show(counts.acked, f"{counts.loaded:,} loaded, {counts.rejected:,} rejected")

        if workers > 1 or len(configs) > 1:
            return _supervise(context, configs, workers=workers, drain=drain, tick=tick)
        (config,) = configs
        with naming(config, several=has_several(context)):
            return Supervised({config.pipeline: _work(config, drain=drain, tick=tick)})


def _say(done: Supervised, *, several: bool, as_json: bool) -> None:
    if as_json:
        each = {name: counts.as_dict() for name, counts in done.counts.items()}
        terminal.out_json(done.total.as_dict() | ({"pipelines": each} if several else {}))
        return
    for name, counts in done.counts.items():
        terminal.out(f"{name}: {terminal.summary(counts)}" if several else terminal.summary(counts))


def _work(config: Config, **options: Any) -> Counts:
    from coatcheck.worker import run_worker

    return run_worker(config, **options)


def _work_for_a_supervisor(config: Config, *, drain: bool, place: int) -> None:
    report = _reporter(with_metrics=config.watched)
    report(_work(config, drain=drain, tick=report, tick_s=0.5, place=place), None)


def _reporter(*, with_metrics: bool) -> Callable[[Counts, Metrics | None], None]:
    """Return the function that tells the supervisor what this worker did, one line each time.

    Metrics come with it now and then, for a pipe holds no more than minutes of lines that nobody reads; and with the
    last line, which comes without any.
    """
    from time import monotonic

    seen: Metrics | None = None
    told_at = float("-inf")

    def report(counts: Counts, metrics: Metrics | None) -> None:
        nonlocal seen, told_at
        line: dict[str, Any] = counts.as_dict()
        due = metrics is None or monotonic() - told_at >= _METRICS_S
        seen = metrics or seen
        if with_metrics and due and seen is not None:
            line["metrics"], told_at = seen.snapshot(), monotonic()
        terminal.out_json(line)
        sys.stdout.flush()

    return report


def _supervise(context: click.Context, configs: Sequence[Config], *, workers: int, **options: Any) -> Supervised:
    from coatcheck import telemetry
    from coatcheck.supervisor import supervise

    head = ["--config", context.obj] if context.obj else []
    head += ["--verbose"] if context.find_root().params["verbose"] else []
    tail = ["--drain"] if options["drain"] else []

    def export(read: Callable[[], ByPipeline]) -> AbstractContextManager[object]:
        return telemetry.exporting(configs[0], read=read, traced=False)  # all pipelines share what it needs

    commands = {config.pipeline: [*head, "run", config.pipeline, *tail] for config in configs}
    return supervise(commands, workers=workers, listen=configs[0].metrics.listen, export=export, **options)
