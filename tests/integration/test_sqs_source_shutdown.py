"""The end: polls are hung up in two seconds, and whatever is in flight goes back at once."""

from __future__ import annotations

import asyncio
import json
import time

import pytest
from tests.support.fix_sqs import Queues, a_source, bodies, numbered, reading, run, scripted, take, until
from tests.support.scripted_sqs import Answer, cut, ok, received, wire_message

from coatcheck.sources import sqs as sqs_module

RELEASE = "ChangeMessageVisibilityBatch"


def test_quiesce_hangs_up_a_long_poll_after_two_seconds() -> None:
    async def work() -> None:
        async with scripted(wait_s=20) as (server, source):
            await source.start()
            await until(lambda: server.polling, "the poll")
            before = time.monotonic()
            await source.quiesce()
            assert 1.5 < time.monotonic() - before < 3.0
            assert len(server.of("ReceiveMessage")) == 1

    run(work())


def test_what_arrives_before_the_hang_up_still_comes_out_of_receive() -> None:
    async def work() -> None:
        async with scripted(wait_s=20) as (server, source):
            await source.start()
            await until(lambda: server.polling, "the poll")
            ending = asyncio.create_task(source.quiesce())
            await asyncio.sleep(0)
            server.put("in time")
            await ending
            assert bodies(await source.receive(0.0)) == ["in time"]
            assert not server.released

    run(work())


def test_what_arrives_after_the_hang_up_is_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    async def work() -> None:
        arrived = asyncio.Event()
        async with scripted(wait_s=20) as (server, source):
            messages = [wire_message(number) for number in range(3)]
            server.script("ReceiveMessage", received(*messages, until=arrived))
            await source.start()
            await until(lambda: server.polling, "the poll")
            await source.quiesce()
            arrived.set()
            await until(lambda: len(server.released) == 3, "the messages to be released")
            assert set(server.released) == {message["ReceiptHandle"] for message in messages}
            assert await source.receive(0.0) == []
            assert len(source.leases) == 0

    monkeypatch.setattr(sqs_module, "_HANG_UP_S", 0.1)
    run(work())


def test_a_late_answer_that_is_broken_harms_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    async def work() -> None:
        arrived = asyncio.Event()
        async with scripted(wait_s=20) as (server, source):
            server.script("ReceiveMessage", Answer(b"CANARY", until=arrived))
            await source.start()
            await until(lambda: server.polling, "the poll")
            await source.quiesce()
            arrived.set()
            await until(lambda: not server.polling, "the answer")
            assert await source.receive(0.1) == []

    monkeypatch.setattr(sqs_module, "_HANG_UP_S", 0.1)
    run(work())


