"""The SQS client on the wire, against small servers of our own: TLS, proxies, timeouts, refusals, cancellation."""

from __future__ import annotations

import asyncio
import contextlib
import email.utils
import json
import logging
import ssl
import time
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import trustme
from botocore.credentials import Credentials as BotoCredentials
from botocore.exceptions import ProfileNotFound

from coatcheck.sources import sqs_client
from coatcheck.sources.aws import AwsTarget, Credentials
from coatcheck.sources.sqs_client import SqsClient, SqsError

HOST = "127.0.0.1"


@dataclass
class Request:
    """A request as a server read it."""

    line: str
    headers: dict[str, str]
    body: bytes

    @property
    def operation(self) -> str:
        return self.headers["x-amz-target"].removeprefix("AmazonSQS.")


Answer = Callable[[Request], Awaitable[bytes]]


@dataclass
class Server:
    """An HTTP/1.1 server that answers with what `answer` returns, a whole response, and keeps what it was asked."""

    answer: Answer
    requests: list[Request] = field(default_factory=list)
    connections: int = 0
    port: int = 0

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.port}"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        with contextlib.suppress(OSError, asyncio.IncompleteReadError, ssl.SSLError):
            while True:
                request = await read_request(reader)
                self.requests.append(request)
                writer.write(await self.answer(request))
                await writer.drain()
        writer.close()


async def read_request(reader: asyncio.StreamReader) -> Request:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    line, *rest = head.rstrip("\r\n").split("\r\n")
    headers = {name.lower(): value for name, value in (entry.split(": ", 1) for entry in rest)}
    return Request(line, headers, await reader.readexactly(int(headers.get("content-length", 0))))


def response(status: int, body: object = b"", **headers: str) -> bytes:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    lines = [f"HTTP/1.1 {status} Whatever", f"content-length: {len(content)}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode() + content


def always(status: int, body: object = b"", **headers: str) -> Answer:
    async def answer(_: Request) -> bytes:
        return response(status, body, **headers)

    return answer


async def echo(request: Request) -> bytes:
    return response(200, request.body)


async def hang(_: Request) -> bytes:
    await asyncio.Event().wait()
    return b""


Connected = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Coroutine[Any, Any, None]]


