"""The commands of the road. Each reads the configuration, calls one function of `app`, and prints what it returns."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import click

from coatcheck import terminal
from coatcheck.cli.audit import audit
from coatcheck.cli.check import check
from coatcheck.cli.config import config
from coatcheck.cli.context import configuration, pipeline_option
from coatcheck.cli.erase import erase
from coatcheck.cli.keys import keys
from coatcheck.cli.maintain import maintain
from coatcheck.cli.migrate import migrate
from coatcheck.cli.quarantine import quarantine
from coatcheck.cli.reveal import find, reveal
from coatcheck.cli.run import run
from coatcheck.cli.sections import Sections
from coatcheck.cli.status import status
from coatcheck.version import __version__

# imports of what a command needs stand in the command: `--help` answers in 0.1 s


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
cli.add_command(check)
cli.add_command(migrate)
cli.add_command(run)
cli.add_command(status)
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
    from coatcheck.config_file import write_default
    from coatcheck.config_load import load

    write_default(Path(path))
    terminal.out(f"wrote {path}")
    if with_keys:
        announce(load(path))
    terminal.note("next: `coatcheck check` tells what else is needed, `coatcheck migrate` makes the tables")


@cli.command()
@click.argument("file", type=click.File("r", encoding="utf-8", errors="surrogateescape"))
@click.option("--as-new", is_flag=True, help="Send as new messages: lines that were sent before are loaded again.")
@click.option("--create-queue", is_flag=True, help="Create the queue if there is none.")
@pipeline_option
@click.pass_context
def send(context: click.Context, file: Any, as_new: bool, create_queue: bool, pipeline: str | None) -> None:
    """Put the bodies in FILE, one a line, on the queue ("-" is standard input).

    Each line carries its own key, so that sending a file again, after a crash or by mistake, adds no rows.
    """
    from coatcheck import app
    from coatcheck.loop import run_async

    config = configuration(context, pipeline)

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
@click.option(
    "--from", "origin", metavar="QUEUE", help="Dead-letter queue: name, URL or ARN; default: the queue's own."
)
@click.option("--limit", type=click.IntRange(1), help="Most messages to move.")
@pipeline_option
@click.pass_context
def redrive(context: click.Context, origin: str | None, limit: int | None, pipeline: str | None) -> None:
    """Move dead letters back to the queue. They keep their identity: what was loaded before is not loaded twice.

    Where several queues share a dead-letter queue, each takes back its own.
    """
    from coatcheck import app
    from coatcheck.loop import run_async

    config = configuration(context, pipeline)

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
