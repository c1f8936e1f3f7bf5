"""When SQS fails: it is asked again at growing intervals, never in a hot loop; what nobody can cure is told."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest
from tests.support.fix_sqs import Clock, Queues, a_source, bodies, numbered, reading, run, scripted, take, until
from tests.support.scripted_sqs import (
    Answer,
    Reply,
    Request,
    ScriptedSqs,
    cut,
    failing,
    ok,
    received,
    refusal,
    wire_message,
)

from coatcheck.errors import UnreachableError
from coatcheck.sources.aws import resolve
from coatcheck.sources.sqs_client import SqsClient, SqsError

pytestmark = pytest.mark.usefixtures("quick_end")

POLL, DELETE = "ReceiveMessage", "DeleteMessageBatch"
AWAY: dict[str, Reply] = {
    "throttled": refusal("RequestThrottled", 403),
    "throttled by status": Answer(b"", 429),
    "limit": refusal("OverLimit", 400),
    "KMS throttled": refusal("KmsThrottled", 400),
    "500": Answer(b"", 500),
    "503": refusal("ServiceUnavailable", 503),
    "cut": cut(),
    "broken": Answer(b"{"),
    "unknown key": refusal("InvalidClientTokenId", 403),
}


def all_failed(code: str) -> Reply:
    """Answer 200, and that every entry failed."""
    return lambda request: failing(dict.fromkeys(request.receipts, code))(request)


@pytest.mark.parametrize("kind", AWAY)
def test_a_failing_queue_is_not_stormed_and_recovers(kind: str) -> None:
    async def work() -> None:
        async with scripted(receivers=8) as (server, source):
            server.always(POLL, AWAY[kind])
            await source.start()
            await asyncio.sleep(0.7)
            assert 2 <= len(server.of(POLL)) <= 14, "half a dozen tries in the first second, then ever fewer"
            server.always(POLL, None)
            server.put("back")
            assert bodies(await take(source, 1)) == ["back"]

    run(work())


def test_all_receivers_failing_at_once_do_not_storm(caplog: pytest.LogCaptureFixture) -> None:
    async def work() -> None:
        async with scripted(receivers=16, latency=0.01) as (server, source):
            server.put(*numbered(1000))
            await source.start()
            taken = await take(source, 600)
            assert server.most_polling == 16
            before = len(server.of(POLL))
            server.always(POLL, Answer(b"", 503))
            await asyncio.sleep(1.0)
            assert len(server.of(POLL)) - before <= 16 * 2 + 16
            await until(lambda: len(source._receivers) == 1, "one receiver to go on trying")
            server.always(POLL, None)
            server.put("more")
            assert len(taken + await take(source, 1001 - len(taken))) == 1001

    run(work())
    assert "does not answer" in caplog.text


def test_a_server_that_goes_and_comes_back() -> None:
    async def work() -> None:
        async with ScriptedSqs() as server:
            source = a_source(server.queue_url)
            try:
                await source.start()
                await until(lambda: server.polling, "the poll")
                await server.__aexit__(None, None, None)
                await asyncio.sleep(0.5)
                await server.__aenter__()
                server.put("back")
                assert bodies(await take(source, 1)) == ["back"]
            finally:
                await source.close()

    run(work())


@pytest.mark.parametrize("where", ["environment", "file"])
def test_expired_credentials_are_read_again(where: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    keys = tmp_path / "credentials"

    def rotate(key: str) -> None:
        if where == "environment":
            monkeypatch.setenv("AWS_ACCESS_KEY_ID", key)
            monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "not-a-secret")
        else:
            keys.write_text(f"[default]\naws_access_key_id = {key}\naws_secret_access_key = not-a-secret\n")

    def only_new(request: Request) -> Answer:
        if request.key == "AKIDOLD":
            return refusal("ExpiredTokenException")
        return received(wire_message(len(server_of[0].of(POLL)), "fresh"))

    server_of: list[ScriptedSqs] = []

    async def work() -> None:
        async with ScriptedSqs() as server:
            server_of.append(server)
            rotate("AKIDOLD")
            target = await asyncio.to_thread(resolve, "logins", endpoint_url=server.url, region="us-east-1")
            source = a_source(server.queue_url, client=SqsClient(target))
            server.always(POLL, only_new)
            try:
                await source.start()
                await until(lambda: len(server.of(POLL)) >= 3, "refusals")
                assert {request.key for request in server.requests} == {"AKIDOLD"}
                rotate("AKIDNEW")
                assert bodies(await take(source, 1))[0] == "fresh"
                assert server.of(POLL)[-1].key == "AKIDNEW"
            finally:
                server.always(POLL, ok({}))
                await source.close()

    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE", "AWS_ENDPOINT_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(keys))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    run(work())


@pytest.mark.parametrize(
    ("code", "status", "kind"),
    [
        ("AccessDenied", 403, "denied"),
        ("KmsAccessDenied", 400, "denied"),
        ("QueueDoesNotExist", 400, "missing_queue"),
        ("InvalidParameterValue", 400, "invalid"),
    ],
)
def test_what_nobody_but_people_can_cure_is_raised_after_what_came_before(code: str, status: int, kind: str) -> None:
    async def work() -> None:
        async with scripted(receivers=4) as (server, source):
            first, second = [[wire_message(part * 10 + number) for number in range(10)] for part in range(2)]
            server.script(POLL, received(*first), received(*second))
            server.always(POLL, refusal(code, status))
            await source.start()
            await until(lambda: source._failure, "the failure")
            messages = await take(source, 20)
            assert len(messages) == 20
            for _ in range(2):
                with pytest.raises(SqsError) as caught:
                    await source.receive(0.5)
                assert caught.value.kind == kind
                assert caught.value.hint
            assert await source.ack(messages) == 0, "what was received can still be acked"

    run(work())


def test_a_waiting_receive_is_woken_by_the_failure() -> None:
    async def work() -> None:
        async with scripted() as (server, source):
            server.script(POLL, refusal("AccessDenied", 403, delay=0.1))
            await source.start()
            before = time.monotonic()
            with pytest.raises(SqsError):
                await source.receive(20.0)
            assert time.monotonic() - before < 5.0

    run(work())


def test_a_queue_deleted_while_it_is_read(queues: Queues) -> None:
    async def work() -> None:
        queue = queues.create()
        queue.send(numbered(3))
        async with reading(queue) as source:
            messages = await take(source, 3)
            queue.delete()
            with pytest.raises(SqsError) as caught:
                await take(source, 1, limit=10.0)
            assert caught.value.kind == "missing_queue"
            assert len(messages) == 3

    run(work())


def test_a_missing_queue_cannot_be_started(queues: Queues) -> None:
    async def work() -> None:
        source = a_source(f"{queues.server.url}/000000000000/nowhere")
        try:
            with pytest.raises(SqsError) as caught:
                await source.start()
            assert caught.value.kind == "missing_queue"
        finally:
            await source.close()

    run(work())


# -- giving up


@pytest.mark.parametrize("trouble", [Answer(b"", 503), Answer(b"broken")], ids=["503", "broken"])
def test_patience_has_an_end_if_one_is_set(trouble: Answer) -> None:
    async def work() -> None:
        clock = Clock()
        async with scripted(give_up_s=60.0, clock=clock) as (server, source):
            server.always(POLL, trouble)
            await source.start()
            await until(lambda: len(server.of(POLL)) >= 3, "a few tries")
            assert await source.receive(0.1) == []
            clock.now += 61.0
            with pytest.raises(UnreachableError) as caught:
                await source.receive(20.0)
            assert "60 s" in caught.value.message
            assert caught.value.hint

    run(work())


def test_acks_that_fail_and_hold_all_the_room_have_an_end_too() -> None:
    """No receive is under way any more that could notice that SQS is gone."""

    async def work() -> None:
        clock = Clock()
        async with scripted(give_up_s=60.0, clock=clock, max_in_flight=10) as (server, source):
            server.put(*numbered(20))
            await source.start()
            messages = await take(source, 10)
            await until(lambda: not source._receivers, "no room for more")
            server.always("DeleteMessageBatch", Answer(b"", 503))
            ack = asyncio.create_task(source.ack(messages))
            await until(lambda: len(server.of("DeleteMessageBatch")) >= 3, "a few tries")
            assert not ack.done()
            clock.now += 61.0
            with pytest.raises(UnreachableError) as caught:
                await ack
            assert "60 s" in caught.value.message

    run(work())


@pytest.mark.parametrize("trouble", [Answer(b"", 503), all_failed("InternalError"), all_failed("KmsThrottled")])
def test_acks_that_fail_while_receives_succeed_have_an_end(trouble: Reply) -> None:
    """A 200 in which every entry failed is no answer either, and each poll has its own clock."""

    async def work() -> None:
        clock = Clock()
        async with scripted(give_up_s=60.0, clock=clock, wait_s=0) as (server, source):
            server.put(*numbered(10))
            await source.start()
            messages = await take(source, 10)
            server.always(DELETE, trouble)
            ack = asyncio.create_task(source.ack(messages))
            await until(lambda: len(server.of(DELETE)) >= 2, "a few tries")
            polls = len(server.of(POLL))
            await until(lambda: len(server.of(POLL)) >= polls + 3, "receives that are answered")
            clock.now += 61.0
            with pytest.raises(UnreachableError) as caught:
                await ack
            assert "60 s (last: DeleteMessageBatch" in caught.value.message
            assert await source.receive(0.0) == [], "receiving is none the worse"

    run(work())


def test_receives_that_fail_while_acks_succeed_have_an_end() -> None:
    async def work() -> None:
        clock = Clock()
        async with scripted(give_up_s=60.0, clock=clock) as (server, source):
            server.put(*numbered(10))
            await source.start()
            messages = await take(source, 10)
            server.always(POLL, Answer(b"", 503))
            before = len(server.of(POLL))
            await until(lambda: len(server.of(POLL)) >= before + 2, "a few tries")
            assert await source.ack(messages) == 0
            clock.now += 61.0
            with pytest.raises(UnreachableError):
                await source.receive(20.0)

    run(work())


def test_entries_that_people_have_to_cure_end_an_ack_at_once() -> None:
    async def work() -> None:
        async with scripted() as (server, source):
            server.put(*numbered(3))
            await source.start()
            messages = await take(source, 3)
            server.refuse_once["receipt-2"] = "KmsAccessDenied"
            with pytest.raises(SqsError) as caught:
                await source.ack(messages)
            assert (caught.value.kind, caught.value.code) == ("denied", "KmsAccessDenied")
            assert server.deleted == [messages[0].message_id, messages[2].message_id]
            await source.close()
            assert "receipt-2" in server.released, "what was not deleted is given back"
            assert not {"receipt-1", "receipt-3"} & set(server.released), "and nothing else"

    run(work())


def test_without_a_limit_it_is_tried_for_ever() -> None:
    async def work() -> None:
        clock = Clock()
        async with scripted(clock=clock) as (server, source):
            server.always(POLL, Answer(b"", 503))
            await source.start()
            for _ in range(3):
                clock.now += 100_000.0
                count = len(server.of(POLL))
                await until(lambda count=count: len(server.of(POLL)) > count, "one more try")  # type: ignore[misc]  # mypy cannot infer a lambda with a default
            assert await source.receive(0.0) == []

    run(work())


def test_a_long_pause_of_ours_is_not_held_against_sqs() -> None:
    """The sink was slow, so nothing was asked for ten minutes; then one request fails."""

    async def work() -> None:
        clock = Clock()
        async with scripted(give_up_s=60.0, clock=clock, max_in_flight=10) as (server, source):
            server.put(*numbered(20))
            await source.start()
            messages = await take(source, 10)
            await until(lambda: not source._receivers, "no room for more")
            clock.now += 600.0
            server.script(POLL, Answer(b"", 503))
            await source.ack(messages)
            assert len(await take(source, 10)) == 10

    run(work())


def test_one_success_in_between_starts_the_patience_anew() -> None:
    async def work() -> None:
        clock = Clock()
        async with scripted(give_up_s=60.0, clock=clock) as (server, source):
            for number in range(5):
                server.script(POLL, Answer(b"", 503))
                await (source.start() if not number else asyncio.sleep(0))
                count = len(server.of(POLL))
                server.put(str(number))
                assert bodies(await take(source, 1)) == [str(number)]
                assert len(server.of(POLL)) > count
                clock.now += 40.0

    run(work())
