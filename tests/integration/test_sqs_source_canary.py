"""No body, attribute or receipt is shown by anything that goes wrong at the source: no log, no error, no repr."""

from __future__ import annotations

import asyncio
import gc
import logging
import secrets
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
from tests.support.fix_sqs import Clock, client_of, run, scripted, take, until, words_logged, words_of
from tests.support.scripted_sqs import Answer, Reply, ScriptedSqs, cut, failing, ok, received, refusal, wire_message

from coatcheck.errors import CoatcheckError
from coatcheck.pipeline.keying import ORIGIN_ATTRIBUTE
from coatcheck.sources.sqs import SqsSource
from coatcheck.sources.sqs_queue import file_entries, send
from coatcheck.sources.sqs_redrive import redrive

pytestmark = pytest.mark.usefixtures("quick_end")

MARK = "CANARY" + secrets.token_hex(4)
"""Stands in every body, attribute and receipt."""

POLL, DELETE, EXTEND = "ReceiveMessage", "DeleteMessageBatch", "ChangeMessageVisibilityBatch"


def marked(number: int, body: str = "", **fields: Any) -> dict[str, Any]:
    """Return a message that is marked wherever a producer, or SQS, can put something."""
    given = wire_message(number, body or f'{{"ip": "{MARK}-body"}}')
    attribute = {"DataType": "String", "StringValue": f"{MARK}-origin"}
    return given | {
        "ReceiptHandle": f"{MARK}-receipt-{number}",
        "MessageAttributes": {ORIGIN_ATTRIBUTE: attribute, f"{MARK}-name": attribute},
        **fields,
    }


def told(code: str, status: int = 400) -> Answer:
    """Refuse with a message that echoes what was sent, as AWS's texts do now and then."""
    return refusal(code, status, message=f"the message {MARK}-echo is not good")


@pytest.fixture
def everything(caplog: pytest.LogCaptureFixture) -> Iterator[list[str]]:
    """Collect all that is shown anywhere; in the end the mark must not be in it."""
    caplog.set_level(logging.DEBUG)
    words: list[str] = []
    yield words
    gc.collect(1)  # what asyncio has to say of tasks and errors that nobody looked at
    words.append(words_logged(caplog))
    assert MARK not in "\n".join(words)


@asynccontextmanager
async def watched(words: list[str], **options: Any) -> AsyncIterator[tuple[ScriptedSqs, SqsSource]]:
    """Run a scripted server and a source, and note all the source shows of itself, and its errors."""
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: words.append(f"{context} {words_of(context.get('exception'))}"))
    async with scripted(**options) as (server, source):
        try:
            yield server, source
        except CoatcheckError as error:
            words.append(words_of(error))
        finally:
            words += [repr(source), str(source), repr(source.leases), repr(list(source.leases._held.values()))]
            words += [repr(task) for task in asyncio.all_tasks()]
            words += [repr(list(source._arrived)), repr(source._budget), repr(source._demand)]
            words.append(words_of(source._failure))


ANSWERS: dict[str, Reply] = {
    "not JSON": Answer(MARK.encode()),
    "truncated": Answer(ok({"Messages": [marked(1)]}).body[:-20]),
    "broken UTF-8": Answer(ok({"Messages": [marked(1)]}).body.replace(b"-body", b"\xff\xfe")),
    "lone surrogate": Answer(ok({"Messages": [marked(1)]}).body.replace(b"-body", b"\\ud800")),
    "damaged": received(marked(1, MD5OfBody="0" * 32)),
    "messages of another kind": ok({"Messages": MARK}),
    "a message of another kind": ok({"Messages": [MARK]}),
    "a body of another kind": received(marked(1, Body=[MARK])),
    "attributes of another kind": received(marked(1, Attributes=MARK)),
    "odd attributes": received(marked(1, Attributes={"SentTimestamp": MARK, "ApproximateReceiveCount": MARK})),
    "an odd origin": received(marked(1, MessageAttributes={ORIGIN_ATTRIBUTE: {"StringValue": [MARK]}})),
    "no id": ok({"Messages": [{"ReceiptHandle": MARK, "Body": MARK}]}),
    "an id of another kind": received(marked(1, MessageId={MARK: MARK})),
    "cut": Answer(ok({"Messages": [marked(1)]}).body, keep=60),
    "throttled": told("RequestThrottled", 403),
    "expired": told("ExpiredTokenException"),
    "500": Answer(MARK.encode(), 500),
    "an unknown code": told("Odd.Thing", 503),
    "a code that is none": Answer(f'{{"__type": "x#{MARK} {MARK}", "message": "{MARK}"}}'.encode(), 503),
    "denied": told("AccessDenied", 403),
    "invalid": told("InvalidParameterValue"),
    "missing": told("QueueDoesNotExist"),
    "a refusal that is no JSON": Answer(MARK.encode(), 400),
}


@pytest.mark.parametrize("kind", ANSWERS)
def test_answers_to_a_receive(kind: str, everything: list[str]) -> None:
    async def work() -> None:
        async with watched(everything) as (server, source):
            server.script(POLL, ANSWERS[kind], received(marked(2), marked(3)))
            await source.start()
            everything.extend(map(repr, await take(source, 2, limit=10.0)))

    run(work())


