"""The figures of the benchmark: a wrong run is no figure, medians are medians, the floor is the floor."""

from __future__ import annotations

from typing import Any

import pytest
from benchmarks.loader import BenchmarkError, Outcome
from benchmarks.measure import Usage
from benchmarks.null_process import Stats
from benchmarks.report import Run, Setting, check, misses, run_figures, summarise, table, verdict

USAGE = Usage(exit_code=0, cpu_seconds=4.0, wall_seconds=6.0, rss_mb=80.0, rss_total_mb=120.0)
OUTCOME = Outcome(received=100_000, loaded=100_000, duplicates=0, rejected=0, acked=100_000, seconds=5.0)


def stats(**changes: Any) -> Stats:
    fields: dict[str, Any] = {
        "received": 100_000,
        "deleted": 100_000,
        "waiting": 0,
        "in_flight": 0,
        "sent": 0,
        "requests": {"ReceiveMessage": 10_100, "DeleteMessageBatch": 10_000},
        "empty_receives": 100,
        "elapsed": 4.0,
        "errors": 0,
        "cpu_seconds": 0.5,
    }
    return Stats(**{**fields, **changes})


def run(*, cpu: float = 4.0, rate: float = 25_000.0, rss: float = 80.0, requests: int = 10_100, **setting: Any) -> Run:
    return run_figures(
        setting=Setting(**setting),
        number=1,
        messages=100_000,
        usage=Usage(exit_code=0, cpu_seconds=cpu, wall_seconds=6.0, rss_mb=rss, rss_total_mb=120.0),
        outcome=OUTCOME,
        stats=stats(elapsed=100_000 / rate, requests={"ReceiveMessage": requests, "DeleteMessageBatch": 10_000}),
        postgres_seconds=2.0,
        reference_ms=100.0,
        vault_rows=40_000,
    )


def start() -> Run:
    return run_figures(
        setting=Setting(),
        number=1,
        messages=0,
        usage=Usage(exit_code=0, cpu_seconds=0.5, wall_seconds=1.0, rss_mb=60.0, rss_total_mb=60.0),
        outcome=Outcome(received=0, loaded=0, duplicates=0, rejected=0, acked=0, seconds=0.0),
        stats=stats(received=0, deleted=0, elapsed=0.0),
        postgres_seconds=None,
        reference_ms=100.0,
        vault_rows=None,
    )


def test_the_figures_of_a_run() -> None:
    made = run()
    assert made.cpu_us == pytest.approx(40)
    assert made.rate == pytest.approx(25_000)
    assert made.own_rate == pytest.approx(20_000)
    assert made.requests_per_1000 == pytest.approx(201)
    assert made.postgres_us == pytest.approx(20)
    assert made.null_sqs_us == pytest.approx(5)


def test_a_run_on_an_empty_queue_has_no_figure_per_message() -> None:
    made = start()
    assert (made.cpu_us, made.rate, made.own_rate, made.postgres_us) == (0, 0, 0, None)
    assert made.cpu_seconds == 0.5


def test_the_summary_takes_medians_and_the_start_off() -> None:
    summary = summarise([run(cpu=5.0), run(cpu=4.0), run(cpu=9.0)], [start(), start()])
    assert (summary.cpu_us.median, summary.cpu_us.low, summary.cpu_us.high) == pytest.approx((50, 40, 90))
    assert summary.cpu_us_less_start == pytest.approx(45)
    assert summary.reference_strings == pytest.approx(100)  # a string takes 0.5 us


def test_the_flat_figures_hold_the_setting_and_the_start() -> None:
    flat = run(workers=2, latency_ms=20.0, vault="off").flat(start_cpu_seconds=0.5)
    assert {name: flat[name] for name in ("workers", "latency_ms", "vault", "distinct", "round")} == {
        "workers": 2, "latency_ms": 20.0, "vault": "off", "distinct": 0.2, "round": 1,
    }  # fmt: skip
    assert flat["cpu_us"] == pytest.approx(40)
    assert flat["start_cpu_seconds"] == 0.5
    assert all(value is None or isinstance(value, int | float | str) for value in flat.values())


def test_the_columns_of_the_table_are_aligned() -> None:
    lines = table([summarise([run()], [start()]), summarise([run(workers=16, rate=9.0)], [start()])]).splitlines()
    assert len({len(line) for line in lines}) == 1
    assert lines[0].split()[0] == "workers"
    assert [line.split()[0] for line in lines[1:]] == ["1", "16"]


def test_right_counts_pass() -> None:
    counts = {"rows": 100_000, "ledger": 100_000, "vault": 40_000}
    check(messages=100_000, outcome=OUTCOME, stats=stats(), counts=counts)
    check(messages=100_000, outcome=OUTCOME, stats=stats(), counts={**counts, "vault": 0}, vault="off")


@pytest.mark.parametrize(
    ("changes", "counts", "told"),
    [
        ({}, {"rows": 99_999}, "99999 rows in the table"),
        ({}, {"rows": 100_001}, "100001 rows in the table"),
        ({}, {"ledger": None}, "None ledger entries"),
        ({"deleted": 99_990}, {}, "99990 messages deleted"),
        ({"errors": 2}, {}, "2 errors at the queue"),
        ({}, {"vault": 0}, "0 entries in a vault that is on"),
    ],
)
def test_wrong_counts_are_told(changes: dict[str, Any], counts: dict[str, int | None], told: str) -> None:
    counts = {"rows": 100_000, "ledger": 100_000, "vault": 5, **counts}
    with pytest.raises(BenchmarkError, match=told):
        check(messages=100_000, outcome=OUTCOME, stats=stats(**changes), counts=counts)


def test_a_vault_that_should_be_off_is_told() -> None:
    counts = {"rows": 100_000, "ledger": 100_000, "vault": 5}
    with pytest.raises(BenchmarkError, match="5 entries in a vault that is off"):
        check(messages=100_000, outcome=OUTCOME, stats=stats(), counts=counts, vault="off")


def test_the_command_must_say_the_same() -> None:
    outcome = Outcome(received=100_000, loaded=0, duplicates=100_000, rejected=0, acked=100_000, seconds=5.0)
    counts = {"rows": 100_000, "ledger": 100_000, "vault": 5}
    with pytest.raises(BenchmarkError, match="0 messages the command says it loaded"):
        check(messages=100_000, outcome=outcome, stats=stats(), counts=counts)


def test_the_floor_is_met() -> None:
    missed = misses([summarise([run()], [start()])])
    assert missed == []
    assert verdict(missed) == "floor (<= 60 us, >= 12,000 msg/s, <= 150 MB, <= 205 requests): met"


def test_cpu_and_memory_must_hold_everywhere_and_the_rate_at_best() -> None:
    slow = summarise([run(rate=11_000)], [start()])
    fast = summarise([run(workers=2, rate=13_000)], [start()])
    heavy = summarise([run(workers=2, cpu=6.1, rss=151)], [start()])
    assert misses([slow]) == ["11,000 msg/s at best"]
    assert misses([slow, fast]) == []
    chatty = summarise([run(requests=11_000)], [start()])
    assert misses([slow, heavy]) == ["61.0 us with 2 workers", "151 MB with 2 workers"]
    assert misses([chatty]) == ["210 requests per 1,000 messages with 1 worker"]
    assert misses([summarise([run(requests=11_000, latency_ms=20.0)], [start()])]) == []
    assert verdict(misses([slow])).endswith("missed: 11,000 msg/s at best")
