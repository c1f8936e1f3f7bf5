"""Alerts, runbooks and dashboard against the catalogue, promtool, and a real Prometheus that scrapes a worker."""

from __future__ import annotations

import http.client
import json
import re
import shutil
import socket
import subprocess
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.support.debian_packages import PATH
from tests.support.fix_servers import BAD, LoginDatabase, Queue, logins
from tests.support.process import Command, wait_until

from coatcheck.ops.metrics import CATALOGUE

ROOT = Path(__file__).parents[2]
RULES = ROOT / "deploy" / "prometheus"
RUNBOOKS = ROOT / "docs" / "runbooks"
DASHBOARD = json.loads((ROOT / "deploy" / "grafana" / "coatcheck.json").read_text())
QUERIES = [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]
ALERTS = re.findall(r"- alert: (\w+)\n +expr: >-\n +(.+)\n", (RULES / "alerts.yml").read_text())
PARTS = ("_bucket", "_sum", "_count")


def program(name: str) -> str:
    found = shutil.which(name, path=PATH)
    if found is None:
        pytest.skip(f"no {name} here (make setup-debian)")
    return found


def filled(query: str) -> str:
    """Return a query of the dashboard as Grafana sends it."""
    return query.replace("$__rate_interval", "1m").replace("$pipeline", ".*")


def named(query: str) -> set[str]:
    """Return the metrics of a query that are none of the catalogue's."""
    found = re.findall(r"\bcoatcheck_[a-z0-9_]+", query)
    known = {name + part for name, metric in CATALOGUE.items() for part in PARTS if metric.kind == "histogram"}
    return set(found) - known - {name for name, metric in CATALOGUE.items() if metric.kind != "histogram"}


@pytest.mark.parametrize("query", [*QUERIES, *(expr for _, expr in ALERTS)])
def test_a_query_names_metrics_of_the_catalogue_only(query: str) -> None:
    assert "coatcheck" in query
    assert not named(query)


@pytest.mark.parametrize("query", [*QUERIES, *(expr for _, expr in ALERTS)])
def test_no_query_adds_up_pipelines(query: str) -> None:
    """What is well would hide what is ill."""
    merged = re.findall(r"\b(?:sum|max|min|avg|count)\b(?! by \([^)]*\bpipeline\b)(?!_over_time)", query)
    assert not merged


def test_the_dashboard_shows_the_pipelines_that_are_chosen() -> None:
    (chosen,) = [each for each in DASHBOARD["templating"]["list"] if each["name"] == "pipeline"]
    assert (chosen["multi"], chosen["includeAll"], chosen["allValue"]) == (True, True, ".*")
    assert not named(chosen["definition"])
    for panel in DASHBOARD["panels"]:
        for target in panel["targets"]:
            metrics = re.findall(r"\bcoatcheck_[a-z0-9_]+", target["expr"])
            assert target["expr"].count('{pipeline=~"$pipeline"') == len(metrics), target["expr"]
            assert "{{pipeline}}" in target["legendFormat"]


def test_every_runbook_speaks_of_the_pipeline_that_its_alert_names() -> None:
    for name, expr in ALERTS:
        if "pipeline" in expr or "coatcheck_" in expr:
            assert "pipeline" in (RUNBOOKS / f"{name}.md").read_text(), name


def test_every_alert_has_a_runbook_and_every_runbook_an_alert() -> None:
    assert len(ALERTS) > 12
    assert {path.stem for path in RUNBOOKS.glob("*.md")} == {name for name, _ in ALERTS}


def test_every_metric_that_workers_have_is_on_the_dashboard_or_in_an_alert() -> None:
    said = " ".join([*QUERIES, *(expr for _, expr in ALERTS)])
    unseen = {name for name in CATALOGUE if name not in said}
    assert unseen == {
        "coatcheck_last_commit_timestamp_seconds",
        "coatcheck_queue_counts_timestamp_seconds",
    }


