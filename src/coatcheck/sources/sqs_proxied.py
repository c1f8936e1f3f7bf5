"""HTTP/1.1 to one endpoint through a proxy, by pyreqwest: it knows tunnels, passwords and SOCKS."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Generator
from datetime import timedelta
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from pyreqwest.client import Client, ClientBuilder
from pyreqwest.exceptions import PyreqwestError
from pyreqwest.proxy import ProxyBuilder

from coatcheck.errors import ConfigError
from coatcheck.sources.sqs_direct import Answer

if TYPE_CHECKING:
    from pyreqwest.response import Response


class Outlive:
    """Awaits a pyreqwest request without passing a cancellation on to it: `adopt` gets the request instead.

    A task and a shield per request would do the same for 10 us more. pyreqwest's coroutines may be driven on after
    the future they waited for was cancelled; tests/integration/test_sqs_client_transport.py holds them to it.
    """

    def __init__(self, send: Coroutine[Any, Any, Response], adopt: Callable[[], None]) -> None:
        self._send = send
        self._adopt = adopt

    def __await__(self) -> Generator[Any, Any, Response]:
        while True:
            try:
                step = self._send.send(None)
            except StopIteration as done:
                response: Response = done.value
                return response
            try:
                yield step
            except asyncio.CancelledError:
                self._adopt()
                raise


async def whole(send: Awaitable[Response]) -> Answer:
    """Read a proxied response to its end."""
    response = await send
    body = (await response.bytes()).to_bytes()
    named = {name: response.get_header(name) for name in ("x-amzn-query-error", "date")}
    return Answer(response.status, body, {name: value for name, value in named.items() if value is not None})


def proxied_client(
    endpoint: str,
    *,
    user_agent: str,
    pem: bytes | None,
    proxy: str | None,
    connect_timeout: float,
    idle_timeout: float,
    max_connections: int | None,
) -> Client:
    """Return a client that goes through `proxy`, or the proxy of the environment. Raises ConfigError."""
    builder = (
        ClientBuilder()
        .runtime_multithreaded(False)  # one I/O thread costs some 30 % less CPU than a pool of them
        .http1_only()
        .http1_lower_case_headers()
        .gzip(False)
        .brotli(False)
        .zstd(False)
        .deflate(False)
        .follow_redirects(False)
        .referer(False)
        .tcp_nodelay(True)
        .connect_timeout(timedelta(seconds=connect_timeout))
        .pool_idle_timeout(timedelta(seconds=idle_timeout))
        .max_connections(max_connections)
        .user_agent(user_agent)
    )
    if pem is not None and urlsplit(endpoint).scheme == "https":
        builder = builder.add_root_certificate_pem(pem)
    if proxy:
        if urlsplit(proxy).scheme not in ("http", "https", "socks5", "socks5h") or not urlsplit(proxy).hostname:
            raise ConfigError("the proxy is no URL", hint="for example http://proxy.example:3128")
        builder = builder.proxy(ProxyBuilder.all(proxy))
    try:
        return builder.build()
    except (PyreqwestError, ValueError):
        raise refused_settings() from None


def refused_settings() -> ConfigError:
    """Return the error of a client that cannot be made."""
    return ConfigError("the HTTP client refuses its settings", hint="check source.ca_bundle and AWS_CA_BUNDLE")
