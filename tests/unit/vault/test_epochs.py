"""Epochs: the number of a day, what is asked once a minute, and the partitions that are needed ahead."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coatcheck.vault.epochs import Epochs, Period, ended_before, epoch_of

PERIODS: tuple[Period, ...] = ("year", "quarter", "month")
DAYS = st.dates(date(1970, 1, 2), date(9998, 12, 31))
AHEAD = 40


def seconds(day: date, hour: int = 0) -> float:
    return datetime(day.year, day.month, day.day, hour, tzinfo=UTC).timestamp()


@pytest.mark.parametrize(
    ("day", "year", "quarter", "month"),
    [
        ("1970-01-02", 1970, 19701, 197001),
        ("2026-01-01", 2026, 20261, 202601),
        ("2026-03-31", 2026, 20261, 202603),
        ("2026-04-01", 2026, 20262, 202604),
        ("2026-09-30", 2026, 20263, 202609),
        ("2026-10-01", 2026, 20264, 202610),
        ("2026-12-31", 2026, 20264, 202612),
        ("9999-12-31", 9999, 99994, 999912),
    ],
)
def test_the_epoch_of_a_day(day: str, year: int, quarter: int, month: int) -> None:
    assert [epoch_of(date.fromisoformat(day), period) for period in PERIODS] == [year, quarter, month]


@given(DAYS, DAYS)
def test_epochs_are_in_the_order_of_their_days(one: date, two: date) -> None:
    first, second = sorted((one, two))
    same = {
        "year": first.year == second.year,
        "quarter": (first.year, (first.month - 1) // 3) == (second.year, (second.month - 1) // 3),
        "month": (first.year, first.month) == (second.year, second.month),
    }
    for period in PERIODS:
        assert epoch_of(first, period) <= epoch_of(second, period)
        assert (epoch_of(first, period) == epoch_of(second, period)) == same[period]


@given(DAYS, DAYS)
def test_epochs_of_several_periods_are_never_the_same_number(one: date, two: date) -> None:
    """So that the period may be configured anew while older epochs are there."""
    for period in PERIODS:
        for other in PERIODS:
            assert period == other or epoch_of(one, period) != epoch_of(two, other)


class Clock:
    """A clock that is set by hand, and counts how often it is read."""

    def __init__(self, at: float) -> None:
        self.at = at

    def __call__(self) -> float:
        return self.at


def test_the_epoch_changes_at_midnight_utc() -> None:
    clock = Clock(seconds(date(2026, 7, 1)) - 0.001)
    now = Epochs("quarter", clock=clock).now
    assert now() == 20262
    clock.at += 0.001
    assert now() == 20263
    clock.at -= 0.001  # a clock that is put back a little
    assert now() == 20262
    clock.at -= 365 * 86_400
    assert now() == 20252
    clock.at += 10 * 365 * 86_400
    assert now() == 20352


@given(DAYS, st.lists(st.floats(-200.0, 200.0), max_size=20), st.sampled_from(PERIODS))
def test_the_epoch_is_that_of_the_clock_whatever_was_asked_before(
    day: date, steps: list[float], period: Period
) -> None:
    clock = Clock(seconds(day))
    now = Epochs(period, clock=clock).now
    for step in steps:
        clock.at = max(0.0, clock.at + step)
        assert now() == epoch_of(datetime.fromtimestamp(clock.at, UTC).date(), period)


@given(DAYS, st.integers(0, 23), st.sampled_from(PERIODS))
def test_no_epoch_of_the_days_ahead_is_left_out(day: date, hour: int, period: Period) -> None:
    """A worker that first starts on 31 January has to make February, too: 40 days on it is March."""
    ahead = Epochs(period, clock=Clock(seconds(day, hour))).ahead()
    coming = [epoch_of(day + timedelta(days=later), period) for later in range(AHEAD + 1)]
    assert list(ahead) == list(dict.fromkeys(coming))
    assert len(ahead) <= 3


def test_the_epochs_ahead_of_a_winter_day() -> None:
    clock = Clock(seconds(date(2026, 1, 31), 12))
    assert Epochs("month", clock=clock).ahead() == (202601, 202602, 202603)
    assert Epochs("quarter", clock=clock).ahead() == (20261,)
    assert Epochs("year", clock=clock).ahead() == (2026,)
    clock.at = seconds(date(2026, 12, 1))
    assert Epochs("month", clock=clock).ahead() == (202612, 202701)
    assert Epochs("quarter", clock=clock).ahead() == (20264, 20271)
    assert Epochs("year", clock=clock).ahead() == (2026, 2027)


def test_the_clock_is_that_of_the_machine() -> None:
    before, now, after = datetime.now(UTC).date(), Epochs("month").now(), datetime.now(UTC).date()
    assert epoch_of(before, "month") <= now <= epoch_of(after, "month")


@given(DAYS, st.integers(0, 1000), st.sampled_from(PERIODS))
def test_the_first_day_of_what_is_kept(day: date, finished: int, period: Period) -> None:
    first = Epochs(period, clock=Clock(seconds(day))).first_day(finished)
    months = {"year": 12, "quarter": 3, "month": 1}[period]
    behind = (day.year - first.year) * 12 + day.month - first.month
    assert (first.day, (first.month - 1) % months) == (1, 0)
    assert behind // months == finished


@given(DAYS, DAYS, st.sampled_from(PERIODS))
def test_an_epoch_has_ended_when_its_last_day_is_over(one: date, two: date, period: Period) -> None:
    assert ended_before(epoch_of(one, period), two) == (epoch_of(two, period) > epoch_of(one, period))


@pytest.mark.parametrize(
    ("epoch", "end"),
    [
        (2026, "2027-01-01"),
        (20261, "2026-04-01"),
        (20264, "2027-01-01"),
        (202602, "2026-03-01"),
        (202612, "2027-01-01"),
    ],
)
def test_the_end_of_an_epoch(epoch: int, end: str) -> None:
    day = date.fromisoformat(end)
    assert ended_before(epoch, day)
    assert not ended_before(epoch, day - timedelta(days=1))


@pytest.mark.parametrize("number", [20260, 20265, 20269, 202600, 202613, 202699, 0, 1, 12345678, 99999, 9999, 999912])
def test_what_is_no_epoch_or_never_ends_has_not_ended(number: int) -> None:
    """Whoever has made a partition of that name, it is not ours to take away."""
    assert not ended_before(number, date.max)


@pytest.mark.parametrize(
    ("day", "ahead", "overdue"),
    [
        (date(2026, 11, 20), (20264,), (20264,)),
        (date(2026, 11, 23), (20264, 20271), (20264,)),
        (date(2026, 11, 25), (20264, 20271), (20264, 20271)),
        (date(2027, 1, 1), (20271,), (20271,)),
    ],
)
def test_what_is_overdue_was_wanted_two_days_ago(day: date, ahead: tuple[int, ...], overdue: tuple[int, ...]) -> None:
    noon = datetime.combine(day, datetime.min.time(), UTC).timestamp() + 43_200
    epochs = Epochs("quarter", clock=lambda: noon)
    assert (epochs.ahead(), epochs.overdue()) == (ahead, overdue)
