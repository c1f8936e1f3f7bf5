"""The sink: one statement a batch, which is one transaction; the ledger in it makes the effect happen once.

What may pass is retried with the same batch, a row at fault is found and handed back (see `trial`), and anything else
stops with a hint. After a commit whose answer was lost, the retry meets its own ledger
entries and adds nothing.
"""

from __future__ import annotations

import asyncio
import logging
import math
import os
import random
import socket
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from operator import attrgetter
from typing import Any, TypeVar

import psycopg
from psycopg import sql

from coatcheck.errors import UnreachableError
from coatcheck.ops.logs import NOTICE
from coatcheck.ops.metrics import Metrics
from coatcheck.pipeline.columns import Column, Kind
from coatcheck.pipeline.message import Batch, Outcome, Rejected, Row
from coatcheck.sinks.postgres import arrays
from coatcheck.sinks.postgres.evidence import Evidence
from coatcheck.sinks.postgres.faults import fault_of, too_slow
from coatcheck.sinks.postgres.login import LoginPatience
from coatcheck.sinks.postgres.trial import Trial, Written, without_repeats
from coatcheck.sql import query
from coatcheck.sql.connection import connect_async, conninfo
from coatcheck.sql.sqlstate import READ_ONLY, TAKES_TOO_LONG, Verdict, sqlstate_of, stop_error, verdict

T = TypeVar("T")
_log = logging.getLogger(__name__)
_UPKEEP_EVERY_S, _UPKEEP_MOST_S = 86_400.0, 15.0
_SLOW_S = 30.0
_HALVE_AFTER, _HALVE_LATE = 3, 8  # tries; the first of those that took too long
_ACTION = "write to the database"
_BACKOFF_FIRST_S, _BACKOFF_MOST_S = 0.1, 5.0
_CAST = {Kind.NUMERIC: "::numeric", Kind.JSONB: "::pg_catalog.jsonb"}


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
        sql.SQL("pg_catalog.unnest({}::pg_catalog." + arrays.encoding(column)[0] + "[])").format(
            sql.Placeholder(f"c{index}")
        )
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
        "oldest_ms": _oldest_ms(taken),
    }


def _oldest_ms(taken: Sequence[Row | Rejected]) -> int:
    """Return the first send time of a batch; a message whose send time is unknown counts from its receive."""
    oldest_ms = min([entry.message.sent_ms for entry in taken])
    if oldest_ms >= 0:
        return oldest_ms
    messages = [entry.message for entry in taken]
    return min(message.received_ms if message.sent_ms < 0 else message.sent_ms for message in messages)


