"""How many receives are under way, and what may be in flight: the control rules, by simulation."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from coatcheck.sources.sqs_demand import FULL, Budget, Demand

MIB = 2**20
LEAST_RESERVED = FULL * 256


def round_trip(demand: Demand, received: int) -> None:
    """Every receive that is under way comes back with so many messages."""
    for _ in range(demand.receivers):
        demand.observe(received)


def test_it_begins_with_one() -> None:
    assert Demand(32).receivers == 1


@given(st.integers(1, 256))
def test_full_receives_double_it_each_round_trip_up_to_the_most(most: int) -> None:
    demand = Demand(most)
    trips = 0
    while demand.receivers < most:
        before = demand.receivers
        round_trip(demand, FULL)
        trips += 1
        assert demand.receivers == min(most, 2 * before)
    assert trips == math.ceil(math.log2(most))
    round_trip(demand, FULL)
    assert demand.receivers == most


@given(st.integers(1, 256), st.integers(0, 4))
def test_sparse_receives_bring_it_back_to_one(most: int, received: int) -> None:
    demand = Demand(most)
    for _ in range(most):
        demand.observe(FULL)
    assert demand.receivers == most
    round_trip(demand, received)
    assert demand.receivers == 1
    round_trip(demand, received)
    assert demand.receivers == 1


@pytest.mark.parametrize("received", range(5, 10))
def test_between_sparse_and_full_it_stays(received: int) -> None:
    demand = Demand(8)
    demand.observe(FULL)
    round_trip(demand, received)
    assert demand.receivers == 2


@given(st.integers(1, 256), st.lists(st.integers(0, 10)))
def test_it_never_leaves_its_bounds_nor_jumps(most: int, receives: list[int]) -> None:
    demand = Demand(most)
    for received in receives:
        before = demand.receivers
        demand.observe(received)
        assert 1 <= demand.receivers <= most
        assert abs(demand.receivers - before) <= 1


@given(st.integers(0, 400), st.integers(1, 40), st.integers(1, 64))
def test_a_steady_load_is_followed_and_an_idle_queue_costs_one_poll(backlog: int, arrivals: int, most: int) -> None:
    """A round trip at a time: a backlog is worked off at the full rate, then what arrives is kept up with."""
    demand, waiting, idle = Demand(most), backlog, 0
    for _ in range(200):
        waiting += arrivals
        for _ in range(demand.receivers):
            received = min(FULL, waiting)
            waiting -= received
            demand.observe(received)
    if arrivals <= 10 * most - 10:
        assert waiting <= arrivals
    waiting = 0
    while demand.receivers > 1:
        round_trip(demand, 0)
        idle += 1
    assert idle <= 1


# -- the budget


def test_a_receive_reserves_ten_messages_and_gets_what_came() -> None:
    budget = Budget(messages=100, size=MIB)
    reserved = budget.reserve()
    assert reserved == 10 * 4096
    assert (budget.messages, budget.bytes) == (10, reserved)
    budget.settle(reserved, [100, 200, 300])
    assert (budget.messages, budget.bytes) == (3, 600)
    budget.free(2, 300)
    assert (budget.messages, budget.bytes) == (1, 300)
    budget.free(1, 300)
    assert (budget.messages, budget.bytes) == (0, 0)


def test_a_failed_receive_gives_its_reservation_back() -> None:
    budget = Budget(messages=100, size=MIB)
    reserved = budget.reserve()
    assert reserved is not None
    budget.settle(reserved, [])
    assert (budget.messages, budget.bytes) == (0, 0)


def test_the_reservation_follows_the_largest_body_of_late() -> None:
    budget = Budget(messages=1000, size=MIB)

    def receive(*sizes: int) -> int:
        reserved = budget.reserve()
        assert reserved is not None
        budget.settle(reserved, list(sizes))
        budget.free(len(sizes), sum(sizes))
        return reserved // FULL

    assert receive(200_000, 10) == 4096
    assert receive(10) == 200_000
    assert receive(10) == 175_000  # one eighth less with each receive
    for _ in range(60):
        last = receive(10)
    assert last == 256


def test_there_is_always_room_for_one_receive() -> None:
    budget = Budget(messages=10, size=MIB)
    reserved = budget.reserve()
    assert reserved is not None
    assert budget.reserve() is None
    budget.settle(reserved, [MIB] * 10)  # ten times the bound
    assert budget.reserve() is None
    budget.free(9, 9 * MIB)
    assert budget.reserve() is None
    budget.free(1, MIB)
    assert budget.reserve() == 10 * MIB


def test_the_bound_in_bytes_holds_receives_back() -> None:
    budget = Budget(messages=6000, size=25 * MIB)
    first = budget.reserve()
    assert first is not None
    budget.settle(first, [MIB] * 10)
    assert budget.reserve() == 10 * MIB
    assert budget.reserve() is None
    budget.free(5, 5 * MIB)
    assert budget.reserve() == 10 * MIB
    assert budget.reserve() is None


class Budgets(RuleBasedStateMachine):
    """Receives of any outcome, in any order, against bounds of any size; a model keeps the true account."""

    @initialize(messages=st.integers(10, 200), size=st.integers(2**16, 2**22))
    def begin(self, messages: int, size: int) -> None:
        self.bounds = messages, size
        self.budget = Budget(messages=messages, size=size)
        self.under_way: list[int] = []
        self.held: list[int] = []
        self.surprise = 0

    @rule()
    def reserve(self) -> None:
        idle = not self.under_way and not self.held
        reserved = self.budget.reserve()
        if reserved is None:
            assert not idle
            return
        assert reserved >= LEAST_RESERVED
        self.under_way.append(reserved)
        if not idle:
            assert self.budget.messages <= self.bounds[0]
            assert self.budget.bytes <= self.bounds[1]

    @precondition(lambda self: self.under_way)
    @rule(sizes=st.lists(st.integers(1, 2**18), max_size=10), data=st.data())
    def settle(self, sizes: list[int], data: st.DataObject) -> None:
        reserved = self.under_way.pop(data.draw(st.integers(0, len(self.under_way) - 1)))
        self.budget.settle(reserved, sizes)
        self.held += sizes
        self.surprise += max(0, sum(sizes) - reserved)

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def free(self, data: st.DataObject) -> None:
        count = data.draw(st.integers(1, len(self.held)))
        gone, self.held = self.held[:count], self.held[count:]
        self.budget.free(count, sum(gone))

    @invariant()
    def the_account_is_true(self) -> None:
        if hasattr(self, "budget"):
            assert self.budget.messages == FULL * len(self.under_way) + len(self.held)
            assert self.budget.bytes == sum(self.under_way) + sum(self.held)

    @invariant()
    def the_bounds_hold_but_for_one_receive(self) -> None:
        """Messages: always. Bytes: but for one receive, and for what came larger than the largest body of late."""
        if hasattr(self, "budget"):
            messages, size = self.bounds
            assert self.budget.messages <= messages
            one_receive = FULL * 2**18
            assert self.budget.bytes <= size + one_receive + self.surprise


TestBudgets = Budgets.TestCase
TestBudgets.settings = settings(max_examples=80, stateful_step_count=40, deadline=None)


@given(st.integers(10, 500), st.integers(1, 4000), st.integers(1, 64))
def test_bodies_of_one_size_never_exceed_the_bounds(messages: int, body: int, most: int) -> None:
    """However many receives are under way: what is reserved covers what comes."""
    size = 40 * FULL * 4096
    budget = Budget(messages=messages, size=size)
    under_way = []
    for _ in range(most):
        reserved = budget.reserve()
        if reserved is not None:
            under_way.append(reserved)
    for reserved in under_way:
        budget.settle(reserved, [body] * FULL)
        assert budget.messages <= messages
        assert budget.bytes <= size
    assert len(under_way) == min(most, messages // FULL, 40)
