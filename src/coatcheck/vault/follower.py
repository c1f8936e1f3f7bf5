"""Signs checkpoints as they get due, and waits while the database or the place of checkpoints is away."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import psycopg

from coatcheck.errors import UnreachableError
from coatcheck.sql.connection import connect
from coatcheck.vault import reading
from coatcheck.vault.chain import Checkpoint
from coatcheck.vault.signing import Checkpoints

_POLL_S = 1.0
_FIRST_S, _MOST_S, _REPORT_S = 1.0, 60.0, 60.0


class Schedule:
    """A checkpoint is due after `entries` new entries, or `seconds` with any; also when the last one does not fit.

    `clock` gives seconds.
    """

    __slots__ = ("_clock", "_entries", "_last", "_seconds", "_since", "_started")

    def __init__(self, entries: int, seconds: float, clock: Callable[[], float]) -> None:
        self._entries, self._seconds, self._clock = entries, seconds, clock
        self._last: Checkpoint | None = None
        self._since = 0.0
        self._started = False

    def due(self, head: tuple[int, bytes] | None) -> bool:
        """Tell whether one is due, given number and hash of the trail's last entry. At the start it is."""
        if not self._started:
            return True
        if self._last is None:
            return head is not None
        if head is None or head[0] < self._last.seq:
            return True  # cut off: the try finds out
        if head[0] == self._last.seq:
            return head[1] != self._last.hash
        return head[0] - self._last.seq >= self._entries or self._clock() - self._since >= self._seconds

    def done(self, last: Checkpoint | None) -> None:
        """Take note that the trail was looked at, and of its last checkpoint."""
        self._started, self._last, self._since = True, last, self._clock()


class Outage:
    """Waits longer from try to try, and reports once a minute. `clock` gives seconds."""

    __slots__ = ("_clock", "_report", "_reported", "_wait")

    def __init__(self, clock: Callable[[], float], report: Callable[[str], None]) -> None:
        self._clock, self._report = clock, report
        self._reported: float | None = None
        self._wait = 0.0

    def note(self, error: UnreachableError) -> float:
        """Take note of a failure; return the seconds to wait."""
        now = self._clock()
        if self._reported is None or now - self._reported >= _REPORT_S:
            self._report(f"{error.message}; trying again")
            self._reported = now
        self._wait = min(max(_FIRST_S, 2 * self._wait), _MOST_S)
        return self._wait

    def over(self) -> None:
        """Take note of a success."""
        self._reported, self._wait = None, 0.0


class Follower:
    """One connection, kept while it works, and a checkpoint whenever one is due.

    `wrote` gets the place and the number of each.
    """

    def __init__(
        self,
        dsn: str,
        checkpoints: Checkpoints,
        schedule: Schedule,
        outage: Outage,
        wrote: Callable[[str, int], None],
    ) -> None:
        self._dsn, self._checkpoints, self._schedule = dsn, checkpoints, schedule
        self._outage, self._wrote = outage, wrote
        self._connection: psycopg.Connection[Any] | None = None

    def run(self, stop: threading.Event) -> None:
        """Go on until `stop`. Raises as Checkpoints.make, but for UnreachableError."""
        wait = 0.0
        try:
            while not stop.wait(wait):
                try:
                    self._step()
                    self._outage.over()
                    wait = _POLL_S
                except UnreachableError as error:
                    self._close()
                    wait = self._outage.note(error)
        finally:
            self._close()

    def _step(self) -> None:
        self._connection = connection = self._connection or connect(self._dsn)
        if not self._schedule.due(reading.head(connection)):
            return
        place = self._checkpoints.make(connection)
        self._schedule.done(self._checkpoints.last)
        if place and self._checkpoints.last:
            self._wrote(place, self._checkpoints.last.seq)

    def _close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(psycopg.Error):
                connection.close()
