"""Spans of a batch: what they are called, what hangs on what, and that nothing else gets into them."""

from __future__ import annotations

import time

import msgspec
import pytest
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor
from opentelemetry.trace import SpanKind, StatusCode
from tests.support.builders import a_message

from coatcheck.ops.otlp_spans import ATTRIBUTES, EVENTS, MOST_LINKS, BatchTracer
from coatcheck.pipeline.message import NO_TRACE, Message


class Kept(SpanProcessor):
    """Keeps what has ended."""

    def __init__(self) -> None:
        self.spans: list[ReadableSpan] = []

    def on_end(self, span: ReadableSpan) -> None:
        self.spans.append(span)


def a_tracer(kept: Kept, ratio: float = 1.0) -> BatchTracer:
    queue = "logins"
    return BatchTracer(queue=queue, pipeline="logins", ratio=ratio, resource=Resource({}), processor=kept)


def sent_by(number: int) -> Message:
    return msgspec.structs.replace(a_message(), producer=f"00-{number + 1:032x}-{number + 2:016x}-01")


def test_a_batch_and_its_stages() -> None:
    kept, arrived_ms = Kept(), int(time.time() * 1000) - 500
    trace = a_tracer(kept)(a_message(received_ms=arrived_ms))
    trace.took([a_message()], rejected=0, seconds=0.1)
    trace.took([a_message()], rejected=1, seconds=0.02)
    trace.event("rejected", reason="not_json")
    trace.filled()
    trace.stage("ack", 0.01, messages=2, failed=0)
    trace.end(messages=2)
    *stages, batch = kept.spans
    assert batch.name == "process logins"
    assert (batch.kind, batch.parent, batch.status.status_code) == (SpanKind.CONSUMER, None, StatusCode.UNSET)
    assert batch.start_time == arrived_ms * 1_000_000
    assert batch.attributes == {
        "messaging.system": "aws_sqs",
        "messaging.destination.name": "logins",
        "coatcheck.pipeline": "logins",
        "messaging.operation.name": "process",
        "messaging.operation.type": "process",
        "messaging.batch.message_count": 2,
    }
    assert [(event.name, event.attributes) for event in batch.events] == [
        ("rejected", {"coatcheck.reject.reason": "not_json"})
    ]
    assert [stage.name for stage in stages] == ["receive", "travel", "ack"]
    assert [stage.parent for stage in stages] == [batch.context] * 3
    receive, travel, ack = stages
    assert travel.attributes == {
        "messaging.batch.message_count": 2,
        "coatcheck.messages.rejected": 1,
        "coatcheck.travel.busy_ms": 120,
    }
    assert travel.end_time is not None
    assert travel.start_time is not None
    assert 100e6 <= travel.end_time - travel.start_time < 10e9, "from the first hand-over to the last"
    assert receive.start_time == batch.start_time
    assert ack.attributes is not None
    assert ack.attributes["messaging.operation.type"] == "settle"
    assert trace.ids == {"trace_id": f"{batch.context.trace_id:032x}", "span_id": f"{batch.context.span_id:016x}"}


def test_a_failed_batch_says_so_by_a_code() -> None:
    kept = Kept()
    a_tracer(kept)(a_message()).end(messages=1, error="UnreachableError")
    (batch,) = kept.spans
    assert batch.status.status_code is StatusCode.ERROR
    assert batch.status.description is None
    assert batch.attributes is not None
    assert batch.attributes["error.type"] == "UnreachableError"


def test_links_are_as_many_as_there_are_producers_up_to_a_limit() -> None:
    kept = Kept()
    trace = a_tracer(kept)(a_message())
    trace.took([a_message(), sent_by(1), sent_by(1)], rejected=0, seconds=0.1)
    trace.took([sent_by(2), sent_by(1)], rejected=0, seconds=0.1)
    trace.end()
    assert [(link.context.trace_id, link.context.span_id) for link in kept.spans[0].links] == [(2, 3), (3, 4)]
    assert all(link.context.is_remote and link.context.trace_flags.sampled for link in kept.spans[0].links)
    trace = a_tracer(kept)(a_message())
    trace.took([sent_by(number) for number in range(3 * MOST_LINKS)], rejected=0, seconds=0.1)
    trace.end()
    assert len(kept.spans[1].links) == MOST_LINKS


def test_what_is_not_sampled_is_told_to_nobody() -> None:
    kept = Kept()
    tracer = a_tracer(kept, ratio=0.0)
    trace = tracer(sent_by(1))
    assert trace is NO_TRACE
    assert not trace.ids
    for name in EVENTS:
        trace.event(name, sqlstate="40001")
    trace.took([sent_by(1)], rejected=0, seconds=0.1)
    trace.filled()
    trace.stage("write", 0.1)
    trace.end()
    assert not kept.spans


def test_a_share_is_sampled() -> None:
    tracer = a_tracer(Kept(), ratio=0.5)
    traced = sum(tracer(a_message()) is not NO_TRACE for _ in range(1000))
    assert 350 < traced < 650  # by chance once in 10**20


def test_what_is_not_in_the_lists_is_an_error() -> None:
    trace = a_tracer(Kept())(a_message())
    with pytest.raises(LookupError):
        trace.event("rejected", body="a value")
    with pytest.raises(LookupError):
        trace.event("a value")
    with pytest.raises(LookupError):
        trace.stage("a value", 0.1)
    with pytest.raises(LookupError):
        trace.stage("write", 0.1, user_id="a value")
    with pytest.raises(LookupError):
        trace.end(user_id="a value")
    assert not {"body", "message_id", "user_id"} & ATTRIBUTES.keys()
