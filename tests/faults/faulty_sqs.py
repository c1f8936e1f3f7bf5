"""An HTTP proxy in front of an SQS server that does to requests what networks and SQS do to them on a bad day.

    with FaultySqs(server.port, seed=1) as between:
        between.faults = (Fault("unavailable", 0.2), Fault("lost", 0.1, ("DeleteMessageBatch",)))

Which request meets a fault is drawn from the seed, request by request as they come; `injected` counts by kind, `met` by
kind and operation.
"""

from __future__ import annotations

import hashlib
import http.client
import http.server
import json
import random
import threading
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

RECEIVE, DELETE, EXTEND = "ReceiveMessage", "DeleteMessageBatch", "ChangeMessageVisibilityBatch"
_JSON = "application/x-amz-json-1.0"
_REFUSALS = {
    "unavailable": (503, "ServiceUnavailable"),
    "internal": (500, "InternalFailure"),
    "throttled": (400, "RequestThrottled"),
    "expired": (403, "ExpiredToken"),
    "denied": (403, "AccessDeniedException"),
}
_PATIENCE_S = 60.0


@dataclass(frozen=True, slots=True)
class Fault:
    """A kind of fault, how likely a request meets it, and which operations do (all, if none is named).

    Never sent on: `unavailable`, `internal`, `throttled`, `expired`, `denied` (answers of SQS), `cut` (no answer).
    Sent on, and then: `lost` (no answer), `truncated` (half an answer), `stalled` (no answer until `heal`), `slow`
    (`seconds` late). Receives only: `damaged` (a body does not fit its MD5), `twice` (the same messages come again with
    another receive), `shuffled` (backwards). Batches only: `partial` (one entry is told as failed that was done),
    `stale` (one entry's receipt is not the latest, and fails).
    """

    kind: str
    chance: float = 1.0
    operations: tuple[str, ...] = ()
    seconds: float = 0.2


