"""The values that travel the road, and the closed catalogue of reject reasons.

Nothing here shows a payload in its `repr`: a message in a traceback or a log line is its id, no more.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any, Protocol

import msgspec

UNKNOWN_MS = -1
"""The send time of a message for which SQS tells none."""

Value = object
"""A value of a row on its way to the database: str, int, float, Decimal, bool, date, datetime, bytes or None."""


class Reason(StrEnum):
    """Why a message is rejected. The same word stands in the quarantine, the logs, the metrics and the docs."""

    NOT_JSON = "not_json"
    NOT_AN_OBJECT = "not_an_object"
    TOO_DEEP = "too_deep"
    INVALID_TEXT = "invalid_text"
    NO_FIELD_FOUND = "no_field_found"
    NO_LEDGER_KEY = "no_ledger_key"
    MISSING_FIELD = "missing_field"
    WRONG_TYPE = "wrong_type"
    TOO_LONG = "too_long"
    OUT_OF_RANGE = "out_of_range"
    EMPTY_VALUE = "empty_value"
    NOT_AN_IP = "not_an_ip"
    NOT_A_VERSION = "not_a_version"
    NOT_A_TIMESTAMP = "not_a_timestamp"
    REFUSED_BY_DATABASE = "refused_by_database"
    SUPPRESSED_BY_TABLE = "suppressed_by_table"


REASONS: dict[Reason, str] = {
    Reason.NOT_JSON: "the body is no JSON text (RFC 8259)",
    Reason.NOT_AN_OBJECT: "the body is JSON, but no object",
    Reason.TOO_DEEP: "the body nests deeper than the decoder follows, or a jsonb field deeper than 500 levels",
    Reason.INVALID_TEXT: "a text holds a NUL, a lone surrogate, or over 64 combining marks in a row",
    Reason.NO_FIELD_FOUND: "the message has no field of any column: it is of another type, or `from` is misspelled",
    Reason.NO_LEDGER_KEY: "the field that `[ledger] key` names is absent, null, empty, or no text or whole number",
    Reason.MISSING_FIELD: "a required field is absent or null (a message of another type ends here), or the default is "
    "sent_at and SQS tells no send time",
    Reason.WRONG_TYPE: "a field has another JSON type than its column takes",
    Reason.TOO_LONG: "a text is longer than its column, or a jsonb field longer than 32 MiB",
    Reason.OUT_OF_RANGE: "a number does not fit its column, or in a jsonb field, has more than 1,000 digits",
    Reason.EMPTY_VALUE: "a required or masked value is empty: one token for all of them would join strangers",
    Reason.NOT_AN_IP: 'a field with parse = "ip" is no IPv4 or IPv6 address',
    Reason.NOT_A_VERSION: 'a field with parse = "version" is not major.minor[.patch] with parts up to 999',
    Reason.NOT_A_TIMESTAMP: "a date or timestamp field is none",
    Reason.REFUSED_BY_DATABASE: "PostgreSQL refused the row (the SQLSTATE and the constraint stand in the detail)",
    Reason.SUPPRESSED_BY_TABLE: "a trigger or rule of the table kept the row out without an error "
    '(`[target] suppressed = "accept"` takes such rows for loaded)',
}


def size_of(body: str) -> int:
    """Return the bytes of a body as SQS counts them (UTF-8)."""
    return len(body) if body.isascii() else len(body.encode("utf-8", "surrogatepass"))


def size_of_all(messages: Sequence[Message]) -> int:
    """Return the bytes of all bodies together."""
    bodies = [message.body for message in messages]
    return sum(map(len if all(map(str.isascii, bodies)) else size_of, bodies))


class Message(msgspec.Struct, frozen=True, gc=False):
    """One message as received: where it came from, its body, and the receipt that acks it.

    `sent_ms` is the send time (SQS SentTimestamp; UNKNOWN_MS if it tells none), `received_ms` our receive time, in ms
    since 1970. `origin`
    is the identity the message had before a redrive, or the key its sender gave it (see `pipeline.keying`); None for an
    ordinary message. `producer` is the span that sent it, as a W3C `traceparent` of our own spelling; None if nobody
    traces.
    """

    message_id: str
    body: str
    sent_ms: int
    receipt: str
    receive_count: int = 1
    received_ms: int = 0
    origin: str | None = None
    producer: str | None = None

    def __repr__(self) -> str:
        """Show the id only: body and receipt never appear."""
        return f"Message({self.message_id})"

    __str__ = __repr__

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        """Show no more to rich, which would ask msgspec for every field."""
        return [("message_id", self.message_id)]


class Reject(msgspec.Struct, frozen=True):
    """Why a message cannot be loaded: a reason, and the column, field or SQLSTATE it is about; never the value."""

    reason: Reason
    detail: str = ""


class Sealed(msgspec.Struct, frozen=True, gc=False):
    """A sealed value: AES-256-GCM `ciphertext` (tag included) under data key `dek_id` with a 12-byte `nonce`."""

    dek_id: bytes
    nonce: bytes
    ciphertext: bytes


class DataKey(msgspec.Struct, frozen=True, gc=False):
    """The public half of a data key as it is stored: its id and the key wrapped by `kek`; never the key itself."""

    dek_id: bytes
    kek: str
    wrapped: bytes


class VaultEntry(msgspec.Struct, frozen=True, gc=False):
    """The original of a token, sealed, and the epoch (retention period) in which it is kept."""

    token: str
    epoch: int
    sealed: Sealed


class Alias(msgspec.Struct, frozen=True, order=True, gc=False):
    """During a rotation: two tokens of one value, under the key that retires and under the active one."""

    old: str
    new: str


class Row(msgspec.Struct, frozen=True, gc=False):
    """One masked row. `key` (16 bytes) and `slot` identify its message in the ledger; `values` are in column order.

    `originals` are the raw values of the columns that the vault looks after, in their order (see `pipeline.mask`).
    """

    message: Message
    key: bytes
    slot: int
    values: tuple[Value, ...]
    originals: tuple[Value, ...] = ()

    def __repr__(self) -> str:
        """Show the message's id only."""
        return f"Row({self.message.message_id})"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        """Show no more to rich."""
        return [("message_id", self.message.message_id)]


