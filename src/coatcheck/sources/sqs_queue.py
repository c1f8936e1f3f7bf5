"""What people do with a queue beside reading it: look at it, send to it, move its dead letters back."""

from __future__ import annotations

import asyncio
import io
import re
import time
import uuid
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from coatcheck.errors import CoatcheckError, ConfigError, Finding
from coatcheck.pipeline.keying import ORIGIN_ATTRIBUTE, origin_for_body, origin_of, read_origin
from coatcheck.pipeline.message import Message, size_of
from coatcheck.sources.sqs_client import Backoff, SqsClient, SqsError, decode_batch
from coatcheck.sources.sqs_entries import delete
from coatcheck.sources.sqs_leases import VISIBILITY_S
from coatcheck.sources.sqs_message import is_fifo, numeric
from coatcheck.sources.sqs_wire import decode

MAX_BYTES = 2**20
"""The most bytes SQS takes in a message, and in a batch (since August 2025)."""

_MOST = 10
_MIN_VISIBILITY_S = 10
_MIN_RECEIVES = 3
_ATTRIBUTES_MOST = 10
_NAMED = 5
_CONTROL_S = 30.0
_EMPTY_POLLS, _EMPTY_POLL_S = 2, 1
_CODE = re.compile(r"[A-Za-z][A-Za-z0-9._]{0,79}")
_AGAIN = "mend it and send the file again: what has arrived is not loaded twice"
_PROBES: tuple[tuple[str, dict[str, Any]], ...] = (
    ("DeleteMessageBatch", {}),
    ("ChangeMessageVisibilityBatch", {"VisibilityTimeout": 0}),
)
_AS_NEW = "lines before it may have been sent, and would be loaded twice: send them from a file, which is read ahead"
_SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class QueueState:
    """A queue as SQS describes it, and what `check` has to say of it."""

    url: str
    attributes: dict[str, str]
    findings: tuple[Finding, ...]


def _queue_error(what: str, hint: str) -> Finding:
    return Finding("queue", "error", what, hint)


def _queue_advice(what: str, hint: str) -> Finding:
    return Finding("queue", "advice", what, hint)


async def inspect(client: SqsClient, queue: str, *, batch_s: float) -> QueueState:
    """Read the queue's attributes and try what may be done with its messages, without doing it.

    `batch_s` is the longest a message waits for its batch. ReceiveMessage is not tried: it would count as a receive of
    whatever it returns, and AWS does not say whether it looks at permissions or at parameters first. `run` begins with
    it, so that it fails at once and before any effect. Raises UnreachableError.
    """
    url = await client.queue_url(queue)
    attributes = await client.get_queue_attributes(url, ["All"])
    lacking = [finding for probe in _PROBES if (finding := await _forbidden(client, url, *probe)) is not None]
    return QueueState(url, attributes, (*queue_findings(attributes, batch_s=batch_s), *lacking))


async def _forbidden(client: SqsClient, url: str, operation: str, entry: dict[str, Any]) -> Finding | None:
    """Try an operation on a receipt that there cannot be; None if that is all that SQS has against it."""
    request = {"QueueUrl": url, "Entries": [{"Id": "0", "ReceiptHandle": "coatcheck-check"} | entry]}
    try:
        await client.call_retrying(operation, msgspec.json.encode(request), timeout=_CONTROL_S)
    except SqsError as error:
        if error.kind == "denied":
            permission = f"sqs:{operation.removesuffix('Batch')}"
            return _queue_error(
                f"these credentials lack the permission {permission} ({error.code})",
                f"allow {permission} on the queue, in the IAM policy and in the queue's own policy",
            )
        if error.kind != "invalid":
            raise
    return None


