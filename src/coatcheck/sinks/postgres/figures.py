"""What a worker tells about its database beside the road, every ten minutes."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any

import psycopg

from coatcheck.errors import CoatcheckError, ConfigError
from coatcheck.pipeline.message import Reason
from coatcheck.sinks.postgres import partitions
from coatcheck.sinks.postgres.partitions import Partitioning
from coatcheck.sinks.postgres.target_catalog import where
from coatcheck.sql import query
from coatcheck.sql.certificate import ends_at
from coatcheck.sql.connection import connect
from coatcheck.sql.sqlstate import sqlstate_of

_log = logging.getLogger(__name__)
Gauge = tuple[str, str, float]
"""A metric's name, the value of its label ("" if it has none), and its value."""
_NAMES = {"held": "coatcheck_quarantine_messages", "reveals": "coatcheck_reveals"}


def samples(
    dsn: str, table: str, by: Partitioning | None, epochs: Sequence[int], pipeline: str = "default"
) -> list[Gauge]:
    """Return the gauges about partitions, quarantine, desk and certificate; without what cannot be found out now."""
    found: list[Gauge] = []
    try:
        with connect(dsn) as connection:
            parts = (
                _certificate(connection),
                _partitions(connection, pipeline, table, by, epochs),
                _figures(connection, pipeline),
            )
            for part in parts:
                # one that fails does not hide the others; and a pooler's session keeps no setting of ours
                with suppress(psycopg.errors.QueryCanceled, ConfigError), connection.transaction():
                    connection.execute("SET LOCAL statement_timeout = '10s'")
                    found += part
    except psycopg.Error as error:
        _log.info("the database was not looked at", extra={"sqlstate": sqlstate_of(error)})
    except CoatcheckError as error:
        _log.info("the database was not looked at", extra={"error": type(error).__name__})
    return found


def _partitions(
    connection: psycopg.Connection[Any], pipeline: str, table: str, by: Partitioning | None, epochs: Sequence[int]
) -> Iterator[Gauge]:
    there = {epoch for (epoch,) in connection.execute(query("vault_epochs"))}
    yield "coatcheck_partitions_missing", "vault", len(set(epochs) - there)
    if by is not None:
        yield (
            "coatcheck_partitions_missing",
            "target",
            len(partitions.overdue(connection, where(connection, pipeline, table), by)),
        )


def _figures(connection: psycopg.Connection[Any], pipeline: str) -> Iterator[Gauge]:
    allowed = connection.execute(query("may_figures")).fetchone()
    if not (allowed and allowed[0]):
        return
    found = {
        (figure, label): value for figure, label, value in connection.execute(query("figures"), {"pipeline": pipeline})
    }
    for reason in Reason:  # one that nothing is held for any more is to go down to nothing
        found.setdefault(("held", reason.value), 0)
    for (figure, label), value in found.items():
        if figure in _NAMES:  # a newer schema may count more
            yield _NAMES[figure], label, value


def _certificate(connection: psycopg.Connection[Any]) -> Iterator[Gauge]:
    if not connection.pgconn.ssl_in_use:
        return
    info = connection.info
    with suppress(OSError, ValueError):  # OSError is SSLError's base, too; whether the server is there the road tells
        ends = ends_at(info.host, info.hostaddr or info.host, info.port)
        if ends is not None:
            yield "coatcheck_certificate_expiry_timestamp_seconds", "database", ends
