"""The ratios to the peers: taken within a round, judged against the best peer, silent about what was not measured."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from benchmarks.loader import BenchmarkError
from benchmarks.null_process import Stats
from benchmarks.peers.race import check
from benchmarks.peers.ratios import Line, Run, lines, table, verdict
from benchmarks.peers.roster import CONTESTANTS, LEAST, NODE, PYTHON, TASKS, Contestant


def run(peer: str, rate: float, cpu: float, number: int = 1, **changes: Any) -> Run:
    fields: dict[str, Any] = {
        "peer": peer,
        "round": number,
        "latency_ms": 0.0,
        "processes": 2 if peer.endswith("_2") else 1,
        "messages": 100,
        "cpu_us": cpu + 50.0,
        "running_us": cpu,
        "rate": rate,
        "rss_total_mb": 64.0,
    }
    return Run(**(fields | changes))


def skipped(peer: str, why: str) -> Run:
    return Run(peer=peer, round=1, latency_ms=0.0, processes=1, skipped=why)


def line(found: list[Line], peer: str) -> Line:
    return next(one for one in found if one.peer == peer)


FAST_ROUND = [run("coatcheck", 20_000, 20.0), run("coatcheck_2", 30_000, 22.0), run("boto3_rows", 3_000, 220.0)]
SLOW_ROUND = [run("coatcheck", 9_000, 40.0, 2), run("coatcheck_2", 8_000, 44.0, 2), run("boto3_rows", 1_000, 520.0, 2)]


def test_a_ratio_is_taken_within_its_round() -> None:
    usual = line(lines(FAST_ROUND + SLOW_ROUND), "boto3_rows")
    assert usual.cpu_ratio == pytest.approx((11.0 + 13.0) / 2)  # not 370 / 30
    assert usual.rate_ratio == pytest.approx((10.0 + 9.0) / 2)  # two workers in one round, one in the other


def test_start_up_is_told_and_does_not_count_in_the_ratio() -> None:
    usual = line(lines(FAST_ROUND), "boto3_rows")
    assert (usual.cpu.median, usual.running.median) == (270.0, 220.0)
    assert usual.cpu_ratio == pytest.approx(11.0)


def test_latencies_are_apart() -> None:
    slow = [
        run("coatcheck", 18_000, 24.0, latency_ms=20.0),
        run("boto3_rows", 200, 360.0, latency_ms=20.0),
    ]
    found = lines([*slow, *FAST_ROUND])
    assert [(one.latency_ms, one.peer) for one in found] == [
        *((0.0, "coatcheck"), (0.0, "coatcheck_2"), (0.0, "boto3_rows")),
        *((20.0, "coatcheck"), (20.0, "boto3_rows")),
    ]
    assert found[-1].rate_ratio == pytest.approx(90.0)
    assert found[-1].cpu_ratio == pytest.approx(15.0)


def test_targets_that_are_met() -> None:
    told = verdict(lines([*FAST_ROUND, run("node", 7_500, 250.0)]))
    assert told == [
        ">= 10 x boto3_rows in CPU per message: met, x 11.0",
        ">= 4 x the best peer in one process end to end at 0 ms a request: met, x 4.0 (node)",
    ]


def test_targets_that_are_missed_by_the_best_peer_in_two_processes() -> None:
    peers = [run("boto3_rows", 3_000, 199.0), run("aio_asyncpg", 7_400, 130.0), run("aio_asyncpg_2", 12_000, 150.0)]
    assert verdict(lines([*FAST_ROUND[:2], *peers])) == [
        ">= 10 x boto3_rows in CPU per message: missed, x 9.9",
        ">= 4 x the best peer in one process end to end at 0 ms a request: met, x 4.1 (aio_asyncpg)",
        ">= 4 x the best peer, also in two processes end to end at 0 ms a request: missed, x 2.5 (aio_asyncpg_2)",
    ]


def test_what_was_skipped_has_a_word_and_no_figure() -> None:
    runs = [*FAST_ROUND[:2], skipped("boto3_rows", "pip failed: no network"), run("dlt", 3_000, 200.0)]
    found = lines(runs)
    assert [one.peer for one in found] == ["coatcheck", "coatcheck_2", "dlt"]
    assert table(found, runs).splitlines()[-1] == "boto3_rows: skipped (pip failed: no network)"
    assert verdict(found)[0] == ">= 10 x boto3_rows in CPU per message: not looked at, it was not measured"
    flat = runs[2].flat()
    assert flat["skipped"] == "pip failed: no network"
    assert {flat[name] for name in ("messages", "cpu_us", "rate", "postgres_us", "rss_mb")} == {None}


def test_without_a_peer_nothing_is_judged() -> None:
    assert all("not looked at" in told for told in verdict(lines(FAST_ROUND[:2])))


def stats(**changes: int) -> Stats:
    fields: dict[str, Any] = {"received": 100, "deleted": 100, "waiting": 0, "in_flight": 0, "sent": 0, "errors": 0}
    return Stats(**{**fields, "requests": {}, "empty_receives": 0, "elapsed": 1.0, "cpu_seconds": 0.1, **changes})


def test_a_right_run_passes() -> None:
    check("node", 100, stats(), rows=100, masked=100)


@pytest.mark.parametrize(
    ("changed", "rows", "masked", "why"),
    [
        ({}, 99, 99, "node: 100 messages, but 99 rows in the table, 99 rows that are masked"),
        ({}, 110, 110, "110 rows in the table"),
        ({}, 100, 98, "but 98 rows that are masked"),
        ({"deleted": 90}, 100, 100, "90 messages deleted"),
        ({"received": 110}, 100, 100, "110 messages received"),
        ({"errors": 1}, 100, 100, "1 errors at the queue"),
    ],
)
def test_a_wrong_run_is_an_error(changed: dict[str, int], rows: int, masked: int, why: str) -> None:
    with pytest.raises(BenchmarkError, match=why):
        check("node", 100, stats(**changed), rows=rows, masked=masked)


def test_a_slow_peer_gets_its_share_of_the_messages() -> None:
    peer = Contestant("slow", PYTHON, (), 1, 0.1, 0.01)
    assert (peer.messages(100_000, 0.0), peer.messages(100_000, 20.0)) == (10_000, 1_000)
    assert peer.messages(100, 20.0) == LEAST
    assert {one.messages(100_000, 20.0) for one in CONTESTANTS if not one.is_peer} == {100_000}


def test_tasks_hide_the_latency() -> None:
    peer, starters = Contestant("node", NODE, (TASKS,)), {NODE: ["node", "index.mjs"]}
    assert peer.command(starters, 0.0) == ["node", "index.mjs", "8"]
    assert peer.command(starters, 20.0) == ["node", "index.mjs", "64"]
    with pytest.raises(BenchmarkError, match="one or two processes, not 3"):
        replace(peer, processes=3).command(starters, 0.0)
