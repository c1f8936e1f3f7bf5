"""HTTP/1.1 to one endpoint without a proxy: connections that are kept, one request at a time on each (RFC 9112).

A quarter of what a general client costs: no thread to hand requests to, no timer and no object per header, a write and
a read each. A response of the usual form that comes in one read is cut by hand; llhttp (by httptools) reads all others.
TLS is Python's own, verified against the platform's roots.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from asyncio import Future
from collections.abc import Coroutine, Mapping
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any, NamedTuple, cast
from urllib.parse import urlsplit

import httptools

from coatcheck.sources.aws import host_header, request_path

_PORTS = {"http": 80, "https": 443}
_OK = 200
_SWEEP_S = 0.25


class DirectError(Exception):
    """No response. `code` is what went wrong: ConnectError, UnknownHost, UntrustedCertificate, Timeout, ..."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


class Answer(NamedTuple):
    """A response: its status, body, and headers (names in lower case)."""

    status: int
    body: bytes
    headers: Mapping[str, str]


class Exchange:
    """One request on its way: its bytes, the future of its answer, its deadline. `again`: it may be sent twice."""

    __slots__ = ("_outcome", "again", "answer", "data", "deadline")

    def __init__(self, data: bytes, answer: Future[Answer], deadline: float, *, again: bool) -> None:
        self.data, self.answer, self.deadline, self.again = data, answer, deadline, again
        self._outcome: Answer | DirectError | None = None

    def done(self, outcome: Answer | DirectError) -> None:
        """Take what became of the request."""
        self._outcome = outcome
        if self.answer.done():  # cancelled
            return
        if isinstance(outcome, Answer):
            self.answer.set_result(outcome)
        else:
            self.answer.set_exception(outcome)

    def outlive(self) -> Future[Answer]:
        """Return a further future of the answer when the first was cancelled: its request is still under way."""
        if self.answer.cancelled():
            self.answer = asyncio.get_running_loop().create_future()
            if self._outcome is not None:  # it came before its caller knew of the cancellation
                self.done(self._outcome)
        return self.answer


class _Connection(asyncio.Protocol):
    """One connection of a pool. Also takes what the parser finds."""

    def __init__(self, pool: Direct) -> None:
        self._pool = pool
        self._exchange: Exchange | None = None
        self._used = self._begun = False
        self.idle_since = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - how it was lost may quote the peer
        exchange, self._exchange = self._exchange, None
        self._pool.lost(self)
        if exchange is None:
            return
        if self._used and not self._begun and exchange.again:
            self._pool.send_again(exchange)  # the peer had closed it before the request came
        else:
            exchange.done(DirectError("BrokenResponse"))

    def send(self, exchange: Exchange) -> None:
        """Send a request; the connection is free."""
        self._exchange, self._begun = exchange, False
        self.transport.write(exchange.data)

    def data_received(self, data: bytes) -> None:
        if self._exchange is None:  # nobody has asked
            self.transport.abort()
            return
        if not self._begun:
            self._begun = True
            if (body := _whole(data)) is not None:
                self._finish(Answer(_OK, body, {}), keep=True)
                return
            self._parts: list[bytes] = []
            self._headers: dict[str, str] = {}
            self._parser = httptools.HttpResponseParser(self)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self.transport.abort()

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_body(self, body: bytes) -> None:
        self._parts.append(body)

    def on_message_complete(self) -> None:
        if self._parser.get_status_code() < _OK:  # informational: the response is yet to come
            self._headers = {}
            return
        body = self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
        answer = Answer(self._parser.get_status_code(), body, self._headers)
        self._finish(answer, keep=self._parser.should_keep_alive())

    def _finish(self, answer: Answer, *, keep: bool) -> None:
        exchange, self._exchange = self._exchange, None
        if exchange is None:  # a second response to one request
            self.transport.abort()
            return
        self._used = True
        if keep:
            self._pool.freed(self)
        else:
            self.transport.close()
        exchange.done(answer)

    def expire(self, now: float) -> None:
        """Give up what is past its deadline: the connection cannot be used for anything else."""
        exchange = self._exchange
        if exchange is not None and exchange.deadline <= now:
            self._exchange = None
            exchange.done(DirectError("Timeout"))
            self.transport.abort()


