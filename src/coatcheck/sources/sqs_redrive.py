"""Dead letters, back to their queue: each keeps its identity, its attributes and its trace header.

The identity is a message attribute, and SQS takes ten. A message that has ten of its own, or whose copy would be larger
than SQS takes, stays in the dead-letter queue and is named: without its identity it could be loaded a second time, and
without one of its attributes it would be another message.

Several queues may share a dead-letter queue. SQS says of each dead letter which queue it comes from (developer guide,
"Dead-letter queues": DeadLetterQueueSourceArn): what comes from another queue stays for that queue's own redrive.
"""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncIterator
from typing import Any

import msgspec

from coatcheck.errors import CoatcheckError, ConfigError
from coatcheck.pipeline.keying import ORIGIN_ATTRIBUTE, origin_of, read_origin
from coatcheck.pipeline.message import Message
from coatcheck.sources.queue_address import QueueAddress, read_address, told_address
from coatcheck.sources.sqs_client import Backoff, SqsClient, SqsError
from coatcheck.sources.sqs_entries import delete
from coatcheck.sources.sqs_message import TRACE_SYSTEM_ATTRIBUTE, is_fifo, numeric, system_attributes
from coatcheck.sources.sqs_queue import MAX_BYTES, batches, entry_size, send_batch
from coatcheck.sources.sqs_wire import decode

_log = logging.getLogger(__name__)
_SOURCE = "DeadLetterQueueSourceArn"
_MOST = 10
_ATTRIBUTES_MOST = 10
_NAMED = 5
_CONTROL_S = 30.0
_EMPTY_POLLS, _EMPTY_POLL_S = 2, 1


class _Dead(msgspec.Struct, frozen=True, rename="pascal"):
    """A message of the dead-letter queue, with all it carries."""

    message_id: str
    receipt_handle: str
    body: str = ""
    attributes: dict[str, str] = {}
    message_attributes: dict[str, dict[str, Any]] = {}

    def __repr__(self) -> str:
        """Show the id only."""
        return f"_Dead({self.message_id})"


class _DeadAnswer(msgspec.Struct, rename="pascal"):
    messages: list[_Dead] | None = None


_dead_decoder = msgspec.json.Decoder(_DeadAnswer)


async def redrive(client: SqsClient, origin_url: str, url: str, *, limit: int | None = None) -> AsyncIterator[int]:
    """Move messages from a dead-letter queue to the queue, keeping identity, attributes and trace header; yield counts.

    Dead letters of other queues stay, and a warning counts them. A message whose queue SQS does not tell (somebody sent
    it to the dead-letter queue) is moved.

    A copy is sent before the original is deleted: what fails in between is there twice, and loaded once. Raises
    CoatcheckError in the end if there were messages that have no room for their identity; they stay. Raises ConfigError
    for queues of two kinds: a message is known again by other means on a FIFO queue.
    """
    if is_fifo(origin_url) is not is_fifo(url):
        raise ConfigError(
            "dead letters of a FIFO queue go to a FIFO queue only, others to others only",
            hint="name a dead-letter queue of the same kind",
        )
    request: dict[str, Any] = {
        "QueueUrl": origin_url,
        "WaitTimeSeconds": _EMPTY_POLL_S,
        "VisibilityTimeout": 60,
        **system_attributes("SentTimestamp", "MessageGroupId", TRACE_SYSTEM_ATTRIBUTE, _SOURCE),
        "MessageAttributeNames": ["All"],
    }
    moved = empty = 0
    stuck: dict[str, None] = {}
    others: dict[str, str] = {}
    queue = read_address(url)
    while empty < _EMPTY_POLLS and (limit is None or moved < limit):
        request["MaxNumberOfMessages"] = _MOST if limit is None else min(_MOST, limit - moved)
        payload = msgspec.json.encode(request)
        answer = await client.call_retrying("ReceiveMessage", payload, timeout=_CONTROL_S)
        received = decode("ReceiveMessage", _dead_decoder, answer).messages or []
        # what stays is handed out again when its visibility timeout ends
        empty = (
            empty + 1 if all(message.message_id in stuck or message.message_id in others for message in received) else 0
        )
        others |= {message.message_id: origin for message in received if (origin := _another(message, queue))}
        messages = [message for message in received if message.message_id not in others]
        copies = [_copy(message, fifo=is_fifo(url)) for message in messages]
        stuck |= {message.message_id: None for message, copy in zip(messages, copies, strict=True) if copy is None}
        for batch in batches(copy for copy in copies if copy is not None):
            receipts = [entry.pop("ReceiptHandle") for entry in batch]
            await send_batch(client, url, batch)
            await _delete_moved(client, origin_url, receipts)
            moved += len(batch)
            yield len(batch)
    if others:
        names = ", ".join(sorted(set(others.values()))[:_NAMED])
        _log.warning(
            "%d dead letters of other queues stay in the dead-letter queue; they come from %s", len(others), names
        )
    if stuck:
        raise CoatcheckError(
            f"{len(stuck)} messages with ten attributes or 1 MiB have no room for their identity, among them "
            + ", ".join(list(stuck)[:_NAMED]),
            hint="move them by hand; they stay in the dead-letter queue",
        )


def _another(message: _Dead, queue: QueueAddress) -> str:
    """Return the name of the queue that a dead letter comes from if it is another one, otherwise ""."""
    source = told_address(message.attributes.get(_SOURCE, ""))
    if source is None or (source.name == queue.name and queue.account in ("", source.account)):
        return ""
    return source.name


async def _delete_moved(client: SqsClient, url: str, receipts: list[str]) -> None:
    """Delete up to ten messages; what fails for now is tried again for a while, then it is there twice."""
    end, backoff = time.monotonic() + _CONTROL_S, Backoff()
    while receipts:
        try:
            receipts = (await delete(client, url, receipts, timeout=_CONTROL_S)).again
        except SqsError as error:
            if not error.retryable or time.monotonic() > end:
                raise
        if time.monotonic() > end:
            return
        if receipts:
            await backoff.wait()


def _copy(message: _Dead, *, fifo: bool) -> dict[str, Any] | None:
    """Make the entry that sends a received message again, its identity in an attribute; None if there is no room."""
    attributes = {
        name: {key: value for key, value in attribute.items() if key in ("DataType", "StringValue", "BinaryValue")}
        for name, attribute in message.message_attributes.items()
    }
    sent_ms = numeric(message.attributes, "SentTimestamp", 0)
    known, _ = read_origin(attributes.get(ORIGIN_ATTRIBUTE, {}).get("StringValue"), sent_ms)
    origin = origin_of(Message(message.message_id, "", sent_ms, "", origin=known))
    attributes[ORIGIN_ATTRIBUTE] = {"DataType": "String", "StringValue": origin}
    copy: dict[str, Any] = {
        "MessageBody": message.body,
        "MessageAttributes": attributes,
        "ReceiptHandle": message.receipt_handle,
    }
    if len(attributes) > _ATTRIBUTES_MOST or entry_size(copy) > MAX_BYTES:
        return None
    if header := message.attributes.get(TRACE_SYSTEM_ATTRIBUTE):  # SQS counts it neither as one of the ten nor as bytes
        system = {"DataType": "String", "StringValue": header}
        copy["MessageSystemAttributes"] = {TRACE_SYSTEM_ATTRIBUTE: system}
    if "MessageGroupId" in message.attributes:
        copy["MessageGroupId"] = message.attributes["MessageGroupId"]
    if fifo:  # each death has an id of its own: with the identity, a second redrive within five minutes would be lost
        copy["MessageDeduplicationId"] = message.message_id
    return copy