class PostgresSink:
    """Writes batches over `connections` connections; one `write` uses one of them.

    `give_up_seconds` bounds how long an outage is waited out (0: for ever); then UnreachableError. `kid` is the token
    key that the rows were masked under, `pipeline` the name under which batches and rejects are kept. With `upkeep` it
    does that once a day, if this user may: the ledger forgets what SQS has forgotten, and the vault gets partitions
    for the `epochs` to come. `accept_suppressed` takes rows for written that a trigger or rule of the table keeps out.
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
        pipeline: str = "default",
        epochs: Callable[[], Sequence[int]] = tuple,
        upkeep: bool = True,
        accept_suppressed: bool = False,
        metrics: Metrics | None = None,
        login_patience_s: float = 0.0,
    ) -> None:
        self._metrics = metrics or Metrics()
        conninfo(dsn)  # a wrong one is refused here
        self._dsn, self._login = dsn, LoginPatience(login_patience_s)
        stored = [column for column in columns if column.stored]
        self._statement = compose("write_batch", table, stored)
        self._insert = compose("try_row", table, stored)
        self._evidence = Evidence(self._try_row, company=connections > 1)
        self._encoders = [arrays.encoding(column)[1] for column in stored]
        self._prepare = prepare
        self._give_up = give_up_seconds
        self._epochs = epochs
        worker = worker or f"{socket.gethostname()}:{os.getpid()}"
        self._always = {"pipeline": pipeline, "worker": worker, "kid": kid, "accept": accept_suppressed}
        self._idle: asyncio.Queue[psycopg.AsyncConnection[Any] | None] = asyncio.Queue()
        for _ in range(connections):
            self._idle.put_nowait(None)
        self._connections: set[psycopg.AsyncConnection[Any]] = set()
        self._away_since: float | None = None
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
        distinct = without_repeats(batch)
        repeats = len(batch) - len(distinct)
        trial = Trial(commit=self._commit, verify=self._verify, convicts=self._evidence.convicts, repeats=repeats)
        return await trial.run(distinct)

    async def _commit(self, batch: Batch, repeats: int) -> Written:
        """Run the statement until it commits. Raises FaultError, or what no retry mends."""
        parameters = self._parameters(batch, repeats)
        try:
            answer = await self._until_answered(lambda: self._patient_attempt(parameters), batch)
        except psycopg.Error as error:
            raise fault_of(error, _ACTION) or stop_error(error, _ACTION) from None
        self._metrics.set("coatcheck_up", 1, "database")
        age_s = time.time() - parameters["oldest_ms"] / 1000
        self._metrics.set("coatcheck_oldest_message_age_seconds", max(0.0, age_s))
        written = Written(*answer)
        self._evidence.note(batch, written)
        return written

    def _parameters(self, batch: Batch, repeats: int) -> dict[str, Any]:
        parameters = _lists(batch, self._encoders)
        parameters["messages"] += repeats
        return parameters | self._always

    async def _verify(self, batch: Batch) -> None:
        """Raise what is wrong with the statement itself, whatever the rows: a missing privilege, say."""
        parameters = self._parameters(batch, 0)
        try:
            await self._until_answered(
                lambda: self._attempt(b"EXPLAIN " + self._statement, parameters), batch, whole=True
            )
        except psycopg.Error as error:
            raise stop_error(error, _ACTION) from None

    async def _try_row(self, values: Sequence[Any]) -> str | None:
        """Insert one row and roll it back; return the SQLSTATE of its refusal, if any."""
        fields = zip(self._encoders, values, strict=True)
        parameters = {f"c{i}": encode((value,)) for i, (encode, value) in enumerate(fields)}

        async def insert(connection: psycopg.AsyncConnection[Any]) -> None:
            async with connection.transaction(force_rollback=True):
                await connection.execute(self._insert, parameters)
                await connection.execute("SET CONSTRAINTS ALL IMMEDIATE")

        try:
            await self._until_answered(lambda: self._with_connection(insert), Batch(), whole=True)
        except psycopg.Error as error:
            return sqlstate_of(error)
        return None

    async def _until_answered(self, attempt: Callable[[], Awaitable[T]], batch: Batch, *, whole: bool = False) -> T:
        """Attempt until no error comes that may pass.

        Raises psycopg.Error, UnreachableError after `give_up_seconds`, and, unless the batch must stay `whole`,
        FaultError if its parts may succeed.
        """
        wait, code, tries = _BACKOFF_FIRST_S, "none", Counter[str]()
        try:
            async with asyncio.timeout(self._give_up or None):
                while True:
                    began = time.monotonic()
                    try:
                        answer = await attempt()
                        self._say_back(began)
                        return answer
                    except psycopg.Error as error:
                        code = sqlstate_of(error)
                        if verdict(code) is not Verdict.RETRY and self._login.waits_for(error) is None:
                            raise
                        answered = error.sqlstate is not None
                    tries[code] += answered
                    self._tell_retry(batch, code)
                    if not whole and len(batch) > 1 and tries[code] >= _halve_after(code):
                        raise too_slow(code)
                    await asyncio.sleep(wait * random.uniform(0.5, 1.0))  # noqa: S311 - jitter, no secret
                    wait = min(wait * 2, _BACKOFF_MOST_S)
        except TimeoutError:
            raise UnreachableError(
                f"the database has not taken a batch for {self._give_up:g} s (last answer {code})",
                hint="nothing is lost: the messages come back; is PostgreSQL up?",
            ) from None

    def _say_back(self, began: float) -> None:
        """Log once that an outage is over, when an attempt has succeeded that was not under way before it."""
        if self._away_since is not None and began >= self._away_since:
            seconds = round(time.monotonic() - self._away_since, 1)
            self._away_since = None
            _log.log(NOTICE, "the database takes batches again", extra={"seconds": seconds})

    def _tell_retry(self, batch: Batch, code: str) -> None:
        self._away_since = self._away_since or time.monotonic()
        self._metrics.set("coatcheck_up", 0, "database")
        self._metrics.add("coatcheck_database_errors_total", 1, code)
        batch.trace.event("again", sqlstate=code)
        _log.warning("the database refuses a batch for now", extra={"sqlstate": code, "messages": len(batch)})

    async def _patient_attempt(self, parameters: dict[str, Any]) -> tuple[int, ...]:
        """Attempt the write; say so now and then if the database does not answer."""
        began, waited = time.monotonic(), 0.0
        attempt = asyncio.ensure_future(self._attempt(self._statement, parameters))
        try:
            while not (await asyncio.wait({attempt}, timeout=_SLOW_S))[0]:
                waited += _SLOW_S
                self._away_since = self._away_since or began
                _log.warning("the database has not answered a batch yet", extra={"seconds": waited})
            return attempt.result()
        finally:
            if not attempt.done():
                attempt.cancel()
                await asyncio.gather(attempt, return_exceptions=True)

    async def _attempt(self, statement: bytes, parameters: dict[str, Any]) -> tuple[int, ...]:
        async def run(connection: psycopg.AsyncConnection[Any]) -> tuple[int, ...]:
            cursor = await connection.execute(statement, parameters, prepare=self._prepare)
            found = await cursor.fetchone()
            if found is None:  # pragma: no cover - a SELECT without FROM over a table always answers
                raise psycopg.InternalError
            return tuple(found)

        return await self._with_connection(run)

    async def _with_connection(self, work: Callable[[psycopg.AsyncConnection[Any]], Awaitable[T]]) -> T:
        """Do `work` with a connection that nobody else uses meanwhile; close it if it may not be used again."""
        connection = await self._idle.get()
        try:
            if connection is None or connection.closed:
                connection = None
                connection = await self._connect()
            return await work(connection)
        except BaseException as error:
            if connection is not None and (connection.broken or not _usable_after(error)):
                await connection.close()
                connection = None
            raise
        finally:
            self._idle.put_nowait(connection)

    async def _connect(self) -> psycopg.AsyncConnection[Any]:
        connection = await connect_async(self._dsn, prepare=self._prepare)
        self._login.accepted()
        connection.adapters.register_dumper(arrays.BinaryArray, arrays.BinaryArrayDumper)
        self._connections = {one for one in self._connections if not one.closed} | {connection}
        return connection


def _halve_after(code: str) -> float:
    """After how many answers with `code` the parts of a batch are tried apart: one row may be what meets it."""
    if code in TAKES_TOO_LONG:
        return _HALVE_AFTER
    return _HALVE_LATE if code[:2] in ("40", "53", "55", "58") else math.inf


def _usable_after(error: BaseException) -> bool:
    """Tell whether a connection may be used again: not when cancelled (its state is unknown), nor if it only reads.

    A session may stay read-only for all its life, though the database can be written to again.
    """
    return isinstance(error, psycopg.Error) and error.sqlstate != READ_ONLY
