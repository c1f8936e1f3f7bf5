"""An OpenTelemetry collector in this process: it takes OTLP over HTTP, decodes it, and may be made to fail."""

from __future__ import annotations

import http.server
import threading
from http import HTTPStatus
from types import TracebackType
from typing import Any, Self

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import KeyValue
from opentelemetry.proto.metrics.v1.metrics_pb2 import HistogramDataPoint, Metric, NumberDataPoint
from opentelemetry.proto.trace.v1.trace_pb2 import Span

Point = NumberDataPoint | HistogramDataPoint


def told(attributes: Any) -> dict[str, Any]:
    """Return attributes as a dictionary."""

    def value(one: KeyValue) -> Any:
        return getattr(one.value, one.value.WhichOneof("value") or "string_value")

    return {one.key: value(one) for one in attributes}


def points(request: ExportMetricsServiceRequest, pipeline: str = "default") -> dict[tuple[str, str], Point]:
    """Return a pipeline's data points of one export by the metric's name and the value of its own label."""
    found: dict[tuple[str, str], Point] = {}
    for metric in metrics(request):
        for point in getattr(metric, metric.WhichOneof("data") or "gauge").data_points:
            attributes = told(point.attributes)
            if attributes.pop("pipeline") != pipeline:
                continue
            key = metric.name, "".join(attributes.values())
            assert key not in found, f"{key} is there twice"
            found[key] = point
    return found


def metrics(request: ExportMetricsServiceRequest) -> list[Metric]:
    """Return the metrics of one export."""
    return [metric for of in request.resource_metrics for scope in of.scope_metrics for metric in scope.metrics]


class Collector:
    """Listens on loopback while its block runs. `status` is what it answers; `bodies` is all that it was sent."""

    def __init__(self) -> None:
        self.status = HTTPStatus.OK
        self.silent = threading.Event()
        self.requests: list[tuple[str, dict[str, str]]] = []
        self.bodies: list[bytes] = []
        self.metrics: list[ExportMetricsServiceRequest] = []
        self.traces: list[ExportTraceServiceRequest] = []
        collector = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                status = collector.take(self.path, {k.lower(): v for k, v in self.headers.items()}, body)
                self.send_response(status)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))

    def __enter__(self) -> Self:
        self._thread.start()
        self.silent.set()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.silent.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def take(self, path: str, headers: dict[str, str], body: bytes) -> HTTPStatus:
        """Take one request; `silent` cleared, it is not answered until it is set again."""
        self.requests.append((path, headers))
        self.bodies.append(body)
        self.silent.wait()
        if self.status is HTTPStatus.OK:
            assert headers["content-type"] == "application/x-protobuf"
            if path == "/v1/metrics":
                self.metrics.append(ExportMetricsServiceRequest.FromString(body))
            else:
                assert path == "/v1/traces"
                self.traces.append(ExportTraceServiceRequest.FromString(body))
        return self.status

    def spans(self) -> list[Span]:
        """Return all spans so far."""
        return [
            span
            for request in self.traces
            for of in request.resource_spans
            for scope in of.scope_spans
            for span in scope.spans
        ]
