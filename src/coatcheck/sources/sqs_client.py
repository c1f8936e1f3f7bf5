"""SQS requests: AWS JSON 1.0, one signed POST each, every failure classified.

Over connections of our own (`sqs_direct`), or by pyreqwest where a proxy stands between.

AWS pages: SQS developer guide "Making query API requests using AWS JSON protocol in Amazon SQS"; SQS API reference
GetQueueUrl, GetQueueAttributes, CreateQueue.
"""

from __future__ import annotations

import asyncio
import ipaddress
import random
import ssl
import time
import urllib.request
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping
from datetime import timedelta
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import msgspec
from pyreqwest.exceptions import PyreqwestError

from coatcheck.errors import ConfigError, UnreachableError
from coatcheck.sources.aws import AwsTarget, Keys, Signer
from coatcheck.sources.aws_credentials import MalformedKeysError
from coatcheck.sources.queue_address import QueueAddress, account_of, read_address
from coatcheck.sources.sqs_direct import Answer, Direct, DirectError, tls_context
from coatcheck.sources.sqs_proxied import Outlive, proxied_client, refused_settings, whole
from coatcheck.sources.sqs_wire import (
    BatchResult,
    SqsError,
    Wire,
    WireMessage,
    body_intact,
    decode,
    decode_batch,
    decode_receive,
    refusal,
    transport_failure,
)
from coatcheck.version import __version__

if TYPE_CHECKING:
    from pyreqwest.client import Client
    from pyreqwest.response import Response

__all__ = [
    "Backoff",
    "BatchResult",
    "Late",
    "SqsClient",
    "SqsError",
    "WireMessage",
    "body_intact",
    "decode_batch",
    "decode_receive",
]


class _UrlAnswer(msgspec.Struct, rename="pascal"):
    queue_url: str


class _AttributesAnswer(msgspec.Struct, rename="pascal"):
    attributes: dict[str, str] | None = None


Late = Callable[[bytes], Awaitable[object]]
"""Takes the response of a request whose caller was cancelled; see `SqsClient.call`."""

_OK = 200
_ONCE = frozenset({"SendMessageBatch", "CreateQueue"})
"""What must not arrive twice because a connection was lost."""
_CONTROL_S = 10.0


class Backoff:
    """Capped exponential back-off with full jitter, for one loop.

    Each pause is a random part of `base` seconds doubled per failure, `cap` seconds at most (AWS architecture blog,
    "Exponential Backoff And Jitter").
    """

    def __init__(self, *, base: float = 0.1, cap: float = 20.0) -> None:
        self._base = base
        self._cap = cap
        self._failures = 0

    def pause(self) -> float:
        """Return the seconds to wait before the next try, and count a failure."""
        most = min(self._cap, self._base * 2.0 ** min(self._failures, 64))
        self._failures += 1
        return random.uniform(0.0, most)  # noqa: S311 - jitter, no secret

    def reset(self) -> None:
        """Begin anew after a success."""
        self._failures = 0

    async def wait(self) -> None:
        """Sleep for the next pause."""
        await asyncio.sleep(self.pause())