def test_an_answer_cut_off_by_the_hang_up_is_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its head had come, its body was on the way."""

    async def work() -> None:
        async with scripted(wait_s=20) as (server, source):
            body = json.dumps({"Messages": [wire_message(1), wire_message(2)]}).encode()
            server.script("ReceiveMessage", Answer(body, pause_in_body=0.6))
            await source.start()
            await until(lambda: len(server.of("ReceiveMessage")) == 1, "the poll")
            await source.quiesce()
            await until(lambda: len(server.released) == 2, "the messages to be released", limit=5.0)

    monkeypatch.setattr(sqs_module, "_HANG_UP_S", 0.2)
    run(work())


def test_an_answer_after_close_harms_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    async def work() -> None:
        arrived = asyncio.Event()
        async with scripted(wait_s=20) as (server, source):
            server.script("ReceiveMessage", received(wire_message(1), until=arrived))
            await source.start()
            await until(lambda: server.polling, "the poll")
            before = time.monotonic()
            await source.close()
            assert time.monotonic() - before < 2.0
            arrived.set()
            await until(lambda: not server.polling, "the answer")

    monkeypatch.setattr(sqs_module, "_HANG_UP_S", 0.1)
    run(work())


@pytest.mark.parametrize("taken", [True, False])
def test_close_shows_everything_at_once_on_the_real_server(queues: Queues, taken: bool) -> None:  # noqa: FBT001 - one of two ways
    """Long polls that were hung up are still there for the server; it hands them what is given back."""

    async def work() -> None:
        queue = queues.create(visibility=600)
        queue.send_many(numbered(35))
        async with reading(queue, wait_s=20) as source:
            if taken:
                await take(source, 35)
            await until(lambda: len(source.leases) == 35, "all to be received")
            await source.close()
            assert queue.counts() == (35, 0)
            assert {message["Body"] for message in queue.receive(most=35)} == set(numbered(35)), "and it stays so"

    run(work())


def test_close_shows_everything_at_once_though_many_polls_are_hung_up(monkeypatch: pytest.MonkeyPatch) -> None:
    async def work() -> None:
        async with scripted(wait_s=20, receivers=8, latency=0.01) as (server, source):
            server.put(*numbered(120))
            await source.start()
            await take(source, 120)
            await until(lambda: server.polling >= 3, "some polls")
            await source.close()
            assert (len(server.visible), len(server.in_flight)) == (120, 0)

    monkeypatch.setattr(sqs_module, "_HANG_UP_S", 0.5)
    run(work())


def test_close_with_nothing_in_flight_waits_for_nothing_but_the_hang_up(queues: Queues) -> None:
    async def work() -> None:
        queue = queues.create()
        queue.send(numbered(5))
        async with reading(queue, wait_s=20) as source:
            await take(source, 5, ack=True)
            before = time.monotonic()
            await source.close()
            assert time.monotonic() - before < 2.6

    run(work())


def test_close_is_bounded_when_the_queue_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    async def work() -> None:
        async with scripted(receivers=1, wait_s=1) as (server, source):
            server.put(*numbered(200))
            await source.start()
            await take(source, 200)
            server.always(RELEASE, ok({}, delay=60))
            before = time.monotonic()
            await source.close()
            assert time.monotonic() - before < 3.0, "not a timeout for each ten messages"

    monkeypatch.setattr(sqs_module, "_CONTROL_S", 0.5)
    run(work())


def test_close_ends_when_the_queue_is_away(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    async def work() -> None:
        async with scripted(wait_s=1) as (server, source):
            server.put(*numbered(30))
            await source.start()
            await take(source, 30)
            server.always(RELEASE, cut())
            await source.close()
            assert server.of(RELEASE)

    monkeypatch.setattr(sqs_module, "_HANG_UP_S", 0.1)
    run(work())
    assert "could not be released" in caplog.text


def test_close_may_come_before_start_and_twice() -> None:
    async def work() -> None:
        source = a_source("http://127.0.0.1:1/000000000000/logins")
        await source.quiesce()
        await source.close()
        await source.close()

    run(work())


def test_a_source_that_could_not_start_is_closed_like_any_other() -> None:
    async def work() -> None:
        async with scripted() as (server, source):
            server.always("GetQueueAttributes", Answer(b'{"__type":"com.amazonaws.sqs#QueueDoesNotExist"}', 400))
            with pytest.raises(Exception, match="missing queue"):
                await source.start()

    run(work())


def test_a_killed_source_leaves_its_messages_to_their_timeout(queues: Queues) -> None:
    async def work() -> None:
        queue = queues.create(visibility=1)
        queue.send(numbered(3))
        source = a_source(queue.url)
        await source.start()
        await take(source, 3)
        await source._client.close()  # a crash: nothing is given back, nothing extended
        assert source._keeper is not None
        source._keeper.cancel()
        async with reading(queue) as other:
            again = await take(other, 3)
            assert min(message.receive_count for message in again) >= 2
            assert await other.ack(again) == 0
        await source.close()

    run(work())


def test_other_readers_get_what_one_has_left(queues: Queues) -> None:
    async def work() -> None:
        queue = queues.create(visibility=600)
        queue.send(numbered(30))
        async with reading(queue) as leaves:
            await until(lambda: len(leaves.leases) == 30, "all to be received")
            acked = await leaves.receive(1.0)
            assert await leaves.ack(acked) == 0
            async with reading(queue) as stays:
                await leaves.close()
                rest = await take(stays, 30 - len(acked), ack=True)
            assert sorted(bodies(acked + rest)) == sorted(numbered(30))
            assert queue.counts() == (0, 0)

    run(work())
