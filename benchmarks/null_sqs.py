"""A null SQS server: it answers as fast as it can, so what a benchmark measures is the consumer.

    python -m benchmarks.null_sqs --messages 100000

prints one JSON line with its port when it is ready, serves AWS JSON 1.0 on loopback and ends when its standard input
does, so it never outlives the benchmark. Its counters are at `GET /stats`, what happened in each tenth of a second at
`GET /timeline`, and how long messages took from their arrival to their delete at `GET /latencies`. With `--held` no
message arrives before `POST /start`; with `--rate` they arrive at their own pace. Signatures are not checked.
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
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec
import uvloop
from benchmarks.null_http import Connection
from benchmarks.null_requests import (
    MAX_WAIT,
    Entry,
    RefusedError,
    read_entries,
    read_name,
    read_receive,
)
from benchmarks.null_supply import Ready, Stream, Supply
from benchmarks.null_timeline import Timeline
from benchmarks.null_wire import PER_RECEIVE, http_response, md5

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

HOST = "127.0.0.1"
ACCOUNT = "000000000000"
QUEUE = "login-queue"
EMPTY = http_response(b"{}")
NOT_FOUND = http_response(b"{}", b"404 Not Found")


@dataclass(slots=True)
class Clock:
    """When the consumer began and ended, and what it cost the server."""

    ready_cpu: float
    first_receive: float = 0.0
    last_delete: float = 0.0


@dataclass(slots=True, eq=False)
class Poll:
    """A receive that waits for messages."""

    limit: int
    to: Connection
    answered: bool = False


class NullSqs:
    """The operations of the server and their counters."""

    def __init__(self, supply: Supply, *, address: str, empty_wait: float, latency: float) -> None:
        self._supply = supply
        self._address = address
        self._empty_wait = empty_wait
        self._latency = latency
        self._clock = Clock(time.process_time())
        self._timeline = Timeline()
        self._polls: deque[Poll] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._sent = self._errors = self._empty = 0
        self._requests: dict[str, int] = {}
        self._operations: dict[bytes, tuple[str, Callable[[bytes, Connection], bytes | None] | None]] = {}
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

    def answer(self, operation: bytes, body: bytes, to: Connection) -> None:
        """Answer one request of SQS, now or later; `operation` is the name in lower case."""
        self._timeline.request()
        name, handler = self._operations.get(operation, ("", None))
        if handler is None:
            self._reply(to, self._refuse("UnsupportedOperation"))
            return
        self._requests[name] += 1
        try:
            if response := handler(body, to):
                self._reply(to, response)
        except msgspec.DecodeError:
            self._reply(to, self._refuse("SerializationException"))
        except RefusedError as error:
            self._reply(to, self._refuse(str(error)))

    def tell(self, what: bytes) -> bytes:
        """Answer a request of the benchmark: a method and a path, in lower case."""
        if what == b"post /start":
            self._supply.start()
            self._wake()
            return EMPTY
        told: dict[bytes, Callable[[], object]] = {
            b"get /stats": self.stats,
            b"get /timeline": self._timeline.told,
            b"get /latencies": self._supply.latencies_ms,
        }
        return json_response(told[what]()) if what in told else NOT_FOUND

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

    def _receive(self, body: bytes, to: Connection) -> None:
        """Answer at once if there are messages, or else when some come or the wait is over."""
        request = read_receive(body)
        limit, wait = request.max_number_of_messages, request.wait_time_seconds
        if not 1 <= limit <= PER_RECEIVE or not 0 <= wait <= MAX_WAIT:
            raise RefusedError("InvalidParameterValue")
        self._timeline.poll_begins()
        if taken := self._supply.take(limit):
            self._hand_out(to, *taken)
        elif wait := min(wait, self._empty_wait):
            poll = Poll(limit, to)
            self._polls.append(poll)
            asyncio.get_running_loop().call_later(wait, self._expire, poll)
            self._await_arrival()
        else:
            self._hand_out(to, EMPTY, 0)

    def _hand_out(self, to: Connection, response: bytes, count: int) -> None:
        """Answer a receive."""
        if count:
            self._clock.first_receive = self._clock.first_receive or time.perf_counter()
            self._timeline.received(count)
        else:
            self._empty += 1
        self._reply(to, response)
        if self._latency:
            asyncio.get_running_loop().call_later(self._latency, self._timeline.poll_ends)
        else:
            self._timeline.poll_ends()

    def _expire(self, poll: Poll) -> None:
        """Answer a long poll that has waited long enough."""
        if not poll.answered:
            poll.answered = True
            self._hand_out(poll.to, EMPTY, 0)
        while self._polls and self._polls[0].answered:
            self._polls.popleft()

    def _wake(self) -> None:
        """Give what has come to the polls that wait, the oldest first."""
        while self._polls:
            poll = self._polls[0]
            if not poll.answered and poll.to.open:
                taken = self._supply.take(poll.limit)
                if taken is None:
                    break
                poll.answered = True
                self._hand_out(poll.to, *taken)
            self._polls.popleft()
        self._await_arrival()

    def _await_arrival(self) -> None:
        """Wake when the next message arrives by itself, if a poll waits for it."""
        if self._polls and self._timer is None and (seconds := self._supply.next_arrival()) is not None:
            self._timer = asyncio.get_running_loop().call_later(seconds, self._arrival)

    def _arrival(self) -> None:
        self._timer = None
        self._wake()

    def _reply(self, to: Connection, response: bytes) -> None:
        if self._latency:
            asyncio.get_running_loop().call_later(self._latency, to.write, response)
        else:
            to.write(response)

    def _delete(self, body: bytes, _to: Connection) -> bytes:
        response = self._batch(body, lambda entry: self._supply.delete(entry.receipt_handle))
        self._clock.last_delete = time.perf_counter()
        return response

    def _change_visibility(self, body: bytes, _to: Connection) -> bytes:
        response = self._batch(
            body, lambda entry: self._supply.change_visibility(entry.receipt_handle, entry.visibility_timeout)
        )
        self._wake()
        return response

    def _batch(self, body: bytes, apply: Callable[[Entry], bool]) -> bytes:
        """Apply an operation to each entry and tell which receipt handles are of no message."""
        done: list[dict[str, str]] = []
        failed: list[dict[str, str | bool]] = []
        for entry in read_entries(body):
            if apply(entry):
                done.append({"Id": entry.id})
            else:
                failed.append({"Id": entry.id, "Code": "ReceiptHandleIsInvalid", "SenderFault": True})
        self._errors += len(failed)
        return json_response({"Successful": done, "Failed": failed})

    def _send(self, body: bytes, _to: Connection) -> bytes:
        entries = read_entries(body)
        self._sent += len(entries)
        sent = [
            {"Id": entry.id, "MessageId": entry.id, "MD5OfMessageBody": md5(entry.message_body)} for entry in entries
        ]
        return json_response({"Successful": sent, "Failed": []})

    def _queue_url(self, body: bytes, _to: Connection) -> bytes:
        return json_response({"QueueUrl": f"http://{self._address}/{ACCOUNT}/{read_name(body).queue_name}"})

    def _attributes(self, _body: bytes, _to: Connection) -> bytes:
        attributes = {
            "QueueArn": f"arn:aws:sqs:us-east-1:{ACCOUNT}:{QUEUE}",
            "VisibilityTimeout": "30",
            "MaximumMessageSize": "1048576",
            "ReceiveMessageWaitTimeSeconds": str(MAX_WAIT),
            "ApproximateNumberOfMessages": str(self._supply.waiting),
            "ApproximateNumberOfMessagesNotVisible": str(self._supply.in_flight),
            "ApproximateNumberOfMessagesDelayed": "0",
        }
        return json_response({"Attributes": attributes})

    def _refuse(self, code: str) -> bytes:
        self._errors += 1
        body = msgspec.json.encode({"__type": f"com.amazonaws.sqs#{code}", "message": code})
        return http_response(body, b"400 Bad Request")


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
    null_sqs = NullSqs(
        supply, address=address, empty_wait=options.empty_wait_ms / 1000, latency=options.latency_ms / 1000
    )
    if not options.held:
        supply.start()
    server = await loop.create_server(lambda: Connection(null_sqs), sock=listener)
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
    option = parser.add_argument
    option("--port", type=int, default=0, help="0 takes a free one")
    option("--messages", type=int, default=100_000, help="how many the queue holds")
    option("--distinct", type=float, default=0.2, help="share of messages with a new address and device")
    option("--seed", type=int, default=1, help="same seed: same bodies, ids and receipt handles")
    option("--sent-ms", type=int, default=0, help="SentTimestamp of messages built beforehand; 0 is now")
    option("--latency-ms", type=float, default=0.0, help="wait before each answer")
    option("--empty-wait-ms", type=float, default=200.0, help="longest long poll of an empty queue")
    option("--stream", type=int, default=0, help="1: make messages when they are handed out, not beforehand")
    option("--held", type=int, default=0, help="1: messages arrive after POST /start only; with --stream 1")
    option("--rate", type=float, default=0.0, help="messages that arrive in a second; 0: all at once; with --stream 1")
    option("--gap-s", type=float, default=0.0, help="least time between two arrivals, shorter than 1 / rate")
    option("--body-bytes", type=int, default=0, help="make bodies that large; with --stream 1")
    options = parser.parse_args(arguments)
    if options.rate * options.gap_s >= 1:
        parser.error("--gap-s must be shorter than 1 / --rate")
    if not options.stream and (options.held or options.rate or options.body_bytes):
        parser.error("--held, --rate and --body-bytes want --stream 1")
    return options


def supply_of(options: argparse.Namespace) -> Supply:
    """Return the messages that were asked for."""
    messages, distinct, seed = options.messages, options.distinct, options.seed
    if not options.stream:
        sent_ms = options.sent_ms or int(time.time() * 1000)
        return Ready(messages=messages, distinct=distinct, seed=seed, sent_ms=sent_ms)
    return Stream(
        messages=messages,
        distinct=distinct,
        seed=seed,
        rate=options.rate,
        gap_s=options.gap_s,
        size=options.body_bytes,
    )


def main() -> None:
    """Build the messages, then serve them."""
    options = parse_arguments()
    supply = supply_of(options)
    gc.freeze()
    gc.disable()  # nothing here makes cycles while it serves
    uvloop.run(serve(supply, options))


if __name__ == "__main__":
    main()
