"""The installed command exports metrics and traces to a collector that speaks OTLP, and loads on when there is none."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from http import HTTPStatus
from typing import Any

import pytest
from opentelemetry.proto.metrics.v1.metrics_pb2 import HistogramDataPoint
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from tests.support.canaries import canary, nowhere
from tests.support.collector import Collector, points, told
from tests.support.fix_servers import BAD, LoginDatabase, Queue, login, logins
from tests.support.process import Command, wait_until

W3C = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
XRAY = "Root=1-5759e988-bd862e3fe1be46a994272793;Parent=53995c3f42cd8ad8;Sampled=1"
STAGES = {"receive", "travel", "write", "ack"}


@pytest.fixture
def collector(command: Command) -> Iterator[Collector]:
    with Collector() as running:
        command.set(TELEMETRY__OTLP_ENDPOINT=running.url, TELEMETRY__SAMPLE_RATIO=1, LOG__FORMAT="json")
        yield running


def send(queue: Queue, body: str, *, traceparent: str = "", xray: str = "", **others: str) -> None:
    attributes = {"traceparent": traceparent, **others} if traceparent else others
    queue.call(
        "SendMessage",
        QueueUrl=queue.url,
        MessageBody=body,
        MessageAttributes={name: {"DataType": "String", "StringValue": text} for name, text in attributes.items()},
        MessageSystemAttributes={"AWSTraceHeader": {"DataType": "String", "StringValue": xray}} if xray else {},
    )


def exported(collector: Collector) -> dict[tuple[str, str], float]:
    """The last values of all metrics; of histograms the number of observations."""
    found = points(collector.metrics[-1]).items()
    return {key: point.count if isinstance(point, HistogramDataPoint) else point.as_double for key, point in found}


def agree(collector: Collector, counts: dict[str, Any]) -> None:
    """Hold that the last metrics are what the command has printed."""
    last = exported(collector)
    names = {"duplicates": "duplicate", "rejected": "quarantined"}
    for name in ("received", "loaded", "duplicates", "rejected", "acked"):
        assert last[f"coatcheck_messages_{names.get(name, name)}_total", ""] == counts[name], name


def roots(spans: list[Span]) -> list[Span]:
    return [span for span in spans if not span.parent_span_id]


def test_metrics_and_traces_of_a_run(
    command: Command, queue: Queue, login_database: LoginDatabase, collector: Collector
) -> None:
    login_database.execute("ALTER TABLE user_logins ADD CHECK (device_type <> 'refused')")
    queue.send([*logins(60), *(BAD % number for number in range(7)), login(90, device_type="refused")])
    send(queue, login(100), traceparent=W3C)
    send(queue, login(101), traceparent=W3C)
    send(queue, login(102), xray=XRAY)
    send(queue, login(103), traceparent="00-not-a-trace")
    command.environment["OTEL_SERVICE_NAME"] = "till"
    command.environment["OTEL_RESOURCE_ATTRIBUTES"] = "deployment.environment.name=test,a=b"
    counts = command.drain()
    assert (counts["loaded"], counts["rejected"]) == (64, 8)
    agree(collector, counts)
    last = exported(collector)
    assert last["coatcheck_rejects_total", "missing_field"] == 7
    assert last["coatcheck_rejects_total", "refused_by_database"] == 1
    (resource,) = {told(one.resource.attributes)["service.name"] for one in collector.metrics[-1].resource_metrics}
    assert resource == "till"
    who = told(collector.traces[0].resource_spans[0].resource.attributes)
    assert (who["service.name"], who["deployment.environment.name"], who["a"]) == ("till", "test", "b")

    spans = collector.spans()
    assert sum(told(root.attributes)["messaging.batch.message_count"] for root in roots(spans)) == counts["received"]
    for root in roots(spans):
        assert (root.name, root.kind) == (f"process {queue.name}", Span.SPAN_KIND_CONSUMER)
        assert told(root.attributes)["messaging.destination.name"] == queue.name
        children = [span for span in spans if span.parent_span_id == root.span_id]
        assert {child.name for child in children} == STAGES
        assert {child.trace_id for child in children} == {root.trace_id}
        for child in children:
            assert root.start_time_unix_nano <= child.start_time_unix_nano + 1_000_000
            assert child.end_time_unix_nano <= root.end_time_unix_nano
        assert root.end_time_unix_nano > root.start_time_unix_nano
    assert len(spans) == len(roots(spans)) + sum(bool(span.parent_span_id) for span in spans)
    loaded = [told(span.attributes).get("coatcheck.messages.loaded", 0) for span in spans]
    assert sum(loaded) == counts["loaded"]
    links = {(link.trace_id.hex(), link.span_id.hex()) for root in roots(spans) for link in root.links}
    assert links == {
        ("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"),
        ("5759e988bd862e3fe1be46a994272793", "53995c3f42cd8ad8"),
    }
    events = [(event.name, told(event.attributes)) for root in roots(spans) for event in root.events]
    assert events.count(("rejected", {"coatcheck.reject.reason": "missing_field"})) == 7
    assert events.count(("refused", {"db.response.status_code": "23514"})) == 1
    assert any(name == "bisected" for name, _ in events)


def test_two_workers_are_exported_once_and_each_traces_its_own(
    command: Command, queue: Queue, collector: Collector
) -> None:
    queue.send(logins(400))
    counts = command("run", "--drain", "--workers", "2", "--json").json()
    assert counts["loaded"] == 400
    agree(collector, counts)
    assert len({told(of.resource.attributes)["service.instance.id"]
                for export in collector.metrics for of in export.resource_metrics}) == 1  # fmt: skip
    spans = collector.spans()
    assert sum(told(root.attributes)["messaging.batch.message_count"] for root in roots(spans)) == 400


@pytest.mark.parametrize("how", ["refuses", "fails", "is silent"])
def test_a_collector_that_is_away_changes_nothing(
    command: Command, queue: Queue, collector: Collector, how: str
) -> None:
    queue.send(logins(50))
    if how == "refuses":
        with socket.create_server(("127.0.0.1", 0)) as free:
            command.set(TELEMETRY__OTLP_ENDPOINT=f"http://127.0.0.1:{free.getsockname()[1]}")
    elif how == "fails":
        collector.status = HTTPStatus.INTERNAL_SERVER_ERROR
    else:
        collector.silent.clear()
    began = time.monotonic()
    done = command("run", "--drain", "--json", OTEL_EXPORTER_OTLP_TIMEOUT="60")
    took = time.monotonic() - began
    assert done.json()["loaded"] == done.json()["acked"] == 50
    assert took < done.json()["seconds"] + 20, "start-up, and three seconds for the last export"
    logged = [json.loads(line) for line in done.err.splitlines()]
    said = [(entry["message"], entry.get("coatcheck", {}).get("function")) for entry in logged]
    assert said, "it is told"
    assert len(said) == len(set(said)), "once"
    assert {message for message, _ in said} <= {
        "coatcheck is starting",
        "telemetry cannot be exported for now",
        "the last telemetry could not be exported in time",
    }


def test_what_is_logged_of_a_batch_names_its_trace(
    command: Command, queue: Queue, login_database: LoginDatabase, collector: Collector
) -> None:
    login_database.execute(
        """
        CREATE SEQUENCE tries;
        CREATE FUNCTION fail_first() RETURNS trigger LANGUAGE plpgsql AS $$
            BEGIN
                IF nextval('tries') < 3 THEN RAISE EXCEPTION 'not yet' USING ERRCODE = '40001'; END IF;
                RETURN NEW;
            END $$;
        CREATE TRIGGER fail_first BEFORE INSERT ON user_logins FOR EACH STATEMENT EXECUTE FUNCTION fail_first();
        """
    )
    queue.send(logins(5))
    done = command("run", "--drain")
    logged = [json.loads(line) for line in done.err.splitlines()]
    (outage,) = [entry for entry in logged if entry["message"] == "the database refuses a batch for now"]
    (root,) = [root for root in roots(collector.spans()) if root.trace_id.hex() == outage["trace.id"]]
    assert outage["span.id"] == root.span_id.hex()
    assert outage["coatcheck"]["sqlstate"] == "40001"
    assert ("again", {"db.response.status_code": "40001"}) in [(e.name, told(e.attributes)) for e in root.events]


def test_no_value_of_a_message_goes_out(
    command: Command, queue: Queue, login_database: LoginDatabase, collector: Collector
) -> None:
    login_database.execute("ALTER TABLE user_logins ADD CHECK (device_type <> 'refused')")
    words = {canary() for _ in range(400)}
    rest = iter(sorted(words))

    def full(**fields: str) -> str:
        return login(1, **({"user_id": next(rest), "device_id": next(rest), "note": next(rest)} | fields))

    for place in range(12):
        state = {"tracestate": f"{next(rest)}={next(rest)}", "baggage": f"user={next(rest)}", next(rest): next(rest)}
        header = f"{XRAY};Self={next(rest)}" if place % 2 else next(rest)
        parent = (W3C, f"01{W3C[2:]}-{next(rest)}", next(rest), f"{W3C}{next(rest)}")[place % 4]
        send(queue, full(), traceparent=parent, xray=header, **state)
        send(queue, full(ip=next(rest)), traceparent=parent, **state)
        send(queue, full(device_type="refused"), traceparent=parent)
        send(queue, next(rest), traceparent=parent)
    done = command("-v", "run", "--drain", "--json")
    assert (done.json()["loaded"], done.json()["rejected"]) == (12, 36)
    assert any(root.links for root in roots(collector.spans()))
    sent = {f"export {n}": body.decode("latin-1") for n, body in enumerate(collector.bodies)}
    nowhere(words, sent | {"stderr": done.err, "stdout": done.out})


def test_switched_on_by_opentelemetrys_own_variables(command: Command, queue: Queue, collector: Collector) -> None:
    queue.send(logins(3))
    del command.environment["COATCHECK_TELEMETRY__OTLP_ENDPOINT"]
    command.environment["OTEL_EXPORTER_OTLP_ENDPOINT"] = collector.url
    command.environment["OTEL_EXPORTER_OTLP_HEADERS"] = "x-key=open%20sesame"
    counts = command.drain()
    agree(collector, counts)
    assert {headers["x-key"] for _, headers in collector.requests} == {"open sesame"}
    before = len(collector.requests)
    command("run", "--drain", OTEL_SDK_DISABLED="true")
    assert len(collector.requests) == before


def test_a_queue_is_told_by_its_name(command: Command, queue: Queue, collector: Collector) -> None:
    """An ARN holds an account, and a URL a host."""
    queue.send(
        logins(1),
    )
    command.set(SOURCE__QUEUE=f"arn:aws:sqs:us-east-1:000000000000:{queue.name}")
    assert command.drain()["loaded"] == 1
    (root,) = roots(collector.spans())
    assert root.name == f"process {queue.name}"
    assert "arn:" not in str(root)


def test_headers_are_a_secret(command: Command, queue: Queue, collector: Collector) -> None:
    queue.send(logins(3))
    key = canary()
    command.set(TELEMETRY__OTLP_HEADERS="env:COLLECTOR_KEY", TELEMETRY__SAMPLE_RATIO=0)
    collector.status = HTTPStatus.UNAUTHORIZED
    done = command("-v", "run", "--drain", COLLECTOR_KEY=f"authorization=Bearer {key}")
    assert {path: headers["authorization"] for path, headers in collector.requests} == {"/v1/metrics": f"Bearer {key}"}
    assert "Http401" in done.err
    shown = command("config", "show", COATCHECK_TELEMETRY__OTLP_HEADERS=f"authorization={key}")
    assert 'otlp_headers = "********"' in shown.out
    nowhere({key}, {"stderr": done.err, "shown": shown.out})


def test_a_running_worker_exports_again_and_again(command: Command, queue: Queue, collector: Collector) -> None:
    command.set(TELEMETRY__METRICS_SECONDS=1, SOURCE__WAIT_SECONDS=1)
    running = command.start("run")
    wait_until(lambda: len(collector.metrics) >= 1, "the first export")
    queue.send(logins(5))
    acked = "coatcheck_messages_acked_total", ""
    wait_until(lambda: exported(collector).get(acked) == 5, "they are acked, and it is told")
    starts = {points(export)[acked].start_time_unix_nano for export in collector.metrics}
    assert len(starts) == 1, "counters go on"
    wait_until(collector.spans, "spans are exported while it runs")
    collector.status = HTTPStatus.INTERNAL_SERVER_ERROR
    running.said("telemetry cannot be exported for now")
    collector.status = HTTPStatus.OK
    running.said("the collector takes telemetry again")
    running.signal(15)
    assert running.wait().code == 0
