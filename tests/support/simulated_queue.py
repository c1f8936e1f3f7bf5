"""A simulated queue with simulated time, polled as SqsSource polls: the real Budget, and the rule that is asked about.

A request takes `trip` seconds, give or take a third; a long poll is answered when something arrives. With `samples` a
receive now and then brings fewer than ten though more are there, as SQS's do (developer guide, "short and long
polling").
"""

from __future__ import annotations

import heapq
import itertools
import random
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from coatcheck.sources.sqs_demand import FULL, Budget

if TYPE_CHECKING:
    from collections.abc import Callable

WAIT_S = 20.0
BODY = 250
BACK_OFF_S = 0.5
MANY = 1000
"""With so many waiting, SQS's samples are rarely small."""


class Rule(Protocol):
    """What decides how many receives are under way."""

    receivers: int

    def observe(self, received: int) -> None:
        """Take note of how many messages one receive brought."""


@dataclass(order=True, slots=True)
class Event:
    """What happens at `at` seconds; the number keeps the order of what happens at once."""

    at: float
    number: int
    happen: Callable[[], None] = field(compare=False)


@dataclass(slots=True, eq=False)
class Poll:
    """A receive at the queue, and what it has reserved."""

    room: int
    answered: bool = False


@dataclass(frozen=True, slots=True)
class Came:
    """What a receive brought, and how many receives the rule wants after it."""

    at: float
    count: int
    wanted: int


class SimulatedQueue:
    """Messages, one source that polls them by `rule`, and a sink of `capacity` messages a second."""

    def __init__(self, rule: Rule, *, trip: float, capacity: float = 25_000.0, samples: bool = True) -> None:
        self.rule, self.trip, self.capacity, self.samples = rule, trip, capacity, samples
        self.budget = Budget(messages=6000, size=64 * 2**20)
        self.failing = False
        self.now = 0.0
        self.requests = self.most_in_flight = 0
        self.came: list[Came] = []
        self.waits: list[float] = []
        self.sent: deque[float] = deque()
        self._rng = random.Random(f"{trip} {capacity} {samples}")  # noqa: S311 - a simulation that must repeat
        self._events: list[Event] = []
        self._numbers = itertools.count()
        self._polls: deque[Poll] = deque()
        self._receiving = 0
        self._written_at = 0.0
        self._spawn()

    def run(self, until: float) -> None:
        """Let everything happen that happens before `until` seconds."""
        while self._events and self._events[0].at <= until:
            event = heapq.heappop(self._events)
            self.now = event.at
            event.happen()
        self.now = until

    def arrive(self, count: int) -> None:
        """Let `count` messages arrive now."""
        self.sent.extend([self.now] * count)
        while self.sent and self._polls:
            poll = self._polls.popleft()
            if not poll.answered:
                self._answer(poll)

    def offer(self, rate: float, until: float) -> None:
        """Let messages arrive one by one at random moments, `rate` a second on average, until then."""
        if self.now < until:
            self.arrive(1)
            self._later(self._rng.expovariate(rate), lambda: self.offer(rate, until))

    def received(self, start: float, end: float) -> int:
        """Return how many messages came between two moments."""
        return sum(came.count for came in self.came if start <= came.at < end)

    # -- the source

    def _spawn(self) -> None:
        while self._receiving < self.rule.receivers and (room := self.budget.reserve()) is not None:
            self._receiving += 1
            self._ask(room)

    def _ask(self, room: int) -> None:
        self.requests += 1
        self.most_in_flight = max(self.most_in_flight, self.budget.messages)
        self._later(self._leg(), lambda: self._arrived(Poll(room)))

    def _come(self, room: int, messages: list[float]) -> None:
        self.budget.settle(room, [BODY] * len(messages))
        self.rule.observe(len(messages))
        self.came.append(Came(self.now, len(messages), self.rule.receivers))
        if messages:
            self.waits += [self.now - sent for sent in messages]
            self._written_at = max(self._written_at, self.now) + len(messages) / self.capacity
            self._later(self._written_at - self.now, lambda: self._written(len(messages)))
        self._again()

    def _fail(self, room: int) -> None:
        self.budget.settle(room, [])
        self.rule.observe(0)
        self.came.append(Came(self.now, 0, self.rule.receivers))
        self._later(BACK_OFF_S, self._again)

    def _again(self) -> None:
        if self._receiving > self.rule.receivers or (room := self.budget.reserve()) is None:
            self._receiving -= 1
        else:
            self._ask(room)
        self._spawn()

    def _written(self, count: int) -> None:
        self.budget.free(count, count * BODY)
        self._spawn()

    # -- the queue

    def _arrived(self, poll: Poll) -> None:
        if self.failing:
            self._later(self._leg(), lambda: self._fail(poll.room))
        elif self.sent:
            self._answer(poll)
        else:
            self._polls.append(poll)
            self._later(WAIT_S, lambda: None if poll.answered else self._answer(poll))

    def _answer(self, poll: Poll) -> None:
        poll.answered = True
        most = FULL
        many = len(self.sent) > MANY
        if self.samples and self._rng.random() < (0.25 if many else 0.5):
            most = self._rng.randint(5 if many else 1, FULL)
        messages = [self.sent.popleft() for _ in range(min(most, len(self.sent)))]
        self._later(self._leg(), lambda: self._come(poll.room, messages))

    def _leg(self) -> float:
        return self.trip / 2 * self._rng.uniform(2 / 3, 4 / 3)

    def _later(self, seconds: float, happen: Callable[[], None]) -> None:
        heapq.heappush(self._events, Event(self.now + seconds, next(self._numbers), happen))
