"""`coatcheck quarantine`: what could not be loaded, why, and what to do about it."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from coatcheck import terminal
from coatcheck.cli.context import (
    configuration,
    configurations,
    each_pipeline_option,
    has_several,
    naming,
    pipeline_option,
    shared,
)
from coatcheck.cli.reveal import output, say_asked, show_originals, ticket, why
from coatcheck.errors import CoatcheckError, ConfigError, RefusedError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from coatcheck.config import Config
    from coatcheck.sinks.postgres.quarantine import Entry, Selection

_ids = click.argument("ids", nargs=-1, type=click.IntRange(1), metavar="[ID]...")
_reason = click.option("--reason", help="Only entries with this reason.")


@click.group()
def quarantine() -> None:
    """Look at, retry or discard what could not be loaded."""


def _selection(ids: tuple[int, ...], reason: str | None, *, everything: bool) -> Selection:
    from coatcheck.sinks.postgres.quarantine import Selection

    if not (ids or reason or everything):
        raise ConfigError("nothing is selected", hint="give ids, --reason, or --all")
    return Selection(ids or None, reason)


@quarantine.command("list")
@_reason
@click.option("--all", "resolved", is_flag=True, help="Loaded and discarded entries, too.")
@click.option("--limit", default=100, show_default=True, type=click.IntRange(1), help="Most entries to show.")
@each_pipeline_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line.")
@click.pass_context
def list_(  # noqa: PLR0917 - click passes them by name
    context: click.Context, reason: str | None, resolved: bool, limit: int, pipeline: str | None, as_json: bool
) -> None:
    """List entries: id, reason, the column or SQLSTATE it is about, times; never a body."""
    from dataclasses import asdict

    from coatcheck.sinks.postgres.quarantine import Selection

    configs = configurations(context, (pipeline,) if pipeline else ())
    rows = _entries(configs, Selection(None, reason), resolved=resolved, limit=limit)
    if as_json:
        for entry in rows:
            terminal.out_json(asdict(entry))
        return
    several = has_several(context)
    head = ("id", "reason", "detail", "sent", "received", "tries", "state", "message id")
    terminal.table(
        ("pipeline", *head) if several else head,
        (
            (*([e.pipeline] if several else []),
             e.quarantine_id, e.reason, e.detail, _moment(e.sent_at),
             _moment(e.received_at), e.attempts, e.state, e.message_id)
            for e in rows
        ),
    )  # fmt: skip


def _moment(when: datetime) -> str:
    """Return a time in words; one before 1970 stands for a send time that SQS did not tell."""
    return "unknown" if when.timestamp() < 0 else f"{when:%Y-%m-%d %H:%M:%S}"


def _entries(configs: Sequence[Config], selection: Selection, *, resolved: bool, limit: int) -> list[Entry]:
    """Return the oldest entries of some pipelines."""
    from coatcheck import app

    rows: list[Entry] = []
    for config in configs:
        with naming(config, several=len(configs) > 1):
            rows += app.quarantine_entries(config, selection, resolved=resolved, limit=limit)
    if len(configs) > 1:
        rows.sort(key=lambda entry: entry.quarantined_at)
    return rows[:limit]


@quarantine.command()
@click.argument("quarantine_id", type=click.IntRange(1), metavar="ID")
@why
@ticket
@output
@click.option("--break-glass", is_flag=True, help="Open at once, without an approval; it is reviewed afterwards.")
@pipeline_option
@click.pass_context
def show(  # noqa: PLR0917 - click passes them by name
    context: click.Context,
    quarantine_id: int,
    reason: str,
    ticket: str,
    output: str | None,
    break_glass: bool,
    pipeline: str | None,
) -> None:
    """Ask for one body, and show it if nobody has to approve. A body is personal data: this is `coatcheck reveal`."""
    from coatcheck import desk
    from coatcheck.cli.private import check_output

    config = shared(context, pipeline)
    check_output(output)
    item = f"{desk.QUARANTINE}{quarantine_id}"
    asked = desk.request(config, [item], reason=reason, ticket=ticket, break_glass=break_glass)
    if asked.approvals:
        say_asked(asked.request_id, asked.approvals, break_glass=break_glass)
        return
    terminal.note(f"request {asked.request_id}")
    show_originals(config, asked.request_id, output=output, as_json=False, bare=True)


@quarantine.command()
@_ids
@_reason
@click.option("--all", "everything", is_flag=True, help="Every held entry of the pipeline.")
@pipeline_option
@click.pass_context
def retry(
    context: click.Context, ids: tuple[int, ...], reason: str | None, everything: bool, pipeline: str | None
) -> None:
    """Send held messages down the road again, after [columns] or the database was mended. Needs the private key."""
    from coatcheck import app

    done = app.quarantine_retry(configuration(context, pipeline), _selection(ids, reason, everything=everything))
    again = ", ".join(f"{reason} {count:,}" for reason, count in sorted(done.rejected.items()))
    terminal.out(
        f"{done.loaded:,} loaded, "
        + (f"{done.duplicates:,} known before, " if done.duplicates else "")
        + f"{sum(done.rejected.values()):,} rejected again"
        + (f": {again}" if again else "")
    )
    if done.unopened:
        raise CoatcheckError(
            f"{done.unopened:,} bodies do not open, and are held on",
            hint="they were sealed under another key pair, or were damaged",
        )


@quarantine.command()
@_ids
@_reason
@click.option("--all", "everything", is_flag=True, help="Every held entry of the pipeline.")
@pipeline_option
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.pass_context
def discard(  # noqa: PLR0917 - click passes them by name
    context: click.Context,
    ids: tuple[int, ...],
    reason: str | None,
    everything: bool,
    pipeline: str | None,
    yes: bool,
) -> None:
    """Give held messages up for good: their bodies are erased, the entries stay as a record."""
    from coatcheck import app

    selection = _selection(ids, reason, everything=everything)
    config = configuration(context, pipeline)
    if not yes:
        if not sys.stdin.isatty():
            raise RefusedError("discarding erases bodies for good", hint="say --yes")
        click.confirm("erase these bodies for good?", abort=True, err=True)
    terminal.out(f"discarded {app.quarantine_discard(config, selection):,} messages")
