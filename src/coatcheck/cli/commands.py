"""The commands of the road. Each reads the configuration, calls one function of `app`, and prints what it returns."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import click

from coatcheck import terminal
from coatcheck.cli.audit import audit
from coatcheck.cli.config import config
from coatcheck.cli.context import configuration
from coatcheck.cli.erase import erase
from coatcheck.cli.keys import keys
from coatcheck.cli.maintain import maintain
from coatcheck.cli.quarantine import quarantine
from coatcheck.cli.reveal import find, reveal
from coatcheck.cli.sections import Sections
from coatcheck.version import __version__

if TYPE_CHECKING:
    from coatcheck.config import Config
    from coatcheck.ops.metrics import Metrics, Sample
    from coatcheck.pipeline.message import Counts

# imports of what a command needs stand in the command: `--help` answers in 0.1 s
_METRICS_S = 2.0
_UP_TO_DATE = "nothing to do: the schema is up to date"


class _Cli(Sections):
    sections: ClassVar[dict[str, tuple[str, ...]]] = {
        "Start here": ("demo", "init", "config", "check", "migrate"),
        "The road": ("run", "send", "status", "plan", "maintain"),
        "What went wrong": ("quarantine", "redrive"),
        "Originals": (
            "reveal",
            "find",
            "erase",
            "audit",
        ),
        "Keys": ("keys",),
    }


@click.group(cls=_Cli, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="coatcheck", message="%(prog)s %(version)s")
@click.option(
    "--config", "file", metavar="PATH", help="Configuration file (COATCHECK_CONFIG; default ./coatcheck.toml)."
)
@click.option("-v", "--verbose", is_flag=True, help="Say more on stderr.")
@click.pass_context
def cli(context: click.Context, file: str | None, verbose: bool) -> None:
    """Moves JSON messages from Amazon SQS into PostgreSQL and checks the personal data at the door.

    Every PII value becomes a token that analysts can join and count on; each message becomes exactly one row or one
    sealed quarantine entry. With no configuration at all, the built-in login pipeline runs.
    """
    from coatcheck.ops import logs

    logs.configure(verbose=verbose)
    context.obj = file


cli.add_command(config)
cli.add_command(quarantine)
cli.add_command(reveal)
cli.add_command(find)
cli.add_command(erase)
cli.add_command(keys)
cli.add_command(audit)
cli.add_command(maintain)


@cli.command()
@click.option("--keys", "with_keys", is_flag=True, help="Make a local keyring beside the file, too.")
@click.option("--path", default="coatcheck.toml", show_default=True, metavar="FILE", help="Where to write.")
def init(path: str, with_keys: bool) -> None:
    """Write coatcheck.toml, the login pipeline to start from. Never overwrites."""
    from coatcheck.cli.keys import announce
    from coatcheck.config import load
    from coatcheck.config_file import write_default

    write_default(Path(path))
    terminal.out(f"wrote {path}")
    if with_keys:
        announce(load(path))
    terminal.note("next: `coatcheck check` tells what else is needed, `coatcheck migrate` makes the tables")


@cli.command()
@click.option("--json", "as_json", is_flag=True, help="Print findings as JSON.")
@click.pass_context
def check(context: click.Context, as_json: bool) -> None:
    """Verify configuration, keys, queue, database, schema and privileges; report everything at once."""
    from dataclasses import asdict

    from coatcheck import app
    from coatcheck.loop import run_async

    findings = run_async(app.check(configuration(context)))
    errors = [finding for finding in findings if finding.level == "error"]
    if as_json:
        terminal.out_json([asdict(finding) for finding in findings])
    else:
        for component in ("config", "keys", "queue", "database"):
            mine = [finding for finding in findings if finding.component == component]
            if not any(finding.level == "error" for finding in mine):
                terminal.out(f"ok      {component}")
            for finding in mine:
                terminal.out(f"{finding.level:<7} {component}: {finding.what}")
                if finding.hint:
                    terminal.out(f"        hint: {finding.hint}")
    if errors:
        context.exit(1)


@cli.command()
@click.option("--constrain", is_flag=True, help="Also give an existing target table the checks of its masked columns.")
@click.pass_context
def migrate(context: click.Context, constrain: bool) -> None:
    """Create or upgrade coatcheck's tables, and the target table where there is none. Safe while workers run."""
    from coatcheck import app

    config = configuration(context)
    done = app.migrate(config, constrain=constrain)
    for name in done.applied:
        terminal.out(f"applied {name}")
    if done.created_table:
        terminal.out(f"created table {config.target.table}")
    for name in done.constrained:
        terminal.out(f"added check {name} to {config.target.table}")
    if done.pruned:
        terminal.out(f"pruned {done.pruned} days of the ledger")
    for name in done.roles.created:
        terminal.out(f"created role {name}")
    if not (done.applied or done.created_table or done.constrained or done.roles.created):
        changes = len(done.roles.granted)
        terminal.out(f"changes made to coatcheck's roles: {changes:,}" if changes else _UP_TO_DATE)
    for statement in done.roles.refused:
        terminal.warn(f"this user may not: {statement}")
    if done.roles.refused:
        terminal.note(
            "coatcheck: hint: have an administrator run `coatcheck migrate`, or these statements in this database; "
            "rows are loaded without them"
        )
    for statement in done.roles.busy:
        terminal.warn(f"a table in use holds up, until `coatcheck migrate` runs again: {statement}")


