"""`coatcheck audit`: read the audit trail, verify it, and sign checkpoints that prove what it was."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import IO, TYPE_CHECKING, TypeVar

import click

from coatcheck import terminal
from coatcheck.cli.context import shared
from coatcheck.cli.sections import Sections

if TYPE_CHECKING:
    from coatcheck.vault.chain import Entry, Verified

T = TypeVar("T")
_PAGE = 1000
_LIMIT = 100
_path = click.Path(path_type=Path)


class _Audit(Sections):
    sections = {  # noqa: RUF012 - as in Sections
        "Read": ("list", "verify"),
        "Checkpoints": ("init-key", "checkpoint"),
    }


@click.group(cls=_Audit)
def audit() -> None:
    """Read the audit trail, verify it, and sign checkpoints of it."""


class _IsoTime(click.ParamType[datetime]):
    name = "iso-date"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        try:
            return datetime.fromisoformat(value)  # without a time zone it is UTC, see trail
        except ValueError:
            self.fail(f"'{value}' is no date such as 2026-11-23 or 2026-11-23T10:00Z", param, ctx)


@audit.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line: the export.")
@click.option("--since", type=_IsoTime(), metavar="ISO-DATE", help="Only entries from then on (UTC).")
@click.option("--limit", type=click.IntRange(1), help=f"Most entries, the newest; default {_LIMIT}, with --json all.")
@click.option("--event", "events", multiple=True, help="Only entries of this event; can be given again.")
@click.pass_context
def list_(
    context: click.Context, as_json: bool, since: datetime | None, limit: int | None, events: tuple[str, ...]
) -> None:
    """List who did what with keys and originals, newest last.

    With --json and nothing else it is an export that `coatcheck audit verify` verifies anywhere.
    """
    from coatcheck import trail

    limit = limit if limit or as_json else _LIMIT
    found = trail.entries(shared(context), since=since, events=events, limit=limit)
    if as_json:
        for lines in _pages(trail.lines(found)):
            terminal.out("\n".join(lines))
        return
    _table(list(islice(found, _PAGE)))
    for page in _pages(found):
        terminal.out()
        _table(page)


def _pages(found: Iterator[T]) -> Iterator[list[T]]:
    while page := list(islice(found, _PAGE)):
        yield page


def _table(entries: list[Entry]) -> None:
    from coatcheck.vault.chain import utc

    head = ("seq", "time (UTC)", "actor", "event", "detail")
    terminal.table(head, ((e.seq, utc(e.at_us), e.actor, e.event, e.detail) for e in entries))


@audit.command()
@click.argument("file", required=False, type=click.File("rb"))
@click.option(
    "--checkpoint", "checkpoints", multiple=True, type=_path, metavar="PATH",
    help="A note, a file of notes, or a folder of them; can be given again.",
)  # fmt: skip
@click.option("--key", type=_path, metavar="PATH", help="The public key of checkpoints; default: the keyring's.")
@click.pass_context
def verify(context: click.Context, file: IO[bytes] | None, checkpoints: tuple[Path, ...], key: Path | None) -> None:
    """Verify that nothing in the audit trail was changed, removed or put in: exit code 1 if something was.

    FILE is an export ("-" is standard input), and then neither database nor configuration is needed; without it the
    database is read. The end of a trail, and one that was rewritten as a whole, only checkpoints can prove.
    """
    from coatcheck import trail

    _report(trail.verify(lambda: shared(context), file, checkpoints, key), with_checkpoints=bool(checkpoints))


def _report(found: Verified, *, with_checkpoints: bool) -> None:
    from coatcheck.vault.chain import utc

    terminal.out(f"ok           {found.count:,} entries, unbroken")
    if found.head:
        terminal.out(f"head         {found.head.seq} {found.head.hash.hex()}")
        terminal.out(f"last         {utc(found.head.at_us)} UTC")
    if with_checkpoints:
        to = f", up to entry {found.confirmed_to:,}" if found.confirmed else ""
        terminal.out(f"checkpoints  {found.confirmed:,} confirmed{to}")
    if found.before:
        terminal.note(f"note: {found.before:,} checkpoints are about entries before the first one here")
    if not found.begun:
        terminal.note(
            f"note: the beginning is not proven: entry {found.first:,} is the first one here, "
            f"and no checkpoint covers entry {found.first - 1:,}"
        )
    if found.backwards:
        terminal.note(
            f"note: {found.backwards:,} entries have an earlier time than the one before, "
            f"first entry {found.backwards_at:,}: written at once, or a clock was set back"
        )


@audit.command("init-key")
@click.option("--tenant", help="Whose trail it signs; default: the tenant of the keyring that is there.")
@click.pass_context
def init_key(context: click.Context, tenant: str | None) -> None:
    """Make the key that signs checkpoints, in [keys] path. Never overwrites.

    The private half is encrypted with COATCHECK_KEYS__PASSPHRASE, or else stored in clear, with a warning.
    """
    from coatcheck import trail

    created = trail.init_key(shared(context), tenant)
    for path in created.files:
        terminal.out(f"wrote {path}")
    for text in created.warnings:
        terminal.warn(text)
    terminal.note(
        "next: keep audit-private.pem where checkpoints are made, not on a host that loads nor on the database's, "
        "and give audit-public.txt to those who verify"
    )


@audit.command()
@click.option(
    "--to", "target", metavar="TARGET",
    help="A folder, a file, s3://bucket/prefix, or - (standard output); default: [audit] checkpoint_to.",
)  # fmt: skip
@click.option("--follow", is_flag=True, help="Go on until stopped, with a checkpoint whenever [audit] says so.")
@click.pass_context
def checkpoint(context: click.Context, target: str | None, follow: bool) -> None:
    """Sign what the audit trail is now, as a note that is kept elsewhere: later it proves what was.

    First the trail is verified from the last checkpoint on; one that was cut off or rewritten is refused (exit code 4).
    Needs the private audit key. A target that ends with a slash is a folder; notes are never overwritten.
    """
    from coatcheck import trail

    config = shared(context, unattended=follow)
    if follow:
        trail.follow(config, target, show=_show, wrote=_wrote, warn=terminal.warn)
        return
    place, seq = trail.checkpoint(config, target, _show)
    if place is None:
        terminal.note(f"nothing new since entry {seq:,}" if seq else "the audit trail is empty: nothing to sign")
    else:
        _wrote(place, seq)


def _show(note: str) -> None:
    terminal.out(note.removesuffix("\n"))


def _wrote(place: str, seq: int) -> None:
    if place != "-":
        terminal.out(f"wrote the checkpoint of entry {seq:,} to {place}")
