"""Sending to a queue, looking at it, and moving dead letters back: every message keeps what it is."""

from __future__ import annotations

import asyncio
import gc
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from tests.support.builders import a_ledger_hash
from tests.support.fix_sqs import (
    LIMIT,
    Queue,
    Queues,
    a_source,
    a_target,
    bodies,
    client_of,
    numbered,
    reading,
    run,
    scripted,
    take,
    until,
    words_of,
)
from tests.support.scripted_sqs import (
    SENT_MS,
    Answer,
    Reply,
    Request,
    ScriptedSqs,
    cut,
    failing,
    ok,
    refusal,
    wire_message,
)

from coatcheck.errors import CoatcheckError, ConfigError
from coatcheck.pipeline.keying import ORIGIN_ATTRIBUTE, keyer, origin_of
from coatcheck.pipeline.message import Message
from coatcheck.sources import sqs_redrive
from coatcheck.sources.sqs_client import Late, SqsClient, SqsError
from coatcheck.sources.sqs_queue import (
    MAX_BYTES,
    batches,
    dead_letter_queue,
    file_entries,
    inspect,
    send,
)
from coatcheck.sources.sqs_redrive import redrive

pytestmark = pytest.mark.usefixtures("quick_end", "short_polls")

KEY = "key:" + "0f" * 16
SEND, DELETE, POLL = "SendMessageBatch", "DeleteMessageBatch", "ReceiveMessage"

key_of = keyer("message_id", a_ledger_hash())


async def total(steps: AsyncIterator[int]) -> int:
    return sum([step async for step in steps])


async def sent(endpoint: str, url: str, lines: list[str], *, as_new: bool = False) -> int:
    async with client_of(endpoint) as client:
        return await total(send(client, url, file_entries(lines, as_new=as_new)))


async def redriven(endpoint: str, dead: str, url: str, limit: int | None = None) -> int:
    async with client_of(endpoint) as client:
        return await total(redrive(client, dead, url, limit=limit))


# -- send


@pytest.mark.parametrize("count", [0, 1, 10, 11, 230])
def test_lines_become_messages(queues: Queues, count: int) -> None:
    async def work() -> None:
        queue = queues.create()
        lines = [f"{text}\n" for text in numbered(count)]
        assert await sent(queues.server.url, queue.url, lines) == count
        async with reading(queue) as source:
            messages = await take(source, count, ack=True)
        assert sorted(bodies(messages)) == sorted(numbered(count))
        assert len({key_of(message, None) for message in messages}) == count

    run(work())


def test_sending_a_file_again_gives_the_same_keys_and_as_new_gives_others(queues: Queues) -> None:
    async def work() -> None:
        lines = ["same\r\n", "\n", "other\n", "same\n", "   \n", "same"]
        keys: list[list[Any]] = []
        for as_new in (False, False, True):
            queue = queues.create()
            assert await sent(queues.server.url, queue.url, lines, as_new=as_new) == 4
            async with reading(queue) as source:
                messages = await take(source, 4, ack=True)
            assert sorted(bodies(messages)) == ["other", "same", "same", "same"]
            keys.append(sorted(key_of(message, None) for message in messages))
            assert all((message.origin is None) is as_new for message in messages)
        assert keys[0] == keys[1]
        assert len(set(keys[0])) == 4, "the same line three times is three messages"
        assert not set(keys[0]) & set(keys[2])

    run(work())


def test_large_lines_are_sent_in_smaller_batches(queues: Queues) -> None:
    async def work() -> None:
        queue = queues.create()
        large = ["x" * 300_000 + str(number) for number in range(12)] + ["y" * (MAX_BYTES - 256), "🧥" * 200_000]
        assert await sent(queues.server.url, queue.url, large) == 14
        async with reading(queue) as source:
            assert sorted(bodies(await take(source, 14, ack=True))) == sorted(large)

    run(work())


def test_batches_hold_ten_messages_and_one_mib_at_most() -> None:
    entries = list(file_entries([*["é" * 60_000] * 30, *numbered(25)], as_new=False))
    cut_up = list(batches(entries))
    assert [entry for batch in cut_up for entry in batch] == entries
    for batch in cut_up:
        size = sum(len(entry["MessageBody"].encode()) + len(ORIGIN_ATTRIBUTE) + len("String") + 36 for entry in batch)
        assert size <= MAX_BYTES
        assert len(batch) <= 10