@cli.command()
@click.option("--drain", is_flag=True, help="Stop when the queue stays empty.")
@click.option("--workers", default=1, show_default=True, type=click.IntRange(1, 256), help="Supervised processes.")
@click.option("--json", "as_json", is_flag=True, help="Print the counts as one JSON object at the end.")
@click.option("--place", type=int, hidden=True, help="This process is a supervisor's worker of that number.")
@click.pass_context
def run(context: click.Context, drain: bool, workers: int, as_json: bool, place: int | None) -> None:
    """Consume messages until stopped (SIGTERM or Ctrl-C: finish, release the rest, exit 0)."""
    config = configuration(context)
    if place is not None:
        report = _reporter(with_metrics=config.watched)
        counts = _work(config, drain=drain, tick=report, tick_s=0.5, place=place)
        report(counts, None)
        return
    with terminal.progress("loading") as show:

        def tick(counts: Counts, _: object = None) -> None:
            show(counts.acked, f"{counts.loaded:,} loaded, {counts.rejected:,} rejected")

        if workers == 1:
            counts = _work(config, drain=drain, tick=tick)
        else:
            counts = _supervise(context, config, workers=workers, drain=drain, tick=tick)
    if as_json:
        terminal.out_json(counts.as_dict())
    else:
        terminal.out(terminal.summary(counts))


def _work(config: Config, **options: Any) -> Counts:
    from coatcheck.worker import run_worker

    return run_worker(config, **options)


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


def _supervise(context: click.Context, config: Config, *, workers: int, **options: Any) -> Counts:
    from coatcheck import telemetry
    from coatcheck.supervisor import supervise

    arguments = ["--config", context.obj] if context.obj else []
    arguments += ["--verbose"] if context.find_root().params["verbose"] else []
    arguments += ["run", *(["--drain"] if options["drain"] else [])]

    def export(read: Callable[[], list[Sample]]) -> AbstractContextManager[object]:
        return telemetry.exporting(config, read=read, traced=False)

    return supervise(arguments, workers=workers, listen=config.metrics.listen, export=export, **options)