@pytest.mark.parametrize("kind", ["denied", "invalid", "500", "expired"])
def test_answers_to_the_start(kind: str, everything: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    async def work() -> None:
        async with watched(everything) as (server, source):
            server.always("GetQueueAttributes", ANSWERS[kind])
            await source.start()

    monkeypatch.setattr("coatcheck.sources.sqs_client._CONTROL_S", 0.2)
    monkeypatch.setattr("coatcheck.sources.sqs_client.SqsClient.call_retrying", once)
    run(work())


async def once(self: Any, operation: str, payload: bytes, *, timeout: float, deadline: float = 0.0) -> bytes:  # noqa: ARG001 - in the place of call_retrying
    answer: bytes = await self.call(operation, payload, timeout=timeout)
    return answer


def all_of(code: str) -> Reply:
    return lambda request: failing(dict.fromkeys(request.receipts, code))(request)


BATCH_ANSWERS: dict[str, Reply] = {
    "gone": all_of("ReceiptHandleIsInvalid"),
    "failed": all_of("InternalError"),
    "odd ids": ok({"Successful": [], "Failed": [{"Id": MARK, "Code": MARK, "Message": MARK}]}),
    "not JSON": Answer(MARK.encode()),
    "another JSON": ok({"Successful": MARK, "Failed": {MARK: MARK}}),
    "500": Answer(MARK.encode(), 500),
    "denied": told("AccessDenied", 403),
    "invalid": told("InvalidParameterValue"),
    "cut": cut(),
}


@pytest.mark.parametrize("operation", [DELETE, EXTEND])
@pytest.mark.parametrize("kind", BATCH_ANSWERS)
def test_answers_to_acks_and_extensions(operation: str, kind: str, everything: list[str]) -> None:
    async def work() -> None:
        async with watched(everything, visibility=1) as (server, source):
            server.script(POLL, received(*[marked(number) for number in range(3)]))
            await source.start()
            messages = await take(source, 3)
            server.script(operation, BATCH_ANSWERS[kind])
            if operation == EXTEND:
                await until(lambda: len(server.of(EXTEND)) >= 1, "an extension")
                await asyncio.sleep(0.05)
            await source.ack(messages)

    run(work())


@pytest.mark.parametrize("kind", BATCH_ANSWERS)
def test_answers_to_a_release_and_to_the_close(kind: str, everything: list[str]) -> None:
    async def work() -> None:
        async with watched(everything) as (server, source):
            server.script(POLL, received(*[marked(number) for number in range(4)]))
            await source.start()
            messages = await take(source, 4)
            server.always(EXTEND, BATCH_ANSWERS[kind])
            await source.release(messages[:2])

    run(work())


def test_late_answers_giving_up_and_the_twelve_hours(everything: list[str]) -> None:
    async def work() -> None:
        late, clock = asyncio.Event(), Clock()
        async with watched(everything, clock=clock, give_up_s=5.0, wait_s=20) as (server, source):
            server.script(POLL, received(marked(1)), received(marked(2), until=late))
            await source.start()
            await take(source, 1)
            clock.now += 12 * 3600
            await source.leases.extend_due()
            await until(lambda: server.polling, "the second poll")
            await source.quiesce()
            late.set()
            await until(lambda: server.released, "its message to be given back")
        async with watched(everything, clock=clock, give_up_s=5.0) as (server, source):
            server.script(POLL, received(marked(1)))
            server.always(POLL, Answer(MARK.encode(), 503))
            await source.start()
            await take(source, 1)
            await until(lambda: len(server.of(POLL)) > 2, "failures")
            clock.now += 60.0
            with pytest.raises(CoatcheckError) as caught:
                await take(source, 1)
            everything.append(words_of(caught.value))

    run(work())


def test_a_cancelled_receive_shows_nothing(everything: list[str]) -> None:
    async def work() -> None:
        async with watched(everything) as (server, source):
            server.script(POLL, received(marked(1), delay=0.1))
            await source.start()
            task = asyncio.create_task(source.receive(10.0))
            await asyncio.sleep(0.02)
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
            everything.append(repr(task))
            everything.extend(map(repr, await take(source, 1)))

    run(work())


QUEUE_ANSWERS: dict[str, Callable[[], Reply]] = {
    "not JSON": lambda: Answer(MARK.encode()),
    "denied": lambda: told("AccessDenied", 403),
    "refused entries": lambda: ok({"Failed": [{"Id": "0", "Code": "InternalError", "Message": MARK}]}),
    "odd entries": lambda: ok({"Failed": [{"Id": MARK, "Code": f"{MARK} is bad", "Message": MARK}]}),
}


@pytest.mark.parametrize(
    ("operation", "kind"),
    [(operation, kind) for operation in ("SendMessageBatch", DELETE) for kind in QUEUE_ANSWERS]
    + [(POLL, "not JSON"), (POLL, "denied")],
)
def test_send_and_redrive(operation: str, kind: str, everything: list[str]) -> None:
    async def work() -> None:
        async with ScriptedSqs() as server, client_of(server.url) as client:
            server.script(operation, QUEUE_ANSWERS[kind]())
            server.script(POLL, received(marked(1, MD5OfBody="0" * 32)), ok({}), ok({}))
            for steps in (
                redrive(client, server.queue_url, server.queue_url),
                send(client, server.queue_url, file_entries([f'{{"ip": "{MARK}"}}'], as_new=False)),
            ):
                try:
                    async for _ in steps:
                        pass
                except CoatcheckError as error:
                    everything.append(words_of(error))

    run(work())
