"""The queue of the null SQS server: what becomes of each message, and two ways to come by messages.

A message waits, is in flight, or is deleted. Two things of SQS are missing on purpose: visibility timeouts
never run out (a message comes again only when a consumer gives it back with timeout 0), and what is sent here
is counted and dropped.

* `Ready`: every response is built before the first request comes; fastest.
* `Stream`: messages are made when they are handed out, so that there may be tens of millions of them, large ones, or
  such as arrive at their own pace whether or not somebody takes them (an open loop), each with its time of arrival.
"""

from __future__ import annotations

import random
import time
from abc import ABC, abstractmethod
from array import array
from collections import deque
from itertools import islice

import msgspec
from benchmarks.null_wire import PER_RECEIVE, bodies, entries, position_in, received, with_receives, with_sent

WAITING, IN_FLIGHT, DELETED = 0, 1, 2


class _Received(msgspec.Struct):
    """The body of a ReceiveMessage response, its messages left as they are."""

    messages: list[msgspec.Raw] = msgspec.field(name="Messages")


class Supply(ABC):
    """Messages by position, and what became of each. A subclass hands out those that were not yet."""

    def __init__(self, messages: int) -> None:
        self._state = bytearray(messages)
        self._back: deque[int] = deque()  # messages given back, or left over from a receive of fewer than 10
        self._receives: dict[int, int] = {}  # receive count so far of the messages that came back
        self.waiting = messages
        self.in_flight = 0
        self.deleted = 0
        self.handed_out = 0

    @abstractmethod
    def take(self, limit: int) -> tuple[bytes, int] | None:
        """Return up to `limit` messages as an HTTP response, and how many; None when none is waiting."""

    @abstractmethod
    def _entry(self, position: int) -> bytes:
        """Return a message that was handed out, or could have been, as at its first receive."""

    @abstractmethod
    def start(self) -> None:
        """Let messages arrive, if they waited for this."""

    def next_arrival(self) -> float | None:
        """Return in how many seconds the next message arrives by itself; None if none will."""
        return None

    def latencies_ms(self) -> list[float]:
        """Return for each deleted message how long ago it had arrived then, where that is kept."""
        return []

    def delete(self, handle: str) -> bool:
        """Delete a message; False if no message has this receipt handle. Twice is once, as in SQS."""
        position = self._position(handle)
        if position is None:
            return False
        state = self._state[position]
        if state != DELETED:
            self._state[position] = DELETED
            self.deleted += 1
            if state == IN_FLIGHT:
                self.in_flight -= 1
            else:
                self.waiting -= 1
            self._gone(position)
        return True

    def change_visibility(self, handle: str, timeout: int) -> bool:
        """Give a message back if `timeout` is 0; False if no message has this receipt handle."""
        position = self._position(handle)
        if position is None:
            return False
        if timeout == 0 and self._state[position] == IN_FLIGHT:
            self._state[position] = WAITING
            self.in_flight -= 1
            self.waiting += 1
            self._back.append(position)
            self._receives[position] = self._receives.get(position, 1)
        return True

    @abstractmethod
    def _gone(self, position: int) -> None:
        """Take note that a message is deleted."""

    def _take_back(self, limit: int) -> list[bytes]:
        """Hand out what was given back or left over."""
        found: list[bytes] = []
        while self._back and len(found) < limit:
            position = self._back.popleft()
            if self._state[position] == WAITING:  # not deleted since it was given back
                self._state[position] = IN_FLIGHT
                found.append(self._again(position))
        return found

    def _again(self, position: int) -> bytes:
        entry = self._entry(position)
        if position in self._receives:
            self._receives[position] += 1
            entry = with_receives(entry, self._receives[position])
        return entry

    def _count_out(self, taken: int) -> None:
        self.waiting -= taken
        self.in_flight += taken
        self.handed_out += taken

    def _position(self, handle: str) -> int | None:
        """Return the message that a receipt handle belongs to."""
        position = position_in(handle)
        return position if position is not None and position < len(self._state) else None