def test_promtool_runs_the_tests_of_the_alerts() -> None:
    for command in (("check", "rules", "alerts.yml"), ("test", "rules", "alerts_test.yml")):
        done = subprocess.run(
            [program("promtool"), *command], cwd=RULES, capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
    tested = set(re.findall(r"alertname: (\w+)", (RULES / "alerts_test.yml").read_text()))
    assert tested == {name for name, _ in ALERTS}
    one_of_two = set(re.findall(r"name: (\w+) fires for one of two pipelines", (RULES / "alerts_test.yml").read_text()))
    assert one_of_two == tested - {"CoatcheckDown"}


class Prometheus:
    """A Prometheus of one's own, asked over HTTP."""

    def __init__(self, port: int) -> None:
        self.port = port

    def get(self, path: str, **query: str) -> Any:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            connection.request("GET", f"/api/v1/{path}?{urllib.parse.urlencode(query)}")
            response = connection.getresponse()
            return json.loads(response.read())
        except (OSError, ValueError):
            return {"status": "away", "data": {}}
        finally:
            connection.close()

    def value(self, query: str) -> float | None:
        """Return the value of a query that gives one, None if it gives none."""
        result = self.get("query", query=query)["data"].get("result")
        return float(result[0]["value"][1]) if result else None


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def prometheus(command: Command, tmp_path: Path) -> Iterator[Prometheus]:
    """A Prometheus with our rules that scrapes the command every second."""
    port, worker = free_port(), free_port()
    command.set(METRICS__LISTEN=f"127.0.0.1:{worker}", SOURCE__WAIT_SECONDS=1)
    shutil.copy(RULES / "alerts.yml", tmp_path)
    ours = (RULES / "prometheus.yml").read_text().replace("coatcheck:9464", f"127.0.0.1:{worker}").replace("15s", "1s")
    (tmp_path / "prometheus.yml").write_text(ours)
    with subprocess.Popen(
        [
            *(program("prometheus"), "--config.file=prometheus.yml", "--storage.tsdb.path=data"),
            f"--web.listen-address=127.0.0.1:{port}",
        ],
        cwd=tmp_path,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        try:
            yield Prometheus(port)
        finally:
            process.kill()


def test_a_real_prometheus_scrapes_a_worker(
    prometheus: Prometheus, command: Command, queue: Queue, login_database: LoginDatabase
) -> None:
    queue.send([*logins(120), *(BAD % number for number in range(3))])
    running = command.start("run", "--workers", "2")
    wait_until(lambda: prometheus.value("coatcheck_messages_acked_total") == 123, "it has seen all")
    assert prometheus.value('coatcheck_rejects_total{reason="missing_field"}') == 3
    assert prometheus.value("sum(coatcheck_lag_seconds_count)") == prometheus.value("coatcheck_batches_total")
    assert prometheus.value('up{job="coatcheck"}') == 1
    assert prometheus.value('coatcheck_messages_loaded_total{pipeline="default"}') == 120
    (target,) = prometheus.get("targets")["data"]["activeTargets"]
    assert (target["health"], target["lastError"]) == ("up", "")
    for query in [*(expr for _, expr in ALERTS), *map(filled, QUERIES)]:
        assert prometheus.get("query", query=query)["status"] == "success", query
    rules = [rule for group in prometheus.get("rules")["data"]["groups"] for rule in group["rules"]]
    assert {rule["name"] for rule in rules if rule["type"] == "alerting"} == {name for name, _ in ALERTS}
    assert {rule["health"] for rule in rules} <= {"ok", "unknown"}
    described = prometheus.get("metadata")["data"]
    for name, metric in CATALOGUE.items():
        if name in described:
            assert (described[name][0]["type"], described[name][0]["help"]) == (metric.kind, metric.help)
    assert len(described) > 20
    assert login_database.rows() == 120
    running.signal(15)
    assert running.wait().code == 0
    wait_until(lambda: prometheus.value('up{job="coatcheck"}') == 0, "its end is seen")