@pytest.mark.parametrize("line", ["CANARY" * 200_000, "CANARY\ud800", "\udfffCANARY\n"])
def test_a_line_that_sqs_cannot_take_is_named_by_its_number(line: str) -> None:
    with pytest.raises(ConfigError) as caught:
        list(file_entries(["{}\n", line], as_new=False))
    assert "line 2" in caught.value.message
    assert "CANARY" not in words_of(caught.value)


def test_what_sqs_refuses_is_told_without_showing_it(queues: Queues) -> None:
    async def work() -> None:
        queue = queues.create()
        with pytest.raises(CoatcheckError) as caught:
            await sent(queues.server.url, queue.url, ["good", "CANARY \x0b", "CANARY \ufffe"])
        assert "2 of 3" in caught.value.message
        assert "InvalidMessageContents" in caught.value.message
        assert "CANARY" not in words_of(caught.value)

    run(work())


def test_a_failed_send_is_tried_again_and_a_refused_one_ends(caplog: pytest.LogCaptureFixture) -> None:
    async def work() -> None:
        async with ScriptedSqs() as server:
            server.script(SEND, Answer(b"", 503), cut(), Answer(b"", 429))
            assert await sent(server.url, server.queue_url, numbered(10)) == 10
            assert len(server.visible) == 10
            server.always(SEND, refusal("AccessDenied", 403))
            with pytest.raises(SqsError):
                await sent(server.url, server.queue_url, numbered(500))

    run(work())
    gc.collect()
    assert not caplog.records, "no failure of a batch that nobody looked at"


def test_an_abandoned_send_stops() -> None:
    async def work() -> None:
        async with ScriptedSqs(latency=0.01) as server, client_of(server.url) as client:
            steps = send(client, server.queue_url, file_entries(numbered(5000), as_new=True))
            async for _ in steps:
                break
            await steps.aclose()  # type: ignore[attr-defined]  # it is an async generator
            stopped = len(server.visible)
            await asyncio.sleep(0.1)
            assert len(server.visible) <= stopped + 100
            assert len(asyncio.all_tasks()) < 20

    run(work())


def test_a_file_goes_to_a_fifo_queue_in_order_and_only_once(queues: Queues) -> None:
    async def work() -> None:
        queue = queues.create(fifo=True)
        for _ in range(2):  # SQS drops what it has seen within five minutes
            assert await sent(queues.server.url, queue.url, numbered(35)) == 35
        async with reading(queue) as source:
            assert bodies(await take(source, 35, ack=True)) == numbered(35)
            assert queue.counts() == (0, 0)

    run(work())


def test_as_new_is_new_on_a_fifo_queue_too(queues: Queues) -> None:
    async def work() -> None:
        queue = queues.create(fifo=True)
        for _ in range(2):
            assert await sent(queues.server.url, queue.url, ["same", "same", "other"], as_new=True) == 3
        async with reading(queue) as source:
            assert bodies(await take(source, 6, ack=True)) == ["same", "same", "other"] * 2

    run(work())


# -- redrive


