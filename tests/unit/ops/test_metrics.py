"""The catalogue of metrics, values, several workers as one, and Prometheus' text format."""

from __future__ import annotations

import itertools
import re
import threading
import time

import pytest

from coatcheck.ops.metrics import CATALOGUE, Metrics, Sample, exposition, merge, outlasts

STAGE, RECEIVED, UP = "coatcheck_stage_seconds", "coatcheck_messages_received_total", "coatcheck_up"


def test_names_follow_the_conventions() -> None:
    for name, metric in CATALOGUE.items():
        assert re.fullmatch(r"coatcheck_[a-z_]+", name)
        assert name.endswith("_total") == (metric.kind == "counter"), name
        assert (metric.kind == "histogram") == bool(metric.buckets), name
        assert list(metric.buckets) == sorted(set(metric.buckets))
        assert metric.help
        assert not metric.help.endswith(".")


@pytest.mark.parametrize(
    ("method", "name", "label"),
    [
        ("add", "coatcheck_no_such_total", ""),
        ("add", "coatcheck_receivers", ""),
        ("add", "coatcheck_rejects_total", ""),
        ("add", RECEIVED, "label"),
        ("set", RECEIVED, ""),
        ("set", UP, ""),
        ("observe", RECEIVED, ""),
        ("observe", STAGE, ""),
    ],
)
def test_what_is_not_in_the_catalogue_is_an_error(method: str, name: str, label: str) -> None:
    metrics = Metrics()
    for _ in range(2):
        with pytest.raises(LookupError):
            getattr(metrics, method)(name, 1.0, label)
    with pytest.raises(LookupError):
        metrics.watch("coatcheck_stage_seconds", lambda: 1.0, "write")
    assert all(value == 0 for _, _, value in metrics.snapshot())


def test_numbers() -> None:
    metrics, kept = Metrics(), [3]
    metrics.add("coatcheck_batches_total")
    metrics.add("coatcheck_batches_total", 2)
    metrics.set(UP, 1, "queue")
    metrics.set(UP, 0, "queue")
    metrics.watch(RECEIVED, lambda: kept[0])
    kept[0] = 4
    found = {(name, label): value for name, label, value in metrics.snapshot()}
    assert (found["coatcheck_batches_total", ""], found[RECEIVED, ""], found[UP, "queue"]) == (3, 4.0, 0)


def test_counters_without_a_label_begin_at_nothing() -> None:
    """What first appears with a value shows no increase to Prometheus."""
    plain = {name for name, metric in CATALOGUE.items() if metric.kind == "counter" and not metric.label}
    assert {name: value for name, _, value in Metrics().snapshot()} == dict.fromkeys(plain, 0)


def test_a_snapshot_beside_threads_that_write() -> None:
    """Many times over, with a thread switch at every chance: nothing breaks."""
    metrics, over = Metrics(), threading.Event()
    names = [name for name, metric in CATALOGUE.items() if metric.kind != "histogram" and metric.label]

    def yielding() -> float:
        time.sleep(0)
        return 1.0

    def write() -> None:
        for number in itertools.count():
            if over.is_set():
                return
            name = names[number % len(names)]
            metrics.watch(name, yielding, f"label {number}")
            metrics.observe(STAGE, 0.1, f"stage {number}")
            time.sleep(0.0005)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for _ in range(20):
            metrics.snapshot()
    finally:
        over.set()
        writer.join()


def test_a_snapshot_stays_as_it_is() -> None:
    metrics = Metrics()
    metrics.observe("coatcheck_batch_messages", 10)
    before = metrics.snapshot()
    metrics.observe("coatcheck_batch_messages", 10)
    assert before != metrics.snapshot()


def test_a_bound_belongs_to_its_bucket() -> None:
    metrics = Metrics()
    for size in (1, 10, 10, 11, 100_000):
        metrics.observe("coatcheck_batch_messages", size)
    lines = exposition({"default": metrics.snapshot()}).splitlines()
    assert 'coatcheck_batch_messages_bucket{pipeline="default",le="1.0"} 1.0' in lines
    assert 'coatcheck_batch_messages_bucket{pipeline="default",le="10.0"} 3.0' in lines
    assert 'coatcheck_batch_messages_bucket{pipeline="default",le="50.0"} 4.0' in lines
    assert 'coatcheck_batch_messages_bucket{pipeline="default",le="10000.0"} 4.0' in lines
    assert 'coatcheck_batch_messages_bucket{pipeline="default",le="+Inf"} 5.0' in lines
    assert 'coatcheck_batch_messages_sum{pipeline="default"} 100032.0' in lines
    assert 'coatcheck_batch_messages_count{pipeline="default"} 5.0' in lines


def test_the_text_format() -> None:
    """The bytes that Prometheus documents ("Exposition formats"); label values are escaped."""
    samples: list[Sample] = [
        (UP, "queue", 1),
        ("coatcheck_rejects_total", 'a"b\\c\nd', 2),
        ("coatcheck_rejects_total", "a", 1.5),
        (RECEIVED, "", 12),
    ]
    assert exposition({"orders": [(RECEIVED, "", 3)], "logins": samples}) == (
        "# HELP coatcheck_messages_received_total messages received, repeated deliveries among them\n"
        "# TYPE coatcheck_messages_received_total counter\n"
        'coatcheck_messages_received_total{pipeline="logins"} 12\n'
        'coatcheck_messages_received_total{pipeline="orders"} 3\n'
        "# HELP coatcheck_rejects_total messages that cannot be rows, known ones among them\n"
        "# TYPE coatcheck_rejects_total counter\n"
        'coatcheck_rejects_total{pipeline="logins",reason="a"} 1.5\n'
        'coatcheck_rejects_total{pipeline="logins",reason="a\\"b\\\\c\\nd"} 2\n'
        "# HELP coatcheck_up whether the component answered when it was last asked\n"
        "# TYPE coatcheck_up gauge\n"
        'coatcheck_up{pipeline="logins",component="queue"} 1\n'
    )
    assert exposition({}) == exposition({"logins": []}) == ""


def test_several_workers_are_one() -> None:
    one, other = Metrics(), Metrics()
    for metrics, received, up, memory in ((one, 5, 1, 70.0), (other, 7, 0, 80.0)):
        metrics.add("coatcheck_batches_total", received)
        metrics.set(UP, up, "queue")
        metrics.set("coatcheck_resident_memory_bytes", memory)
        metrics.observe(STAGE, 0.002, "write")
    other.observe(STAGE, 40.0, "ack")
    merged = {(name, label): value for name, label, value in merge([one.snapshot(), other.snapshot()])}
    assert merged["coatcheck_batches_total", ""] == 12
    assert merged[UP, "queue"] == 0
    assert merged["coatcheck_resident_memory_bytes", ""] == 80
    write, ack = merged[STAGE, "write"], merged[STAGE, "ack"]
    assert isinstance(write, list)
    assert isinstance(ack, list)
    assert (write[1], sum(write[:-1]), write[-1]) == (2, 2, 0.004)
    assert (ack[-2], ack[-1]) == (1, 40.0)
    with pytest.raises(TypeError):
        merge([[(RECEIVED, "", 1)], [(RECEIVED, "", [1.0])]])


def test_what_an_ended_worker_leaves() -> None:
    assert outlasts((RECEIVED, "", 1))
    assert outlasts((STAGE, "write", [1.0]))
    assert not outlasts((UP, "queue", 1))
