"""A small SQS server whose answers a test scripts: delays, refusals, cut connections, broken and damaged answers.

    async with ScriptedSqs() as server:
        server.put("one", "two")
        server.script("ReceiveMessage", refusal("ServiceUnavailable", 503), cut())

Real HTTP on loopback, AWS JSON 1.0, in the loop of the test. A request takes the next scripted answer of its operation,
else the lasting one (`always`), else that of a plain queue: what was `put` is handed out, waits for its delete, and is
shown again at visibility 0; visibility timeouts never run out. Like every SQS server, it hands messages to a long poll
whose client has hung up. `refuse_once` holds receipts that one batch request fails on, with the code of the failure.
`knows` are the names by which it knows the field that asks for system attributes. Every request is kept with its time.
"""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import json
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

QUEUE_PATH = "/000000000000/logins"
SENT_MS = 1_700_000_000_000
NEVER = 3600.0


@dataclass(frozen=True)
class Request:
    """One request as it came: `at` is the monotonic time, `key` the access key id it was signed with."""

    operation: str
    body: dict[str, Any]
    at: float
    key: str = ""

    @property
    def receipts(self) -> list[str]:
        """The receipts of a batch request."""
        return [entry["ReceiptHandle"] for entry in self.body["Entries"]]


@dataclass(frozen=True)
class Answer:
    """What to answer, and how: after `delay` seconds, not before `until` is set, cut off after `keep` body bytes."""

    body: bytes = b"{}"
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    delay: float = 0.0
    until: asyncio.Event | None = None
    keep: int | None = None
    pause_in_body: float = 0.0


Reply = Answer | Callable[[Request], Answer]


@dataclass
class Stored:
    """A message of the queue; `fields` are added to what is handed out, or replace it."""

    message_id: str
    body: str
    fields: dict[str, Any]
    receives: int = 0


def ok(value: object, **how: Any) -> Answer:
    """Answer 200 with a JSON value."""
    return Answer(json.dumps(value).encode(), **how)


def refusal(code: str, status: int = 400, *, message: str = "", **how: Any) -> Answer:
    """Answer as AWS refuses: the code in the body and in the header of the old protocol."""
    body = json.dumps({"__type": f"com.amazonaws.sqs#{code}", "message": message or code}).encode()
    return Answer(body, status, {"x-amzn-query-error": f"{code};Sender"}, **how)


def cut(keep: int = -1) -> Answer:
    """End the connection: before the answer, or after `keep` bytes of its body."""
    return Answer(b'{"Messages":[]}', keep=keep)


def failing(codes: dict[str, str], *, sender_fault: bool = True) -> Callable[[Request], Answer]:
    """Answer a batch request with `Failed` entries for these receipts, each with its code; the others succeed."""

    def reply(request: Request) -> Answer:
        done, failed = [], []
        for entry in request.body["Entries"]:
            code = codes.get(entry["ReceiptHandle"])
            if code is None:
                done.append({"Id": entry["Id"]})
            else:
                told = f"the receipt {entry['ReceiptHandle']} is not good"
                failed.append({"Id": entry["Id"], "SenderFault": sender_fault, "Code": code, "Message": told})
        return ok({"Successful": done, "Failed": failed})

    return reply


def wire_message(number: int, body: str = "{}", **fields: Any) -> dict[str, Any]:
    """Return a message as ReceiveMessage tells it, intact; `fields` replace or add."""
    return {
        "MessageId": f"00000000-0000-4000-8000-{number:012x}",
        "ReceiptHandle": f"receipt-{number}",
        "Body": body,
        "MD5OfBody": md5(body),
        "Attributes": {"SentTimestamp": str(SENT_MS + number), "ApproximateReceiveCount": "1"},
    } | fields


def received(*messages: dict[str, Any], **how: Any) -> Answer:
    """Answer a receive with these messages."""
    return ok({"Messages": list(messages)}, **how)


def md5(body: str) -> str:
    """Return the checksum that SQS tells for a body."""
    return hashlib.md5(body.encode("utf-8", "surrogatepass"), usedforsecurity=False).hexdigest()


