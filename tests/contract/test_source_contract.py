"""What every source promises the runner, held against each of them: in memory, and SQS on the embedded server."""

from __future__ import annotations

import asyncio
import json
import random
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import pytest
from tests.support.fix_sqs import LIMIT, Queue, Queues, a_source, bodies, numbered, run

from coatcheck.pipeline.keying import ORIGIN_ATTRIBUTE
from coatcheck.pipeline.message import Message
from coatcheck.pipeline.ports import Source
from coatcheck.sources import sqs as sqs_module
from coatcheck.sources.memory import MemorySource

VISIBILITY_S = 1

BODIES = {
    "json": '{"user_id": "u-1", "ip": "199.172.111.135"}',
    "unicode": "Grüße, 世界, עולם, \u0301\u200d",
    "emoji": "\U0001f9e5\U0001f469\u200d\U0001f680 🏳️\u200d🌈",
    "line ends": "\ta\r\nb\nc\rd\t\r\n",
    "markup": "<a href='x'>&amp;</a> \"\\\" </Body>",
    "spaces": "   ",
    "high": "\ue000\ufffd\U00010000\U0010ffff",
    "controls as JSON": '{"a": "\\u0000\\ud800"}',
    "one MiB": "x" * 2**20,
    "one MiB of emoji": "🧥" * 2**18,
}


class End(ABC):
    """A queue and the source that reads it, as a test of the contract needs them."""

    source: Source

    @abstractmethod
    def send(self, texts: Sequence[str], origin: str | None = None) -> list[str]:
        """Put bodies on the queue; return their message ids."""

    @abstractmethod
    async def lapse(self) -> None:
        """Let the visibility timeout of everything in flight pass, as when its holder has died."""

    @abstractmethod
    async def reopen(self) -> None:
        """Read the same queue with a fresh source, after `source` was closed."""

    async def take(self, count: int) -> list[Message]:
        """Receive `count` messages, not one more."""
        taken: list[Message] = []
        async with asyncio.timeout(LIMIT):
            while len(taken) < count:
                taken += await self.source.receive(0.2)
        assert len(taken) == count
        return taken

    async def depth_becomes(self, visible: int, in_flight: int) -> None:
        """Wait for these counts."""
        deadline = time.monotonic() + LIMIT
        while ((depth := await self.source.depth()).visible, depth.in_flight) != (visible, in_flight):
            assert time.monotonic() < deadline, f"{depth}"
            await asyncio.sleep(0.01)


class MemoryEnd(End):
    def __init__(self) -> None:
        self.memory = MemorySource()
        self.source = self.memory

    def send(self, texts: Sequence[str], origin: str | None = None) -> list[str]:
        before = len(self.memory._visible)
        self.memory.send(texts, sent_ms=int(time.time() * 1000), origin=origin)
        return [message.message_id for message in list(self.memory._visible)[before:]]

    async def lapse(self) -> None:
        self.memory.expire()

    async def reopen(self) -> None:
        await self.memory.start()


class SqsEnd(End):
    def __init__(self, queue: Queue, **options: Any) -> None:
        self.queue, self._options = queue, options
        self.sqs = a_source(queue.url, **options)
        self.source = self.sqs

    def send(self, texts: Sequence[str], origin: str | None = None) -> list[str]:
        if origin is None:
            return self.queue.send(texts)
        attributes = {ORIGIN_ATTRIBUTE: {"DataType": "String", "StringValue": origin}}
        return self.queue.send(texts, MessageAttributes=attributes)

    async def lapse(self) -> None:
        assert self.sqs._keeper is not None
        self.sqs._keeper.cancel()  # a dead holder extends nothing: what comes next waits for the queue's clock

    async def reopen(self) -> None:
        self.sqs = a_source(self.queue.url, **self._options)
        self.source = self.sqs
        await self.sqs.start()


Ends = Callable[..., AbstractAsyncContextManager[End]]


