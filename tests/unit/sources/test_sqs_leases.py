"""Leases on a clock of our own: when they are extended, and what is left to come back."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from coatcheck.sources.sqs_leases import BATCH, Leases, tens

HOUR = 3600.0
CAP = 12 * HOUR - 60


class Queue:
    """Takes note of each extension; says `gone` and `again` of the receipts named so."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.asked: list[tuple[list[str], int]] = []
        self.gone: set[str] = set()
        self.again: set[str] = set()
        self.meanwhile: Callable[[], None] = lambda: None
        self.error: Exception | None = None

    async def change(self, receipts: Sequence[str], seconds: int) -> tuple[list[str], list[str]]:
        self.asked.append((list(receipts), seconds))
        self.meanwhile()
        if self.error is not None:
            raise self.error
        return [name for name in receipts if name in self.gone], [name for name in receipts if name in self.again]

    def leases(self, visibility_s: int = 30) -> Leases:
        leases = Leases(self.change, clock=lambda: self.now)
        leases.visibility_s = visibility_s
        return leases


def extend(leases: Leases) -> None:
    asyncio.run(leases.extend_due())


def test_tens() -> None:
    assert list(tens(range(25))) == [list(range(10)), list(range(10, 20)), list(range(20, 25))]
    assert list(tens([])) == []
    assert BATCH == 10


def test_what_is_held_is_known() -> None:
    queue = Queue()
    leases = queue.leases()
    leases.hold(["a", "b"], queue.now)
    leases.hold(["c"], queue.now + 1)
    assert (len(leases), leases.all(), "b" in leases, "d" in leases) == (3, ["a", "b", "c"], True, False)
    leases.drop(["a", "unknown"])
    assert (len(leases), leases.all(), "a" in leases) == (2, ["b", "c"], False)


def test_extension_is_at_half_life() -> None:
    queue = Queue()
    leases = queue.leases()
    leases.hold(["a"], queue.now)
    queue.now += 14.9
    extend(leases)
    assert queue.asked == []
    queue.now += 0.1
    extend(leases)
    assert queue.asked == [(["a"], 30)]
    queue.now += 14.9
    extend(leases)
    assert len(queue.asked) == 1
    queue.now += 0.1
    extend(leases)
    assert queue.asked == [(["a"], 30)] * 2
    assert leases.extended == 2


def test_the_life_of_a_lease_starts_when_its_request_was_sent() -> None:
    queue = Queue()
    leases = queue.leases()
    leases.hold(["a"], queue.now - 15)
    extend(leases)
    assert queue.asked == [(["a"], 30)]

    def slow() -> None:
        queue.now += 5

    queue.meanwhile = slow
    queue.now += 15
    extend(leases)
    queue.now += 9.9  # 14.9 s after the request, 9.9 s after its answer
    extend(leases)
    assert len(queue.asked) == 2
    queue.now += 0.1
    extend(leases)
    assert len(queue.asked) == 3


def test_only_what_is_due_is_extended_ten_at_a_time() -> None:
    queue = Queue()
    leases = queue.leases()
    old = [f"old{number}" for number in range(23)]
    leases.hold(old, queue.now)
    leases.hold(["young"], queue.now + 10)
    queue.now += 15
    extend(leases)
    assert [len(receipts) for receipts, _ in queue.asked] == [10, 10, 3]
    assert [name for receipts, _ in queue.asked for name in receipts] == old
    assert leases.all() == ["young", *old]
    queue.now += 10
    extend(leases)
    assert queue.asked[-1] == (["young"], 30)


def test_answers_may_overtake_each_other() -> None:
    queue = Queue()
    leases = queue.leases()
    leases.hold(["late"], queue.now + 10)
    leases.hold(["early"], queue.now)
    queue.now += 15
    extend(leases)
    assert queue.asked == [(["early"], 30)]


def test_what_is_gone_is_dropped_and_what_failed_for_now_is_tried_again() -> None:
    queue = Queue()
    leases = queue.leases()
    leases.hold(["a", "b", "c"], queue.now)
    queue.gone, queue.again = {"a"}, {"b"}
    queue.now += 15
    extend(leases)
    assert leases.all() == ["b", "c"]
    assert leases.extended == 1
    queue.again = set()
    extend(leases)
    assert queue.asked[-1] == (["b"], 30)
    extend(leases)
    assert len(queue.asked) == 2


def test_what_was_acked_meanwhile_does_not_come_back() -> None:
    queue = Queue()
    leases = queue.leases()
    leases.hold(["a", "b"], queue.now)
    queue.meanwhile = lambda: leases.drop(["a"])
    queue.now += 15
    extend(leases)
    assert leases.all() == ["b"]
    assert leases.extended == 1