class ScriptedSqs:
    """The server. Every request waits `latency` seconds for its answer."""

    def __init__(self, *, visibility: int = 30, latency: float = 0.0) -> None:
        self.latency = latency
        self.knows: tuple[str, ...] = ("MessageSystemAttributeNames", "AttributeNames")
        self.attributes = {"VisibilityTimeout": str(visibility)}
        self.requests: list[Request] = []
        self.visible: deque[Stored] = deque()
        self.in_flight: dict[str, Stored] = {}
        self.refuse_once: dict[str, str] = {}
        self.deleted: list[str] = []
        self.released: list[str] = []
        self.handed_out = 0
        self.polling = self.most_polling = self.most_in_flight = 0
        self.bytes = self.most_bytes = 0
        self._scripts: dict[str, deque[Reply]] = {}
        self._always: dict[str, Reply] = {}
        self._numbers, self._receipts = itertools.count(1), itertools.count(1)
        self._arrived = asyncio.Event()
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()
        self.port = 0

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._connection, "127.0.0.1", self.port, limit=2**20)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._server is not None:
            self._server.close()
        for task in list(self._connections):
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)
        if self._server is not None:
            await self._server.wait_closed()

    @property
    def url(self) -> str:
        """The endpoint."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def queue_url(self) -> str:
        """The URL of its only queue."""
        return self.url + QUEUE_PATH

    def script(self, operation: str, *replies: Reply) -> None:
        """Give the next requests of an operation these answers, one each."""
        self._scripts.setdefault(operation, deque()).extend(replies)

    def always(self, operation: str, reply: Reply | None) -> None:
        """Give all further requests of an operation this answer; None: the plain queue's again."""
        if reply is None:
            self._always.pop(operation, None)
        else:
            self._always[operation] = reply

    def put(self, *bodies: str, **fields: Any) -> list[str]:
        """Put messages on the queue; return their ids."""
        stored = [Stored(f"00000000-0000-4000-8000-{next(self._numbers):012x}", body, fields) for body in bodies]
        self._show(stored)
        return [message.message_id for message in stored]

    def of(self, operation: str) -> list[Request]:
        """Return the requests of one operation, in order."""
        return [request for request in self.requests if request.operation == operation]

    def _show(self, messages: Iterable[Stored]) -> None:
        self.visible.extend(messages)
        self._arrived.set()

    # -- HTTP

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        try:
            while await self._request(reader, writer):
                pass
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass  # the client, or the test, is done with it
        finally:
            writer.close()
            self._connections.discard(task)

    async def _request(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Answer one request; tell whether the connection stays open."""
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        headers = dict(line.split(": ", 1) for line in head.lower().split("\r\n")[1:] if ": " in line)
        body = await reader.readexactly(int(headers.get("content-length", "0")))
        target = next(line for line in head.split("\r\n") if line.lower().startswith("x-amz-target:"))
        operation = target.partition("AmazonSQS.")[2]
        key = head.partition("Credential=")[2].partition("/")[0]
        request = Request(operation, json.loads(body), time.monotonic(), key)
        self.requests.append(request)
        if operation != "ReceiveMessage":
            return await self._send(writer, await self._answer(request))
        self.polling += 1
        self.most_polling = max(self.most_polling, self.polling)
        try:
            answer = await self._answer(request)
        finally:
            self.polling -= 1
        return await self._send(writer, answer)

    async def _answer(self, request: Request) -> Answer:
        scripted = self._scripts.get(request.operation)
        reply = scripted.popleft() if scripted else self._always.get(request.operation)
        if reply is None:
            answer = await self._plain(request)
        else:
            answer = reply(request) if callable(reply) else reply
        if answer.until is not None:
            await answer.until.wait()
        if wait := answer.delay + self.latency:
            await asyncio.sleep(wait)
        return answer

    @staticmethod
    async def _send(writer: asyncio.StreamWriter, answer: Answer) -> bool:
        if answer.keep is not None and answer.keep < 0:
            return False
        lines = [f"HTTP/1.1 {answer.status} Scripted", "Content-Type: application/x-amz-json-1.0"]
        lines += [f"{name}: {value}" for name, value in answer.headers.items()]
        lines.append(f"Content-Length: {len(answer.body)}")
        writer.write(("\r\n".join(lines) + "\r\n\r\n").encode())
        if answer.pause_in_body:
            await asyncio.sleep(answer.pause_in_body)
        writer.write(answer.body[: answer.keep])
        await writer.drain()
        return answer.keep is None

    # -- the plain queue

    async def _plain(self, request: Request) -> Answer:
        if request.operation == "ReceiveMessage":
            return await self._receive(request)
        if request.operation == "GetQueueUrl":
            return ok({"QueueUrl": self.queue_url})
        if request.operation == "GetQueueAttributes":
            return ok({"Attributes": self._counted()})
        batch = {
            "DeleteMessageBatch": self._delete,
            "ChangeMessageVisibilityBatch": self._change_visibility,
            "SendMessageBatch": self._store,
        }[request.operation]
        done, failed = [], []
        for entry in request.body["Entries"]:
            code = self.refuse_once.pop(entry.get("ReceiptHandle", ""), None)
            if code is None:
                done.append(batch(entry))
            else:
                failed.append({"Id": entry["Id"], "Code": code, "SenderFault": False})
        return ok({"Successful": done, "Failed": failed})

    def _counted(self) -> dict[str, str]:
        counts = {"": len(self.visible), "NotVisible": len(self.in_flight), "Delayed": 0}
        return {f"ApproximateNumberOfMessages{name}": str(n) for name, n in counts.items()} | self.attributes

    async def _receive(self, request: Request) -> Answer:
        end = time.monotonic() + request.body["WaitTimeSeconds"]
        while not self.visible and (left := end - time.monotonic()) > 0:
            self._arrived.clear()
            try:
                async with asyncio.timeout(left):
                    await self._arrived.wait()
            except TimeoutError:
                break
        most = min(request.body["MaxNumberOfMessages"], len(self.visible))
        if not most:
            return ok({})
        return received(*[self._hand_out(self.visible.popleft(), self._asked(request)) for _ in range(most)])

    def _asked(self, request: Request) -> set[str]:
        return {name for field_name in self.knows for name in request.body.get(field_name, ())}

    def _hand_out(self, stored: Stored, asked: set[str] | None = None) -> dict[str, Any]:
        stored.receives += 1
        receipt = f"receipt-{next(self._receipts)}"
        self.in_flight[receipt] = stored
        self.handed_out += 1
        self.bytes += len(stored.body)
        self.most_in_flight = max(self.most_in_flight, len(self.in_flight))
        self.most_bytes = max(self.most_bytes, self.bytes)
        told = {"SentTimestamp": str(SENT_MS), "ApproximateReceiveCount": str(stored.receives)}
        return {
            "MessageId": stored.message_id,
            "ReceiptHandle": receipt,
            "Body": stored.body,
            "MD5OfBody": md5(stored.body),
            "Attributes": {name: value for name, value in told.items() if asked is None or name in asked},
        } | stored.fields

    def _delete(self, entry: dict[str, Any]) -> dict[str, Any]:
        if (stored := self._take_back(entry["ReceiptHandle"])) is not None:
            self.deleted.append(stored.message_id)
        return {"Id": entry["Id"]}

    def _change_visibility(self, entry: dict[str, Any]) -> dict[str, Any]:
        if entry["VisibilityTimeout"] == 0:
            self.released.append(entry["ReceiptHandle"])
            if (stored := self._take_back(entry["ReceiptHandle"])) is not None:
                self._show([stored])
        return {"Id": entry["Id"]}

    def _take_back(self, receipt: str) -> Stored | None:
        stored = self.in_flight.pop(receipt, None)
        self.bytes -= len(stored.body) if stored else 0
        return stored

    def _store(self, entry: dict[str, Any]) -> dict[str, Any]:
        fields = {name: entry[name] for name in ("MessageAttributes",) if name in entry}
        (message_id,) = self.put(entry["MessageBody"], **fields)
        return {"Id": entry["Id"], "MessageId": message_id, "MD5OfMessageBody": md5(entry["MessageBody"])}
