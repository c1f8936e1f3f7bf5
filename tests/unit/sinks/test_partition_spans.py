"""Which days get a partition, which are kept, and what is free between partitions that are there."""

from __future__ import annotations

from datetime import date, timedelta
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coatcheck.sinks.postgres.partitions import Partitioning, Period, Span, cutoff, gaps, wanted

PERIODS: tuple[Period, ...] = ("day", "month", "year")
DAYS = st.dates(date(1970, 1, 1), date(9990, 1, 1))
KEPT = st.integers(0, 500)
BEHIND = 14
AHEAD = {"day": 14, "month": 40, "year": 40}


def spans(period: Period, today: date, keep: int = 0) -> list[Span]:
    return list(wanted(Partitioning("day", period, keep), today))


def is_start(day: date, period: Period) -> bool:
    return period == "day" or (day.day == 1 and (period == "month" or day.month == 1))


def starts_between(start: date, end: date, period: Period) -> int:
    """Count the starts of a period from `start` to before `end`."""
    if period == "day":
        return (end - start).days
    months = (end.year - start.year) * 12 + end.month - start.month
    return months if period == "month" else end.year - start.year


@given(DAYS, KEPT, st.sampled_from(PERIODS))
def test_the_spans_follow_one_another_and_cover_what_may_come(today: date, keep: int, period: Period) -> None:
    found = spans(period, today, keep)
    before = cutoff(Partitioning("day", period, keep), today)
    assert all(is_start(day, period) for span in found for day in span)
    assert all(starts_between(*span, period) == 1 for span in found)
    assert [span.end for span in found[:-1]] == [span.start for span in found[1:]]
    assert before <= found[0].start <= max(before, today - timedelta(days=BEHIND))
    assert found[-1].start <= today + timedelta(days=AHEAD[period]) < found[-1].end
    assert len(found) <= {"day": 29, "month": 4, "year": 3}[period]


@given(DAYS, st.integers(1, 500), st.sampled_from(PERIODS))
def test_as_many_finished_periods_are_kept_as_is_said(today: date, keep: int, period: Period) -> None:
    before = cutoff(Partitioning("day", period, keep), today)
    assert is_start(before, period)
    assert starts_between(before, today, period) == keep


@pytest.mark.parametrize("period", PERIODS)
def test_all_is_kept_where_nothing_else_is_said(period: Period) -> None:
    assert cutoff(Partitioning("day", period), date(2026, 11, 30)) == date.min


def test_more_years_are_kept_than_there_have_been() -> None:
    """The configuration takes up to 10,000 partitions, of whatever length."""
    assert cutoff(Partitioning("day", "year", 10_000), date(2026, 11, 30)) == date.min
    assert cutoff(Partitioning("day", "month", 10_000), date(2026, 11, 30)) == date(1193, 7, 1)
    assert spans("year", date(2026, 11, 30), 10_000) == spans("year", date(2026, 11, 30))


@pytest.mark.parametrize(
    ("period", "today", "starts"),
    [
        ("month", "2028-02-29", "2028-02-01 2028-03-01 2028-04-01"),
        ("month", "2026-01-31", "2026-01-01 2026-02-01 2026-03-01"),
        ("month", "2026-12-10", "2026-11-01 2026-12-01 2027-01-01"),
        ("month", "2027-01-14", "2026-12-01 2027-01-01 2027-02-01"),
        ("year", "2026-01-14", "2025-01-01 2026-01-01"),
        ("year", "2026-11-21", "2026-01-01"),
        ("year", "2026-11-22", "2026-01-01 2027-01-01"),
        ("year", "2028-12-31", "2028-01-01 2029-01-01"),
    ],
)
def test_the_starts_of_a_day(period: Period, today: str, starts: str) -> None:
    found = spans(period, date.fromisoformat(today))
    assert " ".join(span.start.isoformat() for span in found) == starts


def test_the_days_around_a_leap_day() -> None:
    found = [span.start for span in spans("day", date(2028, 3, 1))]
    assert found == [date(2028, 2, 16) + timedelta(days=later) for later in range(29)]
    assert date(2028, 2, 29) in found


def test_nothing_is_made_that_would_be_dropped_at_once() -> None:
    assert spans("day", date(2026, 11, 30), keep=1)[0].start == date(2026, 11, 29)
    assert spans("month", date(2026, 12, 1), keep=1)[0].start == date(2026, 11, 1)


FIRST = date(2026, 1, 1)
PLACES = st.integers(0, 60).map(lambda later: FIRST + timedelta(days=later))


@given(st.lists(PLACES, max_size=8, unique=True), st.lists(st.booleans(), min_size=8, max_size=8), PLACES, PLACES)
def test_a_gap_is_what_no_partition_has(bounds: list[date], there: list[bool], one: date, two: date) -> None:
    """Partitions of anybody's, which never overlap; those that are there come in any order."""
    ordered = sorted(bounds)
    parts = [Span(*ends) for ends, is_there in zip(pairwise(ordered), there, strict=False)
             if is_there]  # fmt: skip
    span = Span(min(one, two), max(one, two))
    found = list(gaps(span, parts[::-1]))

    def days(spans: list[Span]) -> list[date]:
        return [start + timedelta(days=later) for start, end in spans for later in range((end - start).days)]

    assert all(gap.start < gap.end for gap in found)
    assert days(found) == sorted(set(days([span])) - set(days(parts)))
    assert all(one.end < two.start for one, two in pairwise(found))