@pytest.fixture
def short_polls(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The end of a redrive is not waited for: the embedded server's answers are exact."""
    if "identity_and_attributes" not in request.node.name:
        monkeypatch.setattr(sqs_redrive, "_EMPTY_POLL_S", 0)


def bury(queue: Queue) -> None:
    """Receive everything until SQS takes it for dead (max_receives 2)."""
    while got := queue.receive(most=1000):
        queue.show(got)


def as_received(raw: dict[str, Any]) -> Message:
    """Return what boto3 has received as a message of ours."""
    return Message(raw["MessageId"], raw["Body"], int(raw["Attributes"]["SentTimestamp"]), raw["ReceiptHandle"])


ATTRIBUTES: dict[str, dict[str, Any]] = {
    "text": {"DataType": "String", "StringValue": "Größe 🧥"},
    "number": {"DataType": "Number.int", "StringValue": "42"},
    "bytes": {"DataType": "Binary", "BinaryValue": b"\x00\xff\x10"},
}


def test_dead_letters_keep_identity_and_attributes(queues: Queues) -> None:
    async def work() -> None:
        dead = queues.create()
        queue = queues.create(dead=dead)
        with_attributes = queue.send(["with"], MessageAttributes=ATTRIBUTES)
        queue.send(numbered(24))
        received = queue.receive(most=25)
        keys = {message["Body"]: key_of(as_received(message), None) for message in received}
        queue.show(received)
        bury(queue)
        assert (queue.counts(), dead.counts()) == ((0, 0), (25, 0))

        async with client_of(queues.server.url) as client:
            assert await dead_letter_queue(client, queue.url) == dead.url
        assert await redriven(queues.server.url, dead.url, queue.url) == 25
        assert (queue.counts(), dead.counts()) == ((25, 0), (0, 0))
        copies = queue.receive(most=25)
        (copy,) = [message for message in copies if message["Body"] == "with"]
        attributes = copy["MessageAttributes"]
        assert attributes.pop(ORIGIN_ATTRIBUTE)["StringValue"].split(":")[1] == with_attributes[0]
        assert attributes == ATTRIBUTES

        queue.show(copies)
        async with reading(queue) as source:
            again = await take(source, 25)
            assert {message.body: key_of(message, None) for message in again} == keys
            assert not {message.message_id for message in again} & {message["MessageId"] for message in received}

    run(work())


def test_a_second_redrive_keeps_the_first_identity(queues: Queues) -> None:
    async def work() -> None:
        dead = queues.create()
        queue = queues.create(dead=dead)
        queue.send(["one"])
        (raw,) = queue.receive()
        first = as_received(raw)
        queue.show([raw])
        for _ in range(2):
            bury(queue)
            assert await redriven(queues.server.url, dead.url, queue.url) == 1
        async with reading(queue) as source:
            (last,) = await take(source, 1)
            assert last.origin == origin_of(first)
            assert key_of(last, None) == key_of(first, None)

    run(work())


def test_a_redrive_may_be_limited(queues: Queues) -> None:
    async def work() -> None:
        dead, queue = queues.create(), queues.create()
        dead.send(numbered(30))
        assert await redriven(queues.server.url, dead.url, queue.url, 13) == 13
        assert (queue.counts()[0], sum(dead.counts())) == (13, 17)
        assert await redriven(queues.server.url, dead.url, queue.url, 0) == 0

    run(work())


def test_large_dead_letters_are_moved_in_smaller_batches(queues: Queues) -> None:
    async def work() -> None:
        dead, queue = queues.create(), queues.create()
        large = [str(number) + "x" * 400_000 for number in range(7)]
        dead.send(large)
        assert await redriven(queues.server.url, dead.url, queue.url) == 7
        async with reading(queue) as source:
            assert sorted(bodies(await take(source, 7))) == sorted(large)
        assert dead.counts() == (0, 0)

    run(work())


class CrashError(BaseException):
    """The process is gone."""


class Crashing(SqsClient):
    """Dies before the first delete: what was sent is there, what should be deleted as well."""

    receipts: tuple[str, ...] = ()

    async def call(self, operation: str, payload: bytes, *, timeout: float, late: Late | None = None) -> bytes:
        if operation == DELETE:
            self.receipts = tuple(entry["ReceiptHandle"] for entry in json.loads(payload)["Entries"])
            raise CrashError
        return await super().call(operation, payload, timeout=timeout, late=late)


def test_a_crash_between_send_and_delete_gives_two_copies_with_one_key(queues: Queues) -> None:
    async def work() -> None:
        dead = queues.create()
        queue = queues.create(dead=dead)
        queue.send(["one"])
        bury(queue)
        client = Crashing(a_target(queues.server.url))
        try:
            with pytest.raises(CrashError):
                await total(redrive(client, dead.url, queue.url))
        finally:
            await client.close()
        assert (queue.counts(), dead.counts()) == ((1, 0), (0, 1))
        dead.show({"ReceiptHandle": receipt} for receipt in client.receipts)
        assert await redriven(queues.server.url, dead.url, queue.url) == 1
        async with reading(queue) as source:
            copies = await take(source, 2)
            assert len({message.message_id for message in copies}) == 2
            assert len({key_of(message, None) for message in copies}) == 1

    run(work())


@pytest.mark.parametrize(
    "trouble",
    [
        lambda _: Answer(b"", 503),
        lambda _: cut(),
        lambda request: failing(dict.fromkeys(request.receipts[:2], "InternalError"))(request),
    ],
    ids=["503", "cut", "entries"],
)
def test_a_delete_that_fails_for_now_is_tried_again(trouble: Callable[[Request], Answer]) -> None:
    async def work() -> None:
        async with ScriptedSqs() as server:
            handed = [wire_message(number) for number in range(5)]
            server.script(POLL, ok({"Messages": handed}), ok({}), ok({}))
            server.script(SEND, ok({"Successful": [{"Id": str(n)} for n in range(5)], "Failed": []}))
            server.script(DELETE, trouble)
            assert await redriven(server.url, server.queue_url, server.queue_url) == 5
            assert len(server.of(DELETE)) == 2
            assert set(server.of(DELETE)[1].receipts) <= {message["ReceiptHandle"] for message in handed}

    run(work())


@pytest.mark.parametrize("as_new", [False, True])
def test_what_sqs_refuses_is_told_with_what_to_do(*, as_new: bool) -> None:
    async def work() -> None:
        async with ScriptedSqs() as server, client_of(server.url) as client:
            refused = {"Id": "1", "Code": "InternalError", "SenderFault": False, "Message": "CANARY"}
            server.always(SEND, ok({"Successful": [{"Id": "0"}], "Failed": [refused]}))
            with pytest.raises(CoatcheckError) as caught:
                async for _ in send(client, server.queue_url, file_entries(["CANARY", "b"], as_new=as_new)):
                    pass
        assert caught.value.message == "SQS refused 1 of 2 messages (InternalError)"
        assert ("would load those twice" in caught.value.hint) is as_new
        assert ("is not loaded twice" in caught.value.hint) is not as_new
        assert "CANARY" not in words_of(caught.value)

    run(work())


def test_a_message_without_room_for_its_identity_stays_and_its_neighbours_move(queues: Queues) -> None:
    async def work() -> None:
        dead, queue = queues.create(), queues.create()
        ten = {f"a{number}": {"DataType": "String", "StringValue": "CANARY"} for number in range(10)}
        dead.send(numbered(7))
        (full,) = dead.send(["CANARY full"], MessageAttributes=ten)
        dead.send(numbered(7, 7))
        with pytest.raises(CoatcheckError) as caught:
            await redriven(queues.server.url, dead.url, queue.url)
        assert full in caught.value.message
        assert "ten attributes" in caught.value.message
        assert "by hand" in caught.value.hint
        assert "CANARY" not in words_of(caught.value)
        assert (queue.counts()[0], sum(dead.counts())) == (14, 1)

    run(work())


def test_ten_attributes_with_an_identity_among_them_are_fine(queues: Queues) -> None:
    async def work() -> None:
        dead, queue = queues.create(), queues.create()
        ten = {f"a{number}": {"DataType": "String", "StringValue": "x"} for number in range(9)}
        dead.send(["full"], MessageAttributes=ten | {ORIGIN_ATTRIBUTE: {"DataType": "String", "StringValue": KEY}})
        assert await redriven(queues.server.url, dead.url, queue.url) == 1
        async with reading(queue) as source:
            assert [message.origin for message in await take(source, 1)] == [KEY]

    run(work())


def test_an_attribute_of_that_name_that_is_no_identity_is_replaced(queues: Queues) -> None:
    async def work() -> None:
        dead, queue = queues.create(), queues.create()
        foreign = {ORIGIN_ATTRIBUTE: {"DataType": "String", "StringValue": "somebody else's"}}
        (message_id,) = dead.send(["one"], MessageAttributes=foreign)
        assert await redriven(queues.server.url, dead.url, queue.url) == 1
        async with reading(queue) as source:
            (copy,) = await take(source, 1)
            assert copy.origin is not None
            assert copy.origin.startswith(f"id:{message_id}:")

    run(work())


def test_a_message_that_the_identity_makes_too_large_stays() -> None:
    async def work() -> None:
        async with ScriptedSqs() as server:
            messages = [wire_message(1, "CANARY" + "x" * (MAX_BYTES - 20)), wire_message(2, "small")]
            server.script(POLL, ok({"Messages": messages}), ok({}), ok({}))
            with pytest.raises(CoatcheckError) as caught:
                await redriven(server.url, server.queue_url, server.queue_url)
            assert messages[0]["MessageId"] in caught.value.message
            assert "CANARY" not in words_of(caught.value)
            assert [entry["MessageBody"] for entry in server.of(SEND)[0].body["Entries"]] == ["small"]

    run(work())


def test_fifo_dead_letters_keep_group_and_order(queues: Queues) -> None:
    async def work() -> None:
        dead = queues.create(fifo=True)
        queue = queues.create(fifo=True, dead=dead)
        for group in ("a", "b"):
            queue.send([f"{group}{number}" for number in range(6)], group=group)
        bury(queue)
        assert await redriven(queues.server.url, dead.url, queue.url) == 12
        seen = queue.receive()
        assert {message["Attributes"]["MessageGroupId"] for message in seen} == {"a", "b"}
        queue.show(seen)
        async with reading(queue) as source:
            got = bodies(await take(source, 12, ack=True))
        for group in ("a", "b"):
            assert [body for body in got if body[0] == group] == [f"{group}{number}" for number in range(6)]

    run(work())


def test_a_fifo_message_that_dies_again_within_five_minutes_is_not_lost(queues: Queues) -> None:
    """SQS silently drops what carries the deduplication id of a message that it took a moment ago."""

    async def work() -> None:
        dead = queues.create(fifo=True)
        queue = queues.create(fifo=True, dead=dead)
        queue.send(["one"], group="g")
        for _ in range(3):
            bury(queue)
            assert dead.counts() == (1, 0)
            assert await redriven(queues.server.url, dead.url, queue.url) == 1
            assert queue.counts() == (1, 0)

    run(work())


def test_a_fifo_message_is_known_again_though_its_death_resets_its_send_time() -> None:
    """AWS does so on FIFO queues only; the embedded server does not."""

    def at(days: int) -> dict[str, Any]:
        sent = {"SentTimestamp": str(SENT_MS - days * 86_400_000), "ApproximateReceiveCount": "1"}
        return wire_message(1, Attributes=sent | {"MessageGroupId": "g"})

    async def work() -> None:
        async with ScriptedSqs() as server:
            queue, dead = f"{server.queue_url}.fifo", f"{server.queue_url}-dead.fifo"
            source = a_source(queue)
            try:
                server.script(POLL, ok({"Messages": [at(days=20)]}))
                await source.start()
                (first,) = await take(source, 1)
                await source.quiesce()
                server.script(POLL, ok({"Messages": [at(days=10)]}), ok({}), ok({}))
                assert await redriven(server.url, dead, queue) == 1
            finally:
                await source.close()
            async with ScriptedSqs() as fresh:
                (copy,) = server.of(SEND)[0].body["Entries"]
                fresh.put(copy["MessageBody"], MessageAttributes=copy["MessageAttributes"])
                source = a_source(f"{fresh.queue_url}.fifo")
                try:
                    await source.start()
                    (again,) = await take(source, 1)
                finally:
                    await source.close()
            assert key_of(again, None) == key_of(first, None)
            assert again.sent_ms == SENT_MS - 10 * 86_400_000

    run(work())


@pytest.mark.parametrize(("dead", "queue"), [("dead.fifo", "logins"), ("dead", "logins.fifo")])
def test_dead_letters_do_not_change_the_kind_of_their_queue(dead: str, queue: str) -> None:
    """AWS's own redrive does not move them so either; here they would be loaded a second time."""

    async def work() -> None:
        async with ScriptedSqs() as server:
            with pytest.raises(ConfigError, match="FIFO"):
                await redriven(server.url, f"{server.url}/000000000000/{dead}", f"{server.url}/000000000000/{queue}")
            assert not server.requests

    run(work())


def test_the_group_of_a_fair_queue_is_kept() -> None:
    async def work() -> None:
        async with ScriptedSqs() as server:
            grouped = wire_message(1) | {"Attributes": {"SentTimestamp": "1700000000000", "MessageGroupId": "tenant"}}
            server.script(POLL, ok({"Messages": [grouped]}), ok({}), ok({}))
            assert await redriven(server.url, server.queue_url, server.queue_url) == 1
            (entry,) = server.of(SEND)[0].body["Entries"]
            assert entry["MessageGroupId"] == "tenant"
            assert "MessageDeduplicationId" not in entry, "a standard queue refuses it"

    run(work())


BROKEN = {
    "no JSON": b"CANARY",
    "broken UTF-8": b'{"Messages":[{"Body":"CANARY \xff"}]}',
    "a list": b'["CANARY"]',
    "messages of another kind": b'{"Messages":"CANARY"}',
    "a message without an id": b'{"Messages":[{"Body":"CANARY"}]}',
    "attributes of another kind": b'{"Messages":[{"MessageId":"1","ReceiptHandle":"","Body":"CANARY","Attributes":7}]}',
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_answer_ends_a_redrive_with_an_error_of_ours(kind: str) -> None:
    async def work() -> None:
        async with ScriptedSqs() as server:
            server.always(POLL, Answer(BROKEN[kind]))
            with pytest.raises(SqsError) as caught:
                await redriven(server.url, server.queue_url, server.queue_url)
            assert caught.value.code == "BrokenResponse"
            assert "CANARY" not in words_of(caught.value)
            assert not server.of(SEND)

    run(work())


def test_messages_that_are_null_are_none() -> None:
    async def work() -> None:
        async with ScriptedSqs() as server:
            server.always(POLL, ok({"Messages": None}))
            assert await redriven(server.url, server.queue_url, server.queue_url) == 0

    run(work())


def test_a_refused_copy_leaves_the_dead_letters_where_they_are(queues: Queues) -> None:
    async def work() -> None:
        async with ScriptedSqs() as server:
            server.put("CANARY one", "CANARY two")

            def refuse(request: Request) -> Answer:
                told = [{"Id": entry["Id"], "Code": "InternalError"} for entry in request.body["Entries"]]
                return ok({"Successful": [], "Failed": told})

            server.always(SEND, refuse)
            with pytest.raises(CoatcheckError) as caught:
                await redriven(server.url, server.queue_url, queues.create().url)
            assert "CANARY" not in words_of(caught.value)
            assert not server.of(DELETE)

    run(work())


def test_a_queue_without_dead_letters_is_told(queues: Queues) -> None:
    async def work() -> None:
        queue = queues.create()
        async with client_of(queues.server.url) as client:
            with pytest.raises(ConfigError) as caught:
                await dead_letter_queue(client, queue.url)
            assert "--from" in caught.value.hint

    run(work())


# -- inspect


def test_inspect_says_what_is_wrong_with_a_queue(queues: Queues) -> None:
    async def work() -> None:
        good = queues.create(visibility=60, dead=queues.create(), max_receives=5)
        short = queues.create(visibility=1)
        narrow = queues.create(visibility=5, dead=queues.create(), max_receives=1)
        async with client_of(queues.server.url) as client:
            state = await inspect(client, good.url.rsplit("/", 1)[-1], batch_s=0.5)
            assert (state.url, state.findings) == (good.url, ())
            found = {
                queue.url: [finding.level for finding in (await inspect(client, queue.url, batch_s=0.5)).findings]
                for queue in (short, narrow)
            }
            assert found == {short.url: ["error", "advice"], narrow.url: ["advice", "advice"]}

    run(work())


@pytest.mark.parametrize(
    ("operation", "permission"),
    [(DELETE, "sqs:DeleteMessage"), ("ChangeMessageVisibilityBatch", "sqs:ChangeMessageVisibility")],
)
@pytest.mark.parametrize("code", ["AccessDenied", "AccessDeniedException"])
def test_inspect_finds_a_missing_permission(operation: str, permission: str, code: str) -> None:
    """`run` would find out only when the first batch is committed, or the first lease at half its life."""

    async def work() -> None:
        async with ScriptedSqs() as server, client_of(server.url) as client:
            server.attributes["RedrivePolicy"] = json.dumps({"maxReceiveCount": 5})
            server.always(operation, refusal(code, 403, message="User: CANARY is not authorized"))
            (finding,) = (await inspect(client, "logins", batch_s=0.5)).findings
            assert (finding.component, finding.level) == ("queue", "error")
            assert finding.what == f"these credentials lack the permission {permission} ({code})"
            assert permission in finding.hint
            assert "CANARY" not in repr(finding)

    run(work())


@pytest.mark.parametrize(
    "answer",
    [
        failing({"coatcheck-check": "ReceiptHandleIsInvalid"}),
        refusal("ReceiptHandleIsInvalid", 404),
        refusal("InvalidParameterValue", 400),
        ok({"Successful": [{"Id": "0"}]}),
    ],
    ids=["a failed entry", "a refusal", "another refusal", "success"],
)
def test_inspect_takes_any_other_refusal_of_its_probes_for_permission(answer: Reply) -> None:
    async def work() -> None:
        async with ScriptedSqs() as server, client_of(server.url) as client:
            server.attributes["RedrivePolicy"] = json.dumps({"maxReceiveCount": 5})
            for operation in (DELETE, "ChangeMessageVisibilityBatch"):
                server.always(operation, answer)
            assert (await inspect(client, "logins", batch_s=0.5)).findings == ()

    run(work())


def test_inspect_tries_its_probes_again_and_does_no_harm() -> None:
    async def work() -> None:
        async with ScriptedSqs() as server, client_of(server.url) as client:
            server.put("one")
            server.script(DELETE, Answer(b"", 503), cut())
            await inspect(client, "logins", batch_s=0.5)
            assert len(server.of(DELETE)) == 3
            assert not server.of(POLL), "a receive would count as one"
            assert (len(server.visible), server.deleted) == (1, [])

    run(work())


def test_json_bodies_survive_a_redrive(queues: Queues) -> None:
    async def work() -> None:
        dead, queue = queues.create(), queues.create()
        texts = [json.dumps({"text": "\u0000\ud800 ü"}), '{"t": "\\ud83e\\udde5 🧥 \\u0000"}', "a\tb\r\nc"]
        dead.send(texts)
        assert await redriven(queues.server.url, dead.url, queue.url) == 3
        async with reading(queue) as source:
            found: list[Message] = []
            await until(lambda: len(source.leases) == 3, "all three", limit=LIMIT)
            found += await take(source, 3)
            assert sorted(bodies(found)) == sorted(texts)

    run(work())


def test_a_source_tells_its_dead_letters(queues: Queues) -> None:
    async def work() -> None:
        dead = queues.create()
        dead.send(["one", "two"])
        for queue, expected in ((queues.create(dead=dead), 2), (queues.create(), None)):
            async with reading(queue) as source:
                assert [await source.dead_letters() for _ in range(2)] == [expected] * 2

    run(work())


def test_a_dead_letter_queue_that_may_not_be_looked_at_is_asked_once() -> None:
    async def work() -> None:
        async with scripted() as (server, source):
            await source.start()
            server.attributes["RedrivePolicy"] = json.dumps({"deadLetterTargetArn": "arn:aws:sqs:x:1:dead"})
            server.always("GetQueueUrl", refusal("AccessDenied", 403))
            assert [await source.dead_letters() for _ in range(3)] == [None] * 3
            assert len(server.of("GetQueueUrl")) == 1

    run(work())


def test_a_dead_letter_queue_is_asked_again_after_an_outage(monkeypatch: pytest.MonkeyPatch) -> None:
    async def away(*_: object) -> None:
        raise SqsError("GetQueueAttributes", "unavailable", "Timeout")

    async def work() -> None:
        async with scripted() as (server, source):
            await source.start()
            policy = json.dumps({"deadLetterTargetArn": "arn:aws:sqs:x:000000000000:logins"})
            server.attributes |= {"RedrivePolicy": policy, "ApproximateNumberOfMessages": "7"}
            with monkeypatch.context() as patch:
                patch.setattr(SqsClient, "get_queue_attributes", away)
                with pytest.raises(SqsError):
                    await source.dead_letters()
            assert await source.dead_letters() == 7

    run(work())
