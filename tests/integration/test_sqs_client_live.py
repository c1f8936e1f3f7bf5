"""The SQS client against an embedded SQS server: what our own small servers say about SQS must be so there too."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trustme

from coatcheck.demo.servers import SqsServer
from coatcheck.sources.aws import resolve
from coatcheck.sources.sqs_client import SqsClient, SqsError, body_intact, decode_batch, decode_receive


@pytest.fixture(scope="module")
def server() -> Iterator[SqsServer]:
    with SqsServer() as running:
        yield running


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, server: SqsServer) -> None:
    for name in ("AWS_PROFILE", "AWS_REGION", "AWS_DEFAULT_REGION", "AWS_ENDPOINT_URL_SQS", "AWS_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")


@asynccontextmanager
async def client_of(queue: str, **options: Any) -> AsyncIterator[SqsClient]:
    client = SqsClient(resolve(queue, **options))
    try:
        yield client
    finally:
        await client.close()


async def receive(client: SqsClient, url: str, wait_s: int = 1) -> bytes:
    request = {
        "QueueUrl": url,
        "MaxNumberOfMessages": 10,
        "WaitTimeSeconds": wait_s,
        "MessageSystemAttributeNames": ["SentTimestamp", "ApproximateReceiveCount"],
        "MessageAttributeNames": ["All"],
    }
    return await client.call("ReceiveMessage", msgspec.json.encode(request), timeout=wait_s + 10)


async def batch(client: SqsClient, operation: str, url: str, entries: list[dict[str, Any]]) -> bytes:
    return await client.call(operation, msgspec.json.encode({"QueueUrl": url, "Entries": entries}), timeout=10)


def test_messages_go_there_and_back_and_are_deleted() -> None:
    async def run() -> None:
        async with client_of("round-trip") as client:
            url = await client.create_queue("round-trip", {"VisibilityTimeout": "60"})
            assert await client.queue_url("round-trip") == url
            attributes = await client.get_queue_attributes(url, ["VisibilityTimeout"])
            assert attributes == {"VisibilityTimeout": "60"}
            bodies = ["{}", "a\u00e9\U0001f600\n", *(str(number) for number in range(8))]
            origin = {"origin": {"DataType": "String", "StringValue": "id:1"}}
            entries: list[dict[str, Any]] = [
                {"Id": str(place), "MessageBody": body, "MessageAttributes": origin}
                for place, body in enumerate(bodies)
            ]
            sent = decode_batch(await batch(client, "SendMessageBatch", url, entries))
            assert sorted(entry.id for entry in sent.successful) == sorted(entry["Id"] for entry in entries)
            got = decode_receive(await receive(client, url))
            assert sorted(wire.body for wire in got) == sorted(bodies)
            for wire in got:
                assert wire.md5_of_body == hashlib.md5(wire.body.encode(), usedforsecurity=False).hexdigest()
                assert body_intact(wire)
                assert int(wire.attributes["SentTimestamp"]) > 1_700_000_000_000
                assert wire.attributes["ApproximateReceiveCount"] == "1"
                assert wire.message_attributes["origin"].string_value == "id:1"
            deletions = [{"Id": str(place), "ReceiptHandle": wire.receipt_handle} for place, wire in enumerate(got)]
            deleted = decode_batch(await batch(client, "DeleteMessageBatch", url, deletions))
            assert len(deleted.successful) == 10
            assert deleted.failed == []
            assert decode_receive(await receive(client, url, 0)) == []
            again = decode_batch(await batch(client, "DeleteMessageBatch", url, deletions[:1]))
            assert [entry.code for entry in again.failed] == ["ReceiptHandleIsInvalid"]  # AWS says success

    asyncio.run(run())


def test_a_queue_given_by_url_needs_no_endpoint(monkeypatch: pytest.MonkeyPatch, server: SqsServer) -> None:
    monkeypatch.delenv("AWS_ENDPOINT_URL")

    async def run() -> None:
        url = f"{server.url}/000000000000/by-url"
        async with client_of(url) as client:
            await client.create_queue("by-url")
            assert await client.queue_url(url) == url
            assert decode_receive(await receive(client, url, 0)) == []

    asyncio.run(run())


def test_a_fifo_queue_is_made_by_its_name() -> None:
    async def run() -> None:
        async with client_of("in-order.fifo") as client:
            url = await client.create_queue("in-order.fifo")
            assert (await client.get_queue_attributes(url, ["FifoQueue"])) == {"FifoQueue": "true"}

    asyncio.run(run())


def test_a_missing_queue_is_told_by_name_and_by_url(server: SqsServer) -> None:
    async def run() -> None:
        async with client_of("missing") as client:
            with pytest.raises(SqsError) as by_name:
                await client.queue_url("missing")
            with pytest.raises(SqsError) as by_url:
                await receive(client, f"{server.url}/000000000000/missing")
            for caught in (by_name, by_url):
                assert (caught.value.kind, caught.value.code) == ("missing_queue", "QueueDoesNotExist")
                assert not caught.value.retryable

    asyncio.run(run())


def test_what_the_server_refuses_shows_no_value() -> None:
    async def run() -> None:
        async with client_of("refusals") as client:
            url = await client.create_queue("refusals")
            with pytest.raises(SqsError) as caught:
                await batch(client, "SendMessageBatch", url, [{"Id": "CANARY!", "MessageBody": "CANARY"}] * 11)
            assert caught.value.kind == "invalid"
            assert "CANARY" not in f"{caught.value!r} {vars(caught.value)}"

    asyncio.run(run())


def test_a_long_poll_wakes_when_a_message_comes() -> None:
    async def run() -> None:
        async with client_of("long-poll") as client:
            url = await client.create_queue("long-poll")
            poll = asyncio.create_task(receive(client, url, 20))
            await batch(client, "SendMessageBatch", url, [{"Id": "0", "MessageBody": "here"}])
            async with asyncio.timeout(10):
                assert [wire.body for wire in decode_receive(await poll)] == ["here"]

    asyncio.run(run())


def test_a_poll_that_was_hung_up_gives_back_what_it_gets() -> None:
    async def run() -> None:
        async with client_of("hung-up") as client:
            url = await client.create_queue("hung-up", {"VisibilityTimeout": "600"})
            given_back = asyncio.Event()

            async def give_back(answer: bytes) -> None:
                entries = [
                    {"Id": str(place), "ReceiptHandle": wire.receipt_handle, "VisibilityTimeout": 0}
                    for place, wire in enumerate(decode_receive(answer))
                ]
                await batch(client, "ChangeMessageVisibilityBatch", url, entries)
                given_back.set()

            request = msgspec.json.encode({"QueueUrl": url, "WaitTimeSeconds": 20})
            poll = asyncio.create_task(client.call("ReceiveMessage", request, timeout=30, late=give_back))
            await asyncio.sleep(0)  # one turn of the loop sends the poll
            poll.cancel()
            await asyncio.gather(poll, return_exceptions=True)
            await batch(client, "SendMessageBatch", url, [{"Id": "0", "MessageBody": "not lost"}])
            async with asyncio.timeout(20):
                await given_back.wait()
            (wire,) = decode_receive(await receive(client, url, 5))
            assert wire.body == "not lost"

    asyncio.run(run())


@asynccontextmanager
async def terminating_tls(authority: trustme.CA, upstream: int) -> AsyncIterator[int]:
    """A proxy that takes TLS for `localhost` and passes the plain bytes on to the server."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("localhost").configure_cert(context)
    tasks: set[asyncio.Task[None]] = set()

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        writer.close()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        up_reader, up_writer = await asyncio.open_connection("127.0.0.1", upstream)
        for task in (pump(reader, up_writer), pump(up_reader, writer)):
            tasks.add(asyncio.create_task(task))

    listener = await asyncio.start_server(connected, "127.0.0.1", 0, ssl=context)
    try:
        yield listener.sockets[0].getsockname()[1]
    finally:
        listener.close()
        async with asyncio.timeout(10):  # the clients are closed, and so are their connections
            await asyncio.gather(*tasks)


def test_through_tls_with_the_ca_bundle_of_the_environment_and_not_without(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, server: SqsServer
) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    monkeypatch.delenv("AWS_ENDPOINT_URL")

    def quiet(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        if not isinstance(context.get("exception"), ssl.SSLError | ConnectionError):
            loop.default_exception_handler(context)

    async def run() -> None:
        asyncio.get_running_loop().set_exception_handler(quiet)
        async with terminating_tls(authority, server.port) as port:
            endpoint = f"https://localhost:{port}"
            async with client_of("tls", endpoint_url=endpoint) as client:
                with pytest.raises(SqsError) as caught:
                    await client.call("CreateQueue", b'{"QueueName":"tls"}', timeout=10)
                assert caught.value.code == "UntrustedCertificate"
            monkeypatch.setenv("AWS_CA_BUNDLE", str(tmp_path / "ca.pem"))
            async with client_of("tls", endpoint_url=endpoint) as client:
                url = await client.create_queue("tls")
                assert decode_receive(await receive(client, url, 0)) == []

    asyncio.run(run())