@pytest.fixture(params=["memory", "sqs"])
def ends(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Ends:
    """Open a fresh queue with a started source on it."""

    @asynccontextmanager
    async def opened(*, visibility: int = 30, **options: Any) -> AsyncIterator[End]:
        end: End
        if request.param == "memory":
            end = MemoryEnd()
        else:
            queues: Queues = request.getfixturevalue("queues")
            end = SqsEnd(queues.create(visibility=visibility), **options)
        await end.source.start()
        try:
            yield end
        finally:
            with monkeypatch.context() as quick:  # the test is over: no polls need be waited for
                quick.setattr(sqs_module, "_HANG_UP_S", 0.05)
                await end.source.close()

    return opened


def test_what_was_sent_is_received_with_its_identity(ends: Ends) -> None:
    async def work() -> None:
        async with ends() as end:
            earliest = int(time.time() * 1000)
            ids = end.send(numbered(25))
            latest = int(time.time() * 1000)
            messages = await end.take(25)
            assert sorted(bodies(messages)) == sorted(numbered(25))
            assert {message.body: message.message_id for message in messages} == dict(
                zip(numbered(25), ids, strict=True)
            )
            assert all(earliest - 1 <= message.sent_ms <= latest + 1 for message in messages)
            assert all(message.received_ms >= message.sent_ms for message in messages)
            assert {message.receive_count for message in messages} == {1}
            assert {message.origin for message in messages} == {None}
            assert len({message.receipt for message in messages}) == 25

    run(work())


@pytest.mark.parametrize("kind", BODIES)
def test_a_body_comes_as_it_was_sent(ends: Ends, kind: str) -> None:
    async def work() -> None:
        async with ends() as end:
            end.send([BODIES[kind]])
            (message,) = await end.take(1)
            assert message.body == BODIES[kind]

    run(work())


def test_what_is_acked_is_gone_for_good(ends: Ends) -> None:
    async def work() -> None:
        async with ends(visibility=VISIBILITY_S) as end:
            end.send(numbered(23))
            assert await end.source.ack(await end.take(23)) == 0
            await end.depth_becomes(0, 0)
            await end.lapse()
            assert await end.source.receive(VISIBILITY_S + 0.2) == []

    run(work())


def test_acking_nothing_is_fine(ends: Ends) -> None:
    async def work() -> None:
        async with ends() as end:
            assert await end.source.ack([]) == 0
            await end.source.release([])

    run(work())


def test_what_is_released_comes_again_at_once(ends: Ends) -> None:
    async def work() -> None:
        async with ends(visibility=600) as end:
            end.send(numbered(12))
            first = await end.take(12)
            await end.source.release(first)
            again = await end.take(12)
            assert {message.message_id for message in again} == {message.message_id for message in first}
            assert not {message.receipt for message in again} & {message.receipt for message in first}
            assert {message.receive_count for message in again} == {2}
            assert await end.source.ack(again) == 0
            await end.depth_becomes(0, 0)

    run(work())


def test_what_is_not_acked_comes_again_with_the_same_id_and_a_new_receipt(ends: Ends) -> None:
    async def work() -> None:
        async with ends(visibility=VISIBILITY_S) as end:
            end.send(numbered(3))
            first = await end.take(3)
            await end.lapse()
            again = await end.take(3)
            known = {message.message_id: message for message in first}
            for message in again:
                before = known.pop(message.message_id)
                assert (message.body, message.sent_ms) == (before.body, before.sent_ms)
                assert message.receipt != before.receipt
                assert message.receive_count == before.receive_count + 1
            assert not known

    run(work())


def test_what_is_in_flight_is_shown_to_nobody(ends: Ends) -> None:
    async def work() -> None:
        async with ends() as end:
            end.send(numbered(10))
            await end.take(10)
            assert await end.source.receive(0.3) == []

    run(work())


def test_receive_returns_nothing_after_its_timeout(ends: Ends) -> None:
    async def work() -> None:
        async with ends() as end:
            for timeout in (0.0, 0.3):
                before = time.monotonic()
                assert await end.source.receive(timeout) == []
                assert timeout - 0.02 <= time.monotonic() - before < timeout + 1.0

    run(work())


def test_receive_ends_as_soon_as_something_comes(ends: Ends) -> None:
    async def work() -> None:
        async with ends() as end:
            waiting = asyncio.create_task(end.source.receive(LIMIT))
            await asyncio.sleep(0)
            end.send(["late"])
            before = time.monotonic()
            assert bodies(await waiting) == ["late"]
            assert time.monotonic() - before < 5.0

    run(work())


def test_cancelling_receive_loses_nothing(ends: Ends) -> None:
    async def work() -> None:
        async with ends() as end:
            chance = random.Random(7)  # noqa: S311 - a schedule, no secret
            taken: list[Message] = []
            total = 0
            while total < 60:
                end.send(numbered(5, total))
                total += 5
                task = asyncio.create_task(end.source.receive(1.0))
                await asyncio.sleep(chance.uniform(0.0, 0.02))
                task.cancel()
                try:
                    taken += await task
                except asyncio.CancelledError:
                    continue
            taken += await end.take(total - len(taken))
            assert sorted(bodies(taken)) == sorted(numbered(total))

    run(work())


def test_quiesce_ends_receiving_and_what_came_before_is_not_lost(ends: Ends) -> None:
    async def work() -> None:
        async with ends() as end:
            end.send(numbered(7))
            taken = await end.take(7)
            await end.source.quiesce()
            end.send(numbered(5, 100))
            assert await end.source.receive(0.3) == []
            assert await end.source.receive(0.0) == []
            assert await end.source.ack(taken[:4]) == 0
            await end.source.release(taken[4:])
            await end.depth_becomes(8, 0)

    run(work())


def test_quiesce_may_be_called_twice(ends: Ends) -> None:
    async def work() -> None:
        async with ends() as end:
            await end.source.quiesce()
            await end.source.quiesce()
            assert await end.source.receive(0.0) == []

    run(work())


def test_close_gives_back_everything_in_flight_at_once(ends: Ends) -> None:
    async def work() -> None:
        async with ends(visibility=600) as end:
            end.send(numbered(27))
            first = await end.take(27)
            assert await end.source.ack(first[:4]) == 0
            await end.source.close()
            await end.reopen()
            again = await end.take(23)
            assert {message.message_id for message in again} == {message.message_id for message in first[4:]}

    run(work())


def test_close_gives_back_what_nobody_took(ends: Ends) -> None:
    async def work() -> None:
        async with ends(visibility=600) as end:
            end.send(numbered(27))
            assert await end.source.receive(LIMIT)
            await end.source.close()
            await end.reopen()
            assert sorted(bodies(await end.take(27))) == sorted(numbered(27))

    run(work())


def test_depth_counts_what_waits_and_what_is_in_flight(ends: Ends) -> None:
    async def work() -> None:
        async with ends() as end:
            assert (await end.source.depth()).total == 0
            end.send(numbered(9))
            messages = await end.take(9)
            await end.depth_becomes(0, 9)
            assert await end.source.ack(messages[:5]) == 0
            await end.depth_becomes(0, 4)
            await end.source.quiesce()
            end.send(numbered(3))
            await end.depth_becomes(3, 4)
            depth = await end.source.depth()
            assert (depth.delayed, depth.total) == (0, 7)

    run(work())


@pytest.mark.parametrize("origin", ["id:00000000-0000-4000-8000-00000000002a:1700000000000", "key:" + "0f" * 16])
def test_the_origin_arrives(ends: Ends, origin: str) -> None:
    async def work() -> None:
        async with ends() as end:
            end.send(["with"], origin)
            end.send(["without"])
            messages = await end.take(2)
            assert {message.body: message.origin for message in messages} == {"with": origin, "without": None}

    run(work())


def test_the_visibility_timeout_is_known_once_started(ends: Ends) -> None:
    async def work() -> None:
        async with ends(visibility=30) as end:
            assert end.source.visibility_s == 30.0

    run(work())


def test_nothing_shows_a_body_or_a_receipt(ends: Ends) -> None:
    async def work() -> None:
        async with ends() as end:
            end.send(["CANARY-BODY"])
            (message,) = await end.take(1)
            shown = f"{end.source!r} {end.source} {message!r} {message} {[message]}"
            assert "CANARY" not in shown
            assert len(message.receipt) < 5 or message.receipt not in shown  # in memory it is a number

    run(work())


def test_bodies_of_json_survive_both_ways(ends: Ends) -> None:
    async def work() -> None:
        async with ends() as end:
            value = {"text": "".join(map(chr, [*range(32, 0xD800, 97), *range(0xE000, 0xFFFD, 97)]))}
            end.send([json.dumps(value), json.dumps(value, ensure_ascii=False)])
            for message in await end.take(2):
                assert json.loads(message.body) == value

    run(work())
