"""What has to be done now and then: partitions made ahead, and what has been kept long enough let go.

The run loop sees to ledger and vault by itself, once a day. The target table is its owner's, and what takes rows or
originals away is for a login that may: `coatcheck maintain`, every day.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date

from coatcheck import app, custody, erasure
from coatcheck.config import Config
from coatcheck.erasure import Why
from coatcheck.errors import CoatcheckError
from coatcheck.sinks.postgres import partitions, roles, schema, target_catalog
from coatcheck.sinks.postgres.partitions import Kept, Left
from coatcheck.sql import query, register
from coatcheck.sql.connection import connect, translated
from coatcheck.vault.epochs import Epochs, Period, ended_before


@dataclass(frozen=True, slots=True)
class Maintained:
    """What was done: days of the ledger forgotten, epochs made and erased, and the target's partitions.

    `rows_deleted` were in no partition of their own; `left` is what is due and could not be done now, or by this login.
    """

    ledger_days: int
    epochs_made: int
    epochs_erased: tuple[int, ...]
    partitions_made: tuple[str, ...]
    partitions_dropped: tuple[str, ...]
    rows_deleted: int
    left: tuple[Left, ...]


def maintain(config: Config, why: Why | None = None) -> Maintained:
    """Do what is due. `why` is the reason and ticket under which epochs are erased that `[vault] keep_epochs` lets go.

    Raises UnreachableError, ConfigError.
    """
    left: list[Left] = []
    with connect(custody.dsn(config)) as connection, translated("maintain the database"):
        days = schema.upkeep(connection, "prune", {}, left)
        epochs = {"epochs": list(Epochs(config.vault.epoch).ahead())}
        made = schema.upkeep(connection, "make_epochs", epochs, left)
    kept = _partitions(config)
    erased = tuple(_erase_epochs(config, why, left))
    return Maintained(days, made, erased, kept.made, kept.dropped, kept.deleted, (*left, *kept.left))


def _partitions(config: Config) -> Kept:
    by = app.partitioning(config)
    if by is None:
        return Kept()
    dsn, table = custody.dsn(config), config.target.table
    with translated("maintain the target's partitions"), schema.turn(dsn), connect(dsn) as connection:
        table = target_catalog.where(connection, config.pipeline, table)
        kept = partitions.keep(connection, table, by)
        if kept.made:  # who gives rows new tokens needs to be let into each partition
            roles.install(connection, table, config.plan())
    return kept


def _erase_epochs(config: Config, why: Why | None, left: list[Left]) -> Iterator[int]:
    """Erase the epochs that are kept no longer; yield those that are gone."""
    due = _due(config, left)
    if not due:
        return
    if why is None:
        named = ", ".join(map(str, due))
        hint = "say under which case, as policy wants it: --ticket RET-1"
        left.append(Left(f"epochs of the vault are due to be erased: {named}", hint))
        return
    for epoch in due:
        try:
            erasure.erase_epoch(config, epoch, why)
        except CoatcheckError as error:
            left.append(Left(f"the epoch {epoch} was not erased: {error.message}", error.hint))
        else:
            yield epoch


def _due(config: Config, left: list[Left]) -> list[int]:
    """Return the epochs that no pipeline of this database keeps: the vault is everybody's."""
    if not config.vault.keep_epochs:
        return []
    with connect(custody.dsn(config)) as connection, translated("look at the vault's epochs"):
        there = register.pipelines(connection).values()
        found = [epoch for (epoch,) in connection.execute(query("vault_epochs"))]
        allowed = connection.execute(query("may_vault_other_epochs")).fetchone()
        if allowed and allowed[0]:
            found += [epoch for (epoch,) in connection.execute(query("vault_other_epochs"))]
        else:
            hint = "run it as a member of coatcheck_owner"
            left.append(Left("this login cannot see whether coatcheck.vault_other has epochs that are due", hint))
    before = _first_day(config.vault.epoch, config.vault.keep_epochs)
    due = sorted(epoch for epoch in found if ended_before(epoch, before))
    kept = {
        pipeline.name: [epoch for epoch in due if not _lets_go(pipeline, epoch)]
        for pipeline in there
        if pipeline.name != config.pipeline
    }
    for name, epochs in kept.items():
        if epochs:
            what = f"the pipeline {name} keeps the epochs {', '.join(map(str, epochs))}, which are due by this file"
            left.append(Left(what, "agree on one [vault] keep_epochs, and run `coatcheck migrate` with each file"))
    return [epoch for epoch in due if not any(epoch in epochs for epochs in kept.values())]


def _first_day(period: Period, kept: int) -> date:
    return Epochs(period).first_day(kept)


def _lets_go(pipeline: register.Pipeline, epoch: int) -> bool:
    """Tell whether a pipeline keeps an epoch no longer, as its file said when it was registered."""
    period: Period = pipeline.epoch  # type: ignore[assignment]  # the table holds no other word
    return bool(pipeline.keep_epochs) and ended_before(epoch, _first_day(period, pipeline.keep_epochs))
