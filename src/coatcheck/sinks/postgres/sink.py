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
from operator import attrgetter
from typing import Any

import psycopg
from psycopg import sql

from coatcheck.errors import UnreachableError
from coatcheck.ops.metrics import Metrics
from coatcheck.pipeline.columns import Column, Kind
from coatcheck.pipeline.message import Batch, Outcome, Rejected, Row
from coatcheck.sinks.postgres import arrays
from coatcheck.sinks.postgres.login import LoginPatience
from coatcheck.sql import query
from coatcheck.sql.connection import connect_async, conninfo
from coatcheck.sql.sqlstate import CANCELLED, READ_ONLY, Verdict, sqlstate_of, stop_error, verdict

_log = logging.getLogger(__name__)
_UPKEEP_EVERY_S, _UPKEEP_MOST_S = 86_400.0, 15.0
_SLOW_S = 30.0
_HALVE_AFTER = 3  # tries that ran into statement_timeout
_BACKOFF_FIRST_S, _BACKOFF_MOST_S = 0.1, 5.0
_CAST = {Kind.NUMERIC: "::numeric", Kind.JSONB: "::jsonb"}


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


def vault_lists(batch: Batch) -> dict[str, Any]:
    """The parameters of `write_batch.sql` and `quarantine_load.sql` about data keys, vault and aliases, sorted."""
    data_keys = sorted(batch.data_keys, key=lambda key: key.dek_id)
    vault = sorted(batch.vault, key=attrgetter("token"))
    aliases = sorted(batch.aliases)
    sealed = [entry.sealed for entry in vault]
    return {
        "dek_ids": arrays.uuids([key.dek_id for key in data_keys]),
        "keks": arrays.texts([key.kek for key in data_keys]),
        "wrapped": arrays.byteas([key.wrapped for key in data_keys]),
        "tokens": arrays.texts([entry.token for entry in vault]),
        "epochs": arrays.int4s([entry.epoch for entry in vault]),
        "vault_deks": arrays.uuids([value.dek_id for value in sealed]),
        "vault_nonces": arrays.byteas([value.nonce for value in sealed]),
        "vault_ciphertexts": arrays.byteas([value.ciphertext for value in sealed]),
        "old_tokens": arrays.texts([alias.old for alias in aliases]),
        "new_tokens": arrays.texts([alias.new for alias in aliases]),
    }


def _lists(batch: Batch, encoders: Sequence[Callable[[Sequence[Any]], arrays.BinaryArray]]) -> dict[str, Any]:
    """The parameters of `write_batch.sql`; ledger and vault entries sorted, rows and rejects as they came."""
    rows, rejected = batch.rows, batch.rejected
    taken: list[Row | Rejected] = [*rows, *rejected]
    entries = sorted([(entry.slot, entry.key) for entry in taken])
    columns = zip(*[row.values for row in rows], strict=True) if rows else ((),) * len(encoders)
    held = [entry.message for entry in rejected]
    sealed = [entry.sealed for entry in rejected]
    return {
        "keys": arrays.uuids([key for _, key in entries]),
        "slots": arrays.int4s([slot for slot, _ in entries]),
        "row_keys": arrays.uuids([row.key for row in rows]),
        **{f"c{i}": encode(column) for i, (encode, column) in enumerate(zip(encoders, columns, strict=True))},
        **vault_lists(batch),
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
        "oldest_ms": min([entry.message.sent_ms for entry in taken]),
    }


def _without_repeats(batch: Batch) -> Batch:
    """Keep the first message of each key: the queue may deliver one twice into the same batch."""
    keys = {row.key for row in batch.rows} | {entry.key for entry in batch.rejected}
    if len(keys) == len(batch):
        return batch
    seen: set[bytes] = set()
    known = seen.add
    rows = [row for row in batch.rows if not (row.key in seen or known(row.key))]
    rejected = [entry for entry in batch.rejected if not (entry.key in seen or known(entry.key))]
    return _part(batch, rows, rejected)


def _part(batch: Batch, rows: list[Row], rejected: list[Rejected]) -> Batch:
    """Some of the rows and rejects of `batch` with all that goes along: what is not needed is known or harmless."""
    return Batch(rows, rejected, batch.data_keys, batch.vault, batch.aliases, batch.trace)