class Rejected(msgspec.Struct, frozen=True):
    """One rejected message on its way to quarantine, its body sealed."""

    message: Message
    key: bytes
    slot: int
    reject: Reject
    sealed: Sealed

    def __repr__(self) -> str:
        """Show the message's id and the reason only."""
        return f"Rejected({self.message.message_id}, {self.reject.reason})"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        """Show no more to rich."""
        return [("message_id", self.message.message_id), ("reason", self.reject.reason.value)]


class Trace(Protocol):
    """What is told of the way of one batch, stage by stage: counts, codes and ids, never a value of a message."""

    @property
    def ids(self) -> Mapping[str, str]:
        """`trace_id` and `span_id`, for logs; nothing if this batch is not traced."""

    def took(self, messages: Sequence[Message], *, rejected: int, seconds: float) -> None:
        """Messages came into the batch, some of them as rejects; their travel has just ended, and took so long."""

    def filled(self) -> None:
        """The batch is complete, and about to be written."""

    def stage(self, name: str, seconds: float, **told: int | str) -> None:
        """A stage has just ended, and took so long."""

    def event(self, name: str, **told: int | str) -> None:
        """Something happened now."""

    def end(self, **told: int | str) -> None:
        """The batch is done with, or has failed (`error`)."""


class _Untold:
    """The trace of a batch that is not traced."""

    ids: Mapping[str, str] = {}

    def took(self, messages: Sequence[Message], *, rejected: int, seconds: float) -> None:
        pass

    def filled(self) -> None:
        pass

    def stage(self, name: str, seconds: float, **told: int | str) -> None:
        pass

    def event(self, name: str, **told: int | str) -> None:
        pass

    def end(self, **told: int | str) -> None:
        pass


NO_TRACE: Trace = _Untold()


NOTHING_LEFT_OUT = -1


class Batch(msgspec.Struct):
    """What one transaction takes: rows, rejects, what the vault keeps of the rows, and the data keys sealed under.

    `trace` is told what happens to it. `erasures` is how many erasures the vault knew of when it left out what it had
    stored before; NOTHING_LEFT_OUT if it did not.
    """

    rows: list[Row] = msgspec.field(default_factory=list)
    rejected: list[Rejected] = msgspec.field(default_factory=list)
    data_keys: list[DataKey] = msgspec.field(default_factory=list)
    vault: list[VaultEntry] = msgspec.field(default_factory=list)
    aliases: list[Alias] = msgspec.field(default_factory=list)
    trace: Trace = NO_TRACE
    erasures: int = NOTHING_LEFT_OUT

    def __len__(self) -> int:
        """Return the number of messages."""
        return len(self.rows) + len(self.rejected)

    def messages(self) -> list[Message]:
        """Return the messages of rows and rejects."""
        return [row.message for row in self.rows] + [entry.message for entry in self.rejected]


class Outcome(msgspec.Struct):
    """What the transaction(s) of one batch did.

    `loaded` rows and `quarantined` rejects are new; `duplicates` were known to the ledger. `suppressed` rows are new,
    and the table kept them out, which was accepted. `refused` are the rows that the database would not take, each with
    the reject that it must come back as: they have no effect yet. `erasures` is how many erasures the database had
    seen: the vault forgets what it knows when it grows.
    """

    loaded: int = 0
    quarantined: int = 0
    duplicates: int = 0
    suppressed: int = 0
    erasures: int = 0
    refused: list[tuple[Row, Reject]] = msgspec.field(default_factory=list)


class Depth(msgspec.Struct, frozen=True):
    """Approximate number of messages a queue holds: waiting, in flight, and delayed."""

    visible: int
    in_flight: int
    delayed: int

    @property
    def total(self) -> int:
        """All messages that are not acked yet."""
        return self.visible + self.in_flight + self.delayed


@dataclass(slots=True)
class Counts:
    """What a run did, in messages; `rejected` are new quarantine entries. `seconds` is wall time.

    `suppressed` are messages whose rows the table kept out, which the configuration accepts.
    """

    received: int = 0
    loaded: int = 0
    duplicates: int = 0
    rejected: int = 0
    acked: int = 0
    seconds: float = 0.0
    suppressed: int = 0

    def as_dict(self) -> dict[str, int | float]:
        """Return the fields by name, seconds rounded to milliseconds; `suppressed` only if there are any."""
        found = asdict(self) | {"seconds": round(self.seconds, 3)}
        if not self.suppressed:
            del found["suppressed"]
        return found
