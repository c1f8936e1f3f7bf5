"""The quarantine's table: list, fetch sealed bodies, load what a second try makes good, discard."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, Self
from uuid import UUID

import psycopg
from psycopg.rows import class_row

from coatcheck.pipeline.columns import Column
from coatcheck.pipeline.message import Batch, DataKey, Message, Reject, Sealed
from coatcheck.sinks.postgres import arrays
from coatcheck.sinks.postgres.faults import FaultError, fault_of
from coatcheck.sinks.postgres.sink import compose, vault_lists
from coatcheck.sinks.postgres.trial import ENOUGH
from coatcheck.sql import query
from coatcheck.sql.connection import connect, translated
from coatcheck.sql.session import login_path
from coatcheck.sql.sqlstate import stop_error

_PAGE = 500
_ACTION = "load from the quarantine"

Added = Literal["loaded", "duplicate"]
"""What a retried message did: it added its row, or nothing, since its row was there or it is held no longer."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A quarantine entry as anybody may see it: no body."""

    quarantine_id: int
    pipeline: str
    message_id: str
    reason: str
    detail: str
    sent_at: datetime
    received_at: datetime
    quarantined_at: datetime
    attempts: int
    state: str


@dataclass(frozen=True, slots=True)
class Held:
    """A held entry with its sealed body. `message` is what arrived, but for the body, which is empty until opened."""

    quarantine_id: int
    key: bytes
    reason: str
    message: Message
    sealed: Sealed
    data_key: DataKey


@dataclass(frozen=True, slots=True)
class Selection:
    """Which entries: by id, by reason, or all held ones when both are None."""

    ids: tuple[int, ...] | None = None
    reason: str | None = None

    def parameters(self) -> dict[str, Any]:
        """Return the named parameters of the quarantine queries."""
        return {"ids": list(self.ids) if self.ids is not None else None, "reason": self.reason}