@cli.command()
@click.argument("file", type=click.File("r", encoding="utf-8", errors="surrogateescape"))
@click.option("--as-new", is_flag=True, help="Send as new messages: lines that were sent before are loaded again.")
@click.option("--create-queue", is_flag=True, help="Create the queue if there is none.")
@click.pass_context
def send(context: click.Context, file: Any, as_new: bool, create_queue: bool) -> None:
    """Put the bodies in FILE, one a line, on the queue ("-" is standard input).

    Each line carries its own key, so that sending a file again, after a crash or by mistake, adds no rows.
    """
    from coatcheck import app
    from coatcheck.loop import run_async

    config = configuration(context)

    async def work() -> int:
        total = 0
        with terminal.progress("sending") as show:
            async for sent in app.send(config, file, as_new=as_new, create_queue=create_queue):
                total += sent
                show(total, f"{total:,} sent")
        return total

    terminal.out(f"sent {run_async(work()):,} messages")


@cli.command()
@click.option("--rate", required=True, metavar="N/s", help="Messages, as in 50000/s, 300/min or 2000000/h.")
@click.option("--size", default="1KiB", show_default=True, metavar="BYTES", help="Of a body, as in 300 or 1KiB.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def plan(rate: str, size: str, as_json: bool) -> None:
    """Compute what a rate of messages takes: workers, PostgreSQL, log, requests and their price.

    By what was measured (docs/benchmarks.md); your machines differ, and `make bench` tells by how much.
    """
    from dataclasses import asdict

    from coatcheck.ops import plan as plans

    try:
        lines = plans.plan(plans.read_rate(rate), plans.read_size(size))
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    if as_json:
        terminal.out_json([asdict(line) for line in lines])
    else:
        for line in lines:
            shown = f"{line.value:,.2f}" if line.value < 10 and line.unit else f"{line.value:,.0f}"  # noqa: PLR2004
            terminal.out(f"{line.what:<28} {shown:>10} {line.unit:<8} {line.why}")


@cli.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.pass_context
def status(context: click.Context, as_json: bool) -> None:
    """Show queue depth, in flight, lag, rates, quarantine and keys."""
    from dataclasses import asdict

    from coatcheck import app
    from coatcheck.loop import run_async

    found = run_async(app.status(configuration(context)))
    if as_json:
        terminal.out_json(asdict(found))
        return
    queue = found.queue
    lag = "-" if found.lag_s is None else f"{found.lag_s:,.1f} s from send to commit"
    held = ", ".join(f"{reason} {count:,}" for reason, count in sorted(found.quarantined.items()))
    lines = {
        "queue": f"{queue['visible']:,} waiting, {queue['in_flight']:,} in flight, {queue['delayed']:,} delayed",
        "last minute": f"{found.loaded_last_minute:,} loaded, {found.duplicates_last_minute:,} duplicates",
        "newest": found.newest_commit or "nothing loaded yet",
        "lag": lag,
        "quarantine": held or "empty",
        "keys": f"{found.keys['provider']}, tenant {found.keys['tenant']}, token key {found.keys['kid']}",
    }
    for name, text in lines.items():
        terminal.out(f"{name:<12} {text}")


@cli.command()
@click.option(
    "--from", "origin", metavar="QUEUE", help="Dead-letter queue: name, URL or ARN; default: the queue's own."
)
@click.option("--limit", type=click.IntRange(1), help="Most messages to move.")
@click.pass_context
def redrive(context: click.Context, origin: str | None, limit: int | None) -> None:
    """Move dead letters back to the queue. They keep their identity: what was loaded before is not loaded twice."""
    from coatcheck import app
    from coatcheck.loop import run_async

    config = configuration(context)

    async def work() -> int:
        total = 0
        with terminal.progress("moving") as show:
            async for moved in app.redrive(config, origin, limit):
                total += moved
                show(total, f"{total:,} moved")
        return total

    terminal.out(f"moved {run_async(work()):,} messages")


@cli.command()
@click.option("--keep", is_flag=True, help="Then go on until Ctrl-C: a worker, new logins, metrics, Prometheus.")
@click.option("--messages", default=300, show_default=True, type=click.IntRange(50, 100_000), help="Sample logins.")
def demo(keep: bool, messages: int) -> None:
    """Walk the whole road on embedded SQS and PostgreSQL: no Docker, no AWS, nothing to set up."""
    from coatcheck.demo.show import show

    show(messages=messages, keep=keep)