class Ready(Supply):
    """All responses, built beforehand."""

    def __init__(self, *, messages: int, distinct: float, seed: int, sent_ms: int) -> None:
        super().__init__(messages)
        made = entries(islice(bodies(seed=seed, distinct=distinct), messages), seed=seed, sent_ms=sent_ms)
        self.responses: list[bytes] = []
        while chunk := list(islice(made, PER_RECEIVE)):
            self.responses.append(received(chunk))
        self._next = 0  # the first response that was not handed out yet

    def start(self) -> None:
        """All have arrived already."""

    def take(self, limit: int) -> tuple[bytes, int] | None:
        """Return the next response as it was built, or one of single messages."""
        if limit >= PER_RECEIVE and not self._back and self._next < len(self.responses):
            return self._take_ready()
        if not self._back and self._next < len(self.responses):
            first = self._next * PER_RECEIVE
            self._back.extend(range(first, min(first + PER_RECEIVE, len(self._state))))
            self._next += 1
        found = self._take_back(limit)
        self._count_out(len(found))
        return (received(found), len(found)) if found else None

    def _take_ready(self) -> tuple[bytes, int]:
        first = self._next * PER_RECEIVE
        taken = min(PER_RECEIVE, len(self._state) - first)
        self._state[first : first + taken] = bytes((IN_FLIGHT,)) * taken
        self._next += 1
        self._count_out(taken)
        return self.responses[self._next - 1], taken

    def _gone(self, position: int) -> None:
        """Its response stays: others of it may come back."""

    def _entry(self, position: int) -> bytes:
        """Cut one message out of its response."""
        body = self.responses[position // PER_RECEIVE].partition(b"\r\n\r\n")[2]
        return bytes(msgspec.json.decode(body, type=_Received).messages[position % PER_RECEIVE])


class Stream(Supply):
    """Messages that are made when they are handed out, and forgotten when they are deleted.

    They arrive after `start`: all at once, or `rate` a second on average at random moments (a Poisson process), with
    at least `gap_s` between two.
    """

    def __init__(
        self, *, messages: int, distinct: float, seed: int, rate: float = 0.0, gap_s: float = 0.0, size: int = 0
    ) -> None:
        super().__init__(messages)
        self.waiting = 0
        self._made = entries(bodies(seed=seed, distinct=distinct, size=size), seed=seed)
        self._kept: dict[int, bytes] = {}
        self._arrivals = _arrivals(messages, rate, gap_s, seed)  # seconds after the start
        self._latencies = array("f")
        self._began = self._began_ms = 0.0
        self._arrived = self._next = 0

    def start(self) -> None:
        """Let messages arrive from now on."""
        if not self._began:
            self._began, self._began_ms = time.perf_counter(), time.time() * 1000

    def next_arrival(self) -> float | None:
        """Return in how many seconds the next message arrives."""
        if not self._began or self._arrived == len(self._arrivals):
            return None
        return max(0.0, self._began + self._arrivals[self._arrived] - time.perf_counter())

    def latencies_ms(self) -> list[float]:
        """Return for each deleted message how many ms ago it had arrived."""
        return self._latencies.tolist()

    def take(self, limit: int) -> tuple[bytes, int] | None:
        """Return messages that were given back, then those that have arrived."""
        self._arrive()
        found = self._take_back(limit)
        while len(found) < limit and self._next < self._arrived:
            sent_ms = int(self._began_ms + self._arrivals[self._next] * 1000)
            self._kept[self._next] = with_sent(next(self._made), sent_ms)
            self._state[self._next] = IN_FLIGHT
            found.append(self._kept[self._next])
            self._next += 1
        self._count_out(len(found))
        return (received(found), len(found)) if found else None

    def _arrive(self) -> None:
        """Make visible what has arrived."""
        if not self._began:
            return
        passed, before = time.perf_counter() - self._began, self._arrived
        while self._arrived < len(self._arrivals) and self._arrivals[self._arrived] <= passed:
            self._arrived += 1
        self.waiting += self._arrived - before

    def _entry(self, position: int) -> bytes:
        return self._kept[position]

    def _gone(self, position: int) -> None:
        self._latencies.append((time.perf_counter() - self._began - self._arrivals[position]) * 1000)
        self._kept.pop(position, None)


def _arrivals(messages: int, rate: float, gap_s: float, seed: int) -> array[float]:
    """Return the moments of arrival in seconds."""
    if not rate:
        return array("d", bytes(8 * messages))
    rng, now = random.Random(f"arrivals {seed}"), 0.0  # noqa: S311 - moments that must repeat with the seed
    moments = array("d")
    for _ in range(messages):
        now += gap_s + rng.expovariate(rate / (1 - rate * gap_s))
        moments.append(now)
    return moments