class Quarantine:
    """The quarantine of one pipeline. Use as a context manager; methods raise UnreachableError and ConfigError.

    `kid` is the token key that what is loaded is masked under. `accept_suppressed` takes rows for loaded that a trigger
    or rule of the table keeps out.
    """

    def __init__(
        self,
        dsn: str,
        table: str,
        columns: Sequence[Column],
        *,
        kid: str = "",
        pipeline: str = "default",
        accept_suppressed: bool = False,
    ) -> None:
        self._kid, self._pipeline, self._accept = kid, pipeline, accept_suppressed
        self._passes = False
        self._suspects: list[tuple[Held, FaultError]] = []
        self._connection = connect(dsn)
        self._request = 0
        stored = [column for column in columns if column.stored]
        self._encoders = [arrays.encoding(column)[1] for column in stored]
        self._load = compose("quarantine_load", table, stored)
        self._connection.adapters.register_dumper(arrays.BinaryArray, arrays.BinaryArrayDumper)

    def __enter__(self) -> Self:
        """Return the open quarantine."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the connection."""
        self._connection.close()

    def entries(self, selection: Selection, *, resolved: bool = False, limit: int = 100) -> list[Entry]:
        """Return held entries (with `resolved` all of them), oldest first."""
        parameters = selection.parameters() | {"all": resolved, "limit": limit, "pipeline": self._pipeline}
        with translated("read the quarantine"), self._connection.cursor(row_factory=class_row(Entry)) as cursor:
            return cursor.execute(query("quarantine_list"), parameters).fetchall()

    def opened(self, selection: Selection) -> Iterator[Held]:
        """Put on the audit trail that held entries are opened for another try; yield them with their sealed bodies."""
        self._request, after = self._one("retry_open", selection.parameters() | {"pipeline": self._pipeline}), 0
        self._one("reveal_settle", {"request": self._request})
        while True:
            parameters = {"request": self._request, "after": after, "limit": _PAGE}
            with translated("read the quarantine"):
                page = self._connection.execute(query("retry_fetch"), parameters).fetchall()
            if not page:
                return
            yield from map(_held, page)
            after = page[-1][0]

    def _one(self, name: str, parameters: dict[str, Any]) -> Any:
        with translated("ask the quarantine"):
            found = self._connection.execute(query(name), parameters).fetchone()
        return found[0] if found else None

    def load(self, held: Held, batch: Batch) -> Reject | Added:
        """Insert the one row of `batch` with what the vault keeps of it, and mark the entry loaded, once.

        Returns "duplicate" if that added nothing: the ledger knows the row's key by now, or the entry is held no
        longer. Returns the reject of a refused row, which stays held; if the system may be at fault, `settle` tells
        later. Raises UnreachableError, ConfigError: no row is at fault, or too many are refused and none has passed.
        """
        fault = self._try(self._parameters(held, batch))
        if not isinstance(fault, FaultError):
            if self._passes:
                self.settle()
            return "loaded" if fault else "duplicate"
        if not (fault.proven or fault.likely or self._passes):
            self._suspects.append((held, fault))
            if len(self._suspects) >= ENOUGH:
                self.settle()
        return fault.reject

    def _parameters(self, held: Held, batch: Batch) -> dict[str, Any]:
        row = batch.rows[0]
        fields = zip(self._encoders, row.values, strict=True)
        return {
            "request": self._request,
            "quarantine_id": held.quarantine_id,
            "kid": self._kid,
            "key": UUID(bytes=row.key),
            "slot": row.slot,
            "known": row.key == held.key,
            "accept": self._accept,
            **vault_lists(batch),
            **{f"c{i}": encode((value,)) for i, (encode, value) in enumerate(fields)},
        }

    def _try(self, parameters: dict[str, Any]) -> FaultError | bool:
        """Return whether the entry was let go to the table (which may have kept the row out), or the fault."""
        try:
            with login_path(self._connection):
                ((released, loaded, suppressed),) = self._connection.execute(self._load, parameters)
            self._passes = self._passes or loaded + suppressed > 0
        except psycopg.Error as error:
            fault = fault_of(error, _ACTION)
            if fault is None:
                raise stop_error(error, _ACTION) from None
            return fault
        return bool(released)

    def settle(self) -> None:
        """Note the further try of entries that were refused, if another was loaded; call it when all were tried.

        Raises UnreachableError, ConfigError: none was loaded, so the fault is the system's. The entries stay as they
        were.
        """
        suspects, self._suspects = self._suspects, []
        if not self._passes:
            for _, fault in suspects:
                if fault.stop is not None:
                    raise fault.stop
        for held, fault in suspects:
            self._note(held, fault.reject)

    def rejected_again(self, held: Held, reject: Reject) -> None:
        """Note a further try that failed, unless `settle` is to note it."""
        if not any(held is suspect for suspect, _ in self._suspects):
            self._note(held, reject)

    def _note(self, held: Held, reject: Reject) -> None:
        parameters: dict[str, Any] = {"request": self._request, "quarantine_id": held.quarantine_id}
        parameters |= {"reason": str(reject.reason), "detail": reject.detail}
        with translated("write to the quarantine"):
            self._connection.execute(query("quarantine_again"), parameters)

    def discard(self, selection: Selection) -> int:
        """Erase the bodies of held entries and mark them discarded; return how many."""
        parameters = selection.parameters() | {"pipeline": self._pipeline}
        return int(self._one("quarantine_discard", parameters))

    def status(self) -> tuple[Any, ...]:
        """Return (rows loaded and duplicates in the last minute, newest commit, its lag in s, held by reason)."""
        with translated("read the status"):
            found = self._connection.execute(query("status"), {"pipeline": self._pipeline}).fetchone()
        return found or (0, 0, None, None, {})


def _held(row: tuple[Any, ...]) -> Held:
    number, key, message_id, origin, reason, sent_ms, received_ms, nonce, ciphertext, dek_id, kek, wrapped = row
    return Held(
        number,
        key.bytes,
        reason,
        Message(message_id, "", sent_ms, "", 1, received_ms, origin),
        Sealed(dek_id.bytes, nonce, ciphertext),
        DataKey(dek_id.bytes, kek, wrapped),
    )
