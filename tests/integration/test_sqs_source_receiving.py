"""How the SQS source receives: polls as the queue feeds them, in flight no more than it may, never to a standstill."""

from __future__ import annotations

import asyncio
import json
import logging
from itertools import pairwise

import pytest
from tests.support.fix_sqs import Clock, a_source, a_target, bodies, numbered, run, scripted, take, until
from tests.support.scripted_sqs import SENT_MS, Answer, Reply, Request, ScriptedSqs, cut, ok, received, wire_message

from coatcheck.pipeline.message import UNKNOWN_MS, Message
from coatcheck.sources.sqs import SqsSource
from coatcheck.sources.sqs_client import Late, SqsClient, SqsError

pytestmark = pytest.mark.usefixtures("quick_end")

MIB = 2**20


# -- as many polls as the queue feeds


def test_an_idle_queue_costs_one_long_poll_at_a_time() -> None:
    async def work() -> None:
        async with scripted(wait_s=1) as (server, source):
            await source.start()
            await until(lambda: len(server.of("ReceiveMessage")) == 3, "three polls")
            assert server.most_polling == 1
            times = [request.at for request in server.of("ReceiveMessage")]
            assert min(later - earlier for earlier, later in pairwise(times)) > 0.9
            assert {request.operation for request in server.requests} == {"GetQueueAttributes", "ReceiveMessage"}

    run(work())


def test_a_poll_asks_for_ten_and_waits_as_long_as_sqs_allows() -> None:
    async def work() -> None:
        async with ScriptedSqs() as server:
            source = SqsSource(client=SqsClient(a_target(server.url)), queue="logins")  # as it is configured by default
            try:
                await source.start()
                await until(lambda: server.polling, "a poll")
            finally:
                await source.close()
            assert server.requests[0].operation == "GetQueueUrl"
            (poll,) = server.of("ReceiveMessage")
            assert (poll.body["MaxNumberOfMessages"], poll.body["WaitTimeSeconds"]) == (10, 20)  # 180 requests an hour

    run(work())


def test_a_burst_brings_up_the_receivers_and_its_end_sends_them_home() -> None:
    async def work() -> None:
        async with scripted(wait_s=1, receivers=16, latency=0.02) as (server, source):
            before: list[int] = []

            def watch(_request: Request) -> Answer:
                if server.polling == 16 and not before:
                    before.append(len(server.of("ReceiveMessage")))
                return received(*[server._hand_out(server.visible.popleft()) for _ in range(10)])

            server.put(*numbered(2000))
            server.script("ReceiveMessage", *[watch] * 200)
            await source.start()
            await take(source, 2000, ack=True)
            assert server.most_polling == 16
            assert before[0] <= 4 * 16, "each full receive brings one more: they about double with every round trip"
            await until(lambda: server.polling == 1 and len(source._receivers) == 1, "one poll again")
            count = len(server.of("ReceiveMessage"))
            server.most_polling = 0
            await until(lambda: len(server.of("ReceiveMessage")) == count + 2, "two more polls")
            assert server.most_polling == 1

    run(work())


def test_a_thousand_messages_cost_205_requests() -> None:
    async def work() -> None:
        async with scripted(receivers=8, latency=0.005, max_in_flight=3000) as (server, source):
            server.put(*numbered(8000))
            await source.start()
            batch: list[Message] = []
            while len(server.deleted) < 5000:  # in batches, as the runner does
                batch += await source.receive(0.5)
                if len(batch) >= 1000:
                    await source.ack(batch[:1000])
                    del batch[:1000]
            receives = len(server.of("ReceiveMessage")) / server.handed_out
            others = (len(server.requests) - len(server.of("ReceiveMessage"))) / len(server.deleted)
            assert 1000 * (receives + others) <= 205

    run(work())


