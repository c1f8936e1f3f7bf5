"""What an SQS event source mapping hands to AWS Lambda, as messages.

AWS Lambda developer guide, "Using Lambda with Amazon SQS", sample event of a queue.
"""

from __future__ import annotations

import logging
import time
from typing import Any

import msgspec

from coatcheck.errors import ConfigError
from coatcheck.pipeline.message import Message
from coatcheck.sources.sqs_message import is_fifo, message_of
from coatcheck.sources.sqs_wire import WireAttribute, WireMessage, body_intact

_log = logging.getLogger(__name__)


class _Attribute(msgspec.Struct, frozen=True, gc=False, rename="camel"):
    string_value: str | None = None


class _Record(msgspec.Struct, frozen=True, gc=False, rename="camel"):
    event_source: str
    message_id: str
    receipt_handle: str
    body: str
    event_source_arn: str = msgspec.field(name="eventSourceARN")
    md5_of_body: str = ""
    attributes: dict[str, str] = {}
    message_attributes: dict[str, _Attribute] = {}

    def wire(self) -> WireMessage:
        """Return the message as a receive would have brought it."""
        custom = {name: WireAttribute(attribute.string_value) for name, attribute in self.message_attributes.items()}
        return WireMessage(
            self.message_id, self.receipt_handle, self.body, self.md5_of_body, self.attributes, custom
        )  # fmt: skip


class _Event(msgspec.Struct, frozen=True, gc=False):
    records: list[_Record] = msgspec.field(name="Records")


class Delivery(msgspec.Struct, frozen=True):
    """The messages of one invocation in their order, and the ids of those that have to come again whatever happens.

    `queues` are the ARNs of the queues that they come from: of one mapping, one.
    """

    messages: list[Message]
    again: list[str]
    queues: tuple[str, ...] = ()

    def answer(self, committed: int) -> dict[str, Any]:
        """Return the answer for the mapping when so many messages, from the first, are committed."""
        again = [message.message_id for message in self.messages[committed:]] + self.again
        return {"batchItemFailures": [{"itemIdentifier": message_id} for message_id in again]}

    def __repr__(self) -> str:
        """Show how many there are only."""
        return f"Delivery({len(self.messages)}, {len(self.again)})"


def delivery(event: object) -> Delivery:
    """Return what an event brings. Raises ConfigError: it does not come from SQS."""
    try:
        records = msgspec.convert(event, _Event).records
    except msgspec.ValidationError:
        records = None
    if records is None or any(record.event_source != "aws:sqs" for record in records):
        raise ConfigError(
            "the event does not come from an SQS queue",
            hint="the handler serves event source mappings of SQS; EventBridge, SNS and API Gateway send others",
        )
    now_ms = int(time.time() * 1000)
    messages: list[Message] = []
    again: list[str] = []
    for record in records:
        fifo, wire = is_fifo(record.event_source_arn), record.wire()
        if (fifo and again) or not body_intact(wire):  # on a FIFO queue none may overtake one that comes again
            _log.warning(
                "a body arrived damaged (MD5), or after one; it comes again", extra={"message_id": wire.message_id}
            )
            again.append(wire.message_id)
        else:
            messages.append(message_of(wire, now_ms, fifo=fifo))
    return Delivery(messages, again, tuple(dict.fromkeys(record.event_source_arn for record in records)))