class SqsClient:
    """Requests to one SQS endpoint: a pool of HTTP/1.1 connections and a signer. Belongs to one event loop and process.

    TLS trusts the platform's roots and those of the PEM file `ca_bundle` (default: `AWS_CA_BUNDLE`, or the profile's).
    Without `proxy` (a URL), HTTPS_PROXY, HTTP_PROXY, ALL_PROXY and NO_PROXY hold, except for a loopback endpoint. At
    most `max_connections` requests are under way at once (default: no limit). Idle connections are closed after
    `idle_timeout` seconds, so that few requests meet one that AWS is just closing. Raises ConfigError for a bundle or
    proxy that is none.
    """

    def __init__(
        self,
        target: AwsTarget,
        *,
        connect_timeout: float = 5.0,
        idle_timeout: float = 20.0,
        max_connections: int | None = None,
        ca_bundle: str | Path | None = None,
        proxy: str | None = None,
    ) -> None:
        self.target = target
        self._credentials = target.credentials
        self._signer = Signer(target.endpoint_url, target.region)
        self._late: set[asyncio.Task[None]] = set()
        self._direct: Direct | None = None
        self._client: Client | None = None
        options: dict[str, Any] = {
            "user_agent": f"coatcheck/{__version__}", "connect_timeout": connect_timeout, "idle_timeout": idle_timeout,
            "max_connections": max_connections,
        }  # fmt: skip
        named = ca_bundle or target.ca_bundle
        bundle = Path(named) if named else None
        if proxy or _has_proxy(target.endpoint_url):
            pem = _pem(bundle) if bundle else None
            self._client = proxied_client(target.endpoint_url, pem=pem, proxy=proxy, **options)
        else:
            self._direct = Direct(target.endpoint_url, tls=_tls(target.endpoint_url, bundle), **options)

    async def call(self, operation: str, payload: bytes, *, timeout: float, late: Late | None = None) -> bytes:
        """Send one signed request and return the body of its 200. One try; raises SqsError for anything else.

        `payload` is JSON, `timeout` seconds for everything from the connection to the last byte: a long poll needs its
        WaitTimeSeconds and a margin. When the caller is cancelled, pyreqwest forgets the request but does not end it:
        it stays under way until it is answered or its timeout is over. `late` then takes a 200's body, so that
        messages which SQS handed out meanwhile can be given back instead of staying hidden.
        """
        if self._direct is not None:
            return await self._call_directly(operation, payload, timeout, late)
        keys, send = await self._prepare(operation, payload, timeout)
        if late is None:
            return await self._answer(operation, keys, whole(send))
        waiting = Outlive(send, lambda: self._adopt(operation, keys, whole(send), late))
        return await self._answer(operation, keys, whole(waiting))

    async def _call_directly(self, operation: str, payload: bytes, timeout: float, late: Late | None) -> bytes:
        keys = await self._keys(operation)
        if self._direct is None:
            raise SqsError(operation, "invalid", "ClientClosed")
        try:
            headers = self._signer.sign(operation, payload, keys)
            exchange = self._direct.post(headers, payload, timeout=timeout, again=operation not in _ONCE)
        except ValueError as error:
            failure = transport_failure(operation, error)
        else:
            try:
                return await self._answer(operation, keys, exchange.answer)
            except asyncio.CancelledError:
                if late is not None:
                    self._adopt(operation, keys, exchange.outlive(), late)
                raise
        raise failure

    async def _keys(self, operation: str) -> Keys:
        try:
            return await self._credentials.current()
        except ConfigError as error:
            failure = _no_keys(operation, error)
        raise failure  # outside the handler: no error that shows a secret stays attached

    async def call_retrying(self, operation: str, payload: bytes, *, timeout: float, deadline: float = 30.0) -> bytes:
        """Like `call`, but retry what is retryable with back-off, for `deadline` seconds in all.

        The last SqsError is raised when the time is up, and at once when it is not retryable.
        """
        end = time.monotonic() + deadline
        backoff = Backoff()
        while True:
            left = max(end - time.monotonic(), 0.05)
            try:
                return await self.call(operation, payload, timeout=min(timeout, left))
            except SqsError as error:
                failure = error
            pause = backoff.pause()
            if not failure.retryable or time.monotonic() + pause >= end:
                raise failure
            await asyncio.sleep(pause)

    async def close(self, *, grace: float = 0.0) -> None:
        """Close the connections. Requests that outlive their callers get `grace` seconds for their late responses."""
        if self._late:
            _, left = await asyncio.wait(set(self._late), timeout=grace)
            for task in left:
                task.cancel()
            await asyncio.gather(*left, return_exceptions=True)
        if self._direct is not None:
            direct, self._direct = self._direct, None
            await direct.close()
        if self._client is not None:
            await self._client.close()
            self._client = None  # only without a client does pyreqwest let go of idle connections

    # -- control operations: tried again for 30 s; all raise SqsError

    async def queue_url(self, queue: str) -> str:
        """Return the URL of a queue that is given by name, URL or ARN; see `url_of`. Also raises ConfigError."""
        return await self.url_of(read_address(queue))

    async def url_of(self, address: QueueAddress) -> str:
        """Return the queue's URL: the one given, or what SQS tells of its name in its account (GetQueueUrl).

        Raises ConfigError, also: the queue is in another region than requests go to, or the server knows only a queue
        of the same name in another account. A queue that merely has the name is never taken for the one that is meant.
        """
        region = address.region or (self.target.region_of(address.url) if address.url else "")
        if region and self.target.is_aws and region != self.target.region:
            raise ConfigError(
                f"the queue {address.name} is in {region}, and requests go to {self.target.region}",
                hint="name a queue in the region of source.queue, or set source.queue to its ARN",
            )
        if address.url:
            return address.url
        request = {"QueueName": address.name}
        if address.account:
            request["QueueOwnerAWSAccountId"] = address.account
        url = (await self._control("GetQueueUrl", request, _UrlAnswer)).queue_url
        found = account_of(url)
        if address.account and found and found != address.account:
            raise ConfigError(
                f"the queue {address.name} of account {address.account} is not found: the server tells that of {found}",
                hint="this server does not look into other accounts: name the queue by its URL",
            )
        return url

    async def get_queue_attributes(self, queue_url: str, names: Iterable[str]) -> dict[str, str]:
        """Return the named attributes, or those that exist of them (GetQueueAttributes)."""
        request = {"QueueUrl": queue_url, "AttributeNames": list(names)}
        return (await self._control("GetQueueAttributes", request, _AttributesAnswer)).attributes or {}

    async def create_queue(self, name: str, attributes: Mapping[str, str] | None = None) -> str:
        """Create a queue, or find it if it exists with these attributes, and return its URL (CreateQueue)."""
        wanted = dict(attributes or {})
        if name.endswith(".fifo"):
            wanted.setdefault("FifoQueue", "true")
        request = {"QueueName": name} | ({"Attributes": wanted} if wanted else {})
        return (await self._control("CreateQueue", request, _UrlAnswer)).queue_url

    async def _control(self, operation: str, request: dict[str, Any], answer: type[Wire]) -> Wire:
        try:
            payload = msgspec.json.encode(request)
        except UnicodeEncodeError as error:  # a lone surrogate in a name
            failure = transport_failure(operation, error)
        else:
            data = await self.call_retrying(operation, payload, timeout=_CONTROL_S)
            return decode(operation, msgspec.json.Decoder(answer), data)
        raise failure

    # -- one request

    async def _prepare(
        self, operation: str, payload: bytes, timeout: float
    ) -> tuple[Keys, Coroutine[Any, Any, Response]]:
        try:
            keys = await self._credentials.current()
            if self._client is None:
                raise SqsError(operation, "invalid", "ClientClosed")
            request = (
                self._client.post(self.target.endpoint_url)
                .headers(self._signer.sign(operation, payload, keys))
                .body_bytes(payload)
                .timeout(timedelta(seconds=timeout))
                .build()
            )
            return keys, request.send()
        except ConfigError as error:
            failure = _no_keys(operation, error)
        except (PyreqwestError, ValueError) as error:
            failure = transport_failure(operation, error)
        raise failure  # outside the handlers: no error that shows a header stays attached

    async def _answer(self, operation: str, keys: Keys, send: Awaitable[Answer]) -> bytes:
        try:
            status, body, headers = await send
        except DirectError as error:
            failure = SqsError(operation, "unavailable", error.code)
        except (PyreqwestError, ValueError) as error:
            failure = transport_failure(operation, error)
        else:
            if status == _OK:
                return body
            failure = refusal(operation, status, headers.get("x-amzn-query-error"), body)
            self._learn(failure, keys, headers.get("date"))
        raise failure

    def _learn(self, failure: SqsError, keys: Keys, date: str | None) -> None:
        """Make the next request better: other credentials, or AWS's clock."""
        if failure.kind == "expired":
            self._credentials.invalidate(keys)
        elif failure.kind == "skew" and date:
            try:
                self._signer.offset = parsedate_to_datetime(date).timestamp() - time.time()
            except ValueError:
                return

    def _adopt(self, operation: str, keys: Keys, send: Awaitable[Answer], late: Late) -> None:
        task = asyncio.create_task(self._deliver(operation, keys, send, late))
        self._late.add(task)
        task.add_done_callback(self._late.discard)

    async def _deliver(self, operation: str, keys: Keys, send: Awaitable[Answer], late: Late) -> None:
        try:
            await late(await self._answer(operation, keys, send))
        except UnreachableError:
            return  # nobody waits for it any more, and SQS handed nothing out, or will show it again