@pytest.mark.parametrize("share", [1, 4, 5, 9])
def test_receives_that_are_not_full_do_not_multiply_pollers(share: int) -> None:
    async def work() -> None:
        async with scripted(receivers=16, latency=0.002) as (server, source):
            server.always(
                "ReceiveMessage",
                lambda _: received(*[server._hand_out(server.visible.popleft()) for _ in range(share)]),
            )
            server.put(*numbered(100 * share))
            await source.start()
            await take(source, 60 * share, ack=True)
            assert server.most_polling == 1

    run(work())


# -- never to a standstill


class Together(SqsClient):
    """Answers all polls under way in the same turn of the event loop, when there are `count` of them."""

    def __init__(self) -> None:
        super().__init__(a_target("http://127.0.0.1:1"))
        self.count = 0
        self.polls = 0
        self.answer: bytes | Exception = b"{}"
        self._waiting: list[asyncio.Future[None]] = []

    async def call(self, operation: str, payload: bytes, *, timeout: float, late: Late | None = None) -> bytes:  # noqa: ARG002 - as the original
        if operation == "GetQueueAttributes":
            return b'{"Attributes":{"VisibilityTimeout":"30"}}'
        if operation != "ReceiveMessage":
            return b"{}"
        self.polls += 1
        answer = self.answer
        if isinstance(answer, bytes) and b"Messages" in answer:
            return answer
        future = asyncio.get_running_loop().create_future()
        self._waiting.append(future)
        await future
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    def go(self) -> None:
        waiting, self._waiting = self._waiting, []
        for future in waiting:
            future.set_result(None)


@pytest.mark.parametrize("count", [2, 3, 8])
def test_receivers_that_end_in_the_same_moment_leave_one(count: int) -> None:
    async def work() -> None:
        client = Together()
        source = a_source("http://127.0.0.1:1/0/logins", client=client, receivers=count)
        await source.start()
        try:
            source._demand.receivers = count
            source._spawn()
            await until(lambda: client.waiting == count, "all receivers to poll")
            for _ in range(count + 1):
                client.go()
                await until(lambda: client.waiting, "somebody to poll on", limit=2.0)
            assert client.waiting == 1
        finally:
            await source.close()

    run(work())


def test_receivers_that_back_off_together_leave_one(monkeypatch: pytest.MonkeyPatch) -> None:
    async def work() -> None:
        client = Together()
        client.answer = SqsError("ReceiveMessage", "unavailable", "Http503")
        source = a_source("http://127.0.0.1:1/0/logins", client=client, receivers=4)
        await source.start()
        try:
            source._demand.receivers = 4
            source._spawn()
            for _ in range(6):
                await until(lambda: client.waiting, "somebody to poll on", limit=2.0)
                client.go()
            await until(lambda: client.waiting == 1 == len(source._receivers), "one receiver", limit=2.0)
        finally:
            await source.close()

    monkeypatch.setattr("coatcheck.sources.sqs_client.Backoff.pause", lambda _: 0.01)  # all wake in one turn
    run(work())


def test_receivers_that_wait_for_room_are_not_forgotten() -> None:
    """Polls that hold the whole budget come back empty and end; those who waited for room must take over."""

    async def work() -> None:
        client = Together()
        source = a_source("http://127.0.0.1:1/0/logins", client=client, receivers=4, max_in_flight=20)
        await source.start()
        try:
            source._demand.receivers = 4
            source._spawn()
            await until(lambda: client.waiting == 2, "two polls; two have no room")
            for _ in range(6):
                client.go()
                await until(lambda: client.waiting, "somebody to poll on", limit=2.0)
        finally:
            await source.close()

    run(work())


def test_big_messages_and_then_none_do_not_end_receiving() -> None:
    async def work() -> None:
        async with scripted(wait_s=1, receivers=8, max_in_flight_bytes=25 * MIB) as (server, source):
            server.put(*["x" * MIB] * 40)
            await source.start()
            await take(source, 40, ack=True)
            await until(lambda: len(source._receivers) == 1, "one receiver")
            server.put("more")
            assert bodies(await take(source, 1, limit=5.0)) == ["more"]

    run(work())


