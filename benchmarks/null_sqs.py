"""A null SQS server: it answers as fast as it can, so what a benchmark measures is the consumer.

    python -m benchmarks.null_sqs --messages 100000

prints one JSON line with its port when it is ready, serves AWS JSON 1.0 on loopback, tells its counters at
`GET /stats` and ends when its standard input does, so it never outlives the benchmark. HTTP is read by hand:
requests with a Content-Length, one at a time on a connection, which is what SQS clients send. Signatures are
not checked.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import os
import signal
import socket
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar, cast

import msgspec
import uvloop
from benchmarks.null_supply import PER_RECEIVE, Supply, http_response, md5

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

HOST = "127.0.0.1"
ACCOUNT = "000000000000"
QUEUE = "login-queue"
MAX_WAIT = 20
TARGET = b"\r\nx-amz-target:"
LENGTH = b"\r\ncontent-length:"
PREFIX = b"amazonsqs."
EMPTY = http_response(b"{}")

Response = tuple[bytes, float]
"""An HTTP response and how many seconds it has to wait beyond the server's latency."""


class ReceiveRequest(msgspec.Struct, rename="pascal"):
    """What ReceiveMessage asks for; the two system attributes are always given."""

    max_number_of_messages: int = 1
    wait_time_seconds: float = MAX_WAIT


class Entry(msgspec.Struct, rename="pascal"):
    """One entry of a batch request; each operation fills what it needs."""

    id: str
    receipt_handle: str = ""
    visibility_timeout: int = 0
    message_body: str = ""


class BatchRequest(msgspec.Struct, rename="pascal"):
    """What the three batch operations ask for."""

    entries: list[Entry]


class NameRequest(msgspec.Struct, rename="pascal"):
    """What GetQueueUrl asks for."""

    queue_name: str


class RefusedError(Exception):
    """A request that SQS would answer with status 400; its text is the error code."""


RequestType = TypeVar("RequestType")


def reader(of: type[RequestType]) -> Callable[[bytes], RequestType]:
    """Return the function that reads a request body."""
    return msgspec.json.Decoder(of).decode


read_receive, read_batch, read_name = reader(ReceiveRequest), reader(BatchRequest), reader(NameRequest)


@dataclass(slots=True)
class Clock:
    """When the consumer began and ended, and what it cost the server."""

    ready_cpu: float
    first_receive: float = 0.0
    last_delete: float = 0.0


