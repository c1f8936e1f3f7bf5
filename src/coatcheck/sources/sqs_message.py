"""From what SQS hands out to a message: its times, and which message it is.

Amazon SQS developer guide, "Dead-letter queues": on a standard queue a dead letter keeps its SentTimestamp, on a FIFO
queue the time of its death replaces it. The slot of a ledger key is a send time, so it could not be found again there:
the messages of FIFO queues get keys without a date.

So do messages whose SentTimestamp is absent or odd (servers that know only an old name of the request's field). Our own
clock cannot stand in for it: two deliveries of one message would get two slots, and two effects.
"""

from __future__ import annotations

import hashlib
import logging
import re
from functools import cache

from coatcheck.pipeline.keying import ORIGIN_ATTRIBUTE, read_origin
from coatcheck.pipeline.message import UNKNOWN_MS, Message
from coatcheck.sources.sqs_wire import WireMessage

_log = logging.getLogger(__name__)

TRACE_ATTRIBUTE, TRACE_SYSTEM_ATTRIBUTE = "traceparent", "AWSTraceHeader"
"""Where a producer says which span sent a message: W3C Trace Context, and AWS X-Ray."""
_W3C = re.compile(  # version 00 ends after the flags, later ones may go on
    r"(?:00(?=-.{52}\Z)|(?!00|ff)[0-9a-f]{2})-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(?:-.*)?"
)
_SAMPLED = frozenset("13579bdf")
_XRAY = re.compile(r"(?:^|;) ?Root=1-(?!0{8}-0{24})([0-9a-f]{8})-([0-9a-f]{24})(?:;|$)")
_XRAY_PARENT = re.compile(r"(?:^|;) ?Parent=(?!0{16})([0-9a-f]{16})(?:;|$)")
_XRAY_LENGTH = 500
_DIGITS = 15
_ANY_TIME = 10**_DIGITS


def is_fifo(queue: str) -> bool:
    """Whether this is the name, URL or ARN of a FIFO queue."""
    return queue.endswith(".fifo")


def system_attributes(*names: str) -> dict[str, list[str]]:
    """Return the fields of a ReceiveMessage request that ask for SQS's own attributes.

    The field has two names. AWS takes both; ElasticMQ before 1.6.2, LocalStack before 3.5 and others know only the old
    one, and leave the attributes out without a word.
    """
    return {"MessageSystemAttributeNames": list(names), "AttributeNames": list(names)}


def numeric(attributes: dict[str, str], name: str, otherwise: int) -> int:
    """Return a numeric attribute of SQS's own, or `otherwise` if it is absent or odd."""
    text = attributes.get(name, "")
    if text == "1":  # nearly always the receive count
        return 1
    return int(text) if text.isdecimal() and len(text) <= _DIGITS else otherwise


def message_of(wire: WireMessage, now_ms: int, *, fifo: bool, producer: str | None = None) -> Message:
    """Return the message; `now_ms` is its receive time, `producer` the span that sent it, if that is of interest.

    `sent_ms` of a message whose send time SQS does not tell is UNKNOWN_MS, and its key is not bound to a time.
    """
    sent_ms, origin = numeric(wire.attributes, "SentTimestamp", 0), None
    if wire.message_attributes or fifo or not sent_ms:
        sent_ms, origin = _identity(wire, sent_ms, fifo=fifo)
    return Message(
        wire.message_id,
        wire.body,
        sent_ms,
        wire.receipt_handle,
        numeric(wire.attributes, "ApproximateReceiveCount", 1),
        now_ms,
        origin,
        producer,
    )


def _identity(wire: WireMessage, sent_ms: int, *, fifo: bool) -> tuple[int, str | None]:
    """Return the send time and the origin of a message that is not the usual one; see `message_of`."""
    attribute = wire.message_attributes.get(ORIGIN_ATTRIBUTE)
    text = attribute.string_value if attribute is not None else None
    origin, first_ms = read_origin(text if isinstance(text, str) else None, sent_ms or _ANY_TIME)
    if not sent_ms:
        tell_undated()
        return UNKNOWN_MS, _undated(origin, wire.message_id)
    return first_ms, _undated(origin, wire.message_id) if fifo else origin


def traced_message_of(wire: WireMessage, now_ms: int, *, fifo: bool) -> Message:
    """Return the message with the span that sent it, if it says so."""
    return message_of(wire, now_ms, fifo=fifo, producer=producer_of(wire))


def producer_of(wire: WireMessage) -> str | None:
    """Return the span that sent a message, as a `traceparent` of version 00; None if nothing well-formed names one.

    Anybody who may send can write these attributes. Only the two ids and the sampled flag go on: a `tracestate`, or
    what else stands there, is text of the sender's choice and may be about a person.
    """
    attribute = wire.message_attributes.get(TRACE_ATTRIBUTE)
    text = attribute.string_value if attribute is not None else None
    if isinstance(text, str) and _W3C.fullmatch(text):
        return f"00-{text[3:52]}-0{int(text[54] in _SAMPLED)}"
    header = wire.attributes.get(TRACE_SYSTEM_ATTRIBUTE, "")[:_XRAY_LENGTH]
    root = _XRAY.search(header) if header else None
    parent = _XRAY_PARENT.search(header) if root else None
    if root is None or parent is None:
        return None
    return f"00-{root[1]}{root[2]}-{parent[1]}-0{int('Sampled=1' in header)}"


@cache
def tell_undated() -> None:
    """Warn, once in a process, that SQS does not tell when messages were sent."""
    _log.warning(
        "the SQS server tells no SentTimestamp: the ledger keeps the keys of such messages forever, and a column with "
        'default = "sent_at" rejects them'
    )


def _undated(origin: str | None, message_id: str) -> str:
    """Return an identity that holds no send time: the same at each delivery, and after any redrive of ours."""
    kind, _, rest = (origin or f"id:{message_id}:0").partition(":")
    if kind == "key":
        return f"key:{rest}"
    first_id = rest.rpartition(":")[0]
    digest = hashlib.sha256(f"fifo\n{first_id}".encode("utf-8", "surrogatepass")).hexdigest()
    return f"key:{digest[:32]}"