def test_near_the_cap_of_12_hours_messages_are_left_to_come_back(caplog: pytest.LogCaptureFixture) -> None:
    queue = Queue()
    leases = queue.leases(1800)
    leases.hold(["a", "b"], queue.now)
    received = queue.now
    until = queue.now + 1800
    while leases.all():
        queue.now += 60
        extended = leases.extended
        extend(leases)
        if leases.extended > extended:
            until = queue.now + 1800
            assert until - received <= CAP
    assert until - received > CAP - 1800  # and not long before it had to be
    assert [record.getMessage() for record in caplog.records] == ["messages near the 12 hour cap are left to come back"]
    assert caplog.records[0].__dict__["messages"] == 2


def test_an_extension_keeps_the_time_of_the_receive() -> None:
    """The cap counts from it, through any number of extensions, each message by its own."""
    queue = Queue()
    leases = queue.leases(int(4 * HOUR))
    leases.hold(["old"], queue.now)
    queue.now += 2 * HOUR
    extend(leases)
    leases.hold(["young"], queue.now)
    queue.now += 2 * HOUR
    extend(leases)
    queue.now += 2 * HOUR
    extend(leases)  # old: 6 h + 4 h
    assert sorted(leases.all()) == ["old", "young"]
    queue.now += 2 * HOUR
    extend(leases)  # old: 8 h + 4 h
    assert leases.all() == ["young"]
    queue.now += 2 * HOUR
    extend(leases)
    assert leases.all() == []


def test_a_failing_extension_changes_nothing() -> None:
    queue = Queue()
    leases = queue.leases()
    leases.hold(["a"], queue.now)
    queue.now += 15
    queue.error = OSError("gone")
    with pytest.raises(OSError, match="gone"):
        extend(leases)
    assert (leases.all(), leases.extended) == (["a"], 0)
    queue.error = None
    extend(leases)
    assert leases.extended == 1


def test_the_keeper_lives_on_after_a_failure(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)

    async def story() -> None:
        queue = Queue()
        leases = queue.leases(0)  # due at once; the keeper looks every 0.05 s
        leases.hold(["secret-receipt"], queue.now)
        queue.error = OSError("secret-receipt")
        keeper = asyncio.create_task(leases.keep())
        async with asyncio.timeout(10):
            while len(queue.asked) < 2:  # noqa: ASYNC110 - the queue tells nobody
                await asyncio.sleep(0.01)
            queue.error = None
            while not leases.extended:  # noqa: ASYNC110 - as above
                await asyncio.sleep(0.01)
        keeper.cancel()
        with pytest.raises(asyncio.CancelledError):
            await keeper

    asyncio.run(story())
    records = [record for record in caplog.records if record.name == "coatcheck.sources.sqs_leases"]
    assert {record.getMessage() for record in records} == {"leases could not be extended"}
    assert {record.__dict__["error"] for record in records} == {"OSError"}
    assert "secret" not in caplog.text


class Holding(RuleBasedStateMachine):
    """A keeper that looks every eighth of the visibility timeout never lets a message it holds become visible."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.queue = Queue()
        self.leases = self.queue.leases(800)
        self.visible_at: dict[str, float] = {}
        self.received: dict[str, float] = {}
        self.numbers = iter(range(10**6))
        self.queue.meanwhile = self.on_change

    def teardown(self) -> None:
        self.loop.close()

    def on_change(self) -> None:
        receipts, seconds = self.queue.asked[-1]
        assert 1 <= len(receipts) <= 10
        assert all(receipt in self.leases for receipt in receipts)
        self.visible_at |= dict.fromkeys(receipts, self.queue.now + seconds)

    def look(self) -> None:
        self.queue.now += 100
        for receipt in self.leases.all():
            assert self.visible_at[receipt] > self.queue.now
        self.loop.run_until_complete(self.leases.extend_due())

    @rule(count=st.integers(1, 25))
    def receive(self, count: int) -> None:
        receipts = [str(next(self.numbers)) for _ in range(count)]
        self.leases.hold(receipts, self.queue.now)
        self.visible_at |= dict.fromkeys(receipts, self.queue.now + 800)
        self.received |= dict.fromkeys(receipts, self.queue.now)

    @precondition(lambda self: len(self.leases) > 0)
    @rule(data=st.data())
    def ack(self, data: st.DataObject) -> None:
        self.leases.drop(data.draw(st.lists(st.sampled_from(self.leases.all()))))

    @rule(looks=st.integers(1, 20) | st.just(13 * 36))
    def time_passes(self, looks: int) -> None:
        for _ in range(looks):
            self.look()

    @invariant()
    def nothing_held_is_extended_beyond_the_cap(self) -> None:
        assert all(self.visible_at[receipt] - self.received[receipt] <= CAP for receipt in self.leases.all())


TestHolding = Holding.TestCase
TestHolding.settings = settings(max_examples=25, stateful_step_count=15, deadline=None)