class Direct:
    """A pool of connections to one endpoint. Belongs to one event loop.

    `tls` is None for http. Connections that were idle for `idle_timeout` seconds are closed. At most `max_connections`
    requests are under way at once (None: no limit). Deadlines and idle connections are looked at four times a second: a
    timer for each request would cost as much as its signature.
    """

    def __init__(
        self,
        endpoint_url: str,
        *,
        user_agent: str,
        tls: ssl.SSLContext | None,
        connect_timeout: float,
        idle_timeout: float,
        max_connections: int | None,
    ) -> None:
        parts = urlsplit(endpoint_url)
        self._host, self._port = parts.hostname or "", parts.port or _PORTS[parts.scheme]
        first = f"POST {request_path(endpoint_url)} HTTP/1.1\r\nhost: {host_header(endpoint_url)}\r\n"
        self._head = f"{first}user-agent: {user_agent}\r\n"
        self._tls, self._connect_timeout, self._idle_timeout = tls, connect_timeout, idle_timeout
        self._places = asyncio.Semaphore(max_connections) if max_connections else None
        self._idle: list[_Connection] = []
        self._all: set[_Connection] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._sweep: asyncio.TimerHandle | None = None
        self._closing: Future[None] | None = None

    def post(self, headers: Mapping[str, str], payload: bytes, *, timeout: float, again: bool) -> Exchange:
        """Send a request; its future `answer` has its answer, or a DirectError, within `timeout` seconds.

        `again`: it does no harm if it arrives twice. A future that is cancelled leaves its request under way. Raises
        ValueError: a header that cannot be sent.
        """
        loop = asyncio.get_running_loop()
        values = "".join(headers.values())
        if not (values.isascii() and values.isprintable()):
            raise ValueError("header")
        lines = "".join([f"{name}: {value}\r\n" for name, value in headers.items()])
        data = f"{self._head}{lines}content-length: {len(payload)}\r\n\r\n".encode() + payload
        now = loop.time()
        exchange = Exchange(data, loop.create_future(), now + timeout, again=again)
        connection = self._free(now) if self._places is None else None
        if connection is None:
            self._start(self._connect_and_send(exchange))
        else:
            connection.send(exchange)
        return exchange

    def send_again(self, exchange: Exchange) -> None:
        """Send a request anew that was lost with the connection it was sent on."""
        if self._closing is not None:
            exchange.done(DirectError("ClientClosed"))
            return
        exchange.again = False
        self._start(self._connect_and_send(exchange))

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _connect_and_send(self, exchange: Exchange) -> None:
        try:
            async with self._places or nullcontext():
                now = asyncio.get_running_loop().time()
                connection = self._free(now) or await self._connect(exchange.deadline)
                if exchange.answer.cancelled():  # nobody waits for it, and it was not sent
                    self.freed(connection)
                    exchange.done(DirectError("Cancelled"))
                    return
                connection.send(exchange)
                while self._places is not None and not exchange.answer.done():
                    await asyncio.wait({exchange.answer})
        except DirectError as error:
            exchange.done(error)
        except asyncio.CancelledError:  # by close
            exchange.done(DirectError("ClientClosed"))
            raise

    async def _connect(self, deadline: float) -> _Connection:
        """Open a connection. Raises DirectError."""
        loop = asyncio.get_running_loop()
        limit = min(self._connect_timeout, deadline - loop.time())
        try:
            async with asyncio.timeout(limit):
                server_name = self._host if self._tls else None
                _, connection = await loop.create_connection(
                    lambda: _Connection(self), self._host, self._port, ssl=self._tls, server_hostname=server_name
                )
        except TimeoutError:
            code = "Timeout"
        except ssl.SSLCertVerificationError:
            code = "UntrustedCertificate"
        except socket.gaierror:
            code = "UnknownHost"
        except OSError:
            code = "ConnectError"
        else:
            self._all.add(connection)
            if self._sweep is None:
                self._sweep = loop.call_later(_SWEEP_S, self._look)
            return connection
        raise DirectError(code)  # outside the handlers: what was caught may quote the peer

    def _free(self, now: float) -> _Connection | None:
        """Take the connection that was used last; close those that were idle for too long."""
        while self._idle:
            connection = self._idle.pop()
            if connection.transport.is_closing():
                continue
            if now - connection.idle_since < self._idle_timeout:
                return connection
            connection.transport.close()
        return None

    def freed(self, connection: _Connection) -> None:
        """Take back a connection whose response has come whole."""
        connection.idle_since = asyncio.get_running_loop().time()
        self._idle.append(connection)

    def _look(self) -> None:
        """Give up what is past its deadline, and close what was idle for too long: the first of the list."""
        loop = asyncio.get_running_loop()
        now = loop.time()
        for connection in list(self._all):
            connection.expire(now)
        old = [one for one in self._idle if now - one.idle_since >= self._idle_timeout]
        del self._idle[: len(old)]
        for connection in old:
            connection.transport.close()
        self._sweep = loop.call_later(_SWEEP_S, self._look) if self._all else None

    def lost(self, connection: _Connection) -> None:
        """Forget a connection that is closed."""
        self._all.discard(connection)
        with suppress(ValueError):
            self._idle.remove(connection)
        if self._closing is not None and not self._all and not self._closing.done():
            self._closing.set_result(None)

    async def close(self) -> None:
        """Close all connections; what is under way fails."""
        if self._sweep is not None:
            self._sweep.cancel()
        self._closing = asyncio.get_running_loop().create_future()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for connection in list(self._all):
            connection.transport.abort()
        if self._all:
            await self._closing


def _whole(data: bytes) -> bytes | None:
    """Return the body of a 200 that `data` is the whole of, or None: it is of another form, or more is to come.

    The usual form has a length, no transfer coding, and keeps the connection (RFC 9112, sections 6 and 9).
    """
    head, _, body = data.partition(b"\r\n\r\n")
    if not head.startswith(b"HTTP/1.1 200 "):
        return None
    lines = head.lower() + b"\r\n"
    if lines.count(b"\r\ncontent-length:") != 1 or b"\r\ncontent-length: %d\r\n" % len(body) not in lines:
        return None
    if b"\r\ntransfer-encoding:" in lines:
        return None
    if b"\r\nconnection:" in lines and b"\r\nconnection: keep-alive\r\n" not in lines:
        return None
    return body


def tls_context(ca_file: Path | None) -> ssl.SSLContext:
    """Return a context that verifies by the platform's roots, and those of `ca_file`. Raises OSError."""
    context = ssl.create_default_context()
    if ca_file is not None:
        context.load_verify_locations(cafile=ca_file)
    context.set_alpn_protocols(["http/1.1"])
    return context
