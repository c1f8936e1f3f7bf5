"""Leases: which receipts we hold, and until when the queue keeps their messages invisible.

What is past half its life is extended, ten at a time, until it is acked, released, or near SQS's cap of 12 hours from
its receive ("Amazon SQS visibility timeout" in the developer guide); then it is left to come back.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import TypeVar

import msgspec

_log = logging.getLogger(__name__)
BATCH = 10
VISIBILITY_S = 30
"""The visibility timeout of a queue that has none of its own."""

_CAP_S = 12 * 3600 - 60
_MARGIN = 0.5
_LANES = 8

Item = TypeVar("Item")
Change = Callable[[Sequence[str], int], Awaitable[tuple[list[str], list[str]]]]
"""Set the visibility of up to ten receipts to n seconds; return (receipts gone for good, receipts to try again)."""


class Lease(msgspec.Struct):
    """One receive's worth of receipts share a lease: when they were received, when they become visible again (s)."""

    received: float
    expires: float


def tens(items: Iterable[Item]) -> Iterator[list[Item]]:
    """Cut into lists of ten, the most SQS takes in one request."""
    rest = iter(items)
    while chunk := list(islice(rest, BATCH)):
        yield chunk


class Leases:
    """The receipts in flight, about the oldest lease first. Times are seconds of `clock`, which is monotonic."""

    def __init__(self, change: Change, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._change = change
        self._clock = clock
        self._held: dict[str, Lease] = {}
        self.visibility_s = VISIBILITY_S
        self.extended = 0

    def __len__(self) -> int:
        """Return how many receipts are held."""
        return len(self._held)

    def __contains__(self, receipt: str) -> bool:
        """Whether the receipt is held."""
        return receipt in self._held

    def hold(self, receipts: Iterable[str], asked_at: float) -> None:
        """Take receipts that a request sent at `asked_at` brought: the queue's clock started then at the earliest."""
        lease = Lease(asked_at, asked_at + self.visibility_s)
        self._held.update(dict.fromkeys(receipts, lease))

    def drop(self, receipts: Iterable[str]) -> None:
        """Forget receipts (acked, released, or given up)."""
        forget = self._held.pop
        for receipt in receipts:
            forget(receipt, None)

    def all(self) -> list[str]:
        """Return every receipt held, oldest lease first."""
        return list(self._held)

    async def keep(self) -> None:
        """Extend leases until cancelled."""
        while True:
            await asyncio.sleep(max(0.05, min(self.visibility_s / 8, 5.0)))
            try:
                await self.extend_due()
            except Exception as error:  # noqa: BLE001 - a failed extension is tried again; its keeper must live on
                _log.warning("leases could not be extended", extra={"error": type(error).__name__})

    async def extend_due(self) -> None:
        """Extend every lease that is past half its life, several requests at once.

        Raises what a request raised, after the others have gone on: a few such end the pass, so a queue that is away
        is not stormed.
        """
        due = self._due()
        chunks = tens(due)

        async def lane() -> None:
            for chunk in chunks:
                await self._extend([receipt for receipt in chunk if receipt in self._held])

        lanes = min(_LANES, -(-len(due) // BATCH))
        for result in await asyncio.gather(*(lane() for _ in range(lanes)), return_exceptions=True):
            if result is not None:
                raise result

    async def _extend(self, chunk: list[str]) -> None:
        if not chunk:
            return
        asked_at = self._clock()
        gone, again = await self._change(chunk, self.visibility_s)
        self.drop(gone)
        renewed = set(chunk) - set(gone) - set(again)
        self._renew([receipt for receipt in chunk if receipt in renewed], asked_at)

    def _due(self) -> list[str]:
        now = self._clock()
        due: list[str] = []
        capped: list[str] = []
        for receipt, lease in self._held.items():
            if lease.expires - now > self.visibility_s * _MARGIN:
                continue  # the rest may hold shorter ones: answers overtake each other
            (capped if now + self.visibility_s - lease.received > _CAP_S else due).append(receipt)
        if capped:
            _log.warning("messages near the 12 hour cap are left to come back", extra={"messages": len(capped)})
            self.drop(capped)
        return due

    def _renew(self, receipts: Sequence[str], asked_at: float) -> None:
        """Move receipts to the end of the line with a new expiry; what was acked meanwhile stays forgotten."""
        renewed: dict[float, Lease] = {}
        for receipt in receipts:
            old = self._held.pop(receipt, None)
            if old is not None:
                lease = renewed.setdefault(old.received, Lease(old.received, asked_at + self.visibility_s))
                self._held[receipt] = lease
                self.extended += 1
