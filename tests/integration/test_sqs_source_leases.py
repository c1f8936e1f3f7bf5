"""Leases: what is in flight stays invisible until it is acked or released, and no longer."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence

import pytest
from tests.support.fix_sqs import Clock, Queues, bodies, numbered, reading, run, scripted, take, until
from tests.support.scripted_sqs import Answer, Request, failing, ok, received, refusal, wire_message

from coatcheck.pipeline.message import Message
from coatcheck.sources.sqs_leases import Leases

pytestmark = pytest.mark.usefixtures("quick_end")

EXTEND, DELETE = "ChangeMessageVisibilityBatch", "DeleteMessageBatch"


# -- on the real server


def test_a_slow_consumer_gets_no_message_twice(queues: Queues) -> None:
    async def work() -> None:
        queue = queues.create(visibility=2)
        queue.send_many(numbered(45))
        async with reading(queue) as source, reading(queue) as other:  # both would see what becomes visible
            seen: list[Message] = []
            end = time.monotonic() + 7.0
            while time.monotonic() < end:
                seen += await source.receive(0.1)
                seen += await other.receive(0.1)
            assert sorted(bodies(seen)) == sorted(numbered(45))
            assert {message.receive_count for message in seen} == {1}
            for reader in (source, other):
                assert await reader.ack([message for message in seen if message.receipt in reader.leases]) == 0
            assert queue.counts() == (0, 0)

    run(work())


def test_a_visibility_timeout_lowered_meanwhile_loses_no_lease(queues: Queues) -> None:
    async def work() -> None:
        queue = queues.create(visibility=30)
        async with reading(queue) as source:
            queue.set(VisibilityTimeout="1")
            queue.send(numbered(3))
            messages = await take(source, 3)
            assert await source.receive(2.5) == []
            assert await source.ack(messages) == 0

    run(work())


def test_a_queue_that_hides_nothing_by_itself_is_read_like_any_other(queues: Queues) -> None:
    async def work() -> None:
        queue = queues.create(visibility=0)
        queue.send(numbered(3))
        async with reading(queue) as source:
            messages = await take(source, 3)
            assert await source.receive(1.0) == []
            assert await source.ack(messages) == 0
            assert queue.counts() == (0, 0)

    run(work())


# -- on the scripted server


def test_extensions_go_in_tens() -> None:
    async def work() -> None:
        async with scripted(visibility=1) as (server, source):
            server.put(*numbered(25))
            await source.start()
            messages = await take(source, 25)
            await until(lambda: source.leases.extended >= 25, "all to be extended")
            requests = server.of(EXTEND)
            assert max(len(request.receipts) for request in requests) == 10
            assert len(requests) <= 4
            assert {entry["VisibilityTimeout"] for request in requests for entry in request.body["Entries"]} == {1}
            for request in requests:
                assert [entry["Id"] for entry in request.body["Entries"]] == list(
                    map(str, range(len(request.receipts)))
                )
            assert {receipt for request in requests for receipt in request.receipts} == {m.receipt for m in messages}

    run(work())


def test_what_is_acked_or_released_is_not_extended() -> None:
    async def work() -> None:
        async with scripted(visibility=1) as (server, source):
            server.put(*numbered(30))
            await source.start()
            messages = await take(source, 30)
            await source.quiesce()
            await source.ack(messages[:10])
            await source.release(messages[10:20])
            kept = {message.receipt for message in messages[20:]}
            before = len(server.of(EXTEND))
            await until(lambda: source.leases.extended >= 20, "the rest to be extended, twice")
            entries = [entry for request in server.of(EXTEND)[before:] for entry in request.body["Entries"]]
            assert {entry["ReceiptHandle"] for entry in entries if entry["VisibilityTimeout"]} == kept

    run(work())


def test_an_extension_that_is_refused_for_good_drops_the_lease_and_the_message_is_still_acked() -> None:
    async def work() -> None:
        async with scripted(visibility=1) as (server, source):
            gone = {
                "receipt-1": "ReceiptHandleIsInvalid",
                "receipt-2": "InvalidParameterValue",  # AWS: not available any more, or 12 hours are over
                "receipt-3": "MessageNotInflight",
                "receipt-4": "AWS.SimpleQueueService.MessageNotInflight",
            }
            server.always(EXTEND, failing(gone))
            server.put(*numbered(6))
            await source.start()
            messages = await take(source, 6)
            await until(lambda: len(source.leases) == 2, "four leases to be dropped")
            asked = len(server.of(EXTEND))
            await until(lambda: len(server.of(EXTEND)) >= asked + 2, "two more extensions")
            for request in server.of(EXTEND)[asked:]:
                assert not set(request.receipts) & set(gone)
            assert await source.ack(messages) == 0
            assert len(server.deleted) == 6

    run(work())


def test_an_extension_that_fails_for_now_is_tried_again() -> None:
    async def work() -> None:
        async with scripted(visibility=1) as (server, source):
            transient = failing({"receipt-1": "InternalError", "receipt-2": "RequestThrottled"}, sender_fault=False)
            server.script(EXTEND, transient, Answer(status=500), transient)
            server.put(*numbered(3))
            await source.start()
            await take(source, 3)
            await until(lambda: source.leases.extended >= 3, "all to be extended")
            assert len(source.leases) == 3
            assert server.of(EXTEND)[1].receipts == ["receipt-1", "receipt-2"]
            first, *_, last = server.of(EXTEND)[:4]
            assert last.at - first.at < 1.0, "at once, not when the lease is over"

    run(work())


@pytest.mark.parametrize("trouble", [Answer(b"{broken"), refusal("AccessDenied", 403), Answer(b"", 503)])
def test_the_keeper_survives_any_answer(trouble: Answer) -> None:
    async def work() -> None:
        async with scripted(visibility=1) as (server, source):
            server.script(EXTEND, trouble, trouble)
            server.put("one")
            await source.start()
            await take(source, 1)
            await until(lambda: source.leases.extended == 1, "an extension")

    run(work())


def test_a_batch_answer_with_ids_of_its_own_harms_nobody() -> None:
    async def work() -> None:
        async with scripted(visibility=1) as (server, source):
            strange = [{"Id": odd, "Code": "InternalError", "SenderFault": False} for odd in ("CANARY", "99", "-1", "")]
            server.script(EXTEND, ok({"Successful": [], "Failed": strange}))
            server.script(DELETE, ok({"Successful": [], "Failed": strange}))
            server.put("one")
            await source.start()
            messages = await take(source, 1)
            await until(lambda: source.leases.extended >= 1, "an extension")
            assert await source.ack(messages) == 0

    run(work())


def test_an_extension_without_an_answer_is_tried_again_in_time() -> None:
    async def work() -> None:
        async with scripted(visibility=4) as (server, source):
            server.script(EXTEND, ok({}, delay=60))
            server.put("one")
            await source.start()
            await take(source, 1)
            arrived = time.monotonic()
            await until(lambda: source.leases.extended, "an extension")
            assert time.monotonic() - arrived < 4.0

    run(work())


def test_the_lease_of_a_long_poll_starts_when_its_message_arrives() -> None:
    async def work() -> None:
        clock = Clock(1000.0)
        arrived = asyncio.Event()
        async with scripted(visibility=30, clock=clock) as (server, source):
            server.script("ReceiveMessage", received(wire_message(1), until=arrived))
            await source.start()
            await until(lambda: server.polling, "the poll")
            clock.now = 1018.0
            arrived.set()
            await take(source, 1)
            (lease,) = source.leases._held.values()
            assert 1017.0 <= lease.received <= 1018.0
            clock.now = 1031.0
            await source.leases.extend_due()
            assert not server.of(EXTEND), "half of its life is not over"
            clock.now = 1034.0
            await source.leases.extend_due()
            assert len(server.of(EXTEND)) == 1

    run(work())


# -- the rules, with a clock of our own


class Changes:
    """Takes the place of the queue: notes what is extended; `seconds` is what a request takes."""

    def __init__(self, seconds: float = 0.0) -> None:
        self.calls: list[list[str]] = []
        self.seconds = seconds
        self.fails: set[str] = set()

    async def __call__(self, receipts: Sequence[str], _seconds: int) -> tuple[list[str], list[str]]:
        self.calls.append(list(receipts))
        await asyncio.sleep(self.seconds)
        if self.fails & set(receipts):
            raise RuntimeError
        return [], []

    @property
    def receipts(self) -> list[str]:
        return [receipt for call in self.calls for receipt in call]


def leases_of(changes: Changes, clock: Clock, visibility: int = 30) -> Leases:
    leases = Leases(changes, clock=clock)
    leases.visibility_s = visibility
    return leases


def test_a_lease_is_extended_once_half_of_it_is_over() -> None:
    async def work() -> None:
        changes, clock = Changes(), Clock(0.0)
        leases = leases_of(changes, clock)
        leases.hold(["a"], 0.0)
        for clock.now in (14.0, 15.0, 16.0, 29.0, 30.0, 44.0):
            await leases.extend_due()
        assert changes.calls == [["a"], ["a"]]
        assert leases._held["a"].received == 0.0
        assert leases._held["a"].expires == 60.0

    run(work())


def test_a_lease_that_arrived_out_of_order_is_extended_in_time() -> None:
    async def work() -> None:
        changes, clock = Changes(), Clock(100.0)
        leases = leases_of(changes, clock, visibility=2)
        leases.hold(["young"], 100.0)
        leases.hold(["old"], 99.1)  # asked for earlier, answered later
        clock.now = 100.5
        await leases.extend_due()
        assert changes.receipts == ["old"]

    run(work())


def test_many_leases_are_extended_side_by_side() -> None:
    """6,000 in flight are 600 requests: one after another, at 30 ms each, they would take longer than half a lease."""

    async def work() -> None:
        changes, clock = Changes(0.05), Clock(0.0)
        leases = leases_of(changes, clock)
        leases.hold(map(str, range(400)), 0.0)
        clock.now = 16.0
        before = time.monotonic()
        await leases.extend_due()
        assert time.monotonic() - before < 40 * 0.05 / 2
        assert sorted(changes.receipts) == sorted(map(str, range(400)))
        assert max(map(len, changes.calls)) == 10

    run(work())


def test_one_failed_request_does_not_keep_the_others_from_being_extended() -> None:
    async def work() -> None:
        changes, clock = Changes(), Clock(0.0)
        changes.fails = {"3"}
        leases = leases_of(changes, clock)
        leases.hold(map(str, range(100)), 0.0)
        clock.now = 16.0
        with pytest.raises(RuntimeError):
            await leases.extend_due()
        assert {receipt for receipt, lease in leases._held.items() if lease.expires == 46.0} == set(
            map(str, range(10, 100))
        )

    run(work())


def test_what_is_acked_while_others_are_extended_is_not_extended_any_more() -> None:
    async def work() -> None:
        changes, clock = Changes(0.02), Clock(0.0)
        leases = leases_of(changes, clock)
        leases.hold(map(str, range(1000)), 0.0)
        clock.now = 16.0
        pass_ = asyncio.create_task(leases.extend_due())
        await until(lambda: changes.calls, "the first extension")
        asked = set(changes.receipts)
        leases.drop(map(str, range(1000)))
        await pass_
        assert set(changes.receipts) == asked
        assert len(leases) == 0, "an extension under way does not bring it back"

    run(work())


def test_nothing_is_extended_past_twelve_hours(caplog: pytest.LogCaptureFixture) -> None:
    async def work() -> None:
        changes, clock = Changes(), Clock(0.0)
        leases = leases_of(changes, clock, visibility=600)
        leases.hold(["CANARY"], 0.0)
        while len(leases):
            clock.now += 301.0
            await leases.extend_due()
        assert 12 * 3600 - 1000 < clock.now < 12 * 3600
        assert clock.now + 600 > 12 * 3600 - 60

    run(work())
    (record,) = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert "12 hour" in record.getMessage()
    assert "CANARY" not in repr(vars(record))


def test_a_refusal_at_twelve_hours_drops_the_lease() -> None:
    async def work() -> None:
        async with scripted(visibility=1) as (server, source):

            def over(request: Request) -> Answer:
                return failing(dict.fromkeys(request.receipts, "InvalidParameterValue"))(request)

            server.always(EXTEND, over)
            server.put("one")
            await source.start()
            await take(source, 1)
            await until(lambda: not len(source.leases), "the lease to be dropped")
            asked = len(server.of(EXTEND))
            assert await source.receive(1.0) == []
            assert len(server.of(EXTEND)) == asked

    run(work())