# -- in flight


def test_no_more_is_in_flight_than_allowed_and_acks_make_room() -> None:
    async def work() -> None:
        async with scripted(receivers=8, latency=0.002, max_in_flight=100) as (server, source):
            server.put(*numbered(500))
            await source.start()
            held = await take(source, 100)
            receives = len(server.of("ReceiveMessage"))
            assert await source.receive(0.3) == []
            assert len(server.of("ReceiveMessage")) == receives, "it does not ask for what it has no room for"
            assert len(server.in_flight) == 100
            total = len(held)
            while total < 500:
                await source.ack(held[:10])
                del held[:10]
                more = await take(source, 1)
                held += more
                total += len(more)
            assert server.most_in_flight <= 110

    run(work())


def test_what_is_released_makes_room_as_well() -> None:
    async def work() -> None:
        async with scripted(receivers=4, max_in_flight=20) as (server, source):
            server.put(*numbered(60))
            await source.start()
            for _ in range(5):
                await source.release(await take(source, 20))
            assert server.most_in_flight <= 30

    run(work())


def test_room_for_less_than_ten_is_room_for_one_receive() -> None:
    async def work() -> None:
        async with scripted(receivers=4, max_in_flight=3) as (server, source):
            server.put(*numbered(60))
            await source.start()
            await take(source, 60, ack=True)
            assert server.most_in_flight <= 10
            assert server.most_polling == 1

    run(work())


def test_bytes_in_flight_are_bounded() -> None:
    async def work() -> None:
        async with scripted(receivers=16, latency=0.01, max_in_flight_bytes=32 * MIB) as (server, source):
            server.put(*["x" * MIB] * 150)
            await source.start()
            held = await take(source, 20)
            await asyncio.sleep(0.1)
            held += await source.receive(0.1)
            total = len(held)
            while total < 150:
                await source.ack(held[:5])
                del held[:5]
                more = await source.receive(0.05)
                held += more
                total += len(more)
            assert server.most_bytes <= 42 * MIB
            assert server.most_bytes >= 20 * MIB

    run(work())


def test_bodies_weigh_what_they_weigh_in_bytes() -> None:
    """Characters would make a bound of 4 MiB one of 12 MiB."""

    async def work() -> None:
        body = "\u20ac" * (100 * 1024)
        async with scripted(max_in_flight_bytes=4 * MIB) as (server, source):
            server.put(*[body] * 60)
            await source.start()
            await until(lambda: not source._receivers, "no room for more")
            held = len(source.leases)
            assert source._budget.bytes == held * 3 * len(body)
            assert held * 3 * len(body) <= 4 * MIB + 10 * 3 * len(body), "and one receive, before the sizes were known"
            assert len(await take(source, 60, ack=True)) == 60
            await until(lambda: source._budget.messages == 10, "nothing but the poll's reservation")
            await source.quiesce()
            assert (source._budget.messages, source._budget.bytes) == (0, 0)

    run(work())


def test_the_budget_balances() -> None:
    async def work() -> None:
        async with scripted(wait_s=1, receivers=8) as (server, source):
            server.put(*["ü" * number for number in range(200)])
            server.script("ReceiveMessage", Answer(b"broken"), cut(), Answer(status=503))
            await source.start()
            messages = await take(source, 200)
            await source.ack(messages[:111])
            await source.release(messages[111:])
            await take(source, 89, ack=True)
            await source.quiesce()
            assert (source._budget.messages, source._budget.bytes) == (0, 0)
            assert len(source.leases) == 0

    run(work())


# -- answers of all kinds

