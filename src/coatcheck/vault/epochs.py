"""Epochs: the periods in which originals are kept, named by a number that people can read (UTC).

year 2026 -> 2026, quarter -> 20264 (year and quarter), month -> 202611 (year and month). Each original is kept once an
epoch in which it is seen, so that an old epoch can be destroyed as a whole without what is still in use.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from typing import Literal

Period = Literal["year", "quarter", "month"]
_PATIENCE_S = 2 * 86_400.0
_STEP = timedelta(days=20)  # shorter than any month: none is stepped over


def epoch_of(day: date, period: Period) -> int:
    """Return the epoch of a day."""
    if period == "year":
        return day.year
    return day.year * 10 + (day.month + 2) // 3 if period == "quarter" else day.year * 100 + day.month


def _days(epoch: int) -> tuple[date, date]:
    """Return the first day of an epoch, and the first after it. Raises ValueError: there is no such epoch."""
    text = str(epoch)
    year = int(text[:4])
    months = {4: 12, 5: 3, 6: 1}.get(len(text))
    if months is None:
        raise ValueError("a year, a year and a digit, or a year and two digits")
    month = (int(text[4:] or 1) - 1) * months
    return date(year, month + 1, 1), date(year + (month + months) // 12, (month + months) % 12 + 1, 1)


def ended_before(epoch: int, day: date) -> bool:
    """Tell whether all of an epoch, of whatever length, is before a day."""
    try:
        return _days(epoch)[1] <= day
    except ValueError:  # a partition of somebody else's
        return False


class Epochs:
    """The epoch of now. `clock` gives seconds since 1970."""

    def __init__(self, period: Period, *, clock: Callable[[], float] = time.time) -> None:
        self._period: Period = period
        self._clock = clock
        self._until = 0.0
        self._epoch = 0

    def now(self) -> int:
        """Return the epoch of now; asked once a batch, so it is worked out once a minute."""
        now = self._clock()
        if not self._until - 60 <= now < self._until:
            self._epoch = epoch_of(datetime.fromtimestamp(now, UTC).date(), self._period)
            self._until = (now // 60 + 1) * 60
        return self._epoch

    def ahead(self) -> tuple[int, ...]:
        """Return the epochs of the next 40 days: those that need a partition."""
        today = datetime.fromtimestamp(self._clock(), UTC).date()
        days = (today, today + _STEP, today + 2 * _STEP)
        return tuple(dict.fromkeys(epoch_of(day, self._period) for day in days))

    def overdue(self) -> tuple[int, ...]:
        """Return those of `ahead` that were so two days ago, too: the daily upkeep has had its turn."""
        before = Epochs(self._period, clock=lambda: self._clock() - _PATIENCE_S).ahead()
        return tuple(epoch for epoch in self.ahead() if epoch in before)

    def first_day(self, finished: int) -> date:
        """Return the first day of the epoch that is so many before the one of now."""
        first = _days(self.now())[0]
        for _ in range(finished):
            first = _days(epoch_of(first - timedelta(days=1), self._period))[0]
        return first