class PostgresSink:
    """Writes batches over `connections` connections; one `write` uses one of them.

    `give_up_seconds` bounds how long an outage is waited out (0: for ever); then UnreachableError. `kid` is the token
    key that the rows were masked under. With `upkeep` it does that once a day, if this user may: the ledger forgets
    what SQS has forgotten, and the vault gets partitions for the `epochs` to come.
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
        kid: str = "",
        epochs: Callable[[], Sequence[int]] = tuple,
        upkeep: bool = True,
        metrics: Metrics | None = None,
        login_patience_s: float = 0.0,
    ) -> None:
        self._metrics = metrics or Metrics()
        conninfo(dsn)  # a wrong one is refused here
        self._dsn, self._login = dsn, LoginPatience(login_patience_s)
        stored = [column for column in columns if column.stored]
        self._statement = compose("write_batch", table, stored)
        self._encoders = [arrays.encoding(column)[1] for column in stored]
        self._prepare = prepare
        self._give_up = give_up_seconds
        self._worker = worker or f"{socket.gethostname()}:{os.getpid()}"
        self._kid, self._epochs = kid, epochs
        self._idle: asyncio.Queue[psycopg.AsyncConnection[Any] | None] = asyncio.Queue()
        for _ in range(connections):
            self._idle.put_nowait(None)
        self._connections: set[psycopg.AsyncConnection[Any]] = set()
        self._keeps, self._upkeep_at = upkeep, time.monotonic() + _UPKEEP_EVERY_S

    async def open(self) -> None:
        """Connect once, so that a wrong address or password is known before the first message, and do the upkeep.

        Raises UnreachableError, ConfigError.
        """
        connection = await self._idle.get()
        try:
            connection = connection or await self._connect()
        except psycopg.Error as error:
            raise stop_error(error, "connect to the database") from None
        finally:
            self._idle.put_nowait(connection)
        self._metrics.set("coatcheck_up", 1, "database")
        if self._keeps:
            await self._upkeep()

    def abort(self) -> None:
        """End all connections at once, whatever is under way: what was not committed has not happened."""
        for connection in self._connections:
            connection.pgconn.finish()

    async def _upkeep(self) -> None:
        """Have done what is due, and in a day again; that it may not now keeps nobody waiting."""
        self._upkeep_at = time.monotonic() + _UPKEEP_EVERY_S
        for name, parameters in (("prune", {}), ("make_epochs", {"epochs": list(self._epochs())})):
            try:
                async with asyncio.timeout(_UPKEEP_MOST_S):
                    allowed, *_ = await self._attempt(query(f"may_{name}").encode(), {})
                    if allowed:
                        await self._attempt(query(name).encode(), parameters)
            except psycopg.Error as error:
                _log.info("upkeep was not done", extra={"function": name, "sqlstate": sqlstate_of(error)})
            except TimeoutError:
                _log.info("upkeep was not done in time", extra={"function": name})

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
        if self._keeps and time.monotonic() > self._upkeep_at:
            await self._upkeep()
        outcome = Outcome()
        distinct = _without_repeats(batch)
        await self._write(distinct, outcome)
        outcome.duplicates = len(batch) - outcome.loaded - outcome.quarantined - len(outcome.refused)
        return outcome

    async def _write(self, batch: Batch, outcome: Outcome) -> None:
        if not len(batch):
            return
        try:
            loaded, quarantined, erasures = await self._commit(batch)
        except _RowAtFaultError as fault:
            if len(batch) == 1:
                if batch.rejected:  # quarantine itself fails: no single message's fault
                    raise UnreachableError(
                        f"cannot write to quarantine: PostgreSQL answers {fault.sqlstate}",
                        hint="coatcheck's own tables were changed; `coatcheck check` shows the schema version",
                    ) from None
                outcome.refused.append((batch.rows[0], fault.sqlstate))
                batch.trace.event("refused", sqlstate=fault.sqlstate)
                return
            batch.trace.event("bisected", sqlstate=fault.sqlstate, messages=len(batch))
            for part in _halves(batch):
                await self._write(part, outcome)
            outcome.erasures = 0  # its parts may have seen different numbers
            return
        outcome.loaded += loaded
        outcome.quarantined += quarantined
        outcome.erasures = erasures

    async def _commit(self, batch: Batch) -> tuple[int, ...]:
        """Run the statement until it commits. Raises _RowAtFaultError, or what no retry mends."""
        parameters = _lists(batch, self._encoders) | {"worker": self._worker, "kid": self._kid}
        wait, code, cancelled = _BACKOFF_FIRST_S, "none", 0
        try:
            async with asyncio.timeout(self._give_up or None):
                while True:
                    try:
                        answer = await self._patient_attempt(parameters)
                    except psycopg.Error as error:
                        code = self._login.waits_for(error) or _passing(error)
                    else:
                        self._metrics.set("coatcheck_up", 1, "database")
                        age_s = time.time() - parameters["oldest_ms"] / 1000
                        self._metrics.set("coatcheck_oldest_message_age_seconds", max(0.0, age_s))
                        return answer
                    self._metrics.set("coatcheck_up", 0, "database")
                    self._metrics.add("coatcheck_database_errors_total", 1, code)
                    batch.trace.event("again", sqlstate=code)
                    cancelled += code == CANCELLED
                    if cancelled >= _HALVE_AFTER and len(batch) > 1:  # it takes longer than statement_timeout
                        raise _RowAtFaultError(code)
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

    async def _patient_attempt(self, parameters: dict[str, Any]) -> tuple[int, ...]:
        """Attempt the write; say so now and then if the database does not answer."""
        attempt = asyncio.ensure_future(self._attempt(self._statement, parameters))
        waited = 0.0
        try:
            while not (await asyncio.wait({attempt}, timeout=_SLOW_S))[0]:
                waited += _SLOW_S
                _log.warning("the database has not answered a batch yet", extra={"seconds": waited})
            return attempt.result()
        finally:
            if not attempt.done():
                attempt.cancel()
                await asyncio.gather(attempt, return_exceptions=True)

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
        connection = await connect_async(self._dsn, prepare=self._prepare)
        self._login.accepted()
        connection.adapters.register_dumper(arrays.BinaryArray, arrays.BinaryArrayDumper)
        self._connections = {one for one in self._connections if not one.closed} | {connection}
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
    rows, rejected = batch.rows, batch.rejected
    if rejected and rows:
        return [_part(batch, [], rejected), _part(batch, rows, [])]
    middle = (len(batch) + 1) // 2
    return [
        _part(batch, rows[:middle], rejected[:middle]),
        _part(batch, rows[middle:], rejected[middle:]),
    ]
