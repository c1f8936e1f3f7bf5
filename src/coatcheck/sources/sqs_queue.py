"""What people do with a queue beside reading it: look at it, make it, send to it."""

from __future__ import annotations

import asyncio
import io
import re
import uuid
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import msgspec

from coatcheck.errors import CoatcheckError, ConfigError, Finding
from coatcheck.pipeline.keying import ORIGIN_ATTRIBUTE, origin_for_body
from coatcheck.pipeline.message import size_of
from coatcheck.sources.queue_address import QueueAddress, account_of, read_address, told_address
from coatcheck.sources.sqs_client import SqsClient, SqsError, decode_batch
from coatcheck.sources.sqs_leases import VISIBILITY_S
from coatcheck.sources.sqs_message import is_fifo

MAX_BYTES = 2**20
"""The most bytes SQS takes in a message, and in a batch (since August 2025)."""

_MOST = 10
_MIN_VISIBILITY_S = 10
_MIN_RECEIVES = 3
_CONTROL_S = 30.0
_CODE = re.compile(r"[A-Za-z][A-Za-z0-9._]{0,79}")
_AGAIN = "mend it and send the file again: what has arrived is not loaded twice"
_PROBES: tuple[tuple[str, dict[str, Any]], ...] = (
    ("DeleteMessageBatch", {}),
    ("ChangeMessageVisibilityBatch", {"VisibilityTimeout": 0}),
)
_AS_NEW = "lines before it may have been sent, and would be loaded twice: send them from a file, which is read ahead"
_MARKS_UTF16 = ("\udcff\udcfe", "\udcfe\udcff")  # bytes that are not UTF-8 come as lone surrogates
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
        if number == 1:
            body = _unmarked(body, hint)
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


def _unmarked(line: str, hint: str) -> str:
    """Return the first line of a file without its byte order mark. Raises ConfigError for that of UTF-16."""
    if line.startswith(_MARKS_UTF16):
        raise ConfigError("the file is UTF-16, and SQS takes UTF-8", hint=f"save it as UTF-8; {hint}")
    return line.removeprefix("\ufeff")


def entry_size(entry: dict[str, Any]) -> int:
    """Return the bytes of an entry as SQS counts them: body, and names, types and values of its attributes."""
    size = size_of(entry["MessageBody"])
    for name, attribute in entry.get("MessageAttributes", {}).items():
        size += len(name.encode()) + sum(_part_size(kind, part) for kind, part in attribute.items())
    return size


def _part_size(kind: str, part: str) -> int:
    """Return the bytes of a part of an attribute; a binary value is counted as the bytes that its base64 stands for."""
    return len(part.rstrip("=")) * 3 // 4 if kind == "BinaryValue" else size_of(part)


def batches(entries: Iterable[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    """Cut entries into batches of ten and 1 MiB at most, in order."""
    batch: list[dict[str, Any]] = []
    size = 0
    for entry in entries:
        more = entry_size(entry)
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
                yield await send_batch(client, url, grouped)
                continue
            waiting.add(asyncio.create_task(send_batch(client, url, batch)))
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


async def send_batch(client: SqsClient, url: str, entries: Sequence[dict[str, Any]]) -> int:
    """Send up to ten entries; return how many. Raises CoatcheckError."""
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
    address = told_address(arn)
    if address is None:
        raise ConfigError(
            "the queue has no dead-letter queue", hint="name the queue to move from: `coatcheck redrive --from NAME`"
        )
    try:
        found: str = await client.url_of(address)
    except SqsError as error:
        if error.retryable:
            raise
        failure = _not_found(address, error)
    else:
        return found
    raise failure


def _not_found(address: QueueAddress, error: SqsError) -> ConfigError:
    where = f" of account {address.account}" if address.account else ""
    return ConfigError(
        f"the dead-letter queue {address.name}{where} cannot be looked up ({error.code})",
        hint="allow sqs:GetQueueUrl on it, in the IAM policy and in the queue's own, or name its URL: "
        "`coatcheck redrive --from URL`",
    )


async def create(client: SqsClient, queue: str) -> None:
    """Create the queue if there is none. Raises ConfigError: it would be made in another account than is meant.

    SQS makes queues in the account of the credentials; a URL or an ARN may name any.
    """
    address = read_address(queue)
    if address.account:
        try:
            await client.url_of(replace(address, url=""))
        except SqsError as error:
            if error.kind != "missing_queue":
                raise
        else:
            return
        if client.target.is_aws:
            raise ConfigError(
                f"there is no queue {address.name} in account {address.account}",
                hint="--create-queue makes queues in the account of the credentials: set source.queue to the name",
            )
    made = account_of(await client.create_queue(address.name))
    if address.account and made != address.account:
        raise ConfigError(
            f"the queue {address.name} was made in account {made}, and source.queue names account {address.account}",
            hint="use credentials of that account, or set source.queue to the name alone",
        )


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
