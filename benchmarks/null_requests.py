"""The requests that the null SQS server reads, and what it refuses as SQS does."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import msgspec
from benchmarks.null_wire import PER_RECEIVE

if TYPE_CHECKING:
    from collections.abc import Callable

MAX_WAIT = 20


class ReceiveRequest(msgspec.Struct, rename="pascal"):
    """What ReceiveMessage asks for; the two system attributes are always given."""

    max_number_of_messages: int = 1
    wait_time_seconds: float = MAX_WAIT


class Entry(msgspec.Struct, rename="pascal"):
    """One entry of a batch request; each operation fills what it needs."""

    id: str
    receipt_handle: str = ""
    visibility_timeout: int = 0
    message_body: str = ""


class BatchRequest(msgspec.Struct, rename="pascal"):
    """What the three batch operations ask for."""

    entries: list[Entry]


class NameRequest(msgspec.Struct, rename="pascal"):
    """What GetQueueUrl asks for."""

    queue_name: str


class RefusedError(Exception):
    """A request that SQS would answer with status 400; its text is the error code."""


RequestType = TypeVar("RequestType")


def reader(of: type[RequestType]) -> Callable[[bytes], RequestType]:
    """Return the function that reads a request body."""
    return msgspec.json.Decoder(of).decode


read_receive, read_batch, read_name = reader(ReceiveRequest), reader(BatchRequest), reader(NameRequest)


def read_entries(body: bytes) -> list[Entry]:
    """Read a batch request and refuse what SQS refuses: no entry, more than ten, the same id twice."""
    entries = read_batch(body).entries
    if not entries:
        raise RefusedError("EmptyBatchRequest")
    if len(entries) > PER_RECEIVE:
        raise RefusedError("TooManyEntriesInBatchRequest")
    if len({entry.id for entry in entries}) < len(entries):
        raise RefusedError("BatchEntryIdsNotDistinct")
    return entries
