"""`coatcheck maintain`: what has to be done every day, by a login that may."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from coatcheck import terminal
from coatcheck.cli.context import of_one_database

if TYPE_CHECKING:
    from coatcheck.maintenance import Maintained


@click.command()
@click.option("--reason", default="LEGAL", show_default=True, help="A reason of the policy, for the epochs erased.")
@click.option("--ticket", help="The case under which epochs are erased that [vault] keep_epochs lets go.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.pass_context
def maintain(context: click.Context, reason: str, ticket: str | None, as_json: bool) -> None:
    """Make partitions ahead; let go what has been kept long enough. For every day, safe while workers run.

    The ledger forgets what SQS has forgotten; the vault and the target tables with [target] partition_by, of all
    pipelines of the file that share the database, get partitions for what is to come. Partitions beyond
    keep_partitions are dropped, and with a --ticket epochs beyond keep_epochs are erased, both on the audit trail. What
    is due and could not be done is told, and ends it with exit code 1.
    """
    from coatcheck.erasure import Why
    from coatcheck.maintenance import maintain as do

    config, *beside = of_one_database(context)
    done = do(config, Why(reason, ticket) if ticket else None, beside)
    if as_json:
        terminal.out_json(asdict(done))
    else:
        _say(done)
    for left in done.left:
        terminal.warn(left.what)
        terminal.hint(left.hint)
    if done.left:
        context.exit(1)


def _say(done: Maintained) -> None:
    if done.ledger_days:
        terminal.out(f"pruned {done.ledger_days} days of the ledger")
    if done.epochs_made:
        terminal.out(f"made {done.epochs_made} partitions of the vault")
    for epoch in done.epochs_erased:
        terminal.out(f"erased the originals of the epoch {epoch}")
    for name in done.partitions_made:
        terminal.out(f"made partition {name}")
    for name in done.partitions_dropped:
        terminal.out(f"dropped partition {name}")
    if done.rows_deleted:
        terminal.out(f"deleted {done.rows_deleted:,} rows that were in no partition of their own")
    if not done.left:
        terminal.out("nothing is left to do")