BROKEN: dict[str, Reply] = {
    "no JSON": Answer(b"<html>busy</html>"),
    "nothing": Answer(b""),
    "another JSON": Answer(b"[1, 2]"),
    "null": Answer(b"null"),
    "messages are a number": ok({"Messages": 3}),
    "messages are null": ok({"Messages": None}),
    "a message without a receipt": ok({"Messages": [{"MessageId": "x", "Body": "lost"}]}),
    "truncated JSON": Answer(json.dumps({"Messages": [wire_message(1)]}).encode()[:-9]),
    "broken UTF-8": Answer(b'{"Messages":[{"MessageId":"\xff'),
    "deep": Answer(b'{"Messages":' + b"[" * 100_000),
    "cut before the head": cut(),
    "cut in the body": Answer(json.dumps({"Messages": [wire_message(1)]}).encode(), keep=20),
    "500": Answer(b"oops", 500),
    "503 without a body": Answer(b"", 503),
    "429": Answer(b"slow down", 429),
    "a redirect": Answer(b"", 502),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_answer_does_not_end_receiving(kind: str) -> None:
    async def work() -> None:
        async with scripted() as (server, source):
            server.script("ReceiveMessage", BROKEN[kind], BROKEN[kind])
            server.put("good")
            await source.start()
            assert bodies(await take(source, 1)) == ["good"]
            assert await source.receive(0.0) == []

    run(work())


@pytest.mark.parametrize(
    "attributes",
    [
        {},
        {"SentTimestamp": "CANARY", "ApproximateReceiveCount": "CANARY"},
        {"SentTimestamp": "", "ApproximateReceiveCount": "-"},
        {"SentTimestamp": "9" * 5000, "ApproximateReceiveCount": "9" * 5000},
        {"SentTimestamp": "1.5", "ApproximateReceiveCount": "1e3"},
    ],
)
def test_odd_attributes_do_not_end_receiving(attributes: dict[str, str]) -> None:
    async def work() -> None:
        async with scripted() as (server, source):
            server.put("odd", Attributes=attributes)
            server.put("good")
            await source.start()
            messages = await take(source, 2)
            assert sorted(bodies(messages)) == ["good", "odd"]
            (odd,) = [message for message in messages if message.body == "odd"]
            assert odd.receive_count == 1
            assert odd.sent_ms == UNKNOWN_MS, "no guess: two deliveries would get two ledger slots"

    run(work())


@pytest.mark.parametrize("knows", ["AttributeNames", "MessageSystemAttributeNames"])
def test_the_send_time_is_asked_for_by_the_old_name_and_by_the_new(knows: str) -> None:
    async def work() -> None:
        async with scripted() as (server, source):
            server.knows = (knows,)
            server.put("one")
            await source.start()
            (message,) = await take(source, 1)
            assert message.sent_ms == SENT_MS

    run(work())


def test_a_damaged_body_is_not_handed_on_but_its_neighbours_are(caplog: pytest.LogCaptureFixture) -> None:
    async def work() -> None:
        async with scripted(visibility=2) as (server, source):
            damaged = wire_message(2, "CANARY-damaged") | {"MD5OfBody": "0" * 32}
            server.script("ReceiveMessage", received(wire_message(1, "one"), damaged, wire_message(3, "three")))
            await source.start()
            assert bodies(await take(source, 2)) == ["one", "three"]
            assert await source.receive(0.1) == []
            assert "receipt-2" not in source.leases, "nobody extends it, so it comes again"
            server.script("ReceiveMessage", received(wire_message(2, "CANARY-damaged", ReceiptHandle="again")))
            assert bodies(await take(source, 1)) == ["CANARY-damaged"]

    run(work())
    assert "damaged" in caplog.text
    assert "CANARY" not in caplog.text


def test_a_lone_surrogate_does_not_poison_its_neighbours() -> None:
    async def work() -> None:
        async with scripted() as (server, source):
            answer = json.dumps({"Messages": [wire_message(1, "one"), wire_message(2, "?"), wire_message(3, "🧥")]})
            server.script("ReceiveMessage", Answer(answer.replace('"?"', '"\\ud83e!"').encode()))
            await source.start()
            messages = await take(source, 3)
            assert bodies(messages) == ["one", "\ud83e!", "🧥"]
            assert [message.sent_ms for message in messages] == [SENT_MS + 1, SENT_MS + 2, SENT_MS + 3]
            assert await source.ack(messages) == 0
            assert len(server.of("DeleteMessageBatch")[0].receipts) == 3

    run(work())


def test_a_message_delivered_twice_is_handed_on_twice_and_both_are_acked() -> None:
    async def work() -> None:
        async with scripted() as (server, source):
            twice = wire_message(1, "twice")
            again = twice | {"ReceiptHandle": "newer"}
            server.script("ReceiveMessage", received(twice, twice), received(again))
            await source.start()
            messages = await take(source, 3)
            assert {message.message_id for message in messages} == {str(twice["MessageId"])}
            assert await source.ack(messages) == 0
            entries = [entry for request in server.of("DeleteMessageBatch") for entry in request.body["Entries"]]
            assert {entry["ReceiptHandle"] for entry in entries} == {"receipt-1", "newer"}
            for request in server.of("DeleteMessageBatch"):
                assert len({entry["Id"] for entry in request.body["Entries"]}) == len(request.body["Entries"])

    run(work())


# -- the limit of messages in flight


@pytest.mark.parametrize(("in_flight", "alarm"), [(119_000, True), (120_000, True), (118_999, False)])
def test_the_limit_in_flight_is_told(in_flight: int, alarm: bool, caplog: pytest.LogCaptureFixture) -> None:  # noqa: FBT001 - a column of the table
    def alarms() -> list[logging.LogRecord]:
        return [record for record in caplog.records if record.levelno >= logging.ERROR]

    async def work() -> None:
        clock = Clock()
        async with scripted(wait_s=0, latency=0.01, clock=clock) as (server, source):
            server.attributes["ApproximateNumberOfMessagesNotVisible"] = str(in_flight)
            await source.start()
            await until(lambda: len(server.of("ReceiveMessage")) > 5, "empty receives")
            looks = len(server.of("GetQueueAttributes"))
            clock.now += 301
            await until(lambda: len(server.of("GetQueueAttributes")) == looks + 1, "a look")
            polls = len(server.of("ReceiveMessage"))
            await until(lambda: len(server.of("ReceiveMessage")) > polls + 5, "more empty receives")
            assert len(server.of("GetQueueAttributes")) == looks + 1, "one look in five minutes"
            assert bool(alarms()) is alarm
            clock.now += 301
            await until(lambda: len(server.of("GetQueueAttributes")) == looks + 2, "another look")

    run(work())
    for record in alarms():
        assert "120,000" in record.getMessage()


def test_a_failed_look_at_the_limit_does_not_end_receiving() -> None:
    async def work() -> None:
        clock = Clock()
        async with scripted(wait_s=0, latency=0.01, clock=clock) as (server, source):
            await source.start()
            await until(lambda: len(server.of("ReceiveMessage")) > 2, "empty receives")
            server.always("GetQueueAttributes", Answer(b'{"__type":"com.amazonaws.sqs#AccessDenied"}', 403))
            clock.now += 301
            await until(lambda: len(server.of("GetQueueAttributes")) == 2, "a look")
            server.put("later")
            assert bodies(await take(source, 1)) == ["later"]

    run(work())


@pytest.mark.parametrize("traced", [False, True])
def test_the_senders_trace_is_asked_for_only_when_it_is_traced(*, traced: bool) -> None:
    async def work() -> None:
        async with ScriptedSqs() as server:
            source = SqsSource(client=SqsClient(a_target(server.url)), queue="logins", traced=traced)
            try:
                await source.start()
                await until(lambda: server.polling, "a poll")
            finally:
                await source.close()
            (poll,) = server.of("ReceiveMessage")
            assert ("traceparent" in poll.body["MessageAttributeNames"]) is traced
            assert ("AWSTraceHeader" in poll.body["MessageSystemAttributeNames"]) is traced

    run(work())
