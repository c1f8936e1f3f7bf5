"""The export's thread between a worker and a collector: a deadline at the end, a word when something is wrong."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from http import HTTPStatus

import pytest
from tests.support.collector import Collector, points
from tests.support.process import wait_until
from tests.support.said import said

from coatcheck import telemetry
from coatcheck.config import Config
from coatcheck.errors import ConfigError
from coatcheck.ops import otlp
from coatcheck.ops.metrics import Metrics, Sample
from coatcheck.pipeline.ports import untraced

BLOCKED = "import sys; sys.modules['opentelemetry'] = None; from coatcheck.cli import main; main()"
WITHOUT = """
import sys
from coatcheck import app, supervisor, telemetry, worker
from coatcheck.config import Config
from coatcheck.pipeline.ports import untraced

with telemetry.exporting(Config(), read=dict) as tracer:
    assert tracer is untraced
print(sorted({name.split(".")[0] for name in sys.modules} & {"opentelemetry", "requests", "google"}))
"""


@pytest.fixture(autouse=True)
def _nothing_of_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_HEADERS", "OTEL_SDK_DISABLED"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector() as running:
        yield running


def an_export(collector: Collector, read: Callable[[], list[Sample]], *, headers: str = "") -> otlp.Export:
    return otlp.Export(
        endpoint=f"{collector.url}/",
        headers=headers,
        read=lambda: {"default": read()},
        every_s=0.05,
        who=otlp.resource(),
    )


def test_the_last_values_go_out_at_the_end(collector: Collector) -> None:
    metrics = Metrics()
    with an_export(collector, metrics.snapshot):
        wait_until(lambda: len(collector.metrics) > 1, "some exports")
        metrics.add("coatcheck_batches_total", 5)
    assert points(collector.metrics[-1])["coatcheck_batches_total", ""].as_double == 5


def test_a_silent_collector_holds_nobody_up_for_long(collector: Collector, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(otlp, "_LAST_S", 0.2)
    collector.silent.clear()
    export = an_export(collector, Metrics().snapshot)
    with said() as records:
        with export:
            wait_until(lambda: collector.requests, "an export is under way")
            began = time.monotonic()
        assert time.monotonic() - began < 5
    assert [record.getMessage() for record in records] == ["the last telemetry could not be exported in time"]
    collector.silent.set()
    export._thread.join()


def test_a_pause_between_two_tries_ends_with_the_block(collector: Collector, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(otlp, "_LAST_S", 0.01)
    collector.status = HTTPStatus.SERVICE_UNAVAILABLE
    export = an_export(collector, Metrics().snapshot)
    with export:
        wait_until(lambda: collector.requests, "a try")
    export._thread.join(5)
    assert not export._thread.is_alive()


def test_what_goes_wrong_is_told_once_and_in_no_words_of_others(collector: Collector) -> None:
    collector.status = HTTPStatus.FORBIDDEN
    with said() as records, an_export(collector, Metrics().snapshot, headers="authorization=a%20value"):
        wait_until(lambda: len(collector.requests) > 2, "it goes on trying")
    assert [record.getMessage() for record in records] == ["telemetry cannot be exported for now"]
    assert (records[0].__dict__["function"], records[0].__dict__["code"]) == ("metrics", "Http403")
    assert collector.requests[0][1]["authorization"] == "a value"


def test_an_error_of_ones_own_ends_no_export(collector: Collector) -> None:
    broken = [ValueError("a value"), ValueError("a value")]

    def read() -> list[Sample]:
        if broken:
            raise broken.pop()
        return []

    with said() as records, an_export(collector, read):
        wait_until(lambda: collector.metrics, "it goes on")
    assert [(record.getMessage(), record.__dict__.get("code")) for record in records] == [
        ("telemetry cannot be exported for now", "ValueError"),
        ("the collector takes telemetry again", None),
    ]


def test_headers_that_are_none(collector: Collector) -> None:
    with pytest.raises(ConfigError, match="holds no header"):
        an_export(collector, Metrics().snapshot, headers="Bearer a value")


def test_switched_off_nothing_is_imported() -> None:
    done = subprocess.run([sys.executable, "-c", WITHOUT], capture_output=True, text=True, timeout=60, check=False)
    assert (done.stdout, done.stderr) == ("[]\n", "")


def test_without_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COATCHECK_TELEMETRY__OTLP_ENDPOINT", "http://127.0.0.1:1")
    for command in (["run"], ["run", "--workers", "2"], ["run", "--place", "0"]):
        done = subprocess.run(
            [sys.executable, "-c", BLOCKED, *command], capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 2
        assert done.stderr == (
            "coatcheck: error: [telemetry] otlp_endpoint needs packages that are not installed\n"
            "coatcheck: hint: pip install 'coatcheck[otel]'\n"
        )
    monkeypatch.delenv("COATCHECK_TELEMETRY__OTLP_ENDPOINT")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.setitem(sys.modules, "coatcheck.ops.otlp", None)
    monkeypatch.delattr("coatcheck.ops.otlp")
    with said() as records, telemetry.exporting(Config(), read=dict) as tracer:
        assert tracer is untraced
    assert [record.getMessage() for record in records] == [
        "OTEL_EXPORTER_OTLP_ENDPOINT is set, but coatcheck[otel] is not installed: nothing is exported"
    ]


def test_check_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    config = Config.model_validate({"telemetry": {"otlp_endpoint": "http://127.0.0.1:1"}})
    telemetry.check(config)
    telemetry.check(Config())
    monkeypatch.setitem(sys.modules, "coatcheck.ops.otlp", None)
    monkeypatch.delattr("coatcheck.ops.otlp")
    with pytest.raises(ConfigError, match="not installed"):
        telemetry.check(config)
