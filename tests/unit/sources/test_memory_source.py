"""The queue and the table in memory: what they share with the real ones, so that tests on them mean something."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine
from typing import Any, TypeVar

import pytest
from tests.support.builders import SENT_MS, a_message, a_road, login_body

from coatcheck.pipeline.message import Batch, Depth, Message, Reason, Reject, Rejected, Row
from coatcheck.sinks.memory import MemorySink
from coatcheck.sources.memory import MemorySource

T = TypeVar("T")


def run(story: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(story)


def bodies(messages: list[Message]) -> list[str]:
    return [message.body for message in messages]


def test_messages_come_in_order_ten_at_a_time() -> None:
    async def story() -> None:
        source = MemorySource(map(str, range(25)), sent_ms=SENT_MS)
        received = [await source.receive(0) for _ in range(4)]
        assert [bodies(some) for some in received] == [
            list(map(str, range(10))), list(map(str, range(10, 20))), list(map(str, range(20, 25))), [],
        ]  # fmt: skip
        everything = [message for some in received for message in some]
        assert len({message.message_id for message in everything}) == 25
        assert {(message.sent_ms, message.receive_count, message.origin) for message in everything} == {
            (SENT_MS, 1, None)
        }
        assert await source.depth() == Depth(0, 25, 0)

    run(story())


def test_a_released_message_comes_back_first_with_a_new_receipt() -> None:
    async def story() -> None:
        source = MemorySource(["a", "b", "c"])
        first = await source.receive(0)
        source.send(["d"])
        await source.release(first[:2])
        assert await source.depth() == Depth(3, 1, 0)
        again = await source.receive(0)
        assert bodies(again) == ["a", "b", "d"]
        assert [message.message_id for message in again[:2]] == [message.message_id for message in first[:2]]
        assert not {message.receipt for message in again} & {message.receipt for message in first}
        assert [message.receive_count for message in again] == [2, 2, 1]

    run(story())


def test_an_acked_message_is_gone() -> None:
    async def story() -> None:
        source = MemorySource(["a", "b"])
        received = await source.receive(0)
        assert await source.ack(received[:1]) == 0
        assert await source.ack(received) == 1  # the first was acked already
        source.expire()
        assert await source.receive(0) == []

    run(story())


def test_an_expired_message_comes_back_and_its_old_receipt_is_worth_nothing() -> None:
    async def story() -> None:
        source = MemorySource(["a"])
        old = await source.receive(0)
        source.expire()
        assert await source.depth() == Depth(1, 0, 0)
        assert await source.ack(old) == 1
        await source.release(old)
        (new,) = await source.receive(0)
        assert new.receive_count == 2
        assert await source.ack(old) == 1
        assert await source.ack([new]) == 0
        assert (await source.depth()).total == 0

    run(story())


def test_a_message_may_be_delivered_twice() -> None:
    async def story() -> None:
        source = MemorySource(["a"])
        first = await source.receive(0)
        source.deliver_again(first)
        second = await source.receive(0)
        assert first[0].message_id == second[0].message_id
        assert first[0].receipt != second[0].receipt
        assert await source.ack(first + second) == 0

    run(story())


def test_an_origin_comes_along() -> None:
    async def story() -> None:
        source = MemorySource()
        source.send(["a"], sent_ms=5, origin="key:abc")
        (message,) = await source.receive(0)
        assert (message.origin, message.sent_ms) == ("key:abc", 5)
        source.expire()
        assert (await source.receive(0))[0].origin == "key:abc"

    run(story())


def test_receive_waits_for_a_message_and_no_longer_than_it_may() -> None:
    async def story() -> None:
        source = MemorySource()
        started = time.monotonic()
        assert await source.receive(0.05) == []
        assert time.monotonic() - started >= 0.04
        waiting = asyncio.create_task(source.receive(30))
        await asyncio.sleep(0.01)
        source.send(["a"])
        assert bodies(await asyncio.wait_for(waiting, 10)) == ["a"]
        waiting = asyncio.create_task(source.receive(30))
        await asyncio.sleep(0.01)
        source.expire()
        assert bodies(await asyncio.wait_for(waiting, 10)) == ["a"]

    run(story())


def test_a_cancelled_receive_loses_nothing() -> None:
    async def story() -> None:
        source = MemorySource()
        for turns in range(6):
            waiting = asyncio.create_task(source.receive(30))
            await asyncio.sleep(0)
            source.send(["a"])
            for _ in range(turns):
                await asyncio.sleep(0)
            waiting.cancel()
            received = (await asyncio.gather(waiting, return_exceptions=True))[0]
            if isinstance(received, asyncio.CancelledError):
                received = await source.receive(0)
            assert isinstance(received, list)
            assert bodies(received) == ["a"]
            await source.ack(received)

    run(story())


def test_after_quiesce_nothing_is_handed_out_until_a_new_start() -> None:
    async def story() -> None:
        source = MemorySource(["a", "b"])
        await source.start()
        await source.quiesce()
        assert await source.receive(30) == []
        await source.start()
        assert len(await source.receive(0)) == 2

    run(story())


def test_close_gives_back_what_is_in_flight() -> None:
    async def story() -> None:
        source = MemorySource(["a", "b", "c"])
        received = await source.receive(0)
        await source.ack(received[1:2])
        await source.close()
        assert await source.depth() == Depth(2, 0, 0)
        assert bodies(await source.receive(0)) == ["a", "c"]

    run(story())


def test_visibility_is_as_given() -> None:
    assert MemorySource().visibility_s == 30
    assert MemorySource(visibility_s=5).visibility_s == 5


# -- the sink


def entry(number: int, body: str | None = None) -> Row | Rejected:
    return a_road().travel(a_message(login_body() if body is None else body, message_id=str(number)))


def a_batch(*numbers: int, bad: tuple[int, ...] = ()) -> Batch:
    rows, rejected = [entry(number) for number in numbers], [entry(number, "bad") for number in bad]
    return Batch(
        [row for row in rows if isinstance(row, Row)], [reject for reject in rejected if isinstance(reject, Rejected)]
    )


def test_the_ledger_lets_each_message_in_once() -> None:
    async def story() -> None:
        sink = MemorySink()
        await sink.open()
        first = await sink.write(a_batch(1, 2, 1, bad=(3, 2)))
        assert (first.loaded, first.quarantined, first.duplicates, first.refused) == (2, 1, 2, [])
        second = await sink.write(a_batch(2, 4, bad=(3, 1)))
        assert (second.loaded, second.quarantined, second.duplicates) == (1, 0, 3)
        assert [row.message.message_id for row in sink.rows] == ["1", "2", "4"]
        assert [reject.message.message_id for reject in sink.quarantine] == ["3"]
        await sink.close()

    run(story())


def test_a_refused_row_has_no_effect_and_may_come_back_as_a_reject() -> None:
    async def story() -> None:
        sink = MemorySink()
        sink.refuse = {"2": "22003"}
        batch = a_batch(1, 2)
        outcome = await sink.write(batch)
        assert (outcome.loaded, outcome.duplicates) == (1, 0)
        assert outcome.refused == [(batch.rows[1], Reject(Reason.REFUSED_BY_DATABASE, "22003"))]
        again = await sink.write(Batch(rejected=[a_road().refuse(row, code) for row, code in outcome.refused]))
        assert (again.quarantined, again.duplicates) == (1, 0)
        known = await sink.write(batch)
        assert (known.loaded, known.duplicates, known.refused) == (0, 2, [])

    run(story())


@pytest.mark.parametrize("count", [0, 1, 3])
def test_an_outcome_accounts_for_every_message(count: int) -> None:
    sink = MemorySink()
    sink.refuse = {"0": "22003"}
    outcome = run(sink.write(a_batch(*range(count), bad=tuple(range(10, 10 + count)))))
    assert outcome.loaded + outcome.quarantined + outcome.duplicates + len(outcome.refused) == 2 * count
