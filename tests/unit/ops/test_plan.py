"""`coatcheck plan`: what a rate takes, and how rates and sizes are written."""

from __future__ import annotations

import json
import math
from pathlib import Path
from statistics import median

import pytest

from coatcheck.ops import plan as module
from coatcheck.ops.plan import plan, read_rate, read_size

RESULTS = Path(__file__).parents[3] / "docs" / "benchmarks"


@pytest.mark.parametrize(
    ("text", "rate"),
    [("50000/s", 50_000), ("120", 120), ("3,600/h", 1), ("300/min", 5), ("86_400/d", 1), ("0.5/s", 0.5)],
)
def test_rates(text: str, rate: float) -> None:
    assert read_rate(text) == rate


@pytest.mark.parametrize(("text", "size"), [("300", 300), ("1KiB", 1024), ("1 kb", 1000), ("0.5MiB", 2**19), ("1B", 1)])
def test_sizes(text: str, size: int) -> None:
    assert read_size(text) == size


@pytest.mark.parametrize("text", ["", "0/s", "-1/s", "many", "5/week", "1e9", "1/s/s"])
def test_what_is_no_rate(text: str) -> None:
    with pytest.raises(ValueError, match="a rate is"):
        read_rate(text)


@pytest.mark.parametrize("text", ["", "0", "2MiB", "1GiB", "x", "-1"])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(ValueError, match="a size is"):
        read_size(text)


def figures(rate: float, size: int) -> dict[str, float]:
    lines = plan(rate, size)
    return {f"{line.what}, {line.unit}": line.value for line in reversed(lines)}


def test_a_rate_of_fifty_thousand() -> None:
    found = figures(50_000, 1024)
    assert found["workers, "] == math.ceil(50_000 * 25e-6 / 0.6) == 3
    assert found["connections, "] == 6
    assert found["write-ahead log, MB/s"] == 35
    assert found["SQS requests a month, million"] == 50_000 * 30 * 86_400 * 0.2 / 1e6
    assert found["SQS a million messages, USD"] == pytest.approx(0.08)
    assert found["SQS a month, USD"] == pytest.approx(0.08 * 50_000 * 30 * 86_400 / 1e6)


def test_large_messages_cost_more_requests_and_memory() -> None:
    small, large = figures(100, 300), figures(100, 2**20)
    assert small["workers, "] == large["workers, "] == 1
    assert small["SQS a million messages, USD"] == pytest.approx(0.08)
    assert large["SQS a million messages, USD"] == pytest.approx(0.1 * 161 * 0.4)  # ten mebibytes are 160 chunks
    assert small["memory of a worker, MB"] < 150
    assert 260 < large["memory of a worker, MB"] < 290


def test_the_constants_are_those_that_were_measured() -> None:
    """Within what five runs differ by, and never better than measured."""

    def of(name: str, figure: str, **where: object) -> float:
        runs = json.loads((RESULTS / f"{name}.json").read_text())["runs"]
        return median(float(run[figure]) for run in runs if all(run[key] == value for key, value in where.items()))

    full = {"ledger_rows": 50_000_000, "vault_rows": 0}
    assert of("growth", "running_us", **full) <= module.LOADER_US
    assert of("growth", "postgres_us", **full) == pytest.approx(module.DATABASE_US, rel=0.1)
    assert of("growth", "postgres_us", vault_rows=10_000_000) == pytest.approx(module.VAULT_FULL_US, rel=0.1)
    assert of("growth", "wal_bytes", **full) == pytest.approx(module.WAL_BYTES, rel=0.1)
    assert of("growth", "wal_bytes", vault_rows=10_000_000) == pytest.approx(module.WAL_BYTES_FULL, rel=0.1)
    assert of("road", "requests_per_1000", workers=1) == pytest.approx(1000 * module.REQUESTS, rel=0.05)
    assert of("road", "rss_mb", workers=1) <= module.WORKER_MB
