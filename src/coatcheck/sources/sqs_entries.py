"""Batch requests of up to ten entries, by position, with a look at every `Failed` entry.

SQS answers 200 although entries failed. Ids are positions, so they are always distinct and valid.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from coatcheck.sources.sqs_client import SqsClient, SqsError, decode_batch
from coatcheck.sources.sqs_wire import entry_failure

_GONE = frozenset({
    "ReceiptHandleIsInvalid",  # delivered again meanwhile, or deleted; emulators say so, AWS mostly answers success
    "InvalidParameterValue",  # AWS: the message is not available for the change any more
    "MessageNotInflight",
    "AWS.SimpleQueueService.MessageNotInflight",
})  # fmt: skip


class Left(msgspec.Struct):
    """The receipts that a batch request did not serve: those gone for good, and those to try again, and why."""

    gone: list[str] = msgspec.field(default_factory=list)
    again: list[str] = msgspec.field(default_factory=list)
    error: SqsError | None = None

    def __repr__(self) -> str:
        """Show the numbers only."""
        return f"Left({len(self.gone)}, {len(self.again)})"


async def delete(client: SqsClient, url: str, receipts: Sequence[str], *, timeout: float) -> Left:
    """Delete up to ten messages; return what is left of them."""
    entries: list[dict[str, object]] = [
        {"Id": str(place), "ReceiptHandle": receipt} for place, receipt in enumerate(receipts)
    ]
    return await _batch(client, "DeleteMessageBatch", url, entries, receipts, timeout)


async def change_visibility(
    client: SqsClient, url: str, receipts: Sequence[str], seconds: int, *, timeout: float
) -> Left:
    """Hide up to ten messages for `seconds` from now (0: show them); return what is left of them."""
    entries: list[dict[str, object]] = [
        {"Id": str(place), "ReceiptHandle": receipt, "VisibilityTimeout": seconds}
        for place, receipt in enumerate(receipts)
    ]
    return await _batch(client, "ChangeMessageVisibilityBatch", url, entries, receipts, timeout)


async def _batch(  # noqa: PLR0917 - private, and each is what a batch request consists of
    client: SqsClient, operation: str, url: str, entries: list[dict[str, object]], receipts: Sequence[str], limit: float
) -> Left:
    payload = msgspec.json.encode({"QueueUrl": url, "Entries": entries})
    answer = decode_batch(await client.call(operation, payload, timeout=limit))
    if not answer.failed:
        return Left()
    places = {str(place): receipt for place, receipt in enumerate(receipts)}
    left = Left()
    for failed in answer.failed:
        receipt = places.pop(failed.id, None)
        if receipt is None:
            continue
        if failed.code in _GONE:
            left.gone.append(receipt)
            continue
        left.again.append(receipt)
        if left.error is None or left.error.retryable:  # the worst of them is told
            left.error = entry_failure(operation, failed.code)
    return left