def queue_findings(attributes: dict[str, str], *, batch_s: float) -> Iterator[Finding]:
    """Yield what is wrong or unwise about a queue with these attributes."""
    visibility = int(attributes.get("VisibilityTimeout", VISIBILITY_S))
    if (visibility or VISIBILITY_S) < batch_s * 3:  # with 0, `run` hides messages for 30 s by itself
        yield _queue_error(
            f"the visibility timeout of {visibility} s is too short for batches that wait {batch_s:g} s",
            "set VisibilityTimeout to 30 s or more, or lower [batch] seconds",
        )
    elif visibility < _MIN_VISIBILITY_S:
        yield _queue_advice(
            f"the visibility timeout of {visibility} s leaves little time to extend it", "set it to 30 s or more"
        )
    redrive = attributes.get("RedrivePolicy")
    if not redrive:
        yield _queue_advice(
            "the queue has no dead-letter queue", "set a RedrivePolicy: what nobody can even receive ends there"
        )
    elif int(_policy(redrive).get("maxReceiveCount", 0)) < _MIN_RECEIVES:
        yield _queue_advice(
            "maxReceiveCount is below 3: a restart or two would send good messages to the dead-letter queue",
            "set maxReceiveCount to 5 or more",
        )


def _policy(text: str) -> dict[str, Any]:
    try:
        value = msgspec.json.decode(text)
    except msgspec.DecodeError:
        return {}
    return value if isinstance(value, dict) else {}


def file_entries(lines: Iterable[str], *, as_new: bool) -> Iterator[dict[str, Any]]:
    """Yield a SendMessageBatch entry (without its Id) for each line that is not blank.

    Unless `as_new`, each carries a key made of its text and of how often that text has come before, so that sending
    the same file again adds nothing. Raises ConfigError for a line that SQS cannot take, by its number; of a file that
    can be read twice before anything is yielded. Bytes that are no UTF-8 are expected as lone surrogates.
    """
    if isinstance(lines, io.TextIOBase) and lines.seekable():
        for _ in _entries(lines, as_new=True, hint="nothing has been sent: mend it and send the file again"):
            pass
        lines.seek(0)
    yield from _entries(lines, as_new=as_new, hint=_AS_NEW if as_new else _AGAIN)


def _entries(lines: Iterable[str], *, as_new: bool, hint: str) -> Iterator[dict[str, Any]]:
    repeats: dict[str, int] = {}
    for number, line in enumerate(lines, 1):
        body = line.rstrip("\r\n")
        if not body.strip():
            continue
        if _SURROGATE.search(body):
            raise ConfigError(f"line {number} is no UTF-8 text", hint=hint)
        if size_of(body) > MAX_BYTES - 256:
            raise ConfigError(f"line {number} is larger than SQS takes (1 MiB)", hint=hint)
        entry: dict[str, Any] = {"MessageBody": body}
        if not as_new:
            origin = origin_for_body(body, 0)
            repeats[origin] = repeats.get(origin, -1) + 1
            value = origin_for_body(body, repeats[origin]) if repeats[origin] else origin
            entry["MessageAttributes"] = {ORIGIN_ATTRIBUTE: {"DataType": "String", "StringValue": value}}
        yield entry


def _size(entry: dict[str, Any]) -> int:
    """Return the bytes of an entry as SQS counts them: body, and names, types and values of its attributes."""
    size = size_of(entry["MessageBody"])
    for name, attribute in entry.get("MessageAttributes", {}).items():
        size += len(name.encode()) + sum(len(str(part).encode()) for part in attribute.values())
    return size


