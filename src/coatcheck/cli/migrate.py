"""`coatcheck migrate`: the tables of coatcheck, and the target table of every pipeline."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from coatcheck import terminal
from coatcheck.cli.context import configurations, names_argument, naming

if TYPE_CHECKING:
    from coatcheck.config import Config
    from coatcheck.sinks.postgres.schema import Migrated

_UP_TO_DATE = "nothing to do: the schema is up to date"


@click.command()
@names_argument
@click.option("--constrain", is_flag=True, help="Also give an existing target table the checks of its masked columns.")
@click.pass_context
def migrate(context: click.Context, names: tuple[str, ...], constrain: bool) -> None:
    """Create or upgrade coatcheck's tables, and the target table where there is none. Safe while workers run.

    Of a file with several pipelines, for those that are named, or all.
    """
    from coatcheck import app

    configs = configurations(context, names)
    several = len(configs) > 1
    refused: dict[str, None] = {}
    busy: dict[str, None] = {}
    try:
        for config in configs:
            with naming(config, several=several):
                done = app.migrate(config, constrain=constrain)
            if several:
                terminal.out(f"pipeline {config.pipeline}")
            _say(config, done)
            refused |= dict.fromkeys(done.roles.refused)
            busy |= dict.fromkeys(done.roles.busy)
    finally:
        _say_left(list(refused), list(busy))


def _say(config: Config, done: Migrated) -> None:
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


def _say_left(refused: list[str], busy: list[str]) -> None:
    """Say once, of all pipelines, which statements were not executed."""
    for statement in refused:
        terminal.warn(f"this user may not: {statement}")
    if refused:
        terminal.note(
            "coatcheck: hint: have an administrator run `coatcheck migrate`, or these statements in this database; "
            "rows are loaded without them"
        )
    for statement in busy:
        terminal.warn(f"a table in use holds up, until `coatcheck migrate` runs again: {statement}")
