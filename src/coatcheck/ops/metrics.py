"""What can be measured about a worker: the catalogue, and the values of this process.

A metric that is not in the catalogue is an error. Nothing here is done for a single message: counts are read where
they are kept anyway (`watch`), the rest is a few dictionary entries a batch. Names and conventions: Prometheus
documentation, "Metric and label naming", "Histograms and summaries".
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

Value = float | list[float]
"""A number; of a histogram the observations in each bucket, those beyond the last, and their sum."""
Sample = tuple[str, str, Value]
"""A metric's name, the value of its label ("" if it has none), and its value."""
ByPipeline = Mapping[str, list[Sample]]
"""The values of several pipelines. A worker has one, and does not name it; outside, every value has its name."""
PIPELINE = "pipeline"
"""The label that every value has outside its worker."""

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_LAG = (0.05, 0.1, 0.2, 0.3, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0, 3600.0)
_SIZES = (1.0, 10.0, 50.0, 100.0, 250.0, 500.0, 750.0, 1000.0, 2500.0, 10_000.0)


_LE = 'le="{}"'


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric; `together` is how the values of several workers become one."""

    kind: Literal["counter", "gauge", "histogram"]
    help: str
    label: str = ""
    buckets: tuple[float, ...] = ()
    together: Literal["sum", "most", "least"] = "sum"


def _counter(text: str, label: str = "") -> Metric:
    return Metric("counter", text, label)


def _gauge(text: str, label: str = "", together: Literal["sum", "most", "least"] = "sum") -> Metric:
    return Metric("gauge", text, label, together=together)


CATALOGUE: dict[str, Metric] = {
    "coatcheck_messages_received_total": _counter("messages received, repeated deliveries among them"),
    "coatcheck_messages_loaded_total": _counter("messages that became rows"),
    "coatcheck_messages_duplicate_total": _counter("messages whose effect was there already"),
    "coatcheck_messages_quarantined_total": _counter("messages that went to the quarantine"),
    "coatcheck_messages_suppressed_total": _counter("messages whose row the table kept out, which was accepted"),
    "coatcheck_messages_acked_total": _counter("messages deleted from the queue"),
    "coatcheck_rejects_total": _counter("messages that cannot be rows, known ones among them", "reason"),
    "coatcheck_ack_failures_total": _counter("messages that could not be deleted and come again"),
    "coatcheck_receives_total": _counter("receives that SQS answered", "result"),
    "coatcheck_sqs_errors_total": _counter("requests that SQS did not answer, or refused", "kind"),
    "coatcheck_lease_extensions_total": _counter("messages whose visibility timeout was extended"),
    "coatcheck_batches_total": _counter("batches that were committed"),
    "coatcheck_database_errors_total": _counter("answers of PostgreSQL that passed, by SQLSTATE", "sqlstate"),
    "coatcheck_vault_entries_total": _counter("originals sealed for the vault, known ones among them"),
    "coatcheck_data_keys_total": _counter("data keys drawn"),
    "coatcheck_key_errors_total": _counter("times the key service gave no data key", "kind"),
    "coatcheck_in_flight_messages": _gauge("messages received and not yet acked, room reserved for receives included"),
    "coatcheck_in_flight_bytes": _gauge("bodies received and not yet acked, room reserved for receives included"),
    "coatcheck_receivers": _gauge("receives under way"),
    "coatcheck_batches_under_way": _gauge("batches being written or acked"),
    "coatcheck_breaker_rejected_ratio": _gauge("share of rejects among the latest messages", together="most"),
    "coatcheck_up": _gauge("whether the component answered when it was last asked", "component", "least"),
    "coatcheck_heartbeat_timestamp_seconds": _gauge("when the event loop was last seen to run", together="least"),
    "coatcheck_receiving_timestamp_seconds": _gauge("when a receive last ended, or had no room", together="least"),
    "coatcheck_last_commit_timestamp_seconds": _gauge("when a batch was last committed", together="most"),
    "coatcheck_start_timestamp_seconds": _gauge("when the worker started", together="least"),
    "coatcheck_resident_memory_bytes": _gauge("memory of the largest worker", together="most"),
    "coatcheck_workers": _gauge("workers that run"),
    "coatcheck_worker_restarts_total": _counter("workers that ended by themselves and were started again"),
    "coatcheck_pipeline_ended": _gauge(
        "whether the pipeline has ended in a way that no restart cures, while others go on", "exit_code", "most"
    ),
    "coatcheck_queue_messages": _gauge("the queue's own approximate counts", "state", "most"),
    "coatcheck_queue_counts_timestamp_seconds": _gauge("when the queue was last asked for them", together="most"),
    "coatcheck_oldest_message_age_seconds": _gauge("age of the oldest message of the latest batch", together="most"),
    "coatcheck_dead_letters": _gauge("messages in the queue's dead-letter queue", together="most"),
    "coatcheck_quarantine_messages": _gauge("messages held in the quarantine", "reason", "most"),
    "coatcheck_reveals": _gauge("requests for originals there have been, and what became of them", "event", "most"),
    "coatcheck_partitions_missing": _gauge(
        "partitions that rows to come will need and that are not there", "table", "most"
    ),
    "coatcheck_certificate_expiry_timestamp_seconds": _gauge(
        "when the certificate of a server ends", "component", "least"
    ),
    "coatcheck_batch_messages": Metric("histogram", "messages in a batch", buckets=_SIZES),
    "coatcheck_stage_seconds": Metric(
        "histogram", "time of a batch in a stage; in travel, of what one receive brought", "stage", _SECONDS
    ),
    "coatcheck_lag_seconds": Metric("histogram", "from send to commit, of the first new message of a batch", "", _LAG),
}


class Metrics:
    """The values of one process. Any thread may take a `snapshot` while others write.

    Counters without a label begin at 0: what first appears with a value shows no increase.
    """

    def __init__(self) -> None:
        self._values: dict[tuple[str, str], float] = {
            (name, ""): 0 for name, metric in CATALOGUE.items() if metric.kind == "counter" and not metric.label
        }
        self._gauges: dict[tuple[str, str], float] = {}
        self._histograms: dict[tuple[str, str], list[float]] = {}
        self._watched: dict[tuple[str, str], Callable[[], float]] = {}

    def add(self, name: str, value: float = 1, label: str = "") -> None:
        """Add to a counter."""
        if (name, label) not in self._values:
            _declared(name, label, "counter")
        self._values[name, label] = self._values.get((name, label), 0) + value

    def set(self, name: str, value: float, label: str = "") -> None:
        """Set a gauge."""
        if (name, label) not in self._gauges:
            _declared(name, label, "gauge")
        self._gauges[name, label] = value

    def observe(self, name: str, value: float, label: str = "") -> None:
        """Put an observation into a histogram."""
        histogram = self._histograms.get((name, label))
        if histogram is None:
            buckets = _declared(name, label, "histogram").buckets
            histogram = self._histograms[name, label] = [0.0] * (len(buckets) + 2)
        histogram[bisect_left(CATALOGUE[name].buckets, value)] += 1
        histogram[-1] += value

    def watch(self, name: str, read: Callable[[], float], label: str = "") -> None:
        """Have a counter or gauge read whenever it is asked for."""
        _declared(name, label, "counter", "gauge")
        self._watched[name, label] = read

    def snapshot(self) -> list[Sample]:
        """Return all values as they are now."""
        watched = {key: float(read()) for key, read in list(self._watched.items())}
        numbers: dict[tuple[str, str], Value] = {**self._values, **self._gauges, **watched}
        histograms = {key: list(value) for key, value in list(self._histograms.items())}
        return [(*key, value) for key, value in {**numbers, **histograms}.items()]


def _declared(name: str, label: str, *kinds: str) -> Metric:
    """Return a metric of the catalogue. Raises LookupError: there is none such."""
    metric = CATALOGUE.get(name)
    if metric is None or metric.kind not in kinds or bool(metric.label) != bool(label):
        raise LookupError(f"{name} with {'a' if label else 'no'} label is no {' or '.join(kinds)} of the catalogue")
    return metric


def outlasts(sample: Sample) -> bool:
    """Tell whether a value still counts when its worker has ended: what was counted does, what was so does not."""
    return CATALOGUE[sample[0]].kind != "gauge"


def merge(snapshots: Iterable[list[Sample]]) -> list[Sample]:
    """Return the values of several workers as those of one."""
    merged: dict[tuple[str, str], Value] = {}
    for name, label, value in (sample for snapshot in snapshots for sample in snapshot):
        before = merged.get((name, label))
        merged[name, label] = value if before is None else _together(CATALOGUE[name], before, value)
    return [(*key, value) for key, value in merged.items()]


def _together(metric: Metric, one: Value, other: Value) -> Value:
    if isinstance(one, list) and isinstance(other, list):
        return [left + right for left, right in zip(one, other, strict=True)]
    if isinstance(one, list) or isinstance(other, list):
        raise TypeError("a histogram and a number")
    return {"sum": one + other, "most": max(one, other), "least": min(one, other)}[metric.together]


def exposition(pipelines: ByPipeline) -> str:
    """Return values in Prometheus' text format (version 0.0.4), in the order of the catalogue."""
    by_name: dict[str, list[tuple[str, str, Value]]] = {}
    for pipeline, samples in pipelines.items():
        for name, label, value in samples:
            by_name.setdefault(name, []).append((pipeline, label, value))
    return "".join(f"{line}\n" for name in CATALOGUE if name in by_name for line in _lines(name, by_name[name]))


