"""Acks: in tens, with a look at every entry; what fails for now is tried again, what is gone is counted."""

from __future__ import annotations

import asyncio
import time

import pytest
from tests.support.fix_sqs import Queues, bodies, numbered, reading, run, scripted, take, until
from tests.support.scripted_sqs import Answer, Reply, cut, failing, refusal

from coatcheck.sources.sqs_client import SqsError

pytestmark = pytest.mark.usefixtures("quick_end")

EXTEND, DELETE = "ChangeMessageVisibilityBatch", "DeleteMessageBatch"


@pytest.mark.parametrize("count", [1, 9, 10, 11, 205])
def test_acks_go_in_tens(count: int) -> None:
    async def work() -> None:
        async with scripted(receivers=4) as (server, source):
            ids = server.put(*numbered(count))
            await source.start()
            messages = await take(source, count)
            assert await source.ack(messages) == 0
            assert sorted(server.deleted) == sorted(ids)
            requests = server.of(DELETE)
            assert len(requests) == -(-count // 10)
            assert max(len(request.receipts) for request in requests) <= 10
            for request in requests:
                places = [entry["Id"] for entry in request.body["Entries"]]
                assert places == [str(place) for place in range(len(places))]
            assert len(source.leases) == 0

    run(work())


@pytest.mark.parametrize(
    ("code", "sender_fault"),
    [("InternalError", False), ("ServiceUnavailable", False), ("RequestThrottled", True), ("Unheard.Of", True)],
)
def test_entries_that_fail_for_now_are_tried_again_until_done(code: str, sender_fault: bool) -> None:  # noqa: FBT001 - a column of the table
    async def work() -> None:
        async with scripted() as (server, source):
            some = failing({"receipt-3": code, "receipt-7": code}, sender_fault=sender_fault)
            one = failing({"receipt-7": code}, sender_fault=sender_fault)
            server.script(DELETE, some, one)
            server.put(*numbered(10))
            await source.start()
            assert await source.ack(await take(source, 10)) == 0
            receipts = [request.receipts for request in server.of(DELETE)]
            assert receipts[1:] == [["receipt-3", "receipt-7"], ["receipt-7"]]
            assert [entry["Id"] for entry in server.of(DELETE)[1].body["Entries"]] == ["0", "1"]

    run(work())


def test_a_stale_receipt_is_counted_and_not_asked_again() -> None:
    async def work() -> None:
        async with scripted() as (server, source):
            stale = failing({"receipt-2": "ReceiptHandleIsInvalid", "receipt-5": "InvalidParameterValue"})
            server.script(DELETE, stale)
            server.put(*numbered(6))
            await source.start()
            assert await source.ack(await take(source, 6)) == 2
            assert len(server.of(DELETE)) == 1
            assert len(source.leases) == 0

    run(work())


def test_gone_and_failed_entries_of_one_answer_go_their_own_ways() -> None:
    async def work() -> None:
        async with scripted() as (server, source):
            mixed = failing({"receipt-1": "ReceiptHandleIsInvalid", "receipt-2": "InternalError"})
            server.script(DELETE, mixed)
            server.put(*numbered(3))
            await source.start()
            assert await source.ack(await take(source, 3)) == 1
            assert [request.receipts for request in server.of(DELETE)][1:] == [["receipt-2"]]

    run(work())


@pytest.mark.parametrize(
    "trouble",
    [
        Answer(b"", 500),
        Answer(b"<html/>", 503),
        refusal("RequestThrottled", 403),
        cut(),
        Answer(b'{"Successful":', 200),
        Answer(b'{"Failed":[{"Id":"0","Code":"InternalError"}]}', keep=9),
    ],
    ids=["500", "503", "throttled", "cut", "truncated JSON", "cut in the body"],
)
def test_a_failed_request_is_sent_again(trouble: Reply) -> None:
    async def work() -> None:
        async with scripted() as (server, source):
            server.script(DELETE, trouble, trouble)
            ids = server.put(*numbered(4))
            await source.start()
            assert await source.ack(await take(source, 4)) == 0
            assert server.deleted == ids
            assert len(server.of(DELETE)) == 3

    run(work())


def test_a_refused_ack_is_told_and_close_gives_its_messages_back() -> None:
    async def work() -> None:
        async with scripted() as (server, source):
            server.always(DELETE, refusal("AccessDenied", 403))
            server.put(*numbered(15))
            await source.start()
            messages = await take(source, 15)
            with pytest.raises(SqsError) as caught:
                await source.ack(messages)
            assert (caught.value.kind, caught.value.operation) == ("denied", DELETE)
            await source.close()
            assert {message.receipt for message in messages} <= set(server.released)

    run(work())


def test_a_message_whose_lease_is_lost_is_tried_once() -> None:
    async def work() -> None:
        async with scripted(visibility=1) as (server, source):
            server.always(EXTEND, failing({"receipt-1": "ReceiptHandleIsInvalid"}))
            server.always(DELETE, failing({"receipt-1": "InternalError"}))
            server.put("one")
            await source.start()
            messages = await take(source, 1)
            await until(lambda: not len(source.leases), "the lease to be lost")
            assert await source.ack(messages) == 1
            assert len(server.of(DELETE)) == 1

    run(work())


def test_an_ack_that_loses_its_lease_meanwhile_ends() -> None:
    async def work() -> None:
        async with scripted(visibility=1) as (server, source):
            server.always(EXTEND, failing({"receipt-1": "ReceiptHandleIsInvalid"}))
            server.always(DELETE, failing({"receipt-1": "InternalError"}))
            server.put(*numbered(2))
            await source.start()
            assert await source.ack(await take(source, 2)) == 1
            assert len(server.of(DELETE)) < 12

    run(work())


def test_what_is_being_acked_again_and_again_is_still_extended() -> None:
    async def work() -> None:
        async with scripted(visibility=1) as (server, source):
            server.always(DELETE, failing({"receipt-1": "InternalError"}))
            server.put("one")
            await source.start()
            acking = asyncio.create_task(source.ack(await take(source, 1)))
            await until(lambda: source.leases.extended >= 2, "two extensions")
            server.always(DELETE, None)
            assert await acking == 0
            assert len(server.deleted) == 1

    run(work())


def test_acks_back_off() -> None:
    async def work() -> None:
        async with scripted() as (server, source):
            server.always(DELETE, Answer(b"", 500))
            server.put(*numbered(40))
            await source.start()
            acking = asyncio.create_task(source.ack(await take(source, 40)))
            await asyncio.sleep(1.0)
            assert len(server.of(DELETE)) <= 4 * 12
            server.always(DELETE, None)
            assert await acking == 0

    run(work())


def test_one_stubborn_receipt_does_not_keep_the_room_of_the_others() -> None:
    async def work() -> None:
        async with scripted(max_in_flight=100) as (server, source):
            server.always(DELETE, failing({"receipt-1": "InternalError"}, sender_fault=False))
            server.put(*numbered(160))
            await source.start()
            acking = asyncio.create_task(source.ack(await take(source, 100)))
            assert len(await take(source, 60, limit=10.0)) == 60
            server.always(DELETE, None)
            assert await acking == 0

    run(work())


def test_acks_of_many_batches_at_once_stay_within_the_receivers() -> None:
    async def work() -> None:
        async with scripted(receivers=4, latency=0.01) as (server, source):
            server.put(*numbered(400))
            await source.start()
            messages = await take(source, 400)
            before = time.monotonic()
            parts = [messages[start : start + 100] for start in range(0, 400, 100)]
            assert await asyncio.gather(*(source.ack(part) for part in parts)) == [0] * 4
            assert time.monotonic() - before >= 40 / 4 * 0.01, "four at a time, not forty"
            assert len(server.deleted) == 400

    run(work())


# -- on the real server


def test_acking_twice_is_counted_or_fine(queues: Queues) -> None:
    """The embedded server answers Failed for what is deleted, AWS answers success: neither is an error."""

    async def work() -> None:
        queue = queues.create()
        queue.send(numbered(3))
        async with reading(queue) as source:
            messages = await take(source, 3)
            assert await source.ack(messages) == 0
            assert await source.ack(messages) in (0, 3)
            assert queue.counts() == (0, 0)

    run(work())


def test_a_receipt_that_was_overtaken_is_counted_or_fine(queues: Queues) -> None:
    async def work() -> None:
        queue = queues.create(visibility=1)
        queue.send(["one"])
        async with reading(queue) as source:
            (first,) = await take(source, 1)
            assert source._keeper is not None
            source._keeper.cancel()  # as if it had been asleep
            (second,) = await take(source, 1)
            assert (second.message_id, second.receive_count) == (first.message_id, 2)
            assert await source.ack([first]) in (0, 1)
            assert await source.ack([second]) in (0, 1)
            assert queue.counts() == (0, 0)

    run(work())


def test_a_release_of_what_is_gone_is_fine(queues: Queues, caplog: pytest.LogCaptureFixture) -> None:
    async def work() -> None:
        queue = queues.create()
        queue.send(numbered(3))
        async with reading(queue) as source:
            messages = await take(source, 3)
            assert await source.ack(messages) == 0
            await source.release(messages)
            queue.send(["more"])
            assert bodies(await take(source, 1)) == ["more"]

    run(work())
    assert not caplog.records