class NullSqs:
    """The operations of the server and their counters."""

    def __init__(self, supply: Supply, *, address: str, empty_wait: float) -> None:
        self._supply = supply
        self._address = address
        self._empty_wait = empty_wait
        self._clock = Clock(time.process_time())
        self._sent = self._errors = self._empty = 0
        self._requests: dict[str, int] = {}
        self._operations: dict[bytes, tuple[str, Callable[[bytes], Response]]] = {}
        for name, operation in (
            ("ReceiveMessage", self._receive),
            ("DeleteMessageBatch", self._delete),
            ("ChangeMessageVisibilityBatch", self._change_visibility),
            ("SendMessageBatch", self._send),
            ("GetQueueUrl", self._queue_url),
            ("GetQueueAttributes", self._attributes),
        ):
            self._operations[name.lower().encode()] = (name, operation)
            self._requests[name] = 0

    def answer(self, operation: bytes, body: bytes) -> Response:
        """Answer one request; `operation` is the name in lower case."""
        known = self._operations.get(operation)
        if known is None:
            return self._refuse("UnsupportedOperation")
        name, handler = known
        self._requests[name] += 1
        try:
            return handler(body)
        except msgspec.DecodeError:
            return self._refuse("SerializationException")
        except RefusedError as error:
            return self._refuse(str(error))

    def stats(self) -> dict[str, object]:
        """Return the counters as they are told at /stats."""
        supply, clock = self._supply, self._clock
        return {
            "received": supply.handed_out,
            "deleted": supply.deleted,
            "waiting": supply.waiting,
            "in_flight": supply.in_flight,
            "sent": self._sent,
            "requests": self._requests,
            "empty_receives": self._empty,
            "elapsed": max(0.0, clock.last_delete - clock.first_receive),
            "errors": self._errors,
            "cpu_seconds": time.process_time() - clock.ready_cpu,
        }

    def _receive(self, body: bytes) -> Response:
        request = read_receive(body)
        if not 1 <= request.max_number_of_messages <= PER_RECEIVE or not 0 <= request.wait_time_seconds <= MAX_WAIT:
            raise RefusedError("InvalidParameterValue")
        response = self._supply.take(request.max_number_of_messages)
        if response is None:
            self._empty += 1
            return EMPTY, min(request.wait_time_seconds, self._empty_wait)
        self._clock.first_receive = self._clock.first_receive or time.perf_counter()
        return response, 0.0

    def _delete(self, body: bytes) -> Response:
        response = self._batch(body, lambda entry: self._supply.delete(entry.receipt_handle))
        self._clock.last_delete = time.perf_counter()
        return response

    def _change_visibility(self, body: bytes) -> Response:
        return self._batch(
            body, lambda entry: self._supply.change_visibility(entry.receipt_handle, entry.visibility_timeout)
        )

    def _batch(self, body: bytes, apply: Callable[[Entry], bool]) -> Response:
        """Apply an operation to each entry and tell which receipt handles are of no message."""
        done: list[dict[str, str]] = []
        failed: list[dict[str, str | bool]] = []
        for entry in read_entries(body):
            if apply(entry):
                done.append({"Id": entry.id})
            else:
                failed.append({"Id": entry.id, "Code": "ReceiptHandleIsInvalid", "SenderFault": True})
        self._errors += len(failed)
        return json_response({"Successful": done, "Failed": failed}), 0.0

    def _send(self, body: bytes) -> Response:
        entries = read_entries(body)
        self._sent += len(entries)
        sent = [
            {"Id": entry.id, "MessageId": entry.id, "MD5OfMessageBody": md5(entry.message_body)} for entry in entries
        ]
        return json_response({"Successful": sent, "Failed": []}), 0.0

    def _queue_url(self, body: bytes) -> Response:
        url = f"http://{self._address}/{ACCOUNT}/{read_name(body).queue_name}"
        return json_response({"QueueUrl": url}), 0.0

    def _attributes(self, _body: bytes) -> Response:
        attributes = {
            "QueueArn": f"arn:aws:sqs:us-east-1:{ACCOUNT}:{QUEUE}",
            "VisibilityTimeout": "30",
            "MaximumMessageSize": "1048576",
            "ReceiveMessageWaitTimeSeconds": str(MAX_WAIT),
            "ApproximateNumberOfMessages": str(self._supply.waiting),
            "ApproximateNumberOfMessagesNotVisible": str(self._supply.in_flight),
            "ApproximateNumberOfMessagesDelayed": "0",
        }
        return json_response({"Attributes": attributes}), 0.0

    def _refuse(self, code: str) -> Response:
        self._errors += 1
        body = msgspec.json.encode({"__type": f"com.amazonaws.sqs#{code}", "message": code})
        return http_response(body, b"400 Bad Request"), 0.0


class Connection(asyncio.Protocol):
    """One keep-alive connection: cuts requests out of the stream and writes the answers."""

    def __init__(self, server: NullSqs, *, latency: float) -> None:
        self._server = server
        self._latency = latency
        self._buffer = b""
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport to answer on."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is one in all but the class

    def data_received(self, data: bytes) -> None:
        """Answer each request that is complete."""
        self._buffer = self._buffer + data if self._buffer else data
        while (end := self._buffer.find(b"\r\n\r\n")) >= 0:
            head = self._buffer[:end].lower()
            start = end + 4
            stop = start + int(header(head, LENGTH) or b"0")
            if len(self._buffer) < stop:
                return
            body = self._buffer[start:stop]
            self._buffer = self._buffer[stop:]
            self._request(head, body)

    def _request(self, head: bytes, body: bytes) -> None:
        if head.startswith(b"get "):
            self._write(http_response(msgspec.json.encode(self._server.stats())))
            return
        operation = header(head, TARGET).removeprefix(PREFIX)
        response, wait = self._server.answer(operation, body)
        delay = wait + self._latency
        if delay:
            asyncio.get_running_loop().call_later(delay, self._write, response)
        else:
            self._transport.write(response)

    def _write(self, response: bytes) -> None:
        if not self._transport.is_closing():  # the client may have left a long poll
            self._transport.write(response)


