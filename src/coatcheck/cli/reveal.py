"""`coatcheck reveal` and `coatcheck find`: originals come back on request, approval and record."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, ClassVar

import click

from coatcheck import terminal
from coatcheck.cli.context import shared
from coatcheck.cli.sections import Sections
from coatcheck.errors import ConfigError

if TYPE_CHECKING:
    from datetime import datetime

    from coatcheck.config import Config
    from coatcheck.vault.reveal import Original

number = click.argument("request_id", type=click.IntRange(1, 2**63 - 1), metavar="ID")
why = click.option("--reason", required=True, help="A reason of the policy: LEGAL, FRAUD, DSAR, INCIDENT, ...")
ticket = click.option("--ticket", required=True, help="The case that this is for, such as INC-1234.")
output = click.option("--output", type=click.Path(dir_okay=False), help="A new file that only you can read.")


class _Reveal(Sections):
    sections: ClassVar[dict[str, tuple[str, ...]]] = {
        "Who needs an original": ("request", "open"),
        "Who decides": ("approve", "deny"),
        "Both": ("list", "policy"),
    }


@click.group(cls=_Reveal)
def reveal() -> None:
    """Ask for originals, have somebody approve it, and open them; each step is on the audit trail."""


@reveal.command()
@click.argument("items", nargs=-1, required=True, metavar="TOKEN...")
@why
@ticket
@click.option("--break-glass", is_flag=True, help="Open at once, without an approval; it is reviewed afterwards.")
@click.pass_context
def request(context: click.Context, items: tuple[str, ...], reason: str, ticket: str, break_glass: bool) -> None:
    """Ask for the originals of tokens ("-": one a line from standard input), or of messages as quarantine:ID."""
    from coatcheck import desk

    wanted = sys.stdin.read().split() if items == ("-",) else list(items)
    asked = desk.request(shared(context), wanted, reason=reason, ticket=ticket, break_glass=break_glass)
    say_asked(asked.request_id, asked.approvals, break_glass=break_glass)


def say_asked(request_id: int, approvals: int, *, break_glass: bool) -> None:
    """Say what a new request waits for."""
    terminal.out(f"request {request_id}")
    if approvals:
        people = "an approver runs" if approvals == 1 else f"{approvals} approvers run"
        terminal.note(
            f"next: {people} `coatcheck reveal approve {request_id}`, then you `coatcheck reveal open {request_id}`"
        )
    else:
        terminal.note(f"next: `coatcheck reveal open {request_id}`" + ("; it will be reviewed" if break_glass else ""))


@reveal.command()
@number
@click.pass_context
def approve(context: click.Context, request_id: int) -> None:
    """Approve another person's request, or review a broken glass. You are who is logged in at the database."""
    from coatcheck import desk

    missing = desk.approve(shared(context), request_id)
    terminal.out(f"approved request {request_id}" + (f"; it waits for {missing} more approval(s)" if missing else ""))


@reveal.command()
@number
@click.pass_context
def deny(context: click.Context, request_id: int) -> None:
    """Deny a request (of a broken glass: object to it), or take your own back."""
    from coatcheck import desk

    desk.deny(shared(context), request_id)
    terminal.out(f"denied request {request_id}")


@reveal.command("open")
@number
@output
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
@click.pass_context
def open_(context: click.Context, request_id: int, output: str | None, as_json: bool) -> None:
    """Open an approved request of yours: originals to the terminal or a file of your own. Needs the private key.

    Each original is held against its token first; one that does not fit was planted or damaged, and is not shown.
    """
    show_originals(shared(context), request_id, output=output, as_json=as_json)


def show_originals(config: Config, request_id: int, *, output: str | None, as_json: bool, bare: bool = False) -> None:
    """Open a request, and show its originals where they may be shown; `bare`: without what they are originals of."""
    from coatcheck import desk
    from coatcheck.cli.private import private_output

    with private_output(output) as show:
        shown = desk.reveal(config, request_id, lambda found: show(_lines(found, as_json=as_json, bare=bare)))
    if output is not None:
        terminal.out(f"wrote {output}")
    for problem, text in _PROBLEMS.items():
        if count := sum(original.problem == problem for original in shown):
            terminal.warn(f"{count} not shown: {text}")