def _lines(name: str, values: list[tuple[str, str, Value]]) -> Iterator[str]:
    metric = CATALOGUE[name]
    yield f"# HELP {name} {metric.help}"
    yield f"# TYPE {name} {metric.kind}"
    for pipeline, label, value in sorted(values, key=lambda one: one[:2]):
        labels = [f'{key}="{_escaped(text)}"' for key, text in labels_of(name, pipeline, label).items()]
        if isinstance(value, list):
            yield from _histogram(name, labels, metric.buckets, value)
        else:
            yield f"{name}{_braced(labels)} {value!r}"


def labels_of(name: str, pipeline: str, label: str) -> dict[str, str]:
    """Return the labels that a value of a metric has outside its worker."""
    own = CATALOGUE[name].label
    return {PIPELINE: pipeline} | ({own: label} if own else {})


def _histogram(name: str, labels: list[str], buckets: tuple[float, ...], value: list[float]) -> Iterator[str]:
    seen = 0.0
    for bound, count in zip((*map(repr, buckets), "+Inf"), value[:-1], strict=True):
        seen += count
        yield f"{name}_bucket{_braced([*labels, _LE.format(bound)])} {seen!r}"
    yield f"{name}_sum{_braced(labels)} {value[-1]!r}"
    yield f"{name}_count{_braced(labels)} {seen!r}"


def _braced(labels: list[str]) -> str:
    return f"{{{','.join(labels)}}}"


def _escaped(label: str) -> str:
    return label.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")
