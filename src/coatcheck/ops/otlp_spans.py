"""Spans: one for a batch, from the arrival of its first message to its ack, and one for each of its stages.

Names and attributes follow OpenTelemetry's semantic conventions for messaging and databases where they have a word. A
span holds what the lists here name, and nothing else: counts, codes, the queue's name, and ids of the producers' spans.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.sampling import TraceIdRatioBased
from opentelemetry.trace import (
    Span,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    Tracer,
    format_span_id,
    format_trace_id,
    set_span_in_context,
)

from coatcheck.pipeline.message import NO_TRACE, Message, Trace
from coatcheck.version import __version__

_Told = dict[str, int | str]
_Stages = Mapping[str, tuple[SpanKind, _Told]]
MOST_LINKS = 128
"""Of one span; OpenTelemetry's own default limit. Further producers are not named."""

ATTRIBUTES = {
    "messages": "messaging.batch.message_count",
    "sqlstate": "db.response.status_code",
    "error": "error.type",
    "reason": "coatcheck.reject.reason",
    "busy_ms": "coatcheck.travel.busy_ms",
    "rejected": "coatcheck.messages.rejected",
    "loaded": "coatcheck.messages.loaded",
    "duplicates": "coatcheck.messages.duplicates",
    "quarantined": "coatcheck.messages.quarantined",
    "refused": "coatcheck.messages.refused",
    "suppressed": "coatcheck.messages.suppressed",
    "failed": "coatcheck.messages.not_acked",
}
"""All that may be told of a stage or an event, and the attribute that it becomes."""

EVENTS = frozenset({"rejected", "again", "bisected", "refused"})


class BatchTracer:
    """Begins the traces of a pipeline's batches from `queue` (its name), a share of `ratio` of them.

    It is a `pipeline.ports.Tracer`. What has ended goes to `processor`.
    """

    def __init__(
        self, *, queue: str, pipeline: str, ratio: float, resource: Resource, processor: SpanProcessor
    ) -> None:
        provider = TracerProvider(TraceIdRatioBased(ratio), resource, shutdown_on_exit=False)
        provider.add_span_processor(processor)
        self._tracer = provider.get_tracer("coatcheck", __version__)
        self._name = f"process {queue}"
        self._queue: _Told = {"messaging.system": "aws_sqs", "messaging.destination.name": queue}
        self._pipeline: _Told = {"coatcheck.pipeline": pipeline}
        self._stages: _Stages = {
            "receive": (SpanKind.INTERNAL, {}),
            "travel": (SpanKind.INTERNAL, {}),
            "write": (SpanKind.CLIENT, {"db.system.name": "postgresql"}),
            "ack": (SpanKind.CLIENT, self._queue | _operation("ack", "settle")),
        }

    def __call__(self, first: Message) -> Trace:
        """Begin the trace of a batch with its first message, or one that tells nothing if it is not sampled."""
        began_ns = first.received_ms * 1_000_000 or time.time_ns()
        attributes = self._queue | self._pipeline | _operation("process", "process")
        span = self._tracer.start_span(self._name, None, SpanKind.CONSUMER, attributes, start_time=began_ns)
        return _BatchTrace(self._tracer, span, began_ns, self._stages) if span.is_recording() else NO_TRACE


class _BatchTrace:
    """The trace of one batch that is sampled."""

    def __init__(self, tracer: Tracer, span: Span, began_ns: int, stages: _Stages) -> None:
        self._tracer, self._span, self._began_ns, self._stages = tracer, span, began_ns, stages
        self._here = set_span_in_context(span)
        self._linked: set[str] = set()
        self._travel: list[tuple[int, int]] = []
        self._taken = self._rejected = 0
        context = span.get_span_context()
        self.ids = {"trace_id": format_trace_id(context.trace_id), "span_id": format_span_id(context.span_id)}

    def took(self, messages: Sequence[Message], *, rejected: int, seconds: float) -> None:
        """Count messages, and link to the spans that sent them; many may come from one."""
        now_ns = time.time_ns()
        self._travel.append((now_ns - int(seconds * 1e9), now_ns))
        self._taken += len(messages)
        self._rejected += rejected
        for message in messages:
            producer = message.producer
            if producer is None or producer in self._linked:
                continue
            if len(self._linked) == MOST_LINKS:
                return
            self._linked.add(producer)
            self._span.add_link(_context(producer))

    def filled(self) -> None:
        """Add the spans of what filled the batch: one for all of its hand-overs, of which there may be a hundred."""
        self._add("receive", self._began_ns, time.time_ns(), {"messages": self._taken})
        busy_ms = sum(end_ns - start_ns for start_ns, end_ns in self._travel) // 1_000_000
        told = {"messages": self._taken, "rejected": self._rejected, "busy_ms": busy_ms}
        self._add("travel", self._travel[0][0], self._travel[-1][1], told)

    def stage(self, name: str, seconds: float, **told: int | str) -> None:
        """Add a span that ends now."""
        now_ns = time.time_ns()
        self._add(name, now_ns - int(seconds * 1e9), now_ns, told)

    def _add(self, name: str, start_ns: int, end_ns: int, told: Mapping[str, int | str]) -> None:
        kind, attributes = self._stages[name]
        span = self._tracer.start_span(name, self._here, kind, attributes | _attributes(told), start_time=start_ns)
        span.end(end_ns)

    def event(self, name: str, **told: int | str) -> None:
        """Add an event. Raises LookupError: it is none of EVENTS."""
        if name not in EVENTS:
            raise LookupError(f"{name} is no event of a batch")
        self._span.add_event(name, _attributes(told))

    def end(self, **told: int | str) -> None:
        """End the batch's span."""
        self._span.set_attributes(_attributes(told))
        if "error" in told:
            self._span.set_status(Status(StatusCode.ERROR))
        self._span.end()


def _operation(name: str, kind: str) -> _Told:
    return {"messaging.operation.name": name, "messaging.operation.type": kind}


def _attributes(told: Mapping[str, int | str]) -> _Told:
    """Return what is told as attributes. Raises LookupError: one of them is not of the list."""
    return {ATTRIBUTES[name]: value for name, value in told.items()}


def _context(producer: str) -> SpanContext:
    _, trace_id, span_id, flags = producer.split("-")
    return SpanContext(int(trace_id, 16), int(span_id, 16), is_remote=True, trace_flags=TraceFlags(int(flags, 16)))
