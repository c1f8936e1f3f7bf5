"""The queue of the null SQS server: every response is built before the first request comes.

A message waits, is in flight, or is deleted. Two things of SQS are missing on purpose: visibility timeouts
never run out (a message comes again only when a consumer gives it back with timeout 0), and what is sent here
is counted and dropped.
"""

from __future__ import annotations

import hashlib
import random
from base64 import b64encode
from collections import deque
from itertools import islice
from typing import TYPE_CHECKING

import msgspec
from benchmarks.events import login_events, uuid4_text

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

PER_RECEIVE = 10
WAITING, IN_FLIGHT, DELETED = 0, 1, 2
HANDLE_MARK, HANDLE_DIGITS, HANDLE_NOISE = (
    "AQEB",
    12,
    117,
)  # as long as the handles in the documentation of AWS: 172
RESPONSE = (
    b"HTTP/1.1 %b\r\nContent-Type: application/x-amz-json-1.0\r\n"
    b"x-amzn-RequestId: 00000000-0000-4000-8000-000000000000\r\nContent-Length: %d\r\n\r\n%b"
)
FIRST_RECEIVE = b'"ApproximateReceiveCount":"1"'


class _Received(msgspec.Struct):
    """The body of a ReceiveMessage response, its messages left as they are."""

    messages: list[msgspec.Raw] = msgspec.field(name="Messages")


def http_response(body: bytes, status: bytes = b"200 OK") -> bytes:
    """Wrap a JSON body into the HTTP response that SQS would send."""
    return RESPONSE % (status, len(body), body)


def md5(body: str) -> str:
    """Return the checksum that SQS gives for a body."""
    return hashlib.md5(body.encode(), usedforsecurity=False).hexdigest()


class Supply:
    """Messages to hand out, 10 at a time as ready HTTP responses, and what became of each."""

    def __init__(self, *, messages: int, distinct: float, seed: int, sent_ms: int) -> None:
        entries = _entries(messages, distinct, seed, sent_ms)
        self._responses = [_received(chunk) for chunk in _chunks(entries)]
        self._next = 0  # the first response that was not handed out yet
        self._single: deque[int] = deque()  # messages given back, or left over from a receive of fewer than 10
        self._receives: dict[int, int] = {}  # receive count so far of the messages in `_single` that came back
        self._state = bytearray(messages)
        self.waiting = messages
        self.in_flight = 0
        self.deleted = 0
        self.handed_out = 0

    def take(self, limit: int) -> bytes | None:
        """Return up to `limit` messages as an HTTP response; None when none is waiting."""
        if limit >= PER_RECEIVE and not self._single and self._next < len(self._responses):
            return self._take_ready()
        return self._take_single(limit)

    def delete(self, handle: str) -> bool:
        """Delete a message; False if no message has this receipt handle. Twice is once, as in SQS."""
        position = self._position(handle)
        if position is None:
            return False
        state = self._state[position]
        if state != DELETED:
            self._state[position] = DELETED
            self.deleted += 1
            if state == IN_FLIGHT:
                self.in_flight -= 1
            else:
                self.waiting -= 1
        return True

    def change_visibility(self, handle: str, timeout: int) -> bool:
        """Give a message back if `timeout` is 0; False if no message has this receipt handle."""
        position = self._position(handle)
        if position is None:
            return False
        if timeout == 0 and self._state[position] == IN_FLIGHT:
            self._state[position] = WAITING
            self.in_flight -= 1
            self.waiting += 1
            self._single.append(position)
            self._receives[position] = self._receives.get(position, 1)
        return True

    def _take_ready(self) -> bytes:
        """Hand out the next response as it was built."""
        first = self._next * PER_RECEIVE
        taken = min(PER_RECEIVE, len(self._state) - first)
        self._state[first : first + taken] = bytes((IN_FLIGHT,)) * taken
        self._next += 1
        self._count_out(taken)
        return self._responses[self._next - 1]

    def _take_single(self, limit: int) -> bytes | None:
        """Hand out single messages: slower, for small receives and for messages that were given back."""
        if not self._single and self._next < len(self._responses):
            first = self._next * PER_RECEIVE
            self._single.extend(range(first, min(first + PER_RECEIVE, len(self._state))))
            self._next += 1
        entries: list[bytes] = []
        while self._single and len(entries) < limit:
            position = self._single.popleft()
            if self._state[position] == WAITING:  # not deleted since it was given back
                self._state[position] = IN_FLIGHT
                entries.append(self._entry(position))
        self._count_out(len(entries))
        return _received(entries) if entries else None

    def _count_out(self, taken: int) -> None:
        self.waiting -= taken
        self.in_flight += taken
        self.handed_out += taken

    def _entry(self, position: int) -> bytes:
        """Cut one message out of its response, with its receive count brought up to date."""
        body = self._responses[position // PER_RECEIVE].partition(b"\r\n\r\n")[2]
        entry = bytes(msgspec.json.decode(body, type=_Received).messages[position % PER_RECEIVE])
        if position in self._receives:
            self._receives[position] += 1
            entry = entry.replace(FIRST_RECEIVE, b'"ApproximateReceiveCount":"%d"' % self._receives[position])
        return entry

    def _position(self, handle: str) -> int | None:
        """Return the message that a receipt handle belongs to."""
        digits = handle[len(HANDLE_MARK) : len(HANDLE_MARK) + HANDLE_DIGITS]
        if not (handle.startswith(HANDLE_MARK) and digits.isdigit()) or int(digits) >= len(self._state):
            return None
        return int(digits)


def _entries(messages: int, distinct: float, seed: int, sent_ms: int) -> Iterator[bytes]:
    """Yield each message as it stands in a ReceiveMessage response."""
    rng = random.Random(f"handles and ids {seed}")  # noqa: S311 - ids that must repeat with the seed, no secret
    for position, body in enumerate(islice(login_events(seed=seed, distinct=distinct), messages)):
        noise = b64encode(rng.randbytes(HANDLE_NOISE)).decode()
        escaped = body.replace('"', '\\"')  # the only character of these bodies that JSON escapes
        yield (
            f'{{"MessageId":"{uuid4_text(rng)}","ReceiptHandle":"{HANDLE_MARK}{position:0{HANDLE_DIGITS}d}{noise}",'
            f'"MD5OfBody":"{md5(body)}","Body":"{escaped}",'
            f'"Attributes":{{"SentTimestamp":"{sent_ms}","ApproximateReceiveCount":"1"}}}}'
        ).encode()


def _chunks(entries: Iterator[bytes]) -> Iterator[list[bytes]]:
    while chunk := list(islice(entries, PER_RECEIVE)):
        yield chunk


def _received(entries: Iterable[bytes]) -> bytes:
    return http_response(b'{"Messages":[' + b",".join(entries) + b"]}")