class FaultySqs:
    """The proxy, in threads of its own, on `port`."""

    def __init__(self, target: int, *, seed: int = 0) -> None:
        self.faults: tuple[Fault, ...] = ()
        self.injected: Counter[str] = Counter()
        self.met: Counter[tuple[str, str]] = Counter()
        self.requests: Counter[str] = Counter()
        self._target = target
        self._rng = random.Random(seed)  # noqa: S311 - faults that repeat
        self._lock = threading.Lock()
        self._healed = threading.Event()
        self._again: dict[str, list[dict[str, Any]]] = {}  # by queue
        proxy = self

        class Handler(_Handler):
            between = proxy

        self._server = _Server(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._server.block_on_close = False
        self.port = self._server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.heal()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def heal(self) -> None:
        """Let every request through from now on, and end those that are stalled."""
        self.faults = ()
        self._healed.set()
        self._healed = threading.Event()

    def draw(self, operation: str) -> Fault | None:
        """Return what happens to a request."""
        with self._lock:
            self.requests[operation] += 1
            for fault in self.faults:
                if (not fault.operations or operation in fault.operations) and self._rng.random() < fault.chance:
                    self.injected[fault.kind] += 1
                    self.met[fault.kind, operation] += 1
                    return fault
        return None

    def upstream(self) -> http.client.HTTPConnection:
        """Return a new connection to the server."""
        return http.client.HTTPConnection("127.0.0.1", self._target, timeout=_PATIENCE_S)

    def wait_until_healed(self) -> None:
        """Wait for `heal`."""
        self._healed.wait(_PATIENCE_S)

    def spoil(self, fault: Fault, operation: str, request: dict[str, Any], answer: dict[str, Any]) -> None:
        """Change an answer that is passed on."""
        messages = answer.get("Messages") or []
        with self._lock:
            match fault.kind:
                case "damaged" if messages:
                    messages[0]["Body"] += " "
                case "twice" if messages:
                    self._again[request["QueueUrl"]] = [dict(message) for message in messages]
                case "shuffled":
                    messages.reverse()
                case "partial" if answer.get("Successful"):
                    entry = answer["Successful"].pop()
                    failed = {"Id": entry["Id"], "Code": "InternalError", "SenderFault": False}
                    answer.setdefault("Failed", []).append(failed)
                case "stale" if request.get("Entries"):
                    pass  # the request was changed, the server has told
                case _:
                    self.injected[fault.kind] -= 1  # there was nothing to spoil
                    self.met[fault.kind, operation] -= 1

    def once_more(self, request: dict[str, Any], answer: dict[str, Any]) -> None:
        """Put messages that are to come twice into an answer to a receive of their queue that has room for them."""
        with self._lock:
            if not answer.get("Messages") and (again := self._again.pop(request["QueueUrl"], None)):
                answer["Messages"] = again


def _of_another_time(request: dict[str, Any]) -> None:
    entry = request["Entries"][0]
    entry["ReceiptHandle"] = hashlib.sha256(entry["ReceiptHandle"].encode()).hexdigest()


class _Server(http.server.ThreadingHTTPServer):
    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing: a client that was killed has hung up."""


class _Handler(http.server.BaseHTTPRequestHandler):
    """One connection of a client, with one of its own to the server."""

    between: FaultySqs
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def setup(self) -> None:
        super().setup()
        self._upstream = self.between.upstream()

    def finish(self) -> None:
        self._upstream.close()
        with suppress(OSError):
            super().finish()

    def handle(self) -> None:
        with suppress(ConnectionError, TimeoutError):  # the client, or the server, is gone
            super().handle()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name of the base class
        """Say nothing."""

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        operation = self.headers["X-Amz-Target"].rpartition(".")[2]
        fault = self.between.draw(operation)
        kind = fault.kind if fault else ""
        if kind == "cut":
            self.close_connection = True
            return
        if kind in _REFUSALS:
            status, code = _REFUSALS[kind]
            refusal = {"__type": f"com.amazonaws.sqs#{code}", "message": "a fault"}
            self._answer(status, json.dumps(refusal).encode())
            return
        if kind == "stale":
            body = _changed(body, _of_another_time)
        try:
            status, answer = self._pass_on(body)
        except (OSError, http.client.HTTPException):
            self._upstream.close()
            self.close_connection = True
            return
        if status == http.client.OK:
            answer = self._spoiled(operation, fault, body, answer)
        self._give(fault, status, answer)

    def _pass_on(self, body: bytes) -> tuple[int, bytes]:
        ours = ("host", "content-length")  # the body may be another one by now
        headers = {name: value for name, value in self.headers.items() if name.lower() not in ours}
        self._upstream.request("POST", self.path, body, headers)
        response = self._upstream.getresponse()
        return response.status, response.read()

    def _spoiled(self, operation: str, fault: Fault | None, body: bytes, answer: bytes) -> bytes:
        request = json.loads(body)

        def spoil(told: dict[str, Any]) -> None:
            if fault is not None and fault.kind in ("damaged", "twice", "shuffled", "partial", "stale"):
                self.between.spoil(fault, operation, request, told)
            if operation == RECEIVE:
                self.between.once_more(request, told)

        return _changed(answer, spoil)

    def _give(self, fault: Fault | None, status: int, answer: bytes) -> None:
        match fault.kind if fault else "":
            case "lost":
                self.close_connection = True
            case "stalled":
                self.between.wait_until_healed()
                self.close_connection = True
            case "truncated":
                self._answer(status, answer, keep=len(answer) // 2)
                self.close_connection = True
            case "slow" if fault is not None:
                threading.Event().wait(fault.seconds)  # the fault itself, not a wait for something
                self._answer(status, answer)
            case _:
                self._answer(status, answer)

    def _answer(self, status: int, body: bytes, *, keep: int | None = None) -> None:
        self.send_response(status)
        self.send_header("Content-Type", _JSON)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[:keep])
        self.wfile.flush()


def _changed(body: bytes, change: Callable[[dict[str, Any]], None]) -> bytes:
    told = json.loads(body or b"{}")
    change(told)
    return json.dumps(told).encode()
