"""Small runs of the experiments that watch a worker: each ends well and writes what the page reads."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks import idle, latency, memory
from benchmarks.envelope import read

if TYPE_CHECKING:
    from pathlib import Path


def test_latency(tmp_path: Path) -> None:
    result = tmp_path / "latency.json"
    arguments = ["--offered", "200", "--seconds", "1", "--lone", "1", "--runs", "1", "--latency-ms", "1"]
    assert latency.main([*arguments, "--json", str(result)]) == 0
    rate, lone = read(result).runs
    assert (rate["kind"], rate["offered"], rate["messages"]) == ("rate", 200, 200)
    assert (lone["kind"], lone["messages"]) == ("lone", 1)
    for run in (rate, lone):
        figures = [float(run[name] or 0) for name in ("q05_ms", "p50_ms", "p90_ms", "q95_ms", "p99_ms", "max_ms")]
        assert figures == sorted(figures)
        assert figures[0] > 1  # the latency of the receive is in it


def test_idle_and_the_way_up(tmp_path: Path) -> None:
    result = tmp_path / "idle.json"
    arguments = ["--seconds", "6", "--long-poll-s", "1", "--messages", "120000", "--runs", "1", "--latency-ms", "1"]
    assert idle.main([*arguments, "--json", str(result)]) == 0
    at_rest, ramp = read(result).runs
    assert at_rest["kind"] == "idle"
    assert 2000 < float(at_rest["requests_per_hour"] or 0) < 6000  # a poll a second, and a look at the queue's counts
    assert ramp["kind"] == "ramp"
    assert 0 < float(ramp["ramp_s"] or 0) < 60
    assert 1 < float(ramp["most_polls"] or 0) <= 64
    assert float(ramp["to_one_poll_s"] or 0) < 60


def test_memory(tmp_path: Path) -> None:
    result = tmp_path / "memory.json"
    assert memory.main(["--messages", "3000", "--large-messages", "40", "--json", str(result)]) == 0
    runs = read(result).runs
    assert {str(run["kind"]) for run in runs} == {"flat", "large"}
    highest = {
        kind: max(float(run["rss_mb"] or 0) for run in runs if run["kind"] == kind) for kind in ("flat", "large")
    }
    assert 20 < highest["flat"] < highest["large"] < 500
