"""From the values of the catalogue to what OpenTelemetry calls metrics data: the names stay, units come from them."""

from __future__ import annotations

from collections.abc import Iterable

from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    Gauge,
    Histogram,
    HistogramDataPoint,
    Metric,
    MetricsData,
    NumberDataPoint,
    ResourceMetrics,
    ScopeMetrics,
    Sum,
)
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.util.instrumentation import InstrumentationScope

from coatcheck.ops.metrics import CATALOGUE, ByPipeline, Value, labels_of
from coatcheck.version import __version__

_UNITS = {"seconds": "s", "bytes": "By", "ratio": "1", "messages": "{message}"}
_SCOPE = InstrumentationScope("coatcheck", __version__)


def unit(name: str) -> str:
    """Return the unit of a metric (UCUM), which is the last word of its name; empty if it counts things."""
    return _UNITS.get(name.removesuffix("_total").rpartition("_")[2], "")


def metrics_data(pipelines: ByPipeline, resource: Resource, *, start_ns: int, now_ns: int) -> MetricsData:
    """Return values as they are at `now_ns`; what is counted has been since `start_ns` (both ns since 1970)."""
    by_name: dict[str, list[tuple[dict[str, str], Value]]] = {}
    for pipeline, samples in pipelines.items():
        for name, label, value in samples:
            by_name.setdefault(name, []).append((labels_of(name, pipeline, label), value))
    metrics = [
        Metric(name, metric.help, unit(name), _data(name, by_name[name], start_ns, now_ns))
        for name, metric in CATALOGUE.items()
        if name in by_name
    ]
    scope = ScopeMetrics(_SCOPE, metrics, "")
    return MetricsData([ResourceMetrics(resource, [scope], "")])


def _data(
    name: str, values: Iterable[tuple[dict[str, str], Value]], start_ns: int, now_ns: int
) -> Sum | Gauge | Histogram:
    metric = CATALOGUE[name]
    numbers, histograms = [], []
    for attributes, value in values:
        if isinstance(value, list):
            counts = [int(count) for count in value[:-1]]
            point = HistogramDataPoint(
                attributes, start_ns, now_ns, sum(counts), value[-1], counts, metric.buckets,
                min=None, max=None,  # type: ignore[arg-type]  # nobody keeps them, and the format need not have them
            )  # fmt: skip
            histograms.append(point)
        else:
            numbers.append(NumberDataPoint(attributes, start_ns, now_ns, float(value)))
    if metric.kind == "histogram":
        return Histogram(histograms, AggregationTemporality.CUMULATIVE)
    if metric.kind == "counter":
        return Sum(numbers, AggregationTemporality.CUMULATIVE, is_monotonic=True)
    return Gauge(numbers)
