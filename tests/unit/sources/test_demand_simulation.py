"""The control rule of receiving (decision 0016), asked on a simulated queue with simulated time.

A burst is taken at full speed within 5 s; after it the source is down to one poll within 60 s; under a steady load it
keeps up and the number of polls settles; what is in flight stays bounded. Rules that are known to be bad fail these.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import mean, median, pstdev

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.simulated_queue import Rule, SimulatedQueue

from coatcheck.sources.sqs_demand import FULL, Demand

MOST, WINDOW_S = 64, 0.5
RAMP_S, CALM_S = 5.0, 60.0
SWING = 0.8
"""Spread of the number of polls to their mean; a rule that jumps has 0.88 to 2.2."""


class Greedy:
    """A bad rule: always all receivers."""

    receivers = MOST

    def observe(self, received: int) -> None:
        """Learn nothing."""


class Sticky(Demand):
    """A bad rule: never fewer."""

    def observe(self, received: int) -> None:
        """Only grow."""
        if received >= FULL:
            super().observe(received)


class Timid(Demand):
    """A bad rule: one more only after twenty full receives."""

    full = 0

    def observe(self, received: int) -> None:
        """Count full receives."""
        self.full += received >= FULL
        if received < FULL or self.full % 20 == 0:
            super().observe(received)


class Nervous:
    """A bad rule: twice as many after a full receive, half after any other."""

    receivers = 1

    def observe(self, received: int) -> None:
        """Jump."""
        self.receivers = max(1, min(MOST, self.receivers * 2 if received >= FULL else self.receivers // 2))


def ramp_s(rule: Rule, trip: float, *, samples: bool = True) -> float:
    """Return the seconds from a burst on a silent queue until 90 % of full speed, in half seconds."""
    queue = SimulatedQueue(rule, trip=trip, samples=samples)
    start, windows = 47.0, 24
    queue.run(start)
    assert rule.receivers == 1 or not isinstance(rule, Demand)
    queue.arrive(400_000)
    queue.run(start + windows * WINDOW_S)
    counts = [0] * windows
    for came in queue.came:
        if came.at >= start:
            counts[min(windows - 1, int((came.at - start) / WINDOW_S))] += came.count
    enough = 0.9 * median(counts[-8:])
    return WINDOW_S * next(place for place, count in enumerate(counts, 1) if count >= enough)


def calm_s(rule: Rule, trip: float = 0.02) -> float:
    """Return the seconds from the last message of a burst until the rule wants one poll for good; inf: never."""
    queue = SimulatedQueue(rule, trip=trip)
    queue.arrive(100_000)
    queue.run(200.0)
    last = max(came.at for came in queue.came if came.count)
    several = [came.at for came in queue.came if came.at >= last and came.wanted > 1]
    return max(several, default=last) - last if rule.receivers == 1 else float("inf")


@dataclass(frozen=True, slots=True)
class Steady:
    """Half of a steady load: how far the polls swing, what a message costs and waits, what is left at the queue."""

    swing: float
    requests_per_1000: float
    wait_ms: float
    backlog: int


def steady(rule: Rule, rate: float, trip: float) -> Steady:
    """Offer a steady load."""
    seconds = 40.0 if rate <= 1000 else 12.0
    queue = SimulatedQueue(rule, trip=trip)
    queue.offer(rate, seconds)
    queue.run(seconds / 2)
    requests = queue.requests
    queue.run(seconds)
    wanted = [came.wanted for came in queue.came if came.at >= seconds / 2]
    received = queue.received(seconds / 2, seconds)
    return Steady(
        swing=pstdev(wanted) / mean(wanted),
        requests_per_1000=(queue.requests - requests) / received * 1000,
        wait_ms=1000 * median(queue.waits[-received:]),
        backlog=len(queue.sent),
    )


@pytest.mark.parametrize("samples", [True, False], ids=["samples", "whole"])
@pytest.mark.parametrize("trip", [0.001, 0.02, 0.1])
def test_a_burst_is_taken_at_full_speed_within_five_seconds(trip: float, *, samples: bool) -> None:
    assert ramp_s(Demand(MOST), trip, samples=samples) <= RAMP_S


@pytest.mark.parametrize("trip", [0.001, 0.02, 0.1])
def test_after_a_burst_one_poll_is_left_within_a_minute(trip: float) -> None:
    assert calm_s(Demand(MOST), trip) <= CALM_S


def test_an_idle_queue_costs_one_long_poll_after_the_other() -> None:
    queue = SimulatedQueue(Demand(MOST), trip=0.02)
    queue.run(3600.0)
    assert 175 <= queue.requests <= 181


@pytest.mark.parametrize("trip", [0.005, 0.02, 0.1])
@pytest.mark.parametrize("rate", [1.0, 30.0, 300.0, 1000.0, 5000.0])
def test_a_steady_load_is_kept_up_with_and_the_polls_settle(rate: float, trip: float) -> None:
    result = steady(Demand(MOST), rate, trip)
    assert result.backlog <= rate * 0.2 + 20
    assert result.swing <= SWING
    assert result.wait_ms <= 1000 * trip * 4


def test_ten_a_receive_where_there_is_plenty() -> None:
    queue = SimulatedQueue(Demand(MOST), trip=0.02, samples=False)
    queue.arrive(100_000)
    queue.run(4.0)
    assert queue.received(0.0, 4.0) / queue.requests > 9.8


def test_bursts_and_pauses_are_no_trouble() -> None:
    queue = SimulatedQueue(Demand(MOST), trip=0.02)
    for second in range(0, 60, 3):
        queue.run(float(second))
        queue.arrive(10_000)
    queue.run(200.0)
    assert queue.received(0.0, 200.0) == 200_000
    assert not queue.sent
    assert queue.rule.receivers == 1
    assert max(queue.waits) < 3.0


@pytest.mark.parametrize("capacity", [200.0, 5000.0])
def test_a_slow_sink_bounds_what_is_in_flight(capacity: float) -> None:
    queue = SimulatedQueue(Demand(MOST), trip=0.02, capacity=capacity)
    queue.arrive(200_000)
    queue.run(20.0)
    assert queue.most_in_flight <= 6000
    assert queue.received(10.0, 20.0) == pytest.approx(capacity * 10, rel=0.05)  # the sink never waits for the source


def test_failing_receives_come_down_to_one_and_up_again() -> None:
    queue = SimulatedQueue(Demand(MOST), trip=0.02)
    queue.arrive(300_000)
    queue.run(3.0)
    assert queue.rule.receivers > 10
    queue.failing = True
    queue.run(33.0)
    assert queue.rule.receivers == 1
    requests = queue.requests
    queue.run(43.0)
    assert queue.requests - requests <= 20  # one at a time, half a second apart
    queue.failing = False
    queue.run(43.0 + RAMP_S)
    before = queue.received(0.0, 48.0)
    queue.run(49.0)
    assert queue.received(0.0, 49.0) - before > 20_000


def test_bad_rules_are_found_out() -> None:
    assert calm_s(Greedy()) == calm_s(Sticky(MOST)) == float("inf")
    assert ramp_s(Timid(MOST), 0.1) > RAMP_S
    assert max(steady(Nervous(), rate, 0.02).swing for rate in (300.0, 1000.0)) > SWING
    assert steady(Greedy(), 300.0, 0.02).requests_per_1000 > 2 * steady(Demand(MOST), 300.0, 0.02).requests_per_1000


@given(st.integers(1, 100), st.lists(st.integers(0, FULL), max_size=300))
def test_never_less_than_one_never_more_than_allowed_and_by_one_at_a_time(most: int, receives: list[int]) -> None:
    rule = Demand(most)
    for received in receives:
        before = rule.receivers
        rule.observe(received)
        assert 1 <= rule.receivers <= most
        assert abs(rule.receivers - before) <= 1
