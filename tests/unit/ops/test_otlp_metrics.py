"""The catalogue's values as OpenTelemetry's: every one of them, with the same totals as for Prometheus."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.exporter.otlp.proto.common.metrics_encoder import encode_metrics
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.metrics.v1.metrics_pb2 import AggregationTemporality
from opentelemetry.sdk.resources import Resource
from tests.support.collector import metrics, points

from coatcheck.ops.metrics import CATALOGUE, Metric, Metrics, Sample, Value, merge
from coatcheck.ops.otlp_metrics import metrics_data, unit

START_NS, NOW_NS = 1_700_000_000_000_000_000, 1_700_000_060_000_000_000
NUMBERS = st.floats(0, 1e15) | st.integers(0, 2**53)


def encoded(samples: list[Sample], **others: list[Sample]) -> ExportMetricsServiceRequest:
    """Return what a collector reads of one pipeline, and of others by name."""
    data = metrics_data(
        {"default": samples} | others, Resource({"service.name": "here"}), start_ns=START_NS, now_ns=NOW_NS
    )
    request = ExportMetricsServiceRequest()
    request.ParseFromString(encode_metrics(data).SerializeToString())
    return request


def a_value(metric: Metric) -> st.SearchStrategy[Value]:
    if metric.kind != "histogram":
        return NUMBERS
    count = len(metric.buckets) + 1
    counts = st.lists(st.integers(0, 10**9).map(float), min_size=count, max_size=count)
    return st.tuples(counts, st.floats(0, 1e12)).map(lambda both: [*both[0], both[1]])


@st.composite
def snapshots(draw: st.DrawFn) -> list[Sample]:
    samples: list[Sample] = []
    for name in draw(st.lists(st.sampled_from(sorted(CATALOGUE)), unique=True)):
        metric = CATALOGUE[name]
        labels = draw(st.lists(st.text(min_size=1), unique=True, max_size=3)) if metric.label else [""]
        samples += [(name, label, draw(a_value(metric))) for label in labels]
    return draw(st.permutations(samples))


@given(snapshots())
def test_whatever_there_is_goes_out_and_the_totals_agree(samples: list[Sample]) -> None:
    request = encoded(samples)
    found = points(request)
    assert found.keys() == {(name, label) for name, label, _ in samples}
    for name, label, value in samples:
        point = found[name, label]
        assert point.time_unix_nano == NOW_NS
        if isinstance(value, list):
            assert list(point.bucket_counts) == value[:-1]
            assert (point.count, point.sum) == (sum(value[:-1]), value[-1])
            assert tuple(point.explicit_bounds) == CATALOGUE[name].buckets
            assert not [field for field, _ in point.ListFields() if field.name in ("min", "max")]
        else:
            assert point.as_double == float(value)
    for metric in metrics(request):
        kind = CATALOGUE[metric.name].kind
        assert metric.WhichOneof("data") == {"counter": "sum", "gauge": "gauge", "histogram": "histogram"}[kind]
        assert metric.description == CATALOGUE[metric.name].help
        if kind == "counter":
            assert metric.sum.is_monotonic
            assert metric.sum.aggregation_temporality == AggregationTemporality.AGGREGATION_TEMPORALITY_CUMULATIVE
            assert {point.start_time_unix_nano for point in metric.sum.data_points} == {START_NS}
        if kind == "histogram":
            assert metric.histogram.aggregation_temporality == AggregationTemporality.AGGREGATION_TEMPORALITY_CUMULATIVE
            assert {point.start_time_unix_nano for point in metric.histogram.data_points} == {START_NS}


def test_an_observation_on_a_bound_is_in_the_bucket_below_it() -> None:
    """Both formats count values up to and with a bucket's upper bound."""
    values = Metrics()
    for observed in (0.9, 1.0, 1.1, 1e9):
        values.observe("coatcheck_batch_messages", observed)
    point = points(encoded(values.snapshot()))["coatcheck_batch_messages", ""]
    assert list(point.bucket_counts) == [2, 1, *[0] * (len(point.explicit_bounds) - 2), 1]
    assert math.isclose(point.sum, 1e9 + 3)


def test_several_workers_are_one() -> None:
    one, other = Metrics(), Metrics()
    for values, count in ((one, 3), (other, 4)):
        values.add("coatcheck_batches_total", count)
        values.observe("coatcheck_stage_seconds", 0.02, "write")
    found = points(encoded(merge([one.snapshot(), other.snapshot()])))
    assert found["coatcheck_batches_total", ""].as_double == 7
    assert found["coatcheck_stage_seconds", "write"].count == 2


def test_pipelines_are_told_apart() -> None:
    one, other = Metrics(), Metrics()
    one.add("coatcheck_rejects_total", 3, "not_json")
    other.add("coatcheck_rejects_total", 4, "not_json")
    request = encoded(one.snapshot(), orders=other.snapshot())
    key = "coatcheck_rejects_total", "not_json"
    assert points(request)[key].as_double == 3
    assert points(request, "orders")[key].as_double == 4


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("coatcheck_stage_seconds", "s"),
        ("coatcheck_resident_memory_bytes", "By"),
        ("coatcheck_breaker_rejected_ratio", "1"),
        ("coatcheck_in_flight_messages", "{message}"),
        ("coatcheck_messages_loaded_total", ""),
        ("coatcheck_workers", ""),
    ],
)
def test_units_are_the_last_word_of_a_name(name: str, expected: str) -> None:
    assert name in CATALOGUE
    assert unit(name) == expected
