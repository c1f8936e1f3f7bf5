"""The SQS source: adaptive long polling, bounded in flight, leases kept alive, acks in tens.

Amazon SQS developer guide: "Amazon SQS short and long polling", "visibility timeout", "quotas"; API reference:
ReceiveMessage, DeleteMessageBatch, ChangeMessageVisibilityBatch. Standard and FIFO queues alike: all messages of one
receive stay together, and SQS locks a FIFO group while one of its messages is in flight, so order is kept.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress

import msgspec

from coatcheck.ops.logs import NOTICE
from coatcheck.ops.metrics import Metrics
from coatcheck.pipeline.keying import ORIGIN_ATTRIBUTE
from coatcheck.pipeline.message import Depth, Message, size_of, size_of_all
from coatcheck.sources.sqs_client import Backoff, SqsClient, SqsError, WireMessage, body_intact, decode_receive
from coatcheck.sources.sqs_demand import Budget, Demand
from coatcheck.sources.sqs_entries import Left, change_visibility, delete
from coatcheck.sources.sqs_leases import BATCH, VISIBILITY_S, Leases, tens
from coatcheck.sources.sqs_message import (
    TRACE_ATTRIBUTE,
    TRACE_SYSTEM_ATTRIBUTE,
    is_fifo,
    message_of,
    system_attributes,
    traced_message_of,
)
from coatcheck.sources.sqs_outage import Outage
from coatcheck.sources.sqs_queue import find_dead_letter_queue

_log = logging.getLogger(__name__)
_TAKE_MOST = 500
_ACK_LANES = 24
_POLL_MARGIN_S = 10.0
_HANG_UP_S = 2.0
_CONTROL_S = 10.0
_EXTEND_LEAST_S = 0.5
_LIMIT_LOOK_S = 300.0
_DEAD_KNOWN_S = 3600.0  # so long the name of the dead-letter queue is good for
_IN_FLIGHT_LIMIT = 119_000  # AWS's quota is 120,000; beyond it a receive comes back empty, without an error


class SqsSource:
    """One queue. `wait_s` is the long poll; at most `receivers` receives are under way.

    `give_up_s` bounds how long SQS may stay away (0: for ever) before `receive` and `ack` raise UnreachableError. If
    `traced`, messages come with the span that sent them.
    """

    def __init__(
        self,
        *,
        client: SqsClient,
        queue: str,
        wait_s: int = 20,
        receivers: int = 32,
        max_in_flight: int = 6000,
        max_in_flight_bytes: int = 64 * 2**20,
        give_up_s: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
        metrics: Metrics | None = None,
        traced: bool = False,
    ) -> None:
        self._metrics = metrics or Metrics()
        self._message_of = traced_message_of if traced else message_of
        self._names = ([TRACE_SYSTEM_ATTRIBUTE], [TRACE_ATTRIBUTE]) if traced else ([], [])
        self._client, self._queue, self._wait_s = client, queue, wait_s
        self._dead_url, self._dead_until = "", float("-inf")  # "" for none that may be asked
        self._clock = clock
        self._no_receives, self._no_acks = Outage(give_up_s, clock), Outage(give_up_s, clock)
        self._away_s = 0.0
        self._demand = Demand(receivers)
        self._budget = Budget(messages=max_in_flight, size=max_in_flight_bytes)
        self._requests = asyncio.Semaphore(receivers)
        self.leases = Leases(self._set_visibility, clock=clock)
        self._arrived: deque[list[Message]] = deque()
        self._news = asyncio.Event()
        self._receivers: set[asyncio.Task[None]] = set()
        self._keeper: asyncio.Task[None] | None = None
        self._failure: Exception | None = None
        self._quiesced = False
        self._url, self._fifo = "", is_fifo(queue)
        self._poll = b""
        self._looked_at = 0.0
        self.found_empty = False
        self._came_at = float("-inf")
        self._ended_at = time.time()
        self._watch()

    def _watch(self) -> None:
        """Have what is counted anyway read as metrics."""
        watch = self._metrics.watch
        watch("coatcheck_in_flight_messages", lambda: self._budget.messages)
        watch("coatcheck_in_flight_bytes", lambda: self._budget.bytes)
        watch("coatcheck_receivers", lambda: len(self._receivers))
        watch("coatcheck_lease_extensions_total", lambda: self.leases.extended)
        watch("coatcheck_receiving_timestamp_seconds", lambda: self._ended_at if self._receivers else time.time())

    @property
    def visibility_s(self) -> float:
        """The queue's own visibility timeout, in seconds."""
        return float(self.leases.visibility_s)

    async def start(self) -> None:
        """Find the queue, read its visibility timeout, and begin to receive. Raises UnreachableError, ConfigError."""
        self._url = await self._client.queue_url(self._queue)
        attributes = await self._client.get_queue_attributes(self._url, ["VisibilityTimeout"])
        request: dict[str, object] = {
            "QueueUrl": self._url,
            "MaxNumberOfMessages": 10,
            "WaitTimeSeconds": self._wait_s,
            **system_attributes("SentTimestamp", "ApproximateReceiveCount", *self._names[0]),
            "MessageAttributeNames": [ORIGIN_ATTRIBUTE, *self._names[1]],
        }
        # a queue with 0 hides nothing by itself; and what holds for our leases must not change while we run
        self.leases.visibility_s = int(attributes.get("VisibilityTimeout", VISIBILITY_S)) or VISIBILITY_S
        request["VisibilityTimeout"] = self.leases.visibility_s
        self._poll = msgspec.json.encode(request)
        self._keeper = asyncio.create_task(self.leases.keep())
        self._spawn()

    async def receive(self, timeout: float) -> list[Message]:
        """Return what has arrived, some hundreds at most; an empty list after `timeout` seconds.

        Raises the error that ended receiving, once everything received before it is taken.
        """
        if not self._arrived and timeout > 0 and self._failure is None:
            self._news.clear()
            handle = asyncio.get_running_loop().call_later(timeout, self._news.set)
            try:
                await self._news.wait()
            finally:
                handle.cancel()
        if not self._arrived:
            if self._failure is not None:
                raise self._failure
            return []
        taken = self._arrived.popleft()
        while self._arrived and len(taken) < _TAKE_MOST:
            taken += self._arrived.popleft()
        return taken

    async def ack(self, messages: Sequence[Message]) -> int:
        """Delete messages, ten a request; return how many could not be deleted and will come again."""
        chunks = tens(messages)

        async def lane() -> int:
            given_up = 0
            for chunk in chunks:
                given_up += await self._ack([message.receipt for message in chunk])
                self._forget(chunk)  # one that is tried for long does not keep the room of the others
            return given_up

        lanes = min(_ACK_LANES, -(-len(messages) // BATCH))  # a few tasks a batch, not one a request
        return sum(await asyncio.gather(*(lane() for _ in range(lanes))))

    async def release(self, messages: Sequence[Message]) -> None:
        """Make messages visible again at once."""
        try:
            await self._give_back([message.receipt for message in messages if message.receipt in self.leases])
        finally:
            self._forget(messages)

    async def depth(self) -> Depth:
        """Ask for the queue's approximate counts. Raises UnreachableError."""
        names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
        names.append("ApproximateNumberOfMessagesDelayed")
        counts = await self._client.get_queue_attributes(self._url, names)
        return Depth(*(int(counts.get(name, 0)) for name in names))

    async def dead_letters(self) -> int | None:
        """Ask for the approximate count of the dead-letter queue. Raises UnreachableError."""
        if time.monotonic() > self._dead_until:
            self._dead_url = await find_dead_letter_queue(self._client, self._url)
            self._dead_until = time.monotonic() + _DEAD_KNOWN_S
        if not self._dead_url:
            return None
        names = ["ApproximateNumberOfMessages"]
        return int((await self._client.get_queue_attributes(self._dead_url, names)).get(names[0], 0))

    async def quiesce(self) -> None:
        """Stop receiving. Polls under way get two seconds: SQS hides what it hands to a caller that hangs up."""
        self._quiesced = True
        if self._receivers:
            await asyncio.wait(set(self._receivers), timeout=_HANG_UP_S)
        for task in self._receivers:
            task.cancel()
        await asyncio.gather(*self._receivers, return_exceptions=True)

    async def close(self) -> None:
        """Stop, give back everything that is still in flight, and close the connections."""
        await self.quiesce()
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.gather(self._keeper, return_exceptions=True)
        held = self.leases.all()
        await self._give_back(held)
        # SQS hands what is given back to the polls that were hung up: wait for them to give it back again
        await self._client.close(grace=_HANG_UP_S if held else 0.0)

    # -- receiving

    def _spawn(self) -> None:
        """Bring up as many receivers as are wanted and have room; whatever makes room calls it again."""
        while len(self._receivers) < self._demand.receivers and not self._quiesced:
            reserved = self._budget.reserve()
            if reserved is None:
                return
            task = asyncio.create_task(self._receiver(reserved))
            self._receivers.add(task)
            task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._receivers.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._fail(error if isinstance(error, Exception) else RuntimeError(type(error).__name__))

    def _fail(self, error: Exception) -> None:
        self._failure = self._failure or error
        self._quiesced = True
        self._news.set()

    async def _receiver(self, reserved: int) -> None:
        """Receive until there is no room, or one receiver less is wanted."""
        task, backoff = asyncio.current_task(), Backoff()
        room: int | None = reserved
        while room is not None:
            sizes: list[int] = []
            try:
                sizes = await self._receive_once()
                backoff.reset()
            except SqsError as error:
                await self._back_off(error, backoff)
            finally:
                self._budget.settle(room, sizes)
            surplus = self._quiesced or len(self._receivers) > self._demand.receivers
            room = None if surplus else self._budget.reserve()
            if room is None and task is not None:
                self._receivers.discard(task)  # now, not when it is done: others that end this very moment count too
            self._spawn()

    async def _receive_once(self) -> list[int]:
        """Send one receive; put what it brings on the list of arrivals; return the body sizes."""
        asked_at = self._clock()
        response = await self._client.call(
            "ReceiveMessage", self._poll, timeout=self._wait_s + _POLL_MARGIN_S, late=self._too_late
        )
        arrived, now_ms = self._clock(), int(time.time() * 1000)
        self._ended_at = now_ms / 1000
        make = self._message_of
        messages = [make(wire, now_ms, fifo=self._fifo) for wire in decode_receive(response) if _intact(wire)]
        if self._no_receives.away:
            self._end(self._no_receives)
        result = "full" if len(messages) >= BATCH else "some" if messages else "empty"
        self._metrics.add("coatcheck_receives_total", 1, result)
        self._metrics.set("coatcheck_up", 1, "queue")
        if messages:
            self.found_empty, self._came_at = False, arrived
            # a long poll may have waited: its messages' clocks started when they were handed out, not when we asked
            self.leases.hold([message.receipt for message in messages], max(asked_at, arrived - 1.0))
            self._arrived.append(messages)
            self._news.set()
        else:
            self.found_empty = self.found_empty or asked_at >= self._came_at
            if not self._quiesced:
                await self._look_for_limit()
        self._demand.observe(len(messages))
        return [size_of(message.body) for message in messages]

    async def _too_late(self, response: bytes) -> None:
        """Give back at once what SQS hands to a poll that was hung up."""
        await self._give_back([wire.receipt_handle for wire in decode_receive(response)])

    async def _back_off(self, error: SqsError, backoff: Backoff) -> None:
        self._demand.observe(0)
        self._ended_at = time.time()
        self._metrics.set("coatcheck_up", 0, "queue")
        self._metrics.add("coatcheck_sqs_errors_total", 1, error.kind)
        self._no_receives.note(error)
        _log.warning("SQS does not answer for now", extra={"code": error.code})
        await backoff.wait()

    def _end(self, outage: Outage) -> None:
        """Note that requests are answered again; log it once, when all kinds of them are."""
        self._away_s = max(self._away_s, outage.over())
        if not (self._no_receives.away or self._no_acks.away):
            _log.log(NOTICE, "SQS answers again", extra={"seconds": round(self._away_s, 1)})
            self._away_s = 0.0

    async def _look_for_limit(self) -> None:
        """An empty receive may mean an empty queue, or 120,000 messages in flight: look now and then."""
        if self._clock() - self._looked_at < _LIMIT_LOOK_S:
            return
        first, self._looked_at = self._looked_at == 0.0, self._clock()
        if first:
            return
        try:
            depth = await self.depth()
        except SqsError:
            return  # receives go on; what is wrong with the queue they tell
        if depth.in_flight >= _IN_FLIGHT_LIMIT:
            _log.error("the queue's limit of 120,000 messages in flight is reached: receives come back empty")

    # -- acks, releases, leases

    async def _ack(self, receipts: list[str]) -> int:
        """Delete up to ten receipts, retrying what fails for now; return how many are given up.

        The keeper goes on extending what is being retried; what loses its lease is given up, and comes again. Raises
        UnreachableError when that has gone on for too long, and what people have to cure at once.
        """
        given_up, backoff = 0, Backoff()
        while True:
            try:
                async with self._requests:
                    left = await delete(self._client, self._url, receipts, timeout=_CONTROL_S)
            except SqsError as error:
                left = Left(again=receipts, error=error)
            if left.again:
                retry = set(left.again)
                self.leases.drop([receipt for receipt in receipts if receipt not in retry])
            else:
                self.leases.drop(receipts)
            receipts = [receipt for receipt in left.again if receipt in self.leases]
            given_up += len(left.gone) + len(left.again) - len(receipts)
            if left.error is None:
                if self._no_acks.away:
                    self._end(self._no_acks)
                return given_up
            self._metrics.add("coatcheck_sqs_errors_total", 1, left.error.kind)
            self._no_acks.note(left.error)
            if not receipts:
                return given_up
            _log.warning("acks fail for now and are tried again", extra={"code": left.error.code})
            await backoff.wait()

    async def _give_back(self, receipts: Sequence[str]) -> None:
        """Set visibility 0, once, within a bounded time: what fails comes back by its timeout."""
        self.leases.drop(receipts)

        async def one(chunk: list[str]) -> None:
            async with self._requests:
                await change_visibility(self._client, self._url, chunk, 0, timeout=_CONTROL_S / 2)

        failed = True
        with suppress(TimeoutError):
            async with asyncio.timeout(_CONTROL_S):
                results = await asyncio.gather(*(one(chunk) for chunk in tens(receipts)), return_exceptions=True)
                failed = any(isinstance(result, Exception) for result in results)
        if failed:
            _log.warning("messages could not be released; they come back after their visibility timeout")

    async def _set_visibility(self, receipts: Sequence[str], seconds: int) -> tuple[list[str], list[str]]:
        limit = min(_CONTROL_S, max(_EXTEND_LEAST_S, seconds / 8))  # time for another try before the lease is over
        left = await change_visibility(self._client, self._url, receipts, seconds, timeout=limit)
        return left.gone, left.again

    def _forget(self, messages: Sequence[Message]) -> None:
        self.leases.drop([message.receipt for message in messages])
        self._budget.free(len(messages), size_of_all(messages))
        self._spawn()


def _intact(wire: WireMessage) -> bool:
    if body_intact(wire):
        return True
    _log.warning("a body arrived damaged (MD5); it will come again", extra={"message_id": wire.message_id})
    return False