def batches(entries: Iterable[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    """Cut entries into batches of ten and 1 MiB at most, in order."""
    batch: list[dict[str, Any]] = []
    size = 0
    for entry in entries:
        more = _size(entry)
        if batch and (len(batch) == _MOST or size + more > MAX_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(entry)
        size += more
    if batch:
        yield batch


async def send(client: SqsClient, url: str, entries: Iterable[dict[str, Any]]) -> AsyncIterator[int]:
    """Send entries, several batches at once; yield the number sent after each. Raises CoatcheckError."""
    fifo = is_fifo(url)
    waiting: set[asyncio.Task[int]] = set()
    try:
        for batch in batches(entries):
            if fifo:  # order within the file is order within the group
                grouped = [entry | {"MessageGroupId": "coatcheck-send"} for entry in batch]
                yield await _send_batch(client, url, grouped)
                continue
            waiting.add(asyncio.create_task(_send_batch(client, url, batch)))
            if len(waiting) >= _MOST:
                done, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    waiting.discard(task)
                    yield task.result()
        for sent in asyncio.as_completed(waiting):
            yield await sent
    finally:
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)


async def _send_batch(client: SqsClient, url: str, entries: Sequence[dict[str, Any]]) -> int:
    numbered = [entry | {"Id": str(place)} for place, entry in enumerate(entries)]
    if is_fifo(url):
        for entry in numbered:
            origin = entry.get("MessageAttributes", {}).get(ORIGIN_ATTRIBUTE)
            once = origin["StringValue"].replace(":", "_") if origin is not None else uuid.uuid4().hex
            entry.setdefault("MessageDeduplicationId", once)
    payload = msgspec.json.encode({"QueueUrl": url, "Entries": numbered})
    answer = decode_batch(await client.call_retrying("SendMessageBatch", payload, timeout=_CONTROL_S))
    if answer.failed:
        known = {entry.code if _CODE.fullmatch(entry.code) else "Unknown" for entry in answer.failed}
        codes = ", ".join(sorted(known))
        raise CoatcheckError(
            f"SQS refused {len(answer.failed)} of {len(entries)} messages ({codes})",
            hint="try it again: what has arrived is not loaded twice"
            if "MessageAttributes" in entries[0]
            else "others have arrived: to send all of them as new again would load those twice",
        )
    return len(entries)


async def dead_letter_queue(client: SqsClient, url: str) -> str:
    """Return the URL of the queue's dead-letter queue. Raises ConfigError when it has none."""
    attributes = await client.get_queue_attributes(url, ["RedrivePolicy"])
    arn = str(_policy(attributes.get("RedrivePolicy", "")).get("deadLetterTargetArn", ""))
    if not arn:
        raise ConfigError(
            "the queue has no dead-letter queue", hint="name the queue to move from: `coatcheck redrive --from NAME`"
        )
    url = await client.queue_url(arn.rsplit(":", 1)[-1])
    return str(url)


async def find_dead_letter_queue(client: SqsClient, url: str) -> str:
    """Return the URL of the dead-letter queue, or "" if there is none that these credentials may look at.

    Raises UnreachableError.
    """
    try:
        dead: str = await dead_letter_queue(client, url)
        await client.get_queue_attributes(dead, ["ApproximateNumberOfMessages"])
    except ConfigError:
        return ""
    except SqsError as error:
        if error.retryable:
            raise
        return ""
    return dead


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
    """Move messages from a dead-letter queue to the queue, keeping their identity; yield the number of each batch.

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
        "MessageSystemAttributeNames": ["SentTimestamp", "MessageGroupId"],
        "MessageAttributeNames": ["All"],
    }
    moved = empty = 0
    stuck: dict[str, None] = {}
    while empty < _EMPTY_POLLS and (limit is None or moved < limit):
        request["MaxNumberOfMessages"] = _MOST if limit is None else min(_MOST, limit - moved)
        payload = msgspec.json.encode(request)
        answer = await client.call_retrying("ReceiveMessage", payload, timeout=_CONTROL_S)
        messages = decode("ReceiveMessage", _dead_decoder, answer).messages or []
        empty = 0 if messages else empty + 1
        copies = [_copy(message, fifo=is_fifo(url)) for message in messages]
        stuck |= {message.message_id: None for message, copy in zip(messages, copies, strict=True) if copy is None}
        for batch in batches(copy for copy in copies if copy is not None):
            receipts = [entry.pop("ReceiptHandle") for entry in batch]
            await _send_batch(client, url, batch)
            await _delete_moved(client, origin_url, receipts)
            moved += len(batch)
            yield len(batch)
    if stuck:
        raise CoatcheckError(
            f"{len(stuck)} messages with ten attributes or 1 MiB have no room for their identity, among them "
            + ", ".join(list(stuck)[:_NAMED]),
            hint="move them by hand; they stay in the dead-letter queue",
        )


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
    copy = {"MessageBody": message.body, "MessageAttributes": attributes, "ReceiptHandle": message.receipt_handle}
    if len(attributes) > _ATTRIBUTES_MOST or _size(copy) > MAX_BYTES:
        return None
    if "MessageGroupId" in message.attributes:
        copy["MessageGroupId"] = message.attributes["MessageGroupId"]
    if fifo:  # each death has an id of its own: with the identity, a second redrive within five minutes would be lost
        copy["MessageDeduplicationId"] = message.message_id
    return copy