def _no_keys(operation: str, error: ConfigError) -> SqsError:
    """Return the error of a request that nothing can sign: malformed keys stay so, others may be found again."""
    if isinstance(error, MalformedKeysError):
        return SqsError(operation, "denied", "MalformedCredentials", why=error.message, hint=error.hint)
    return SqsError(operation, "expired", "NoCredentials", why=error.message, hint=error.hint)


def _has_proxy(endpoint: str) -> bool:
    parts = urlsplit(endpoint)
    host, proxies = parts.hostname or "", urllib.request.getproxies()
    if _is_loopback(host) or not ({parts.scheme, "all"} & proxies.keys()):
        return False
    return not urllib.request.proxy_bypass(host)


def _tls(endpoint: str, bundle: Path | None) -> ssl.SSLContext | None:
    if urlsplit(endpoint).scheme != "https":
        return None
    if bundle is not None:
        _pem(bundle)
    try:
        return tls_context(bundle)
    except OSError:
        raise refused_settings() from None


def _pem(path: Path) -> bytes:
    try:
        pem = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"the CA bundle cannot be read ({type(error).__name__})", hint=f"check {path}") from None
    if b"-----BEGIN CERTIFICATE-----" not in pem:
        raise ConfigError("the CA bundle holds no PEM certificate", hint=f"check {path}")
    return pem


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")
