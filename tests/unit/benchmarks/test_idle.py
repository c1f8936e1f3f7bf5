"""What the benchmark reads out of a timeline: the way up, full speed, and rest."""

from __future__ import annotations

import pytest
from benchmarks.idle import at_rest_s, full_rate, ramp_s, windows
from benchmarks.loader import BenchmarkError
from benchmarks.null_process import Timeline

REST = 30  # tenths of a second before the burst
LONG_POLL_S = 2.0


def timeline(received: list[int], polls_after: list[int]) -> Timeline:
    """A burst after a rest, and how many receives were under way in the tenths of a second after it."""
    counts = [0] * REST + received + [0] * len(polls_after)
    polls = [1] * REST + [8] * len(received) + polls_after
    return Timeline(bin_s=0.1, requests=[0] * len(counts), received=counts, polls=polls)


SLOW_START = [10] * 10 + [100] * 40
"""A second at a tenth of the speed, then four seconds at full speed."""


def test_windows_begin_with_the_burst() -> None:
    assert windows(timeline(SLOW_START, [1] * 30)) == [100.0] * 2 + [1000.0] * 8


def test_full_speed_is_that_of_the_middle() -> None:
    assert full_rate(timeline(SLOW_START, [1] * 30)) == 1000.0


def test_the_way_up_ends_with_the_first_window_at_full_speed() -> None:
    assert ramp_s(timeline(SLOW_START, [1] * 30)) == pytest.approx(1.5)
    assert ramp_s(timeline([100] * 40, [1] * 30)) == pytest.approx(0.5)


def test_a_burst_that_is_too_short_tells_nothing() -> None:
    with pytest.raises(BenchmarkError, match="more messages are needed"):
        full_rate(timeline([100] * 12, [1] * 30))


def test_rest_counts_from_the_last_message() -> None:
    assert at_rest_s(timeline(SLOW_START, [8] * 7 + [1] * 20), LONG_POLL_S) == pytest.approx(0.7)
    assert at_rest_s(timeline(SLOW_START, [1] * 20), LONG_POLL_S) == 0.0


def test_it_is_not_at_rest_before_a_long_poll_has_passed() -> None:
    assert at_rest_s(timeline(SLOW_START, [8] * 7 + [1] * 19), LONG_POLL_S) is None
    assert at_rest_s(timeline(SLOW_START, [8] * 7 + [1] * 15 + [2] + [1] * 19), LONG_POLL_S) is None