def header(head: bytes, name: bytes) -> bytes:
    """Return the value of a header, or nothing; `name` starts with a line break and ends with a colon."""
    start = head.find(name)
    if start < 0:
        return b""
    start += len(name)
    end = head.find(b"\r\n", start)
    return head[start : end if end >= 0 else len(head)].strip()


def read_entries(body: bytes) -> list[Entry]:
    """Read a batch request and refuse what SQS refuses: no entry, more than ten, the same id twice."""
    entries = read_batch(body).entries
    if not entries:
        raise RefusedError("EmptyBatchRequest")
    if len(entries) > PER_RECEIVE:
        raise RefusedError("TooManyEntriesInBatchRequest")
    if len({entry.id for entry in entries}) < len(entries):
        raise RefusedError("BatchEntryIdsNotDistinct")
    return entries


def json_response(value: object) -> bytes:
    """Wrap a value into an HTTP response."""
    return http_response(msgspec.json.encode(value))


async def serve(supply: Supply, options: argparse.Namespace) -> None:
    """Serve until standard input ends or a signal comes."""
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    listener = socket.create_server((HOST, options.port), backlog=256)
    address = f"{HOST}:{listener.getsockname()[1]}"
    null_sqs = NullSqs(supply, address=address, empty_wait=options.empty_wait_ms / 1000)
    latency = options.latency_ms / 1000
    server = await loop.create_server(lambda: Connection(null_sqs, latency=latency), sock=listener)
    threading.Thread(target=wait_for_parent, args=(loop, stop), daemon=True).start()
    ready = {"port": listener.getsockname()[1], "url": f"http://{address}", "messages": options.messages}
    print(msgspec.json.encode(ready).decode(), flush=True)
    await stop.wait()
    server.close()


def wait_for_parent(loop: asyncio.AbstractEventLoop, stop: asyncio.Event) -> None:
    """Stop the server when standard input ends.

    A thread, because it can read any kind of file; `os.read`, because a daemon thread in `sys.stdin` would
    hold its lock when a signal ends the process.
    """
    while os.read(0, 65536):
        pass
    with contextlib.suppress(RuntimeError):  # the loop was closed by a signal
        loop.call_soon_threadsafe(stop.set)


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.null_sqs", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one")
    parser.add_argument("--messages", type=int, default=100_000, help="how many the queue holds")
    parser.add_argument("--distinct", type=float, default=0.2, help="share of messages with a new address and device")
    parser.add_argument("--seed", type=int, default=1, help="same seed: same bodies, ids and receipt handles")
    parser.add_argument("--sent-ms", type=int, default=0, help="SentTimestamp of all messages; 0 is now")
    parser.add_argument("--latency-ms", type=float, default=0.0, help="wait before each answer")
    parser.add_argument("--empty-wait-ms", type=float, default=200.0, help="longest long poll of an empty queue")
    return parser.parse_args(arguments)


def main() -> None:
    """Build the responses, then serve them."""
    options = parse_arguments()
    supply = Supply(
        messages=options.messages,
        distinct=options.distinct,
        seed=options.seed,
        sent_ms=options.sent_ms or int(time.time() * 1000),
    )
    gc.freeze()
    gc.disable()  # nothing here makes cycles while it serves
    uvloop.run(serve(supply, options))


if __name__ == "__main__":
    main()
