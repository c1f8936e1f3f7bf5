"""`coatcheck erase`: originals go for good, on the audit trail, and what remains is said."""

from __future__ import annotations

import sys
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from coatcheck import terminal
from coatcheck.cli.context import configuration, pipeline_option, shared
from coatcheck.errors import ConfigError, RefusedError

if TYPE_CHECKING:
    from collections.abc import Callable

    from coatcheck.config import Config
    from coatcheck.erasure import Erasure, Why
    from coatcheck.vault.erase import Epoch, Erased

    Job = Callable[[Config, Why, Callable[[Erased], None]], Erasure]

STDIN = "-"


@click.command()
@click.argument("tokens", nargs=-1, metavar="[TOKEN]...")
@click.option(
    "--value",
    is_flag=False,
    flag_value=STDIN,
    metavar="[VALUE|-]",
    help="What a value has become, with --domain; needs the token root. With - (or nothing) it is read from standard "
    "input, and stays out of the shell's history and the list of processes.",
)
@click.option("--domain", help="Domain of --value, as in [columns]: ip, device, ...")
@click.option(
    "--where",
    metavar="COLUMN=[VALUE|-]",
    help="Everything of a subject: of the rows of the pipeline's table that have this in a column that is not masked; "
    "- as above.",
)
@pipeline_option
@click.option("--epoch", type=click.IntRange(1970, 999912), help="All originals of an epoch that is over, as 20253.")
@click.option("--reason", default="DSAR", show_default=True, help="A reason of the policy.")
@click.option("--ticket", required=True, help="The case that this is for, such as INC-1234.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.pass_context
def erase(  # noqa: PLR0917 - click passes them by name
    context: click.Context,
    tokens: tuple[str, ...],
    value: str | None,
    domain: str | None,
    where: str | None,
    pipeline: str | None,
    epoch: int | None,
    reason: str,
    ticket: str,
    yes: bool,
    as_json: bool,
) -> None:
    """Erase originals and their tokens for good: by TOKEN, --value, --where or --epoch; say what remains.

    Tombstones take the place of tokens in the rows, and no two are the same. The beginning and the end are on the audit
    trail, without any value. What was cut short is done again by the same command.
    """
    from coatcheck.erasure import Why

    if sum((bool(tokens), value is not None, where is not None, epoch is not None)) != 1:
        raise ConfigError("one thing is to be erased", hint="give tokens, or --value, or --where, or --epoch")
    if (value is None) != (domain is None):
        raise ConfigError("--value and --domain go together", hint="such as --value - --domain ip")
    _refuse_unasked(yes=yes)
    config = configuration(context, pipeline) if where is not None else shared(context, pipeline)
    job, question = _job(tokens, value, domain, where, epoch)
    if not yes:
        click.confirm(question(config), abort=True, err=True)
    with terminal.progress("erasing") as show:

        def tick(done: Erased) -> None:
            show(sum(done.rows.values()), f"{sum(done.rows.values()):,} tombstones")

        found = job(config, Why(reason, ticket), tick)
    if as_json:
        terminal.out_json(asdict(found))
        return
    _say(found)


def _refuse_unasked(*, yes: bool) -> None:
    if not yes and not sys.stdin.isatty():
        raise RefusedError("erasing is for good", hint="say --yes")


def _job(
    tokens: tuple[str, ...], value: str | None, domain: str | None, where: str | None, epoch: int | None
) -> tuple[Job, Callable[[Config], str]]:
    """Return what is to be done, and the question whether it shall be."""
    from coatcheck import erasure

    if tokens:
        ask = f"erase {len(tokens):,} tokens for good, wherever they are?"
        return lambda config, why, tick: erasure.erase_tokens(config, tokens, why, tick), lambda _: ask
    if value is not None and domain is not None:
        known = _read(value)
        ask = "erase this value for good, for all who have it?"
        return lambda config, why, tick: erasure.erase_value(config, domain, known, why, tick), lambda _: ask
    if where is not None:
        name, equals, text = where.partition("=")
        if not equals:
            raise ConfigError("--where takes COLUMN=VALUE", hint="such as user_id=-, which reads the value")
        whose = _read(text)
        return (
            lambda config, why, tick: erasure.erase_subject(config, name, whose, why, tick),
            lambda config: f"erase for good what is masked in {erasure.rows_of(config, name, whose):,} rows?",
        )
    ask = f"erase all originals of the epoch {epoch} for good?"
    return lambda config, why, _: erasure.erase_epoch(config, epoch or 0, why), lambda _: ask


def _read(value: str) -> str:
    """Return the value; if it is "-" one line of standard input, typed unseen on a terminal."""
    if value != STDIN:
        return value
    if sys.stdin.isatty():
        return str(click.prompt("value", hide_input=True, err=True))
    return sys.stdin.readline().rstrip("\r\n")


def _say(found: Erasure) -> None:
    from coatcheck.vault.erase import Erased

    if isinstance(found.erased, Erased):
        _say_erased(found.erased)
    else:
        _say_epoch(found.erased)
    terminal.out("what remains:")
    for remainder in found.remains:
        terminal.out(f"* {remainder.what}")
        terminal.out(f"  {remainder.todo}")


def _say_erased(done: Erased) -> None:
    rows = ", ".join(f"{name} {count:,}" for name, count in done.rows.items())
    terminal.out(f"erased {done.entries:,} originals from the vault")
    terminal.out(f"put {sum(done.rows.values()):,} tombstones into the rows" + (f": {rows}" if rows else ""))
    if done.named:
        terminal.out(f"erased {done.named:,} mentions in requests for originals")
    if not (done.entries or done.rows):
        terminal.warn("nothing of it was there: was it erased already, or is it spelled otherwise?")


def _say_epoch(ended: Epoch) -> None:
    terminal.out(f"erased {ended.entries:,} originals and {ended.data_keys:,} data keys")
