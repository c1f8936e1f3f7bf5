"""HTTP as the null SQS server reads it, by hand: requests with a Content-Length, one at a time on a connection."""

from __future__ import annotations

import asyncio
from typing import Protocol, cast

TARGET = b"\r\nx-amz-target:"
LENGTH = b"\r\ncontent-length:"
PREFIX = b"amazonsqs."


class Handler(Protocol):
    """What answers requests."""

    def answer(self, operation: bytes, body: bytes, to: Connection) -> None:
        """Answer one request of SQS, now or later; `operation` is the name in lower case."""

    def tell(self, what: bytes) -> bytes:
        """Answer a request of the benchmark: a method and a path, in lower case."""


class Connection(asyncio.Protocol):
    """One keep-alive connection: cuts requests out of the stream and writes the answers."""

    def __init__(self, handler: Handler) -> None:
        self._handler = handler
        self._buffer = b""
        self._transport: asyncio.Transport

    @property
    def open(self) -> bool:
        """Whether somebody is there to read an answer."""
        return not self._transport.is_closing()

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
            if operation := header(head, TARGET):
                self._handler.answer(operation.removeprefix(PREFIX), body, self)
            else:
                self.write(self._handler.tell(b" ".join(head.split(b" ", 2)[:2])))

    def write(self, response: bytes) -> None:
        """Write an answer, unless the client has left."""
        if not self._transport.is_closing():
            self._transport.write(response)


def header(head: bytes, name: bytes) -> bytes:
    """Return the value of a header, or nothing; `name` starts with a line break and ends with a colon."""
    start = head.find(name)
    if start < 0:
        return b""
    start += len(name)
    end = head.find(b"\r\n", start)
    return head[start : end if end >= 0 else len(head)].strip()
