"""Batch requests of up to ten entries, by position, with a look at every `Failed` entry.

SQS answers 200 although entries failed. Ids are positions, so they are always distinct and valid.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from coatcheck.sources.sqs_client import SqsClient, decode_batch

_GONE = frozenset({
    "ReceiptHandleIsInvalid",  # delivered again meanwhile, or deleted; emulators say so, AWS mostly answers success
    "InvalidParameterValue",  # AWS: the message is not available for the change any more
    "MessageNotInflight",
    "AWS.SimpleQueueService.MessageNotInflight",
})  # fmt: skip


async def delete(
    client: SqsClient, url: str, receipts: Sequence[str], *, timeout: float
) -> tuple[list[str], list[str]]:
    """Delete up to ten messages; return (receipts that are gone for good, receipts to try again)."""
    entries: list[dict[str, object]] = [
        {"Id": str(place), "ReceiptHandle": receipt} for place, receipt in enumerate(receipts)
    ]
    return await _batch(client, "DeleteMessageBatch", url, entries, receipts, timeout)


async def change_visibility(
    client: SqsClient, url: str, receipts: Sequence[str], seconds: int, *, timeout: float
) -> tuple[list[str], list[str]]:
    """Hide up to ten messages for `seconds` from now (0: show them); return (gone for good, try again)."""
    entries: list[dict[str, object]] = [
        {"Id": str(place), "ReceiptHandle": receipt, "VisibilityTimeout": seconds}
        for place, receipt in enumerate(receipts)
    ]
    return await _batch(client, "ChangeMessageVisibilityBatch", url, entries, receipts, timeout)


async def _batch(  # noqa: PLR0917 - private, and each is what a batch request consists of
    client: SqsClient, operation: str, url: str, entries: list[dict[str, object]], receipts: Sequence[str], limit: float
) -> tuple[list[str], list[str]]:
    payload = msgspec.json.encode({"QueueUrl": url, "Entries": entries})
    answer = decode_batch(await client.call(operation, payload, timeout=limit))
    places = {str(place): receipt for place, receipt in enumerate(receipts)}
    gone: list[str] = []
    again: list[str] = []
    for failed in answer.failed:
        receipt = places.pop(failed.id, None)
        if receipt is not None:
            (gone if failed.code in _GONE else again).append(receipt)
    return gone, again
