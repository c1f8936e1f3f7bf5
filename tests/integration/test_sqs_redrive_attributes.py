"""A redriven message carries all that its original carried: attributes of every type, and the trace header."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator
from typing import Any

import boto3
import pytest
from tests.support.fix_sqs import Queue, Queues, client_of, run, words_of
from tests.support.localstack_server import LocalStackServer, available
from tests.support.scripted_sqs import ScriptedSqs, ok, received, wire_message

from coatcheck.errors import CoatcheckError
from coatcheck.pipeline.keying import ORIGIN_ATTRIBUTE
from coatcheck.sources import sqs_redrive
from coatcheck.sources.sqs_queue import MAX_BYTES, entry_size
from coatcheck.sources.sqs_redrive import redrive

reason = available()
HEADER = "Root=1-5759e988-bd862e3fe1be46a994272793;Parent=53995c3f42cd8ad8;Sampled=1"
KINDS: dict[str, dict[str, Any]] = {
    "text": {"DataType": "String", "StringValue": "Gr\u00f6\u00dfe \U0001f9e5"},
    "custom.text": {"DataType": "String.json", "StringValue": '{"a": 1}'},
    "number": {"DataType": "Number", "StringValue": "-1.50"},
    "float": {"DataType": "Number.float", "StringValue": "1e-7"},
    "int": {"DataType": "Number.int", "StringValue": "42"},
    "bytes": {"DataType": "Binary", "BinaryValue": b"\x00\xff\x10"},
    "png": {"DataType": "Binary.png", "BinaryValue": bytes(range(256))},
    "a_b-c.d": {"DataType": "String", "StringValue": "x"},
    "nine": {"DataType": "String", "StringValue": "9"},
}


@pytest.fixture(autouse=True)
def short_polls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqs_redrive, "_EMPTY_POLL_S", 0)


async def total(steps: AsyncIterator[int]) -> int:
    return sum([step async for step in steps])


async def redriven(endpoint: str, dead: str, url: str) -> int:
    async with client_of(endpoint) as client:
        return await total(redrive(client, dead, url))


def traced(queue: Queue, body: str, **fields: Any) -> str:
    header = {"AWSTraceHeader": {"DataType": "String", "StringValue": HEADER}}
    (message_id,) = queue.send([body], MessageSystemAttributes=header, **fields)
    return message_id


@pytest.mark.parametrize("fifo", [False, True])
def test_every_kind_of_attribute_is_kept(queues: Queues, *, fifo: bool) -> None:
    async def work() -> None:
        dead, queue = queues.create(fifo=fifo), queues.create(fifo=fifo)
        message_id = traced(dead, "one", MessageAttributes=KINDS, **({"group": "g"} if fifo else {}))
        assert await redriven(queues.server.url, dead.url, queue.url) == 1
        (copy,) = queue.receive()
        attributes = copy["MessageAttributes"]
        assert attributes.pop(ORIGIN_ATTRIBUTE)["StringValue"].split(":")[1] == message_id
        assert attributes == KINDS
        assert dead.counts() == (0, 0)

    run(work())


@pytest.mark.parametrize("header", [HEADER, None])
def test_the_trace_header_is_sent_again(header: str | None) -> None:
    told = {"SentTimestamp": "1700000000000"} | ({} if header is None else {"AWSTraceHeader": header})

    async def work() -> None:
        async with ScriptedSqs() as server:
            server.script("ReceiveMessage", received(wire_message(1, Attributes=told)), ok({}), ok({}))
            assert await redriven(server.url, server.queue_url, server.queue_url) == 1
            (entry,) = server.of("SendMessageBatch")[0].body["Entries"]
            system = {"AWSTraceHeader": {"DataType": "String", "StringValue": header}}
            assert entry.get("MessageSystemAttributes") == (None if header is None else system)

    run(work())


@pytest.mark.xdist_group("localstack")
@pytest.mark.skipif(reason is not None, reason=str(reason))
def test_the_trace_header_arrives(localstack: LocalStackServer) -> None:
    """The embedded server drops it from a batch."""
    client = boto3.client(
        "sqs",
        endpoint_url=localstack.url,
        region_name="us-east-1",
        aws_access_key_id="test",
        aws_secret_access_key="test",
    )
    queues = Queues(localstack, client)  # type: ignore[arg-type]  # it is asked for nothing but queues

    async def work() -> None:
        dead, queue = queues.create(), queues.create()
        traced(dead, "one", MessageAttributes=KINDS)
        assert await redriven(localstack.url, dead.url, queue.url) == 1
        (copy,) = queue.receive()
        assert copy["Attributes"]["AWSTraceHeader"] == HEADER
        assert copy["MessageAttributes"].keys() == KINDS.keys() | {ORIGIN_ATTRIBUTE}

    try:
        run(work())
    finally:
        client.close()


def test_ten_attributes_of_its_own_stay_with_their_message_and_a_trace_header_is_not_one(queues: Queues) -> None:
    """Nine and our own are ten; the trace header does not count. Ten and our own would be eleven: it stays."""

    async def work() -> None:
        dead, queue = queues.create(), queues.create()
        traced(dead, "nine", MessageAttributes=KINDS)
        full = KINDS | {"ten": {"DataType": "String", "StringValue": "CANARY"}}
        stays = traced(dead, "CANARY ten", MessageAttributes=full)
        with pytest.raises(CoatcheckError) as caught:
            await redriven(queues.server.url, dead.url, queue.url)
        assert stays in caught.value.message
        assert "CANARY" not in words_of(caught.value)
        assert [message["Body"] for message in queue.receive()] == ["nine"]
        assert dead.counts() == (0, 1)

    run(work())


def test_a_binary_value_is_counted_as_its_bytes() -> None:
    """As base64 it would be a third larger, and a message that SQS takes would stay."""
    value = b"x" * (MAX_BYTES - 1000)
    attribute = {"DataType": "Binary", "BinaryValue": base64.b64encode(value).decode()}
    assert entry_size({"MessageBody": "", "MessageAttributes": {"a": attribute}}) == len(value) + len("aBinary")

    async def work() -> None:
        async with ScriptedSqs() as server:
            message = wire_message(1, "small", MessageAttributes={"a": attribute})
            server.script("ReceiveMessage", received(message), ok({}), ok({}))
            assert await redriven(server.url, server.queue_url, server.queue_url) == 1
            (entry,) = server.of("SendMessageBatch")[0].body["Entries"]
            assert entry["MessageAttributes"]["a"] == attribute

    run(work())


@pytest.mark.parametrize("knows", ["AttributeNames", "MessageSystemAttributeNames"])
def test_send_time_and_trace_header_are_asked_for_by_both_names(knows: str) -> None:
    async def work() -> None:
        async with ScriptedSqs() as server:
            server.script("ReceiveMessage", ok({}), ok({}))
            await redriven(server.url, server.queue_url, server.queue_url)
            asked = server.of("ReceiveMessage")[0].body
            assert {"SentTimestamp", "MessageGroupId", "AWSTraceHeader"} <= set(asked[knows])

    run(work())


def test_dead_letters_of_another_queue_stay(queues: Queues, caplog: pytest.LogCaptureFixture) -> None:
    """Two queues share a dead-letter queue: each gets back its own, and what somebody sent there by hand goes along."""

    async def work() -> None:
        dead = queues.create()
        policy = json.dumps({"deadLetterTargetArn": dead.arn, "maxReceiveCount": "1"})
        ours, theirs = queues.create(), queues.create()
        for queue in (ours, theirs):
            queue.set(RedrivePolicy=policy)
            queue.send([f"CANARY of {queue.url}"])
            queue.show(queue.receive())
            assert queue.receive() == []  # received twice: SQS moves it
        dead.send(["by hand"])
        assert await redriven(queues.server.url, dead.url, ours.url) == 2
        assert {message["Body"] for message in ours.receive()} == {f"CANARY of {ours.url}", "by hand"}
        assert dead.counts() == (0, 1)

    run(work())
    (said,) = [record.getMessage() for record in caplog.records if "of other queues" in record.getMessage()]
    assert said.startswith("1 dead letters of other queues stay")
    assert "CANARY" not in caplog.text


@pytest.mark.parametrize("account", ["", "111122223333"])
def test_what_stays_is_met_again_and_ends_the_redrive(account: str) -> None:
    """Messages come back when their visibility timeout ends; without new ones among them the queue counts as empty."""
    told = {"SentTimestamp": "1700000000000", "DeadLetterQueueSourceArn": "arn:aws:sqs:x:999988887777:logins"}

    async def work() -> None:
        async with ScriptedSqs() as server:
            answer = received(wire_message(1, Attributes=told))
            server.script("ReceiveMessage", *[answer] * 5)
            url = f"{server.url}/{account}/logins" if account else f"{server.url}/queue/other"
            assert await redriven(server.url, server.queue_url, url) == 0
            assert len(server.of("ReceiveMessage")) == 3
            assert server.of("SendMessageBatch") == []

    run(work())
