"""What the null SQS server sends: HTTP responses, messages as they stand in them, and receipt handles."""

from __future__ import annotations

import hashlib
import random
from base64 import b64encode
from itertools import count, islice
from typing import TYPE_CHECKING

from benchmarks.events import login_events, uuid4_text

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

PER_RECEIVE = 10
HANDLE_MARK, HANDLE_DIGITS, HANDLE_NOISE = (
    "AQEB",
    12,
    117,
)  # as long as the handles in the documentation of AWS: 172
FIRST_RECEIVE = b'"ApproximateReceiveCount":"1"'
RESPONSE = (
    b"HTTP/1.1 %b\r\nContent-Type: application/x-amz-json-1.0\r\n"
    b"x-amzn-RequestId: 00000000-0000-4000-8000-000000000000\r\nContent-Length: %d\r\n\r\n%b"
)
FRESH_AFTER = 500_000
"""Messages after which the values of a stream repeat no longer, so that the server need not keep them all."""


def http_response(body: bytes, status: bytes = b"200 OK") -> bytes:
    """Wrap a JSON body into the HTTP response that SQS would send."""
    return RESPONSE % (status, len(body), body)


def received(entries: Iterable[bytes]) -> bytes:
    """Wrap messages into the HTTP response of a ReceiveMessage."""
    return http_response(b'{"Messages":[' + b",".join(entries) + b"]}")


def md5(body: str) -> str:
    """Return the checksum that SQS gives for a body."""
    return hashlib.md5(body.encode(), usedforsecurity=False).hexdigest()


def bodies(*, seed: int, distinct: float, size: int = 0) -> Iterator[str]:
    """Yield login events without end, with one more field that makes each body `size` bytes long, if it is shorter."""
    for block in count():
        for body in islice(login_events(seed=seed + block, distinct=distinct), FRESH_AFTER):
            rest = size - len(body) - 12  # what the field itself takes
            yield f'{body[:-1]}, "rest": "{"r" * rest}"}}' if rest > 0 else body


def entries(texts: Iterable[str], *, seed: int, sent_ms: int = 0) -> Iterator[bytes]:
    """Yield each message as it stands in a ReceiveMessage response."""
    rng = random.Random(f"handles and ids {seed}")  # noqa: S311 - ids that must repeat with the seed, no secret
    for position, body in enumerate(texts):
        noise = b64encode(rng.randbytes(HANDLE_NOISE)).decode()
        escaped = body.replace('"', '\\"')  # the only character of these bodies that JSON escapes
        yield (
            f'{{"MessageId":"{uuid4_text(rng)}","ReceiptHandle":"{HANDLE_MARK}{position:0{HANDLE_DIGITS}d}{noise}",'
            f'"MD5OfBody":"{md5(body)}","Body":"{escaped}",'
            f'"Attributes":{{"SentTimestamp":"{sent_ms}","ApproximateReceiveCount":"1"}}}}'
        ).encode()


def with_sent(entry: bytes, sent_ms: int) -> bytes:
    """Return a message that was made without its time of sending, with it."""
    head, mark, tail = entry.rpartition(b'"SentTimestamp":"0"')
    return head + mark[:-2] + b'%d"' % sent_ms + tail


def with_receives(entry: bytes, receives: int) -> bytes:
    """Return a message as it stands in a later receive."""
    head, _, tail = entry.rpartition(FIRST_RECEIVE)
    return head + b'"ApproximateReceiveCount":"%d"' % receives + tail


def position_in(handle: str) -> int | None:
    """Return the position that a receipt handle tells, or None if it is none of ours."""
    digits = handle[len(HANDLE_MARK) : len(HANDLE_MARK) + HANDLE_DIGITS]
    return int(digits) if handle.startswith(HANDLE_MARK) and digits.isdigit() else None
