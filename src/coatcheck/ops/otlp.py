"""Metrics and spans on their way to a collector: OTLP over HTTP, from one thread, never in the way of the loader.

What cannot be sent is told once, and once more when it is taken again. Metrics are cumulative, so the next export makes
up for one that failed; spans that failed are gone, and so are the oldest of more than `_SPANS_KEPT` that wait.
"""

from __future__ import annotations

import logging
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

import requests
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.metrics.export import MetricExportResult
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor
from opentelemetry.sdk.trace.export import SpanExportResult
from opentelemetry.util.re import parse_env_headers

from coatcheck.errors import ConfigError
from coatcheck.ops.metrics import ByPipeline
from coatcheck.ops.otlp_metrics import metrics_data
from coatcheck.version import __version__

_log = logging.getLogger(__name__)
_LAST_S = 3.0
"""What a stop waits for the last export: SIGTERM leaves little time, and the loader's own end comes first."""
_SPANS_S, _SPANS_AT_ONCE, _SPANS_KEPT = 5.0, 512, 4096


def resource() -> Resource:
    """Return what says who is exporting: ours, and what OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES say instead."""
    ours = {"service.name": "coatcheck", "service.version": __version__, "service.instance.id": str(uuid.uuid4())}
    return Resource.create().merge(Resource(ours)).merge(OTELResourceDetector().detect())


class Export(SpanProcessor):
    """Exports while its block runs: what `read` returns each `every_s` seconds (None: no metrics), and ended spans.

    `endpoint` is the collector's base URL, `headers` are `name=value,...`; what is empty is left to OpenTelemetry's own
    variables. `who` exports. Raises ConfigError: the headers are none.
    """

    def __init__(
        self,
        *,
        endpoint: str,
        headers: str,
        read: Callable[[], ByPipeline] | None,
        every_s: float,
        who: Resource,
    ) -> None:
        self._read, self._every_s, self._who = read, every_s, who
        self._start_ns = time.time_ns()
        self._ended: deque[ReadableSpan] = deque(maxlen=_SPANS_KEPT)
        self._wake, self._closing = threading.Event(), False
        self._failing: set[str] = set()
        self._sessions = {"metrics": _Session(), "traces": _Session()}
        base, named = endpoint.rstrip("/"), _named(headers)
        options: dict[str, dict[str, Any]] = {
            kind: {"endpoint": endpoint and f"{base}/v1/{kind}", "headers": named, "session": session}
            for kind, session in self._sessions.items()
        }
        self._metrics, self._spans = OTLPMetricExporter(**options["metrics"]), OTLPSpanExporter(**options["traces"])
        self._thread = threading.Thread(target=self._run, name="telemetry", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Export what there is, for `_LAST_S` seconds at most."""
        self._closing = True
        self._wake.set()
        self._thread.join(_LAST_S)
        if self._thread.is_alive():
            _log.warning("the last telemetry could not be exported in time")
        self._metrics.shutdown()  # ends a pause between two tries; a request under way ends with the process
        self._spans.shutdown()  # type: ignore[no-untyped-call]  # it lacks its annotation

    def on_end(self, span: ReadableSpan) -> None:
        """Keep a span that has ended until it is exported. Called in the event loop: it must not wait."""
        self._ended.append(span)
        if len(self._ended) >= _SPANS_AT_ONCE:
            self._wake.set()

    def _run(self) -> None:
        due = time.monotonic() + self._every_s
        last = False
        while not last:
            self._wake.wait(min(_SPANS_S, max(0.0, due - time.monotonic())))
            self._wake.clear()
            last = self._closing
            if last or time.monotonic() >= due:
                due = time.monotonic() + self._every_s
                self._try("metrics", self._export_metrics)
            self._try("traces", self._export_spans)

    def _export_metrics(self) -> bool:
        if self._read is None:
            return True
        data = metrics_data(self._read(), self._who, start_ns=self._start_ns, now_ns=time.time_ns())
        return self._metrics.export(data) is MetricExportResult.SUCCESS

    def _export_spans(self) -> bool:
        while self._ended:
            spans = [self._ended.popleft() for _ in range(min(_SPANS_AT_ONCE, len(self._ended)))]
            if self._spans.export(spans) is not SpanExportResult.SUCCESS:
                return False
        return True

    def _try(self, what: str, export: Callable[[], bool]) -> None:
        session = self._sessions[what]
        session.said = ""
        try:
            done = export()
        except Exception as error:  # noqa: BLE001 - whatever a collector or a library does, the loader goes on
            done, session.said = False, session.said or type(error).__name__
        if done and what in self._failing:
            self._failing.discard(what)
            _log.warning("the collector takes telemetry again", extra={"function": what})
        elif not done and what not in self._failing:
            self._failing.add(what)
            code = session.said or "Unsent"
            _log.warning("telemetry cannot be exported for now", extra={"function": what, "code": code})


def _named(headers: str) -> dict[str, str]:
    """Read headers as OTEL_EXPORTER_OTLP_HEADERS has them. Raises ConfigError."""
    named = dict(parse_env_headers(headers, liberal=True))
    if headers and not named:
        raise ConfigError("telemetry.otlp_headers holds no header", hint="write name=value,name=value")
    return named


class _Session(requests.Session):
    """Keeps what came of the last request as a code; texts of answers and errors may show headers, and go nowhere."""

    said = ""

    def request(self, *args: Any, **options: Any) -> requests.Response:
        """Send a request."""
        try:
            response = super().request(*args, **options)
        except Exception as error:
            self.said = type(error).__name__
            raise
        self.said = f"Http{response.status_code}"
        return response