@asynccontextmanager
async def listening(connected: Connected, tls: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    """Serve on a free loopback port; at the end every connection's task is over."""
    tasks: set[asyncio.Task[None]] = set()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            await connected(reader, writer)
        except asyncio.CancelledError:
            pass
        finally:
            tasks.discard(task)
            writer.transport.abort()

    server = await asyncio.start_server(handle, HOST, 0, ssl=tls)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@asynccontextmanager
async def serving(answer: Answer) -> AsyncIterator[Server]:
    server = Server(answer)
    async with listening(server.serve) as server.port:
        yield server


def target(url: str, credentials: Credentials | None = None) -> AwsTarget:
    found = credentials or Credentials(lambda: BotoCredentials("AKID", "secret"))
    return AwsTarget(url, "us-east-1", "logins", None, found)


@asynccontextmanager
async def client_of(url: str, credentials: Credentials | None = None, **options: Any) -> AsyncIterator[SqsClient]:
    client = SqsClient(target(url, credentials), **options)
    try:
        yield client
    finally:
        await client.close()


as_it_is_chosen = pytest.mark.parametrize("transport", ["direct"], indirect=True)
"""For tests of what only one of them does, or of which is taken."""


async def failure_of(call: Awaitable[object]) -> SqsError:
    with pytest.raises(SqsError) as caught:
        await call
    return caught.value


@pytest.fixture(autouse=True, params=["direct", "pyreqwest"])
def transport(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both ways to speak HTTP are held to the same tests; the second has no proxy here, but speaks as if it had."""
    if request.param != "direct":
        monkeypatch.setattr(sqs_client, "_has_proxy", lambda _: True)
    return str(request.param)


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


# -- requests


def test_a_request_is_what_aws_json_asks_for_on_one_kept_connection() -> None:
    async def run() -> None:
        async with serving(echo) as server, client_of(server.url) as client:
            for number in range(5):
                payload = b'{"n":%d}' % number
                assert await client.call("ReceiveMessage", payload, timeout=5) == payload
            assert server.connections == 1
            request = server.requests[0]
            assert request.line == "POST / HTTP/1.1"
            assert request.headers["x-amz-target"] == "AmazonSQS.ReceiveMessage"
            assert request.headers["content-type"] == "application/x-amz-json-1.0"
            assert request.headers["host"] == f"{HOST}:{server.port}"
            assert request.headers["authorization"].startswith("AWS4-HMAC-SHA256 Credential=AKID/")
            assert request.headers["user-agent"].startswith("coatcheck/")
            assert "accept-encoding" not in request.headers

    asyncio.run(run())


def test_a_path_in_the_endpoint_is_kept() -> None:
    async def run() -> None:
        async with serving(echo) as server, client_of(f"{server.url}/aws/sqs") as client:
            await client.call("ReceiveMessage", b"{}", timeout=5)
            assert server.requests[0].line == "POST /aws/sqs HTTP/1.1"

    asyncio.run(run())


def test_ten_megabytes_come_back_whole() -> None:
    async def run() -> None:
        body = b"x" * 10_485_760
        async with serving(always(200, body)) as server, client_of(server.url) as client:
            assert await client.call("ReceiveMessage", b"{}", timeout=30) == body

    asyncio.run(run())


def test_max_connections_bounds_what_is_under_way() -> None:
    under_way, most = 0, 0

    async def count(_: Request) -> bytes:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        for _turn in range(20):
            await asyncio.sleep(0)
        under_way -= 1
        return response(200)

    async def run() -> None:
        async with serving(count) as server, client_of(server.url, max_connections=3) as client:
            await asyncio.gather(*(client.call("ReceiveMessage", b"{}", timeout=10) for _ in range(30)))
            assert server.connections <= 3

    asyncio.run(run())
    assert most <= 3


# -- failures


REFUSALS = [
    (500, {"__type": "com.amazonaws.sqs#InternalFailure"}, {}, "unavailable", "InternalFailure"),
    (503, b"<html>", {}, "unavailable", "Http503"),
    (429, b"", {}, "throttled", "Http429"),
    (403, {"__type": "com.amazonaws.sqs#RequestThrottled"}, {}, "throttled", "RequestThrottled"),
    (400, {"__type": "com.amazonaws.sqs#QueueDoesNotExist"},
     {"x_amzn_query_error": "AWS.SimpleQueueService.NonExistentQueue;Sender"}, "missing_queue", "QueueDoesNotExist"),
    (400, b"", {"x_amzn_query_error": "AWS.SimpleQueueService.NonExistentQueue;Sender"}, "missing_queue",
     "NonExistentQueue"),
    (403, {"__type": "com.amazonaws.sqs#AccessDeniedException"}, {}, "denied", "AccessDeniedException"),
    (302, b"", {"location": "http://127.0.0.1:1/"}, "invalid", "Http302"),
    (204, b"", {}, "invalid", "Http204"),
]  # fmt: skip


@pytest.mark.parametrize(("status", "body", "headers", "kind", "code"), REFUSALS)
def test_refusals_are_classified(status: int, body: object, headers: dict[str, str], kind: str, code: str) -> None:
    async def run() -> None:
        async with serving(always(status, body, **headers)) as server, client_of(server.url) as client:
            error = await failure_of(client.call("ReceiveMessage", b"{}", timeout=5))
            assert (error.kind, error.code) == (kind, code)
            assert len(server.requests) == 1

    asyncio.run(run())


async def cut_off(_: Request) -> bytes:
    raise OSError


async def cut_short(_: Request) -> bytes:
    return b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\nconnection: close\r\n\r\n{"


async def no_http(_: Request) -> bytes:
    return b"SSH-2.0-OpenSSH_9.9\r\n\r\n"


@pytest.mark.parametrize("answer", [cut_off, no_http])
def test_broken_responses_are_unavailable(answer: Answer) -> None:
    async def run() -> None:
        async with serving(answer) as server, client_of(server.url) as client:
            error = await failure_of(client.call("ReceiveMessage", b"{}", timeout=5))
            assert (error.kind, error.code) == ("unavailable", "BrokenResponse")

    asyncio.run(run())


def test_a_body_cut_short_is_unavailable() -> None:
    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(await cut_short(await read_request(reader)))
        await writer.drain()

    async def run() -> None:
        async with listening(connected) as port, client_of(f"http://{HOST}:{port}") as client:
            error = await failure_of(client.call("ReceiveMessage", b"{}", timeout=5))
            assert error.kind == "unavailable"

    asyncio.run(run())


def test_a_server_that_hangs_is_a_timeout_and_unavailable() -> None:
    async def run() -> None:
        async with serving(hang) as server, client_of(server.url) as client:
            error = await failure_of(client.call("ReceiveMessage", b"{}", timeout=0.2))
            assert (error.kind, error.code) == ("unavailable", "Timeout")

    asyncio.run(run())


def test_no_server_and_no_such_host_are_unavailable_and_told_apart() -> None:
    async def run() -> None:
        async with listening(Server(echo).serve) as port:
            pass
        async with client_of(f"http://{HOST}:{port}") as client:
            error = await failure_of(client.call("ReceiveMessage", b"{}", timeout=5))
            assert (error.kind, error.code) == ("unavailable", "ConnectError")
        async with client_of("http://sqs.invalid") as client:
            error = await failure_of(client.call("ReceiveMessage", b"{}", timeout=5))
            assert (error.kind, error.code) == ("unavailable", "UnknownHost")

    asyncio.run(run())


def test_after_close_nothing_is_sent() -> None:
    async def run() -> None:
        async with serving(echo) as server:
            async with client_of(server.url) as client:
                await client.call("ReceiveMessage", b"{}", timeout=5)
            await client.close()
            error = await failure_of(client.call("ReceiveMessage", b"{}", timeout=5))
            assert (error.kind, error.code) == ("invalid", "ClientClosed")
            assert len(server.requests) == 1

    asyncio.run(run())


@asynccontextmanager
async def telling_ends() -> AsyncIterator[tuple[int, asyncio.Event]]:
    """An echo, and an event for the end of a connection to it."""
    ended, server = asyncio.Event(), Server(echo)

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await server.serve(reader, writer)
        ended.set()

    async with listening(connected) as port:
        yield port, ended


def test_close_ends_idle_connections() -> None:
    async def run() -> None:
        async with telling_ends() as (port, ended):
            async with client_of(f"http://{HOST}:{port}") as client:
                await client.call("ReceiveMessage", b"{}", timeout=5)
                assert not ended.is_set()
            async with asyncio.timeout(10):
                await ended.wait()

    asyncio.run(run())


def test_connections_that_the_server_closes_meanwhile_do_no_harm() -> None:
    async def run() -> None:
        async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            request = await read_request(reader)
            writer.write(response(200, request.body))
            await writer.drain()
            writer.close()

        async with listening(connected) as port, client_of(f"http://{HOST}:{port}") as client:
            for _ in range(50):  # the odd one is sent just before the end is seen, and is tried again
                assert await client.call_retrying("ReceiveMessage", b"{}", timeout=5) == b"{}"

    asyncio.run(run())


@as_it_is_chosen
@pytest.mark.parametrize(("operation", "again"), [("ReceiveMessage", True), ("SendMessageBatch", False)])
def test_a_request_that_meets_a_closed_connection_is_sent_again_if_that_does_no_harm(
    operation: str,
    again: bool,  # noqa: FBT001 - a parameter of the test
) -> None:
    async def run() -> None:
        seen = 0

        async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal seen
            request = await read_request(reader)
            seen += 1
            writer.write(response(200, request.body))
            await writer.drain()
            await read_request(reader)  # a second one on this connection is not answered
            seen += 1
            writer.close()

        async with listening(connected) as port, client_of(f"http://{HOST}:{port}") as client:
            await client.call(operation, b"1", timeout=5)
            if again:
                assert await client.call(operation, b"2", timeout=5) == b"2"
            else:
                assert (await failure_of(client.call(operation, b"2", timeout=5))).code == "BrokenResponse"
            assert seen == (3 if again else 2)

    asyncio.run(run())


def test_an_informational_response_is_passed_over() -> None:
    async def early(request: Request) -> bytes:
        return b"HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n" + response(200, request.body)

    async def run() -> None:
        async with serving(early) as server, client_of(server.url) as client:
            for _ in range(3):
                assert await client.call("ReceiveMessage", b"{}", timeout=5) == b"{}"
            assert server.connections == 1

    asyncio.run(run())


def test_idle_connections_are_closed() -> None:
    async def run() -> None:
        async with telling_ends() as (port, ended), client_of(f"http://{HOST}:{port}", idle_timeout=0.1) as client:
            await client.call("ReceiveMessage", b"{}", timeout=5)
            async with asyncio.timeout(10):
                await ended.wait()
            assert await client.call("ReceiveMessage", b"{}", timeout=5) == b"{}"

    asyncio.run(run())


def test_what_is_connecting_at_the_close_fails() -> None:
    async def run() -> None:
        async with serving(hang) as server:
            client = SqsClient(target(server.url))
            call = asyncio.create_task(client.call("DeleteMessageBatch", b"{}", timeout=30))
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            await client.close()
            assert (await failure_of(call)).code in ("ClientClosed", "BrokenResponse")

    asyncio.run(run())


# -- what a refusal teaches


def test_expired_credentials_are_found_anew_and_the_request_is_tried_again() -> None:
    keys = iter(["OLD", "NEW"])
    credentials = Credentials(lambda: BotoCredentials(next(keys), "secret"))

    async def answer(request: Request) -> bytes:
        if "Credential=OLD/" in request.headers["authorization"]:
            return response(403, {"__type": "com.amazon.coral.service#ExpiredTokenException"})
        return response(200, {"QueueUrl": "http://here/0/logins"})

    async def run() -> None:
        async with serving(answer) as server, client_of(server.url, credentials) as client:
            assert await client.queue_url("logins") == "http://here/0/logins"
            assert len(server.requests) == 2

    asyncio.run(run())


def test_credentials_that_are_gone_are_expired_and_come_back() -> None:
    found: list[BotoCredentials | None] = [BotoCredentials("OLD", "secret"), None, BotoCredentials("NEW", "secret")]
    credentials = Credentials(lambda: found.pop(0))

    async def answer(request: Request) -> bytes:
        refused = "Credential=OLD/" in request.headers["authorization"]
        return response(403, {"__type": "x#ExpiredToken"}) if refused else response(200)

    async def run() -> None:
        async with serving(answer) as server, client_of(server.url, credentials) as client:
            codes = [(await failure_of(client.call("ReceiveMessage", b"{}", timeout=5))).code for _ in range(2)]
            assert codes == ["ExpiredToken", "NoCredentials"]
            assert await client.call("ReceiveMessage", b"{}", timeout=5) == b""

    asyncio.run(run())


def test_why_there_are_no_credentials_is_told() -> None:
    def load() -> BotoCredentials:
        raise ProfileNotFound(profile="mine")

    async def run() -> None:
        async with client_of("http://127.0.0.1:1", Credentials(load)) as client:
            error = await failure_of(client.call("ReceiveMessage", b"{}", timeout=5))
        assert (error.kind, error.code) == ("expired", "NoCredentials")
        assert "ProfileNotFound: the config profile (mine) could not be found" in error.message
        assert "AWS_PROFILE" in error.hint

    asyncio.run(run())


def test_malformed_credentials_are_told_as_such_and_not_tried_again() -> None:
    credentials = Credentials(lambda: BotoCredentials("AKIACANARY\n", "CANARY", method="env"))

    async def run() -> None:
        async with client_of("http://127.0.0.1:1", credentials) as client:
            error = await failure_of(client.queue_url("logins"))
        assert (error.kind, error.code, error.retryable) == ("denied", "MalformedCredentials", False)
        assert "AWS_" in error.message
        assert "source.queue" not in error.hint
        assert "CANARY" not in repr(vars(error))

    asyncio.run(run())


@pytest.mark.parametrize("hours", [-7, 7])
def test_a_skewed_clock_is_corrected_by_the_date_of_the_refusal(hours: int) -> None:
    def moment() -> float:
        return time.time() + hours * 3600

    async def answer(request: Request) -> bytes:
        signed = time.strptime(request.headers["x-amz-date"], "%Y%m%dT%H%M%SZ")
        if abs(email.utils.mktime_tz((*signed[:9], 0)) - moment()) < 300:
            return response(200, b"{}")
        body = {"__type": "com.amazon.coral.service#InvalidSignatureException", "message": "Signature expired: 2 < 1"}
        return response(403, body, date=email.utils.formatdate(moment(), usegmt=True))

    async def run() -> None:
        async with serving(answer) as server, client_of(server.url) as client:
            assert await client.call_retrying("ReceiveMessage", b"{}", timeout=5) == b"{}"
            assert await client.call("ReceiveMessage", b"{}", timeout=5) == b"{}"
            assert len(server.requests) == 3

    asyncio.run(run())


@pytest.mark.parametrize("date", ["", "CANARY", "Mon, 99 Nov 2026 15:00:00 GMT"])
def test_a_skew_without_a_date_changes_no_clock(date: str) -> None:
    async def run() -> None:
        answer = always(403, {"__type": "x#RequestTimeTooSkewed"}, date=date)
        async with serving(answer) as server, client_of(server.url) as client:
            error = await failure_of(client.call("ReceiveMessage", b"{}", timeout=5))
            assert (error.kind, client._signer.offset) == ("skew", 0.0)

    asyncio.run(run())


# -- nothing of a message in any error or log


def shown(error: BaseException | None) -> Iterator[str]:
    while error is not None:
        yield from (str(error), repr(error), repr(error.args), repr(vars(error)))
        yield "".join(traceback.format_exception(error))
        error = error.__cause__ or error.__context__


@pytest.mark.parametrize("failing", ["refused", "broken", "short", "hanging", "unsendable", "unencodable"])
def test_no_error_and_no_log_shows_a_value(caplog: pytest.LogCaptureFixture, failing: str) -> None:
    caplog.set_level(logging.NOTSET + 1)
    bodies: dict[str, Answer] = {
        "refused": always(400, {"__type": "x#InvalidParameterValue", "message": "CANARY"}, x_other="CANARY"),
        "broken": no_http,
        "short": cut_off,
        "hanging": hang,
    }
    token = "token\nCANARY" if failing == "unsendable" else "token"
    credentials = Credentials(lambda: BotoCredentials("AKID", "SECRETCANARY", token))

    async def run() -> SqsError:
        async with serving(bodies.get(failing, echo)) as server, client_of(server.url, credentials) as client:
            if failing == "unencodable":
                return await failure_of(client.get_queue_attributes("CANARY\ud800", []))
            return await failure_of(client.call("SendMessageBatch", b'{"body":"CANARY"}', timeout=0.3))

    error = asyncio.run(run())
    assert all("CANARY" not in text for text in shown(error))
    assert "CANARY" not in caplog.text


# -- cancellation


def test_a_late_response_goes_to_who_can_give_it_back() -> None:
    async def run() -> None:
        asked, answer_now = asyncio.Event(), asyncio.Event()
        got: asyncio.Queue[bytes] = asyncio.Queue()

        async def answer(request: Request) -> bytes:
            asked.set()
            await answer_now.wait()
            return response(200, b"late:" + request.body)

        async with serving(answer) as server, client_of(server.url) as client:
            poll = asyncio.create_task(client.call("ReceiveMessage", b"poll", timeout=10, late=got.put))
            await asked.wait()
            poll.cancel()
            with pytest.raises(asyncio.CancelledError):
                await poll
            assert got.empty()
            answer_now.set()
            assert await got.get() == b"late:poll"
            assert await client.call("DeleteMessageBatch", b"next", timeout=5, late=got.put) == b"late:next"
            assert got.empty()

    asyncio.run(run())


def test_close_waits_for_late_responses_as_long_as_it_may() -> None:
    async def run() -> None:
        asked = asyncio.Semaphore(0)
        answer_now = asyncio.Event()
        got: list[bytes] = []

        async def answer(request: Request) -> bytes:
            asked.release()
            await (answer_now if request.body == b"soon" else asyncio.Event()).wait()
            return response(200, request.body)

        async def late(body: bytes) -> None:
            got.append(body)

        async with serving(answer) as server:
            client = SqsClient(target(server.url))
            polls = [
                asyncio.create_task(client.call("ReceiveMessage", body, timeout=10, late=late))
                for body in (b"soon", b"never")
            ]
            for _ in polls:
                await asked.acquire()
            for poll in polls:
                poll.cancel()
            await asyncio.gather(*polls, return_exceptions=True)
            answer_now.set()
            await client.close(grace=0.5)
            assert got == [b"soon"]
            assert not client._late

    asyncio.run(run())


def test_a_late_refusal_is_nobodys_business() -> None:
    async def run() -> None:
        asked, answer_now = asyncio.Event(), asyncio.Event()

        async def answer(_: Request) -> bytes:
            asked.set()
            await answer_now.wait()
            return response(500)

        async def late(_: bytes) -> None:
            pytest.fail("a refusal is no response")

        async with serving(answer) as server:
            client = SqsClient(target(server.url))
            poll = asyncio.create_task(client.call("ReceiveMessage", b"poll", timeout=10, late=late))
            await asked.wait()
            poll.cancel()
            await asyncio.gather(poll, return_exceptions=True)
            answer_now.set()
            await client.close(grace=10)
            assert not client._late

    asyncio.run(run())


def test_cancelling_at_any_moment_leaves_nothing_hanging() -> None:
    async def run() -> None:
        delivered = 0

        async def late(_: bytes) -> None:
            nonlocal delivered
            delivered += 1

        async with serving(echo) as server:
            client = SqsClient(target(server.url))
            finished = 0
            for turns in range(400):
                poll = asyncio.create_task(client.call("ReceiveMessage", b"{}", timeout=10, late=late))
                for _ in range(turns % 40):
                    await asyncio.sleep(0)
                poll.cancel()
                (outcome,) = await asyncio.gather(poll, return_exceptions=True)
                finished += outcome == b"{}"
            await client.close(grace=10)
            assert not client._late
            assert delivered + finished == len(server.requests)

    asyncio.run(run())


# -- TLS


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def ca_bundle(authority: trustme.CA, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tls") / "ca.pem"
    authority.cert_pem.write_to_path(str(path))
    return path


def server_tls(authority: trustme.CA, *names: str) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert(*names).configure_cert(context)
    return context


def quiet_tls_errors(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    if not isinstance(context.get("exception"), ssl.SSLError | ConnectionError):
        loop.default_exception_handler(context)


def test_tls_is_verified_by_the_platform_and_the_ca_bundle(authority: trustme.CA, ca_bundle: Path) -> None:
    async def run() -> None:
        asyncio.get_running_loop().set_exception_handler(quiet_tls_errors)
        server = Server(echo)
        async with listening(server.serve, server_tls(authority, "localhost", HOST)) as port:
            for host in ("localhost", HOST):
                async with client_of(f"https://{host}:{port}", ca_bundle=ca_bundle) as client:
                    assert await client.call("ReceiveMessage", b"{}", timeout=5) == b"{}"
            async with client_of(f"https://localhost:{port}") as client:
                error = await failure_of(client.call("ReceiveMessage", b"{}", timeout=5))
                assert (error.kind, error.code) == ("unavailable", "UntrustedCertificate")
            assert len(server.requests) == 2
        async with listening(server.serve, server_tls(authority, "other.example")) as port:
            async with client_of(f"https://localhost:{port}", ca_bundle=ca_bundle) as client:
                error = await failure_of(client.call("ReceiveMessage", b"{}", timeout=5))
                assert (error.kind, error.code) == ("unavailable", "UntrustedCertificate")
            assert len(server.requests) == 2

    asyncio.run(run())


# -- proxies


@dataclass
class Proxy:
    """An HTTP proxy: CONNECT tunnels and absolute-form requests, all to one upstream port, whatever host they name."""

    upstream: int
    asked: list[str] = field(default_factory=list)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        method, where, _ = head.split(b" ", 2)
        self.asked.append(f"{method.decode()} {where.decode()}")
        up_reader, up_writer = await asyncio.open_connection(HOST, self.upstream)
        if method == b"CONNECT":
            writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        else:
            up_writer.write(head)
        try:
            await asyncio.gather(pump(reader, up_writer), pump(up_reader, writer))
        finally:
            up_writer.transport.abort()


async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
        writer.write_eof() if writer.can_write_eof() else writer.close()


@asynccontextmanager
async def proxied(tls: ssl.SSLContext | None = None) -> AsyncIterator[tuple[Server, Proxy, str]]:
    server = Server(echo)
    async with listening(server.serve, tls) as port:
        proxy = Proxy(port)
        async with listening(proxy.serve) as proxy_port:
            yield server, proxy, f"http://{HOST}:{proxy_port}"


@as_it_is_chosen
@pytest.mark.parametrize("variable", ["HTTP_PROXY", "http_proxy", "ALL_PROXY", "option"])
def test_http_goes_through_the_proxy(monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    async def run() -> None:
        async with proxied() as (server, proxy, proxy_url):
            if variable != "option":
                monkeypatch.setenv(variable, proxy_url)
            options: dict[str, Any] = {"proxy": proxy_url} if variable == "option" else {}
            async with client_of("http://sqs.invalid:9324", **options) as client:
                assert await client.call("ReceiveMessage", b"{}", timeout=5) == b"{}"
            assert proxy.asked == ["POST http://sqs.invalid:9324/"]
            assert server.requests[0].headers["host"] == "sqs.invalid:9324"

    asyncio.run(run())


@as_it_is_chosen
@pytest.mark.parametrize("variable", ["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "option"])
def test_https_goes_through_a_tunnel_and_is_verified(
    monkeypatch: pytest.MonkeyPatch, authority: trustme.CA, ca_bundle: Path, variable: str
) -> None:
    async def run() -> None:
        async with proxied(server_tls(authority, "sqs.invalid")) as (server, proxy, proxy_url):
            if variable != "option":
                monkeypatch.setenv(variable, proxy_url)
            options: dict[str, Any] = {"proxy": proxy_url} if variable == "option" else {}
            async with client_of("https://sqs.invalid", ca_bundle=ca_bundle, **options) as client:
                assert await client.call("ReceiveMessage", b"{}", timeout=5) == b"{}"
            assert proxy.asked == ["CONNECT sqs.invalid:443"]
            assert server.requests[0].headers["host"] == "sqs.invalid"

    asyncio.run(run())


@as_it_is_chosen
@pytest.mark.parametrize("no_proxy", ["sqs.invalid", ".invalid", "*"])
def test_no_proxy_is_heeded(monkeypatch: pytest.MonkeyPatch, no_proxy: str) -> None:
    async def run() -> None:
        async with proxied() as (_, proxy, proxy_url):
            monkeypatch.setenv("HTTP_PROXY", proxy_url)
            monkeypatch.setenv("NO_PROXY", no_proxy)
            async with client_of("http://sqs.invalid:9324") as client:
                error = await failure_of(client.call("ReceiveMessage", b"{}", timeout=5))
                assert error.code == "UnknownHost"
            assert proxy.asked == []

    asyncio.run(run())


@as_it_is_chosen
@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_loopback_needs_no_no_proxy(monkeypatch: pytest.MonkeyPatch, host: str) -> None:
    async def run() -> None:
        async with proxied() as (_, proxy, proxy_url), serving(echo) as server:
            monkeypatch.setenv("HTTP_PROXY", proxy_url)
            async with client_of(f"http://{host}:{server.port}") as client:
                await client.call("ReceiveMessage", b"{}", timeout=5)
            assert proxy.asked == []
            async with client_of(f"http://{host}:{server.port}", proxy=proxy_url) as client:
                await client.call("ReceiveMessage", b"{}", timeout=5)
            assert len(proxy.asked) == 1

    asyncio.run(run())


@as_it_is_chosen
def test_a_proxy_that_wants_a_password_denies() -> None:
    async def run() -> None:
        async with serving(always(407)) as proxy, client_of("http://sqs.invalid", proxy=proxy.url) as client:
            error = await failure_of(client.call("ReceiveMessage", b"{}", timeout=5))
            assert (error.kind, error.code) == ("denied", "Http407")

    asyncio.run(run())
