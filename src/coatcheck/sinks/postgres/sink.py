"""The sink: one statement a batch, which is one transaction; the ledger in it makes the effect happen once.

Errors are sorted by SQLSTATE: what may pass is retried with the same batch, a row at fault is found by bisecting and
handed back, anything else stops with a hint. After a commit whose answer was lost, the retry meets its own ledger
entries and adds nothing.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import socket
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import psycopg
from psycopg import sql

from coatcheck.errors import ConfigError, UnreachableError
from coatcheck.pipeline.columns import Column, Kind
from coatcheck.pipeline.message import Batch, Outcome, Rejected, Row
from coatcheck.sinks.postgres import arrays
from coatcheck.sinks.postgres.sqlstate import READ_ONLY, Verdict, sqlstate_of, stop_error, verdict
from coatcheck.sql import query

_log = logging.getLogger(__name__)
_PRUNE_EVERY_S = 86_400.0
_BACKOFF_FIRST_S, _BACKOFF_MOST_S = 0.1, 10.0
_CAST = {Kind.NUMERIC: "::numeric", Kind.JSONB: "::jsonb"}

CONNECTION: dict[str, str | int] = {
    "application_name": "coatcheck",
    "connect_timeout": 10,
    "keepalives_idle": 30,
    "keepalives_interval": 10,
    "keepalives_count": 3,
    "tcp_user_timeout": 30_000,
}
"""What a connection gets unless the connection string says otherwise: a silent peer is noticed within a minute."""


def conninfo(dsn: str) -> str:
    """Return `dsn` completed by CONNECTION; what it says itself stays. Raises ConfigError: it is none."""
    given = None
    with suppress(psycopg.ProgrammingError):
        given = psycopg.conninfo.conninfo_to_dict(dsn)
    if given is None:  # raised here, outside: what was caught quotes the string
        raise ConfigError(
            "the connection string of the database is not understood", hint="see [target] dsn and DATABASE_URL"
        )
    missing = {name: value for name, value in CONNECTION.items() if name not in given}
    return psycopg.conninfo.make_conninfo(dsn, **missing)


def table_identifier(table: str) -> sql.Identifier:
    """Return `table` or `schema.table` as a quoted identifier."""
    return sql.Identifier(*table.split("."))


def compose(name: str, table: str, columns: Sequence[Column]) -> bytes:
    """Compose the query `name` for a target table; `columns` are the stored ones, in order.

    Inside the statement they are c0, c1, ...: a column may have any name, those of the statement too.
    """
    names = [sql.Identifier(f"c{index}") for index in range(len(columns))]
    fields = [
        sql.SQL("batch.{}" + _CAST.get(column.type.kind, "")).format(name)
        for column, name in zip(columns, names, strict=True)
    ]
    parameters = [
        sql.SQL("{}::" + arrays.encoding(column)[0] + "[]").format(sql.Placeholder(f"c{index}"))
        for index, column in enumerate(columns)
    ]
    comma = sql.SQL(", ")
    statement = sql.SQL(query(name)).format(
        target=table_identifier(table),
        columns=comma.join(sql.Identifier(column.name) for column in columns),
        names=comma.join(names),
        fields=comma.join(fields),
        arrays=comma.join(parameters),
    )
    return statement.as_bytes()


def _lists(batch: Batch, encoders: Sequence[Callable[[Sequence[Any]], arrays.BinaryArray]]) -> dict[str, Any]:
    """The parameters of `write_batch.sql`; ledger entries and data keys sorted, rows and rejects as they came."""
    rows, rejected = batch.rows, batch.rejected
    data_keys = sorted(batch.data_keys, key=lambda key: key.dek_id)
    taken: list[Row | Rejected] = [*rows, *rejected]
    entries = sorted((entry.key, entry.slot) for entry in taken)
    columns = zip(*[row.values for row in rows], strict=True) if rows else ((),) * len(encoders)
    held = [entry.message for entry in rejected]
    sealed = [entry.sealed for entry in rejected]
    return {
        "keys": arrays.uuids([key for key, _ in entries]),
        "slots": arrays.int2s([slot for _, slot in entries]),
        "row_keys": arrays.uuids([row.key for row in rows]),
        **{f"c{i}": encode(column) for i, (encode, column) in enumerate(zip(encoders, columns, strict=True))},
        "dek_ids": arrays.uuids([key.dek_id for key in data_keys]),
        "keks": arrays.texts([key.kek for key in data_keys]),
        "wrapped": arrays.byteas([key.wrapped for key in data_keys]),
        "reject_keys": arrays.uuids([entry.key for entry in rejected]),
        "message_ids": arrays.texts([message.message_id for message in held]),
        "origins": arrays.texts([message.origin for message in held]),
        "reasons": arrays.texts([entry.reject.reason for entry in rejected]),
        "details": arrays.texts([entry.reject.detail for entry in rejected]),
        "sent_ms": arrays.int8s([message.sent_ms for message in held]),
        "received_ms": arrays.int8s([message.received_ms for message in held]),
        "body_deks": arrays.uuids([value.dek_id for value in sealed]),
        "nonces": arrays.byteas([value.nonce for value in sealed]),
        "ciphertexts": arrays.byteas([value.ciphertext for value in sealed]),
        "messages": len(taken),
        "oldest_ms": min(entry.message.sent_ms for entry in taken),
    }


def _without_repeats(batch: Batch) -> Batch:
    """Keep the first message of each key: the queue may deliver one twice into the same batch."""
    seen: set[bytes] = set()
    known = seen.add
    rows = [row for row in batch.rows if not (row.key in seen or known(row.key))]
    rejected = [entry for entry in batch.rejected if not (entry.key in seen or known(entry.key))]
    if len(seen) == len(batch):
        return batch
    return Batch(rows, rejected, batch.data_keys)


class PostgresSink:
    """Writes batches over `connections` connections; one `write` uses one of them.

    `give_up_seconds` bounds how long an outage is waited out (0: for ever); then UnreachableError. Once a day it has
    the ledger forget what SQS has forgotten, if this user may call `coatcheck.prune()`.
    """

    def __init__(
        self,
        *,
        dsn: str,
        table: str,
        columns: Sequence[Column],
        connections: int = 2,
        prepare: bool = False,
        give_up_seconds: float = 0.0,
        worker: str = "",
    ) -> None:
        self._conninfo = conninfo(dsn)
        stored = [column for column in columns if column.stored]
        self._statement = compose("write_batch", table, stored)
        self._encoders = [arrays.encoding(column)[1] for column in stored]
        self._prepare = prepare
        self._give_up = give_up_seconds
        self._worker = worker or f"{socket.gethostname()}:{os.getpid()}"
        self._idle: asyncio.Queue[psycopg.AsyncConnection[Any] | None] = asyncio.Queue()
        for _ in range(connections):
            self._idle.put_nowait(None)
        self._prune_at = time.monotonic() + _PRUNE_EVERY_S

    async def open(self) -> None:
        """Connect once, so that a wrong address or password is known before the first message is received, and prune.

        Raises UnreachableError, ConfigError.
        """
        connection = await self._idle.get()
        try:
            connection = connection or await self._connect()
        except psycopg.Error as error:
            raise stop_error(error, "connect to the database") from None
        finally:
            self._idle.put_nowait(connection)
        await self._prune()

    async def _prune(self) -> None:
        """Have the ledger forget what it may, now and in a day again; that it may not now keeps nobody waiting."""
        self._prune_at = time.monotonic() + _PRUNE_EVERY_S
        try:
            allowed, *_ = await self._attempt(query("may_prune").encode(), {})
            if allowed:
                await self._attempt(query("prune").encode(), {})
        except psycopg.Error as error:
            _log.info("the ledger was not pruned", extra={"sqlstate": sqlstate_of(error)})

    async def close(self) -> None:
        """Close all connections; writes under way must have ended."""
        for _ in range(self._idle.qsize()):
            connection = self._idle.get_nowait()
            if connection is not None:
                await connection.close()

    async def write(self, batch: Batch) -> Outcome:
        """Write a batch; return what is new, what was known, and which rows the database refuses.

        Raises UnreachableError after `give_up_seconds` of outage, ConfigError/UnreachableError for what no retry mends.
        """
        if time.monotonic() > self._prune_at:
            await self._prune()
        outcome = Outcome()
        distinct = _without_repeats(batch)
        await self._write(distinct, outcome)
        outcome.duplicates = len(batch) - outcome.loaded - outcome.quarantined - len(outcome.refused)
        return outcome

    async def _write(self, batch: Batch, outcome: Outcome) -> None:
        if not len(batch):
            return
        try:
            loaded, quarantined = await self._commit(batch)
        except _RowAtFaultError as fault:
            if len(batch) == 1:
                if batch.rejected:  # quarantine itself fails: no single message's fault
                    raise UnreachableError(
                        f"cannot write to quarantine: PostgreSQL answers {fault.sqlstate}",
                        hint="coatcheck's own tables were changed; `coatcheck check` shows the schema version",
                    ) from None
                outcome.refused.append((batch.rows[0], fault.sqlstate))
                return
            for part in _halves(batch):
                await self._write(part, outcome)
            return
        outcome.loaded += loaded
        outcome.quarantined += quarantined

    async def _commit(self, batch: Batch) -> tuple[int, int]:
        """Run the statement until it commits. Raises _RowAtFaultError, or what no retry mends."""
        parameters = _lists(batch, self._encoders) | {"worker": self._worker}
        wait, code = _BACKOFF_FIRST_S, "none"
        try:
            async with asyncio.timeout(self._give_up or None):
                while True:
                    try:
                        loaded, quarantined = await self._attempt(self._statement, parameters)
                        return loaded, quarantined
                    except psycopg.Error as error:
                        code = _passing(error)
                    _log.warning(
                        "the database refuses a batch for now", extra={"sqlstate": code, "messages": len(batch)}
                    )
                    await asyncio.sleep(wait * random.uniform(0.5, 1.0))  # noqa: S311 - jitter, no secret
                    wait = min(wait * 2, _BACKOFF_MOST_S)
        except TimeoutError:
            raise UnreachableError(
                f"the database has not taken a batch for {self._give_up:g} s (last answer {code})",
                hint="nothing is lost: the messages come back; is PostgreSQL up?",
            ) from None

    async def _attempt(self, statement: bytes, parameters: dict[str, Any]) -> tuple[int, ...]:
        connection = await self._idle.get()
        try:
            if connection is None or connection.closed:
                connection = None
                connection = await self._connect()
            cursor = await connection.execute(statement, parameters, prepare=self._prepare)
            found = await cursor.fetchone()
        except BaseException as error:
            if connection is not None and (connection.broken or not _usable_after(error)):
                await connection.close()
                connection = None
            raise
        finally:
            self._idle.put_nowait(connection)
        if found is None:  # pragma: no cover - a SELECT without FROM over a table always answers
            raise psycopg.InternalError
        return tuple(found)

    async def _connect(self) -> psycopg.AsyncConnection[Any]:
        connection = await psycopg.AsyncConnection.connect(
            self._conninfo, autocommit=True, prepare_threshold=5 if self._prepare else None
        )
        connection.adapters.register_dumper(arrays.BinaryArray, arrays.BinaryArrayDumper)
        return connection


class _RowAtFaultError(Exception):
    def __init__(self, sqlstate: str) -> None:
        self.sqlstate = sqlstate


def _passing(error: psycopg.Error) -> str:
    """Return the SQLSTATE of an error that may pass. Raises _RowAtFaultError, or what no retry mends."""
    code = sqlstate_of(error)
    decision = verdict(code)
    if decision is Verdict.BISECT:
        raise _RowAtFaultError(code) from None
    if decision is Verdict.STOP:
        raise stop_error(error, "write to the database") from None
    return code


def _usable_after(error: BaseException) -> bool:
    """Tell whether a connection may be used again: not when cancelled (its state is unknown), nor if it only reads.

    A session may stay read-only for all its life, though the database can be written to again.
    """
    return isinstance(error, psycopg.Error) and error.sqlstate != READ_ONLY


def _halves(batch: Batch) -> list[Batch]:
    """Split a batch that was refused: rejects and rows apart, then each in two halves, in order."""
    if batch.rejected and batch.rows:
        return [Batch([], batch.rejected, batch.data_keys), Batch(batch.rows)]
    middle = (len(batch) + 1) // 2
    if batch.rejected:
        return [Batch([], part, batch.data_keys) for part in (batch.rejected[:middle], batch.rejected[middle:])]
    return [Batch(part) for part in (batch.rows[:middle], batch.rows[middle:])]