_PROBLEMS = {
    "planted": "not the original of its token: somebody with a loader's rights planted it; tell your security officer",
    "damaged": "does not open: it was damaged, or sealed under another key",
    "gone": "erased, or loaded, since it was asked for",
}


def _lines(found: Iterable[Original], *, as_json: bool, bare: bool) -> Iterable[str]:
    for original in found:
        if as_json:
            yield json.dumps({"item": original.item, "original": original.text, "problem": original.problem})
        elif not original.problem:
            yield original.text if bare else f"{original.item}\t{_in_a_line(original.text)}"


def _in_a_line(text: str) -> str:
    """A value with a line of its own could pass for another item and its original."""
    return text.replace("\n", "\\n").replace("\r", "\\r").replace("\t", "\\t")


@reveal.command("list")
@click.argument("request_id", type=click.IntRange(1), metavar="[ID]", required=False)
@click.option("--limit", default=100, show_default=True, type=click.IntRange(1), help="Most requests to show.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
@click.pass_context
def list_(context: click.Context, request_id: int | None, limit: int, as_json: bool) -> None:
    """List requests, the newest first: approvers and auditors see all, others their own. With ID: what it is for."""
    from dataclasses import asdict

    from coatcheck import desk

    config = shared(context)
    if request_id is not None:
        for item in desk.items(config, request_id):
            terminal.out(item)
        return
    found = desk.requests(config, limit)
    if as_json:
        for one in found:
            terminal.out_json(asdict(one))
        return
    head = ("id", "state", "of", "asked by", "reason", "ticket", "items", "approvals", "review", "expires (UTC)")
    terminal.table(
        head,
        (
            (r.request_id, r.state, r.kind, r.requested_by, r.reason, r.ticket, r.items,
             f"{len(r.approved_by)} of {r.approvals}", r.review or "", _utc(r.expires_at))
            for r in found
        ),
    )  # fmt: skip


def _utc(moment: datetime) -> str:
    from datetime import UTC

    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M:%S}"


@reveal.command()
@click.argument("change", metavar="[OPTION=VALUE]", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.pass_context
def policy(context: click.Context, change: str | None, as_json: bool) -> None:
    """Show what the desk allows; with OPTION=VALUE change it, as the owner of the schema and on the trail."""
    from coatcheck import desk

    config = shared(context)
    if change is not None:
        name, equals, value = change.partition("=")
        if not equals:
            raise ConfigError("a change is OPTION=VALUE", hint="such as one_person=true")
        desk.set_policy(config, name, value)
    found = desk.policy(config)
    if as_json:
        terminal.out_json(found)
        return
    for name, value in found.items():
        terminal.out(f"{name:<16} {_plain(value)}")


def _plain(value: object) -> str:
    """As the option takes it again, but for the reasons."""
    if isinstance(value, list):
        return ", ".join(value)
    return str(value).lower() if isinstance(value, bool) else str(value)


@click.command()
@click.argument("value")
@click.option("--domain", required=True, help="Domain of the token, as in [columns]: ip, device, ...")
@click.option("--reason", default="DSAR", show_default=True, help="A reason of the policy.")
@ticket
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.pass_context
def find(  # noqa: PLR0917 - click passes them by name
    context: click.Context, value: str, domain: str, reason: str, ticket: str, as_json: bool
) -> None:
    """Tell the token of a value that you know, on the audit trail and without the value. Needs the token root.

    Give "-" to have the value read from standard input: a command line stays in the shell's history.
    """
    from coatcheck import desk

    known = sys.stdin.readline().rstrip("\r\n") if value == "-" else value
    tokens = desk.find(shared(context), known, domain=domain, reason=reason, ticket=ticket)
    if as_json:
        terminal.out_json(tokens)
        return
    for token in tokens.values():
        terminal.out(token)
