"""What Prometheus and an orchestrator ask a worker: /metrics, /livez, /readyz, /startupz.

A thread of its own answers, so that a worker that hangs is told to hang. All answers come from the metrics. Where there
are several pipelines, each has to be well, and an answer names the one that is not.
"""

from __future__ import annotations

import http.server
import socket
import socketserver
import threading
import time
from collections.abc import Callable
from http import HTTPStatus
from types import TracebackType
from typing import Self

from coatcheck.errors import ConfigError
from coatcheck.ops.metrics import ByPipeline, Sample, exposition

Read = Callable[[], ByPipeline]
_STUCK_S = 120.0
"""A long poll is 20 s and its deadline 10 s more; a loop that has not moved for so long will not move again."""
_COMPONENTS = ("queue", "database", "keys")
_MOVING = {
    "event loop": "coatcheck_heartbeat_timestamp_seconds",
    "receiving": "coatcheck_receiving_timestamp_seconds",
}
_TEXT = "text/plain; version=0.0.4; charset=utf-8"


def live(samples: list[Sample], now: float) -> list[str]:
    """Return what has stopped moving, for which a restart is the cure; nothing if all is well or waits for others."""
    seen = {name: value for name, _, value in samples if isinstance(value, float | int)}
    return [what for what, name in _MOVING.items() if now - seen.get(name, now) > _STUCK_S]


def not_up(samples: list[Sample]) -> list[str]:
    """Return the components that did not answer when they were last asked, or have not been asked yet."""
    up = {label for name, label, value in samples if name == "coatcheck_up" and value}
    return [component for component in _COMPONENTS if component not in up]


def not_started(samples: list[Sample]) -> list[str]:
    """Return the components that have never been asked."""
    asked = {label for name, label, _ in samples if name == "coatcheck_up"}
    return [component for component in _COMPONENTS if component not in asked]


def ended(samples: list[Sample]) -> list[str]:
    """Return the exit codes with which a pipeline has ended in a way that no restart cures."""
    return [label for name, label, value in samples if name == "coatcheck_pipeline_ended" and value]


def _stuck(samples: list[Sample]) -> list[str]:
    return [f"{what} is stuck" for what in live(samples, time.time())]


def _unready(samples: list[Sample]) -> list[str]:
    if codes := ended(samples):
        return [f"it has ended with exit code {code}, and is not started again" for code in codes]
    return [f"{component} does not answer" for component in not_up(samples)]


def _unstarted(samples: list[Sample]) -> list[str]:
    return [f"{component} is not there yet" for component in not_started(samples)]


def _unstarted_beside_others(samples: list[Sample]) -> list[str]:
    """Leave out a pipeline whose start has failed: its supervisor tries again, and a restart would stop the others."""
    restarted = any(name == "coatcheck_worker_restarts_total" and value for name, _, value in samples)
    return [] if restarted or ended(samples) else _unstarted(samples)


def state(path: str, pipelines: ByPipeline) -> list[str]:
    """Return what is wrong by /livez, /readyz or /startupz, a sentence each. Raises LookupError: it is another path."""
    several = len(pipelines) > 1
    looks = {
        "/livez": _stuck,
        "/readyz": _unready,
        "/startupz": _unstarted_beside_others if several else _unstarted,
    }
    look = looks[path]
    wrong = ((name, what) for name, samples in pipelines.items() for what in look(samples))
    return [f"pipeline {name}: {what}" if several else what for name, what in wrong]


class Endpoint:
    """Serves `read` on `listen` ("host:port"; port 0 takes a free one) while its block runs. Raises ConfigError."""

    def __init__(self, listen: str, read: Read) -> None:
        host, _, port = listen.rpartition(":")
        host = host.strip("[]")
        every = not host and socket.has_dualstack_ipv6()

        class Handler(_Handler):
            pipelines = staticmethod(read)

        class Server(http.server.ThreadingHTTPServer):
            address_family = socket.AF_INET6 if ":" in host or every else socket.AF_INET
            daemon_threads = True

            def server_bind(self) -> None:
                """Bind, to both families for every interface; the base class would also ask the DNS for a name."""
                if every:
                    self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
                socketserver.TCPServer.server_bind(self)

            def handle_error(self, request: object, client_address: object) -> None:
                """Say nothing: somebody hung up, and the base class would print a traceback."""

        try:
            self._server = Server((host, int(port)), Handler)
        except (OSError, OverflowError, TypeError, ValueError) as error:
            raise ConfigError(
                f"cannot listen on [metrics] listen = {listen}: {getattr(error, 'strerror', None) or 'no such place'}",
                hint="another process may hold the port; :9464 is usual, and :0 takes any that is free",
            ) from None
        self.port = int(self._server.server_address[1])
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.2,), name="endpoint", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Handler(http.server.BaseHTTPRequestHandler):
    pipelines: Read
    server_version, sys_version = "coatcheck", ""
    timeout = 10.0

    def do_GET(self) -> None:
        path, pipelines = self.path.partition("?")[0], self.pipelines()
        if path == "/metrics":
            self._answer(HTTPStatus.OK, exposition(pipelines), _TEXT)
            return
        try:
            wrong = state(path, pipelines)
        except LookupError:
            self._answer(HTTPStatus.NOT_FOUND, "see /metrics, /livez, /readyz, /startupz\n")
            return
        status = HTTPStatus.SERVICE_UNAVAILABLE if wrong else HTTPStatus.OK
        self._answer(status, "".join(f"{what}\n" for what in wrong) or "ok\n")

    def _answer(self, status: HTTPStatus, text: str, kind: str = "text/plain; charset=utf-8") -> None:
        body = text.encode()
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name of the base class
        """Say nothing: a request's path is none of ours."""
