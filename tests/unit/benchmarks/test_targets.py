"""The targets: each is judged by the median of the right runs, the worst group or the best, and says how many runs."""

from __future__ import annotations

from typing import Any

import pytest
from benchmarks.envelope import Envelope
from benchmarks.targets import (
    TARGETS,
    Judged,
    Target,
    ahead_of_peers,
    figures,
    flatness,
    growth_of,
    judge,
    number,
    ratios,
)
from tests.unit.benchmarks.made_up import everything, road, wrap

BY_NAME = {target.name: target for target in TARGETS}
END_TO_END = BY_NAME["end to end, 20 % new values"]


def judged(name: str, measured: Envelope) -> Judged:
    found = judge(BY_NAME[name], measured)
    assert found
    return found


def groups(**of: list[float]) -> Envelope:
    return wrap("made up", [{"group": name, "figure": value} for name, values in of.items() for value in values])


def target(*, at_least: bool = False, best: bool = False) -> Target:
    def samples(measured: Envelope) -> dict[str, list[float]]:
        names = dict.fromkeys(str(run["group"]) for run in measured.runs)
        return {name: figures([run for run in measured.runs if run["group"] == name], "figure") for name in names}

    return Target("made up", 10.0, "us", "made up", samples, at_least=at_least, best=best)


@pytest.mark.parametrize(
    ("at_least", "best", "group"), [(False, False, "b"), (False, True, "a"), (True, False, "a"), (True, True, "b")]
)
def test_of_several_groups_the_worst_counts_unless_it_is_about_the_best(
    *, at_least: bool, best: bool, group: str
) -> None:
    found = judge(target(at_least=at_least, best=best), groups(a=[1.0, 9.0, 100.0], b=[8.0, 11.0, 12.0]))
    assert found
    assert (found.group, found.runs) == (group, 3)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ([9.0, 10.0, 10.0, 11.0, 90.0], "met"),
        ([12.5] * 5, "**missed** by 2.50 us (25 %)"),
        ([12.0, 13.0], "**missed** by 2.50 us (25 %) (2 runs only)"),
        ([10.0], "met (1 run only)"),
    ],
)
def test_the_median_is_held_against_the_limit(values: list[float], said: str) -> None:
    found = judge(target(), groups(a=values))
    assert found
    assert found.verdict() == said


def test_what_was_not_measured_is_not_judged() -> None:
    assert judge(END_TO_END, None) is None
    assert judge(END_TO_END, wrap("road", [])) is None
    assert judge(target(), groups(a=[])) is None


def test_every_target_has_its_figures_in_the_results() -> None:
    results = everything()
    assert {target.source for target in TARGETS} <= set(results)
    assert [target.name for target in TARGETS if judge(target, results[target.source]) is None] == []
    assert len(BY_NAME) == len(TARGETS)


def test_the_rate_counts_with_the_better_number_of_workers() -> None:
    found = judge(END_TO_END, everything()["road"])
    assert found
    assert (found.group, found.found.median, found.met) == ("2 workers", 24_200.0, False)
    assert found.verdict() == "**missed** by 800 msg/s (3 %)"


def test_cpu_counts_by_number_of_workers() -> None:
    measured = wrap("road", road(1, 21.0, 1.0) + road(2, 30.0, 1.0))
    assert judged("loader CPU per message, one worker", measured).found.median == 21.0
    assert not judged("loader CPU per message, two workers", measured).met


def test_short_runs_tell_nothing_of_the_requests() -> None:
    name = "SQS requests per 1,000 messages, saturated"
    short = wrap("road", road(1, 21.0, 1.0, messages=2_000, requests_per_1000=300.0))
    assert judge(BY_NAME[name], short) is None
    assert (
        judged(name, wrap("road", road(1, 21.0, 1.0, requests_per_1000=206.0))).verdict().startswith("**missed** by 1")
    )


def test_ratios_are_taken_within_a_round() -> None:
    full: list[dict[str, Any]] = [
        {"round": 1, "x": 30.0},
        {"round": 2, "x": 60.0},
        {"round": 3, "x": None},
        {"round": 4, "x": 5.0},
    ]
    empty = [{"round": 2, "x": 20.0}, {"round": 1, "x": 20.0}, {"round": 3, "x": 1.0}]
    assert ratios(full, empty, "x") == [1.5, 3.0]


def test_growth_names_the_size() -> None:
    runs: list[dict[str, Any]] = [
        {"ledger_rows": 0, "vault_rows": 0, "round": 1, "rate": 100.0},
        {"ledger_rows": 50_000_000, "vault_rows": 0, "round": 1, "rate": 80.0},
        {"ledger_rows": 0, "vault_rows": 10_000_000, "round": 1, "rate": 70.0},
    ]
    assert growth_of(runs, "rate") == {"50 M in the ledger": [0.8], "10 M in the vault": [0.7]}
    found = judged("rate with a full database, of the empty one", wrap("growth", runs))
    assert (found.group, found.met) == ("10 M in the vault", False)


def test_memory_is_flat_if_the_end_is_as_after_the_first_tenth() -> None:
    def run(number: int, messages: int, rss: float) -> dict[str, Any]:
        return {"kind": "flat", "round": number, "messages": messages, "rss_mb": rss}

    grows = [run(1, 0, 20.0), run(1, 100, 50.0), run(1, 1000, 100.0)]
    flat = [run(2, 1000, 60.0), run(2, 100, 60.0), run(2, 0, 20.0)]
    assert flatness(wrap("memory", grows + flat)) == {"": [2.0, 1.0]}


def test_scaling_counts_only_where_one_worker_leaves_cpu_free() -> None:
    def run(number: int, workers: int, rate: float, cores: float) -> dict[str, Any]:
        figures = {"rate": rate, "worker_cores": cores}
        return {"setting": "latency", "workers": workers, "round": number, **figures}

    runs = [run(1, 1, 10.0, 0.3), run(1, 2, 19.0, 0.3), run(2, 1, 10.0, 0.7), run(2, 2, 12.0, 0.6)]
    found = judged("two workers by one on the null sink, CPU free", wrap("scaling", runs))
    assert (found.found.median, found.runs) == (1.9, 1)


def test_the_best_peer_is_the_one_to_be_ahead_of() -> None:
    runs: list[dict[str, Any]] = [
        {"peer": "coatcheck", "round": 1, "latency_ms": 0.0, "rate": 10.0},
        {"peer": "coatcheck_2", "round": 1, "latency_ms": 0.0, "rate": 12.0},
        {"peer": "slow", "round": 1, "latency_ms": 0.0, "rate": 1.0},
        {"peer": "fast", "round": 1, "latency_ms": 0.0, "rate": 4.0},
        {"peer": "none", "round": 1, "latency_ms": 0.0, "rate": None, "skipped": "not here"},
    ]
    assert ahead_of_peers(runs) == {"slow": [12.0], "fast": [3.0]}
    found = judged("our rate by the best peer's, 0 ms a request", wrap("peers", runs))
    assert (found.group, found.found.median, found.met) == ("fast", 3.0, False)


@pytest.mark.parametrize(("value", "shown"), [(24_200.4, "24,200"), (99.96, "100.0"), (18.04, "18.0"), (1.336, "1.34")])
def test_numbers_have_as_many_digits_as_tell_something(value: float, shown: str) -> None:
    assert number(value) == shown
