"""A queue in memory with SQS's semantics: in flight until acked, redelivered when released or expired.

For tests and for trying a configuration; nothing survives the process.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import deque
from collections.abc import Iterable, Sequence

from coatcheck.pipeline.message import Depth, Message

_RECEIVE = 10


class MemorySource:
    """Messages wait in order; `receive` hands out ten at most. Receipts are new at every delivery, ids stay."""

    def __init__(self, bodies: Iterable[str] = (), *, sent_ms: int = 0, visibility_s: float = 30.0) -> None:
        self._visible: deque[Message] = deque()
        self._in_flight: dict[str, Message] = {}
        self._receipts = itertools.count(1)
        self._ids = itertools.count(1)
        self._arrived = asyncio.Event()
        self._quiesced = False
        self._visibility_s = visibility_s
        self.send(bodies, sent_ms=sent_ms)

    @property
    def visibility_s(self) -> float:
        """After how many seconds a dead holder's messages would return; here `expire` does it."""
        return self._visibility_s

    def send(self, bodies: Iterable[str], *, sent_ms: int = 0, origin: str | None = None) -> None:
        """Put bodies on the queue."""
        for body in bodies:
            message_id = f"00000000-0000-4000-8000-{next(self._ids):012x}"
            self._visible.append(Message(message_id, body, sent_ms, "", 0, sent_ms, origin))
        self._arrived.set()

    def expire(self) -> None:
        """Let the visibility timeout of everything in flight pass."""
        self._give_back(list(self._in_flight.values()))

    def deliver_again(self, messages: Iterable[Message]) -> None:
        """Put messages on the queue a second time, as at-least-once delivery may."""
        self._visible.extend(messages)
        self._arrived.set()

    @property
    def found_empty(self) -> bool:
        """Whether nothing is visible: this queue's counts are exact."""
        return not self._visible

    async def start(self) -> None:
        """Begin to hand out messages."""
        self._quiesced = False

    async def receive(self, timeout: float) -> list[Message]:
        """Return up to ten messages, or none after `timeout` seconds."""
        if not self._visible and timeout > 0 and not self._quiesced:
            self._arrived.clear()
            try:
                async with asyncio.timeout(timeout):
                    await self._arrived.wait()
            except TimeoutError:
                return []
        if self._quiesced:
            return []
        received: list[Message] = []
        while self._visible and len(received) < _RECEIVE:
            waiting = self._visible.popleft()
            message = Message(
                waiting.message_id, waiting.body, waiting.sent_ms, str(next(self._receipts)),
                waiting.receive_count + 1, waiting.sent_ms, waiting.origin,
            )  # fmt: skip
            self._in_flight[message.receipt] = message
            received.append(message)
        return received

    async def ack(self, messages: Sequence[Message]) -> int:
        """Forget messages; return how many were not in flight any more."""
        return sum(self._in_flight.pop(message.receipt, None) is None for message in messages)

    async def release(self, messages: Sequence[Message]) -> None:
        """Make messages visible again at once."""
        self._give_back([message for message in messages if message.receipt in self._in_flight])

    async def depth(self) -> Depth:
        """Count the messages."""
        return Depth(len(self._visible), len(self._in_flight), 0)

    async def dead_letters(self) -> int | None:
        """A queue in memory gives up on nothing."""
        return None

    async def quiesce(self) -> None:
        """Hand out nothing more."""
        self._quiesced = True

    async def close(self) -> None:
        """Give back what is in flight."""
        self.expire()

    def _give_back(self, messages: Sequence[Message]) -> None:
        for message in messages:
            del self._in_flight[message.receipt]
        self._visible.extendleft(reversed(messages))
        self._arrived.set()
